"""WGAN on 5,000 MNIST digits: digits that a person recognises, in 3 minutes on 2 CPU cores. The default main job.

Claim: the best of what was tried (one seed, features of configs/classifier.py, FD against the test split; as many
  updates as 2 idle cores make in 2 minutes). Fashion-MNIST, 10,000 samples: this MLP with 5 critic updates a
  step, lr 1e-3, 4,000 updates, 0.52; lr 5e-4, 0.75; 2 critic updates, 7,500 updates, 1.19, and at lr 5e-4 1.63; a DCGAN
  of 24 channels with 5, 1,050 updates, 3.6. Digits, 2,000 samples, 1.5 minutes: the MLP at lr 5e-4, 3,000 updates, 2.4,
  the DCGAN with 2 critic updates, 1,650 updates, 4.4. All with a linear decay and averaged weights, which
  the widely used recipe, configs/wgan_gp.py, has not. Weight clipping, the original WGAN, is
  `--config.loss.constraint=clip --config.optim.name=rmsprop --config.optim.lr=5e-5 --config.optim.b1=0.0
  --config.optim.schedule=constant --config.optim.ema_decay=0.0`.
Command: python launch.py --config=configs/wgan.py            (or configs/wgan.py:fashion_mnist)
Cost: 2 minutes 34 seconds on 2 CPU cores, compilation included.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'gan',
    data,
    run=dict(name='wgan', steps=4000, log_every=50),
    model=dict(latent=64, g_widths=(128, 256, 512, 1024), d_widths=(512, 256), d_activation='leaky_relu'),
    loss=dict(kind='wasserstein', constraint='gradient_penalty', n_critic=5),
    optim=dict(lr=1e-3, schedule='linear', b1=0.5, b2=0.9, ema_decay=0.995),
  )


def sweep_critic():
  """Critic updates in a step: a program for each."""
  for n_critic in (1, 2, 5):
    yield {'loss.n_critic': n_critic}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 3e-3), 'loss.penalty': log_uniform(1.0, 30.0)}
