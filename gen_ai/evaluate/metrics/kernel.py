"""Kernel distance (KID, arXiv 1801.01401): squared MMD with the kernel k(x, y) = (x.y / D + 1)^3, without bias.

In float32 on the device, sums in float64 on the host. Cubes of uncentred features would leave no digits for the small
difference that the figure is, so k is expanded around the common mean c, with x = c + a, y = c + b and

  x.y / D + 1 = t + r,   t = base + p_x + p_y,   base = 1 + c.c / D,   p_x = a.c / D,   p_y = b.c / D,   r = a.b / D,

and whatever depends on x alone or on y alone is left out of k: it cancels exactly in the MMD. What stays averages to
nearly 0 itself: 3 p_x p_y (t + base) + r (3 t^2 + 3 t r + r^2).
"""

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array

BLOCKS, BLOCK_SIZE = 100, 1000  # the usual protocol
ROWS = 256  # rows of the full kernel matrix that are there at once


def block_plan(n: int, m: int, blocks: int = BLOCKS, block_size: int = BLOCK_SIZE) -> tuple[int, int]:
  """(blocks, size) that `kid` uses for `n` samples and `m` of reference: at most half of the fewer in a block.

  Raises:
    UserError: fewer than 4 of either, or fewer than 2 blocks or samples a block asked.
  """
  if min(n, m) < 4:
    raise UserError(f'A kernel distance needs at least 4 samples of each set; there are {n} and {m}: give more.')
  if blocks < 2 or block_size < 2:
    raise UserError(f'A kernel distance needs 2 blocks of 2 samples or more; {blocks} of {block_size} were asked.')
  return blocks, min(block_size, min(n, m) // 2)


def kid(
  features: np.ndarray | Array,
  reference: np.ndarray | Array,
  seed: int,
  blocks: int = BLOCKS,
  block_size: int = BLOCK_SIZE,
) -> tuple[float, float]:
  """Mean of the unbiased squared MMD over random blocks, drawn without replacement within a block; it may be below 0.

  Blocks overlap, so their standard deviation s over sqrt(blocks) would say too little. The standard error is the
  delete-d jackknife's (Shao & Wu 1989) with that of averaging few blocks: s sqrt(size / (N - size) + 1 / blocks), N the
  fewer of both sets; a little too large where the other set has many more.

  Args:
    features: float [N, D], on the host or on devices, in any layout.
    reference: float [M, D].
    seed: of the blocks.
    blocks, block_size: what is asked; `block_plan` says what is used.

  Returns:
    (value, standard error).

  Raises:
    UserError: unlike widths, too few samples, features that are not finite.
  """
  check_pair(features, reference)
  n, m = len(features), len(reference)
  blocks, size = block_plan(n, m, blocks, block_size)
  rng = np.random.default_rng(seed)
  chosen = [np.stack([rng.choice(count, size, replace=False) for _ in range(blocks)]) for count in (n, m)]
  values = _mmd2(_block_sums(jnp.asarray(features), jnp.asarray(reference), *chosen), size, size)
  spread = float(values.std(ddof=1)) * np.sqrt(size / (min(n, m) - size) + 1 / blocks)
  return float(values.mean()), float(spread)


def mmd2_unbiased(x: np.ndarray | Array, y: np.ndarray | Array) -> float:
  """Unbiased squared MMD (arXiv 1801.01401, eq. 4) over all pairs of float [N, D] and [M, D], without an N x N array.

  Raises:
    UserError: unlike widths, fewer than 2 samples, features that are not finite.
  """
  check_pair(x, y)
  if min(len(x), len(y)) < 2:
    raise UserError(f'A squared MMD needs at least 2 samples of each set; there are {len(x)} and {len(y)}.')
  return float(_mmd2(_all_sums(jnp.asarray(x), jnp.asarray(y)), len(x), len(y)))


def check_pair(features: np.ndarray | Array, reference: np.ndarray | Array) -> None:
  """Refuses two sets of features that cannot be compared.

  Raises:
    UserError: they are not both [any, D] with one D.
  """
  shapes = features.shape, reference.shape
  if not (len(shapes[0]) == len(shapes[1]) == 2 and shapes[0][1] == shapes[1][1]):
    raise UserError(
      f'Features of shape {shapes[0]} cannot be compared with a reference of shape {shapes[1]}: '
      f'compute both with the same extractor.'
    )


def _mmd2(sums: tuple[Array, Array, Array], n: int, m: int) -> np.ndarray:
  """Squared MMD from sums of kernel rows (x with x, y with y, x with y), each [..., rows]."""
  xx, yy, xy = (np.asarray(part, np.float64).sum(-1) for part in sums)
  value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
  if not np.isfinite(value).all():
    raise UserError('Some features are NaN, infinite or too large for a cube: look at the samples and the extractor.')
  return value


@jax.jit
def _block_sums(x: Array, y: Array, x_index: Array, y_index: Array) -> tuple[Array, Array, Array]:
  """Sums of kernel rows [blocks, size] for blocks of the rows that the indices [blocks, size] name."""
  base, (a, p), (b, q) = _centred(x, y)

  rows = jax.vmap(_row_sum, (0, 0, None, None, None, 0))

  def block(index):
    (a_i, p_i), (b_j, q_j) = (a[index[0]], p[index[0]]), (b[index[1]], q[index[1]])
    own = jnp.arange(len(a_i))
    none = jnp.full(len(a_i), -1)
    return (
      rows(a_i, p_i, a_i, p_i, base, own),
      rows(b_j, q_j, b_j, q_j, base, own),
      rows(a_i, p_i, b_j, q_j, base, none),
    )

  return jax.lax.map(block, (x_index, y_index))


@jax.jit
def _all_sums(x: Array, y: Array) -> tuple[Array, Array, Array]:
  """Sums of kernel rows [N], [M], [N] for all pairs, ROWS rows at a time."""
  base, (a, p), (b, q) = _centred(x, y)

  def sums(rows: tuple[Array, Array], others: tuple[Array, Array], own: Array) -> Array:
    return jax.lax.map(lambda row: _row_sum(row[0], row[1], *others, base, row[2]), (*rows, own), batch_size=ROWS)

  none = jnp.full(len(a), -1)
  return sums((a, p), (a, p), jnp.arange(len(a))), sums((b, q), (b, q), jnp.arange(len(b))), sums((a, p), (b, q), none)


def _centred(x: Array, y: Array) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
  """base [], (a [N, D], p_x [N]) and (b [M, D], p_y [M]) of the expansion."""
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  center, D = (x.mean(0) + y.mean(0)) / 2, x.shape[1]
  base = 1 + jnp.sum(center**2) / D
  a, b = x - center, y - center
  p, q = (jnp.matmul(z, center, precision=jax.lax.Precision.HIGHEST) / D for z in (a, b))
  return base, (a, p), (b, q)


def _row_sum(a: Array, p: Array, b: Array, q: Array, base: Array, own: Array) -> Array:
  """Sum over y of what stays of k(x, y), for one x = (a [D], p []) and all y = (b [M, D], q [M]) but number `own`."""
  r = jnp.matmul(b, a, precision=jax.lax.Precision.HIGHEST) / a.size
  t = base + p + q
  terms = 3 * p * q * (t + base) + r * (3 * t * t + 3 * t * r + r * r)
  return jnp.sum(jnp.where(jnp.arange(len(b)) == own, 0.0, terms))
