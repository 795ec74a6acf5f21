"""Texts as tokens in files that are mapped: written once (`gen_ai.data.tokenize`), trained on without being loaded.

A directory holds a file of tokens a part (little-endian, of the narrowest unsigned type), the tokenizer's file where
there is one, and INDEX: {'format', 'tokenizer': {'kind', 'file', 'sha256', 'size'}, 'dtype', 'parts': {part: {'file',
'tokens', 'documents', 'bytes', 'sha256'}}, 'split', 'data', 'notes'}. It appears under its name complete or not at all.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gen_ai.core import places, terminal
from gen_ai.core.errors import UserError
from gen_ai.core.files import dumps, sha256, write_atomic
from gen_ai.core.method import Spec
from gen_ai.data import splits, text
from gen_ai.data.assemble import TEXT, Dataset
from gen_ai.data.bpe import BpeVocab
from gen_ai.data.source import TextSource

INDEX = 'index.json'
TOKENIZER = 'tokenizer.json'
UNFINISHED = 'unfinished.json'
FORMAT = 1
_LOOKED_AT = 2**16  # tokens at either end of a file, which opening looks at
_AT_ONCE = 2**24  # bytes that are hashed at once
_FIELDS = ('file', 'tokens', 'documents', 'bytes', 'sha256')

FileVocab = text.ByteVocab | BpeVocab


class PartFile:
  """The file of one part while it is written; `with` closes it.

  Args:
    path: where.
    dtype: of the tokens.
    begun: what `about` said of it when it was last kept; what was written after that is dropped. None: it is new.

  Raises:
    UserError: it does not begin as it was kept.
  """

  def __init__(self, path: Path, dtype: Any, begun: Mapping[str, Any] | None = None):
    self.path, self._dtype, self._digest = path, np.dtype(dtype).newbyteorder('<'), hashlib.sha256()
    self.tokens, self.documents, self.nbytes = 0, 0, 0
    self._file: IO[bytes] = path.open('r+b' if begun else 'wb')
    if begun:
      self._go_on(begun)

  def _go_on(self, begun: Mapping[str, Any]) -> None:
    self.tokens, self.documents, self.nbytes = (begun[name] for name in ('tokens', 'documents', 'bytes'))
    left = self.tokens * self._dtype.itemsize
    while left and (data := self._file.read(min(left, _AT_ONCE))):
      self._digest.update(data)
      left -= len(data)
    if self._digest.hexdigest() != begun['sha256']:
      self._file.close()
      raise UserError(f'{self.path} is damaged: remove {self.path.parent}, so that it is made from the beginning.')
    self._file.truncate()

  def add(self, tokens: np.ndarray, documents: int, nbytes: int) -> None:
    """Appends `tokens`, among which so many `documents` begin, of so many bytes of UTF-8."""
    data = np.ascontiguousarray(tokens, self._dtype).data.cast('B')
    self._file.write(data)
    self._digest.update(data)
    self.tokens += len(tokens)
    self.documents += documents
    self.nbytes += nbytes

  def about(self) -> dict[str, Any]:
    """What INDEX holds of it, all of which is on the disk then."""
    self._file.flush()
    os.fsync(self._file.fileno())
    values = (self.path.name, self.tokens, self.documents, self.nbytes, self._digest.hexdigest())
    return dict(zip(_FIELDS, values, strict=True))

  def __enter__(self) -> 'PartFile':
    return self

  def __exit__(self, *error: Any) -> None:
    self._file.close()


class Unfinished:
  """The folder in which a directory is made, and what an earlier call that did not end has left there.

  Args:
    folder: of this call alone.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self._identity: dict[str, Any] = {}

  def resume(self, identity: dict[str, Any]) -> dict[str, Any]:
    """What `keep` wrote last, if that was of the same `identity`; else {}, and the folder is empty."""
    self._identity = identity
    try:
      held = json.loads((self.folder / UNFINISHED).read_text(encoding='utf-8'))
    except (OSError, ValueError):
      held = {}
    if held.get('identity') == json.loads(dumps(identity)):
      return dict(held['state'])
    if held:
      terminal.tell(f'{self.folder} was made by other settings, or the texts have changed: it begins again')
    for path in self.folder.iterdir():
      path.unlink()
    return {}

  def keep(self, state: dict[str, Any]) -> None:
    """Writes down how far it is, for the next call with this identity."""
    write_atomic(self.folder / UNFINISHED, dumps({'identity': self._identity, 'state': state}))

  @property
  def kept(self) -> bool:
    """Whether there is something for the next call."""
    return (self.folder / UNFINISHED).exists()


