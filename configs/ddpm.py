"""DDPM: the noise of a table of 1,000 levels is predicted (arXiv 2006.11239, 2102.09672), on Fashion-MNIST.

Claim: the noise is predicted and its error is the loss, as in the paper; the network is a patch Transformer. DDIM is
  `--config.sample.solver=ddim --config.sample.steps=50`. Runs of seconds alone were looked at.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/ddpm.py
  (digits, without preparing anything: configs/ddpm.py:mnist_5k)
Cost: that of configs/flow.py an update, whose network it has.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='ddpm', steps=4000),
    data=dict(batch_size=64),
    model=dict(schedule='cosine', predicts='eps'),
    loss=dict(space='eps', times='uniform'),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(solver='ddpm', steps=100),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
