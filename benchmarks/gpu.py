"""The language model on one GPU, in under nine minutes: python -m benchmarks.gpu [--text=FILE] [--out=report.json].

Every part is a process of its own with a share of the time: one that fails or hangs is reported, and the others go on.
"""

import json
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.gpu_processes import PARTS, limits, measured, platform
from gen_ai.core import command_line, text
from gen_ai.core.errors import DONE, FAILED, UserError

FLAGS = flags.FLAGS
flags.DEFINE_list('parts', list(PARTS), 'what to measure')
flags.DEFINE_float('minutes', 8.5, 'for all parts together', lower_bound=0.0)
flags.DEFINE_integer('batch_size', 32, 'blocks of 1,024 tokens in an update of GPT-2; fewer where memory is short')
flags.DEFINE_string('text', '', 'a file with the text of Tiny Shakespeare; empty: the prepared data set')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the configs say')
flags.DEFINE_bool('tiny', False, 'tiny sizes, and a CPU will do: only to see that the benchmark works')
flags.DEFINE_string('out', '', 'also write the report here, as JSON')


def asked() -> list[str]:
  """What --parts names, in our order. Raises UserError for an unknown name."""
  for name in FLAGS.parts:
    if name not in PARTS:
      raise UserError(f"--parts: '{name}' is none of {', '.join(PARTS)}.{text.did_you_mean(name, list(PARTS))}")
  return [name for name in PARTS if name in FLAGS.parts]


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to report: 0 where every part ended and every target was met."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: its settings are part of it.")
  chosen, found, verdicts = asked(), {}, []
  job: dict[str, Any] = {name: getattr(FLAGS, name) for name in ('tiny', 'batch_size', 'data_dir')}
  job['text'] = str(Path(FLAGS.text).expanduser().resolve()) if FLAGS.text else ''
  if job['text'] and not Path(job['text']).is_file():
    raise UserError(f'--text={FLAGS.text}: there is no such file.')
  if not FLAGS.tiny and platform() != 'gpu':
    raise UserError(f"JAX finds no GPU here, but '{platform()}'; --tiny shows on a CPU that the benchmark works.")
  end = time.perf_counter() + FLAGS.minutes * 60
  for part in chosen:
    limit = limits(max(end - time.perf_counter(), 0.0), part, chosen)
    found[part] = one = measured(part, job, limit)
    if part == 'matmul':
      job['rate'] = one['found'].get('flops_per_second')
    lines, passed = PARTS[part].lines(one['found']) if one['found'] else ([], False)
    verdicts.append(passed is not False and not one['error'])
    told = f'; {one["error"]}' if one['error'] else ''
    print(f'{part}, {one["seconds"]:.0f} s{told}', *(f'  {line}' for line in lines), sep='\n', flush=True)
  if FLAGS.out:
    Path(FLAGS.out).write_text(json.dumps({'settings': job, 'parts': found}, indent=1) + '\n')
  return DONE if all(verdicts) else FAILED


if __name__ == '__main__':
  command_line.run(run)
