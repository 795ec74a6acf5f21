"""R3GAN (arXiv 2501.05441): relativistic pairing loss with R1 and R2, residual networks without normalisation.

Claim: the published loss and both zero-centred penalties, Adam with b1 0, and an average of the weights. The networks
  are this project's residual ones with zero-initialised branches (the paper's Fixup idea), not its grouped
  bottlenecks, and neither the learning rate nor the penalty is annealed but for a linear decay.
Command: python launch.py --config=configs/r3gan.py            (or configs/r3gan.py:fashion_mnist)
Cost: 8.8 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    run=dict(name='r3gan', steps=3000, log_every=50),
    data=dict(batch_size=32),
    # The width is channels at full resolution.
    model=dict(network='resnet', latent=64, width=12, g_activation='leaky_relu', d_activation='leaky_relu'),
    # The penalty is gamma of the paper, whose penalties are gamma / 2 E ||grad||^2 as ours are.
    loss=dict(kind='relativistic', constraint='r1_r2', penalty=1.0),
    optim=dict(lr=1e-3, schedule='linear', b1=0.0, b2=0.99, ema_decay=0.995),
  )


def sweep_gamma():
  """Weights of the two penalties."""
  for gamma in (0.1, 1.0, 10.0):
    yield {'loss.penalty': gamma}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 2e-3), 'loss.penalty': log_uniform(0.05, 20.0)}


def tiny():
  """What a run of seconds has besides."""
  return {'data.batch_size': 8, 'model.width': 2}
