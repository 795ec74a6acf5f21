"""GAN of the founding note: MLP generator and discriminator on MNIST digits.

Claim: the note's networks (G 100-256-512-1024-784, D 784-1024-512-256-1, ReLU), its loss, optimiser and batch; of its
  cross-entropy the non-saturating form, as in Goodfellow et al. 2014 (arXiv 1406.2661). On Fashion-MNIST it collapses
  to one garment (1,500 updates, seed 0, FD 77 of 10,000 samples in a classifier's features); with
  `--config.optim.b1=0.5`, which `sweep_momentum` compares, it does not (FD 9.5 of 2,000 samples, 8 of 10 classes).
Command: python launch.py --config=configs/gan.py            (or configs/gan.py:fashion_mnist)
Cost: 3.2 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.gan_fields import adversarial
from gen_ai.space import log_uniform, uniform
from gen_ai.space import sweep_seed as sweep_seed


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = adversarial(data)
  config.run.steps = 6000
  config.run.eval_every = 1000
  config.run.sample_every = 1000
  config.run.save_every = 1000
  config.data.batch_size = 128

  config.model.g_widths = (256, 512, 1024)
  config.model.d_widths = (1024, 512, 256)
  config.optim.lr = 2e-4
  return config


def sweep_lr():
  """Learning rates around the note's."""
  for lr in (1e-4, 2e-4, 5e-4, 1e-3):
    yield {'optim.lr': lr}


def sweep_momentum():
  """Adam's first moment: the note's, and what GANs are trained with since DCGAN (arXiv 1511.06434)."""
  for b1 in (0.9, 0.5):
    yield {'optim.b1': b1}


def sweep_loss():
  """Adversarial losses that need no constraint."""
  for kind in ('minimax', 'non_saturating', 'least_squares', 'hinge'):
    yield {'loss.kind': kind}


def sweep_best():
  """The note's setting, which is the file's."""
  yield {}


def space():
  """Where a random search looks."""
  return {
    'optim.lr': log_uniform(5e-5, 2e-3), 'optim.b1': uniform(0.1, 0.9), 'loss.d_lr_factor': log_uniform(0.25, 4.0),
  }  # fmt: skip


def tiny():
  """Seconds instead of minutes."""
  return {
    **TINY, 'model.latent': 8,
    'model.g_widths': (16, 16), 'model.d_widths': (16, 16),
  }  # fmt: skip
