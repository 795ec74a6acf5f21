"""Data sets prepared by TensorFlow Datasets, read by random access without TensorFlow and without a network."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_ai.core import installation
from gen_ai.core.command_line import printed
from gen_ai.core.errors import NotPrepared, UserError
from gen_ai.core.text import did_you_mean
from gen_ai.data import images, mnist_5k, store, utf8
from gen_ai.data.source import ArrayExamples

OWN = (mnist_5k.NAME, 'python_stdlib')  # data sets of this project
DECODE_BYTES = 4 * 2**30  # larger data sets are decoded while training reads them


class Prepared(NamedTuple):
  """A data set that lies prepared on disk.

  Attributes:
    kind: 'image' or 'text'.
    image, label, text: names of the features; '' where there is none.
  """

  builder: Any
  kind: str
  image: str
  label: str
  text: str

  @property
  def version(self) -> str:
    """The version of the data, not of the code that would prepare it."""
    return str(self.builder.info.version)

  @property
  def location(self) -> str:
    """The folder of the prepared files."""
    return str(self.builder.data_path)

  @property
  def sizes(self) -> dict[str, int]:
    """{own split: number of examples}."""
    splits = self.builder.info.splits
    return {name: splits[name].num_examples for name in splits if splits[name].num_examples}


def import_tfds() -> Any:
  """The module, or UserError where it is not installed. It takes a second: only data sets that need it import it."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise UserError(f'this data set needs a package that is missing ({e}): {installation.pip()}') from e
  if not hasattr(tfds, 'core'):  # TFDS logs an import error of its own and carries on half loaded
    raise UserError(f'tensorflow-datasets fails to import, see its message above: {installation.pip()}')
  return tfds


def open_prepared(name: str, data_dir: str, manual_dir: str = '') -> Prepared:
  """Opens a prepared data set; never downloads.

  Args:
    name: a TFDS name, with '/config' and ':version' where wanted.
    data_dir, manual_dir: of `config.data`.

  Raises:
    NotPrepared: TFDS knows the data set, and it is not prepared.
    UserError: an unknown name, or a data set in a format without random access.
  """
  tfds = import_tfds()
  place = store.data_folder(data_dir)
  if name == mnist_5k.NAME:
    mnist_5k.prepare(place)
  # From files, not from code: the code of a data set may look for a network, or want another version.
  try:
    builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(place))
  except (tfds.core.registered.DatasetNotFoundError, ValueError) as e:
    check_name(name)
    raise NotPrepared(
      f'data set {name!r} is not prepared: looked for {place / name.replace(":", "/")}. Prepare it with\n'
      f'  {installation.pip("tfds")} && {prepare_command(name, data_dir, manual_dir)}'
    ) from e
  try:
    builder.as_data_source(split=next(iter(builder.info.splits)))
  except (NotImplementedError, ValueError) as e:
    raise UserError(
      f'data set {name!r} lies at {builder.data_path} in the format {builder.info.file_format.value!r}, which has no '
      f'random access. Prepare it again as array_record: remove that folder, or choose another data.data_dir, and run\n'
      f'  {installation.pip("tfds")} && {prepare_command(name, data_dir, manual_dir)}'
    ) from e
  return _find_features(name, builder, tfds)


def open_text(name: str, data_dir: str) -> Prepared:
  """The same of a data set of text. Raises UserError for one that holds none, too."""
  prepared = open_prepared(name, data_dir)
  if prepared.image:
    raise UserError(f'{name} does not hold text.')
  return prepared


def described(name: str) -> Prepared | None:
  """Images of a data set that is not prepared, as TFDS's code describes them; None where none does."""
  tfds = import_tfds()
  try:
    found = _find_features(name, tfds.builder(name, data_dir='/nowhere'), tfds)
  except (tfds.core.registered.DatasetNotFoundError, ImportError, ValueError, UserError):
    return None
  return found if found.image else None


def prepare_command(name: str, data_dir: str, manual_dir: str) -> str:
  """The command line that prepares data set `name`."""
  options = {flag: folder for flag, folder in (('data_dir', data_dir), ('manual_dir', manual_dir)) if folder}
  return printed('gen_ai.data.prepare', name, **options)


def check_name(name: str) -> None:
  """Raises UserError, with the nearest names, unless TFDS or this project knows data set `name`."""
  tfds = import_tfds()
  known = [*OWN, *tfds.list_builders(with_community_datasets=False)]
  base = name.split(':')[0].split('/')[0]
  if base not in known:
    hint = did_you_mean(base, known, 3, 0.5) or " Names are TFDS's, or folder:PATH, or text:GLOB."
    raise UserError(f'unknown data set {name!r}.{hint}')


