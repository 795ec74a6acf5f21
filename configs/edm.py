"""EDM: the preconditioning, the loss and the sampler of Karras et al., on Fashion-MNIST (arXiv 2206.00364).

Claim: the network inside of Karras et al.'s preconditioning, by the deviation of the data, which is measured in the
  first updates; Heun's sampler of 35 evaluations. Runs of seconds alone were looked at.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/edm.py
  (digits, without preparing anything: configs/edm.py:mnist_5k)
Cost: that of configs/flow.py an update, whose network it has.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the images of `data`."""
  return make_config(
    'diffusion',
    data,
    run=dict(name='edm', steps=4000),
    data=dict(batch_size=64),
    model=dict(schedule='edm', predicts='F'),
    loss=dict(space='F', times='lognormal', times_mean=-1.2, times_deviation=1.2),
    optim=dict(name='adamw', lr=2e-3, b2=0.99, schedule='cosine', warmup_steps=100, end_factor=0.02, ema_decay=0.998),
    sample=dict(solver='heun', steps=18, grid='karras'),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
