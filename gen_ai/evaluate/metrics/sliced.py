"""Sliced 2-Wasserstein distance between sets of features (Bonneel et al. 2015, doi 10.1007/s10851-014-0506-3)."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.evaluate.metrics.kernel import check_pair

ROWS = 64  # projections sorted at once


def sliced_wasserstein(
  features: np.ndarray | Array, reference: np.ndarray | Array, seed: int, projections: int = 512
) -> tuple[float, float]:
  """sqrt of the mean, over random directions, of the squared 2-Wasserstein distance of the projections.

  In one dimension the distance is exact for any two counts: sorted values are matched by quantile. Directions have
  length 1, so a shift of the whole set by d gives |d| / sqrt(D). The value is above 0 between finite sets of one
  distribution; compare at equal counts.

  Args:
    features: float [N, D].
    reference: float [M, D].
    seed: of the directions.
    projections: how many.

  Returns:
    (value, its standard error over the directions; the sets count as given).

  Raises:
    UserError: unlike widths, an empty set, fewer than 2 projections, features that are not finite.
  """
  check_pair(features, reference)
  if min(len(features), len(reference)) < 1 or projections < 2:
    raise UserError(
      f'A sliced Wasserstein distance needs samples in both sets and 2 projections or more; '
      f'got {len(features)} and {len(reference)} samples, {projections} projections.'
    )
  directions = np.random.default_rng(seed).standard_normal((projections, features.shape[1]))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  matching = _match(len(features), len(reference))
  sets = jnp.asarray(features), jnp.asarray(reference)
  squares = np.asarray(_squares(*sets, directions.astype(np.float32), *matching)).astype(np.float64)
  if not np.isfinite(squares).all():
    raise UserError('Some features are NaN or infinite: look at the samples and the extractor.')
  value = float(np.sqrt(squares.mean()))
  error = squares.std(ddof=1) / np.sqrt(projections) / (2 * value) if value else 0.0  # delta method for the root
  return value, float(error)


def _match(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How n sorted values meet m: (index of the first, index of the second, share of the whole), each [at most n + m]."""
  # In units of 1 / (n m), so that quantiles that coincide do so exactly.
  stops = np.union1d(np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n)
  starts = np.concatenate([[0], stops[:-1]])
  share = (stops - starts) / (n * m)
  return (starts // m).astype(np.int32), (starts // n).astype(np.int32), share.astype(np.float32)


@jax.jit
def _squares(x: Array, y: Array, directions: Array, x_index: Array, y_index: Array, share: Array) -> Array:
  """[P] squared distances of the projections on each direction."""
  # Features far from 0 would lose digits; moving both sets changes no distance.
  center = y.astype(jnp.float32).mean(0)
  x, y = x - center, y - center

  def square(direction):
    u, v = (jnp.sort(jnp.matmul(z, direction, precision=jax.lax.Precision.HIGHEST)) for z in (x, y))
    return jnp.sum(share * (u[x_index] - v[y_index]) ** 2)

  return jax.lax.map(square, directions, batch_size=ROWS)
