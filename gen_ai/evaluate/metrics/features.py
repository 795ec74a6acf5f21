"""Features of images: computed on all devices, with streamed moments; those of a data set are kept on disk.

Images are never gathered: a block of them is read, or drawn, where its features are computed, and only those stay.
"""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gen_ai.evaluate.metrics import moments
from gen_ai.evaluate.metrics.extractors import Extractor

BLOCK = 256  # images whose features are computed at once, unless the extractor wants fewer


class Features(NamedTuple):
  """Features of N images under one extractor.

  Attributes:
    values: float32 [N, D].
    logits: float32 [N, classes]; None where the extractor has none.
    mean: float64 [D].
    cov: float64 [D, D], unbiased.
    labels: int32 [N], of samples the class that each was asked to show; None where their task does not tell.
  """

  values: np.ndarray
  logits: np.ndarray | None
  mean: np.ndarray
  cov: np.ndarray
  labels: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.values)


class Spread:
  """Blocks of rows split over all local devices.

  Args:
    devices: JAX's local ones by default.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    self.devices = list(jax.local_devices() if devices is None else devices)
    self.mesh = Mesh(np.asarray(self.devices), ('data',), axis_types=(AxisType.Auto,))
    self.rows = NamedSharding(self.mesh, PartitionSpec('data'))
    self.everywhere = NamedSharding(self.mesh, PartitionSpec())

  def block(self, wanted: int) -> int:
    """The smallest number of rows from `wanted` on that divides over the devices."""
    n = len(self.devices)
    return -(-wanted // n) * n


def block_size(extractor: Extractor) -> int:
  """Images that `extractor` takes at once."""
  return min(BLOCK, extractor.block)


def of_blocks(blocks: Iterable[np.ndarray], extractor: Extractor, n: int, spread: Spread) -> Features:
  """Features of the first `n` images of `blocks`, uint8 [B, H, W, C] each, all of one size."""
  params = jax.device_put(extractor.params, spread.everywhere)
  apply = jax.jit(extractor.apply, in_shardings=(spread.everywhere, spread.rows), out_shardings=spread.rows)
  parts = (apply(params, jax.device_put(block, spread.rows)) for block in blocks)
  return collect(parts, n, spread)


def collect(parts: Iterable[tuple[Any, Any]], n: int, spread: Spread, labels: np.ndarray | None = None) -> Features:
  """Gathers (features [B, D], logits [B, classes] or None) of blocks; what is beyond the first `n` rows is left out.

  The moments are added up on the devices, block by block; see `gen_ai.evaluate.metrics.moments`. `labels` are those of
  `Features`.
  """
  values, logits, state, done = [], [], None, 0
  where = (spread.everywhere, spread.rows, spread.rows)
  add = jax.jit(moments.add, in_shardings=where, out_shardings=spread.everywhere)
  for features, scores in parts:
    rows = min(len(features), n - done)
    if state is None:
      # Moments about a typical value, the first block's mean, so that no digits are lost to a large one.
      state = moments.empty(features.shape[1], np.asarray(features[:rows]).mean(0))
    mask = (np.arange(len(features)) < rows).astype(np.float32)
    state = add(state, jax.device_put(features, spread.rows), jax.device_put(mask, spread.rows))
    values.append(np.asarray(features[:rows], np.float32))
    if scores is not None:
      logits.append(np.asarray(scores[:rows], np.float32))
    done += rows
  assert state is not None and done == n
  _, mean, cov = moments.finish(state)
  return Features(np.concatenate(values), np.concatenate(logits) if logits else None, mean, cov, labels)


def blocks_of(read: Callable[[np.ndarray], np.ndarray], n: int, size: int) -> Iterable[np.ndarray]:
  """Images uint8 [size, H, W, C] in order, the last block filled up with its first; `read` takes their numbers."""
  for start in range(0, n, size):
    rows = np.arange(start, start + size)
    yield read(np.where(rows < n, rows, start))


def of_images(images: np.ndarray, extractor: Extractor, spread: Spread) -> Features:
  """Features of images uint8 [N, H, W, C] in memory."""
  size = spread.block(block_size(extractor))
  return of_blocks(blocks_of(partial(np.take, images, axis=0), len(images), size), extractor, len(images), spread)


def cached(folder: Path, about: dict[str, Any], make: Callable[[], Features]) -> Features:
  """What `make` gives, kept in `folder` under a hash of `about`, everything that it depends on.

  A file that cannot be read is made again; where none can be written a warning says so.
  """
  text = json.dumps(about, sort_keys=True)
  path = folder / f'{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz'
  try:
    with path.open('rb') as opened, np.load(opened) as file:
      if str(file['about']) == text:
        logits = file['logits'] if 'logits' in file.files else None
        return Features(file['values'], logits, file['mean'], file['cov'])
  except FileNotFoundError:
    pass
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    logging.warning('%s cannot be read (%s); its features are computed again', path, error)
  found = make()
  try:
    _write(path, found, text)
  except OSError as error:
    logging.warning('features of the data are not kept: %s', error)
  return found


def _write(path: Path, found: Features, about: str) -> None:
  """The file appears under its name whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {name: value for name, value in found._asdict().items() if value is not None}
  handle, temporary = tempfile.mkstemp(dir=path.parent, suffix='.npz')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, about=np.asarray(about), **arrays)
    Path(temporary).replace(path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
