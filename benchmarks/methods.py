"""What the throughput benchmark runs: methods by name, their configs, and data in memory. NumPy only."""

import string

import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import text
from gen_ai.core.errors import UserError
from gen_ai.sweep import trials as sweep_trials

METHODS = ('gan', 'wgan_gp', 'lm_shakespeare')
SETTING = {'gan': 'note'}  # the sweep of the config file whose one trial is the plain algorithm that PyTorch's side has
# Speed does not depend on what is in the pictures and the text; shapes and sizes are those of the configs' data sets.
IMAGES = (5000, 28, 28, 1)  # mnist_5k
CHARACTERS = 1_115_394  # tiny_shakespeare
ALPHABET = string.ascii_letters + string.digits + ' .\n'  # 65 characters, as many as it has


def method_config(method: str, tiny: bool = False) -> ConfigDict:
  """The config of `method` at its `SETTING`, with `tiny` its tiny() applied. Raises UserError for an unknown method."""
  if method not in METHODS:
    raise UserError(f"--methods: '{method}' is none of {', '.join(METHODS)}.{text.did_you_mean(method, list(METHODS))}")
  reference = f'configs/{method}.py'
  config = config_lib.load(reference)
  if method in SETTING:
    (trial,) = sweep_trials.declared(reference, SETTING[method])
    config = config_lib.override(config, trial)
  return config_lib.override(config, config_lib.tiny(reference)) if tiny else config


def images() -> np.ndarray:
  """Noise: uint8 [N, H, W, C]."""
  return np.random.default_rng(0).integers(0, 256, IMAGES, np.uint8)


def tokens() -> np.ndarray:
  """Characters drawn at random: uint8 [CHARACTERS], numbers in `ALPHABET`."""
  return np.random.default_rng(0).integers(0, len(ALPHABET), CHARACTERS, np.uint8)
