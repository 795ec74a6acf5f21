"""SNGAN (arXiv 1802.05957): residual networks, a spectrally normalised discriminator, hinge loss.

Claim: the published loss and normalisation at a width, a batch and a learning rate that a CPU can pay, with 1
  discriminator update a step for the published 5 (`--config.loss.n_critic=5 --config.optim.lr=2e-4`).
  Self-attention (SAGAN, arXiv 1805.08318): `--config.model.attention=true --config.model.g_spectral=true`;
  `sweep_attention` compares.
Command: python launch.py --config=configs/sngan.py            (or configs/sngan.py:fashion_mnist)
Cost: 8.6 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'sngan'
  config.run.steps = 3000
  config.run.log_every = 50
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 32

  config.model.network = 'resnet'
  config.model.latent = 64  # dimensions of z
  config.model.width = 16  # channels at full resolution
  config.model.g_norm = 'batch'
  config.model.d_spectral = True
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


def sweep_attention():
  """Without and with self-attention in both networks, whose generator is then normalised, too."""
  yield {}
  yield {'model.attention': True, 'model.g_spectral': True}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(5e-5, 1e-3), 'loss.d_lr_factor': log_uniform(0.5, 4.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'data.batch_size': 8, 'model.latent': 8, 'model.width': 4}
