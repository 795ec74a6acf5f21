"""One side of the benchmark of metrics in a process of its own, so that its peak memory can be told.

Protocol: one JSON job as the argument, one JSON answer on standard output.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_data import RealData
from gen_ai.config import SOURCE
from gen_ai.core.errors import UserError
from gen_ai.evaluate import metrics
from gen_ai.evaluate.metrics import features, quality
from gen_ai.evaluate.metrics.metric import Evidence

SIDES = {  # the packages whose versions are told
  'ours': ('jax', 'jaxlib', 'flax'),
  'torch': ('torch', 'torchmetrics', 'prdc', 'scikit-learn'),
}
WEIGHTS = 'weights.npz'


class Ours:
  """The figures as `gen_ai.evaluate` computes them, without FD's bootstrap interval, which the other side has not.

  Args:
    extractor: of features.
    seed: of KID's blocks.
  """

  def __init__(self, extractor: Any, seed: int):
    self.extractor, self.seed = extractor, seed

  def measure(self, samples: np.ndarray, real: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """({figure: value}, {part: seconds})."""
    times = [time.perf_counter()]
    own, others = (features.of_images(images, self.extractor, features.Spread()) for images in (samples, real))
    times.append(time.perf_counter())
    evidence = Evidence(
      own,
      others,
      None,
      samples.__getitem__,
      real.__getitem__,
      real.__getitem__,
      self.extractor,
      self.seed,
      {},
      intervals=False,
    )
    figures: dict[str, float] = {}
    for name in ('fd', 'kid', 'prdc'):
      found = quality.measure(metrics.parse(name, 'image'), evidence).figures
      figures |= {figure: value.value for figure, value in found.items()}
      figures |= {'kid_error': float(found['kid'].error or 0)} if name == 'kid' else {}
      times.append(time.perf_counter())
    return figures, dict(zip(('features', 'fd', 'kid', 'prdc'), np.diff(times).tolist(), strict=True))


def write_job(folder: Path, data: RealData, n: int, seed: int) -> dict[str, Any]:
  """Leaves images, and weights for the torch side, in `folder`; returns what both sides' jobs share.

  Raises:
    UserError: no classifier of the kind that the torch side has, or fewer images than `n`.
  """
  extractor = data.load_extractor()
  sizes = {split: len(data.dataset.splits[split]) for split in ('train', 'test')}
  if n > min(sizes.values()):
    raise UserError(
      f'--samples={n:,}: {data.dataset.name} has {sizes["train"]:,} training and {sizes["test"]:,} '
      'test images: ask for fewer.'
    )
  order = np.random.default_rng(seed).permutation(sizes['train'])[:n]
  np.save(folder / 'samples.npy', data.images('train', order))
  np.save(folder / 'real.npy', data.images('test', np.arange(n)))
  blocks = _save_weights(folder / WEIGHTS, data.extractor, extractor.params)
  return {
    'folder': str(folder),
    'data': data.config.data.to_dict(),
    'eval': data.config.eval.to_dict(),
    'seed': seed,
    'blocks': blocks,
    'neighbours': quality.NEIGHBOURS,
  }


def _save_weights(path: Path, name: str, params: Any) -> int:
  """Saves them flat; returns the residual blocks at each resolution."""
  from flax import traverse_util

  from gen_ai.run import directory

  kind, _, run_dir = name.partition(':')
  model = directory.read_config(run_dir)['model'] if kind == 'classifier' else {}
  if (model.get('activation'), model.get('norm')) != ('silu', 'group'):
    raise UserError(
      f'--extractor={name}: the PyTorch side has the classifier of configs/classifier.py only, with '
      'model.activation=silu and model.norm=group.'
    )
  np.savez(path, **traverse_util.flatten_dict(params['params'], sep='/'))
  return model['blocks']


def take_turn(side: str, shared: Mapping[str, Any]) -> dict[str, Any]:
  """The answer of a new process: figures, parts of the first and of the second time, and memory.

  Raises:
    UserError: it failed; what it wrote to its standard error is on ours.
  """
  job = json.dumps({**shared, 'side': side})
  # Both sides on the CPU: a JAX on a GPU against a PyTorch on the CPU would be no comparison.
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.metrics_sides', job],
    cwd=SOURCE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
  )
  if done.returncode:
    raise UserError(f'the {side} side ended with code {done.returncode}: see its message above.')
  return json.loads(done.stdout.splitlines()[-1])


def make(job: Mapping[str, Any]) -> Any:
  """The side that `job` asks for."""
  if job['side'] == 'ours':
    from gen_ai.evaluate import external
    from gen_ai.evaluate.protocol import protocol

    data, wanted = job['data'], job['eval']
    given = {f'data.{name}': value for name, value in data.items()} | {f'eval.{k}': v for k, v in wanted.items()}
    config, dataset = external.open_data(data['name'], given)
    return Ours(protocol(config, dataset, 'test', metrics.parse('fd', 'image')).extractor, job['seed'])
  from flax import traverse_util

  from benchmarks.metrics_torch import Torch

  with np.load(Path(job['folder']) / WEIGHTS) as file:
    flat = {name: file[name] for name in file.files}
  return Torch(traverse_util.unflatten_dict(flat, sep='/'), job['blocks'], job['seed'], job['neighbours'])


def peak() -> float:
  """Most memory that this process has held, MiB."""
  status = Path('/proc/self/status')
  if status.is_file():  # Linux adds the memory of the process that started it to ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith('VmHWM'))
    return int(line.split()[1]) / 2**10
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most / 2**20 if sys.platform == 'darwin' else most / 2**10


def serve(job: Mapping[str, Any]) -> dict[str, Any]:
  """Measures twice: the first time compiles, or warms up."""
  samples, real = (np.load(Path(job['folder']) / f'{name}.npy') for name in ('samples', 'real'))
  side, before = make(job), peak()
  runs = [side.measure(samples, real) for _ in range(2)]
  return {
    'figures': runs[-1][0],
    'first': runs[0][1],
    'second': runs[1][1],
    'peak': peak(),
    'before': before,
    'versions': {name: metadata.version(name) for name in SIDES[job['side']]},
  }


if __name__ == '__main__':
  print(json.dumps(serve(json.loads(sys.argv[1]))))
