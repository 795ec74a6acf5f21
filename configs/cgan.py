"""Conditional GAN: draws the class it is asked for, by a projection discriminator (arXiv 1802.05637).

Claim: a convolutional pair with a spectrally normalised projection discriminator and hinge loss. The founding
  conditional GAN, labels joined to both inputs (arXiv 1411.1784), is `--config.model.condition=concat`, AC-GAN
  (arXiv 1610.09585) `--config.model.condition=auxiliary`; `sweep_condition` compares all with no labels. The view
  `classes` has a row a class. Labels come from the data set.
Command: python launch.py --config=configs/cgan.py            (or configs/cgan.py:fashion_mnist)
Cost: 3.5 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'cgan'
  config.run.steps = 4000
  config.run.log_every = 50
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.network = 'dcgan'
  config.model.condition = 'projection'
  config.model.latent = 64  # dimensions of z
  config.model.width = 32  # channels at half resolution
  config.model.d_activation = 'leaky_relu'
  config.model.g_norm = 'batch'
  config.model.d_spectral = True
  config.model.weight_init = 'lecun'
  config.loss.kind = 'hinge'
  config.optim.lr = 5e-4
  config.optim.schedule = 'linear'
  config.optim.b1 = 0.0
  config.optim.b2 = 0.9
  config.optim.ema_decay = 0.995
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (2e-4, 5e-4, 1e-3):
    yield {'optim.lr': lr}


def sweep_condition():
  """Every way to use labels, and none."""
  for condition in ('none', 'concat', 'projection', 'auxiliary'):
    yield {'model.condition': condition}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.d_lr_factor': log_uniform(0.5, 4.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latent': 8, 'model.width': 4}
