"""Does a config reach its published figure? python -m benchmarks.quality [--config=configs/lm_shakespeare.py]."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from absl import flags

from benchmarks import machine
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.run import directory

FLAGS = flags.FLAGS
flags.DEFINE_string('config', 'configs/lm_shakespeare.py', 'what to train; --config.section.field=VALUE overrides')
flags.DEFINE_string('metric', 'loss_nats', 'of the evaluation after the last update, over the whole validation split')
flags.DEFINE_float('target', 1.92, 'the largest value of the metric that passes')
flags.DEFINE_string('runs_dir', 'runs', 'where the run goes')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the config says')


def train(run_dir: Path, overrides: dict[str, str]) -> int:
  """Runs launch.py, its output shown; returns its exit code."""
  words = [f'--config.{path}={value}' for path, value in overrides.items()]
  launch = [sys.executable, str(config_lib.SOURCE / 'launch.py'), f'--config={FLAGS.config}', f'--run_dir={run_dir}']
  return subprocess.run([*launch, *words]).returncode


def last_evaluation(run_dir: Path) -> float:
  """The metric after the last update. Raises UserError where the run reports no such metric."""
  total = directory.read_config(run_dir)['run']['steps']
  rows = [row for row in directory.read_metrics(run_dir) if row['kind'] == 'eval' and row['step'] == total]
  if FLAGS.metric not in rows[-1]:
    names = [name for name in rows[-1] if name not in ('step', 'kind', 'attempt', 'seconds')]
    raise UserError(f'--metric={FLAGS.metric} is none of those that {FLAGS.config} evaluates: {", ".join(names)}.')
  return rows[-1][FLAGS.metric]


def judge(value: float, target: float) -> tuple[str, int]:
  """(verdict, exit code) of a value of the metric, of which less is better."""
  return ('PASS', DONE) if value <= target else ('FAIL', FAILED)


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to verdict: exit code 0 where the target is reached, 1 where it is missed, launch.py's own if it fails."""
  if arguments:
    raise UserError(f"'{arguments[0]}' is no flag: did you mean --config={arguments[0]}?")
  if FLAGS.data_dir:
    overrides = {**overrides, 'data.data_dir': FLAGS.data_dir}
  config = config_lib.override(config_lib.load(FLAGS.config), overrides)
  run_dir = Path(FLAGS.runs_dir).resolve() / config.run.name / f'{datetime.now(UTC):%Y%m%d-%H%M%S}-quality'
  about = machine.facts()
  begun = time.perf_counter()
  code = train(run_dir, overrides)
  if code != DONE:
    return code
  minutes = (time.perf_counter() - begun) / 60
  value = last_evaluation(run_dir)
  verdict, code = judge(value, FLAGS.target)
  print(machine.describe(about))
  print(
    f'{verdict}: {FLAGS.config} {FLAGS.metric} {value:.4f} over the whole validation split '
    f'after {config.run.steps:,} updates, target {FLAGS.target} or lower; {minutes:.1f} minutes, '
    f'seed {config.run.seed}, {run_dir}'
  )
  return code


if __name__ == '__main__':
  command_line.run(run)
