"""Paths between latents, and how many of a posterior's units say anything."""

from typing import NamedTuple

import jax.numpy as jnp

from gen_ai.core.method import Array

ACTIVE = 0.01  # variance of a posterior mean above which its unit is active, arXiv 1509.00519, section 5.2
MOMENTUM = 0.99  # the share of the running moments that survives an update


def lerp(a: Array, b: Array, t: Array) -> Array:
  """Points of the straight line from a (t = 0) to b (t = 1): [..., Z], [..., Z], t broadcast against them."""
  return a + t * (b - a)


def slerp(a: Array, b: Array, t: Array) -> Array:
  """Points of the great circle from a to b (arXiv 1609.04468, section 2.1); of the line where a and b are parallel.

  Between two draws of a high-dimensional normal the line passes where hardly any draw lies; the circle does not.

  Args:
    a, b: [..., Z]. t: 0 to 1, broadcast against them.

  Returns:
    [..., Z]; its length goes from that of a to that of b, steadily where these are alike.
  """
  norms = [jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (a, b)]
  cosine = jnp.clip((a / norms[0] * b / norms[1]).sum(-1, keepdims=True), -1.0, 1.0)
  angle = jnp.arccos(cosine)
  sine = jnp.sin(angle)
  flat = sine < 1e-3
  safe = jnp.where(flat, 1.0, sine)
  around = (jnp.sin((1.0 - t) * angle) * a + jnp.sin(t * angle) * b) / safe
  return jnp.where(flat, lerp(a, b, t), around)


class Moments(NamedTuple):
  """Running moments of posterior means over training: `weight` is the share of them that has been seen."""

  mean: Array  # float32 [Z], times weight
  square: Array  # float32 [Z], times weight
  weight: Array  # float32 []


def no_moments(size: int) -> Moments:
  """Nothing seen yet."""
  return Moments(jnp.zeros(size), jnp.zeros(size), jnp.zeros(()))


def seen_moments(moments: Moments, mean: Array, square: Array) -> Moments:
  """After a batch whose posterior means average `mean` [Z], their squares `square` [Z]."""
  new = Moments(mean, square, jnp.float32(1.0))
  return Moments(*(MOMENTUM * old + (1.0 - MOMENTUM) * n for old, n in zip(moments, new, strict=True)))


def variances(moments: Moments) -> Array:
  """Var_x(E_q[u|x]) of every unit, float32 [Z]; 0 where nothing was seen."""
  weight = jnp.maximum(moments.weight, 1e-12)
  return jnp.maximum(moments.square / weight - (moments.mean / weight) ** 2, 0.0)


def active_units(moments: Moments) -> Array:
  """Units whose posterior mean varies from example to example: float32 [], a count.

  Deviation from arXiv 1509.00519, section 5.2: the variance is a running one over training batches, not a test set's.
  """
  return (variances(moments) > ACTIVE).sum().astype(jnp.float32)
