"""Kernel distance and sliced Wasserstein distance against plain NumPy."""

import jax
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import kernel, sliced


def plain_mmd2(x, y):
  """arXiv 1801.01401, eq. 4, pair by pair in float64."""
  x, y = x.astype(np.float64), y.astype(np.float64)
  n, m = len(x), len(y)

  def k(a, b):
    return (sum(a * b) / len(a) + 1) ** 3

  xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
  yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
  xy = sum(k(a, b) for a in x for b in y)
  return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def matrix_mmd2(x, y):
  x, y = x.astype(np.float64), y.astype(np.float64)
  xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
  for k in (xx, yy):
    np.fill_diagonal(k, 0)
  n, m = len(x), len(y)
  return xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.mean()


def sets(n, m, D, mean=0.0, wider=1.0, seed=0):
  """Features above `mean` as activations are, float32; the second set is `wider`."""
  rng = np.random.default_rng(seed)
  return [(mean + scale * np.abs(rng.normal(size=(k, D)))).astype(np.float32) for k, scale in ((n, 1.0), (m, wider))]


def split(x):
  """x with its rows over 8 fake devices."""
  mesh = Mesh(np.asarray(jax.devices()), ('data',), axis_types=(AxisType.Auto,))
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))


def test_mmd2_against_loops():
  x, y = sets(7, 9, 3, wider=1.5)
  assert kernel.mmd2_unbiased(x, y) == pytest.approx(plain_mmd2(x, y), rel=1e-5)
  assert matrix_mmd2(x, y) == pytest.approx(plain_mmd2(x, y))


@pytest.mark.parametrize('mean', [0.0, 10.0])
@pytest.mark.parametrize('D', [64, 2048])
def test_mmd2_keeps_its_digits(D, mean):
  # The kernel is up to 10^6 times the figure; 600 rows need more than one turn of the blockwise sum, the last ragged.
  x, y = sets(600, 301, D, mean, wider=1.03)
  assert kernel.mmd2_unbiased(x, y) == pytest.approx(matrix_mmd2(x, y), rel=1e-5)
  assert kernel.mmd2_unbiased(y, x) == pytest.approx(matrix_mmd2(x, y), rel=1e-5)


def test_features_over_devices_give_the_same_figures():
  x, y = sets(320, 400, 16, wider=1.1)
  assert kernel.mmd2_unbiased(split(x), split(y)) == pytest.approx(kernel.mmd2_unbiased(x, y), rel=1e-5)
  assert kernel.kid(split(x), split(y), 0, 10, 50) == pytest.approx(kernel.kid(x, y, 0, 10, 50), rel=1e-5)
  whole = sliced.sliced_wasserstein(x, y, 0, 64)
  assert sliced.sliced_wasserstein(split(x), y, 0, 64) == pytest.approx(whole, rel=1e-5)


def test_kid_is_the_mean_over_its_blocks():
  x, y = sets(40, 60, 5, wider=1.3)
  value, error = kernel.kid(x, y, seed=3, blocks=4, block_size=20)
  rng = np.random.default_rng(3)
  i, j = ([rng.choice(count, 20, replace=False) for _ in range(4)] for count in (40, 60))
  expected = [plain_mmd2(x[a], y[b]) for a, b in zip(i, j, strict=True)]
  assert value == pytest.approx(np.mean(expected), rel=1e-5)
  assert error == pytest.approx(np.std(expected, ddof=1) * np.sqrt(20 / (40 - 20) + 1 / 4), rel=1e-4)
  assert kernel.kid(x, y, seed=4, blocks=4, block_size=20)[0] != value


def test_kid_is_unbiased_under_the_null_and_sees_a_difference():
  null = np.array([kernel.kid(*sets(64, 64, 8, seed=seed), seed, 20, 32) for seed in range(60)])
  values, errors = null.T
  assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
  assert (values < 0).sum() > 10, 'unbiased, so often below 0'
  assert errors.mean() > 0.8 * values.std()
  value, error = kernel.kid(*sets(64, 64, 8, wider=2.0), 0, 20, 32)
  assert value > 3 * error


