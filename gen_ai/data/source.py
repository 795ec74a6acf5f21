"""Sources: random access to the examples of one split, the same from the device's memory and from the host's."""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from gen_ai.core.errors import UserError

IMAGE, LABEL, TOKENS, INDEX = 'image', 'label', 'tokens', 'index'
_READ_AT_ONCE = 1024  # examples one thread reads while a whole split is read


class Source(abc.ABC):
  """One split. Its examples are images, or text blocks of T tokens that do not overlap.

  Attributes:
    nbytes: bytes of `arrays()`.
  """

  nbytes: int

  @abc.abstractmethod
  def __len__(self) -> int:
    """Examples in an epoch."""

  @abc.abstractmethod
  def arrays(self) -> dict[str, np.ndarray]:
    """Everything, for a device to hold: {'image': uint8 [N, H, W, C], 'label': int32 [N]} or {'tokens': [n]}."""

  @abc.abstractmethod
  def train_index(self, example: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """int32 indices to `gather`, for examples int64 [...] of the given epochs int64 [...]."""

  @abc.abstractmethod
  def eval_index(self, example: np.ndarray) -> np.ndarray:
    """int32 indices to `gather`, for examples int64 [...] of an evaluation."""

  @abc.abstractmethod
  def gather(self, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """The batch at index int32 [B], out of `arrays()`. Traceable by JAX, and plain NumPy when given NumPy arrays."""

  @abc.abstractmethod
  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """The same batch read on the host, by random access; safe to call from several threads."""


class Examples(Protocol):
  """Random access to images of one shape, as they lie in memory or on disk."""

  shape: tuple[int, int, int]  # H, W, C
  labelled: bool

  def __len__(self) -> int: ...

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 [n, H, W, C] and int32 [n] labels (None: not labelled), for index int [n]."""


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
  """Images in memory, or mapped from a file."""

  image: np.ndarray  # uint8 [N, H, W, C]
  label: np.ndarray | None  # int32 [N]

  @property
  def shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.image.shape[1:]

  @property
  def labelled(self) -> bool:
    """Whether the images carry labels."""
    return self.label is not None

  def __len__(self) -> int:
    return self.image.shape[0]

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 [n, H, W, C] and labels int32 [n] at index int [n]."""
    return self.image[index], None if self.label is None else self.label[index]


class Piece(NamedTuple):
  """Examples [start, stop) of one of a source's own splits."""

  examples: Any  # Examples
  start: int
  stop: int


class ImageSource(Source):
  """Images: the concatenation of pieces of a data set's own splits."""

  def __init__(self, pieces: Sequence[Piece]):
    self._pieces = list(pieces)
    self._ends = np.cumsum([piece.stop - piece.start for piece in pieces])
    self.shape: tuple[int, int, int] = pieces[0].examples.shape
    self.labelled = all(piece.examples.labelled for piece in pieces)
    if any(piece.examples.shape != self.shape for piece in pieces):
      shapes = sorted({tuple(piece.examples.shape) for piece in pieces})
      raise UserError(f'the splits joined by data.split hold images of different shapes {shapes}: set data.image_size.')
    self.nbytes = len(self) * int(np.prod(self.shape)) + 4 * len(self) * self.labelled

  def __len__(self) -> int:
    return int(self._ends[-1])

  def arrays(self) -> dict[str, np.ndarray]:
    """{'image': uint8 [N, H, W, C]} and, if labelled, {'label': int32 [N]}. No copy for one piece in memory."""
    read = [read_range(*piece) for piece in self._pieces]
    images, labels = zip(*read, strict=True)
    join = (lambda x: x[0]) if len(read) == 1 else np.concatenate
    return {IMAGE: join(images)} | ({LABEL: join(labels)} if self.labelled else {})

  def train_index(self, example: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """The examples themselves."""
    return example.astype(np.int32)

  def eval_index(self, example: np.ndarray) -> np.ndarray:
    """The examples themselves."""
    return example.astype(np.int32)

  def gather(self, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """{'image': uint8 [B, H, W, C], 'label': int32 [B] if labelled, 'index': int32 [B]}."""
    return {name: array[index] for name, array in arrays.items()} | {INDEX: index}

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """What `gather` returns, read from where the images lie."""
    index = np.asarray(index, np.int32)
    image = np.empty((len(index), *self.shape), np.uint8)
    label = np.empty(len(index), np.int32)
    which = np.searchsorted(self._ends, index, side='right')
    for i in np.unique(which):
      piece, rows = self._pieces[i], which == i
      first = self._ends[i] - (piece.stop - piece.start)
      image[rows], labels = piece.examples.read(index[rows] - first + piece.start)
      if self.labelled:
        label[rows] = labels
    return {IMAGE: image} | ({LABEL: label} if self.labelled else {}) | {INDEX: index}


def read_range(examples: Any, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
  """Images uint8 [n, H, W, C] and labels int32 [n] (or None) of examples [start, stop): a view of those in memory."""
  if isinstance(examples, ArrayExamples):
    return examples.image[start:stop], None if examples.label is None else examples.label[start:stop]
  image = np.empty((stop - start, *examples.shape), np.uint8)
  label = np.empty(stop - start, np.int32)

  def fill(first: int) -> None:
    rows = slice(first, min(first + _READ_AT_ONCE, stop - start))
    image[rows], labels = examples.read(np.arange(start + rows.start, start + rows.stop))
    if labels is not None:
      label[rows] = labels

  with ThreadPoolExecutor() as pool:
    list(pool.map(fill, range(0, stop - start, _READ_AT_ONCE)))
  return image, label if examples.labelled else None


class TextSource(Source):
  """Text as one row of tokens, read in windows of T + 1: T inputs and, one to the right, their T targets.

  An epoch of training cuts the text at an offset drawn anew from [0, T), so all alignments are seen; the last window is
  moved back to end with the text. An evaluation cuts at 0, and each target is predicted once. It leaves out the
  targets of a last block that is not full, fewer than T.

  Raises:
    UserError: fewer tokens than one window, or more than int32 can number.
  """

  def __init__(self, tokens: np.ndarray, block_size: int, name: str):
    if block_size < 1:
      raise UserError(f'data.block_size={block_size} must be at least 1 token.')
    if len(tokens) < block_size + 1:
      raise UserError(
        f'the {name} split holds {len(tokens)} tokens, fewer than a window of data.block_size + 1 = {block_size + 1}: '
        'lower data.block_size or give the split more text (data.split).'
      )
    if len(tokens) > np.iinfo(np.int32).max:
      raise UserError(f'the {name} split holds {len(tokens)} tokens, more than int32 can number: split the text.')
    self._tokens = tokens
    self._block_size = block_size
    self.nbytes = tokens.nbytes

  def __len__(self) -> int:
    return (len(self._tokens) - 1) // self._block_size

  def arrays(self) -> dict[str, np.ndarray]:
    """{'tokens': uint8, uint16 or int32 [n]}, the narrowest type that holds the vocabulary."""
    return {TOKENS: self._tokens}

  def train_index(self, example: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """First tokens of the blocks, moved by their epoch's offset."""
    epochs, which = np.unique(epoch, return_inverse=True)
    offsets = [_offset(seed, int(e), self._block_size) for e in epochs]
    start = example * self._block_size + np.array(offsets)[which].reshape(np.shape(example))
    return np.minimum(start, len(self._tokens) - 1 - self._block_size).astype(np.int32)

  def eval_index(self, example: np.ndarray) -> np.ndarray:
    """First tokens of the blocks."""
    return (example * self._block_size).astype(np.int32)

  def gather(self, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """{'tokens': int32 [B, T + 1], 'index': int32 [B]}; the index is the number of a window's first token."""
    window = np.arange(self._block_size + 1, dtype=np.int32)
    return {TOKENS: arrays[TOKENS][index[:, None] + window].astype(np.int32), INDEX: index}

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """What `gather` returns."""
    return self.gather(self.arrays(), np.asarray(index, np.int32))


@functools.lru_cache(maxsize=4)
def _offset(seed: int, epoch: int, block_size: int) -> int:
  return int(np.random.Philox(np.random.SeedSequence([seed, epoch, 1])).random_raw()) % block_size
