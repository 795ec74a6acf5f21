"""Exact nearest neighbours and ball counts by Euclidean distance, in blocks on the device.

The device ranks pairs by |x|^2 - 2xy + |y|^2 of centred data: fast, but off by a few units of rounding, which is more
than the distance of near duplicates. So the few pairs that matter are measured again on the host, from differences in
float64, and a row in which rounding could have hidden a pair is searched whole. The answer depends neither on the
blocks nor on the number of devices.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, PyTree

BLOCKS = (512, 4096)  # rows of queries (a device) and of references that are compared at once
SPARE = 8  # pairs kept beyond those asked for, in case the device ranked them wrongly
_WIDEST, _FEW = 512, 32  # more pairs are never kept, and for so few queries no other search is made
_GROUP = 32  # neighbouring columns of which only the least is ranked at first
_ELEMENTS = 2**21  # of the differences that the host holds at once


def checked(features: Any, name: str) -> np.ndarray:
  """`features` as float32 [n, D] on the host.

  Raises:
    UserError: another shape, no rows, or values that are not finite.
  """
  rows = np.asarray(features, np.float32)
  if rows.ndim != 2 or not rows.size:
    raise UserError(f'{name} must be [number, width] with at least one row, not {list(rows.shape)}.')
  if not np.isfinite(rows).all():
    bad = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
    raise UserError(f'{name} hold values that are not finite, first in row {bad}: leave such rows out.')
  return rows


def nearest(
  queries: Any,
  references: Any,
  k: int,
  exclude_self: bool = False,
  mesh: Mesh | None = None,
  blocks: tuple[int, int] = BLOCKS,
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest references of every query; of equally near ones, those of lowest index.

  Args:
    queries: float [n, D].
    references: float [m, D].
    k: neighbours of each query.
    exclude_self: the queries are the references, and none is its own neighbour.
    mesh: devices of this process over which the queries are split; one device by default.
    blocks: most rows of queries and of references that a device compares at once.

  Returns:
    (distances float32 [n, k] ascending, indices int32 [n, k]).

  Raises:
    UserError: fewer than k references, or arrays of unlike width, without rows or not finite.
  """
  queries, references = checked(queries, 'queries'), checked(references, 'references')
  n, m = len(queries), len(references)
  if not 1 <= k <= m - exclude_self:
    raise UserError(f'{k} nearest neighbours were asked for among {m - exclude_self}: take fewer, or more examples.')
  distances, indices = np.empty((n, k)), np.empty((n, k), np.int32)
  none = np.zeros(m, np.float32)

  def attempt(rows: np.ndarray, width: int) -> np.ndarray:
    x = queries[rows]
    frame, (squared, columns) = _sweep(_keep_nearest, _kept(width), x, references, none, mesh, blocks)
    exact = paired_distances(x, references, np.repeat(np.arange(len(x)), width), columns.ravel()).reshape(-1, width)
    if exclude_self:
      exact[columns == rows[:, None]] = np.inf
    order = np.lexsort((columns, exact), axis=-1)[:, :k]
    distances[rows], indices[rows] = np.take_along_axis(exact, order, 1), np.take_along_axis(columns, order, 1)
    # A reference that was not kept ranks at or after the last one kept. Could it be nearer than the k-th?
    reach = distances[rows, -1] / frame.scale
    return squared[:, -1] <= reach**2 + _rounding(x.shape[1]) * (2 * frame.norms(x) + reach) ** 2

  def whole(row: int, every: np.ndarray) -> None:
    order = np.argsort(every, kind='stable')[: k + exclude_self]
    indices[row] = order[order != row][:k] if exclude_self else order
    distances[row] = every[indices[row]]

  _settle(queries, references, k + exclude_self + SPARE, attempt, whole)
  return distances.astype(np.float32), indices


