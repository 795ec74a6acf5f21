"""What a trained run can do: python -m gen_ai.generate RUN_DIR [--task=complete] [--n=64] [--label=3] [--out=grid.png].

Inputs of a task: --label=circle (name or number), --prompt="def ", --image=x.npy, --mask=half, --latent=z.npy, and any
other by --input=NAME=VALUE or --input=NAME=FILE.npy. What is repeated gives sample i the i-th, and round again.

Text: --stream shows it while it is made, --interactive asks for prompts, --draft=RUN lets a small run draft for it.
Diffusion: --guide=RUN[@STEP] --config.sample.autoguidance=1.0 moves samples away from what a smaller or earlier run
says.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from gen_ai.commands import _prompts
from gen_ai.config import LARGEST_SEED
from gen_ai.core import command_line, files
from gen_ai.core.errors import UserError
from gen_ai.core.method import DRAFT, DRAFT_BY, EXAMPLE, GENERATE, GUIDE_BY, MASK, PROMPT, SAMPLE, Task
from gen_ai.core.text import did_you_mean
from gen_ai.data import kinds
from gen_ai.evaluate import companion, restored, streaming
from gen_ai.evaluate.generation import check_inputs
from gen_ai.evaluate.trained import Trained, at_step
from gen_ai.maths import masks
from gen_ai.run import directory

FLAGS = flags.FLAGS
GIVEN = 64  # samples
EXAMPLES = 16  # test examples, where a task needs some and none are given


def define_flags() -> None:
  """Defines the flags; the short names of this command call it, too."""
  flags.DEFINE_string('task', '', 'what the model is to do; the first of its tasks if not given, which draws samples')
  flags.DEFINE_integer('n', None, 'how many; 64, or as many as the inputs are if not given', lower_bound=1)
  flags.DEFINE_string(
    'out',
    '',
    'grid.png, samples.npy (uint8 [N, H, W, C], or int32 tokens), texts.txt, or all.npz, '
    'which holds everything that the task returns',
  )
  flags.DEFINE_multi_string('label', [], 'class of the samples, by name or number; repeat it for several')
  flags.DEFINE_multi_string(
    'prompt', [], 'text that samples start with, or that says what images show; repeat it for several'
  )
  flags.DEFINE_string(
    'image',
    '',
    '.npy file of images: uint8 [N, H, W, C], or floats in [-1, 1]; where a task needs '
    'some and none are given, test images of the data of the run',
  )
  flags.DEFINE_alias('images', 'image')
  flags.DEFINE_string(
    'mask',
    '',
    '.npy file, not 0 where a pixel is hidden: [H, W] for all images, or [N, H, W]; or '
    'box, half or centre; masks as in training if not given',
  )
  flags.DEFINE_string('latent', '', '.npy file of latents: float [N, Z]')
  flags.DEFINE_multi_string('input', [], 'NAME=VALUE or NAME=FILE.npy, of any other input of the task')
  flags.DEFINE_integer(
    'seed',
    None,
    "noise of the samples; that of the run's evaluations if not given",
    lower_bound=0,
    upper_bound=LARGEST_SEED,
  )
  flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
  flags.DEFINE_float(
    'ema',
    None,
    'length of the average of the parameters, of a run that tracked some (config.optim.ema_lengths); the first of them '
    'if not given',
  )
  flags.DEFINE_bool(
    'stream', None, 'show texts while they are made, one after the other; if not given, one text on a terminal is'
  )
  flags.DEFINE_bool('interactive', False, 'ask for prompts and stream a text for each, until Ctrl-D')
  flags.DEFINE_string(
    'draft',
    '',
    'RUN_DIR or RUN_DIR@STEP of a small model with the same tokens: it drafts, and this run takes what it would have '
    'drawn itself, in fewer passes',
  )
  flags.DEFINE_integer('draft_tokens', 4, 'tokens that --draft drafts at once', lower_bound=1, upper_bound=64)
  flags.DEFINE_string(
    'guide',
    '',
    'RUN_DIR or RUN_DIR@STEP of a smaller or earlier model: samples move away from what it says by '
    'config.sample.autoguidance',
  )


def _given() -> dict[str, Any]:
  """The inputs that this command line gives, by name, as text."""
  found: dict[str, Any] = {name: FLAGS[name].value for name in ('label', 'prompt', 'image', 'mask', 'latent')}
  found = {name: value for name, value in found.items() if value}
  for text in FLAGS.input:
    name, equals, value = text.partition('=')
    if not equals or not name:
      raise UserError(f'--input={text} must be NAME=VALUE or NAME=FILE.npy.')
    if name in found:
      raise UserError(f"the input '{name}' is given twice: leave one of them out.")
    found[name] = value
  return found


def _read(run_dir: str, task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
  """The inputs with what lies in files read. Raises UserError for a file that is not what the task takes."""
  spec, found = restored.recorded_spec(run_dir), dict(given)
  by_name = {text.partition('=')[0] for text in FLAGS.input}
  for name, value in given.items():
    field, flag = task.inputs[name], f'input={name}' if name in by_name else name
    if field.what == EXAMPLE:
      found[name] = kinds.of(spec).load(value, spec, None, flag)
    elif field.what == MASK and value not in masks.KINDS:
      found[name] = read_mask(value, flag, field.shape)
    elif isinstance(value, str) and field.what not in (MASK, PROMPT):
      found[name] = _numbers(value, flag) if field.shape or value.endswith('.npy') else value
  return found


def read_mask(value: str, flag: str, shape: tuple[int | None, ...]) -> np.ndarray:
  """A mask [N, H, W, 1] from a file. Raises UserError for a file that is no mask of these images."""
  try:
    mask = kinds.base.read_array(value, flag)
  except UserError as error:
    raise UserError(f'{error} It is none of {", ".join(masks.KINDS)} either.') from error
  H, W, _ = shape
  if mask.shape == (H, W):
    return np.asarray(mask)[None, ..., None]
  if mask.ndim in (3, 4) and mask.shape[1:] in ((H, W), (H, W, 1)):
    return np.asarray(mask).reshape(-1, H, W, 1)  # type: ignore[arg-type]
  raise UserError(
    f'--{flag}={value} has the shape {list(mask.shape)}: for images of {H}x{W} it must be [{H}, {W}] or [N, {H}, {W}].'
  )


def _numbers(value: str, flag: str) -> np.ndarray:
  if value.endswith('.npy'):
    return np.asarray(kinds.base.read_array(value, flag))
  try:
    numbers = [float(part) for part in value.split(',')]
    whole = all(one.is_integer() and abs(one) < 2**31 for one in numbers)
    return np.asarray(numbers, np.int32 if whole else np.float32)
  except ValueError:
    raise UserError(f'--{flag}={value} is neither a .npy file nor numbers with commas between them.') from None


def _check_out(out: Path, kind: Any, task: Task) -> None:
  """Raises UserError for a file that the task's outputs cannot be written to."""
  endings = (*kind.endings, '.npz') if task.draws else ('.npz', *(('.npy',) if len(task.outputs) == 1 else ()))
  if out.suffix not in endings:
    raise UserError(f'--out={out} must end in {", ".join(endings[:-1])} or {endings[-1]}.')
  why = files.unwritable(out, parents=True)
  if why:
    raise UserError(f'--out={out} cannot be written: {why}.')


