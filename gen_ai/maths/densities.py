"""Log-densities in nats: float32, summed over every axis but the first, [B, ...] -> [B]."""

import math

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array, Key
from gen_ai.maths import pixels

MIN_LOG_SCALE = -7.0  # PixelCNN++'s floor: a logistic narrower than 0.12 of a level buys no likelihood


def _sum_events(values: Array) -> Array:
  """[B, ...] -> [B]."""
  return values.reshape(values.shape[0], -1).sum(-1)


def _float32(*arrays: Array) -> list[Array]:
  """At least float32: bfloat16 outputs of a network are widened, float64 in a test is kept."""
  return [jnp.asarray(a).astype(jnp.promote_types(jnp.float32, jnp.asarray(a).dtype)) for a in arrays]


def bernoulli_log_prob(logits: Array, targets: Array) -> Array:
  """Log-probability of `targets` under independent Bernoulli variables.

  Uses l t - softplus(l), softplus being max(l, 0) + log(1 + exp(-|l|)): no finite logit overflows, where
  `log(sigmoid(l))` fails near |l| = 88. JAX's softplus rather than the formula written out, because |l| and max have
  one-sided gradients at l = 0, which is where a network starts that is initialised to zero.

  Args:
    logits: float [B, ...].
    targets: values in [0, 1], of the shape of `logits`; values between 0 and 1 give the expected log-probability.

  Returns:
    float32 [B], nats.
  """
  logits, targets = _float32(logits, targets)
  return _sum_events(logits * targets - jax.nn.softplus(logits))


def normal_log_prob(x: Array, mean: Array, log_std: Array) -> Array:
  """Log-density of `x` under independent normal variables.

  Args:
    x: float [B, ...].
    mean: of the shape of `x`, or broadcast to it.
    log_std: natural logarithm of the standard deviation, broadcast likewise; may be traced.

  Returns:
    float32 [B], nats per unit of x: for images see `density_to_level_log_prob`.
  """
  x, mean, log_std = _float32(x, mean, log_std)
  return -_sum_events(0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 + log_std + 0.5 * math.log(2.0 * math.pi))


def normal_kl(mean: Array, log_std: Array) -> Array:
  """KL(N(mean, diag(exp(log_std)^2)) || N(0, I)) in nats, [B, Z] -> float32 [B].

  "Auto-Encoding Variational Bayes", arXiv 1312.6114, appendix B.
  """
  mean, log_std = _float32(mean, log_std)
  return 0.5 * _sum_events(mean**2 + jnp.expm1(2.0 * log_std) - 2.0 * log_std)


def discretised_logistic_log_prob(x: Array, mean: Array, log_scale: Array) -> Array:
  """Log-probability of 256-level pixels: a logistic integrated over each level's bin.

  The first and last bins reach to infinity, so that the 256 probabilities sum to 1. "Improving variational inference
  with inverse autoregressive flow", arXiv 1606.04934; PixelCNN++, arXiv 1701.05517, eq. 2 with one component.
  Deviation: PixelCNN++ approximates bins of tiny mass by density times width; here the identity
  sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) keeps the logarithm exact everywhere.

  Args:
    x: float [B, ...] in [-1, 1], holding level / 127.5 - 1 (`pixels.to_signed`).
    mean: [B, ...] in units of x.
    log_scale: [B, ...] natural logarithm of the scale in units of x, raised to -7 where lower.

  Returns:
    float32 [B], nats.
  """
  x, mean, log_scale = _float32(x, mean, log_scale)
  inverse_scale = jnp.exp(-jnp.maximum(log_scale, MIN_LOG_SCALE))
  half_bin = 0.5 / pixels.HALF_RANGE
  upper, lower = (x - mean + half_bin) * inverse_scale, (x - mean - half_bin) * inverse_scale
  below_upper, above_lower = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
  inside = below_upper + above_lower + jnp.log(-jnp.expm1(-2.0 * half_bin * inverse_scale))
  first, last = x < -1.0 + half_bin, x > 1.0 - half_bin
  return _sum_events(jnp.where(first, below_upper, jnp.where(last, above_lower, inside)))


def density_to_level_log_prob(log_density: Array, dims: int) -> Array:
  """Log-probability of uint8 levels from a log-density of x in [-1, 1]: subtracts log(127.5) a dimension.

  With x = level / 127.5 - 1, one level is 1 / 127.5 wide, so P(level) is about p(x) / 127.5. On `dequantise`d x its
  mean is a lower bound of the discrete log-likelihood (arXiv 1511.01844, section 3.1). On bare levels it is no bound:
  a density that is free to narrow grows without limit.
  """
  return log_density - dims * math.log(pixels.HALF_RANGE)


def dequantise(keys: Key, x: Array) -> Array:
  """x [B, ...] in [-1, 1] with uniform noise one level wide, centred, each example's from its own key [B]."""
  half_bin = 0.5 / pixels.HALF_RANGE
  noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -half_bin, half_bin))(keys)
  return x + noise


def binarise(keys: Key, unit: Array) -> Array:
  """Samples float32 {0, 1} [B, ...] with `unit` [B, ...] in [0, 1] as probabilities of 1.

  Args:
    keys: one key an example, [B]. Keys that change with the step give dynamic binarisation, keys of the example number
      alone give static binarisation: the same bits in every epoch. MNIST figures of the two do not compare.
    unit: pixels in [0, 1] (`pixels.to_unit`).
  """
  return jax.vmap(jax.random.bernoulli)(keys, unit).astype(jnp.float32)


def nats_to_bpd(nats: Array, dims: int) -> Array:
  """Bits per dimension of a negative log-likelihood in nats over `dims` dimensions (H * W * C)."""
  return nats / (dims * math.log(2.0))
