"""Bits a byte of a text: by general compressors, and by a run of a language model."""

import lzma
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.data.kinds import text as text_kind
from gen_ai.data.text import cut
from gen_ai.run import directory

METRIC = 'bits_per_byte'


def xz(text: bytes) -> int:
  """Bytes that `xz -9` makes of a text."""
  return len(lzma.compress(text, preset=9))


def zstd(text: bytes) -> int:
  """Bytes that `zstd --ultra -22` makes of a text."""
  import zstandard

  return len(zstandard.ZstdCompressor(level=22, write_checksum=True).compress(text))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {'xz -9': xz, 'zstd --ultra -22': zstd}


def parts(config: ConfigDict) -> tuple[bytes, bytes]:
  """(training, validation) text of a config as UTF-8, its documents joined by line breaks.

  Raises:
    UserError: the data is not there, or no text.
  """
  found = text_kind.documents(config.data.name, config.data.data_dir)
  _, ranges = cut(found.texts, config.data.split)
  joined = {own: '\n'.join(documents) for own, documents in found.texts.items()}
  train, validation = (
    ''.join(joined[own][start:stop] for own, start, stop in ranges[name]).encode() for name in ('train', 'validation')
  )
  return train, validation


def bits_per_byte(size: Callable[[bytes], int], train: bytes, validation: bytes) -> tuple[float, float]:
  """(of the validation text alone, of it when the compressor has just read the training text).

  The second is what the training text costs less: it may look back into it, as a model has learned from it.
  """
  alone = size(validation)
  after = size(train + validation) - size(train)
  return alone * 8 / len(validation), after * 8 / len(validation)


def of_model(run_dir: Path) -> tuple[float, int]:
  """(bits a byte over the whole validation text, update) of the run's last evaluation.

  Raises:
    UserError: it has not been evaluated, or it is no language model.
  """
  rows = [row for row in directory.read_metrics(run_dir) if row['kind'] == 'eval']
  if not rows:
    raise UserError(f'{run_dir} has no evaluation yet: let it train to its first (config.run.eval_every).')
  if METRIC not in rows[-1]:
    raise UserError(f'{run_dir} is no language model: its evaluations have no {METRIC}.')
  return rows[-1][METRIC], rows[-1]['step']
