"""Augmentation against NumPy and SciPy: the identity, exact moves, chances, colours, gradients, and the controller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from gen_ai.core.errors import UserError
from gen_ai.maths import augment

H = 12


def images(n=4, channels=3, height=H, width=H, seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(-0.9, 0.9, (n, height, width, channels)), jnp.float32)


def keys(n=4, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('shape', [(12, 12), (9, 14)])
def test_nothing_happens_at_probability_zero(channels, shape):
  x = images(channels=channels, height=shape[0], width=shape[1])
  augmented = jax.jit(augment.ada_augment)
  np.testing.assert_array_equal(augmented(x, keys(), jnp.float32(0.0)), x)
  assert np.abs(augmented(x, keys(), jnp.float32(1.0)) - x).max() > 0.1


@pytest.mark.parametrize('fn', [augment.diff_augment, lambda x, k: augment.ada_augment(x, k, jnp.float32(0.7))])
def test_an_image_fares_alike_in_any_batch(fn):
  x, k, fn = images(6), keys(6), jax.jit(fn)
  np.testing.assert_allclose(fn(x, k)[2:4], fn(x[2:4], k[2:4]), atol=1e-6)
  assert np.abs(fn(x[:1].repeat(2, 0), k[:2])[0] - fn(x[:1].repeat(2, 0), k[:2])[1]).max() > 1e-2


@pytest.mark.parametrize('turns', [0, 1, 2, 3])
def test_quarter_turns_are_exact(turns):
  (x,) = images(1)
  found = np.asarray(augment.resample(x, augment._quarter_turns(jnp.int32(turns))))
  assert any(np.array_equal(found, np.rot90(x, k)) for k in ({0: (0,), 2: (2,)}.get(turns, (1, 3))))


def test_flips_and_whole_translations_are_exact():
  (x,) = images(1)
  np.testing.assert_array_equal(augment.resample(x, augment._scale(jnp.float32(1.0), jnp.float32(-1.0))), x[:, ::-1])
  # The result at (i, j) is x at (i + 2, j - 3), mirrored at the outermost pixels.
  moved = augment.resample(x, augment._shift(jnp.float32(2.0), jnp.float32(-3.0)))
  padded = np.pad(x, ((0, 2), (3, 0), (0, 0)), mode='reflect')
  np.testing.assert_array_equal(moved, padded[2:, :H])


@pytest.mark.parametrize('angle', [0.3, -1.1, 2.5])
def test_rotation_and_scaling_are_those_of_scipy(angle):
  (x,) = images(1, channels=1)
  matrix = augment._turn(jnp.float32(angle)) @ augment._scale(jnp.float32(1.2), jnp.float32(0.8))
  found = np.asarray(augment.resample(x, matrix))[..., 0]
  A, centre = np.asarray(matrix, np.float64)[:2, :2], np.full(2, (H - 1) / 2)
  expected = ndimage.affine_transform(np.asarray(x)[..., 0], A, centre - A @ centre, order=1, mode='mirror')
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9])
def test_transforms_apply_with_the_probability_asked_for(p):
  n = 2000
  of = lambda group: jax.vmap(lambda k: augment.geometric_matrix(k, jnp.float32(p), (H, H), (group,)))  # noqa: E731
  eye = np.eye(3)
  # A flip, a quarter turn and a translation: of what applies, 1 of 2, 1 of 4 and a few do nothing.
  linear = np.abs(np.asarray(of('blit')(keys(n)))[:, :2, :2] - eye[:2, :2]).max((1, 2)) > 0
  flips, turns = p / 2, p * 3 / 4
  unchanged = (1 - flips) * (1 - turns)  # a flip is no turn, so no two undo each other
  assert stats.binomtest(int(linear.sum()), n, 1 - unchanged).pvalue > 1e-4
  # Translation by chance alone in 'geometric': its column is untouched with probability 1 - p.
  moved = np.abs(np.asarray(of('geometric')(keys(n)))[:, :2, 2]).max(1) > 0
  assert stats.binomtest(int(moved.sum()), n, p).pvalue > 1e-4
  # Either of two turns happens with probability p; the linear part also scales twice.
  changed = np.abs(np.asarray(of('geometric')(keys(n)))[:, :2, :2] - eye[:2, :2]).max((1, 2)) > 0
  assert stats.binomtest(int(changed.sum()), n, 1 - (1 - p) ** 3).pvalue > 1e-4
  coloured = jax.vmap(lambda k: augment.colour_matrix(k, jnp.float32(p)))(keys(n))
  offset = np.abs(np.asarray(coloured)[:, :3, 3]).max(1) > 0
  assert stats.binomtest(int(offset.sum()), n, p).pvalue > 1e-4


def test_an_oblong_image_is_turned_half_round_only():
  matrices = jax.vmap(lambda k: augment.geometric_matrix(k, jnp.float32(1.0), (8, 12), ('blit',)))(keys(100))
  linear = np.asarray(matrices)[:, :2, :2]
  assert (linear[:, 0, 1] == 0).all() and {-1.0, 1.0} == set(np.unique(linear[:, 0, 0]))
  shifts = np.abs(np.asarray(matrices)[:, :2, 2])
  assert shifts[:, 0].max() == 1.0 and shifts[:, 1].max() in (1.0, 2.0)


def test_colours_keep_grey_grey_and_luma_where_they_should():
  matrices = np.asarray(jax.vmap(lambda k: augment.colour_matrix(k, jnp.float32(1.0)))(keys(50)))
  grey = matrices[:, :3, :3] @ np.ones(3)
  np.testing.assert_allclose(grey, grey[:, :1].repeat(3, 1), atol=1e-5)  # hue and saturation leave the grey axis alone
  np.testing.assert_allclose(matrices[:, 3], np.broadcast_to([0, 0, 0, 1.0], (50, 4)), atol=1e-6)
  # A colour off the axis: what brightness, contrast and flip make of its luma does not depend on its hue.
  color = np.array([0.6, -0.3, -0.3])
  np.testing.assert_allclose((matrices[:, :3, :3] @ color).sum(1), np.zeros(50), atol=1e-5)
  # An image of one channel sees the same on the grey axis.
  x = images(1, channels=1)[0]
  np.testing.assert_allclose(
    augment.recolour(x, jnp.asarray(matrices[0]))[..., 0],
    augment.recolour(x.repeat(3, -1), jnp.asarray(matrices[0]))[..., 1],
    atol=1e-5,
  )


def test_brightness_has_its_published_spread():
  n = 4000
  x = jnp.zeros((n, 2, 2, 1))
  found = np.asarray(augment.diff_augment(x, keys(n), ('color',)))[:, 0, 0, 0]
  assert stats.kstest(found, stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-4
  offsets = np.asarray(jax.vmap(lambda k: augment.colour_matrix(k, jnp.float32(1.0)))(keys(n)))[:, 0, 3]
  # Brightness N(0, 0.2) is then scaled by contrast exp2 N(0, 0.5) and perhaps flipped.
  scale = np.exp2(np.random.default_rng(0).normal(0, 0.5, n))
  expected = np.random.default_rng(1).normal(0, 0.2, n) * scale * np.random.default_rng(2).choice([-1, 1], n)
  assert stats.ks_2samp(offsets, expected).pvalue > 1e-4


def test_diffaugment_translates_by_an_eighth_and_fills_with_grey():
  n, side = 300, 16
  x = jnp.asarray(np.arange(1, side * side + 1, dtype=np.float32).reshape(1, side, side, 1).repeat(n, 0))
  found = np.asarray(augment.diff_augment(x, keys(n), ('translation',)))[..., 0]
  padded = np.pad(np.asarray(x[0, ..., 0]), 2)
  windows = {padded[i : i + side, j : j + side].tobytes(): (i, j) for i in range(5) for j in range(5)}
  seen = {windows[one.tobytes()] for one in found}
  assert len(seen) == 25  # every shift of -2 to 2, both ways, and nothing else


def test_cutout_hides_a_box_of_half_the_sides():
  n, side = 300, 12
  found = np.asarray(augment.diff_augment(jnp.ones((n, side, side, 3)), keys(n), ('cutout',)))
  hidden = found[..., 0] == 0
  np.testing.assert_array_equal(found == 0, np.broadcast_to(hidden[..., None], found.shape))
  rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
  np.testing.assert_array_equal(hidden.sum((1, 2)), rows * columns)  # a box
  assert rows.max() == columns.max() == side // 2
  assert rows.min() == columns.min() == side // 4  # half of it at least is inside, as its centre is


@pytest.mark.parametrize('fn', [augment.diff_augment, lambda x, k: augment.ada_augment(x, k, jnp.float32(1.0))])
def test_gradients_pass_once_and_twice(fn):
  # Every transform is linear in x: a finite difference is exact but for rounding.
  x, k = images(2), keys(2)
  direction, weight = images(2, seed=1), images(2, seed=2)
  value = lambda x: (fn(x, k) * weight).sum()  # noqa: E731
  slope = float((jax.grad(value)(x) * direction).sum())
  assert slope == pytest.approx(float(value(x + 0.5 * direction) - value(x - 0.5 * direction)), rel=1e-3)
  penalty = lambda s: (jax.grad(lambda x: (jnp.tanh(s * fn(x, k)) * weight).sum())(x) ** 2).sum()  # noqa: E731
  step = 1e-2
  expected = (penalty(1.0 + step) - penalty(1.0 - step)) / (2 * step)
  assert float(jax.grad(penalty)(1.0)) == pytest.approx(float(expected), rel=1e-2)


def test_what_is_unknown_is_refused():
  with pytest.raises(UserError, match="'flip' is none of color, translation, cutout"):
    augment.diff_augment(images(), keys(), ('flip',))
  with pytest.raises(UserError, match="'noise' is none of blit, geometric, color"):
    augment.ada_augment(images(), keys(), jnp.float32(0.5), ('noise',))
  with pytest.raises(UserError, match='2 channels'):
    augment.ada_augment(images(channels=2), keys(), jnp.float32(0.5))


def test_the_controller_follows_a_scripted_signal():
  # Batches of 50, moves every 2 updates, 1000 images from 0 to 1: steps of 0.1, judged by the mean of two signs.
  step = jax.jit(lambda state, sign: augment.ada_step(state, sign, 50, 2, 0.6, 1000))
  state, p = augment.ada_start(), []
  script = [0.9, 0.5, 1.0, 1.0, 0.2, 0.9, 0.0, 0.0, -1.0, -1.0, 0.61, 0.6]
  for sign in script:
    state = step(state, jnp.float32(sign))
    p.append(float(state.p))
  # Means 0.7, 1.0, 0.55, 0, -1, 0.605: up, up, down, down, stays at 0, up.
  expected = [0.0, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1]
  np.testing.assert_allclose(p, expected, atol=1e-6)
  for _ in range(40):
    state = step(state, jnp.float32(1.0))
  assert float(state.p) == 1.0
  for _ in range(2):
    state = step(state, jnp.float32(-1.0))
  assert float(state.p) == pytest.approx(0.9)
