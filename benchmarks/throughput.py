"""Steps a second of our configs against PyTorch: python -m benchmarks.throughput [--methods=gan,wgan_gp]."""

import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks.methods import METHODS, method_config
from benchmarks.worker import Worker
from gen_ai.core import command_line
from gen_ai.core.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_list('methods', list(METHODS), 'which configs to measure')
flags.DEFINE_integer('rounds', 5, 'timed slices of each side; the sides take turns', lower_bound=1)
flags.DEFINE_float('seconds', 5.0, 'of one timed slice, at least', lower_bound=0.0)
flags.DEFINE_bool('compile', False, 'torch.compile the PyTorch networks (needs a C++ compiler)')
flags.DEFINE_bool('tiny', False, "apply each config's tiny(): only to see that the benchmark works")
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = f'{"method":<16}{"parameters":>11}{"batch":>7}{"ours":>10}{"torch":>10}{"ours/torch":>12}   ratio over rounds'


def measure(method: str, rounds: int, seconds: float, tiny: bool, compiled: bool) -> dict[str, Any]:
  """Both sides of one method in turns: ours, torch, ours, torch, ...

  Returns:
    the row of the report: steps/s of every slice, medians, and the ratio of the medians.

  Raises:
    UserError: the models have unlike numbers of parameters, or a side failed.
  """
  config = method_config(method, tiny)
  # One after the other, so that neither compiles or warms up beside the other.
  job = (method, seconds, tiny, compiled)
  with Worker('ours', *job) as ours, Worker('torch', *job) as theirs:
    if ours.about['parameters'] != theirs.about['parameters']:
      raise UserError(
        f'{method}: {ours.about["parameters"]:,} parameters on our side and '
        f'{theirs.about["parameters"]:,} on the PyTorch side: these are two models.'
      )
    slices = [(ours.run(seconds), theirs.run(seconds)) for _ in range(rounds)]
    about = {**ours.about['versions'], **theirs.about['versions']}
  left, right = (statistics.median(side) for side in zip(*slices, strict=True))
  ratios = [a / b for a, b in slices]
  return {
    'method': method,
    'parameters': ours.about['parameters'],
    'batch_size': config.data.batch_size,
    'ours_steps_per_second': left,
    'torch_steps_per_second': right,
    'ratio': left / right,
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
    'slices': slices,
    'versions': about,
  }


def line(row: dict[str, Any]) -> str:
  """A row of the table."""
  return (
    f'{row["method"]:<16}{row["parameters"]:>11,}{row["batch_size"]:>7}{row["ours_steps_per_second"]:>10.2f}'
    f'{row["torch_steps_per_second"]:>10.2f}{row["ratio"]:>12.2f}   '
    f'{row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}'
  )


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: both sides run the configs as they are.")
  if importlib.util.find_spec('torch') is None:
    raise UserError('PyTorch is not installed: pip install -r requirements.txt -r requirements/benchmark.txt')
  for method in FLAGS.methods:
    method_config(method)
  about = machine.facts()
  print(machine.describe(about))
  mode = 'torch.compile' if FLAGS.compile else 'eager'
  print(f'steps/s, medians of {FLAGS.rounds} slices of {FLAGS.seconds:g} s a side, in turns; PyTorch {mode}\n{HEADER}')
  rows = []
  for method in FLAGS.methods:
    rows.append(measure(method, FLAGS.rounds, FLAGS.seconds, FLAGS.tiny, FLAGS.compile))
    print(line(rows[-1]), flush=True)
  print('versions: ' + ', '.join(f'{name} {version}' for name, version in rows[-1]['versions'].items()))
  if FLAGS.out:
    settings = {'rounds': FLAGS.rounds, 'seconds': FLAGS.seconds, 'compile': FLAGS.compile, 'tiny': FLAGS.tiny}
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'settings': settings, 'methods': rows}, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  command_line.run(run)
