"""The PyTorch side of the benchmarks of speed: eager, or compiled by torch.compile where asked."""

import math
import time

import torch
from ml_collections import ConfigDict

from benchmarks import methods
from benchmarks.machine import cores
from benchmarks.torch_gan import GAN
from benchmarks.torch_lm import LM


def method(config: ConfigDict, compiled: bool = False, device: str = 'cpu') -> GAN | LM:
  """The config's method, on the data that our side trains on; GANs are here for the CPU alone."""
  if config.experiment == 'lm':
    return LM(config, methods.tokens(config), len(methods.alphabet(config)), compiled, device)
  return GAN(config, methods.images(), compiled)


class Torch:
  """A method ready to run. Attributes: `parameters`, the number of trainable ones; `versions` of packages."""

  def __init__(self, config: ConfigDict, compiled: bool = False, device: str = 'cpu'):
    torch.set_num_threads(cores())
    torch.set_flush_denormal(True)  # as XLA does: moments that decay to denormals would slow eager PyTorch down
    torch.manual_seed(0)
    if device == 'cuda':
      torch.set_float32_matmul_precision('high')  # TF32, as nanoGPT has it
    self.method, self._on_gpu = method(config, compiled, device), device == 'cuda'
    self.log_every = config.run.log_every
    self.step = 0
    self.parameters = self.method.parameters
    self.versions = {'torch': torch.__version__}

  def run(self, seconds: float) -> tuple[int, float]:
    """Trains for at least `seconds`; returns (updates, seconds they took). The loss is read every log_every updates."""
    start, first = time.perf_counter(), self.step
    while time.perf_counter() - start < seconds:
      loss = self.method.step()
      self.step += 1
      if self.step % self.log_every == 0 and not math.isfinite(loss.item()):
        raise FloatingPointError(f'the loss is not finite by update {self.step}: this speed would mean nothing')
    if self._on_gpu:
      torch.cuda.synchronize()
    return self.step - first, time.perf_counter() - start
