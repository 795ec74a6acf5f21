"""Importance-weighted autoencoder (arXiv 1509.00519), one stochastic layer: k draws tighten the bound.

Claim: the paper's network (784-200-200-50, tanh) and its binarised pixels, on any data set; doubly reparameterised
  gradients (arXiv 1810.04152) by default, the paper's own by `--config.loss.gradient=plain`. `sweep_draws` compares
  k of 1, 5 and 50 and `sweep_bound` the VAE with the same draws; judge them by `gen_ai.evaluate --metrics=nll`.
Command: python launch.py --config=configs/iwae.py            (or configs/iwae.py:fashion_mnist)
Cost: 0.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    {
      'run.name': 'iwae',
      'run.steps': 5000,
      'model.network': 'mlp',
      'model.latents': (50,),
      'model.widths': (200, 200),
      'model.activation': 'tanh',
      'loss.kl_warmup_steps': 2500,  # updates: half of the run
      'loss.bound': 'iwae',
      'loss.importance_samples': 5,  # k
      'loss.gradient': 'dreg',
      'optim.lr': 3e-3,
      'optim.schedule': 'cosine',
      'optim.warmup_steps': 100,
      'optim.end_factor': 0.05,
      'optim.ema_decay': 0.999,
    },
  )


def sweep_draws():
  """The k of the paper's table."""
  for draws in (1, 5, 50):
    yield {'loss.importance_samples': draws}


def sweep_bound():
  """VAE, IWAE and IWAE with doubly reparameterised gradients, with the same draws."""
  yield {'loss.bound': 'elbo', 'loss.gradient': 'plain'}
  yield {'loss.bound': 'iwae', 'loss.gradient': 'plain'}
  yield {'loss.bound': 'iwae', 'loss.gradient': 'dreg'}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'loss.importance_samples': choice(5, 10, 50)}


def tiny():
  """What a run of seconds has besides."""
  return {'loss.importance_samples': 3, 'loss.kl_warmup_steps': 4}
