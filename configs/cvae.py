"""Conditional VAE (Sohn et al. 2015): draws the class it is asked for; residual networks.

Claim: labels reach the encoder as planes beside the image and the decoder beside the latent, so that the latent is left
  to say what the class does not. The picture `classes` has a row a class with the same latents. Labels come from the
  data set; `sweep_conditional` compares with none.
Command: python launch.py --config=configs/cvae.py            (or configs/cvae.py:fashion_mnist)
Cost: 3.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    run=dict(name='cvae', steps=3000),
    model=dict(network='resnet', conditional=True, width=16),  # channels at half resolution
    optim=dict(lr=1e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
  )


def sweep_conditional():
  """With labels and without."""
  for conditional in (True, False):
    yield {'model.conditional': conditional}
