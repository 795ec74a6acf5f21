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
    run=dict(name='iwae', steps=5000),
    model=dict(network='mlp', latents=(50,), widths=(200, 200), activation='tanh'),
    # KL warms up during half of the run; the samples are the paper's k.
    loss=dict(kl_warmup_steps=2500, bound='iwae', importance_samples=5, gradient='dreg'),
    optim=dict(lr=3e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
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
