"""Importance-weighted autoencoder (arXiv 1509.00519), one stochastic layer: k draws tighten the bound.

Claim: the paper's network (784-200-200-50, tanh) and its binarised pixels, on any data set; doubly reparameterised
  gradients (arXiv 1810.04152) by default, the paper's own by `--config.loss.gradient=plain`. `sweep_draws` compares
  k of 1, 5 and 50 and `sweep_bound` the VAE with the same draws; judge them by `gen_ai.evaluate --metrics=nll`.
Command: python launch.py --config=configs/iwae.py            (or configs/iwae.py:fashion_mnist)
Cost: 0.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.space import choice, log_uniform
from gen_ai.space import sweep_seed as sweep_seed
from gen_ai.vae_fields import variational


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = variational(data)
  config.run.name = 'iwae'
  config.run.steps = 5000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.network = 'mlp'
  config.model.latents = (50,)
  config.model.widths = (200, 200)
  config.model.activation = 'tanh'
  config.loss.likelihood = 'bernoulli'
  config.loss.kl_warmup_steps = 2500  # updates: half of the run
  config.loss.bound = 'iwae'
  config.loss.draws = 5  # k
  config.loss.gradient = 'dreg'
  config.optim.lr = 3e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.999
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (1e-3, 3e-3, 1e-2):
    yield {'optim.lr': lr}


def sweep_draws():
  """The k of the paper's table."""
  for draws in (1, 5, 50):
    yield {'loss.draws': draws}


def sweep_bound():
  """VAE, IWAE and IWAE with doubly reparameterised gradients, with the same draws."""
  yield {'loss.bound': 'elbo', 'loss.gradient': 'plain'}
  yield {'loss.bound': 'iwae', 'loss.gradient': 'plain'}
  yield {'loss.bound': 'iwae', 'loss.gradient': 'dreg'}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'loss.draws': choice(5, 10, 50)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latents': (4,), 'model.widths': (8,), 'loss.draws': 3,
          'loss.kl_warmup_steps': 4}  # fmt: skip