def count_balls(
  points: Any, centres: Any, radii: np.ndarray, mesh: Mesh | None = None, blocks: tuple[int, int] = BLOCKS
) -> np.ndarray:
  """int32 [n]: in how many closed balls each point lies.

  Args:
    points: float [n, D].
    centres: float [m, D].
    radii: float32 [m], as `nearest` returns distances.
    mesh: devices of this process over which the points are split; one device by default.
    blocks: most rows of points and of centres that a device compares at once.

  Raises:
    UserError: arrays of unlike width, without rows or not finite.
  """
  points, centres = checked(points, 'points'), checked(centres, 'centres')
  radii = np.asarray(radii, np.float32)
  counts = np.zeros(len(points), np.int32)

  def attempt(rows: np.ndarray, width: int) -> np.ndarray:
    start = (*_kept(width), np.zeros(1, np.int32))
    _, (doubt, columns, certain) = _sweep(_count_certain, start, points[rows], centres, radii, mesh, blocks)
    at, slot = np.nonzero(doubt <= 0)
    pairs = rows[at], columns[at, slot]
    inside = paired_distances(points, centres, *pairs).astype(np.float32) <= radii[pairs[1]]
    counts[rows] = certain[:, 0] + np.bincount(at[inside], minlength=len(rows))
    return doubt[:, -1] <= 0  # there may be more pairs in doubt than were kept

  def whole(row: int, every: np.ndarray) -> None:
    counts[row] = np.sum(every.astype(np.float32) <= radii)

  _settle(points, centres, SPARE, attempt, whole)
  return counts


def _settle(
  queries: np.ndarray,
  references: np.ndarray,
  width: int,
  attempt: Callable[[np.ndarray, int], np.ndarray],
  whole: Callable[[int, np.ndarray], None],
) -> None:
  """Searches all queries with `width` pairs kept each, and those that rounding leaves open again with more.

  Args:
    queries: float32 [n, D].
    references: float32 [m, D].
    width: pairs kept at first.
    attempt: (rows, width) -> bool [len(rows)], which are still open; asked no more once all pairs were kept.
    whole: (row, its distances float64 [m]) -> None, for rows that stay open. Equal queries are measured once.
  """
  rows = np.arange(len(queries))
  while len(rows):
    rows = rows[attempt(rows, min(width, len(references)))]
    if width >= len(references):
      return
    equal: dict[bytes, list[int]] = {}
    for row in rows.tolist():
      equal.setdefault(queries[row].tobytes(), []).append(row)
    if width > _WIDEST or len(equal) <= _FEW:
      for same in equal.values():
        every = _row_distances(queries, references, same[0])
        for row in same:
          whole(row, every)
      return
    width *= 8


