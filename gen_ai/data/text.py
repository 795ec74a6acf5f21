"""Text: vocabularies, and where the texts come from."""

import glob
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.core import places
from gen_ai.core.errors import UserError
from gen_ai.data import bpe, splits, token_files, utf8
from gen_ai.data.source import TextSource

BPE = bpe.PREFIX
_LEFT_OUT = ('test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__')


class ByteVocab:
  """The 256 bytes of UTF-8."""

  size = 256
  separator: int | None = None
  dtype = np.uint8

  def encode(self, text: str) -> np.ndarray:
    """int32 [T]; raises UserError on a lone surrogate, which UTF-8 cannot hold."""
    return self.encode_compact(text).astype(np.int32)

  def encode_compact(self, text: str) -> np.ndarray:
    """The same tokens as uint8 [T]."""
    try:
      return np.frombuffer(text.encode(), np.uint8)
    except UnicodeEncodeError as e:
      raise UserError(f'the text holds {text[e.start]!r} at character {e.start}, which UTF-8 cannot hold.') from e

  def decode(self, tokens: Any) -> str:
    """Text of int [T]; bytes that are no UTF-8 become the replacement character."""
    return np.asarray(tokens).astype(np.uint8).tobytes().decode(errors='replace')

  def token_bytes(self) -> Sequence[bytes]:
    """Each byte."""
    return [bytes([byte]) for byte in range(self.size)]

  def byte_counts(self) -> np.ndarray:
    """float32 [256] of ones."""
    return np.ones(self.size, np.float32)


class CharVocab:
  """The distinct characters of a text, in code-point order."""

  separator: int | None = None

  def __init__(self, text: str):
    self._codes = np.unique(_code_points(text))
    self.size = len(self._codes)

  def encode(self, text: str) -> np.ndarray:
    """int32 [T]; raises UserError on a character outside the vocabulary."""
    return self.encode_compact(text).astype(np.int32)

  def encode_compact(self, text: str) -> np.ndarray:
    """The same tokens in the narrowest of uint8, uint16 and int32."""
    codes = _code_points(text)
    tokens = np.searchsorted(self._codes, codes)
    missing = np.flatnonzero(self._codes[np.minimum(tokens, self.size - 1)] != codes) if self.size else codes
    if len(missing):
      i = int(missing[0])
      raise UserError(
        f'character {text[i]!r} (number {i}) is not among the {self.size} characters of the training text: '
        "leave it out, or train with data.tokens='byte'."
      )
    return tokens.astype(np.uint8 if self.size <= 256 else np.uint16 if self.size <= 2**16 else np.int32)

  def decode(self, tokens: Any) -> str:
    """Text of int [T]."""
    return self._codes[np.asarray(tokens, np.int64)].astype('<u4').tobytes().decode('utf-32-le', 'surrogatepass')

  def token_bytes(self) -> Sequence[bytes]:
    """The 1 to 4 bytes of UTF-8 of each character."""
    return [chr(code).encode('utf-8', 'surrogatepass') for code in self._codes]

  def byte_counts(self) -> np.ndarray:
    """float32 [V]: 1 to 4 bytes of UTF-8 for each character."""
    bounds = np.array([0x80, 0x800, 0x10000])
    return (1 + np.searchsorted(bounds, self._codes, side='right')).astype(np.float32)


AnyVocab = ByteVocab | CharVocab | bpe.BpeVocab


def identity(vocab: AnyVocab) -> str:
  """What tells a vocabulary from others: the same tokens stand for other text under another one."""
  if isinstance(vocab, bpe.BpeVocab):
    return f'bpe {vocab.digest}'
  return f'char {vocab.decode(np.arange(vocab.size))}' if isinstance(vocab, CharVocab) else 'byte '


def _code_points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')


def make_vocab(tokens: str, texts: Mapping[str, str]) -> ByteVocab | CharVocab:
  """The vocabulary that `data.tokens` names; characters are those of all `texts`, {own split: text}.

  Raises:
    UserError: another name than 'byte' and 'char' ('bpe:' is for `bpe_vocab`).
  """
  if tokens == 'byte':
    return ByteVocab()
  if tokens == 'char':
    return CharVocab(''.join(texts.values()))
  raise UserError(f"data.tokens={tokens!r} is none of 'byte', 'char', 'bpe:SIZE' and 'bpe:FILE'.")


def bpe_vocab(tokens: str, documents: Sequence[str], kept: Path | None = None) -> bpe.BpeVocab:
  """The vocabulary of 'bpe:SIZE', learned from `documents`, or of 'bpe:FILE'.

  Args:
    tokens: `data.tokens`, which begins with 'bpe:'.
    documents: of the training part.
    kept: folder in which what was learned is kept, so that it is learned once; None: nowhere.

  Raises:
    UserError: no such tokenizer.
  """
  which = tokens.removeprefix(BPE)
  return token_files.learned(documents, int(which), kept) if bpe.is_size(tokens) else bpe.read(which)


