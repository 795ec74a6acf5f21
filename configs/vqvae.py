"""VQ-VAE (arXiv 1711.00937): images as 7x7 codes, and a Transformer over the codes that draws new ones.

Claim: straight-through gradients, a codebook of moving averages whose dead codes start again, and a prior by this
  project's own Transformer, in one run: three fifths of the updates train both, the last two fifths the prior alone on
  codes that no longer move. Pixels are 256 levels under a discretised logistic, so that `elbo_nats` is a bound in nats.
Command: python launch.py --config=configs/vqvae.py            (or configs/vqvae.py:fashion_mnist)
Cost: 4.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY, common
from gen_ai.space import choice, log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = common('vqvae', data)
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model = {
    'codes': 64,  # vectors in the codebook
    'code_dim': 16,  # dimensions of each
    'width': 16,  # channels at half resolution, doubled at each halving
    'halvings': 2,  # of the sides, from image to grid of codes: 28 -> 7
    'blocks': 1,  # residual blocks of encoder and decoder
    'activation': 'silu',
    'prior_layers': 3,  # of the Transformer over the codes
    'prior_width': 64,  # its width
    'prior_heads': 4,  # its attention heads
  }
  config.loss = {
    'commitment': 10.0,  # weight of the squared distance to the code; the paper's 0.25 is for a squared error of pixels
    'codebook_decay': 0.99,  # share of the codebook's averages that survives an update
    'restart_below': 0.5,  # vectors that choose a code, a running mean an update, below which it starts again
    'autoencoder_steps': 1800,  # updates after which autoencoder and codes stay, whatever run.steps; 0: they never do
    'prior_lr_factor': 1.0,  # the prior's learning rate over the autoencoder's
  }
  config.optim.lr = 1e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.995
  config.sample.temperature = 1.0  # of the codes: lower is safer and less varied
  config.sample.top_k = 0  # draw among the likeliest codes only; 0: all
  config.eval.best = 'elbo_nats:max'
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3):
    yield {'optim.lr': lr}


def sweep_codes():
  """Sizes of the codebook."""
  for codes in (32, 64, 128, 256):
    yield {'model.codes': codes}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(3e-4, 3e-3),
    'loss.commitment': log_uniform(1.0, 100.0),
    'model.codes': choice(32, 64, 128),
  }


def tiny():
  """Seconds instead of minutes."""
  return {
    **TINY, 'model.codes': 8, 'model.code_dim': 4, 'model.width': 4, 'model.prior_layers': 1,
    'model.prior_width': 8, 'model.prior_heads': 2, 'loss.autoencoder_steps': 6,
  }  # fmt: skip
