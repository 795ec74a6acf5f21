"""Latent diffusion (arXiv 2112.10752): a rectified flow of the latents of a VAE or VQ-VAE that was trained before.

Claim: what a VAE draws suffers from its prior, and a flow takes its place. Fashion-MNIST, seed 0, 10,000 samples by 49
  evaluations of a small MLP, features of configs/classifier.py: the distance (FD) to the test split is 0.62 [0.55,
  0.68], and 4.06 of the VAE by its own prior; coverage 0.86 against 0.37, precision 0.97 against 0.78, recall 0.82
  against 0.98. Over a VQ-VAE (configs/vqvae.py:fashion_mnist after 1,000 updates) 2,000 updates came to 1.24 [1.15,
  1.32], and 1.40 [1.34, 1.46] are those of its own Transformer, which had learnt beside it.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/vae.py:fashion_mnist \
  --config.model.network=mlp --config.run.steps=3000 --run_dir=runs/vae_fashion && \
  python launch.py --config=configs/latent_flow.py --init_from=runs/vae_fashion
Cost: 2.6 minutes for the flow, 8.5 for that VAE, on 2 CPU cores that many other programs kept busy.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`; --init_from says of which autoencoder."""
  return make_config(
    'latent_flow',
    data,
    run=dict(name='latent_flow', steps=4000),
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
