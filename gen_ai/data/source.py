"""Sources: random access to the examples of one split, the same from the device's memory and from the host's."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.data import order

IMAGE, LABEL, TOKENS, INDEX = 'image', 'label', 'tokens', 'index'
NONE = -1  # in place of a token, after the end of a text
_MOST_NUMBERED = np.iinfo(np.int32).max
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

  @property
  def evaluated(self) -> int:
    """Examples in an evaluation."""
    return len(self)

  @property
  def parts(self) -> Mapping[str, range]:
    """{name: examples of an evaluation whose figures are told beside those of all}."""
    return {}

  def planned(self, position: np.ndarray, seed: int) -> np.ndarray:
    """Indices to `gather` of what stands at `position` int64 [n], rising, in the endless sequence of training.

    It is the concatenation of the epochs' permutations.
    """
    example, epoch = order.shuffled(position, len(self), seed)
    return self.train_index(example, epoch, seed)

  @abc.abstractmethod
  def arrays(self) -> dict[str, np.ndarray]:
    """Everything, for a device to hold: {'image': uint8 [N, H, W, C], 'label': int32 [N]} or {'tokens': [n]}."""

  def train_index(self, example: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """int32 indices to `gather`, for examples int64 [...] of the given epochs int64 [...], where `planned` asks."""
    raise NotImplementedError(f'{type(self).__name__} has neither train_index nor an order (planned) of its own')

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
  moved back to end with the text. An evaluation cuts at 0, and each target of the text is predicted once: a last window
  that is not full holds `NONE` after the end of the text.

  Indices are int32, or int64 where the text has more tokens than int32 can number, which only the host reads.

  Raises:
    UserError: fewer tokens than one window.
  """

  def __init__(self, tokens: np.ndarray, block_size: int, name: str):
    if block_size < 1:
      raise UserError(f'data.block_size={block_size} must be at least 1 token.')
    if len(tokens) < block_size + 1:
      raise UserError(
        f'the {name} split holds {len(tokens)} tokens, fewer than a window of data.block_size + 1 = {block_size + 1}: '
        'lower data.block_size or give the split more text (data.split).'
      )
    self._tokens, self._name = tokens, name
    self.block_size = block_size
    self.nbytes = tokens.nbytes

  def __len__(self) -> int:
    return (len(self._tokens) - 1) // self.block_size

  @property
  def size(self) -> int:
    """Tokens."""
    return len(self._tokens)

  @property
  def evaluated(self) -> int:
    """Windows that hold all targets: one more than full ones, unless the text ends with a full one."""
    return -(-(len(self._tokens) - 1) // self.block_size)

  def arrays(self) -> dict[str, np.ndarray]:
    """{'tokens': uint8, uint16, uint32 or int32 [n]}, the narrowest type that holds the vocabulary.

    Raises:
      UserError: more tokens than int32 can number.
    """
    check_numbered(len(self._tokens), self.block_size, self._name)
    return {TOKENS: self._tokens}

  def train_index(self, example: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """First tokens of the blocks, moved by their epoch's offset."""
    epochs, which = np.unique(epoch, return_inverse=True)
    offsets = [order.offset(seed, int(e), self.block_size) for e in epochs]
    start = example * self.block_size + np.array(offsets)[which].reshape(np.shape(example))
    last, kind = len(self._tokens) - 1 - self.block_size, number_type(len(self._tokens), self.block_size)
    return np.minimum(start, last).astype(kind)

  def eval_index(self, example: np.ndarray) -> np.ndarray:
    """First tokens of the blocks."""
    return (example * self.block_size).astype(number_type(len(self._tokens), self.block_size))

  def gather(self, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """{'tokens': int32 [B, T + 1], 'index': int32 [B]}; the index is the number of a window's first token."""
    return windows(arrays[TOKENS], index, len(self._tokens), self.block_size)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """What `gather` returns."""
    return windows(self._tokens, np.asarray(index), len(self._tokens), self.block_size)


def windows(tokens: Any, index: Any, end: Any, block_size: int) -> dict[str, Any]:
  """The batch of the windows that begin at `index` [B]: {'tokens': int32 [B, T + 1], 'index': int32 [B]}. Traceable.

  Args:
    tokens: [n].
    index: numbers of first tokens; what does not fit into int32 is folded into it.
    end: of the text that they lie in, one or [B, 1]: `NONE` stands behind it.
    block_size: T.
  """
  place = index[:, None] + np.arange(block_size + 1, dtype=index.dtype)
  inside = place < end
  found = tokens[place * inside].astype(np.int32) * inside + NONE * ~inside
  return {TOKENS: found.astype(np.int32), INDEX: folded(index)}


def folded(index: Any) -> Any:
  """int32 [B] of an index of any type: a batch's addresses of noise."""
  return index if index.dtype == np.int32 else (index % (_MOST_NUMBERED + 1)).astype(np.int32)


def number_type(tokens: int, block_size: int) -> type[np.signedinteger]:
  """The type of indices into so many tokens, and of places in a last window, which may reach beyond them."""
  return np.int32 if tokens + block_size <= _MOST_NUMBERED else np.int64


def check_numbered(tokens: int, block_size: int, name: str) -> None:
  """Raises UserError where a device, which counts in int32, cannot number the tokens of split `name`: `number_type`."""
  if number_type(tokens, block_size) is not np.int32:
    raise UserError(
      f'the {name} split holds {tokens:,} tokens, more than int32 can number on a device: only training and evaluating '
      'by data.feed=host can read it.'
    )
