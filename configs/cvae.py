"""Conditional VAE (Sohn et al. 2015): draws the class it is asked for; residual networks.

Claim: labels reach the encoder as planes beside the image and the decoder beside the latent, so that the latent is left
  to say what the class does not. The picture `classes` has a row a class with the same latents. Labels come from the
  data set; `sweep_conditional` compares with none.
Command: python launch.py --config=configs/cvae.py            (or configs/cvae.py:fashion_mnist)
Cost: 3.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    {
      'run.name': 'cvae',
      'run.steps': 3000,
      'model.network': 'resnet',
      'model.conditional': True,
      'model.width': 16,  # channels at half resolution
      'optim.lr': 1e-3,
      'optim.schedule': 'cosine',
      'optim.warmup_steps': 100,
      'optim.end_factor': 0.05,
      'optim.ema_decay': 0.999,
    },
  )


def sweep_conditional():
  """With labels and without."""
  for conditional in (True, False):
    yield {'model.conditional': conditional}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2)}
