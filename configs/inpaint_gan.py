"""Completion of images: a conditional GAN fills what a mask hides (arXiv 1604.07379, 1611.07004).

Claim: a U-Net generator of masked image, mask and latent, trained by L1 and by a spectrally normalised discriminator
  that sees the mask; known pixels are kept exactly. Masks are random boxes, a random half, or the centre:
  `sweep_mask`. The picture `completions` shows hidden, completed and original images. `gen_ai.evaluate` measures
  figures of completions of the split's own images, which are easier than samples and are never compared with these.
Command: python launch.py --config=configs/inpaint_gan.py            (or configs/inpaint_gan.py:fashion_mnist)
Cost: 6.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'inpaint_gan',
    data,
    run=dict(steps=3000),
    optim=dict(lr=5e-4, schedule='linear', b1=0.5, ema_decay=0.995),
  )


def sweep_mask():
  """What is hidden: a program for each."""
  for mask in ('box', 'half', 'centre'):
    yield {'model.mask': mask}


def sweep_reconstruction():
  """From likeness to the original to realism."""
  for weight in (1.0, 10.0, 100.0):
    yield {'loss.reconstruction': weight}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.adversarial': log_uniform(0.01, 1.0)}