def write(
  out: Path, trained: Trained, task: Task, outputs: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes what the task returned to `out` by its ending; a picture shows what it was given beside what it drew.

  Raises:
    UserError: that is not possible.
  """
  kind = kinds.of(trained.spec)
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == '.npz':
      np.savez(out, **dict(outputs))  # type: ignore[arg-type]
    elif SAMPLE not in outputs:
      np.save(out, next(iter(outputs.values())))
    else:
      samples, columns, given = outputs[SAMPLE], None, [name for name in arrays if task.inputs[name].what == EXAMPLE]
      if given and out.suffix != '.npy':
        original = np.resize(arrays[given[0]], samples.shape)
        parts = [original, samples]
        if 'mask' in outputs:
          parts = [kind.hidden(original, outputs['mask']), samples, original]
        samples, columns = kind.beside(parts, trained.spec)
      kind.save(out, trained.spec, samples, columns)
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror}.') from error


def _chosen(run_dir: str, tasks: Mapping[str, Task], task: str, drawing: bool) -> str:
  """The name of the task that is wanted. Raises UserError where the run has none such."""
  has = f'it can {", ".join(tasks)}' if tasks else 'it has no tasks'
  name = FLAGS.task or task or next((name for name, one in tasks.items() if one.draws or not drawing), '')
  if not name:
    raise UserError(f'{run_dir} draws no samples: {has} (python -m gen_ai.generate --task=NAME).')
  if name not in tasks:
    near = did_you_mean(name, tasks, cutoff=0.6)
    raise UserError(f"{run_dir} has no task '{name}'.{near} {has[0].upper()}{has[1:]}.")
  return name


def _tell_draft(outputs: Mapping[str, np.ndarray]) -> None:
  """Says how good a draft was, where there was one."""
  if not set(DRAFT) <= outputs.keys():
    return
  accepted, rejected, passes, made = (int(outputs[name].sum()) for name in DRAFT)
  looked = accepted + rejected
  print(
    f'draft: {accepted:,} of {looked:,} tokens that the model looked at were accepted '
    f'({100 * accepted / max(looked, 1):.1f} %); {made / max(passes, 1):.2f} tokens a pass of the model.',
    file=sys.stderr,
  )


def _opened(run_dir: str, name: str, overrides: Mapping[str, Any]) -> Trained:
  """The run, with the one that helps it. Raises UserError where either cannot be opened or they do not fit."""
  for way, reference in {DRAFT_BY: FLAGS.draft, GUIDE_BY: FLAGS.guide}.items():
    if reference:
      other = restored.recorded(directory.split_step(reference)[0])
      companion.check(way, name, restored.recorded(run_dir), other)
  trained = Trained(run_dir, FLAGS.step, overrides, FLAGS.ema)
  if FLAGS.draft:
    return trained.drafted_by(at_step(FLAGS.draft), FLAGS.draft_tokens)
  return trained.guided_by(at_step(FLAGS.guide)) if FLAGS.guide else trained


def _refuse_idle() -> None:
  """Raises UserError for flags that nothing would read."""
  now = [f'--{name}' for name in ('draft', 'stream', 'interactive') if FLAGS[name].value]
  command_line.refuse_idle({'draft_tokens': ('--draft',)}, now, 'a call without one')
  for shown in ('stream', 'interactive'):
    given = [name for name in ('out', 'n', 'prompt', 'stream') if FLAGS[name].value and name != shown]
    wrong = [name for name in given if shown == 'interactive' or name == 'out']
    if FLAGS[shown].value and wrong:
      raise UserError(f'--{shown} shows texts as they are made: leave --{wrong[0]} out.')


def _print_streamed(trained: Trained, name: str, n: int, seed: int, arrays: Mapping[str, np.ndarray], rule: str):
  """Prints `n` texts while they are made; returns their outputs, {name: [n, ...]} of those that tell of a draft."""
  drawing, told = trained.streaming(name), []
  for number in range(n):
    print(rule if number else '', end='')
    for text in drawing.text(trained.state, seed, number, arrays):
      print(text, end='', flush=True)
    told.append(drawing.outputs)
  print()
  return {one: np.concatenate([outputs[one] for outputs in told]) for one in DRAFT if one in told[0]}


def main(
  arguments: list[str],
  overrides: dict[str, str],
  task: str = '',
  drawing: bool = False,
  module: str = 'gen_ai.generate',
) -> int:
  """Runs the task, writes or prints what it returns.

  Args:
    arguments: the run directory.
    overrides: of the task's settings.
    task: where --task names none; '' takes the first of the run's.
    drawing: whether that must draw samples.
    module: that was called, for messages.
  """
  run_dir = restored.one_argument(arguments, module)
  if 'sample.n' in overrides:
    raise UserError('config.sample.n is for the grids of training: here --n=N says how many samples are drawn.')
  if 'sample.prompt' in overrides:
    raise UserError('config.sample.prompt starts the texts of training: here --prompt=TEXT starts them.')
  _refuse_idle()
  tasks = restored.tasks(run_dir)
  name = _chosen(run_dir, tasks, task, drawing)
  found, given = tasks[name], _given()
  needed = [one for one, field in found.inputs.items() if field.required and field.what == EXAMPLE and one not in given]
  check_inputs(name, found, {**given, **dict.fromkeys(needed)})
  kind, out = kinds.of(restored.recorded_spec(run_dir)), Path(FLAGS.out) if FLAGS.out else None
  if out is not None:
    _check_out(out, kind, found)
  if FLAGS.stream or FLAGS.interactive:
    streaming.check(name, found, restored.recorded_spec(run_dir))
  inputs = _read(run_dir, found, given)
  trained = _opened(run_dir, name, overrides)
  seed = trained.config.eval.seed if FLAGS.seed is None else FLAGS.seed
  if FLAGS.interactive:
    return _prompts.ask(trained, name, seed, inputs)
  for one in needed:
    inputs[one] = trained.examples(FLAGS.n or EXAMPLES)
  arrays = trained.inputs(name, FLAGS.n, seed, **inputs)
  examples = [len(arrays[one]) for one in arrays if found.inputs[one].what == EXAMPLE]
  usual = 1 if FLAGS.stream else GIVEN
  n = FLAGS.n or max(examples or [len(array) for array in arrays.values() if len(array) > 1], default=usual)
  n = min([n, *examples])
  if trained.note:
    print(f'note: {trained.note}.', file=sys.stderr)
  on_terminal = out is None and n == 1 and kind.printed and found.stream is not None and sys.stdout.isatty()
  if FLAGS.stream or (FLAGS.stream is None and on_terminal):
    _tell_draft(_print_streamed(trained, name, n, seed, arrays, kind.between))
    return 0
  outputs = trained.outputs(name, n, seed, arrays)
  _tell_draft(outputs)
  shown = kind.shown(trained.spec, outputs[SAMPLE]) if found.draws else ''
  if out is None and shown:
    print(shown)
    return 0
  what = 'samples' if name == GENERATE else name
  out = out or Path(f'{what}_step_{trained.step}{kind.endings[0] if found.draws else ".npz"}')
  write(out, trained, found, outputs, arrays)
  print(f'{n} {"samples" if found.draws else "outputs"} of step {trained.step}: {out}')
  return 0


if __name__ == '__main__':
  define_flags()
  command_line.run(main)
