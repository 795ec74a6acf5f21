"""VAE with two stochastic layers (arXiv 1509.00519, section 5): 784-200-200-100 and 100-100-100-50.

Claim: the paper's deeper network and its binarised pixels, on any data set, trained by the ELBO. Its
  importance-weighted form is `--config.loss.bound=iwae --config.loss.draws=5`; `sweep_bound` compares. Evaluations give
  the KL of each layer. With 100 and 50 units two layers are not ahead of the one of configs/iwae.py here; with
  `'--config.model.latents=(50,25)'` they are (benchmarks/README.md, Likelihood).
Command: python launch.py --config=configs/hvae.py            (or configs/hvae.py:fashion_mnist)
Cost: 0.4 minutes of training on 2 CPU cores, by the speed that `benchmarks.families` measured.
"""

from gen_ai.config import TINY
from gen_ai.space import log_uniform
from gen_ai.space import sweep_seed as sweep_seed
from gen_ai.vae_fields import variational


def get_config(data: str = 'mnist_5k'):
  """The run, on the images of `data`."""
  config = variational(data)
  config.run.name = 'hvae'
  config.run.steps = 5000
  config.run.eval_every = 500
  config.run.sample_every = 500
  config.run.save_every = 500
  config.data.batch_size = 64

  config.model.network = 'mlp'
  config.model.latents = (100, 50)
  config.model.widths = (200, 200)
  config.model.top_widths = (100, 100)
  config.model.activation = 'tanh'
  config.loss.likelihood = 'bernoulli'
  config.loss.kl_warmup_steps = 2500  # updates: half of the run
  config.optim.lr = 3e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 100
  config.optim.end_factor = 0.05
  config.optim.ema_decay = 0.999
  return config


def sweep_lr():
  """Learning rates around the file's."""
  for lr in (1e-3, 3e-3, 1e-2):
    yield {'optim.lr': lr}


def sweep_bound():
  """The VAE and the IWAE of five draws."""
  yield {'loss.bound': 'elbo', 'loss.draws': 5}
  yield {'loss.bound': 'iwae', 'loss.draws': 5}


def sweep_best():
  """The file's setting."""
  yield {}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2)}


def tiny():
  """Seconds instead of minutes."""
  return {**TINY, 'model.latents': (6, 4), 'model.widths': (8,), 'model.top_widths': (8,),
          'loss.kl_warmup_steps': 4}  # fmt: skip
