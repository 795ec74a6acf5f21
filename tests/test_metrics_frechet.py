"""Streamed moments, and the Frechet distance with its extrapolation and interval."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import tiny
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import frechet, moments

N, D = 2003, 24
ADD = jax.jit(moments.add)
MERGE = jax.jit(moments.merge)


def features(far=0.0, rows=N):
  """Correlated float32 features whose mean is `far` spreads from 0."""
  rng = np.random.default_rng(0)
  spread = rng.normal(size=(rows, D)) @ rng.normal(size=(D, D))
  return (spread + far * np.sqrt(D) * rng.choice([-1, 1], D)).astype(np.float32)


def streamed(x, batch, devices=1, shift=None, add=ADD):
  """Moments of x in padded batches whose padding holds NaN, over `devices` fake devices."""
  mesh = Mesh(np.asarray(jax.devices()[:devices]), ('data',), axis_types=(AxisType.Auto,))
  state = moments.empty(x.shape[1], shift)
  for start in range(0, len(x), batch):
    rows = x[start : start + batch]
    padded = np.full((batch, x.shape[1]), np.nan, np.float32)
    padded[: len(rows)] = rows
    mask = (np.arange(batch) < len(rows)).astype(np.float32)
    state = add(state, *jax.device_put((padded, mask), NamedSharding(mesh, PartitionSpec('data'))))
    # XLA's CPU devices share one pool of threads. With dozens of batches in flight, the sums of one can hold every
    # thread while they wait for a device whose data is queued behind them: a deadlock, which XLA ends by an abort.
    jax.block_until_ready(state)
  return state


def assert_moments(state, x, rtol=1e-6):
  """`state` are the moments of x by NumPy in float64, relative to the spread of the features."""
  exact = x.astype(np.float64)
  cov = np.cov(exact, rowvar=False)
  spread = np.sqrt(np.diag(cov))
  n, mean, got = moments.finish(state)
  assert n == len(x) and mean.dtype == got.dtype == np.float64
  assert np.abs((mean - exact.mean(0)) / spread).max() < rtol
  assert np.abs((got - cov) / np.outer(spread, spread)).max() < rtol


@pytest.mark.parametrize('far', [0.0, 3000.0])
@pytest.mark.parametrize(('batch', 'devices'), [(1001, 1), (32, 1), (32, 8), (1000, 1), (1000, 8), (2008, 8)])
def test_moments_depend_on_no_batch_size_device_count_or_mean(batch, devices, far):  # 1001: a last batch of one row
  x = features(far)
  assert_moments(streamed(x, batch, devices), x)


def test_moments_from_single_rows():
  x = features(100.0, 61)
  assert_moments(streamed(x, 1), x)


def test_an_empty_first_batch_sets_no_shift():
  x = features(3000.0)
  state = ADD(moments.empty(D), np.full((8, D), np.nan, np.float32), np.zeros(8))
  assert not state.anchored and state.n == 0 and not np.isnan(state.sum_hi).any()
  for start in range(0, N, 500):
    rows = x[start : start + 500]
    state = ADD(state, rows, np.ones(len(rows)))
  assert_moments(state, x)


def test_a_given_shift_is_kept():
  x = features(50.0)
  shift = x.mean(0) + 1
  state = streamed(x, 100, shift=shift)
  np.testing.assert_array_equal(state.shift, shift)
  assert_moments(state, x)


def test_many_batches_lose_nothing():
  # 4,096 equal batches: one sum in float32 would be off by 1e-5 or more.
  rows = np.random.default_rng(0).normal(1.0, 1.0, (8, 3)).astype(np.float32)
  shift, ones = np.zeros(3, np.float32), jnp.ones(8)
  loop = jax.jit(lambda state: jax.lax.fori_loop(0, 4096, lambda _, s: moments.add(s, rows, ones), state))
  n, mean, cov = moments.finish(loop(moments.empty(3, shift)))
  exact = np.tile(rows.astype(np.float64), (4096, 1))
  assert n == 4096 * 8
  np.testing.assert_allclose(mean, exact.mean(0), rtol=2e-7)
  np.testing.assert_allclose(cov, np.cov(exact, rowvar=False), rtol=0, atol=5e-7)


CORRECTION = """
import jax, jax.numpy as jnp
from gen_ai.evaluate.metrics.moments import two_add
big, one = jnp.float32(2**25), jnp.float32(1)
product = jax.jit(lambda hi, a: two_add(hi, 0 * hi, a * a))(big, one)
loop = jax.jit(lambda hi, a: jax.lax.fori_loop(0, 1000, lambda _, pair: two_add(*pair, a), (hi, 0 * hi)))(big, one)
print(*(float(part) for part in (*product, *loop)))
"""


def test_the_compiler_leaves_the_correction_in():
  # 2^25 + 1 is no float32: the 1 must turn up in the rest, also where it is a product and where a loop adds. In a
  # process of its own, with the optimiser that the tests here do without.
  done = tiny.command('-c', CORRECTION, env={'XLA_FLAGS': ''})
  assert done.returncode == 0, done.stderr
  once_hi, once_lo, loop_hi, loop_lo = map(float, done.stdout.split())
  assert (once_hi, once_lo) == (2.0**25, 1.0)
  assert loop_hi + loop_lo == 2.0**25 + 1000


@pytest.mark.parametrize('shift', [None, np.zeros(D, np.float32)], ids=['own shifts', 'one shift'])
def test_merge_is_one_stream(shift):
  x = features(20.0)
  parts = [streamed(part, 100, shift=shift) for part in (x[:37], x[37:1200], x[1200:])]
  assert_moments(MERGE(MERGE(*parts[:2]), parts[2]), x, 2e-6 if shift is None else 1e-4)
  assert_moments(MERGE(parts[0], MERGE(*parts[1:])), x, 2e-6 if shift is None else 1e-4)


def test_merge_with_nothing():
  x = features(3000.0)
  part = streamed(x, 500)
  for merged in (MERGE(part, moments.empty(D)), MERGE(moments.empty(D), part)):
    assert_moments(merged, x)


def test_moments_refuse_what_has_no_covariance():
  with pytest.raises(UserError, match='at least 2 samples, there are 1'):
    moments.finish(ADD(moments.empty(3), np.ones((4, 3)), np.array([1, 0, 0, 0])))
  with pytest.raises(UserError, match='NaN or infinite'):
    moments.finish(ADD(moments.empty(3), np.array([[1, 2, 3], [1, np.inf, 3.0]]), np.ones(2)))


# The Frechet distance.


def gaussian(n, low=0.0, dim=D):
  """(samples, mean, covariance) of n correlated samples; standard deviations fall to 10^low. Another n, other axes."""
  rng = np.random.default_rng(n)
  mix = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.logspace(0, low, dim)
  x = rng.normal(size=(n, dim)) @ mix.T + rng.normal(size=dim)
  return x, x.mean(0), np.cov(x, rowvar=False)


def by_sqrtm(mean1, cov1, mean2, cov2):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # it finds the product singular
    root = scipy.linalg.sqrtm(cov1 @ cov2)
  return ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2) - 2 * np.trace(root).real


def by_samples(x, y):
  """The trace of the root is the nuclear norm of the cross products of the samples: no root, and any rank."""
  a, b = (z - z.mean(0) for z in (x, y))
  traces = (a**2).sum() / (len(a) - 1) + (b**2).sum() / (len(b) - 1)
  nuclear = scipy.linalg.svdvals(a @ b.T).sum() / np.sqrt((len(a) - 1) * (len(b) - 1))
  return ((x.mean(0) - y.mean(0)) ** 2).sum() + traces - 2 * nuclear


PAIRS = {
  'well-conditioned': ((300, 0.0), (400, -0.5)),
  'near-singular': ((300, -5.0), (400, -5.0)),
  'one near-singular': ((300, 0.0), (400, -7.0)),
  'fewer samples than features': ((D // 2, 0.0), (400, 0.0)),
  'both fewer': ((D // 2, 0.0), (D // 3, 0.0)),
  'two samples': ((2, 0.0), (3, 0.0)),
}


@pytest.mark.parametrize('pair', PAIRS.values(), ids=PAIRS.keys())
def test_distance_against_independent_roots(pair):
  (x, *one), (y, *two) = (gaussian(*spec) for spec in pair)
  expected = by_samples(x, y)
  for value in (frechet.distance(*one, *two), frechet.distance(*two, *one)):
    assert isinstance(value, float)
    np.testing.assert_allclose(value, expected, rtol=1e-7)
  loose = 1e-9 if pair == PAIRS['well-conditioned'] else 1e-5  # what SciPy's own root is good for
  np.testing.assert_allclose(value, by_sqrtm(*one, *two), rtol=loose)


def test_distance_against_pytorch_fid():
  fid_score = pytest.importorskip('pytorch_fid.fid_score', reason='pytorch-fid is not installed')
  for pair in PAIRS.values():
    (_, *one), (_, *two) = (gaussian(*spec) for spec in pair)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      theirs = fid_score.calculate_frechet_distance(*one, *two)
    np.testing.assert_allclose(frechet.distance(*one, *two), theirs, rtol=1e-5)


def test_distance_of_diagonal_gaussians():
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(2, 5))
  sd = rng.uniform(0, 2, (2, 5))
  sd[0, 3] = sd[:, 4] = 0
  expected = ((mean[0] - mean[1]) ** 2).sum() + ((sd[0] - sd[1]) ** 2).sum()
  assert frechet.distance(mean[0], np.diag(sd[0] ** 2), mean[1], np.diag(sd[1] ** 2)) == pytest.approx(expected)
  assert frechet.distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]])) == pytest.approx(5.0)


@pytest.mark.parametrize('n', [D // 2, 500])
def test_distance_to_itself_is_zero(n):
  _, mean, cov = gaussian(n, -6.0)
  assert 0 <= frechet.distance(mean, cov, mean, cov) < 1e-6 * np.trace(cov)


def test_distance_stays_finite_with_eigenvalues_below_zero():
  _, mean, cov = gaussian(10)
  values, vectors = np.linalg.eigh(cov)
  values[0] = -1e-9
  broken = (vectors * values) @ vectors.T
  assert frechet.distance(mean, broken, mean, cov) < 1e-3
  assert frechet.distance(mean, np.zeros_like(cov), mean, cov) == pytest.approx(np.trace(cov))


def test_distance_refuses_what_is_no_gaussian():
  _, mean, cov = gaussian(50)
  with pytest.raises(UserError, match='same extractor'):
    frechet.distance(mean, cov, mean[:3], cov[:3, :3])
  with pytest.raises(UserError, match='NaN or infinite'):
    frechet.distance(mean, cov, mean, cov * np.nan)


def test_counts():
  with pytest.raises(UserError, match='samples.npy has 1: give more'):
    frechet.check_counts(1, 64, 'samples.npy')
  frechet.check_counts(2, 64, 'samples.npy')
  assert '64 samples of 64 features' in frechet.note(64, 64) and frechet.note(65, 64) == ''


# Without the bias of finite samples, and with an interval.

SD = np.linspace(0.8, 1.3, 16)
REFERENCE = np.zeros(16), np.eye(16)
TRUTH = 16 * 0.3**2 + ((SD - 1) ** 2).sum()


def draws(seed, n=400):
  return np.random.default_rng(seed).normal(0.3, SD, (n, 16))


def fd(x):
  return frechet.distance(x.mean(0), np.cov(x, rowvar=False), *REFERENCE)


def test_infinity_takes_the_bias_away_and_knows_its_error():
  results = np.array([frechet.infinity(draws(seed), REFERENCE, seed) for seed in range(60)])
  values, errors = results.T
  finite = np.array([fd(draws(seed)) for seed in range(60)])
  standard_error = values.std() / np.sqrt(60)
  assert finite.mean() - TRUTH > 6 * standard_error, 'there is a bias to take away'
  assert abs(values.mean() - TRUTH) < 3 * standard_error
  assert 0.75 < errors.mean() / values.std() < 1.3


@pytest.mark.parametrize('reference', [REFERENCE, gaussian(9, dim=16)[1:]], ids=['full rank', 'singular'])
def test_influence_is_the_derivative_by_weight(reference):
  projected = frechet._Projected(draws(0, 200), reference)
  steps = 1e-4 * np.eye(200)[:20]
  slopes = [(projected.distance(1 + step) - projected.distance(1 - step)) / 2e-4 for step in steps]
  np.testing.assert_allclose(200 * np.array(slopes), projected.influence()[:20], rtol=0.02, atol=0.05)


def test_infinity_is_a_function_of_its_seed():
  x = draws(0).astype(np.float32)
  assert frechet.infinity(x, REFERENCE, 1) == frechet.infinity(x, REFERENCE, 1)
  assert frechet.infinity(x, REFERENCE, 1) != frechet.infinity(x, REFERENCE, 2)


def test_infinity_with_fewer_samples_than_features():
  x, *_ = gaussian(40, dim=60)
  _, *reference = gaussian(500, dim=60)
  assert np.isfinite(frechet.infinity(x, reference, 0)).all()
  with pytest.raises(UserError, match='got 15 and 29 samples'):
    frechet.infinity(x[:29], reference, 0)


def test_bootstrap_covers_the_mean_of_its_count():
  # 95% of 50 should cover; fewer than 43 have a chance of 1 in 300.
  intervals = np.array([frechet.bootstrap(draws(seed, 200), REFERENCE, seed) for seed in range(50)])
  expected = np.mean([fd(draws(seed, 200)) for seed in range(1000, 1200)])
  covered = (intervals[:, 0] < expected) & (expected < intervals[:, 1])
  assert 43 <= covered.sum() <= 50
  spread = np.std([fd(draws(seed, 200)) for seed in range(1000, 1200)])
  assert np.diff(intervals).mean() / (2 * 1.96 * spread) == pytest.approx(1.0, abs=0.25), 'and is not wide for nothing'


def test_bootstrap_replicates_are_weighted_covariances():
  x = draws(3, 30)
  weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30)).astype(float)
  for reference in (REFERENCE, gaussian(9, dim=16)[1:]):  # of full rank, and singular
    repeated = np.repeat(x, weights.astype(int), axis=0)
    expected = frechet.distance(repeated.mean(0), np.cov(repeated, rowvar=False), *reference)
    assert frechet._Projected(x, reference).distance(weights) == pytest.approx(expected)


def test_bootstrap_refuses():
  with pytest.raises(UserError, match='at least 2 samples; the set of samples has 1'):
    frechet.bootstrap(draws(0, 1), REFERENCE, 0)
  with pytest.raises(UserError, match='at least 2 replicates'):
    frechet.bootstrap(draws(0), REFERENCE, 0, replicates=1)
  with pytest.raises(UserError, match='same extractor'):
    frechet.bootstrap(draws(0)[:, :3], REFERENCE, 0)
