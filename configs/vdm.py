"""VDM: a variational bound with learned ends of the noise, on Fashion-MNIST (arXiv 2107.00630).

Claim: a bound of the log-likelihood on 256 levels in bits/dim, whose noise levels have learned ends; continuous, or
  with `--config.loss.steps=1000` of a chain. Seed 0, 4,000 updates: 3.25 bits/dim on the validation split, where the
  bound of configs/vae.py is 3.91. Patches of 4 pixels, as what tells neighbouring levels does not pass through patches
  of 7: 4.45 in training after half as many updates. Garments are told apart, with more grain than those of
  configs/flow.py: what a likelihood counts is most of all noise.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/vdm.py
  (digits, without preparing anything: configs/vdm.py:mnist_5k)
Cost: 27 minutes of training on 2 CPU cores, other programs beside it.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='vdm', steps=4000),
    data=dict(batch_size=64),
    model=dict(schedule='vdm', predicts='v', fourier=(6, 7), patch=4),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(solver='ddpm', steps=100),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
