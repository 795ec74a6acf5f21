"""Conditional VAE (Sohn et al. 2015): draws the class it is asked for; residual networks.

Claim: labels reach the encoder as planes beside the image and the decoder beside the latent, so that the latent is left
  to say what the class does not. The view `classes` has a row a class with the same latents. Labels come from the
  data set; `sweep_conditional` compares with none.
Command: python launch.py --config=configs/cvae.py            (or configs/cvae.py:fashion_mnist)
Cost: 3.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed
from gen_ai.vae_fields import variational


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = variational(data)
  config.run.name = 'cvae'
  config.run.steps = 3000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.network = 'resnet'
  config.model.conditional = True
  config.model.width = 16  # channels at half resolution
  config.optim.lr = 1e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.999
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (3e-4, 1e-3, 3e-3):
    yield {'optim.lr': lr}


def sweep_conditional():
  """With labels and without."""
  for conditional in (True, False):
    yield {'model.conditional': conditional}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latents': (4,), 'model.width': 4}
