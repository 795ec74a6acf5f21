"""Rectified flow on images by a small patch Transformer: Fashion-MNIST; configs/flow.py:mnist_5k for digits.

Claim: x-prediction with the velocity's loss (arXiv 2511.13720).
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/flow.py
Cost:
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='flow', steps=8000),
    data=dict(batch_size=64),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
