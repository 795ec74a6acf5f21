"""Tokens a second of plain and of speculative decoding, by turns: python -m benchmarks.speculative.

Two language models are trained first, a large one and a draft (or --model=RUN --draft=RUN are taken), on one data set.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import DRAFT, DRAFT_BY, GENERATE
from gen_ai.evaluate import companion, restored
from gen_ai.evaluate.generation import CallInputs, Generation
from gen_ai.evaluate.trained import Trained

FLAGS = flags.FLAGS
flags.DEFINE_string('model', '', 'a run; trained here if not given')
flags.DEFINE_string('draft', '', 'a run with the same tokens; trained here if not given')
flags.DEFINE_integer('steps', 300, 'updates of the runs that are trained here', lower_bound=1)
flags.DEFINE_string('size', '8x256', 'layers x width of the model that is trained here')
flags.DEFINE_string('draft_size', '2x64', 'of the draft')
flags.DEFINE_list('draft_tokens', ['2', '4', '8'], 'drafted at once')
flags.DEFINE_list('temperatures', ['0', '0.8'], 'of sampling')
flags.DEFINE_list('batches', ['1', '16'], 'texts that are drawn at once')
flags.DEFINE_integer('length', 200, 'tokens of each text', lower_bound=1)
flags.DEFINE_string('prompt', 'def ', 'of all texts')
flags.DEFINE_integer('rounds', 5, 'timed calls of each side; the sides take turns', lower_bound=1)
flags.DEFINE_bool('tiny', False, "apply the config's tiny(): only to see that the benchmark works")
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = (
  f'{"temperature":>11}{"texts":>7}{"drafted":>9}{"tokens/s":>10}{"/ plain":>9}{"range":>15}'
  f'{"accepted":>10}{"a pass":>8}'
)


def train(size: str, run_dir: Path) -> str:
  """Trains configs/lm.py with layers x width; returns the directory. Raises UserError where that fails."""
  layers, _, width = size.partition('x')
  words = [f'--config.model.layers={layers}', f'--config.model.width={width}', f'--config.run.steps={FLAGS.steps}']
  command = [sys.executable, 'launch.py', '--config=configs/lm.py', *(['--tiny'] if FLAGS.tiny else words)]
  command += [f'--run_dir={run_dir}', '--config.run.trackers=']
  done = subprocess.run(command, cwd=config_lib.SOURCE, capture_output=True, text=True)
  if done.returncode != DONE:
    raise UserError(f'training of {size} ended with code {done.returncode}:\n{done.stderr[-500:]}')
  return str(run_dir)


def opened(run: str, settings: dict[str, Any]) -> Any:
  """(program, state) of the latest checkpoint of `run`, under `settings`."""
  config = restored.open_config(run, settings, ('sample',))
  return restored.restore(run, config, restored.recorded_spec(run), 'latest')[:2]


def measure(model: str, draft: str, temperature: float, batch: int) -> list[dict[str, Any]]:
  """A row for plain decoding and one for each number of drafted tokens."""
  companion.check(DRAFT_BY, GENERATE, restored.recorded(model), restored.recorded(draft))
  program, state = opened(model, {'sample.temperature': temperature, 'sample.length': FLAGS.length})
  assert program.spec.vocab is not None
  inputs = CallInputs({'prompt': np.asarray(program.spec.vocab.encode(FLAGS.prompt))[None]})
  counts = [0, *map(int, FLAGS.draft_tokens)]
  small = Trained(draft)
  drafts = [small.as_companion(DRAFT_BY, tokens=count) if count else None for count in counts]
  sides = [Generation(program, 0, GENERATE, inputs, one) for one in drafts]
  seconds: list[list[float]] = [[] for _ in sides]
  found: list[Any] = [None for _ in sides]
  for turn in range(FLAGS.rounds + 1):  # the first compiles
    for i, side in enumerate(sides):
      began = time.perf_counter()
      (found[i],) = side.outputs(state, np.arange(batch))
      if turn:
        seconds[i].append(time.perf_counter() - began)
  rows = []
  made = [int((outputs['sample'] >= 0).sum() - outputs['given'].sum()) for outputs in found]
  plain = [made[0] / each for each in seconds[0]]
  for count, outputs, tokens, times in zip(counts, found, made, seconds, strict=True):
    speeds = [tokens / each for each in times]
    ratios = [a / b for a, b in zip(speeds, plain, strict=True)]
    row = {'temperature': temperature, 'batch': batch, 'drafted': count, 'tokens_per_second': statistics.median(speeds)}
    row |= {'ratio': statistics.median(ratios), 'ratio_min': min(ratios), 'ratio_max': max(ratios)}
    if count:
      accepted, rejected, passes, _ = (int(outputs[name].sum()) for name in DRAFT)
      row |= {'accepted': accepted / max(accepted + rejected, 1), 'tokens_per_pass': tokens / passes}
    rows.append(row)
  return rows


def show(row: dict[str, Any]) -> str:
  """A row of the table."""
  span = f'{row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}'
  told = f'{row["accepted"]:>10.3f}{row["tokens_per_pass"]:>8.2f}' if row['drafted'] else ''
  drafted = row['drafted'] or 'plain'
  return (
    f'{row["temperature"]:>11}{row["batch"]:>7}{drafted:>9}{row["tokens_per_second"]:>10.0f}'
    f'{row["ratio"]:>9.2f}{span:>15}{told}'
  )


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark.")
  with tempfile.TemporaryDirectory() as folder:
    model = FLAGS.model or train(FLAGS.size, Path(folder) / 'model')
    draft = FLAGS.draft or train(FLAGS.draft_size, Path(folder) / 'draft')
    about = machine.facts()
    print(machine.describe(about))
    print(
      f'texts of {FLAGS.length} tokens, medians of {FLAGS.rounds} turns; accepted: share of the drafted tokens that'
    )
    print('the model looked at; a pass: tokens for each pass of the model')
    print(HEADER, flush=True)
    rows = []
    for temperature in map(float, FLAGS.temperatures):
      for batch in map(int, FLAGS.batches):
        for row in measure(model, draft, temperature, batch):
          rows.append(row)
          print(show(row), flush=True)
  if FLAGS.out:
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'rows': rows}, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  command_line.run(run)
