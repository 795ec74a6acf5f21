"""Mean and covariance of features that arrive in batches: on device, traceable, for any batch size and device count.

Sums are kept as pairs of float32 (value, rest) by error-free additions, around a fixed shift near the mean, so that
neither the number of batches nor a mean far from zero costs digits. The host divides in float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array


class Moments(NamedTuple):
  """Sums over the features seen so far; each true sum is `hi + lo`.

  Attributes:
    n: int32 [], rows.
    anchored: bool [], whether `shift` is set; the first batch sets it otherwise.
    shift: float32 [D], subtracted from every row before anything is summed.
    sum_hi, sum_lo: float32 [D], sum of the shifted rows.
    square_hi, square_lo: float32 [D, D], sum of the outer products of the shifted rows.
  """

  n: Array
  anchored: Array
  shift: Array
  sum_hi: Array
  sum_lo: Array
  square_hi: Array
  square_lo: Array


def empty(dim: int, shift: np.ndarray | Array | None = None) -> Moments:
  """Moments of no rows.

  Args:
    dim: number of features D.
    shift: [D], a point near the mean; the mean of the first batch where it is None.
  """
  # Not one shared array: the leaves of a donated argument must be distinct buffers.
  vectors = [jnp.zeros(dim, jnp.float32) for _ in range(3)]
  anchor = vectors[0] if shift is None else jnp.array(shift, jnp.float32)
  squares = [jnp.zeros((dim, dim), jnp.float32) for _ in range(2)]
  return Moments(jnp.zeros((), jnp.int32), jnp.array(shift is not None), anchor, *vectors[1:], *squares)


def add(moments: Moments, features: Array, mask: Array) -> Moments:
  """Moments with one more batch. Pure and traceable; the batch may be split over devices.

  Args:
    moments: so far.
    features: float [B, D].
    mask: [B], 0 for padding: such a row counts nothing, whatever it holds.
  """
  keep = mask > 0
  count = jnp.sum(keep, dtype=jnp.int32)
  rows = jnp.where(keep[:, None], features.astype(jnp.float32), 0.0)
  first = jnp.sum(rows, 0) / jnp.maximum(count, 1)
  shift = jnp.where(moments.anchored, moments.shift, first)
  rows = jnp.where(keep[:, None], rows - shift, 0.0)
  squares = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
  return Moments(
    moments.n + count,
    moments.anchored | (count > 0),
    shift,
    *two_add(moments.sum_hi, moments.sum_lo, jnp.sum(rows, 0)),
    *two_add(moments.square_hi, moments.square_lo, squares),
  )


def merge(a: Moments, b: Moments) -> Moments:
  """Moments of the rows of both. Sums of `b` are moved to the shift of `a`: exact where the shifts are equal."""
  move = jnp.where(a.anchored & b.anchored, b.shift - a.shift, 0.0)
  n = b.n.astype(jnp.float32)
  total = (a.sum_hi, a.sum_lo)
  for term in (b.sum_hi, b.sum_lo, n * move):
    total = two_add(*total, term)
  # sum (x + m)(x + m)' = sum xx' + m s' + s m' + n mm' with s the sum of x.
  cross = jnp.outer(move, b.sum_hi + b.sum_lo)
  square = (a.square_hi, a.square_lo)
  for term in (b.square_hi, b.square_lo, cross, cross.T, n * jnp.outer(move, move)):
    square = two_add(*square, term)
  shift = jnp.where(a.anchored, a.shift, b.shift)
  return Moments(a.n + b.n, a.anchored | b.anchored, shift, *total, *square)


def two_add(hi: Array, lo: Array, term: Array) -> tuple[Array, Array]:
  """(hi, lo) + term: `hi` takes the rounded sum, `lo` what that lost (TwoSum; Knuth, TAOCP 4.2.2, theorem B)."""
  # The barrier keeps a compiler that simplifies (hi + term) - hi to term from taking the correction away.
  total, term = jax.lax.optimization_barrier((hi + term, term))
  part = total - hi
  return total, lo + ((hi - (total - part)) + (term - part))


def finish(moments: Moments) -> tuple[int, np.ndarray, np.ndarray]:
  """(n, mean float64 [D], unbiased covariance float64 [D, D]), on the host.

  Raises:
    UserError: fewer than 2 rows, or a feature that is not finite.
  """
  n, shift = int(moments.n), np.asarray(moments.shift, np.float64)
  if n < 2:
    raise UserError(f'A covariance of features needs at least 2 samples, there are {n}: give more samples.')
  total = np.asarray(moments.sum_hi, np.float64) + np.asarray(moments.sum_lo)
  square = np.asarray(moments.square_hi, np.float64) + np.asarray(moments.square_lo)
  if not all(np.isfinite(part).all() for part in (shift, total, square)):
    raise UserError(f'Some features of the {n} samples are NaN or infinite: look at the samples and the extractor.')
  cov = (square - np.outer(total, total) / n) / (n - 1)
  return n, shift + total / n, (cov + cov.T) / 2