def _find_features(name: str, builder: Any, tfds: Any) -> Prepared:
  features = dict(builder.info.features) if isinstance(builder.info.features, tfds.features.FeaturesDict) else {}

  def first(accepts: Any) -> str:
    return next((key for key, feature in features.items() if accepts(feature)), '')

  image = first(
    lambda f: (
      isinstance(f, (tfds.features.Image, tfds.features.Tensor))
      and len(f.shape) == 3
      and f.np_dtype == np.uint8
      and f.shape[-1] in (1, 3)
    )
  )
  label = first(lambda f: isinstance(f, tfds.features.ClassLabel))
  text = first(lambda f: isinstance(f, tfds.features.Text))
  if not image and not text:
    raise UserError(f'data set {name!r} has no uint8 image of 1 or 3 channels and no text; its features: {features}.')
  return Prepared(builder, 'image' if image else 'text', image, label if image else '', text)


class TfdsExamples:
  """Images of one own split, decoded at each read."""

  def __init__(self, prepared: Prepared, split: str, image_size: int, grey: bool, background: images.Levels | None):
    self._feature, self._label = prepared.image, prepared.label
    self._records = prepared.builder.as_data_source(split=split)
    self._fit = functools.partial(images.fit_array, size=image_size, grey=grey, background=background)
    self.shape = image_shape(prepared, image_size, grey)
    self.labelled = bool(prepared.label)

  def __len__(self) -> int:
    return len(self._records)

  def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 [n, H, W, C] and labels int32 [n] at index int [n]."""
    records = self._records.__getitems__([int(i) for i in index])
    image = np.stack([self._fit(record[self._feature]) for record in records])
    return image, np.array([record[self._label] for record in records], np.int32) if self.labelled else None


def image_shape(prepared: Prepared, image_size: int, grey: bool) -> tuple[int, int, int]:
  """(H, W, C) of the images fed; raises UserError where they differ in size and `image_size` is 0."""
  height, width, channels = prepared.builder.info.features[prepared.image].shape
  if image_size:
    height = width = image_size
  if height is None or width is None:
    raise UserError(f'the images of data set {prepared.builder.name!r} differ in size: set data.image_size.')
  return height, width, 1 if grey else channels


def class_names(prepared: Prepared) -> tuple[str, ...]:
  """Names by label; none without labels."""
  return tuple(prepared.builder.info.features[prepared.label].names) if prepared.label else ()


def num_classes(prepared: Prepared) -> int:
  """0: no labels."""
  return prepared.builder.info.features[prepared.label].num_classes if prepared.label else 0


def load_images(prepared: Prepared, image_size: int, grey: bool, data_dir: str, background: str) -> dict[str, Any]:
  """{own split: examples}: decoded, unless the data set is larger than `DECODE_BYTES`."""
  ground = images.levels(background)
  splits = {name: TfdsExamples(prepared, name, image_size, grey, ground) for name in prepared.sizes}
  nbytes = sum(len(examples) * int(np.prod(examples.shape)) for examples in splits.values())
  if nbytes > DECODE_BYTES:
    return splits
  name = prepared.builder.name
  place = store.data_folder(data_dir) / 'decoded'
  written = (Path(prepared.location) / 'dataset_info.json').stat().st_mtime_ns
  what = store.key(prepared.location, written, record(prepared), image_size, grey, background)
  return {
    split: _decoded(examples, place / f'{name}-{split}-{what}', nbytes >= store.FILE_BYTES)
    for split, examples in splits.items()
  }


def _decoded(examples: TfdsExamples, place: Path, to_file: bool) -> ArrayExamples:
  def read_rows(index: np.ndarray) -> store.Rows:
    image, label = examples.read(index)
    return store.Rows(image, np.full(len(index), -1) if label is None else label, {})

  decoded = store.decoded(read_rows, len(examples), examples.shape, place, to_file).examples
  return decoded if examples.labelled else ArrayExamples(decoded.image, None)


def record(prepared: Prepared) -> list[Any]:
  """What TFDS wrote down of the files: stands for their content where that is too large to read."""
  splits = prepared.builder.info.splits
  return [[name, splits[name].shard_lengths, splits[name].num_bytes] for name in sorted(prepared.sizes)]


def load_texts(prepared: Prepared) -> dict[str, list[str]]:
  """{own split: its documents}. Raises UserError for one that is not UTF-8, see `utf8.decoded`."""
  return {
    split: [
      utf8.decoded(utf8.encoded(record[prepared.text]), place(prepared.builder.name, split, number))[0]
      for number, record in enumerate(prepared.builder.as_data_source(split=split))
    ]
    for split in prepared.sizes
  }


def place(name: str, split: str, number: int) -> str:
  """What an example is called in messages."""
  return f'example {number:,} of {name}, {split},'
