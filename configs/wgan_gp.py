"""WGAN-GP by the widely used MLP recipe: batch 64, Adam 2e-4 (0.5, 0.999), 5 critic updates, penalty 10.

Claim: the recipe that most people have met as "WGAN-GP in PyTorch": MLP generator (without its batch
  norm) and critic, the two-sided penalty of Gulrajani et al. 2017 (arXiv 1704.00028). configs/wgan.py is to beat it.
Command: python launch.py --config=configs/wgan_gp.py            (or configs/wgan_gp.py:fashion_mnist)
Cost: 2.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'wgan_gp'
  config.run.steps = 4000
  config.run.eval_every = 1000
  config.run.sample_every = 1000
  config.run.save_every = 1000
  config.data.batch_size = 64

  config.model.g_widths = (128, 256, 512, 1024)
  config.model.d_widths = (512, 256)
  config.model.g_activation = 'leaky_relu'
  config.model.d_activation = 'leaky_relu'
  config.loss.kind = 'wasserstein'
  config.loss.constraint = 'gradient_penalty'
  config.loss.n_critic = 5  # critic updates in one step, each on a batch of its own
  config.optim.lr = 2e-4
  config.optim.b1 = 0.5
  config.optim.b2 = 0.999
  return config


def sweep_lr():
  """Learning rates around the recipe's."""
  for lr in (5e-5, 1e-4, 2e-4, 4e-4):
    yield {'optim.lr': lr}


def sweep_best():
  """The widely used setting, which is the file's."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-5, 1e-3), 'loss.penalty': log_uniform(1.0, 30.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latent': 8, 'model.g_widths': (16, 16), 'model.d_widths': (16, 16)}
