"""WGAN-GP by the widely used MLP recipe: batch 64, Adam 2e-4 (0.5, 0.999), 5 critic updates, penalty 10.

Claim: the recipe that most people have met as "WGAN-GP in PyTorch": MLP generator (without its batch
  norm) and critic, the two-sided penalty of Gulrajani et al. 2017 (arXiv 1704.00028). configs/wgan.py is to beat it.
Command: python launch.py --config=configs/wgan_gp.py            (or configs/wgan_gp.py:fashion_mnist)
Cost: 2.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    every=1000,
    run=dict(name='wgan_gp', steps=4000),
    model=dict(
      g_widths=(128, 256, 512, 1024), d_widths=(512, 256), g_activation='leaky_relu', d_activation='leaky_relu'
    ),
    loss=dict(kind='wasserstein', constraint='gradient_penalty', n_critic=5),
    optim=dict(lr=2e-4, b1=0.5),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-5, 1e-3), 'loss.penalty': log_uniform(1.0, 30.0)}
