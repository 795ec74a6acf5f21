"""One side of the throughput benchmark in a process of its own, which works only while it is told to.

PyTorch and JAX in one process would fight for its threads. Protocol: the worker writes one JSON line when it is warm,
then reads a number of seconds a line and answers each with one JSON line. An end of its input ends it.
"""

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.methods import method_config
from gen_ai import config as config_lib
from gen_ai.config import SOURCE
from gen_ai.core.errors import UserError

if TYPE_CHECKING:  # a side imports its own framework only
  from benchmarks.ours import Ours
  from benchmarks.torch_side import Torch

WARM_UP = 2.0  # seconds at most, not counted
GPU_SHARE = '0.45'  # of its memory, for our side; PyTorch takes what it needs of the rest


class Worker:
  """The parent's end of one side ('ours' or 'torch') of `method`; use as a context manager.

  Args:
    side: 'ours' or 'torch'.
    method: a name in `benchmarks.methods`.
    seconds: of a slice; the warm-up is no longer.
    tiny: whether the config's tiny() is applied.
    compiled: whether PyTorch's networks go through torch.compile.
    batch_size: examples; 0: as the config says.
    gpu: whether both sides work on one GPU, of which each then takes a part of the memory; else both on the CPU, as a
      JAX on a GPU against a PyTorch on the CPU would be no comparison.

  Attributes:
    about: {'parameters': int, 'versions': {package: version}}.

  Raises:
    UserError: the worker ended; what it wrote to its standard error is on ours.
  """

  def __init__(
    self,
    side: str,
    method: str,
    seconds: float,
    tiny: bool = False,
    compiled: bool = False,
    batch_size: int = 0,
    gpu: bool = False,
  ):
    self.name = f'{side} side of {method}'
    job = {
      'side': side,
      'method': method,
      'tiny': tiny,
      'compiled': compiled,
      'batch_size': batch_size,
      'device': 'cuda' if gpu else 'cpu',
      'warm_up': min(WARM_UP, seconds),
    }
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.worker', json.dumps(job)],
      cwd=SOURCE,
      text=True,
      env={**os.environ, **({'XLA_PYTHON_CLIENT_MEM_FRACTION': GPU_SHARE} if gpu else {'JAX_PLATFORMS': 'cpu'})},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    self.about = self._answer()

  def run(self, seconds: float) -> float:
    """Steps a second over one slice of at least `seconds`."""
    assert self._process.stdin is not None
    print(seconds, file=self._process.stdin, flush=True)
    slice_ = self._answer()
    return slice_['steps'] / slice_['seconds']

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise UserError(f'the {self.name} ended with code {self._process.wait()}: see its message above.')
    return json.loads(line)

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    assert self._process.stdin is not None and self._process.stdout is not None
    if kind:
      self._process.kill()
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


def make(job: dict[str, Any]) -> 'Ours | Torch':
  """The side that `job` asks for, compiled."""
  config = method_config(job['method'], job['tiny'])
  if job['batch_size']:
    config = config_lib.override(config, {'data.batch_size': job['batch_size']})
  if job['side'] == 'ours':
    from benchmarks import ours

    return ours.Ours(config)
  from benchmarks import torch_side

  return torch_side.Torch(config, job['compiled'], job['device'])


def serve(job: dict[str, Any]) -> None:
  """The child's end: makes the side, warms it up, and runs slices."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever else prints must not speak on the line
  side = make(job)
  side.run(job['warm_up'])
  print(json.dumps({'parameters': side.parameters, 'versions': side.versions}), file=answers, flush=True)
  for line in sys.stdin:
    steps, seconds = side.run(float(line))
    print(json.dumps({'steps': steps, 'seconds': seconds}), file=answers, flush=True)


if __name__ == '__main__':
  serve(json.loads(sys.argv[1]))
