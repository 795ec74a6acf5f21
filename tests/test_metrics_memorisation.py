"""C_T is calibrated and finds copies; the audit finds duplicates; its parts against scipy."""

import numpy as np
import pytest
from scipy import stats

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import memorisation
from gen_ai.evaluate.metrics.memorisation import Examples, audit, copying, copying_statistic, pairs_picture, rank_z


def mixture(rng, n, width=2):
  """Four groups of unlike size and spread."""
  group = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
  return (6.0 * np.eye(4, width)[group] + (1 + group[:, None]) * rng.standard_normal((n, width))).astype(np.float32)


def simulate(seed, make, n=300):
  rng = np.random.default_rng(seed)
  train = mixture(rng, 400)
  return copying(make(rng, train, n), train, mixture(rng, n), seed, cells=4)


def fresh(rng, train, n):
  return mixture(rng, n)


def copies(rng, train, n):
  """A third are training examples with a little noise."""
  samples = mixture(rng, n)
  samples[: n // 3] = train[rng.choice(len(train), n // 3)] + 0.01 * rng.standard_normal((n // 3, 2))
  return samples


def underfit(rng, train, n):
  return mixture(rng, n) + 2 * rng.standard_normal((n, 2)).astype(np.float32)


def test_p_values_of_fresh_data_are_uniform():
  results = [simulate(seed, fresh) for seed in range(200)]
  assert stats.kstest([r.p_value for r in results], 'uniform').pvalue > 0.01
  assert stats.kstest([r.z for r in results], 'norm').pvalue > 0.01
  assert 0.85 < np.std([r.z for r in results]) < 1.15
  assert max(r.cells_used for r in results) == 4


@pytest.mark.parametrize('seed', range(3))
def test_copies_are_found_and_underfitting_is_not_called_copying(seed):
  copied, blurred = simulate(seed, copies), simulate(seed, underfit)
  assert copied.p_value < 1e-3 and copied.c_t < -1 and copied.z < -3
  assert blurred.p_value > 0.5 and blurred.c_t > 0


def test_rank_z_is_that_of_scipy_with_and_without_ties():
  rng = np.random.default_rng(0)
  for first, second in (
    (rng.normal(size=30), rng.normal(0.3, 1, 50)),
    (rng.integers(0, 6, 40), rng.integers(1, 6, 25)),
  ):
    expected = stats.mannwhitneyu(first, second, use_continuity=False, alternative='less', method='asymptotic').pvalue
    np.testing.assert_allclose(stats.norm.cdf(rank_z(first, second)), expected, rtol=1e-9)
  assert rank_z(np.ones(4), np.ones(3)) is None


def test_c_t_is_the_weighted_mean_over_cells_with_enough():
  rng = np.random.default_rng(0)
  here, fresh_ = rng.random(95), rng.random(130)
  cell, fresh_cell = np.repeat([0, 1, 2], [50, 30, 15]), np.repeat([0, 1, 2], [60, 20, 50])
  result = copying_statistic(here, fresh_, cell, fresh_cell, 4)
  scores = [rank_z(here[cell == i], fresh_[fresh_cell == i]) for i in (0, 1)]
  assert (result.cells, result.cells_used) == (4, 2) and result.heldout_share == 80 / 130
  np.testing.assert_allclose(result.c_t, (60 * scores[0] + 20 * scores[1]) / 80)
  np.testing.assert_allclose(result.z, (60 * scores[0] + 20 * scores[1]) / np.hypot(60, 20))
  assert result.p_value == stats.norm.cdf(result.z)


def test_too_little_for_c_t_is_refused():
  x = np.arange(19.0)
  with pytest.raises(UserError, match='none of 1 has that with 19 samples and 19 held-out examples'):
    copying_statistic(x, x, np.zeros(19, int), np.zeros(19, int), 1)
  with pytest.raises(UserError, match='unlike distances'):
    copying_statistic(np.zeros(30), np.zeros(30), np.zeros(30, int), np.zeros(30, int), 1)
  with pytest.raises(UserError, match='5 cells were asked for with 4 training examples'):
    copying(np.eye(4), np.eye(4), np.eye(4), 0, cells=5)


def test_the_partition_finds_groups_and_follows_its_seed():
  rng = np.random.default_rng(0)
  centres = 20 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
  x = np.repeat(centres, 50, 0) + rng.standard_normal((200, 2)).astype(np.float32)
  found = memorisation._kmeans(x, 4, 3, None)
  np.testing.assert_array_equal(found, memorisation._kmeans(x, 4, 3, None))
  means = x.reshape(4, 50, 2).mean(1)
  np.testing.assert_allclose(found[np.lexsort(np.round(found / 20).T[::-1])], means, atol=1e-4)
  assert np.isfinite(memorisation._kmeans(np.ones((9, 2), np.float32), 3, 0, None)).all(), 'fewer examples than cells'


def images(seed, n):
  return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1), np.uint8)


