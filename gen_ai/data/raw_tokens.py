"""Files of bare tokens as nanoGPT and llm.c write them: uint16 (uint32 above 65,536 tokens), little-endian.

llm.c puts a header of 256 int32 before them: a magic number that tells the type, a version, and how many tokens follow.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gen_ai.core import places
from gen_ai.core.errors import UserError
from gen_ai.data.bpe import BpeVocab
from gen_ai.data.token_directory import check_tokens

PREFIX = 'raw'
_HEADER = 256  # int32
_MAGIC = {20240520: '<u2', 20240801: '<u4'}
_AT_ONCE = 2**22  # tokens


def blocks(name: str, vocab: BpeVocab) -> Iterator[tuple[np.ndarray, int, int]]:
  """(tokens, documents that begin among them, bytes of their text) of 'raw:FILE', a few million tokens at a time.

  Raises:
    UserError: it cannot be read, was cut short, is of another type, or holds tokens that `vocab` does not have.
  """
  path = places.expand(name.partition(':')[2], PREFIX)
  tokens = _mapped(path, vocab.size)
  held = vocab.byte_counts().astype(np.int64)
  for start in range(0, len(tokens), _AT_ONCE):
    some = np.asarray(tokens[start : start + _AT_ONCE])
    check_tokens(some, vocab.size, path, start)
    documents = 0 if vocab.separator is None else int((some == vocab.separator).sum())
    yield some, documents, int(held[some].sum())


def _mapped(path: Path, size: int) -> np.ndarray:
  try:
    nbytes = path.stat().st_size
    with path.open('rb') as file:
      head = np.frombuffer(file.read(4 * _HEADER), '<i4') if nbytes >= 4 * _HEADER else np.zeros(3, np.int32)
  except OSError as error:
    raise UserError(f'cannot read {path}: {error.strerror}.') from error
  told = _MAGIC.get(int(head[0]), '')
  skipped = 4 * _HEADER if told else 0
  dtype: np.dtype = np.dtype(told or ('<u2' if size <= 2**16 else '<u4'))
  count, rest = divmod(nbytes - skipped, dtype.itemsize)
  if rest or not count or (skipped and count != int(head[2])):
    header = f', and its header tells of {int(head[2]):,}' if skipped else ''
    raise UserError(
      f'{path} holds {nbytes - skipped:,} bytes of tokens, {dtype.itemsize} each{header}: it is empty, cut short, or '
      'of another type.'
    )
  return np.memmap(path, dtype, 'r', offset=skipped)
