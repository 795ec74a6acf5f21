"""MeanFlow on Fashion-MNIST: clothes in one evaluation of a network."""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the labelled images of `data`."""
  return make_config(
    'meanflow',
    data,
    run=dict(name='meanflow', steps=2400),
    data=dict(batch_size=32),
    model=dict(patch=7, layers=4, width=128, conditional=True),
    loss=dict(alike=0.5, times_deviation=1.5),
    optim=dict(lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, clip_norm=1.0, ema_decay=0.995),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3), 'loss.guidance': choice(0.5, 1.0, 2.0)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
