"""StyleGAN2 (arXiv 1912.04958) for 28 to 128 pixels, small enough for a CPU; wider on an accelerator.

Claim: the published parts: mapping network, modulated and demodulated convolutions, noise inputs, skip generator,
  residual discriminator with minibatch deviation, lazy R1 and path-length penalties, style mixing, truncation, an
  average with its half-life in images, equalised learning rates. Few images: `--config.augment.kind=ada`
  (arXiv 2006.06676) or `diffaugment` (arXiv 2006.10738); `sweep_augment` compares. `configs/stylegan2.py:cifar10` is 32
  pixels in colour.
Command: python launch.py --config=configs/stylegan2.py            (or configs/stylegan2.py:fashion_mnist)
Cost: 9.9 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import choice, log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'stylegan2'
  config.run.log_every = 48  # a multiple of penalty_every: every row holds as many penalties
  config.run.steps = 6240
  config.run.eval_every = 480
  config.run.sample_every = 480
  config.run.save_every = 480
  config.data.batch_size = 32

  config.model.network = 'stylegan2'
  config.model.latent = 64  # dimensions of z
  config.model.style = 64  # dimensions of w
  config.model.width = 16  # channels at full resolution
  config.model.max_width = 64
  config.model.g_output = 'tanh'  # reaches the flat background of such images; see sweep_published
  config.loss.constraint = 'r1'
  config.loss.penalty = 1.0  # gamma: the paper's is 10 for large images
  config.loss.penalty_every = 16
  config.loss.path_length = 2.0
  config.loss.path_every = 4
  config.augment.speed = 50_000  # ada: of 199,680 images
  config.optim.lr = 8e-3
  config.optim.schedule = 'linear'
  config.optim.b1 = 0.0
  config.optim.b2 = 0.99
  config.optim.ema_halflife = 10_000.0  # images
  return config


def sweep_published():
  """The published unbounded output at the published learning rate: on digits it collapses (see Claim)."""
  yield {'model.g_output': 'linear', 'optim.lr': 2e-3, 'optim.schedule': 'constant', 'optim.ema_halflife': 5000.0}


def sweep_output():
  """What an image ends in, all else as in the file."""
  for output in ('linear', 'tanh'):
    yield {'model.g_output': output}


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (2e-3, 4e-3, 8e-3):
    yield {'optim.lr': lr}


def sweep_augment():
  """What the discriminator is shown of small data: as it is, or augmented in two ways."""
  for kind in ('none', 'diffaugment', 'ada'):
    yield {'augment.kind': kind}


def sweep_truncation():
  """From one mean image to all variety: a setting of samples alone, so that training is the same."""
  for truncation in (0.3, 0.7, 1.0):
    yield {'sample.truncation': truncation}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(1e-3, 1e-2),
    'loss.penalty': log_uniform(0.1, 10.0),
    'model.mapping_layers': choice(2, 4, 8),
  }


def tiny():
  """Seconds instead of minutes."""
  return {
    **TINY,
    'data.image_size': 16,
    'model.latent': 4,
    'model.style': 4,
    'model.width': 2,
    'model.max_width': 4,
    'model.mapping_layers': 1,
  }
