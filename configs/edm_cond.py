"""EDM by class, with a learned variance of the loss and guidance, on Fashion-MNIST (arXiv 2312.02696).

Claim: as configs/edm.py by class, with the loss of every noise level divided by its own learned size. Guidance is
  `--config.sample.guidance=0.5`. Runs of seconds alone were looked at.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/edm_cond.py
  (digits, without preparing anything: configs/edm_cond.py:mnist_5k)
Cost: that of configs/flow.py an update, whose network it has.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='edm_cond', steps=4000),
    data=dict(batch_size=64),
    model=dict(schedule='edm', predicts='F', conditional=True),
    loss=dict(space='F', times='lognormal', times_mean=-0.4, times_deviation=1.0, learned_variance=True),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(solver='heun', steps=18, grid='karras'),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
