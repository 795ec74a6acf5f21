"""A codebook by hand: nearest codes, straight-through gradients, moving averages, dead codes, perplexity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.maths import quantise
from gen_ai.maths.quantise import Codebook

rng = np.random.default_rng(0)


def test_the_nearest_code_by_distance():
  vectors, z = rng.normal(size=(7, 3)), rng.normal(size=(4, 5, 3))
  expected = np.linalg.norm(z[..., None, :] - vectors, axis=-1).argmin(-1)
  found = quantise.nearest(jnp.asarray(vectors), jnp.asarray(z))
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == jnp.int32


def test_straight_through_gives_the_code_and_passes_its_gradient_on():
  z, code, weight = jnp.asarray([0.3, -1.0]), jnp.asarray([0.5, -0.5]), jnp.asarray([2.0, -3.0])
  value = lambda z: (weight * quantise.straight_through(z, code) ** 2).sum()  # noqa: E731
  assert float(value(z)) == pytest.approx(float((weight * code**2).sum()))
  # d/dcode of sum w code^2 = 2 w code, at the code, handed to z unchanged: by hand.
  np.testing.assert_allclose(jax.grad(value)(z), [2 * 2.0 * 0.5, 2 * -3.0 * -0.5], rtol=1e-6)
  through_code = jax.grad(lambda code: (weight * quantise.straight_through(z, code) ** 2).sum())(code)
  np.testing.assert_array_equal(through_code, [0.0, 0.0])


def test_commitment_pulls_the_vector_and_not_the_code():
  z, code = jnp.asarray([0.3, -1.0]), jnp.asarray([0.5, -0.5])
  assert float(quantise.commitment(z, code)) == pytest.approx(0.2**2 + 0.5**2)
  np.testing.assert_allclose(jax.grad(quantise.commitment)(z, code), 2 * (z - code), rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(quantise.commitment, 1)(z, code), [0.0, 0.0])


def test_a_codebook_moves_as_its_averages_say_and_dead_codes_start_again():
  N, D, M, decay, below = 4, 2, 6, 0.8, 0.3
  book = Codebook(
    *(jnp.asarray(a, jnp.float32) for a in (rng.normal(size=(N, D)), [1.0, 2.0, 0.1, 3.0], rng.normal(size=(N, D))))
  )
  z, index = rng.normal(size=(M, D)).astype(np.float32), np.array([0, 0, 1, 3, 3, 3], np.int32)
  noise = rng.normal(size=(M, N)).astype(np.float32)
  seen = quantise.usage(jnp.asarray(index), jnp.asarray(z), jnp.asarray(noise))
  found = quantise.update(book, seen, M, decay, below)

  counts = decay * np.asarray(book.counts, np.float64) + (1 - decay) * np.array([2, 1, 0, 3])
  sums = decay * np.asarray(book.sums, np.float64)
  for vector, code in zip(z, index, strict=True):
    sums[code] += (1 - decay) * vector
  total = counts.sum()
  smooth = (counts + 1e-5) / (total + N * 1e-5) * total
  expected = sums / smooth[:, None]
  for code in (0, 1, 3):
    np.testing.assert_allclose(found.vectors[code], expected[code], rtol=1e-5)
    np.testing.assert_allclose(found.sums[code], sums[code], rtol=1e-5)
    assert float(found.counts[code]) == pytest.approx(counts[code], rel=1e-5)
  candidate = z[noise[:, 2].argmax()]  # only code 2 fell below: 0.08
  np.testing.assert_array_equal(found.vectors[2], candidate)
  np.testing.assert_array_equal(found.sums[2], candidate)
  assert float(found.counts[2]) == 1.0


def test_restarting_is_switched_off_by_zero():
  book = quantise.start(jax.random.key(0), 3, 2)
  book = book._replace(counts=jnp.asarray([1.0, 1e-6, 1.0]))
  seen = quantise.usage(jnp.zeros(5, jnp.int32), jnp.ones((5, 2)), jnp.ones((5, 3)))
  counts = quantise.update(book, seen, 5, 0.9, 0.0).counts
  assert float(counts[1]) == pytest.approx(0.9e-6, rel=1e-3)


def test_averages_of_parts_are_the_average_of_the_whole():
  z, index, noise = rng.normal(size=(8, 2)), rng.integers(0, 3, 8), rng.normal(size=(8, 3))
  whole = quantise.usage(jnp.asarray(index), jnp.asarray(z), jnp.asarray(noise))
  parts = [quantise.usage(jnp.asarray(index[i::2]), jnp.asarray(z[i::2]), jnp.asarray(noise[i::2])) for i in (0, 1)]
  for name in ('share', 'mean'):
    both = (getattr(parts[0], name) + getattr(parts[1], name)) / 2
    np.testing.assert_allclose(both, getattr(whole, name), atol=1e-6)


def test_perplexity_counts_codes_that_are_used_alike():
  assert float(quantise.perplexity(jnp.asarray([1.0, 0.0, 0.0]))) == pytest.approx(1.0)
  assert float(quantise.perplexity(jnp.full(8, 1 / 8))) == pytest.approx(8.0, rel=1e-5)
  share = np.array([0.5, 0.3, 0.2])
  assert float(quantise.perplexity(jnp.asarray(share))) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
