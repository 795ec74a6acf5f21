"""DCGAN (arXiv 1511.06434): convolutional generator and discriminator with batch norm, non-saturating loss.

Claim: the published optimiser (Adam 2e-4, b1 0.5), weight init N(0, 0.02) and norms, at a quarter of the published
  width. How good its digits get at this length has not been measured. R1 instead:
  `--config.loss.constraint=r1 --config.model.d_norm=group`.
Command: python launch.py --config=configs/dcgan.py            (or configs/dcgan.py:cifar10)
Cost: 2.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    run=dict(name='dcgan', steps=3000),
    model=dict(network='dcgan', d_activation='leaky_relu', g_norm='batch', d_norm='batch'),
    optim=dict(lr=2e-4, b1=0.5, ema_decay=0.995),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(5e-5, 1e-3), 'optim.b1': choice(0.0, 0.5, 0.9)}
