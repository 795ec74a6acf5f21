"""Bounds of the log-likelihood from importance weights, and their gradient estimators, in nats."""

import math

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array


def log_density(z: Array, mean: Array, log_std: Array) -> Array:
  """log N(z; mean, diag(exp(log_std)^2)) summed over the last axis: [..., Z] -> float32 [...]."""
  z, mean, log_std = (a.astype(jnp.promote_types(jnp.float32, a.dtype)) for a in (z, mean, log_std))
  return -(0.5 * ((z - mean) * jnp.exp(-log_std)) ** 2 + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def importance_bound(log_w: Array) -> Array:
  """log (1/k) sum_j w_j, the bound L_k of IWAE (arXiv 1509.00519, eq. 8): [B, k] -> [B]."""
  return jax.nn.logsumexp(log_w, -1) - math.log(log_w.shape[-1])


def dreg_surrogate(model: Array, posterior: Array, beta: float | Array = 1.0) -> Array:
  """A function whose gradient is IWAE-DReG (arXiv 1810.04152, section 6, eq. 8) and whose value means nothing.

  The gradient in the model's parameters is the usual one, weights w~_j; that in the posterior's parameters has weights
  w~_j^2 and no score term, w~ being the weights over their sum. Where log q enters the log-weights `beta` times, so
  does the score that is rewritten, and the weights are (1 - beta) w~_j + beta w~_j^2.

  Args:
    model: [B, k] log-weights through which gradients reach the model alone: samples held constant.
    posterior: [B, k] the same values, through which they reach the posterior by its samples alone: the parameters of
      the model, and those of the posterior where its density is evaluated, held constant.
    beta: weight of the KL in the log-weights.

  Returns:
    [B].
  """
  weights = jax.lax.stop_gradient(jax.nn.softmax(model, -1))
  return (weights * model + ((1.0 - beta) * weights + beta * weights**2) * posterior).sum(-1)


def floor_of_bits(kl: Array, floor: float | Array) -> Array:
  """Free bits: sum over groups of max(floor, batch mean of a group's KL) (arXiv 1606.04934, section 2.2 of appendix C).

  Args:
    kl: [B, G] nats. floor: nats a group, or [G].

  Returns:
    [].
  """
  return jnp.maximum(kl.mean(0), floor).sum()


def warm_up(step: Array, steps: int) -> Array:
  """Weight of a KL term that grows linearly to 1 over `steps` updates; 1 without a warm-up. step: updates so far."""
  return jnp.minimum((step + 1) / steps, 1.0) if steps else jnp.ones(())
