"""Nearest neighbours and PRDC against all pairs in float64, on one device and eight, for any block size."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import neighbours
from gen_ai.evaluate.metrics.prdc import prdc


def mesh(devices=8):
  return Mesh(np.asarray(jax.devices()[:devices]).reshape(2, -1), ('data', 'fsdp'))


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def all_pairs(x, y):
  """float64 [n, m]."""
  return np.sqrt(((x[:, None].astype(np.float64) - y[None]) ** 2).sum(-1))


def brute(x, y, k, exclude_self=False):
  """(distances, indices) of the k nearest; of equals the lowest index."""
  distances = all_pairs(x, y)
  if exclude_self:
    np.fill_diagonal(distances, np.inf)
  order = np.argsort(distances, axis=1, kind='stable')[:, :k]
  return np.take_along_axis(distances, order, 1), order


CASES = {
  'plain': (normal(0, 150, 7), normal(1, 330, 7)),
  'wide': (normal(2, 40, 600), normal(3, 90, 600)),
  'far from zero': (normal(4, 100, 5) + 1e4, normal(5, 200, 5) + 1e4),
  'a line': (normal(6, 300, 1), normal(7, 700, 1)),  # denser than fp32 products can rank
  'on a grid': (np.round(normal(8, 200, 2) * 2), np.round(normal(9, 300, 2) * 2)),  # ties and copies
  'an outlier': (normal(10, 50, 3), np.concatenate([normal(11, 100, 3), np.full((1, 3), 1e30, np.float32)])),
  'all equal': (np.ones((30, 4), np.float32), np.ones((50, 4), np.float32)),
  'tight groups': (
    normal(12, 5, 8).repeat(30, 0) + 1e-4 * normal(13, 150, 8),
    normal(12, 5, 8).repeat(40, 0) + 1e-4 * normal(14, 200, 8),
  ),
}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('exclude_self', [False, True])
def test_nearest_are_those_of_all_pairs(name, exclude_self):
  x, y = CASES[name]
  x = y if exclude_self else x
  distances, indices = neighbours.nearest(x, y, 5, exclude_self)
  expected, order = brute(x, y, 5, exclude_self)
  assert distances.dtype == np.float32 and indices.dtype == np.int32
  np.testing.assert_array_equal(indices, order)
  np.testing.assert_allclose(distances, expected, rtol=1e-6)


@pytest.mark.parametrize('name', ['plain', 'a line', 'on a grid', 'tight groups'])
@pytest.mark.parametrize('blocks', [neighbours.BLOCKS, (16, 64), (64, 16)])
@pytest.mark.parametrize('devices', [1, 8])
def test_neighbours_and_counts_are_the_same_on_any_devices_in_any_blocks(name, blocks, devices):
  x, y = CASES[name]
  where = mesh() if devices == 8 else None
  expected, order = brute(x, y, 3)
  distances, indices = neighbours.nearest(x, y, 3, mesh=where, blocks=blocks)
  np.testing.assert_array_equal(indices, order)
  np.testing.assert_array_equal(distances, neighbours.nearest(x, y, 3)[0])
  radii = neighbours.nearest(y, y, 5, exclude_self=True)[0][:, -1]
  counts = neighbours.count_balls(x, y, radii, where, blocks)
  np.testing.assert_array_equal(counts, np.sum(all_pairs(x, y).astype(np.float32) <= radii, 1))


def test_a_copy_is_at_distance_zero_and_a_near_one_at_its_own():
  y = 100 + normal(0, 500, 64)
  x = y[100:200].copy()
  x[50:, 0] += 0.001
  distances, indices = neighbours.nearest(x, y, 1)
  np.testing.assert_array_equal(indices[:, 0], np.arange(100, 200))
  assert not distances[:50].any()
  np.testing.assert_allclose(distances[50:, 0], x[50:, 0] - y[150:200, 0], rtol=1e-6)


@pytest.fixture
def searched_whole(monkeypatch):
  """The rows that are searched whole."""
  rows, search = [], neighbours._row_distances
  monkeypatch.setattr(neighbours, '_row_distances', lambda x, y, row: rows.append(row) or search(x, y, row))
  return rows


@pytest.mark.parametrize('k', [1, 3, 12])
def test_all_references_can_be_asked_for(k, searched_whole):
  x, y = normal(0, 9, 4), normal(1, 12, 4)
  np.testing.assert_array_equal(neighbours.nearest(x, y, k)[1], brute(x, y, k)[1])
  np.testing.assert_array_equal(neighbours.nearest(y, y, 11, exclude_self=True)[1], brute(y, y, 11, True)[1])
  neighbours.nearest(np.ones((5, 2)), np.ones((7, 2)), min(k, 7))
  assert not searched_whole


@pytest.mark.parametrize('shift', [0, 1e4])  # centring takes care of it
@pytest.mark.parametrize('m', [8, 700])
def test_plain_data_is_searched_once(shift, m, searched_whole, monkeypatch):
  sweeps, sweep = [], neighbours._sweep
  monkeypatch.setattr(neighbours, '_sweep', lambda *args: sweeps.append(args) or sweep(*args))
  x, y = shift + normal(0, 300, 16), shift + normal(1, m, 16)
  radii = neighbours.nearest(y, y, 5, exclude_self=True)[0][:, -1]
  neighbours.nearest(x, y, 5)
  neighbours.count_balls(x, y, radii)
  assert len(sweeps) == 3 and not searched_whole


@pytest.mark.parametrize('noise', [0, 1e-5])
def test_a_collapsed_set_is_searched_whole_once_a_mode_or_with_more_kept(noise, searched_whole):
  modes = normal(0, 3, 8)
  x = modes.repeat(150, 0) + np.float32(noise) * normal(1, 450, 8)
  distances, indices = neighbours.nearest(x, x, 2, exclude_self=True)
  np.testing.assert_array_equal(indices, brute(x, x, 2, True)[1])
  radii = distances[:, -1]
  counts = neighbours.count_balls(x, x, radii)
  np.testing.assert_array_equal(counts, np.sum(all_pairs(x, x).astype(np.float32) <= radii, 1))
  assert len(searched_whole) == (0 if noise else 6)


def test_many_references_share_one_program():
  neighbours._step.clear_cache()
  for n, m in ((100, 200), (120, 250), (128, 256)):
    neighbours.nearest(normal(0, n, 6), normal(1, m, 6), 4)
  assert neighbours._step._cache_size() == 1


@pytest.mark.parametrize(
  ('x', 'y', 'k', 'says'),
  [
    (normal(0, 3, 4), normal(1, 5, 4), 6, '6 nearest neighbours were asked for among 5'),
    (normal(0, 3, 4), normal(1, 5, 4), 0, '0 nearest neighbours'),
    (normal(0, 3, 4), normal(1, 5, 3), 1, 'the widths 4 and 3 differ'),
    (normal(0, 3, 4), np.zeros((0, 4)), 1, r'references must be \[number, width\]'),
    (np.float32([[0, 1], [np.nan, 0]]), normal(1, 5, 2), 1, 'queries hold values that are not finite, first in row 1'),
  ],
)
def test_bad_input_is_refused(x, y, k, says):
  with pytest.raises(UserError, match=says):
    neighbours.nearest(x, y, k)


def plain_prdc(samples, real, k):
  """Straight from the definitions."""
  real_radii = brute(real, real, k, True)[0][:, -1]
  sample_radii = brute(samples, samples, k, True)[0][:, -1]
  pairs = all_pairs(samples, real)
  in_real = pairs <= real_radii
  return {
    'precision': in_real.any(1).mean(),
    'recall': (pairs <= sample_radii[:, None]).any(0).mean(),
    'density': in_real.sum() / (k * len(samples)),
    'coverage': in_real.any(0).mean(),
  }


@pytest.mark.parametrize('k', [1, 5])
@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('spread', [0.3, 1.0, 2.0])
def test_prdc_is_that_of_the_definitions(k, devices, spread):
  samples, real = 0.5 + spread * normal(0, 180, 6), normal(1, 260, 6)
  figures = prdc(samples, real, k, mesh() if devices == 8 else None)
  for name, value in plain_prdc(samples, real, k).items():
    np.testing.assert_allclose(figures[name][0], value, rtol=1e-12, err_msg=name)


def test_prdc_counts_the_rims_of_balls():
  samples, real = np.round(1.5 * normal(0, 80, 2)), np.round(2 * normal(1, 60, 2))
  figures = prdc(samples, real, 2)
  assert {name: value for name, (value, _) in figures.items()} == pytest.approx(plain_prdc(samples, real, 2))


def test_prdc_of_the_real_examples_themselves():
  real = normal(0, 300, 4)
  figures = {name: value for name, (value, _) in prdc(real, real).items()}
  # A ball holds its centre and its 5 neighbours.
  assert figures == {'precision': 1.0, 'recall': 1.0, 'density': pytest.approx(6 / 5), 'coverage': 1.0}


def test_prdc_of_disjoint_sets_is_zero():
  assert prdc(normal(0, 50, 4), 100 + normal(1, 50, 4)) == dict.fromkeys(
    ('precision', 'recall', 'density', 'coverage'), (0.0, 0.0)
  )


def test_prdc_of_a_lost_mode():
  real = np.concatenate([normal(0, 200, 3), 50 + normal(1, 200, 3)])
  figures = {name: value for name, (value, _) in prdc(normal(2, 400, 3), real).items()}
  assert figures['precision'] > 0.8 and figures['density'] > 0.8
  assert figures['recall'] < 0.5 and figures['coverage'] <= 0.5


def test_standard_errors_are_those_of_fresh_draws_of_the_samples():
  real = normal(0, 200, 3)
  draws = [prdc(1.5 * normal(10 + i, 200, 3), real) for i in range(40)]
  for name in ('precision', 'density'):
    values, errors = np.array([draw[name] for draw in draws]).T
    assert 0.7 < errors.mean() / values.std(ddof=1) < 1.4, name


@pytest.mark.parametrize(('n', 'm', 'says'), [(5, 50, '5 samples|there are 5'), (50, 5, 'reference examples')])
def test_too_few_for_prdc_is_refused(n, m, says):
  with pytest.raises(UserError, match=says):
    prdc(normal(0, n, 3), normal(1, m, 3))
