"""Holes of images filled by a flow that knows of no holes (RePaint, arXiv 2201.09865), on Fashion-MNIST.

Claim: holes are filled by the flow of configs/flow.py as it is: known pixels stay exactly, and are drawn
  anew with what is hidden (RePaint). Runs of seconds alone were looked at.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/inpaint_diffusion.py
  (digits, without preparing anything: configs/inpaint_diffusion.py:mnist_5k)
Cost: that of configs/flow.py an update, whose network it has.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='inpaint_diffusion', steps=4000),
    data=dict(batch_size=64),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(steps=50, jump=5, resamplings=4),
    eval=dict(task='complete'),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k', 'sample.jump': 1}
