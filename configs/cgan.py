"""Conditional GAN: draws the class it is asked for, by a projection discriminator (arXiv 1802.05637).

Claim: a convolutional pair with a spectrally normalised projection discriminator and hinge loss. The founding
  conditional GAN, labels joined to both inputs (arXiv 1411.1784), is `--config.model.condition=concat`, AC-GAN
  (arXiv 1610.09585) `--config.model.condition=auxiliary`; `sweep_condition` compares all with no labels. The picture
  `classes` has a row a class. Labels come from the data set.
Command: python launch.py --config=configs/cgan.py            (or configs/cgan.py:fashion_mnist)
Cost: 3.5 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    run=dict(name='cgan', steps=4000, log_every=50),
    model=dict(
      network='dcgan',
      condition='projection',
      latent=64,
      d_activation='leaky_relu',
      g_norm='batch',
      d_spectral=True,
      weight_init='lecun',
    ),
    loss=dict(kind='hinge'),
    optim=dict(lr=5e-4, schedule='linear', b1=0.0, b2=0.9, ema_decay=0.995),
  )


def sweep_condition():
  """Every way to use labels, and none."""
  for condition in ('none', 'concat', 'projection', 'auxiliary'):
    yield {'model.condition': condition}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.d_lr_factor': log_uniform(0.5, 4.0)}
