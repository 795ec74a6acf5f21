"""What a kind of data has to know. No JAX beyond arrays handed in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data.assemble import Dataset
from gen_ai.data.source import Source


class DataKind:
  """A kind of data; a module of `gen_ai.data.kinds` holds one instance of a subclass as KIND.

  Attributes:
    name: as `Spec.kind` has it.
    unit: what examples are called, in the plural.
    piece: what `dims` counts, in the plural, where speed is told in it.
    example: name of the array of examples in a batch, and of the input of tasks that take one.
    endings: of files that hold samples; the first is the one that a person opens.
    printed: whether samples are shown on the terminal where no file is named.
    between: what is shown between two of them there.
    sheet: name of a file of samples, in commands that are suggested.
    metrics: what samples of a file are judged by where the user names nothing.
    sources: {prefix of config.data.name: opens it}.
  """

  name = ''
  unit = 'examples'
  piece = ''
  example = ''
  endings: tuple[str, ...] = ('.npy',)
  printed = False
  between = ''
  sheet = 'samples.npy'
  metrics = ''
  sources: Mapping[str, Callable[[Any], Dataset]] = MappingProxyType({})

  def from_tfds(self, config_data: Any, prepared: Any) -> Dataset:
    """The data set `prepared` of TFDS. Raises UserError where this kind of data is not read from there."""
    del config_data
    raise UserError(f'{prepared.name} of TFDS does not hold {self.unit} that can be read.')

  def made(self, config_data: Any) -> bool:
    """Whether opening the data set would make something first: prepared files, a tokenizer.

    Raises UserError, like opening it, where that shows already that it cannot be.
    """
    del config_data
    return False

  def foreseen(self, config_data: Any) -> tuple[Spec, Source] | None:
    """What the data of `config.data` will be like and a source of examples like it, all of them 0.

    For a plan of what is not prepared. None where the data must be opened to know.
    """
    del config_data
    return None

  def counted(self, spec: Spec) -> str:
    """What the number of examples counts: 'images'."""
    del spec
    return self.unit

  def form(self, spec: Spec) -> str:
    """What one example is like, for the protocol of an evaluation: 'images 28x28x1'."""
    return f'{self.unit} {"x".join(map(str, spec.shape))}'

  def dims(self, spec: Spec) -> int:
    """Numbers in an example, over which bits per dimension are taken."""
    return int(np.prod(spec.shape))

  def stored(self, x: Any) -> Any:
    """What a method draws [B, ...] as files and metrics hold it; traceable."""
    return x

  def levels(self, given: str, examples: np.ndarray) -> np.ndarray:
    """Examples [N, ...] that a user gives, as `stored` has them. `given` names them in messages.

    Raises:
      UserError: they cannot be examples: of another type or range.
    """
    del given
    return examples

  def facts(self, spec: Spec) -> dict[str, Any]:
    """What `spec_of` needs besides kind, shape and number of classes; JSON types."""
    del spec
    return {}

  def spec_of(self, tree: Mapping[str, Any]) -> Spec:
    """The spec that run.json holds: {'kind', 'shape', 'num_classes', and `facts`}."""
    return Spec(self.name, tuple(tree['shape']), tree['num_classes'])

  def load(self, file: str, spec: Spec, n: int | None, flag: str) -> np.ndarray:
    """The first `n` examples (all, if None) of a .npy file, as `stored` has them.

    Args:
      file: its path.
      spec: what examples are to be like.
      n: how many.
      flag: that named the file, for messages.

    Raises:
      UserError: no such file, another shape or range, or fewer than `n`.
    """
    found = read_array(file, flag)
    if found.shape[1:] != spec.shape:
      raise UserError(
        f'--{flag}={file} holds {found.dtype} {list(found.shape)}; this data has {self.unit} '
        f'[N, {", ".join(map(str, spec.shape))}].'
      )
    check_count(file, flag, found, n)
    return np.asarray(found[:n])

  def save(
    self, path: Path, spec: Spec, samples: np.ndarray, columns: int | None = None, rows: Sequence[str] = ()
  ) -> None:
    """Writes `samples` [N, ...], as `stored` has them, by the ending of `path`.

    Args:
      path: its ending is one of `endings`.
      spec: of the data.
      samples: to write.
      columns: of a picture.
      rows: names of its rows.

    Raises:
      OSError, UserError: it cannot be written.
    """
    del spec, columns, rows
    np.save(path, samples)

  def shown(self, spec: Spec, samples: np.ndarray) -> str:
    """`samples` as text for a terminal; '' where they are for a file."""
    del spec, samples
    return ''

  def settled(self, spec: Spec, sample: np.ndarray) -> str:
    """Of one sample that is still being made, the part of `shown` that no more of it will change."""
    del spec, sample
    return ''

  def hidden(self, examples: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Examples as they are shown to a person where `mask`, float32, is not 0: hidden."""
    del mask
    return examples

  def beside(self, parts: Sequence[np.ndarray], spec: Spec) -> tuple[np.ndarray, int | None]:
    """Examples [N, ...] of several kinds (given, drawn, original) in an order that shows them together, and columns."""
    del spec
    return np.stack(parts, 1).reshape(-1, *parts[0].shape[1:]), len(parts)

  # Figures that cost next to nothing and that every evaluation tells of the samples it shows.

  quick: Mapping[str, str] = MappingProxyType({})  # {name: 'min' | 'max' | '', the way that is better}
  fewest = 2  # samples that they need

  def measured(self, samples: np.ndarray) -> dict[str, float]:
    """The figures of `quick` of `samples` [N, ...], as `stored` has them."""
    del samples
    return {}

  def data_measured(self, source: Source) -> dict[str, float]:
    """The same of the examples of a split, which those of samples are read beside, where they have any."""
    del source
    return {}


def read_array(file: str, flag: str) -> np.ndarray:
  """The array of a .npy file, mapped. Raises UserError where there is none."""
  try:
    with Path(file).open('rb') as start:
      archive = start.read(2) == b'PK'  # .npz, of which NumPy would leave a torn one open
    found = None if archive else np.load(file, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f'--{flag}={file} cannot be read as a NumPy array (.npy): {error}') from error
  if not isinstance(found, np.ndarray) or not found.size:
    raise UserError(f'--{flag}={file} holds nothing: it must be one NumPy array, saved by np.save (.npy).')
  return found


def check_count(file: str, flag: str, found: np.ndarray, n: int | None) -> None:
  """Raises UserError where a file holds fewer than the `n` samples that were asked for."""
  if n is not None and len(found) < n:
    raise UserError(
      f'--{flag}={file} holds {len(found):,} samples, fewer than --samples={n:,}. Figures of '
      'unlike numbers of samples do not compare: bring more, or ask for fewer on all sides.'
    )
