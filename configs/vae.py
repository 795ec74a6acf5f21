"""Convolutional VAE on binarised MNIST digits; configs/vae.py:fashion_mnist for grey clothes.

Claim: ELBO, reconstructions and samples in a few minutes on a CPU. The digits of mnist_5k are binary pixels with
  dynamic binarisation (the protocol of the literature's nats), other data sets have 256 grey levels by a discretised
  logistic.
Command: python launch.py --config=configs/vae.py            (or configs/vae.py:fashion_mnist)
Cost: 1.7 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.space import choice, log_uniform
from gen_ai.space import sweep_seed as sweep_seed
from gen_ai.vae_fields import variational


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = variational(data)
  config.run.steps = 4000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.optim.lr = 1e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.999
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3, 1e-2):
    yield {'optim.lr': lr}


def sweep_beta():
  """Weights of the KL term (Higgins et al. 2017)."""
  for weight in (0.25, 0.5, 1.0, 2.0, 4.0):
    yield {'loss.kl_weight': weight}


def sweep_best():
  """The setting whose figures the README gives, which is the file's."""
  yield {}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(1e-4, 1e-2),
    'optim.end_factor': choice(0.01, 0.05, 0.2),
    'optim.warmup_steps': choice(50, 100, 200),
  }


def tiny():
  """Seconds instead of minutes."""
  return {
    **TINY, 'model.latents': (4,), 'model.width': 4,
  }  # fmt: skip