def test_kid_error_is_that_of_fresh_samples():
  results = np.array([kernel.kid(*sets(200, 200, 8, wider=1.3, seed=seed), seed, 50, 50) for seed in range(60)])
  values, errors = results.T
  truth = np.mean([kernel.mmd2_unbiased(*sets(200, 200, 8, wider=1.3, seed=seed)) for seed in range(100, 200)])
  assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(60)
  assert 0.75 < errors.mean() / values.std() < 1.5


def test_block_plan():
  assert kernel.block_plan(10_000, 50_000) == (100, 1000)
  assert kernel.block_plan(10_000, 1500) == (100, 750)
  assert kernel.block_plan(5, 4) == (100, 2)
  assert kernel.block_plan(5000, 5000, 7, 10) == (7, 10)
  with pytest.raises(UserError, match='there are 3 and 50: give more'):
    kernel.block_plan(3, 50)
  with pytest.raises(UserError, match='1 of 1000 were asked'):
    kernel.block_plan(50, 50, 1)


@pytest.mark.parametrize(
  'figure',
  [
    lambda x, y: kernel.kid(x, y, 0),
    kernel.mmd2_unbiased,
    lambda x, y: sliced.sliced_wasserstein(x, y, 0),
  ],
  ids=['kid', 'mmd2', 'sliced'],
)
def test_figures_refuse_what_they_cannot_compare(figure):
  x, y = sets(10, 10, 4)
  with pytest.raises(UserError, match='same extractor'):
    figure(x, y[:, :3])
  with pytest.raises(UserError, match='same extractor'):
    figure(x[:, 0], y[:, 0])
  x[3, 2] = np.nan
  with pytest.raises(UserError, match='Some features are NaN'):
    figure(x, y)
  with pytest.raises(UserError, match='needs'):
    figure(x[:0], y)


# The sliced Wasserstein distance.


def test_sliced_is_zero_for_equal_sets():
  x, _ = sets(50, 1, 6)
  order = np.random.default_rng(0).permutation(50)
  assert sliced.sliced_wasserstein(x, x[order], 0) == (0.0, 0.0)
  assert sliced.sliced_wasserstein(x, np.repeat(x, 3, axis=0)[::-1], 0)[0] < 1e-6, 'by quantile, of any count'


def test_sliced_of_a_shift():
  x, _ = sets(300, 1, 12)
  shift = np.linspace(-1, 2, 12, dtype=np.float32)
  value, error = sliced.sliced_wasserstein(x + shift, x, 0, projections=1024)
  expected = np.linalg.norm(shift) / np.sqrt(12)
  assert abs(value - expected) < 4 * error
  assert error < 0.04 * expected


def test_sliced_far_from_zero():
  # Whole 64ths are exact in float32, with and without 1,000 added.
  x = (np.random.default_rng(0).integers(-64, 64, (50, 12)) / 64).astype(np.float32)
  y = x + np.float32(1 / 64)
  near, far = sliced.sliced_wasserstein(x, y, 0, 64), sliced.sliced_wasserstein(x + 1000, y + 1000, 0, 64)
  assert far == pytest.approx(near, rel=1e-4)


def test_sliced_of_gaussians():
  # A Gaussian against one twice as wide: each projection is at distance 1.
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(4000, 4)), 2 * rng.normal(size=(3000, 4))
  assert sliced.sliced_wasserstein(x, y, 0, projections=64)[0] == pytest.approx(1.0, abs=0.05)


def test_sliced_in_one_dimension_against_quantile_functions():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(7, 1)), rng.normal(1.0, 2.0, size=(5, 1))
  # Both quantile functions are constant over 35ths.
  fine = [np.repeat(np.sort(z[:, 0]), 35 // len(z)) for z in (x, y)]
  expected = np.sqrt(((fine[0] - fine[1]) ** 2).mean())
  value, error = sliced.sliced_wasserstein(x, y, 0, projections=2)
  assert value == pytest.approx(expected, rel=1e-5) and error == pytest.approx(0.0, abs=1e-6)
  # No less than the first-order distance of SciPy.
  assert value >= scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])


def test_sliced_error_is_that_of_the_directions():
  x, y = sets(40, 40, 5)
  y[:, 0] += 2
  results = np.array([sliced.sliced_wasserstein(x, y, seed, projections=64) for seed in range(50)])
  values, errors = results.T
  assert 0.7 < errors.mean() / values.std() < 1.4
