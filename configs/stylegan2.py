"""StyleGAN2 (arXiv 1912.04958) for 28 to 128 pixels, small enough for a CPU; wider on an accelerator.

Claim: the published parts: mapping network, modulated and demodulated convolutions, noise inputs, skip generator,
  residual discriminator with minibatch deviation, lazy R1 and path-length penalties, style mixing, truncation, an
  average with its half-life in images, equalised learning rates. Few images: `--config.augment.kind=ada`
  (arXiv 2006.06676) or `diffaugment` (arXiv 2006.10738); `sweep_augment` compares. `configs/stylegan2.py:cifar10` is 32
  pixels in colour.
  Digits of all ten classes: seed 0, 5,000 samples in the features of configs/classifier.py against the test split, FD
  0.67, modes_covered 10 of 10, coverage 0.98, no copies; the spread (the standard deviation of a pixel over samples,
  values in [-1, 1]) is 0.37 of 64 samples and 0.384 in the data.
  Two deviations make that. Images end in tanh: the background of digits is exactly -1, and an unbounded generator, as
  published, reaches it only by giving up all that its styles do, while the discriminator still wins 99 % of all pairs.
  And the mean path length starts at the first lengths, not at 0, which presses the lengths of a short run towards 0.
  The spread after 384 updates (seed 0, raw weights, no path penalty): unbounded at learning rate 2e-3 0.17 (0.11 after
  480), at 8e-3 0.10; tanh at 2e-3 0.29, at 8e-3 0.34. With tanh, R1 of weight 0.01, 0.1 and 1, style mixing and noise
  inputs change little. `sweep_published` has unbounded images.
Command: python launch.py --config=configs/stylegan2.py            (or configs/stylegan2.py:fashion_mnist)
Cost: 29 minutes on one CPU core beside other jobs (0.28 s an update), compilation and evaluations included; 2 idle
  cores need less.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    every=480,
    # log_every is a multiple of penalty_every: every row holds as many penalties.
    run=dict(name='stylegan2', steps=6240, log_every=48),
    data=dict(batch_size=32),
    model=dict(network='stylegan2', latent=64, width=16, max_width=64),  # channels at full resolution
    # The penalty is gamma: the paper's is 10 for large images.
    loss=dict(constraint='r1', penalty=1.0, penalty_every=16, path_length=2.0),
    augment=dict(speed=50_000),  # ada: of 199,680 images
    optim=dict(lr=8e-3, schedule='linear', b1=0.0, b2=0.99, ema_halflife=10_000.0),  # images
  )


def sweep_published():
  """Unbounded images at the authors' learning rate, as published: on digits it collapses.

  By the file as it was then, its mean path length from 0 on: spread 0.10 after 720 updates, 0.06 after 2,208, all
  samples nearly the same 8.
  """
  yield {'model.g_output': 'linear', 'optim.lr': 2e-3, 'optim.schedule': 'constant', 'optim.ema_halflife': 5000.0}


def sweep_output():
  """What an image ends in, all else as in the file."""
  for output in ('linear', 'tanh'):
    yield {'model.g_output': output}


def sweep_augment():
  """What the discriminator is shown of small data: as it is, or augmented in two ways."""
  for kind in ('none', 'diffaugment', 'ada'):
    yield {'augment.kind': kind}


def sweep_truncation():
  """From one mean image to all variety: a setting of samples alone, so that training is the same."""
  for truncation in (0.3, 0.7, 1.0):
    yield {'sample.truncation': truncation}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(1e-3, 1e-2),
    'loss.penalty': log_uniform(0.1, 10.0),
    'model.mapping_layers': choice(2, 4, 8),
  }


def tiny():
  """What a run of seconds has besides."""
  return {'data.image_size': 16, 'model.latent': 4, 'model.width': 2}
