"""What the throughput benchmark runs: methods by name, their configs, and data in memory. NumPy only."""

import string

import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import text
from gen_ai.core.errors import UserError
from gen_ai.sweep import trials as sweep_trials

METHODS = ('gan', 'wgan_gp', 'lm_shakespeare')
GPT2 = 'gpt2_124m'  # of benchmarks.gpu: GPT-2's smallest network as nanoGPT trains it, no biases and no dropout
_GPT2 = {
  'run.name': GPT2,
  'run.log_every': 20,
  'precision': 'bf16',
  'data.batch_size': 32,
  'data.block_size': 1024,
  'model.layers': 12,
  'model.heads': 12,
  'model.width': 768,
  'optim.lr': 6e-4,
  'optim.b2': 0.95,
}
SETTING = {'gan': 'note'}  # the sweep of the config file whose one trial is the plain algorithm that PyTorch's side has
# Speed does not depend on what is in the pictures and the text; shapes and sizes are those of the configs' data sets.
IMAGES = (5000, 28, 28, 1)  # mnist_5k
CHARACTERS = 1_115_394  # tiny_shakespeare
ALPHABET = string.ascii_letters + string.digits + ' .\n'  # 65 characters, as many as it has
GPT2_ALPHABET = '\n' + ''.join(map(chr, range(0x10000, 0x10000 + 50_303)))  # its 50,257 tokens, padded as nanoGPT does


def method_config(method: str, tiny: bool = False) -> ConfigDict:
  """The config of `method` at its `SETTING`, with `tiny` its tiny() applied. Raises UserError for an unknown method."""
  if method not in (*METHODS, GPT2):
    raise UserError(f"--methods: '{method}' is none of {', '.join(METHODS)}.{text.did_you_mean(method, list(METHODS))}")
  reference = 'configs/lm_shakespeare.py' if method == GPT2 else f'configs/{method}.py'
  config = config_lib.load(reference)
  if method == GPT2:
    config = config_lib.override(config, _GPT2)
  if method in SETTING:
    (trial,) = sweep_trials.declared(reference, SETTING[method])
    config = config_lib.override(config, trial)
  return config_lib.override(config, config_lib.tiny(reference)) if tiny else config


def images() -> np.ndarray:
  """Noise: uint8 [N, H, W, C]."""
  return np.random.default_rng(0).integers(0, 256, IMAGES, np.uint8)


def alphabet(config: ConfigDict) -> str:
  """The characters of a language model's text."""
  return GPT2_ALPHABET if config.run.name == GPT2 else ALPHABET


def tokens(config: ConfigDict) -> np.ndarray:
  """Characters drawn at random: [CHARACTERS], numbers in `alphabet`, uint8 where that holds them and int32 else."""
  size = len(alphabet(config))
  return np.random.default_rng(0).integers(0, size, CHARACTERS, np.uint8 if size <= 256 else np.int32)
