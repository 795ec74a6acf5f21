"""R3GAN (arXiv 2501.05441): relativistic pairing loss with R1 and R2, residual networks without normalisation.

Claim: the published loss and both zero-centred penalties, Adam with b1 0, and an average of the weights. The networks
  are this project's residual ones with zero-initialised branches (the paper's Fixup idea), not its grouped
  bottlenecks, and neither the learning rate nor the penalty is annealed but for a linear decay.
Command: python launch.py --config=configs/r3gan.py            (or configs/r3gan.py:fashion_mnist)
Cost: 8.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.name = 'r3gan'
  config.run.steps = 3000
  config.run.log_every = 50
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 32

  config.model.network = 'resnet'
  config.model.latent = 64  # dimensions of z
  config.model.width = 12  # channels at full resolution
  config.model.g_activation = 'leaky_relu'
  config.model.d_activation = 'leaky_relu'
  config.loss.kind = 'relativistic'
  config.loss.constraint = 'r1_r2'
  config.loss.penalty = 1.0  # gamma of the paper, whose penalties are gamma / 2 E ||grad||^2 as ours are
  config.optim.lr = 1e-3
  config.optim.schedule = 'linear'
  config.optim.b1 = 0.0
  config.optim.b2 = 0.99
  config.optim.ema_decay = 0.995
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3):
    yield {'optim.lr': lr}


def sweep_gamma():
  """Weights of the two penalties."""
  for gamma in (0.1, 1.0, 10.0):
    yield {'loss.penalty': gamma}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.penalty': log_uniform(0.05, 20.0)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'data.batch_size': 8, 'model.latent': 8, 'model.width': 2}
