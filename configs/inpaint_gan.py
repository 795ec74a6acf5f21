"""Completion of images: a conditional GAN fills what a mask hides (arXiv 1604.07379, 1611.07004).

Claim: a U-Net generator of masked image, mask and latent, trained by L1 and by a spectrally normalised discriminator
  that sees the mask; known pixels are kept exactly. Masks are random boxes, a random half, or the centre:
  `sweep_mask`. The view `completions` shows hidden, completed and original images. `gen_ai.evaluate` measures figures
  of completions of the split's own images, which are easier than samples and are never compared with these.
Command: python launch.py --config=configs/inpaint_gan.py            (or configs/inpaint_gan.py:fashion_mnist)
Cost: 6.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY, common
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = common('inpaint_gan', data)
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model = {
    'mask': 'box',  # 'box' (anywhere, a quarter to three quarters of each side) | 'half' | 'centre'
    'latent': 16,  # dimensions of z, so that completions may vary
    'width': 24,  # channels at half resolution, doubled at each halving
    'activation': 'silu',  # of the generator
    'd_spectral': True,  # spectral normalisation of the discriminator
  }
  config.loss = {
    'kind': 'hinge',  # minimax | non_saturating | least_squares | hinge | wasserstein
    'adversarial': 0.1,  # weight of the generator's adversarial loss
    'reconstruction': 10.0,  # weight of its mean absolute error
    'penalty': 0.0,  # weight of R1 on the discriminator; 0: off
    'd_lr_factor': 1.0,  # the discriminator's learning rate over the generator's
  }
  config.optim.lr = 5e-4
  config.optim.schedule = 'linear'
  config.optim.b1 = 0.5
  config.optim.ema_decay = 0.995
  config.eval.best = 'l1_hidden:min'
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (2e-4, 5e-4, 1e-3):
    yield {'optim.lr': lr}


def sweep_mask():
  """What is hidden: a program for each."""
  for mask in ('box', 'half', 'centre'):
    yield {'model.mask': mask}


def sweep_reconstruction():
  """From likeness to the original to realism."""
  for weight in (1.0, 10.0, 100.0):
    yield {'loss.reconstruction': weight}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.adversarial': log_uniform(0.01, 1.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latent': 4, 'model.width': 4}
