"""MeanFlow on Fashion-MNIST: clothes by one evaluation of a network; configs/meanflow.py:mnist_5k for digits.

Claim: u(z, t, r), the mean velocity of a flow, is trained by the identity that it obeys (arXiv 2505.13447), with times
  more evenly spread than in the paper, so that a run of minutes sees enough of the way from t = 1 to r = 0. Seed 0,
  after the first 1,100 of its 2,400 updates, less than an epoch: the error of the identity's target (`mean_flow_mse`)
  has gone from 1.22 (mean of the first 100) to 0.50, and shirts, trousers, coats and shoes of one step are told apart
  at a glance, with edges of patches in them; two steps look much the same. Guidance in the target, which costs no
  evaluation of a sample, is `--config.loss.guidance=1.0` (the paper's omega is 1 more).
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/meanflow.py
Cost: 0.14 CPU seconds an update, compilation included, which is about 6 minutes of one core in all; seen on a machine
  that many other programs shared, where 1,100 updates took 37 minutes.
"""

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
