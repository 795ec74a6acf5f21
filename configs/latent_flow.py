"""Latent diffusion (arXiv 2112.10752): a rectified flow of the latents of a VAE or VQ-VAE that was trained before.

Claim: CLAIM
Command: python -m gen_ai.data.prepare fashion_mnist && \
  python launch.py --config=configs/vae.py:fashion_mnist --run_dir=runs/vae_fashion && \
  python launch.py --config=configs/latent_flow.py --init_from=runs/vae_fashion
Cost: COST
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`; --init_from says of which autoencoder."""
  return make_config(
    'latent_flow',
    data,
    run=dict(name='latent_flow', steps=6000),
    data=dict(batch_size=128),
    model=dict(width=512, blocks=4),
    optim=dict(name='adamw', lr=1e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
