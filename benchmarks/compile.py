"""Seconds to compile training of 4, 12 and 48 layers, by turns: python -m benchmarks.compile.

Layers are one scan, so that depth costs nothing: the slowest must be within 20% of the fastest. Judged are CPU seconds
of all threads, which other programs on the machine hardly disturb.
"""

import statistics
import time

from absl import flags

from benchmarks import machine
from gen_ai import config as config_lib
from gen_ai.core import command_line, lowering
from gen_ai.core.errors import DONE, FAILED, UserError

FLAGS = flags.FLAGS
flags.DEFINE_string('config', 'configs/gpt2_124m.py', 'a language model')
flags.DEFINE_list('layers', ['4', '12', '48'], 'depths')
flags.DEFINE_string(
  'platform', 'gpu', 'for which the program is written: on a cpu four layers are a turn of the scan, on others one'
)
flags.DEFINE_integer('rounds', 3, 'of all depths', lower_bound=1)
flags.DEFINE_bool('tiny', False, "apply the config's tiny(): only to see that the benchmark works")

BOUND = 1.2


def seconds(layers: int) -> tuple[float, float]:
  """(CPU seconds, seconds) to trace, lower and compile the chunk of training, from shapes alone."""
  import jax

  from gen_ai.parallel.layouts import make_layout
  from gen_ai.parallel.program import Program
  from gen_ai.train import plan

  jax.clear_caches()
  config = config_lib.load(FLAGS.config)
  config = config_lib.override(config, config_lib.tiny(FLAGS.config)) if FLAGS.tiny else config
  one = {'data.batch_size': 1, 'optim.accumulate': 1, 'mesh.fsdp': 1, 'model.layers': layers}
  config = config_lib.override(config, one)
  spec, source, note = plan.data(config)
  program = Program(config, config_lib.builder(config), spec, make_layout(config, jax.devices()[:1]))
  feed, rows = plan.feed(config, program, source, known=not note)
  start, worked = time.perf_counter(), time.process_time()
  with lowering.planned_for(FLAGS.platform):
    program.stage(feed, rows)[0].lowered.compile()
  return time.process_time() - worked, time.perf_counter() - start


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark.")
  depths = [int(word) for word in FLAGS.layers]
  print(machine.describe(machine.facts()))
  seconds(depths[0])  # not counted: the first compilation of a process brings the compiler into memory
  taken: dict[int, list[tuple[float, float]]] = {depth: [] for depth in depths}
  for _ in range(FLAGS.rounds):
    for depth in depths:
      taken[depth].append(seconds(depth))
  medians = {}
  print(f'{"layers":>6}{"CPU s":>8}{"range":>16}{"s":>8}')
  for depth, times in taken.items():
    worked, waited = zip(*times, strict=True)
    medians[depth] = statistics.median(worked)
    span = f'{min(worked):.1f} to {max(worked):.1f}'
    print(f'{depth:>6}{medians[depth]:>8.1f}{span:>16}{statistics.median(waited):>8.1f}')
  ratio = max(medians.values()) / min(medians.values())
  print(f'{"PASS" if ratio <= BOUND else "FAIL"}: slowest over fastest {ratio:.2f}, bound {BOUND}')
  return DONE if ratio <= BOUND else FAILED


if __name__ == '__main__':
  command_line.run(run)