def make_sources(
  texts: Mapping[str, Sequence[str]], rule: str, tokens: str, block_size: int, kept: Path | None = None
) -> tuple[dict[str, TextSource], str, AnyVocab]:
  """Cuts texts by characters and turns the parts into tokens.

  Parts are cut alike whatever the tokens are, so that bits a byte of two vocabularies are of the same text.

  Args:
    texts: {own split: documents}. A line break joins them, or a separator where the tokens have one.
    rule: `data.split`.
    tokens: 'byte', 'char', 'bpe:SIZE' (learned from the training part) or 'bpe:FILE'; the characters are those of all
      the texts.
    block_size: T, the context of the model.
    kept: folder for tokens that take long to make; None: they are made anew.

  Returns:
    ({'train', 'validation', 'test': source}, the resolved rule, the vocabulary).

  Raises:
    UserError: a bad rule, a part shorter than one window of T + 1 tokens, or no such tokens.
  """
  rule, ranges = cut(texts, rule)
  vocab: AnyVocab
  if tokens.startswith(BPE):
    parts = {name: pieces(texts, own) for name, own in ranges.items()}
    vocab = learned = bpe_vocab(tokens, parts['train'], kept)
    found = {name: token_files.encoded(learned, part, kept) for name, part in parts.items()}
  else:
    joined = {own: '\n'.join(documents) for own, documents in texts.items()}
    whole = {name: ''.join(joined[own][start:stop] for own, start, stop in cuts) for name, cuts in ranges.items()}
    vocab = plain = make_vocab(tokens, joined)
    found = {name: plain.encode_compact(text) for name, text in whole.items()}
  return {name: TextSource(row, block_size, name) for name, row in found.items()}, rule, vocab


def cut(texts: Mapping[str, Sequence[str]], rule: str) -> tuple[str, dict[str, list[splits.Range]]]:
  """(the resolved rule, {'train', 'validation', 'test': ranges of characters}) of {own split: documents}.

  Characters are counted as if a line break joined the documents of an own split. Raises UserError for a bad rule.
  """
  sizes = {own: sum(map(len, documents)) + max(0, len(documents) - 1) for own, documents in texts.items()}
  rule = splits.resolve(rule, sizes)
  return rule, splits.cut(rule, sizes)


def pieces(texts: Mapping[str, Sequence[str]], ranges: Sequence[splits.Range]) -> list[str]:
  """The documents, the first and last of a range perhaps in part, that lie in `ranges` of `cut`."""
  found = []
  for own, start, stop in ranges:
    first = 0
    for document in texts[own]:
      if first < stop and first + len(document) > start:
        found.append(document[max(0, start - first) : stop - first])
      first += len(document) + 1
  return found


def stdlib_documents() -> list[dict[str, str]]:
  """Those of `stdlib_files`, one {'path', 'text'} each. Raises UserError as well for one that is not UTF-8."""
  return [{'path': path, 'text': utf8.decoded(data, path)[0]} for path, data in stdlib_files()]


def stdlib_files() -> list[tuple[str, bytes]]:
  """The running interpreter's standard library, (path, what it holds) of each file in sorted order.

  Tests, installed packages and the build's own record of the machine (_sysconfigdata) are left out.

  Raises:
    UserError: the interpreter came without its sources.
  """
  root = Path(stdlib_location())
  paths = [path.relative_to(root) for path in root.rglob('*.py')]
  paths = [p for p in paths if not set(p.parts) & set(_LEFT_OUT) and not p.name.startswith('_sysconfigdata')]
  if not paths:
    raise UserError(f"data set 'python_stdlib': no .py files under {root}; use a Python that comes with its sources.")
  ordered = sorted(paths, key=lambda p: p.as_posix())
  return [(p.as_posix(), (root / p).read_bytes()) for p in ordered]


def stdlib_version() -> str:
  """The version of the text is that of the interpreter."""
  return platform.python_version()


def stdlib_location() -> str:
  """Where the interpreter keeps its standard library."""
  return sysconfig.get_path('stdlib')


def file_documents(pattern: str) -> list[dict[str, str]]:
  """The files that a path names or a glob matches, one {'path', 'text'} a file in sorted order, line ends as they are.

  In a glob '**' descends. What exists is taken literally, whatever characters it holds: the path, or else its leading
  folders.

  Raises:
    UserError: no file matches, one cannot be read or is not UTF-8, or there is no text in them.
  """
  paths = matching_files(pattern, f'text:{pattern}')
  documents = []
  for path in paths:
    try:
      data = path.read_bytes()
    except OSError as e:
      raise UserError(f'data set text:{pattern}: cannot read {path}: {e.strerror}.') from e
    start = len(utf8.MARK) * data.startswith(utf8.MARK)
    documents.append({'path': str(path), 'text': utf8.decoded(data[start:], str(path), start)[0]})
  if not any(document['text'] for document in documents):
    what = f'{paths[0]} is empty' if len(paths) == 1 else f'all {len(paths)} files are empty'
    raise UserError(f'data set text:{pattern}: {what}: there is nothing to train on.')
  return documents


def matching_files(pattern: str, name: str) -> list[Path]:
  """The files that a path names or a glob matches, sorted; see `file_documents`. `name` is that of the data set.

  Raises:
    UserError: no file matches.
  """
  kind = name.partition(':')[0]
  expanded = places.expand(pattern, f'config.data.name={kind}')
  matches = glob.glob(_literal(expanded), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
  paths = [Path(path) for path in sorted(matches) if Path(path).is_file()]
  if not paths and matches:
    raise UserError(f"data set {name} is a folder: '{kind}:{Path(pattern) / '**' / '*.txt'}' reads its text files.")
  if not paths:
    raise UserError(f'data set {name}: no file matches (looked from {Path.cwd()}).')
  return paths


def _literal(path: Path) -> str:
  """The glob that takes the parts of `path` literally, as far as they exist."""
  known = len(path.parts)
  while known and not _exists(Path(*path.parts[:known])):
    known -= 1
  return str(Path(*map(glob.escape, path.parts[:known]), *path.parts[known:]))


def _exists(path: Path) -> bool:
  try:
    return path.exists()
  except OSError:  # a folder that may not be entered, a name that is too long
    return False
