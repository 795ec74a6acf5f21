"""VAE with two stochastic layers (arXiv 1509.00519, section 5): 784-200-200-100 and 100-100-100-50.

Claim: the paper's deeper network and its binarised pixels, on any data set, trained by the ELBO. Its
  importance-weighted form is `--config.loss.bound=iwae --config.loss.importance_samples=5`; `sweep_bound` compares.
  Evaluations give the KL of each layer. With 100 and 50 units two layers are not ahead of the one of
  configs/iwae.py here; with `'--config.model.latents=(50,25)'` they are (benchmarks/README.md, Likelihood).
Command: python launch.py --config=configs/hvae.py            (or configs/hvae.py:fashion_mnist)
Cost: 0.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import make_config


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  return make_config(
    'vae',
    data,
    run=dict(name='hvae', steps=5000),
    model=dict(network='mlp', latents=(100, 50), widths=(200, 200), activation='tanh'),
    loss=dict(kl_warmup_steps=2500),  # updates: half of the run
    optim=dict(lr=3e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.999),
  )


def sweep_bound():
  """The VAE and the IWAE of five draws."""
  yield {'loss.bound': 'elbo', 'loss.importance_samples': 5}
  yield {'loss.bound': 'iwae', 'loss.importance_samples': 5}


def tiny():
  """What a run of seconds has besides."""
  return {'loss.kl_warmup_steps': 4, 'model.latents': (6, 4)}
