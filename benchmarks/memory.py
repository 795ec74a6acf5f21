"""Memory a device under data parallelism and under fsdp, from compiled programs: python -m benchmarks.memory.

The acceptance of fsdp: arguments and temporaries of 8 devices at most 1/8 + 15% of data parallel's, for GPT-2's 124M
parameters at one sequence a device with rematerialisation. Nothing is trained; `--plan` says the same of any config.
"""

import os
import subprocess
import sys

from absl import flags

from benchmarks import machine
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.train import plan_process

FLAGS = flags.FLAGS
flags.DEFINE_string('config', 'configs/gpt2_124m.py', 'a config with a table of shardings')
flags.DEFINE_integer('devices', 8, 'fake devices, over which fsdp splits', lower_bound=2)

BOUND = 0.15  # beyond the even share


def measure() -> int:
  """On fake devices: prints both sides and their ratio; returns the exit code."""
  from gen_ai.train import plan

  print(machine.describe(machine.facts(), timed=False))
  print(f'{"precision":<11}{"fsdp":>5}{"arguments, MB":>15}{"temporaries, MB":>17}{"sent, MB":>10}')
  worst = 0.0
  for precision in ('bf16', 'fp32'):
    totals = []
    for fsdp in (1, FLAGS.devices):
      fields = {'mesh.fsdp': fsdp, 'precision': precision, 'model.remat': 'full', 'optim.accumulate': 1}
      sizes = {'data.batch_size': FLAGS.devices, 'eval.batch_size': FLAGS.devices}
      found = plan.make(config_lib.override(config_lib.load(FLAGS.config), fields | sizes), 'gpu')
      sent = sum(one.sent for one in found.collectives)
      columns = (found.arguments, found.temporaries, sent)
      print(
        f'{precision:<11}{fsdp:>5}' + ''.join(f'{x / 1e6:>{w}.1f}' for x, w in zip(columns, (15, 17, 10), strict=True))
      )
      totals.append(found.total)
    print(f'{precision:<11}ratio {totals[1] / totals[0]:.3f}', flush=True)
    worst = max(worst, totals[1] / totals[0])
  bound = 1 / FLAGS.devices + BOUND
  print(f'{"PASS" if worst <= bound else "FAIL"}: {worst:.3f}, bound {bound:.3f}')
  return DONE if worst <= bound else FAILED


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Starts this command again with fake devices."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark.")
  count = f'{plan_process.COUNT}={FLAGS.devices}'
  if count in os.environ.get('XLA_FLAGS', '').split():
    return measure()
  words = [sys.executable, '-m', 'benchmarks.memory', *sys.argv[1:]]
  return subprocess.run(words, env={**os.environ, 'XLA_FLAGS': count, 'JAX_PLATFORMS': 'cpu'}, check=False).returncode


if __name__ == '__main__':
  command_line.run(run)
