"""DCGAN (arXiv 1511.06434): convolutional generator and discriminator with batch norm, non-saturating loss.

Claim: the published optimiser (Adam 2e-4, b1 0.5), weight init N(0, 0.02) and norms, at a quarter of the published
  width. How good its digits get at this length has not been measured. R1 instead:
  `--config.loss.constraint=r1 --config.model.d_norm=group`.
Command: python launch.py --config=configs/dcgan.py            (or configs/dcgan.py:cifar10)
Cost: 2.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import choice, log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'dcgan'
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.network = 'dcgan'
  config.model.d_activation = 'leaky_relu'
  config.model.g_norm = 'batch'
  config.model.d_norm = 'batch'
  config.optim.lr = 2e-4
  config.optim.b1 = 0.5
  config.optim.ema_decay = 0.995
  return config


def sweep_lr():
  """Learning rates around the published one."""
  for lr in (1e-4, 2e-4, 4e-4):
    yield {'optim.lr': lr}


def sweep_best():
  """The published setting, which is the file's."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(5e-5, 1e-3), 'optim.b1': choice(0.0, 0.5, 0.9)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latent': 8, 'model.width': 4}
