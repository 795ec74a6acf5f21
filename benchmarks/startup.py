"""Time from the command to the first update, cold and with a warm compilation cache: python -m benchmarks.startup."""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks import machine
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.run import directory

FLAGS = flags.FLAGS
flags.DEFINE_list('configs', ['wgan', 'gan', 'lm'], 'names of files in configs/')
flags.DEFINE_integer('repeats', 3, 'of a cold and a warm start each', lower_bound=1)
flags.DEFINE_float('timeout', 600.0, 'seconds that one start may take')
flags.DEFINE_bool('tiny', False, "apply each config's tiny(): only to see that the benchmark works")

POLL = 0.01  # seconds between looks at metrics.jsonl


def first_row(run_dir: Path) -> dict[str, float] | None:
  """The first row of training in metrics.jsonl, or None as long as there is none."""
  if not (run_dir / 'metrics.jsonl').is_file():
    return None
  return next((row for row in directory.read_metrics(run_dir) if row['kind'] == 'train'), None)


def start(name: str, cache: Path, folder: Path) -> tuple[float, float]:
  """Starts configs/NAME.py in a new directory under `folder` and stops it after its first row.

  Returns:
    (seconds from the command to the end of the first update, seconds to the first row of metrics.jsonl).

  Raises:
    UserError: the run failed, or wrote no row in time.
  """
  run_dir = Path(tempfile.mkdtemp(dir=folder)) / 'run'
  words = [
    sys.executable,
    'launch.py',
    f'--config=configs/{name}.py',
    f'--run_dir={run_dir}',
    f'--compilation_cache={cache}',
    *(['--tiny'] if FLAGS.tiny else []),
  ]
  log = run_dir.with_suffix('.log')
  with log.open('w') as output:
    begun = time.perf_counter()
    process = subprocess.Popen(words, cwd=config_lib.SOURCE, stdout=output, stderr=subprocess.STDOUT)
    try:
      row = None
      while row is None and process.poll() is None and time.perf_counter() - begun < FLAGS.timeout:
        time.sleep(POLL)
        row = first_row(run_dir)
      to_row = time.perf_counter() - begun
      row = row or first_row(run_dir)  # a tiny run may end between two looks
      process.send_signal(signal.SIGTERM)
      code = process.wait(timeout=120)
    finally:
      process.kill()
      process.wait()
  if row is None or code not in (DONE, REQUEUE):
    tail = '\n'.join(log.read_text().splitlines()[-5:])
    raise UserError(
      f'configs/{name}.py ended with code {code} in {to_row:.0f} s, its first row '
      f'{"seen" if row else "not seen"}:\n{tail}'
    )
  # The row speaks of `step` updates and counts its seconds from the first one's start.
  return to_row - row['seconds'] * (1 - 1 / row['step']), to_row


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: it starts the configs as they are.")
  for name in FLAGS.configs:
    config_lib.load(f'configs/{name}.py')
  print(machine.describe(machine.facts()))
  print(f'seconds from the command, medians of {FLAGS.repeats}; cold: empty compilation cache, warm: the same again')
  print(f'{"config":<16}{"cold: update 1":>16}{"first row":>12}{"warm: update 1":>16}{"first row":>12}')
  for name in FLAGS.configs:
    with tempfile.TemporaryDirectory() as temporary:
      folder = Path(temporary)
      start(name, folder / 'cache', folder)  # not counted: prepares the data, and files come into memory
      pairs = []
      for repeat in range(FLAGS.repeats):
        cache = folder / f'cache_{repeat}'
        pairs.append((*start(name, cache, folder), *start(name, cache, folder)))
    figures = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f'{name:<16}{figures[0]:>16.1f}{figures[1]:>12.1f}{figures[2]:>16.1f}{figures[3]:>12.1f}', flush=True)
  return 0


if __name__ == '__main__':
  command_line.run(run)
