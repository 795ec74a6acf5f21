"""beta-VAE (Higgins et al. 2017): a heavier KL term, warmed up, for latents that mean something one by one.

Claim: the convolutional VAE of configs/vae.py with beta 4 and ten latents. Its ELBO is worse than that of beta 1 by
  design; look at the view `traversals`. `sweep_beta` goes from 0.5 to 8, `sweep_free_bits` over floors of the KL
  (arXiv 1606.04934), which keep units from collapsing.
Command: python launch.py --config=configs/beta_vae.py            (or configs/beta_vae.py:fashion_mnist)
Cost: 1.3 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed
from gen_ai.vae_fields import variational


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = variational(data)
  config.run.name = 'beta_vae'
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.latents = (10,)
  config.loss.kl_weight = 4.0  # beta
  config.loss.kl_warmup_steps = 500
  config.optim.lr = 1e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.999
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3):
    yield {'optim.lr': lr}


def sweep_beta():
  """Weights of the KL term."""
  for weight in (0.5, 1.0, 2.0, 4.0, 8.0):
    yield {'loss.kl_weight': weight}


def sweep_free_bits():
  """Floors of the KL in nats a latent dimension; beta 1."""
  for floor in (0.0, 0.1, 0.25, 0.5):
    yield {'loss.kl_weight': 1.0, 'loss.free_bits': floor}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'loss.kl_weight': log_uniform(0.5, 10.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latents': (4,), 'model.width': 4, 'loss.kl_warmup_steps': 4}
