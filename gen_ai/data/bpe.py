"""Byte-level BPE: tokens that are common strings of bytes, learned from text or read from a tokenizer's file.

The algorithm is that of "Language Models are Unsupervised Multitask Learners" (2019), section 2.2, computed by the
package tokenizers, which is imported where it is used: whoever trains on bytes needs none.
"""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.core import installation, places
from gen_ai.core.errors import UserError

PREFIX = 'bpe:'  # how `data.tokens` begins that names byte-level BPE
SEPARATOR = '<|endoftext|>'  # the token between documents, as GPT-2 names it
FEWEST = 257  # tokens: the bytes and the separator
_AT_ONCE = 256  # documents that are encoded in parallel


class BpeVocab:
  """The tokens of a tokenizer's file; `separator` is the number of the token before every document.

  Args:
    text: of a file tokenizer.json of the package tokenizers.
    name: of the file, for messages.

  Raises:
    UserError: the package is missing, or the file is of another kind of tokenizer.
  """

  def __init__(self, text: str, name: str = 'the recorded tokenizer'):
    self.text = text
    self._tokenizer = _opened(text, name)
    # What stands in a text as '<|endoftext|>' is text: else whoever writes it could end a document.
    self._tokenizer.encode_special_tokens = True
    byte_of = {letter: byte for byte, letter in _letters().items()}
    special = {int(token['id']): str(token['content']) for token in json.loads(text)['added_tokens']}
    self.size = self._tokenizer.get_vocab_size()
    self._bytes = [b''] * self.size
    for token, number in self._tokenizer.get_vocab().items():
      if number >= self.size:
        raise UserError(f'{name} numbers its {self.size} tokens up to {number}: numbers are left out.')
      if number not in special:
        self._bytes[number] = bytes(byte_of[letter] for letter in token)
    lacking = set(range(256)) - {text[0] for text in self._bytes if len(text) == 1}
    if lacking:
      raise UserError(f'{name} has no token for the byte {min(lacking)}: it is no byte-level BPE tokenizer.')
    self.separator: int | None = next((number for number, content in special.items() if content == SEPARATOR), None)
    self.dtype = np.uint16 if self.size <= 2**16 else np.uint32

  @property
  def digest(self) -> str:
    """sha256 (hex) of the tokenizer's file."""
    return hashlib.sha256(self.text.encode()).hexdigest()

  def encode(self, text: str) -> np.ndarray:
    """int32 [T] of one text; the separator alone for ''."""
    if not text and self.separator is not None:
      return np.array([self.separator], np.int32)
    return self.encode_compact(text).astype(np.int32)

  def encode_compact(self, text: str) -> np.ndarray:
    """Tokens of one text, uint16 or uint32 [T]."""
    return np.array(self._encoded([text])[0], self.dtype)

  def encode_documents(self, documents: Sequence[str]) -> np.ndarray:
    """Tokens of documents one after another, uint16 or uint32 [n], each behind a separator."""
    return self.encode_pieces(documents, [True] * len(documents))

  def encode_pieces(self, pieces: Sequence[str], first: Sequence[bool]) -> np.ndarray:
    """The same of `pieces`, in parallel: behind a separator stand those that begin a document, by `first`."""
    begin = [] if self.separator is None else [self.separator]
    parts = [np.empty(0, self.dtype)]
    for start in range(0, len(pieces), _AT_ONCE):
      found = self._encoded(pieces[start : start + _AT_ONCE])
      for tokens, begins in zip(found, first[start : start + _AT_ONCE], strict=True):
        parts.append(np.array(begin + tokens if begins else tokens, self.dtype))
    return np.concatenate(parts)

  def _encoded(self, documents: Sequence[str]) -> list[list[int]]:
    for document in documents:
      try:
        document.encode()
      except UnicodeEncodeError as e:
        raise UserError(f'the text holds {document[e.start]!r} at character {e.start}, which UTF-8 cannot hold.') from e
    return [found.ids for found in self._tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)]

  def decode(self, tokens: Any) -> str:
    """Text of int [T]; bytes that are no UTF-8 become the replacement character, separators nothing."""
    return b''.join(self._bytes[int(token)] for token in np.asarray(tokens)).decode(errors='replace')

  def token_bytes(self) -> Sequence[bytes]:
    """The bytes of UTF-8 that each token stands for; none of a separator."""
    return self._bytes

  def byte_counts(self) -> np.ndarray:
    """float32 [V]: bytes of UTF-8 of each token; 0 of a separator."""
    return np.array([len(text) for text in self._bytes], np.float32)

  def packed(self) -> str:
    """The tokenizer's file in letters of ASCII, for a run's record; see `unpacked`."""
    return base64.b64encode(zlib.compress(self.text.encode(), 9)).decode()


