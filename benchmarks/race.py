"""Our WGAN against the well-known PyTorch WGAN-GP in equal wall-clock: python -m benchmarks.race [--minutes=5]."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine, ours, real_data
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.evaluate import external, metrics
from gen_ai.evaluate.protocol import protocol
from gen_ai.run import directory

FLAGS = flags.FLAGS
flags.DEFINE_string('config', 'configs/wgan.py', 'ours, without the data set')
flags.DEFINE_string('data', 'fashion_mnist', 'labelled images: a prepared data set')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the config says')
flags.DEFINE_float(
  'minutes', 5.0, 'of each side, from the start of its process, imports and compilation included', lower_bound=0.2
)
flags.DEFINE_integer('seeds', 1, 'races: seeds 0, 1, ...', lower_bound=1)
flags.DEFINE_integer('samples', 10_000, 'that a side is judged by', lower_bound=200)
flags.DEFINE_string(
  'extractor',
  '',
  'of features: classifier:RUN_DIR or inception:FILE; empty: configs/classifier.py '
  'is trained on the data, or found trained, under --runs_dir',
)
flags.DEFINE_string('runs_dir', 'runs/race', 'where the runs go')
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

MARGIN = 0.8  # of the time that is left after start-up is planned for: cores slow down under load, a late run has lost


def plan(reference: str, data: real_data.RealData) -> int:
  """Updates that end within --minutes: by the seconds of a short run, and the speed of a warm program."""
  config = config_lib.load(reference)
  every = config.run.log_every
  begun = time.perf_counter()
  with tempfile.TemporaryDirectory() as place:
    code, _ = launch(Path(place) / 'run', reference, every, 0)
  if code != DONE:
    raise UserError(f'{reference} could not be trained (exit code {code}): see the message above.')
  start_up = time.perf_counter() - begun
  side = ours.Ours(config, data.dataset)
  side.run(10.0)  # a core that was idle is faster at first
  steps, seconds = side.run(20.0)
  left = MARGIN * (FLAGS.minutes * 60 - start_up)
  if left <= 0:
    raise UserError(f'--minutes={FLAGS.minutes} is less than the start takes: {start_up:.0f} s.')
  return max(int(left * steps / seconds) // every, 1) * every


def launch(run_dir: Path, reference: str, steps: int, seed: int) -> tuple[int, float]:
  """(exit code, seconds) of a run by launch.py without any compiled program kept from before."""
  given = {
    'run.steps': steps,
    'run.eval_every': steps,
    'run.sample_every': steps,
    'run.save_every': steps,
    'run.seed': seed,
  } | ({'data.data_dir': FLAGS.data_dir} if FLAGS.data_dir else {})
  words = [f'--config.{path}={value}' for path, value in given.items()]
  call = [
    sys.executable,
    str(config_lib.SOURCE / 'launch.py'),
    f'--config={reference}',
    *words,
    f'--run_dir={run_dir}',
    '--compilation_cache=',
  ]
  begun = time.perf_counter()
  code = subprocess.run(call, stdout=sys.stderr).returncode
  return code, time.perf_counter() - begun


def our_side(reference: str, steps: int, seed: int, extractor: str) -> dict[str, Any]:
  """Trains and judges ours."""
  run_dir = Path(FLAGS.runs_dir).resolve() / f'ours-seed{seed}'
  shutil.rmtree(run_dir, ignore_errors=True)
  code, seconds = launch(run_dir, reference, steps, seed)
  if code != DONE:
    raise UserError(f'our side failed (exit code {code}): see the message above.')
  call = [
    sys.executable,
    '-m',
    'gen_ai.evaluate',
    str(run_dir),
    '--metrics=fd,kid,prdc',
    f'--samples={FLAGS.samples}',
    f'--extractor={extractor}',
  ]
  subprocess.run(call, stdout=sys.stderr, check=True, cwd=config_lib.SOURCE)
  figures = directory.read_evaluations(run_dir)[-1]['figures']
  return {'side': 'ours', 'seed': seed, 'seconds': seconds, 'updates': steps, 'figures': figures}


def torch_side(data: real_data.RealData, images: Path, seed: int) -> dict[str, Any]:
  """Trains and judges theirs: of its two ways to draw, the one with the lower FD."""
  prefix = Path(FLAGS.runs_dir).resolve() / f'torch-seed{seed}'
  words = [str(images), str(prefix), str(FLAGS.minutes * 60), str(seed), str(FLAGS.samples)]
  subprocess.run([sys.executable, '-m', 'benchmarks.race_torch', *words], check=True, cwd=config_lib.SOURCE)
  about = json.loads(prefix.with_suffix('.json').read_text())
  asked = protocol(data.config, data.dataset, 'test', metrics.parse('fd,kid,prdc', 'image'))
  found = {}
  for mode in ('train', 'eval'):
    judged, _ = external.evaluate(np.load(f'{prefix}-{mode}.npy'), data.config, data.dataset, asked)
    found[mode] = {name: figure.record() for name, figure in judged.figures.items()}
  best = min(found, key=lambda mode: found[mode]['fd']['value'])
  return {
    'side': 'torch',
    'seed': seed,
    'seconds': about['seconds'],
    'updates': about['critic_updates'],
    'batch_norm': best,
    'figures': found[best],
    'torch': about['torch'],
  }


def won(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
  """Whether ours ended in time and its whole interval of FD lies below theirs."""
  late = mine['seconds'] > FLAGS.minutes * 60
  return not late and mine['figures']['fd']['high'] < theirs['figures']['fd']['low']


def line(row: dict[str, Any]) -> str:
  """One side for the terminal."""
  told = {name: figure['value'] for name, figure in row['figures'].items()}
  fd = row['figures']['fd']
  shares = '  '.join(f'{name} {told[name]:.3f}' for name in ('precision', 'recall', 'coverage'))
  return (
    f'seed {row["seed"]}  {row["side"]:5}  {row["seconds"]:6.1f} s  {row["updates"]:7,} updates  FD '
    f'{fd["value"]:.3f} [{fd["low"]:.3f}, {fd["high"]:.3f}]  KID {told["kid"]:.4f}  {shares}'
  )


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to verdict; 1 where ours lost."""
  if arguments or overrides:
    word = next(iter([*arguments, *overrides]))
    raise UserError(f"'{word}' is not for this command: it runs {FLAGS.config} as it is.")
  if importlib.util.find_spec('torch') is None:
    raise UserError('the other side needs PyTorch: pip install -r requirements.txt -r requirements/benchmark.txt')
  reference, about = f'{FLAGS.config}:{FLAGS.data}', machine.facts()
  request = real_data.Request(FLAGS.data, FLAGS.data_dir, FLAGS.extractor, FLAGS.runs_dir, FLAGS.samples, 0)
  data = real_data.open_data(request, {})
  Path(FLAGS.runs_dir).mkdir(parents=True, exist_ok=True)
  images = Path(FLAGS.runs_dir).resolve() / 'images.npy'
  np.save(images, np.asarray(data.dataset.splits['train'].arrays()['image']))
  steps, held = plan(reference, data), []
  rows: list[dict[str, Any]] = []
  for seed in range(FLAGS.seeds):
    pair = our_side(reference, steps, seed, data.extractor), torch_side(data, images, seed)
    rows += pair
    held.append(won(*pair))
  print(machine.describe(about))
  print(f'{reference} against the PyTorch recipe, {FLAGS.minutes:g} minutes each, {FLAGS.samples:,} samples')
  print('\n'.join(map(line, rows)))
  verdict = 'PASS' if all(held) else 'FAIL'
  print(f'{verdict}: ours ended in time and has the lower FD in {sum(held)} of {len(held)} races')
  if FLAGS.out:
    report = {'machine': about, 'minutes': FLAGS.minutes, 'samples': FLAGS.samples, 'config': reference, 'rows': rows}
    Path(FLAGS.out).write_text(json.dumps(report, indent=1) + '\n')
  return DONE if all(held) else FAILED


if __name__ == '__main__':
  command_line.run(run)
