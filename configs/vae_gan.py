"""VAE-GAN (arXiv 1512.09300): reconstructions are compared in the features of a discriminator, not pixel by pixel.

Claim: the paper's three updates and losses, with group norm for batch norm and the non-saturating loss for the decoder
  (`--config.loss.kind=minimax` is the paper's form). `sweep_gamma` weighs reconstruction against realism.
Command: python launch.py --config=configs/vae_gan.py            (or configs/vae_gan.py:fashion_mnist)
Cost: 1.5 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY, common
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = common('vae_gan', data)
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 32

  config.model = {
    'latent': 32,  # dimensions of z
    'width': 16,  # channels at half resolution, doubled at each halving, in all three networks
    'hidden': 128,  # units between the discriminator's features and its score
    'activation': 'silu',  # of encoder and decoder
    'd_norm': 'group',  # of the discriminator: 'group' | 'none'
  }
  config.loss = {
    'kind': 'non_saturating',  # minimax | non_saturating | least_squares | hinge | wasserstein
    'kl_weight': 1.0,  # of the prior term, in the encoder's loss
    'gamma': 0.01,  # weight of the feature error in the decoder's loss
    'penalty': 0.5,  # weight of R1 on the discriminator; 0: off
    'd_lr_factor': 1.0,  # the discriminator's learning rate over that of the others
  }
  config.optim.lr = 5e-4
  config.optim.schedule = 'linear'
  config.optim.b1 = 0.5
  config.optim.ema_decay = 0.995
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (2e-4, 5e-4, 1e-3):
    yield {'optim.lr': lr}


def sweep_gamma():
  """Weights of the reconstruction against the discriminator's verdict."""
  for gamma in (1e-3, 1e-2, 1e-1):
    yield {'loss.gamma': gamma}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.gamma': log_uniform(1e-4, 1.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latent': 4, 'model.width': 4, 'model.hidden': 8}
