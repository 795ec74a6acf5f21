"""Texts too large for memory: their documents, read piece by piece.

A document is a file, what lies between two delimiters of a file, a field of a line of JSON, or an example of TFDS.
Files that end in .gz are unpacked while they are read.
"""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from gen_ai.core.errors import UserError
from gen_ai.core.files import dumps, sha256
from gen_ai.data import text, tfds_source, utf8

PIECE_BYTES = 2**20  # of a longer document so many are read, and become tokens, at once
_LINE_BYTES = 2**28  # the longest line of JSON
_RECORDS = 256  # examples of TFDS that are read at once


class Piece(NamedTuple):
  """A document, or a part of a long one.

  Attributes:
    text: at most `PIECE_BYTES` of UTF-8, whole characters; a long document is cut after line breaks where it has any.
    nbytes: of its UTF-8.
    first: whether it begins a document.
    place: of the document, in [0, 1), by the sha256 of its first piece: documents that are alike share it.
  """

  text: str
  nbytes: int
  first: bool
  place: float


class _Raw(NamedTuple):
  data: bytes
  first: bool
  where: str  # it was read from
  offset: int  # of its first byte there


@dataclasses.dataclass
class Seen:
  """What has been read so far: documents, those left out as blank, those with invalid UTF-8, bytes of all."""

  documents: int = 0
  empty: int = 0
  invalid: int = 0
  nbytes: int = 0


class Corpus(NamedTuple):
  """Documents that can be read again and again.

  Attributes:
    name: what the user calls it.
    nbytes: about how many it has; 0: unknown.
    version: another one where the texts have changed, as far as shows without reading them.
    read: their pieces as they lie there.
  """

  name: str
  nbytes: int
  version: str
  read: Callable[[], Iterator[_Raw]]

  def pieces(self, seen: Seen, replace: bool) -> Iterator[Piece]:
    """The pieces of all documents in order; counts them into `seen`.

    Raises:
      UserError: a file cannot be read, or a document is not UTF-8, see `utf8.decoded`.
    """
    place, invalid, begins = 0.0, False, False
    for raw in self.read():
      seen.nbytes += len(raw.data)
      begins |= raw.first
      if not raw.data.strip():
        seen.empty += raw.first
        if begins:
          continue
      if begins:
        seen.documents += 1
        place, invalid = int.from_bytes(hashlib.sha256(raw.data).digest()[:6]) / 2**48, False
      first, begins = begins, False
      found, mended = utf8.decoded(raw.data, raw.where, raw.offset, replace)
      seen.invalid += mended and not invalid
      invalid |= mended
      yield Piece(found, len(found.encode()) if mended else len(raw.data), first, place)


def opened(name: str, field: str = 'text', delimiter: str = '', data_dir: str = '') -> dict[str, Corpus]:
  """{own split: its documents} of a data set of text.

  Args:
    name: 'text:GLOB', 'jsonl:GLOB', 'python_stdlib' or a prepared data set of TFDS.
    field: of JSON lines, which holds the text.
    delimiter: that ends the documents of a file of text; '': a file is one.
    data_dir: as in `config.data`.

  Raises:
    UserError: there is no such data set, it is not prepared, or it does not hold text.
  """
  source, _, pattern = name.partition(':')
  if source in ('text', 'jsonl'):
    paths = text.matching_files(pattern, name)
    about = [(str(path), path.stat()) for path in paths]
    size = sum(stat.st_size for _, stat in about)
    version = sha256(dumps([[path, stat.st_size, stat.st_mtime_ns] for path, stat in about]))
    if source == 'jsonl':
      return {'train': Corpus(name, size, version, lambda: _of_json_lines(paths, field))}
    return {'train': Corpus(name, size, version, lambda: _of_files(paths, delimiter.encode()))}
  if name == 'python_stdlib':
    return {'train': Corpus(name, 0, text.stdlib_version(), lambda: _of_texts(text.stdlib_files()))}
  prepared = tfds_source.open_text(name, data_dir)
  return {own: _of_tfds(name, prepared, own) for own in prepared.sizes}


def _of_tfds(name: str, prepared: Any, own: str) -> Corpus:
  def read() -> Iterator[_Raw]:
    records = prepared.builder.as_data_source(split=own)
    for start in range(0, len(records), _RECORDS):
      numbers = range(start, min(start + _RECORDS, len(records)))
      for number, record in zip(numbers, records.__getitems__(list(numbers)), strict=True):
        yield from _cut(utf8.encoded(record[prepared.text]), tfds_source.place(name, own, number))

  size = int(prepared.builder.info.splits[own].num_bytes or 0)
  return Corpus(f'{name} {own}', size, dumps([prepared.version, tfds_source.record(prepared)]), read)


