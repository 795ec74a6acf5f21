"""Images of words by one Transformer: captions, then the codes of a VQ-VAE, on Fashion-MNIST.

Claim: words of a caption and 7x7 codes of an image are one sequence (DALL-E, arXiv 2102.12092), so that
  `--prompt="a sandal"` draws sandals and an image has a likelihood in bits. Seed 0: `elbo_nats` -2092 on validation,
  given the first caption of the class, 3.85 bits/dim. Of 1,000 samples of random captions 83.5 % [81.1, 85.7] are read
  as what was asked for (shirts 21 %, all others 68 % or more) by configs/classifier.py:fashion_mnist of 600 updates,
  which itself reads 81.4 % of the validation images right. By Bayes' rule the likelihoods of the ten captions name the
  class of 80.7 % [79.7, 81.6] of these images.
Command: python -m gen_ai.data.prepare fashion_mnist && python launch.py --config=configs/image_tokens.py
  (digits, without preparing anything: configs/image_tokens.py:mnist_5k)
Cost: 21 minutes of training on 2 CPU cores that six other programs shared, less on idle ones.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'fashion_mnist'):
  """The run, on the labelled images of `data`."""
  return make_config(
    'image_tokens',
    data,
    run=dict(steps=1500),
    optim=dict(lr=2e-3, schedule='cosine', warmup_steps=100, end_factor=0.05, ema_decay=0.99),
  )


def sweep_codes():
  """Sizes of the codebook."""
  for codes in (64, 128, 256):
    yield {'model.codes': codes}


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-4, 3e-3), 'model.codes': choice(64, 128, 256)}


def tiny():
  """What a run of seconds has besides: images that need no preparation."""
  return {'data.name': 'mnist_5k'}
