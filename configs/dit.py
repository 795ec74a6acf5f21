"""A rectified flow by class with guidance (DiT, SiT: arXiv 2212.09748, 2401.08740), on Fashion-MNIST.

Claim: classes that are asked for, with guidance, by a patch Transformer that says the velocity. Runs of seconds alone
  were looked at.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/dit.py
  (digits, without preparing anything: configs/dit.py:mnist_5k)
Cost: that of configs/flow.py an update, whose network it has.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='dit', steps=4000),
    data=dict(batch_size=64),
    model=dict(predicts='velocity', conditional=True),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(solver='heun', steps=25, guidance=0.5),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
