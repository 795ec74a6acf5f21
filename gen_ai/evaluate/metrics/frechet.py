"""Frechet distance between Gaussians fitted to features (FID, arXiv 1706.08500, eq. 6), with its error and its bias.

In float64 on the host. The trace of (S1^(1/2) S2 S1^(1/2))^(1/2) is the sum of the roots of the eigenvalues of R' S2 R,
for any R with R R' = S1; R is from an eigendecomposition, without what is 0. All is symmetric: nothing turns complex.
"""

import numpy as np

from gen_ai.core.errors import UserError

Gaussian = tuple[np.ndarray, np.ndarray]  # mean [D], covariance [D, D]


def distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
  """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1^(1/2) cov2 cov1^(1/2))^(1/2)), never below 0.

  Singular covariances need nothing special: the error is about 1e-8 of the traces at worst.

  Args:
    mean1, mean2: [D].
    cov1, cov2: [D, D], symmetric and positive semi-definite up to rounding.

  Raises:
    UserError: sizes that do not agree, or entries that are not finite.
  """
  mean1, cov1, mean2, cov2 = _checked(mean1, cov1, mean2, cov2)
  factor = _factor(cov1)
  gap = mean1 - mean2
  return max(0.0, float(gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * _trace_root(factor.T @ cov2 @ factor)))


def check_counts(n: int, dim: int, what: str) -> None:
  """Refuses `what`, a set of `n` samples with `dim` features, if it has no covariance.

  Raises:
    UserError: fewer than 2 samples.
  """
  if n < 2:
    raise UserError(
      f'A Frechet distance needs the covariance of {dim} features, so at least 2 samples; {what} has {n}: '
      f'give more (10,000 are usual, and more than {dim} are needed for a covariance of full rank).'
    )


def note(n: int, dim: int) -> str:
  """What to say beside a Frechet distance from `n` samples with `dim` features; '' where there is nothing to say."""
  if n > dim:
    return ''
  return (
    f'{n} samples of {dim} features: the covariance is singular and the Frechet distance far too high; '
    f'compare it only at equal counts, or take more than {dim} samples'
  )