def _of_texts(texts: Iterable[tuple[str, bytes]]) -> Iterator[_Raw]:
  for where, data in texts:
    yield from _cut(data, where)


def _cut(document: bytes, where: str) -> Iterator[_Raw]:
  """A document in memory, in pieces."""
  start = 0
  while start < len(document) or not start:
    data = document[start : start + PIECE_BYTES]
    if start + PIECE_BYTES < len(document):
      data = data[: _whole(data)]
    yield _Raw(data, not start, where, start)
    start += len(data) or 1


def _whole(data: bytes) -> int:
  """How much of `data` to take: up to its last line break, or else whole characters."""
  line = data.rfind(b'\n') + 1
  if line:
    return line
  stop = len(data)
  while stop > len(data) - 4 and data[stop - 1] & 0xC0 == 0x80:
    stop -= 1
  return stop - 1 if data[stop - 1] & 0xC0 == 0xC0 else len(data)


def _of_files(paths: list[Path], delimiter: bytes) -> Iterator[_Raw]:
  for path in paths:
    with _reading(path) as file:
      yield from _between(file, delimiter, str(path))


def _between(file: IO[bytes], delimiter: bytes, where: str) -> Iterator[_Raw]:
  """The documents of a file, each ended by `delimiter` (b'': they are one), in pieces."""
  held, at, offset, ended, first = b'', 0, 0, False, True
  needed = PIECE_BYTES + len(delimiter)
  while True:
    if len(held) - at < needed and not ended:
      offset, held, at = offset + at, held[at:], 0
      while len(held) < 4 * needed and not ended:
        more = file.read(4 * needed)
        held, ended = held + more, not more
      if not offset and held.startswith(utf8.MARK):
        at = len(utf8.MARK)
    left = len(held) - at
    stop = held.find(delimiter, at, at + needed) if delimiter else -1
    if stop >= 0:
      yield _Raw(held[at:stop], first, where, offset + at)
      at, first = stop + len(delimiter), True
    elif left > PIECE_BYTES:
      size = _whole(held[at : at + PIECE_BYTES])
      yield _Raw(held[at : at + size], first, where, offset + at)
      at, first = at + size, False
    else:
      if left or not (delimiter and offset + at):  # what a delimiter ends begins no document after it
        yield _Raw(held[at:], first, where, offset + at)
      return


def _of_json_lines(paths: list[Path], field: str) -> Iterator[_Raw]:
  for path in paths:
    with _reading(path) as file:
      number = 0
      while line := file.readline(_LINE_BYTES):
        number += 1
        where = f'{path} line {number}'
        if len(line) == _LINE_BYTES:
          raise UserError(f'{where} is longer than {_LINE_BYTES:,} bytes: is it JSON lines, one document a line?')
        if line.strip():
          yield from _cut(utf8.encoded(_field(line, field, where)), where)


def _field(line: bytes, field: str, where: str) -> str:
  try:
    found = json.loads(line)
  except ValueError as error:  # UTF-8 that is invalid among them
    raise UserError(f'{where} is not JSON ({error}): one object a line is wanted.') from error
  held = found.get(field) if isinstance(found, dict) else None
  if not isinstance(held, str):
    names = f'it has {", ".join(found) or "none"}' if isinstance(found, dict) else 'it is no object'
    raise UserError(f'{where} has no text in a field {field!r} ({names}): name the field by --field=NAME.')
  return held


class _reading:
  """`with _reading(path) as file`: a file of bytes, unpacked if it ends in .gz; what fails names it."""

  def __init__(self, path: Path):
    self._path = path

  def __enter__(self) -> IO[bytes]:
    try:
      self._file: Any = gzip.open(self._path) if self._path.suffix == '.gz' else self._path.open('rb')  # noqa: SIM115
    except OSError as error:
      raise UserError(f'cannot read {self._path}: {error.strerror or error}.') from error
    return cast(IO[bytes], self._file)

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    self._file.close()
    if isinstance(error, OSError | EOFError):  # of gzip among them
      raise UserError(f'cannot read {self._path}: {getattr(error, "strerror", "") or error}.') from error
