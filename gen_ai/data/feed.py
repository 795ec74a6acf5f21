"""Feeds bring the planned batches to the device: gathered there from resident arrays, or read ahead on the host."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.data import plan
from gen_ai.data.source import Source

RESIDENT_BYTES = 2**30  # 'auto' keeps a split up to this size on the device
_READ_AHEAD_BYTES = 2**30  # what the host feed may hold of the chunks to come
_MAX_THREADS = 16


class DeviceFeed:
  """The split lives on the device as uint8; a chunk is its index plan only, int32 [K, B].

  Attributes:
    resident: arrays that the program puts on the device and hands back to `gather`.
    stall_seconds: time spent waiting inside `chunk` so far.
  """

  by_lane = False

  def __init__(self, source: Source, seed: int, batch_size: int, rows: slice):
    self._source = source
    self._plan = (seed, batch_size, rows)
    self.resident: dict[str, np.ndarray] = source.arrays()
    self.stall_seconds = 0.0

  def gather(self, resident: Mapping[str, Any], row: Any) -> Mapping[str, Any]:
    """The batch at row int32 [B]. Traceable."""
    return self._source.gather(resident, row)

  def chunk(self, step: int, steps: int) -> np.ndarray:
    """Rows int32 [K, B] for the updates after `step` completed ones."""
    started = time.perf_counter()
    seed, batch_size, rows = self._plan
    index = plan.train_plan(self._source, seed, step, steps, batch_size)[:, rows]
    self.stall_seconds += time.perf_counter() - started
    return index

  def close(self) -> None:
    """Nothing to release."""


class HostFeed:
  """Batches are read on the host by Grain's threads, the next chunks while the current one trains.

  Attributes:
    resident: empty.
    stall_seconds: time spent waiting inside `chunk` so far.
  """

  by_lane = False

  def __init__(self, source: Source, seed: int, batch_size: int, steps_per_chunk: int, rows: slice):
    self._steps = _Steps(source, seed, batch_size, rows)
    self._ahead = 2 * max(1, steps_per_chunk)
    self._batches: Any = None  # Grain's iterator, standing at step `_next`
    self._next = -1
    self.resident: dict[str, np.ndarray] = {}
    self.stall_seconds = 0.0

  def gather(self, resident: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, which is a batch already."""
    return row

  def chunk(self, step: int, steps: int) -> dict[str, np.ndarray]:
    """Batches [K, B, ...] for the updates after `step` completed ones. A jump in `step` reopens the stream."""
    started = time.perf_counter()
    if self._batches is None or step != self._next:
      self._open(step)
    batches = list(itertools.islice(self._batches, steps))
    self._next = step + steps
    chunk = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    self.stall_seconds += time.perf_counter() - started
    return chunk

  def close(self) -> None:
    """Stop reading ahead."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def _open(self, step: int) -> None:
    import grain  # heavy, and not needed where data lives on the device

    self.close()
    first = self._steps[step]
    batch_bytes = sum(array.nbytes for array in first.values())
    ahead = max(1, min(self._ahead, _READ_AHEAD_BYTES // batch_bytes))
    threads = min(_MAX_THREADS, ahead, 2 * (os.cpu_count() or 1))
    dataset = grain.MapDataset.source(_From(self._steps, step))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    self._batches = iter(dataset.to_iter_dataset(options))


class _Steps:
  """Random access to the batch of any step."""

  def __init__(self, source: Source, seed: int, batch_size: int, rows: slice):
    self._source, self._seed, self._batch_size, self._rows = source, seed, batch_size, rows

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    index = plan.train_plan(self._source, self._seed, step, 1, self._batch_size)[0, self._rows]
    return self._source.read(index)


class _From:
  """`steps` from `start` on, without an end: what Grain takes for a random-access source."""

  def __init__(self, steps: _Steps, start: int):
    self._steps, self._start = steps, start

  def __len__(self) -> int:
    return 2**31 - 1

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return self._steps[self._start + int(i)]


class LaneFeed:
  """The feeds of lanes whose data order differs: rows [R, K, ...], one lane after the other.

  Args:
    feeds: one a data seed.
    lane_feed: for every lane, which of `feeds` is its own.
  """

  by_lane = True

  def __init__(self, feeds: Sequence[DeviceFeed | HostFeed], lane_feed: Sequence[int]):
    self._feeds, self._lane_feed = feeds, lane_feed
    self.resident, self.gather = feeds[0].resident, feeds[0].gather

  @property
  def stall_seconds(self) -> float:
    """Time spent waiting inside `chunk` so far."""
    return sum(feed.stall_seconds for feed in self._feeds)

  def chunk(self, step: int, steps: int) -> Any:
    """Rows [R, K, ...] for the updates after `step` completed ones."""
    rows = [feed.chunk(step, steps) for feed in self._feeds]
    lanes: list[Any] = [rows[i] for i in self._lane_feed]
    if isinstance(lanes[0], dict):
      return {name: np.stack([row[name] for row in lanes]) for name in lanes[0]}
    return np.stack(lanes)

  def close(self) -> None:
    """Stop reading ahead."""
    for feed in self._feeds:
      feed.close()


Feed = DeviceFeed | HostFeed | LaneFeed


def make_feed(
  source: Source,
  config_data: Any,
  steps_per_chunk: int,
  process_slice: slice | None = None,
  batches_per_step: int = 1,
) -> DeviceFeed | HostFeed:
  """The feed that `config_data.feed` asks for; 'auto' keeps a split of up to 1 GiB on the device.

  Args:
    source: the training split.
    config_data: `config.data`; its feed, seed and batch_size are read.
    steps_per_chunk: K, how far ahead the host feed reads (two chunks).
    process_slice: rows of a step's examples, over all processes, that this process loads; None is all of them.
    batches_per_step: batches of config_data.batch_size that one step takes, side by side.

  Raises:
    UserError: an unknown feed, a seed below 0 or a batch size below 1.
  """
  if config_data.feed not in ('auto', 'device', 'host'):
    raise UserError(f"data.feed={config_data.feed!r} is none of 'auto', 'device', 'host'.")
  seed, batch_size = config_data.seed, config_data.batch_size
  if seed < 0 or batch_size < 1:
    raise UserError(f'data.seed={seed} must be 0 or more and data.batch_size={batch_size} 1 or more.')
  rows, batch_size = process_slice or slice(None), batch_size * batches_per_step
  if config_data.feed == 'device' or (config_data.feed == 'auto' and source.nbytes <= RESIDENT_BYTES):
    return DeviceFeed(source, seed, batch_size, rows)
  return HostFeed(source, seed, batch_size, steps_per_chunk, rows)