class Unlearned:
  """Stands for the vocabulary of 'bpe:SIZE' before it is learned, where nothing but its size matters."""

  separator: int | None = 0

  def __init__(self, size: int):
    self.size = size

  def encode(self, text: str) -> np.ndarray:
    """int32 [T]: the bytes as tokens; the separator alone for ''."""
    return 1 + np.frombuffer(text.encode(), np.uint8).astype(np.int32) if text else np.zeros(1, np.int32)

  def decode(self, tokens: Any) -> str:
    """Nothing is known of the tokens: ''."""
    del tokens
    return ''

  def token_bytes(self) -> Sequence[bytes]:
    """One byte for each token: nothing is known of them."""
    return [b'?'] * self.size

  def byte_counts(self) -> np.ndarray:
    """float32 [V] of ones."""
    return np.ones(self.size, np.float32)


def is_size(tokens: str) -> bool:
  """Whether `data.tokens` is 'bpe:SIZE', a number of tokens to be learned."""
  return tokens.startswith(PREFIX) and tokens.removeprefix(PREFIX).isdecimal()


def unpacked(packed: str) -> BpeVocab:
  """The vocabulary that `BpeVocab.packed` wrote."""
  return BpeVocab(zlib.decompress(base64.b64decode(packed)).decode())


def read(path: str) -> BpeVocab:
  """The vocabulary of tokenizer.json at `path`, or of GPT-2's vocab.json and merges.txt in a folder.

  Raises:
    UserError: there is no such file, or it is of another kind of tokenizer.
  """
  place = places.expand(path, 'config.data.tokens=bpe')
  if place.is_dir() and (place / 'vocab.json').exists() and (place / 'merges.txt').exists():
    return BpeVocab(_of_gpt2(place), str(place))
  file = place / 'tokenizer.json' if place.is_dir() else place
  try:
    text = file.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    why = error.strerror if isinstance(error, OSError) else 'it is not UTF-8'
    raise UserError(
      f'data.tokens=bpe:{path}: cannot read {file}: {why}. `python -m gen_ai.data.tokenizer DATA --size=4096 '
      '--out=tokenizer.json` makes such a file, and data.tokens=bpe:4096 makes one of that size itself.'
    ) from error
  return BpeVocab(text, str(file))


def train(documents: Iterable[str], size: int) -> str:
  """Text of tokenizer.json with `size` tokens that are common in `documents`: the separator, the bytes, then others.

  Fewer where the documents are too short to hold so many. The same documents give the same tokens.

  Raises:
    UserError: the package is missing, or `size` is too small for all bytes.
  """
  if size < FEWEST:
    raise UserError(f'{size} tokens cannot hold the 256 bytes and a separator: ask for {FEWEST} or more.')
  tokenizers = _package()
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  _byte_level(made)
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=size,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=[SEPARATOR],
    show_progress=False,
  )
  made.train_from_iterator(documents, trainer)
  text: str = made.to_str()
  return text


def _of_gpt2(folder: Path) -> str:
  """The two files that GPT-2 came with as one tokenizer.json."""
  tokenizers = _package()
  try:
    made = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(folder / 'vocab.json'), str(folder / 'merges.txt')))
  except Exception as error:  # the package raises the bare class
    raise UserError(f'{folder}: vocab.json and merges.txt are no tokenizer of GPT-2: {error}') from error
  _byte_level(made)
  if made.token_to_id(SEPARATOR) is not None:
    made.add_special_tokens([SEPARATOR])
  text: str = made.to_str()
  return text


def _byte_level(tokenizer: Any) -> None:
  tokenizers = _package()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()


def _opened(text: str, name: str) -> Any:
  tokenizers = _package()
  try:
    tree = json.loads(text)
    kind = tree['model'].get('type', 'BPE')
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{name} is no tokenizer.json of the package tokenizers: {error!r}') from error
  splits = tree.get('pre_tokenizer') or {}
  level = [splits, *splits.get('pretokenizers', [])]
  if kind != 'BPE' or not any(part.get('type') == 'ByteLevel' for part in level):
    raise UserError(f'{name} is no byte-level BPE, whose tokens are strings of bytes: its model is {kind}.')
  if tree.get('normalizer') or any(part.get('add_prefix_space') for part in level):
    raise UserError(f'{name} changes the text before it cuts it into tokens: what it encodes is not what it decodes.')
  try:
    return tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # the package raises the bare class
    raise UserError(f'{name} is no tokenizer.json of the package tokenizers: {error}') from error


def _letters() -> dict[int, str]:
  """GPT-2's letter for each byte: the byte's own where Latin-1 shows one, else the next from number 256."""
  shown = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
  others = [byte for byte in range(256) if byte not in shown]
  return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _package() -> Any:
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'true')  # else it warns where a process forks later
  try:
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers
  except ImportError as error:
    raise UserError(f'data.tokens=bpe needs the package tokenizers: {installation.pip("bpe")}') from error
  return tokenizers
