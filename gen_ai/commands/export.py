"""A trained run as files that others read: python -m gen_ai.export RUN --out=DIR [--programs] [--batch=16].

A language model built like GPT-2 or Llama becomes a folder in Hugging Face's layout, with its tokenizer; its adapters
(LoRA) are added to its weights. The parameters of any other model keep their own names. --programs adds what the model
can do as programs of `jax.export`: one file a task, which needs neither this code nor the weights. README.md is a card
from the run's record.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from gen_ai import config as config_lib
from gen_ai.core import command_line, files, installation
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import PyTree, Task
from gen_ai.core.names import name_of
from gen_ai.core.text import number
from gen_ai.data.bpe import BpeVocab
from gen_ai.evaluate.trained import Trained
from gen_ai.run import directory, info, weight_files

FLAGS = flags.FLAGS
GIB = 2**30


def export(
  run_dir: str, out: str, step: str = 'latest', most_bytes: int = 5 * GIB, ema: float | None = None
) -> tuple[Trained, list[str]]:
  """Writes the weights, config.json and README.md of a run into the new folder `out`; `step`, `ema`: see `Trained`.

  Returns:
    (the run, names of the files).

  Raises:
    UserError: no such run or checkpoint, or the folder holds something or cannot be written.
  """
  folder = Path(out)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f'--out={out} holds something already: name a new folder.')
  run = Trained(run_dir, step, ema=ema)
  with files.disk_errors(folder / 'config.json', folder):
    folder.mkdir(parents=True, exist_ok=True)
    tensors, tree, layout = _tensors(run)
    written = weight_files.write(folder, tensors, most_bytes)
    files.write_atomic(folder / weight_files.CONFIG, json.dumps(tree, indent=2) + '\n')
    if isinstance(run.spec.vocab, BpeVocab):
      files.write_atomic(folder / 'tokenizer.json', run.spec.vocab.text)
      written.append('tokenizer.json')
    files.write_atomic(folder / 'README.md', card(run, layout))
  return run, [*written, weight_files.CONFIG, 'README.md']


def _leaves(params: PyTree) -> dict[str, Any]:
  return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _tensors(run: Trained) -> tuple[Iterator[tuple[str, np.ndarray]], dict[str, Any], str]:
  """(the tensors one at a time, config.json, what the layout is)."""
  method = config_lib.builder(run.config)(run.config, run.spec)
  layout, leaves = method.files, _leaves(run.params)
  if layout is not None:
    return layout.tensors(_leaves(method.merged(run.params))), dict(layout.config), layout.name
  tree = {'experiment': run.config.experiment, 'config': config_lib.to_json(run.config)}
  named = ((path.replace('/', '.'), np.ascontiguousarray(leaf)) for path, leaf in sorted(leaves.items()))
  return named, tree, 'parameters by their own names'


def card(run: Trained, layout: str) -> str:
  """README.md: what the model is, what it was trained on, how it was judged and how it is made again."""
  about = info.read(run.path)
  rows = [row for row in directory.read_metrics(run.path) if row['kind'] == 'eval' and row['step'] <= run.step]
  skipped = ('kind', 'step', 'attempt', 'seconds')
  figures = {name: value for name, value in rows[-1].items() if name not in skipped} if rows else {}
  words = about.config_file.reference or 'a config of its own'
  lines = [
    f'# {run.config.run.name}',
    '',
    f'A model of the family `{run.config.experiment}`, trained for {run.step:,} updates by gen_ai on '
    f'{about.data.name or "data that is not on record"}.',
    '',
    '| | |',
    '|---|---|',
    f'| parameters | {about.parameters or 0:,}, {"averaged" if run.averaged else "as trained"}'
    f'{f" with length {run.ema:g}" if run.ema else ""} |',
    f'| layout | {layout} |',
    f'| data | {about.data.name} {about.data.version}, sha256 {about.data.fingerprint[:12]}, {about.data.split_rule} |',
    f'| config | {words}, changed: {json.dumps(about.overrides)} |',
    f'| seed | {run.config.run.seed} |',
    f'| code | commit {about.git.commit or "unknown"}{", with changes" if about.git.dirty else ""} |',
    f'| made on | {", ".join(sorted(set(about.devices)))}, {about.created} |',
  ]
  if figures:
    protocol = about.evaluation
    split = protocol.split if protocol is not None else 'validation'
    lines += ['', f'## Figures after step {rows[-1]["step"]:,}, on the {split} part', '', '| | |', '|---|---|']
    lines += [f'| {name} | {number(value)} |' for name, value in figures.items() if isinstance(value, int | float)]
  return '\n'.join(lines) + '\n'


def programs(run: Trained, out: str, batch: int) -> list[str]:
  """Writes TASK.jax for every task that can be exported; returns lines on them.

  A program takes (seeds uint32 [batch], the inputs of the task by name) and returns what the task does.
  """
  from jax import export as jax_export

  if not importlib.util.find_spec('flatbuffers'):
    raise UserError(f'--programs needs the package flatbuffers: {installation.pip()}')
  lines = []
  for name, task in run.tasks.items():
    shapes = {
      given: jax.ShapeDtypeStruct((batch, *field.shape), np.float32 if field.shape else np.int32)
      for given, field in task.inputs.items()
      if field.required
    }
    if any(size is None for shape in shapes.values() for size in shape.shape):
      lines.append(f'{name}: left out, as its inputs have no fixed length')
      continue
    exported = jax_export.export(jax.jit(_program(task, run)))(jax.ShapeDtypeStruct((batch,), np.uint32), shapes)
    file = Path(out) / f'{name}.jax'
    with files.disk_errors(file, file.parent):
      files.write_atomic(file, bytes(exported.serialize()))
    lines.append(f'{name}: {file}, {file.stat().st_size / 2**20:.1f} MiB, for {", ".join(exported.platforms)}')
  return lines


def _program(task: Task, run: Trained) -> Callable[..., Any]:
  def fn(seeds: Any, inputs: Any) -> Any:
    return task.run(run.state, inputs, jax.vmap(jax.random.key)(seeds))

  return fn


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """The command."""
  if len(arguments) != 1:
    raise UserError(f'gen_ai.export takes one run directory (got {arguments or "none"}).')
  if overrides:
    raise UserError(f'gen_ai.export takes the run as it is: leave --config.{next(iter(overrides))} out.')
  if not FLAGS.out:
    raise UserError('gen_ai.export needs --out=DIR, a new folder.')
  run, written = export(arguments[0], FLAGS.out, FLAGS.step, int(FLAGS.shard_gb * GIB), FLAGS.ema)
  print(f'{FLAGS.out}: {", ".join(written)}')
  for line in programs(run, FLAGS.out, FLAGS.batch) if FLAGS.programs else []:
    print(f'  {line}')
  return DONE


if __name__ == '__main__':
  flags.DEFINE_string('out', '', 'the new folder')
  flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
  flags.DEFINE_float(
    'ema', None, 'length of the average of the parameters (config.optim.ema_lengths); the first if not given'
  )
  flags.DEFINE_float('shard_gb', 5.0, 'largest file of weights, in GiB', lower_bound=1e-6)
  flags.DEFINE_bool('programs', False, 'write the tasks as programs of jax.export, too')
  flags.DEFINE_integer('batch', 16, 'examples that such a program makes at once', lower_bound=1)
  command_line.run(main)
