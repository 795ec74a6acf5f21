"""Images a second against evaluations of the network, by turns: python -m benchmarks.sampling RUN [RUN ...].

Runs of any method that draws images stand beside each other: of those that draw in steps every number of steps is
measured, of the others the one way they have.
"""

import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine
from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.core.method import GENERATE
from gen_ai.evaluate import restored
from gen_ai.evaluate.generation import Generation

FLAGS = flags.FLAGS
flags.DEFINE_list('steps', ['1', '2', '4', '8', '16', '32'], 'of sampling, of runs that draw in steps')
flags.DEFINE_list('solvers', [], "of sampling; each run's own if not given")
flags.DEFINE_integer('images', 256, 'that a call draws', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'timed calls of each side; the sides take turns', lower_bound=1)
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = (
  f'{"run":24}{"solver":>14}{"steps":>7}{"evaluations":>13}{"images/s":>11}{"range":>19}{"compiled in":>13}'
  f'{"/ first":>9}{"range":>15}'
)


class Side:
  """One run under one setting of its sampler."""

  def __init__(self, run: str, settings: dict[str, Any]):
    config = restored.open_config(run, settings, ('sample',))
    self.program, self._state, _ = restored.restore(run, config, restored.recorded_spec(run), 'latest')
    self._drawing, self.seconds = Generation(self.program, 0, GENERATE), list[float]()
    facts = self.program.task(GENERATE).facts(config)
    sample = config.sample
    self.row = {'run': run, 'solver': sample.get('solver', ''), 'steps': sample.get('steps', 1)}
    self.row |= {'evaluations': facts.get('evaluations', 1)}

  def draw(self, n: int, timed: bool) -> None:
    """Draws `n` images once."""
    began = time.perf_counter()
    self._drawing.outputs(self._state, np.arange(n))
    if timed:
      self.seconds.append(time.perf_counter() - began)
    else:
      self.row['compile_seconds'] = self.program.compile_stats[GENERATE].seconds


def settings_of(run: str, steps: list[str], solvers: list[str]) -> list[dict[str, Any]]:
  """What is measured of a run. Solvers that need more steps leave these out. Raises UserError where nothing is left."""
  sample = restored.open_config(run, {}, ()).sample
  if 'steps' not in sample:
    return [{}]
  found, why = [], None
  for solver, count in itertools.product(solvers if 'solver' in sample and solvers else [''], steps):
    one = {'sample.steps': int(count)} | ({'sample.solver': solver} if solver else {})
    try:
      config = restored.open_config(run, one, ('sample',))
      restored.restore(run, config, restored.recorded_spec(run), 'latest')
      found.append(one)
    except UserError as error:
      why = error
  if why is not None and not found:
    raise why
  return found


def measure(runs: list[str]) -> list[dict[str, Any]]:
  """A row a run and setting; ratios are to the first of them, turn by turn."""
  sides = [Side(run, one) for run in runs for one in settings_of(run, FLAGS.steps, FLAGS.solvers)]
  for turn in range(FLAGS.rounds + 1):  # the first compiles
    for side in sides:
      side.draw(FLAGS.images, turn > 0)
  rows = []
  for side in sides:
    speeds = [FLAGS.images / seconds for seconds in side.seconds]
    ratios = [first / own for first, own in zip(sides[0].seconds, side.seconds, strict=True)]
    row = {**side.row, 'images_per_second': statistics.median(speeds), 'min': min(speeds), 'max': max(speeds)}
    rows.append({**row, 'ratio': statistics.median(ratios), 'ratio_min': min(ratios), 'ratio_max': max(ratios)})
  return rows


def show(row: dict[str, Any]) -> str:
  """A row of the table."""
  span, ratios = f'{row["min"]:,.0f} to {row["max"]:,.0f}', f'{row["ratio_min"]:.3f} to {row["ratio_max"]:.3f}'
  return (
    f'{Path(row["run"]).name[-23:]:24}{row["solver"]:>14}{row["steps"]:>7}{row["evaluations"]:>13}'
    f'{row["images_per_second"]:>11,.0f}{span:>19}{row["compile_seconds"]:>11.1f} s{row["ratio"]:>9.3f}{ratios:>15}'
  )


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  if not arguments or overrides:
    raise UserError(
      'this benchmark draws by runs: python -m benchmarks.sampling RUN_DIR [RUN_DIR ...]. '
      'Train one: python launch.py --config=configs/flow.py:mnist_5k'
    )
  wrong = next((word for word in FLAGS.steps if not word.isdecimal() or not int(word)), None)
  if wrong is not None:
    raise UserError(f'--steps={wrong} is no number of steps: 1 or more.')
  about = machine.facts()
  print(machine.describe(about))
  print(f'{FLAGS.images:,} images a call, medians of {FLAGS.rounds} turns')
  rows = measure(arguments)
  print(HEADER, *map(show, rows), sep='\n', flush=True)
  if FLAGS.out:
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'images': FLAGS.images, 'rows': rows}, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  command_line.run(run)