def infinity(features: np.ndarray, reference: Gaussian, seed: int, points: int = 15) -> tuple[float, float]:
  """FD-infinity (arXiv 1911.07023, sec. 3): the distance without the bias of a finite number of samples.

  The distance of a random subset at each of `points` sizes, evenly spaced up to N, is fitted by a line in 1/size; its
  intercept is the value. The smallest size is N/10 as in the paper, or 2 D if that is more (a line is no fit where
  covariances are singular), or N/2 if that is less. The value may be below 0 by its error.

  The standard error is that of the intercept over fresh samples, by the influence of each sample on the distance
  (delta method): the subsets share samples, so the residuals of the line would say too little. The reference
  counts as exact.

  Args:
    features: [N, D], of the samples.
    reference: (mean [D], covariance [D, D]).
    seed: of the subsets.
    points: number of sizes.

  Returns:
    (value, standard error).

  Raises:
    UserError: fewer than 2 points, or fewer than 2 samples a point.
  """
  N, D = features.shape
  if points < 2 or 2 * points > N:
    raise UserError(f'FD-infinity fits a line to 2 points or more with 2 samples each; got {points} and {N} samples.')
  projected = _Projected(features, reference)
  sizes = np.linspace(max(2, min(max(N // 10, 2 * D), N // 2)), N, points).astype(int)
  rng = np.random.default_rng(seed)
  values, shares = np.zeros(points), np.zeros((points, N))
  for i, size in enumerate(sizes):
    chosen = rng.permutation(N)[:size]
    shares[i, chosen] = 1 / size
    values[i] = projected.distance((shares[i] > 0).astype(float))
  centred = 1 / sizes - (1 / sizes).mean()
  # The intercept of least squares is this fixed combination of the values.
  combine = 1 / points - (1 / sizes).mean() * centred / (centred @ centred)
  error = np.linalg.norm((combine @ shares) * projected.influence())
  return float(combine @ values), float(error)


def bootstrap(features: np.ndarray, reference: Gaussian, seed: int, replicates: int = 100) -> tuple[float, float]:
  """95% interval of the Frechet distance at this number of samples, by resampling them; the reference counts as exact.

  Resampling adds an upward bias of its own, about as large as that of the distance itself, so the replicates FD* are
  recentred: the interval is FD + quantiles of (FD* - mean FD*), cut off at 0. It is an interval for the distance that N
  samples give on average, bias included, not for FD-infinity.

  Args:
    features: [N, D], of the samples.
    reference: (mean [D], covariance [D, D]).
    seed: of the resampling.
    replicates: each costs one weighted covariance and its eigenvalues (seconds where D is 2,048).

  Raises:
    UserError: fewer than 2 samples or replicates.
  """
  if replicates < 2:
    raise UserError(f'An interval by resampling needs at least 2 replicates, got {replicates}.')
  projected = _Projected(features, reference)
  N = len(features)
  counts = np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), replicates).astype(float)
  values = np.array([projected.distance(weights) for weights in counts])
  low, high = projected.distance(np.ones(N)) + np.quantile(values - values.mean(), (0.025, 0.975))
  return max(0.0, float(low)), max(0.0, float(high))


class _Projected:
  """Samples multiplied by a factor R of the reference's covariance: R' S R is the covariance of these images."""

  def __init__(self, features: np.ndarray, reference: Gaussian):
    check_counts(features.shape[0], features.shape[1], 'the set of samples')
    mean, cov = (np.asarray(part, np.float64) for part in reference)
    features = np.asarray(features, np.float64)
    _checked(features.mean(0), cov, mean, cov)
    self.trace = np.trace(cov)
    self.rows = features - mean
    self.lengths = (self.rows**2).sum(1)
    self.images = self.rows @ _factor(cov)

  def distance(self, weights: np.ndarray) -> float:
    """Frechet distance of the rows that are there weights[i] times (float [N] of whole numbers, 2 or more in all)."""
    used = weights > 0
    weights, n = weights[used], weights.sum()
    gap = weights @ self.rows[used] / n
    image = weights @ self.images[used] / n
    scaled = np.sqrt(weights)[:, None] * (self.images[used] - image)
    # Of the two products with the same non-zero eigenvalues, the smaller.
    inner = scaled.T @ scaled if scaled.shape[0] >= scaled.shape[1] else scaled @ scaled.T
    spread = (weights @ self.lengths[used] - n * gap @ gap) / (n - 1)
    return max(0.0, float(gap @ gap + spread + self.trace - 2 * _trace_root(inner / (n - 1))))

  def influence(self) -> np.ndarray:
    """[N]: N times what the distance changes by, to first order, if a row weighs 1/N more; they average to 0.

    d FD = 2 gap . d mean + tr((I - R (R' S R)^(-1/2) R') d S), with the pseudo-inverse where R' S R is singular.
    """
    gap = self.rows.mean(0)
    images = self.images - self.images.mean(0)
    values, vectors = np.linalg.eigh(images.T @ images / (len(images) - 1))
    keep = _is_positive(values)
    inverse = values[keep] ** -0.25
    rows = self.rows - gap
    change = 2 * rows @ gap + (rows**2).sum(1) - ((images @ vectors[:, keep] * inverse) ** 2).sum(1)
    return change - change.mean()


def _checked(*arrays: np.ndarray) -> list[np.ndarray]:
  """(mean1, cov1, mean2, cov2) in float64; UserError if they do not make two Gaussians."""
  mean1, cov1, mean2, cov2 = (np.asarray(array, np.float64) for array in arrays)
  D = mean1.size
  shapes = [array.shape for array in (mean1, cov1, mean2, cov2)]
  if shapes != [(D,), (D, D), (D,), (D, D)]:
    raise UserError(
      f'A Frechet distance compares features of one extractor; these have means and covariances of shape '
      f'{", ".join(map(str, shapes))}: compute both sets with the same extractor.'
    )
  if not all(np.isfinite(array).all() for array in (mean1, cov1, mean2, cov2)):
    raise UserError('A mean or covariance of features is NaN or infinite: look at the samples and the extractor.')
  return [mean1, cov1, mean2, cov2]


def _factor(cov: np.ndarray) -> np.ndarray:
  """R [D, rank] with R R' = cov, a positive semi-definite matrix."""
  values, vectors = np.linalg.eigh(cov)
  keep = _is_positive(values)
  return vectors[:, keep] * np.sqrt(values[keep])


def _is_positive(values: np.ndarray) -> np.ndarray:
  """Which eigenvalues are more than what rounding makes out of 0 (as in `numpy.linalg.matrix_rank`)."""
  return values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps


def _trace_root(matrix: np.ndarray) -> float:
  """Trace of the root of a symmetric matrix whose eigenvalues are below 0 by rounding only."""
  return float(np.sqrt(np.maximum(np.linalg.eigvalsh(matrix), 0.0)).sum())
