"""Inception score, MS-SSIM and spread: closed forms, and an independent computation."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import tiny

from gen_ai.core.errors import DONE, UserError
from gen_ai.data import spread
from gen_ai.data.dataset import from_arrays
from gen_ai.evaluate.metrics import inception_score, ms_ssim
from gen_ai.maths.pixels import to_signed
from gen_ai.run import directory

score = inception_score.inception_score


def test_score_of_no_information_is_one():
  assert score(np.full((50, 7), 3.0)) == pytest.approx((1.0, 0.0))
  assert score(np.tile(np.random.default_rng(0).normal(size=7), (50, 1))) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize('low', [-200.0, -np.inf])
def test_score_of_sure_and_balanced_classes_is_their_number(low):
  logits = np.where(np.eye(5)[np.arange(100) % 5], 0.0, low).astype(np.float32)
  assert score(logits) == pytest.approx((5.0, 0.0))


def test_score_by_its_formula_from_logits_or_log_probabilities():
  logits = np.random.default_rng(0).normal(0, 3, (103, 6))
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  parts = [probs[start:stop] for start, stop in ((0, 34), (34, 68), (68, 103))]
  each = [np.exp(np.mean([sum(p * np.log(p / part.mean(0))) for p in part])) for part in parts]
  assert score(logits, 3) == pytest.approx((np.mean(each), np.std(each)))
  assert score(np.log(probs), 3) == pytest.approx(score(logits, 3))
  assert score(logits + 1e4, 3) == pytest.approx(score(logits, 3))


def test_score_refuses():
  with pytest.raises(UserError, match='there are 9'):
    score(np.zeros((9, 3)))
  for bad in (np.nan, np.inf):
    logits = np.zeros((20, 3))
    logits[4, 1] = bad
    with pytest.raises(UserError, match='NaN or infinite'):
      score(logits)
  with pytest.raises(UserError, match='NaN or infinite'):
    score(np.full((20, 3), -np.inf))


# MS-SSIM.


def smooth(n, H, W, C, seed=0):
  """Smooth random uint8 images."""
  noise = np.random.default_rng(seed).normal(size=(n, H, W, C))
  blurred = scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0), mode='wrap')
  return np.clip(128 + 400 * blurred, 0, 255).astype(np.uint8)


def plain(x, y, weights):
  """MS-SSIM of two images [H, W, C] by SciPy in float64."""
  weights = np.asarray(weights) / np.sum(weights)
  channels = []
  for a, b in zip(np.moveaxis(x.astype(float), -1, 0), np.moveaxis(y.astype(float), -1, 0), strict=True):
    size = min(11, *a.shape)
    at = np.arange(size) - (size - 1) / 2
    line = np.exp(-(at**2) / (2 * (1.5 * size / 11) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    product = 1.0
    for scale, weight in enumerate(weights):
      ma, mb, aa, bb, ab = (
        np.tensordot(np.lib.stride_tricks.sliding_window_view(z, window.shape), window, 2)
        for z in (a, b, a * a, b * b, a * b)
      )
      va, vb, vab = aa - ma**2, bb - mb**2, ab - ma * mb
      index = (2 * vab + 58.5225) / (va + vb + 58.5225)
      if scale == len(weights) - 1:
        index = index * (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
      product *= max(index.mean(), 0) ** weight
      # Mirrored at an odd edge, then every other one of the 2 x 2 means, as in the authors' code.
      a, b = (scipy.ndimage.uniform_filter(z, 2, mode='reflect', origin=-1)[::2, ::2] for z in (a, b))
    channels.append(product)
  return np.mean(channels)


@pytest.mark.parametrize(
  ('shape', 'count'),
  [
    ((28, 28, 1), 2),
    ((32, 32, 3), 2),
    ((45, 61, 2), 3),
    ((161, 170, 1), 5),
    ((11, 11, 1), 1),
    ((8, 20, 2), 1),
  ],
)
def test_ms_ssim_against_scipy(shape, count):
  H, W, _ = shape
  assert ms_ssim.scales(H, W) == count
  x = smooth(3, *shape)
  noise = np.random.default_rng(1).normal(0, 40, x.shape)
  y = np.clip(x + noise, 0, 255).astype(np.uint8)
  y[2] = smooth(1, *shape, seed=5)[0]
  got = ms_ssim.ms_ssim(jnp.asarray(x), jnp.asarray(y))
  expected = [plain(a, b, ms_ssim.WEIGHTS[:count]) for a, b in zip(x, y, strict=True)]
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(ms_ssim.ms_ssim(x.astype(np.float32), y.astype(np.float32)), got, rtol=1e-6)


def test_scales_are_as_large_as_the_window():
  assert [ms_ssim.scales(side, 500) for side in (1, 20, 21, 160, 161, 500)] == [1, 1, 2, 4, 5, 5]


def test_equal_images_are_one_and_noise_lowers_it():
  x = smooth(2, 64, 64, 3).astype(np.float32)
  noise = np.random.default_rng(1).normal(size=x.shape)
  values = [float(ms_ssim.ms_ssim(x, np.clip(x + sd * noise, 0, 255)).mean()) for sd in (0, 10, 30, 90)]
  assert values[0] == pytest.approx(1.0, abs=1e-6)
  assert all(a > b + 0.005 for a, b in zip(values, values[1:], strict=False))
  white = np.full((2, 64, 64, 3), 255.0, np.float32)
  np.testing.assert_allclose(ms_ssim.ms_ssim(white, white), 1, atol=1e-6)


def test_opposite_images_are_zero_not_nan():
  x = smooth(1, 28, 28, 1)
  assert float(ms_ssim.ms_ssim(x, 255 - x)[0]) == 0.0


def test_diversity():
  images = smooth(41, 28, 28, 1)
  mean, error = ms_ssim.diversity(images, seed=0)
  everything = [plain(a, b, ms_ssim.WEIGHTS[:2]) for i, a in enumerate(images[:20]) for b in images[:i]]
  assert 0 < mean < 0.5 and abs(mean - np.mean(everything)) < 4 * error
  assert ms_ssim.diversity(images, seed=0) == (mean, error) != ms_ssim.diversity(images, seed=1)
  same = np.tile(images[:1], (10, 1, 1, 1))
  assert ms_ssim.diversity(same, seed=0) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_diversity_pairs_are_distinct_and_used_once():
  # Of two kinds of images in equal shares, a pair of one sample with itself would be of one kind too often.
  kinds = smooth(2, 12, 12, 1)[np.arange(400) % 2]
  cross = float(ms_ssim.ms_ssim(kinds[:1], kinds[1:2])[0])
  mean, error = ms_ssim.diversity(kinds, 0)
  assert error == pytest.approx((1 - cross) / 2 / np.sqrt(200), rel=0.05)
  assert abs(mean - (1 + cross) / 2) < 3 * error
  greys = np.uint8([0, 60, 120, 180])[:, None, None, None] * np.ones((9, 9, 1), np.uint8)
  for seed in range(10):
    assert ms_ssim.diversity(greys, seed)[0] < 0.8, 'no sample was compared with itself'


def test_pair_plan():
  assert [ms_ssim.pair_plan(n) for n in (4, 401, 2000, 10_000)] == [2, 200, 1000, 1000]
  assert ms_ssim.pair_plan(1000, 10) == 10
  with pytest.raises(UserError, match='1000 pairs of 3 samples'):
    ms_ssim.pair_plan(3)


@pytest.mark.parametrize('images', [np.zeros((8, 28, 28), np.uint8), np.zeros((8, 28, 28, 1), np.float32)])
def test_diversity_refuses_what_are_no_images(images):
  with pytest.raises(UserError, match='compares images uint8'):
    ms_ssim.diversity(images, 0)


def test_spread_is_the_standard_deviation_of_a_pixel_over_images():
  images = np.random.default_rng(0).uniform(-1, 1, (300, 4, 5, 3)).astype(np.float32)
  assert spread.of_images(images) == pytest.approx(images.std(0, ddof=1).mean(), rel=1e-6)
  few = np.mean([spread.of_images(images[i : i + 3]) for i in range(0, 300, 3)])
  assert few == pytest.approx(spread.of_images(images), rel=0.15)  # not low for being few: 0.71 of it with n below
  assert spread.of_images(np.float32([[[[-1.0]]], [[[1.0]]]])) == pytest.approx(2**0.5)
  assert spread.of_images(np.repeat(images[:1], 64, 0)) == 0.0


def test_spread_of_data_is_that_of_its_levels_read_evenly(monkeypatch):
  levels = np.random.default_rng(1).integers(0, 256, (700, 4, 4, 1), np.uint8)
  levels[350:] //= 8  # a set that is sorted, as folders are
  parts = {name: {'image': levels} for name in ('train', 'validation', 'test')}
  train = from_arrays('made', parts).splits['train']
  whole = to_signed(levels).std(0, ddof=1).mean()
  assert spread.of_source(train) == pytest.approx(whole, rel=1e-6)
  monkeypatch.setattr(spread, '_MOST', 100)
  spread.of_source.cache_clear()
  assert spread.of_source(train) == pytest.approx(to_signed(levels[::7]).std(0, ddof=1).mean(), rel=1e-6)


def test_every_evaluation_tells_the_spread_of_its_samples(tmp_path):
  config = tiny.config('gan', run__sample_every=0, eval__best='spread:max')
  code, trainer = tiny.run(config, tmp_path / 'gan')
  assert code == DONE
  rows = [row for row in directory.read_metrics(tmp_path / 'gan') if row['kind'] == 'eval']
  assert [row['step'] for row in rows] == [4, 8] and rows[0]['spread'] != rows[1]['spread']
  assert [path.name for path in (tmp_path / 'gan' / 'samples').iterdir()] == ['step_00000008.png']
  abstract = trainer.program.abstract_state()
  for row, (_, state) in zip(rows, (trainer.lanes[0].restore(abstract, step) for step in (4, 8)), strict=True):
    (images,) = tiny.samples(trainer.program, state, 8)
    assert row['spread'] == pytest.approx(to_signed(images).std(0, ddof=1).mean(), rel=1e-5)
  trainer.config = tiny.config('gan', sample__n=1)
  assert trainer._quick() == []
