"""The data that samples are held against: its features, kept between evaluations, and its hash."""

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from gen_ai.data import kinds
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import RESIDENT_BYTES
from gen_ai.data.store import data_folder
from gen_ai.evaluate.metrics import features
from gen_ai.evaluate.metrics.extractors import Extractor

FEATURES_FOLDER = 'features'  # of kept features, in the data folder


def split_hash(dataset: Dataset, split: str) -> str:
  """sha256 (hex) of what the split holds; of a set too large to be read, of its stand-in."""
  source = dataset.splits[split]
  if source.nbytes > RESIDENT_BYTES:
    return hashlib.sha256(f'{dataset.fingerprint} {split}'.encode()).hexdigest()
  digest = hashlib.sha256()
  for name, array in sorted(source.arrays().items()):
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


class References:
  """Features of the splits of a data set under one extractor, computed once and kept in the data folder."""

  def __init__(self, dataset: Dataset, extractor: Extractor, data_dir: str):
    self._dataset, self._extractor = dataset, extractor
    self._folder = data_folder(data_dir) / FEATURES_FOLDER
    self._found: dict[str, features.Features] = {}

  def __getitem__(self, split: str) -> features.Features:
    """Features of all images of a split."""
    if split not in self._found:
      about = {'split': split_hash(self._dataset, split), 'extractor': self._extractor.describe()}
      self._found[split] = features.cached(self._folder, about, partial(self._make, split))
    return self._found[split]

  def _make(self, split: str) -> features.Features:
    n, spread = len(self._dataset.splits[split]), features.Spread()
    size = spread.block(features.block_size(self._extractor))
    blocks = features.blocks_of(reader(self._dataset, split), n, size)
    return features.of_blocks(blocks, self._extractor, n, spread)


def reader(dataset: Dataset, split: str) -> Callable[[np.ndarray], np.ndarray]:
  """int [n] numbers -> the examples of a split [n, ...], as files hold them."""
  source, name = dataset.splits[split], kinds.of(dataset.spec).example
  return lambda index: source.read(source.eval_index(np.asarray(index)))[name]
