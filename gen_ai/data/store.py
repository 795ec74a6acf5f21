"""Where decoded images are kept: in memory when few, otherwise in a file under the data folder that later runs map.

Decoding 60,000 PNGs through TFDS takes several seconds at every start; mapping the decoded file takes none.
"""

import collections
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from gen_ai.core import places
from gen_ai.core.errors import UserError
from gen_ai.data.source import ArrayExamples

FILE_BYTES = 16 * 2**20  # decoded images from this size on go to a file
_ROWS_AT_ONCE = 256


class Rows(NamedTuple):
  """A stretch of decoded images: uint8 [n, H, W, C], labels int32 [n] (-1: none), {row: what is wrong with it}.

  `transparent` counts those of the good ones that were laid over a background.
  """

  images: np.ndarray
  labels: np.ndarray
  wrong: dict[int, str]
  transparent: int = 0


class Decoded(NamedTuple):
  """All images that could be decoded, what was wrong with the others, and how many were laid over a background."""

  examples: ArrayExamples
  bad: list[str]
  transparent: int


ReadRows = Callable[[np.ndarray], Rows]  # index int64 [n]


_KEEPS = ContextVar('keeps', default=True)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
  """While open, nothing is written into the data folder: what is made is made in memory."""
  token = _KEEPS.set(False)
  try:
    yield
  finally:
    _KEEPS.reset(token)


def data_folder(data_dir: str) -> Path:
  """`data.data_dir`, or the place TFDS would take: $TFDS_DATA_DIR, or ~/tensorflow_datasets, see `places.default`.

  Raises:
    UserError: there is no place at all.
  """
  named = {'config.data.data_dir': data_dir, 'TFDS_DATA_DIR': os.environ.get('TFDS_DATA_DIR', '')}
  for name, folder in named.items():
    if folder:
      return places.expand(folder, name).absolute()
  place = places.default(places.DATA)
  if place is None:
    raise UserError('there is no place to keep data sets in: name a folder with config.data.data_dir.')
  return place.absolute()


def key(*parts: Any) -> str:
  """16 hex digits that stand for `parts` (of JSON)."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def kept(folder: Path) -> Decoded | None:
  """What an earlier call of `decoded` wrote into `folder`; None where there is nothing."""
  return _map(folder) if (folder / 'meta.json').exists() else None


def decoded(read_rows: ReadRows, n: int, shape: tuple[int, int, int], folder: Path, to_file: bool) -> Decoded:
  """Decodes n images of one shape, or maps what an earlier call with the same `folder` decoded.

  Bad images are left out, so the result may be shorter than n. The file appears under its name complete or not at all;
  where it cannot be written, the images stay in memory and a warning says so.

  Args:
    read_rows: reads a stretch; called from several threads.
    n: images to read.
    shape: (H, W, C).
    folder: of the decoded files; its name must change with everything that changes what they hold.
    to_file: keep them there; False decodes into memory.
  """
  found = kept(folder)
  if found is not None:
    return found
  if not to_file or not _KEEPS.get():
    return _in_memory(read_rows, n, shape)
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.decoding-', dir=folder.parent) as scratch:
      written = Path(scratch) / 'decoded'
      written.mkdir()
      _write(written, read_rows, n, shape)
      _rename(written, folder)
    return _map(folder)
  except OSError as e:
    logging.warning('cannot keep decoded images under %s (%s): they will be decoded at every start', folder.parent, e)
    return _in_memory(read_rows, n, shape)


def _in_memory(read_rows: ReadRows, n: int, shape: tuple[int, int, int]) -> Decoded:
  images = np.empty((n, *shape), np.uint8)
  labels, bad, transparent = _decode(
    read_rows, n, lambda start, good: images.__setitem__(slice(start, start + len(good)), good)
  )
  return Decoded(ArrayExamples(images[: len(labels)], labels), bad, transparent)


def _write(folder: Path, read_rows: ReadRows, n: int, shape: tuple[int, int, int]) -> None:
  with (folder / 'image.uint8').open('wb') as file:  # written, not mapped: a full disk is then an error, not a SIGBUS
    labels, bad, transparent = _decode(read_rows, n, lambda start, good: file.write(np.ascontiguousarray(good).data))
  np.save(folder / 'label.npy', labels)
  meta = {'shape': [len(labels), *shape], 'bad': bad, 'transparent': transparent}
  (folder / 'meta.json').write_text(json.dumps(meta))


def _rename(written: Path, folder: Path) -> None:
  try:
    written.rename(folder)
  except OSError:
    if not (folder / 'meta.json').exists():  # else another process came first, with the same content
      raise


def _map(folder: Path) -> Decoded:
  meta = json.loads((folder / 'meta.json').read_text())
  shape = tuple(meta['shape'])
  if (folder / 'image.uint8').stat().st_size != np.prod(shape):
    raise UserError(f'the decoded images in {folder} are damaged: remove that folder, they will be decoded again.')
  empty = np.empty(shape, np.uint8)  # no file of 0 bytes can be mapped
  images = np.asarray(np.memmap(folder / 'image.uint8', np.uint8, 'r', shape=shape)) if shape[0] else empty
  return Decoded(ArrayExamples(images, np.load(folder / 'label.npy')), meta['bad'], meta['transparent'])


def _decode(read_rows: ReadRows, n: int, put: Callable[[int, np.ndarray], Any]) -> tuple[np.ndarray, list[str], int]:
  """Puts the good images, in order, at `start`; returns their labels int32 and the rest of `Decoded`."""
  labels: list[np.ndarray] = [np.empty(0, np.int32)]
  bad: list[str] = []
  start = transparent = 0
  with ThreadPoolExecutor() as pool:
    for rows in _in_order(pool, read_rows, n):
      good = [row for row in range(len(rows.images)) if row not in rows.wrong]
      put(start, rows.images[good])
      labels.append(rows.labels[good])
      start += len(good)
      bad += rows.wrong.values()
      transparent += rows.transparent
  return np.concatenate(labels).astype(np.int32), bad, transparent


def _in_order(pool: ThreadPoolExecutor, read_rows: ReadRows, n: int) -> Iterator[Rows]:
  """What `read_rows` returns for each stretch of rows, in order, with a few stretches decoded ahead."""
  waiting: collections.deque[Any] = collections.deque()
  for start in range(0, n, _ROWS_AT_ONCE):
    waiting.append(pool.submit(read_rows, np.arange(start, min(start + _ROWS_AT_ONCE, n))))
    if len(waiting) > 2 * (os.cpu_count() or 1):
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def refuse(what: str, bad: list[str]) -> None:
  """Raises UserError naming up to five bad images, if there are any."""
  if bad:
    more = f' and {len(bad) - 5} more' if len(bad) > 5 else ''
    raise UserError(
      f"{what}: {'; '.join(bad[:5])}{more}. Remove them, or leave them out with data.on_bad_image='skip'."
    )
