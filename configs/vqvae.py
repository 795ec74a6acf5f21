"""VQ-VAE (arXiv 1711.00937): images as 7x7 codes, and a Transformer over the codes that draws new ones.

Claim: straight-through gradients, a codebook of moving averages whose dead codes start again, and a prior by this
  project's own Transformer, in one run: three fifths of the updates train both, the last two fifths the prior alone on
  codes that no longer move. Pixels are 256 levels under a discretised logistic, so that `elbo_nats` is a bound in nats.
Command: python launch.py --config=configs/vqvae.py            (or configs/vqvae.py:fashion_mnist)
Cost: 4.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vqvae',
    data,
    run=dict(steps=3000),
    optim=dict(lr=1e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.995),
  )


def sweep_codes():
  """Sizes of the codebook."""
  for codes in (32, 64, 128, 256):
    yield {'model.codes': codes}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(3e-4, 3e-3),
    'loss.commitment': log_uniform(1.0, 100.0),
    'model.codes': choice(32, 64, 128),
  }
