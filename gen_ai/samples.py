"""Samples as files that a person opens: a grid of images, or texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from gen_ai import pictures
from gen_ai.maths.pixels import to_uint8
from gen_ai.maths.sampling import looks_back
from gen_ai.record import disk_errors, write_atomic
from gen_ai.types import Spec


def prompt_note(config: ConfigDict, spec: Spec) -> str:
  """What to say of a prompt that is too long for the model to look back on all of it; '' where there is nothing."""
  if spec.kind != 'text' or 'prompt' not in config.sample:
    return ''
  assert spec.vocab is not None
  tokens, (context,) = len(spec.vocab.encode(config.sample.prompt)), spec.shape
  seen = looks_back(tokens, context)
  if seen == tokens:
    return ''
  return (f'the prompt has {tokens:,} tokens, too many for blocks of {context:,} (config.data.block_size): the texts '
          f'start with all of it, but the model goes on from its last {seen:,} tokens alone')  # fmt: skip


def texts(spec: Spec, tokens: np.ndarray) -> list[str]:
  """Strings of int [N, T] tokens."""
  assert spec.vocab is not None
  return [spec.vocab.decode(row) for row in np.asarray(tokens)]


def write(stem: Path, spec: Spec, samples: np.ndarray, columns: int | None = None, rows: Sequence[str] = ()) -> Path:
  """Writes `samples` to `stem`.png (images [N, H, W, C] in [-1, 1]) or `stem`.txt (tokens [N, T]); returns the path.

  `columns` and `rows` (names) are those of the grid.
  """
  if spec.kind == 'image':
    path = stem.with_name(f'{stem.name}.png')
    pictures.save_grid(path, to_uint8(np.asarray(samples)), columns, rows)
    return path
  path = stem.with_name(f'{stem.name}.txt')
  rule = '\n' + '-' * 40 + '\n'
  with disk_errors(path, path.parent.parent):
    write_atomic(path, rule.join(texts(spec, samples)) + '\n')
  return path