def examples(pictures):
  return Examples(pictures, pictures.reshape(len(pictures), -1) / np.float32(255))


@pytest.fixture(scope='module')
def sets():
  """(samples with 30 copies, 7 near copies and 12 repeats; training set; held-out examples with one of training)."""
  samples, train, heldout = images(0, 400), images(1, 500), images(2, 400)
  samples[:30] = train[100:130]
  samples[30:37] = train[200:207]
  samples[30:37, 0, 0, 0] ^= 1
  samples[388:] = samples[50:62]
  heldout[9] = train[17]
  heldout[10] = train[18]
  heldout[10, 1, 1, 0] ^= 8
  return samples, train, heldout


def test_the_audit_finds_copies(sets):
  samples, train, heldout = sets
  found = audit(*map(examples, sets), seed=0)
  assert (found.exact, found.exact_share) == (30, 30 / 400)
  assert (found.exact_heldout, found.exact_heldout_share) == (1, 1 / 400)
  assert (found.repeated, found.repeated_share) == (12, 12 / 400)
  np.testing.assert_array_equal(found.train_index[:37], [*range(100, 130), *range(200, 207)])
  assert not found.train_distance[:30].any() and found.train_distance[30:].all()
  distances = np.linalg.norm((samples[:, None] / 255 - heldout[None] / 255).reshape(400, 400, -1), axis=-1)
  np.testing.assert_array_equal(found.heldout_index, distances.argmin(1))
  np.testing.assert_allclose(found.heldout_distance, distances.min(1), rtol=1e-5)
  np.testing.assert_array_equal(found.pairs, [[i, 100 + i] for i in range(10)])
  assert found.pairs.dtype == np.int32 and not found.pair_distances.any()
  assert found.copying == copying(*(x.features for x in map(examples, sets)), seed=0)
  assert found.copying.cells == 2


def test_near_copies_are_counted_against_what_chance_gives(sets):
  samples, train, heldout = sets
  heldout = np.concatenate([heldout, images(3, 1200)])
  found = audit(examples(samples), examples(train), examples(heldout), seed=0)
  # The quantile of 1,600 is the second of them: the one that differs by 8 levels.
  assert found.near_distance == pytest.approx(8 / 255)
  assert (found.near, found.near_share) == (37, 37 / 400)
  assert found.near_heldout_share == 2 / 1600 and found.near_chance == 2 / 1601


def test_copies_are_found_whatever_the_features_say(sets):
  blind = [Examples(x, np.random.default_rng(i).standard_normal((len(x), 3))) for i, x in enumerate(sets)]
  found = audit(*blind, seed=0)
  assert (found.exact, found.repeated, found.exact_heldout) == (30, 12, 1)


def test_an_honest_model_passes():
  found = audit(*(examples(images(i, 400)) for i in range(3)), seed=0)
  assert found.exact == found.repeated == found.exact_heldout == 0
  assert found.near_share < 0.02 and 0.001 < found.copying.p_value < 0.999


def test_the_picture_has_samples_above_their_training_examples(sets):
  samples, train, _ = sets
  found = audit(*map(examples, sets), seed=0)
  picture = pairs_picture(samples, train, found.pairs)
  assert picture.shape == (20, 4, 4, 1) and picture.dtype == np.uint8
  np.testing.assert_array_equal(picture[:10], samples[:10])
  np.testing.assert_array_equal(picture[10:], train[100:110])


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (lambda x: Examples(x.images[:, :3], x.features), r'samples are uint8 \[400, 3, 4, 1\]|training images are uint8'),
    (lambda x: Examples(x.images / 255, x.features), 'the samples are float64'),
    (lambda x: Examples(x.images[1:], x.features), 'there are 399 samples but 400 rows of features'),
  ],
)
def test_bad_images_are_refused(sets, change, says):
  samples, train, heldout = map(examples, sets)
  with pytest.raises(UserError, match=says):
    audit(change(samples), train, heldout, seed=0)
