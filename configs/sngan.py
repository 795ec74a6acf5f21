"""SNGAN (arXiv 1802.05957): residual networks, a spectrally normalised discriminator, hinge loss.

Claim: the published loss and normalisation at a width, a batch and a learning rate that a CPU can pay, with 1
  discriminator update a step for the published 5 (`--config.loss.n_critic=5 --config.optim.lr=2e-4`).
  Self-attention (SAGAN, arXiv 1805.08318): `--config.model.attention=true --config.model.g_spectral=true`;
  `sweep_attention` compares.
Command: python launch.py --config=configs/sngan.py            (or configs/sngan.py:fashion_mnist)
Cost: 8.6 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    run=dict(name='sngan', steps=3000, log_every=50),
    data=dict(batch_size=32),
    model=dict(network='resnet', latent=64, width=16, g_norm='batch', d_spectral=True),  # channels at full resolution
    loss=dict(kind='hinge'),
    optim=dict(lr=5e-4, schedule='linear', b1=0.0, b2=0.9, ema_decay=0.995),
  )


def sweep_attention():
  """Without and with self-attention in both networks, whose generator is then normalised, too."""
  yield {}
  yield {'model.attention': True, 'model.g_spectral': True}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(5e-5, 1e-3), 'loss.d_lr_factor': log_uniform(0.5, 4.0)}


def tiny():
  """What a run of seconds has besides."""
  return {'data.batch_size': 8}
