"""Images: stored as uint8 levels, drawn by networks in [-1, 1], shown as a grid in a PNG file."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data import images, mnist_5k, pictures, spread, store, tfds_source
from gen_ai.data.assemble import IMAGES, Dataset, from_examples
from gen_ai.data.kinds.base import DataKind, check_count, read_array
from gen_ai.data.source import IMAGE, ArrayExamples, ImageSource, Piece, Source
from gen_ai.maths.pixels import to_uint8

ROW = 8  # images beside each other where several kinds of them are shown


def _from_folder(config_data: Any) -> Dataset:
  path = config_data.name.removeprefix('folder:')
  found = images.folder(
    path,
    config_data.image_size,
    config_data.grey,
    config_data.on_bad_image,
    config_data.data_dir,
    config_data.background,
  )
  whole = from_examples(
    config_data.name,
    {'train': found.examples},
    config_data.split,
    len(found.class_names),
    location=path,
    class_names=found.class_names,
  )
  return whole._replace(notes=found.notes)


class _Images(DataKind):
  name = IMAGES
  unit = 'images'
  example = IMAGE
  endings = ('.png', '.npy')
  metrics = 'fd,kid,prdc'
  sheet = 'grid.png'
  sources = MappingProxyType({'folder': _from_folder})
  quick = MappingProxyType({spread.NAME: ''})
  fewest = spread.FEWEST

  def from_tfds(self, config_data: Any, prepared: Any) -> Dataset:
    size, grey, background = config_data.image_size, config_data.grey == 'true', config_data.background
    examples = tfds_source.load_images(prepared, size, grey, config_data.data_dir, background)
    ground = [] if background == 'none' else [background]  # without one it is the hash of runs that knew of none
    stand_in = repr([prepared.version, tfds_source.record(prepared), size, grey, *ground])
    classes, names = tfds_source.num_classes(prepared), tfds_source.class_names(prepared)
    about = prepared.version, prepared.location, names
    return from_examples(config_data.name, examples, config_data.split, classes, stand_in, *about)

  def made(self, config_data: Any) -> bool:
    """The digits that come with gen_ai are prepared by whoever asks for them first."""
    return config_data.name == mnist_5k.NAME and not mnist_5k.is_prepared(store.data_folder(config_data.data_dir))

  def foreseen(self, config_data: Any) -> tuple[Spec, Source] | None:
    """TFDS knows the shape of its images before they are prepared, and we that of our digits."""
    size, grey = config_data.image_size, config_data.grey == 'true'
    if config_data.name == mnist_5k.NAME:
      H, W, C = mnist_5k.SHAPE
      shape, names = (size or H, size or W, 1 if grey else C), tuple(map(str, range(mnist_5k.CLASSES)))
      classes = len(names)
    elif described := tfds_source.described(config_data.name):
      shape, names = tfds_source.image_shape(described, size, grey), tfds_source.class_names(described)
      classes = tfds_source.num_classes(described)
    else:
      return None
    examples = ArrayExamples(np.broadcast_to(np.uint8(0), (1, *shape)), np.zeros(1, np.int32) if classes else None)
    return Spec(IMAGES, shape, classes, None, names), ImageSource([Piece(examples, 0, 1)])

  def stored(self, x: Any) -> Any:
    return to_uint8(x)

  def levels(self, given: str, examples: np.ndarray) -> np.ndarray:
    """As `DataKind.levels`: uint8 stays, floats must show to lie in [-1, 1]."""
    return _levels(given, examples)

  def load(self, file: str, spec: Spec, n: int | None, flag: str) -> np.ndarray:
    """As `DataKind.load`: uint8 [N, H, W, C], or floats that show to lie in [-1, 1]; [N, H, W] is grey."""
    found = read_array(file, flag)
    if found.ndim == 3 and spec.image_shape[2] == 1:
      found = found[..., None]
    if found.shape[1:] != spec.shape or found.ndim < 2:
      raise UserError(
        f'--{flag}={file} holds {found.dtype} {list(found.shape)}; this data has samples uint8 '
        f'[N, {", ".join(map(str, spec.shape))}]. {_reshaped(found.shape, spec, flag)}'
      )
    check_count(file, flag, found, n)
    return self.levels(f'--{flag}={file}', np.asarray(found[:n]))

  def save(
    self, path: Path, spec: Spec, samples: np.ndarray, columns: int | None = None, rows: Sequence[str] = ()
  ) -> None:
    del spec
    if path.suffix == '.npy':
      np.save(path, samples)
    else:
      pictures.save_grid(path, samples, columns, rows)

  def hidden(self, examples: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, np.uint8(128), examples)

  def beside(self, parts: Sequence[np.ndarray], spec: Spec) -> tuple[np.ndarray, int | None]:
    """Rows of up to ROW images of the first kind above those of the second, and so on; what is missing is black."""
    n = len(parts[0])
    columns = min(ROW, n)
    padded = [np.pad(part, ((0, -n % columns), (0, 0), (0, 0), (0, 0))) for part in parts]
    lines = np.stack([part.reshape(-1, columns, *spec.shape) for part in padded], axis=1)
    return lines.reshape(-1, *spec.shape), columns

  def measured(self, samples: np.ndarray) -> dict[str, float]:
    return {spread.NAME: spread.of_images(samples)}

  def data_measured(self, source: Source) -> dict[str, float]:
    found = spread.of_source(source)
    return {} if found is None else {spread.NAME: found}


def _reshaped(shape: tuple[int, ...], spec: Spec, flag: str) -> str:
  """How to make samples x of `shape` what `spec` says, where that can be told."""
  H, W, C = spec.image_shape
  own = flag == 'samples_file'  # of which the data can be read to fit; a run has its own
  if shape[1:] == (C, H, W):
    return 'They are channels first: x.transpose(0, 2, 3, 1).'
  if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
    return 'They are channels first, x.transpose(0, 2, 3, 1), and of another size or number of channels.'
  if shape[1:] == (H, W, 3):
    return 'They are RGB and the data is grey: (x @ [0.299, 0.587, 0.114])[..., None], in the type of x.'
  if shape[1:] in ((H, W), (H, W, 1)):
    grey = ', or --config.data.grey=true makes the data grey' if own else ''
    return f'They are grey and the data has {C} channels: np.repeat(x.reshape(-1, {H}, {W}, 1), {C}, 3){grey}.'
  if shape[1:] == (H, W, 4):
    return 'They have an alpha channel: lay them over a background and save the colours alone.'
  if shape in ((H, W, C), (H, W), (H, W, C, 1)):
    return 'It is a single image: x[None].'
  size = ', or the data with --config.data.image_size' if own else ''
  return f'Resize them{size}.' if len(shape) == 4 and shape[3] == C else f'They must be {H}x{W}x{C} each.'


def _levels(given: str, samples: np.ndarray) -> np.ndarray:
  """Images as uint8 levels."""
  if samples.dtype == np.uint8:
    return samples
  whole = np.issubdtype(samples.dtype, np.integer)
  if not whole and not np.issubdtype(samples.dtype, np.floating):
    way = ': x.astype("uint8") * 255 if True is white' if samples.dtype == bool else ''
    raise UserError(f'{given} holds {samples.dtype}: images are uint8, or floats in [-1, 1]{way}.')
  bad = {'NaN': np.isnan(samples), 'infinite': np.isinf(samples)}
  found = {name: f'{flags.sum():,} {name}, first at {_place(flags)}' for name, flags in bad.items() if flags.any()}
  if found:
    raise UserError(
      f'{given} holds numbers that are none: {"; ".join(found.values())}. Mend these images or leave them out.'
    )
  low, high = (float(x) for x in (samples.min(), samples.max()))
  if whole:
    way = 'x.astype("uint8")' if low >= 0 and high <= 255 else 'scale them to [0, 255] first'
    raise UserError(
      f'{given} holds {samples.dtype} from {low:.0f} to {high:.0f}; images are uint8, or floats in [-1, 1]: {way}.'
    )
  if not (-1.01 <= low < -0.01 and high <= 1.01):
    way = 'scale them to [0, 255] first'
    if low >= 0:
      way = '(x * 255).round().astype("uint8") for x in [0, 1]' if high <= 1 else 'x.round().astype("uint8")'
    raise UserError(
      f'{given} holds floats from {low:.3g} to {high:.3g}, which are not clearly in [-1, 1]: save uint8 levels, {way}.'
    )
  return to_uint8(samples)


def _place(flags: np.ndarray) -> str:
  """Where the first of bool [...] is true: '[0,0,3,0]'."""
  return f'[{",".join(map(str, np.unravel_index(int(flags.argmax()), flags.shape)))}]'


KIND = _Images()