@contextlib.contextmanager
def making(out: str) -> Iterator[Unfinished]:
  """A folder to write into, which becomes `out` at the end. What does not end leaves what it kept, or nothing.

  Raises:
    UserError: `out` is there already, cannot be written, or another process is making it.
  """
  place = places.expand(out, '--out').absolute()
  if place.exists():
    raise UserError(f'--out={out} is there already: name another folder.')
  scratch = place.with_name(f'.{place.name}.unfinished')
  try:
    scratch.mkdir(exist_ok=True)
    lock = os.open(scratch, os.O_RDONLY)
  except OSError as error:
    raise UserError(f'--out={out}: cannot write into {place.parent}: {error.strerror}.') from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    os.close(lock)
    raise UserError(f'--out={out} is being made by another process.') from error
  unfinished = Unfinished(scratch)
  try:
    yield unfinished
    scratch.rename(place)
    (place / UNFINISHED).unlink(missing_ok=True)
  except OSError as error:
    raise UserError(f'cannot write {out}: {error.strerror or error}.') from error
  finally:
    if unfinished.kept:
      terminal.tell(f'what is done so far lies in {scratch}: the same command goes on from there')
    else:
      shutil.rmtree(scratch, ignore_errors=True)
    os.close(lock)


def write_index(
  folder: Path, vocab: FileVocab, parts: Mapping[str, PartFile], split: str, data: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
  """Ends a directory and returns what INDEX holds.

  Args:
    folder: of `making`.
    vocab: of the tokens.
    parts: {'train', 'validation', 'test': its file}; validation and test may share one.
    split: the rule by which documents came into parts.
    data: names of what they were read from.
    notes: what a person should know.
  """
  tokenizer: dict[str, Any] = {'kind': 'byte', 'file': '', 'sha256': '', 'size': vocab.size}
  if isinstance(vocab, BpeVocab):
    (folder / TOKENIZER).write_text(vocab.text, encoding='utf-8')
    tokenizer = {'kind': 'bpe', 'file': TOKENIZER, 'sha256': vocab.digest, 'size': vocab.size}
  index = {
    'format': FORMAT,
    'tokenizer': tokenizer,
    'dtype': np.dtype(vocab.dtype).name,
    'parts': {name: part.about() for name, part in parts.items()},
    'split': split,
    'data': list(data),
    'notes': list(notes),
  }
  (folder / INDEX).write_text(dumps(index, indent=1) + '\n', encoding='utf-8')
  return index


class MappedText(TextSource):
  """A part of a directory: as `TextSource`, and looks for tokens that are none of the vocabulary before they are fed.

  Raises:
    UserError: there are some.
  """

  def __init__(self, tokens: np.ndarray, block_size: int, name: str, vocab: FileVocab, path: Path):
    super().__init__(tokens, block_size, name)
    self._size, self._path = vocab.size, path

  def arrays(self) -> dict[str, np.ndarray]:
    """As `TextSource.arrays`, mapped."""
    found = super().arrays()
    for start in range(0, self.size, _AT_ONCE):
      check_tokens(self._tokens[start : start + _AT_ONCE], self._size, self._path, start)
    return found

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """As `TextSource.read`."""
    found = super().read(index)
    if found['tokens'].max(initial=0) >= self._size:
      row = int((found['tokens'] >= self._size).any(1).argmax())
      check_tokens(found['tokens'][row], self._size, self._path, int(index[row]))
    return found


def check_tokens(tokens: np.ndarray, size: int, path: Path, start: int) -> None:
  """Raises UserError, naming file and place, where one of `tokens`, which lie from `start` on, is not below `size`."""
  if int(tokens.max(initial=0)) >= size:
    at = int((tokens >= size).argmax())
    raise UserError(
      f'{path} holds token {int(tokens[at]):,} at place {start + at:,}, and its vocabulary has {size:,}: it is '
      'damaged, or of another tokenizer or type.'
    )


class TokenDirectory(NamedTuple):
  """A directory that was opened and found whole, as far as its sizes and its index tell.

  Attributes:
    path: of it.
    about: what INDEX holds.
    vocab: of its tokens.
  """

  path: Path
  about: dict[str, Any]
  vocab: FileVocab

  @property
  def fingerprint(self) -> str:
    """sha256 (hex) of what it holds, from the hashes in INDEX: nothing is read."""
    parts = self.about['parts']
    held = [[name, *(parts[name][field] for field in ('tokens', 'sha256'))] for name in splits.NAMES]
    return sha256(dumps([FORMAT, text.identity(self.vocab), self.about['dtype'], held]))

  def mapped(self, part: str) -> np.ndarray:
    """The tokens of a part, mapped from its file."""
    file = self.path / self.about['parts'][part]['file']
    return np.memmap(file, np.dtype(self.about['dtype']).newbyteorder('<'), 'r')

  def check(self) -> None:
    """Reads everything. Raises UserError where a file is not what was written, or holds tokens of no vocabulary."""
    for name, part in self.about['parts'].items():
      tokens, digest, file = self.mapped(name), hashlib.sha256(), self.path / part['file']
      for start in range(0, len(tokens), _AT_ONCE):
        some = np.ascontiguousarray(tokens[start : start + _AT_ONCE])
        check_tokens(some, self.vocab.size, file, start)
        digest.update(some.data.cast('B'))
      if digest.hexdigest() != part['sha256']:
        raise UserError(f'{file} is damaged: it does not hold what was written. Make {self.path} again.')


def opened(path: str, name: str = '--check') -> TokenDirectory:
  """The token directory at `path`; looks at the sizes of its files and at the ends of each.

  Args:
    path: of it.
    name: what named it, for messages.

  Raises:
    UserError: there is none, it is damaged, of a later version, or its tokens are of another tokenizer or type.
  """
  place = places.expand(path, name)
  index = _read_index(place, path)
  vocab = _vocab(place, index)
  found = TokenDirectory(place, index, vocab)
  itemsize = np.dtype(index['dtype']).itemsize
  for part in splits.NAMES:
    about = index['parts'][part]
    file = place / about['file']
    held = file.stat().st_size if file.is_file() else -1
    if held != about['tokens'] * itemsize:
      is_so = f'holds {held:,} bytes' if held >= 0 else 'is missing'
      raise UserError(
        f'{file} {is_so}, and {INDEX} tells of {about["tokens"]:,} tokens of {index["dtype"]}, '
        f'{about["tokens"] * itemsize:,} bytes: it was cut short or replaced. Make {place} again.'
      )
    tokens = found.mapped(part)
    check_tokens(tokens[:_LOOKED_AT], vocab.size, file, 0)
    last = max(0, len(tokens) - _LOOKED_AT)
    check_tokens(tokens[last:], vocab.size, file, last)
  return found


def _read_index(place: Path, path: str) -> dict[str, Any]:
  try:
    index = json.loads((place / INDEX).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    why = 'there is no such folder' if not place.is_dir() else f'{INDEX} cannot be read: {error}'
    raise UserError(
      f'tokens:{path} is no directory of tokens ({why}; looked from {Path.cwd()}): '
      '`python -m gen_ai.data.tokenize DATA --out=DIR` makes one.'
    ) from error
  later = isinstance(index, dict) and index.get('format', FORMAT) != FORMAT
  if later:
    raise UserError(
      f'{place / INDEX} is of format {index["format"]}, and this version reads {FORMAT}: update, or make it again.'
    )
  try:
    whole = all(set(_FIELDS) <= index['parts'][part].keys() for part in splits.NAMES)
    whole = (
      whole and index['dtype'] in ('uint8', 'uint16', 'uint32') and {'kind', 'sha256'} <= index['tokenizer'].keys()
    )
    whole = whole and 'split' in index
  except (KeyError, TypeError, AttributeError):
    whole = False
  if not whole:
    raise UserError(f'{place / INDEX} is damaged: it lacks what was written. Make {place} again.')
  return index


def _vocab(place: Path, index: Mapping[str, Any]) -> FileVocab:
  about = index['tokenizer']
  if about['kind'] != 'bpe':
    return text.ByteVocab()
  file = place / TOKENIZER
  try:
    held = file.read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {file}, the tokenizer of the tokens beside it: {error}.') from error
  if sha256(held) != about['sha256']:
    raise UserError(
      f'{file} is not the tokenizer that the tokens beside it were made by (sha256 {sha256(held)[:12]}, not '
      f'{about["sha256"][:12]}): put that one back.'
    )
  return BpeVocab(held, str(file))


def load(name: str, path: str, block_size: int) -> Dataset:
  """The data set 'tokens:PATH'.

  Raises:
    UserError: what `opened` raises, or a part shorter than a window.
  """
  found = opened(path, 'config.data.name=tokens')
  sources = {
    part: MappedText(found.mapped(part), block_size, part, found.vocab, found.path / found.about['parts'][part]['file'])
    for part in splits.NAMES
  }
  train, index = found.about['parts']['train'], found.about
  notes = [
    f'{train["tokens"]:,} tokens of training in {train["documents"]:,} documents, '
    f'{train["bytes"] / train["tokens"]:.2f} bytes each',
    *index['notes'],
  ]
  spec = Spec(TEXT, (block_size,), vocab=found.vocab)
  return Dataset(name, '', spec, dict(sources), index['split'], found.fingerprint, str(found.path), notes=tuple(notes))
