"""Rectified flow on images by a small patch Transformer: Fashion-MNIST; configs/flow.py:mnist_5k for digits.

Claim: the network says the image and the loss is that of the velocity (arXiv 2511.13720), in patches of 7 pixels. Seed
  0, 4,000 updates, 10,000 samples by 49 evaluations, features of configs/classifier.py:fashion_mnist of 1,500 updates,
  against the validation split: FD 0.93, recall 0.96, precision 0.90, coverage 0.82. Garments are told apart at a
  glance; sandals and bags are rough. configs/wgan.py has 0.52 after as many minutes; patches of 4 pixels had 1.13 after
  2,000 updates of 128 images (2,000 samples), in three times the time.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/flow.py
Cost: 5 minutes 41 seconds of training on 2 CPU cores, tests beside it in the first minutes.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='flow', steps=4000),
    data=dict(batch_size=64),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
