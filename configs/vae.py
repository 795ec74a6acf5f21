"""Convolutional VAE on binarised MNIST digits; configs/vae.py:fashion_mnist for grey clothes.

Claim: ELBO, reconstructions and samples in a few minutes on a CPU. The digits of mnist_5k are binary pixels with
  dynamic binarisation (the protocol of the literature's nats), other data sets have 256 grey levels by a discretised
  logistic.
Command: python launch.py --config=configs/vae.py            (or configs/vae.py:fashion_mnist)
Cost: 1.7 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    run=dict(steps=4000),
    optim=dict(lr=1e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
  )


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3, 1e-2):
    yield {'optim.lr': lr}


def sweep_beta():
  """Weights of the KL term (Higgins et al. 2017)."""
  for weight in (0.25, 0.5, 1.0, 2.0, 4.0):
    yield {'loss.kl_weight': weight}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(1e-4, 1e-2),
    'optim.end_factor': choice(0.01, 0.05, 0.2),
    'optim.warmup_steps': choice(50, 100, 200),
  }
