"""MeanFlow: one step from noise to data ("Mean Flows for One-step Generative Modeling", arXiv 2505.13447).

z_t = (1 - t) x + t eps moves by the velocity v = eps - x. A network says the mean velocity u(z, t, r) between a time r
and a later t, so that z_r = z_t - (t - r) u, from noise to data in one step. It obeys u = v - (t - r) du/dt along the
path (eq. 6), whose right side is the target. At r = t that is flow matching.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array

Velocity = Callable[[Array, Array, Array], Array]  # (z [B, ...], t [B], r [B]) -> u [B, ...]


def drawn_times(normal: Array, alike: Array, mean: float | Array, deviation: float | Array) -> tuple[Array, Array]:
  """(t [B], r [B] at most t): the larger and the smaller of two times, sigmoid(mean + deviation n) (section 4.3).

  Args:
    normal: standard normal [B, 2].
    alike: bool [B], where r = t.
    mean, deviation: of what goes through the sigmoid.
  """
  times = jax.nn.sigmoid(mean + deviation * normal)
  t = times.max(1)
  return t, jnp.where(alike, t, times.min(1))


def _over(value: Array, z: Array) -> Array:
  """[B] with axes for all of z [B, ...]."""
  return value.reshape(-1, *(1,) * (z.ndim - 1))


def guided(velocity: Array, labelled: Array, plain: Array, omega: float | Array, kappa: float | Array) -> Array:
  """The velocity [B, ...] of a guided flow, which a network then says without guidance (section 4.2, appendix B).

  Its strength is omega / (1 - kappa): 1 is no guidance.

  Args:
    velocity: eps - x.
    labelled: what the network says of r = t with the label.
    plain: and without.
    omega: weight of `velocity`.
    kappa: weight of `labelled`.
  """
  return omega * velocity + kappa * labelled + (1.0 - omega - kappa) * plain


def said_and_target(u: Velocity, z: Array, t: Array, r: Array, velocity: Array) -> tuple[Array, Array]:
  """(u(z, t, r), what the identity asks it to be), [B, ...] each; no gradient goes through the target.

  Args:
    u: what `jax.jvp` can go through.
    z: [B, ...] at times t.
    t, r: [B].
    velocity: dz/dt.
  """
  said, rate = jax.jvp(lambda z, t: u(z, t, r), (z, t), (velocity, jnp.ones_like(t)))
  return said, jax.lax.stop_gradient(velocity - _over(t - r, z) * rate)


def adaptive(error: Array, power: float | Array, floor: float | Array) -> Array:
  """Sums of squares [B] over a constant (the same + floor)^power: at 1 all examples pull alike (section 4.3)."""
  return error / jax.lax.stop_gradient((error + floor) ** power)


def sample(u: Velocity, noise: Array, steps: int) -> Array:
  """Data [B, ...] of noise in steps of 1 / steps (algorithm 2)."""
  times = jnp.linspace(1.0, 0.0, steps + 1)

  def step(z: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
    t, r = (jnp.full(z.shape[:1], end) for end in ends)
    return z - _over(t - r, z) * u(z, t, r), None

  return jax.lax.scan(step, noise, (times[:-1], times[1:]))[0]
