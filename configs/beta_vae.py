"""beta-VAE (Higgins et al. 2017): a heavier KL term, warmed up, for latents that mean something one by one.

Claim: the convolutional VAE of configs/vae.py with beta 4 and ten latents. Its ELBO is worse than that of beta 1 by
  design; look at the picture `traversals`. `sweep_beta` goes from 0.5 to 8, `sweep_free_bits` over floors of the KL
  (arXiv 1606.04934), which keep units from collapsing.
Command: python launch.py --config=configs/beta_vae.py            (or configs/beta_vae.py:fashion_mnist)
Cost: 1.3 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    run=dict(name='beta_vae', steps=3000),
    model=dict(latents=(10,)),
    loss=dict(kl_weight=4.0, kl_warmup_steps=500),  # the weight is beta
    optim=dict(lr=1e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
  )


def sweep_beta():
  """Weights of the KL term."""
  for weight in (0.5, 1.0, 2.0, 4.0, 8.0):
    yield {'loss.kl_weight': weight}


def sweep_free_bits():
  """Floors of the KL in nats a latent dimension; beta 1."""
  for floor in (0.0, 0.1, 0.25, 0.5):
    yield {'loss.kl_weight': 1.0, 'loss.free_bits': floor}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'loss.kl_weight': log_uniform(0.5, 10.0)}


def tiny():
  """What a run of seconds has besides."""
  return {'loss.kl_warmup_steps': 4}
