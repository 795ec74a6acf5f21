"""Samples of a trained run: python -m gen_ai.sample RUN_DIR --n=64 [--out=grid.png | samples.npy] [--prompt="def "]."""

import sys
from pathlib import Path

import numpy as np
from absl import flags

from gen_ai import command, record, restored, samples
from gen_ai.config import LARGEST_SEED
from gen_ai.errors import UserError
from gen_ai.maths.pixels import to_uint8
from gen_ai.types import Spec

FLAGS = flags.FLAGS
flags.DEFINE_integer('n', 64, 'number of samples')
flags.DEFINE_string('out', '', 'grid.png, samples.npy (uint8 [N, H, W, C], or int32 tokens) or texts.txt')
flags.DEFINE_string('prompt', None, 'text that every sample starts with (language models)')
flags.DEFINE_integer('seed', None, "noise of the samples; the run's own fixed latents if not given", lower_bound=0,
                     upper_bound=LARGEST_SEED)  # fmt: skip
flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")


def check_ending(out: Path, kind: str) -> None:
  """Raises UserError for an ending that samples of this kind cannot have."""
  endings = ('.png', '.npy') if kind == 'image' else ('.txt', '.npy')
  if out.suffix not in endings:
    raise UserError(f'--out={out} must end in {" or ".join(endings)} for samples of {kind}s.')


def write(out: Path, spec: Spec, array: np.ndarray) -> None:
  """Writes samples to `out` by its ending. Raises UserError where that is not possible."""
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == '.npy':
      np.save(out, to_uint8(array) if spec.kind == 'image' else array.astype(np.int32))
    else:
      samples.write(out.with_suffix(''), spec, array)
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror}.') from error


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Draws, writes or prints."""
  run_dir = restored.one_argument(arguments, 'gen_ai.sample')
  if FLAGS.n < 1:
    raise UserError(f'--n={FLAGS.n} must be at least 1.')
  if 'sample.n' in overrides:
    raise UserError('config.sample.n is for the grids of training: here --n=N says how many samples are drawn.')
  if FLAGS.prompt is not None:
    if 'sample.prompt' in overrides:
      raise UserError('--prompt and config.sample.prompt say the same thing twice: leave one of them out.')
    if restored.recorded_spec(run_dir).kind != 'text':
      raise UserError(f'--prompt starts texts, but {run_dir} draws images.')
    overrides = {**overrides, 'sample.prompt': FLAGS.prompt}
  config = restored.open_config(run_dir, overrides, ('sample',))
  spec = restored.recorded_spec(run_dir)
  out = Path(FLAGS.out) if FLAGS.out else None
  if out is not None:
    check_ending(out, spec.kind)
    why = record.unwritable(out, parents=True)
    if why:
      raise UserError(f'--out={out} cannot be written: {why}.')
  note = samples.prompt_note(config, spec)
  if note:
    print(f'note: {note}.', file=sys.stderr)
  program, state, step = restored.restore(run_dir, config, spec, FLAGS.step)
  array = np.asarray(program.sampler(state, FLAGS.n, FLAGS.seed)(state))
  if out is None and spec.kind == 'text':
    print(f'\n{"-" * 40}\n'.join(samples.texts(spec, array)))
    return 0
  out = out or Path(f'samples_step_{step}.png')
  write(out, spec, array)
  print(f'{FLAGS.n} samples of step {step}: {out}')
  return 0


if __name__ == '__main__':
  command.run(main)