def paired_distances(queries: np.ndarray, references: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """float64 [p]: the distance of queries[rows[i]] and references[columns[i]], from differences, in float64."""
  step = max(1, _ELEMENTS // queries.shape[1])
  result = np.empty(len(rows))
  for start in range(0, len(rows), step):
    part = slice(start, start + step)
    difference = queries[rows[part]].astype(np.float64) - references[columns[part]]
    result[part] = np.sqrt(np.einsum('pd,pd->p', difference, difference))
  return result


def _row_distances(queries: np.ndarray, references: np.ndarray, row: int) -> np.ndarray:
  """float64 [m]: from queries[row] to every reference."""
  columns = np.arange(len(references))
  return paired_distances(queries, references, np.full(len(references), row), columns)


def _rounding(D: int) -> float:
  """Bound on the error of |x|^2 - 2xy + |y|^2 in fp32, in units of (|x| + |y|)^2.

  Rounding to fp32 and the last additions err by up to 5 units of 2^-24; the D additions of a product err in both
  directions, by about sqrt(D) / 2 units. The bound is several times that.
  """
  return (8 + 2 * math.sqrt(D)) * 2.0**-24


class _Frame:
  """Centre and scale of the data on the device: small numbers cancel less, and none overflows when squared."""

  def __init__(self, queries: np.ndarray, references: np.ndarray):
    self.mean = references.mean(0, dtype=np.float64)
    spread = max(
      float(np.abs(edge(x, axis=0) - self.mean).max()) for x in (queries, references) for edge in (np.min, np.max)
    )
    self.scale = spread or 1.0

  def rows(self, x: np.ndarray) -> np.ndarray:
    """float32 [n, D]."""
    return ((x - self.mean) / self.scale).astype(np.float32)

  def norms(self, x: np.ndarray) -> np.ndarray:
    """float64 [n]: the lengths of the rows."""
    step = max(1, _ELEMENTS // x.shape[1])
    return np.concatenate([np.linalg.norm(self.rows(x[i : i + step]), axis=1) for i in range(0, len(x), step)])


def _fit(rows: int, most: int) -> int:
  """A power of two from a few sizes, so that small data wastes little and most data shares one program."""
  return min(most, 1 << (rows - 1).bit_length())


def _blocks(x: np.ndarray, frame: _Frame, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(rows float32 [size, D], their numbers int32 [size], -1 for padding) of one block after the other."""
  for start in range(0, len(x), size):
    block = frame.rows(x[start : start + size])
    numbers = np.arange(start, start + size, dtype=np.int32)
    numbers[len(block) :] = -1
    yield np.pad(block, ((0, size - len(block)), (0, 0))), numbers


def _sweep(
  fold: Callable[..., PyTree],
  start: tuple[np.ndarray, ...],
  queries: np.ndarray,
  references: np.ndarray,
  radii: np.ndarray,
  mesh: Mesh | None,
  blocks: tuple[int, int],
) -> tuple[_Frame, list[np.ndarray]]:
  """Folds all pairs from the state `start` of a row; returns the frame and every row's last state.

  The queries and their state stay on the devices, references pass by, and no more than a block of pairs is ever held.
  """
  if queries.shape[1] != references.shape[1]:
    raise UserError(f'the widths {queries.shape[1]} and {references.shape[1]} differ: take both from one extractor.')
  devices = mesh.size if mesh else 1
  split = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if mesh else None
  whole = NamedSharding(mesh, PartitionSpec()) if mesh else None
  frame = _Frame(queries, references)
  size = _fit(-(-len(queries) // devices), blocks[0]) * devices
  parts = []
  for x, _ in _blocks(queries, frame, size):
    parts.append(jax.device_put((tuple(np.tile(leaf, (size, 1)) for leaf in start), x), split))
  for y, columns in _blocks(references, frame, _fit(len(references), blocks[1])):
    reach = np.where(columns < 0, 0, radii[columns]) / frame.scale
    there = jax.device_put((y, columns, reach.astype(np.float32)), whole)
    parts = [(_step(fold, mesh, state, x, *there), x) for state, x in parts]
  states = [jax.device_get(state) for state, _ in parts]
  return frame, [np.concatenate(leaves)[: len(queries)] for leaves in zip(*states, strict=True)]


@partial(jax.jit, static_argnames=('fold', 'mesh'))
def _step(fold, mesh, state: PyTree, x: Array, y: Array, columns: Array, radii: Array) -> PyTree:
  """`fold` of one block of queries and one of references."""

  def local(state: PyTree, x: Array, y: Array, columns: Array, radii: Array) -> PyTree:
    # HIGHEST: by default an accelerator multiplies in fewer bits.
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(x * x, 1, keepdims=True)
    squared = norms + jnp.where(columns < 0, jnp.inf, jnp.sum(y * y, 1)) - 2 * products
    slack = _rounding(x.shape[1]) * (2 * jnp.sqrt(norms) + radii) ** 2  # a reference at the radius has |y| <= |x| + it
    return fold(state, squared, columns, radii, slack)

  if mesh is None:
    return local(state, x, y, columns, radii)
  split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
  specs = (split, split, whole, whole, whole)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split)(state, x, y, columns, radii)


def _kept(width: int) -> tuple[np.ndarray, np.ndarray]:
  """The state of a row that keeps nothing yet: (values, indices)."""
  return np.full(width, np.inf, np.float32), np.full(width, -1, np.int32)


def _keep_least(values: Array, indices: Array, more: Array, columns: Array) -> tuple[Array, Array]:
  """The least of `values` and `more` with their indices, ascending; of equals the first (lowest index)."""
  width, (rows, size) = values.shape[1], more.shape
  if size // _GROUP <= width:
    candidates, numbers = more, jnp.broadcast_to(columns, more.shape)
  else:  # the least `width` lie in the `width` groups with the least minima, and ranking those is cheaper
    groups = more.reshape(rows, -1, _GROUP)
    chosen = jnp.sort(jax.lax.top_k(-groups.min(2), width)[1], 1)
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], 1).reshape(rows, -1)
    numbers = columns.reshape(-1, _GROUP)[chosen].reshape(rows, -1)
  least, at = jax.lax.top_k(-jnp.concatenate([values, candidates], 1), width)
  return -least, jnp.take_along_axis(jnp.concatenate([indices, numbers], 1), at, 1)


def _keep_nearest(state: PyTree, squared: Array, columns: Array, radii: Array, slack: Array) -> PyTree:
  """State: (squared distances [q, width], indices [q, width])."""
  del radii, slack
  values, indices = state
  return _keep_least(values, indices, squared, columns)


def _count_certain(state: PyTree, squared: Array, columns: Array, radii: Array, slack: Array) -> PyTree:
  """State: (doubt [q, width], indices [q, width], counts [q, 1]).

  A pair is in doubt (doubt <= 0) where the distance is so near to the radius that rounding could change the side.
  """
  doubt, indices, counts = state
  margin = squared - radii**2
  certain = jnp.sum(margin < -slack, 1, keepdims=True, dtype=jnp.int32)
  return (*_keep_least(doubt, indices, jnp.abs(margin) - slack, columns), counts + certain)
