"""Adversarial losses and critic constraints: functions of logits and of a critic, float32.

`discriminator_fn` maps x [B, ...] to logits [B], each row from its own example only: a penalty on a network with batch
normalisation in training mode is not the published one, because every row then depends on every example.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, PyTree

DiscriminatorFn = Callable[[Array], Array]

LossFn = Callable[[Array, Array], Array]  # (real logits, fake logits) -> per example

# kind: (discriminator loss, generator loss), both minimised.
_LOSSES: dict[str, tuple[LossFn, LossFn]] = {
  'minimax': (
    lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
    lambda _, fake: -jax.nn.softplus(fake),
  ),
  'non_saturating': (
    lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
    lambda _, fake: jax.nn.softplus(-fake),
  ),
  'least_squares': (
    lambda real, fake: 0.5 * ((real - 1.0) ** 2 + fake**2),
    lambda _, fake: 0.5 * (fake - 1.0) ** 2,
  ),
  'hinge': (
    lambda real, fake: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake),
    lambda _, fake: -fake,
  ),
  'wasserstein': (
    lambda real, fake: fake - real,
    lambda _, fake: -fake,
  ),
  'relativistic': (
    lambda real, fake: jax.nn.softplus(fake - real),
    lambda real, fake: jax.nn.softplus(real - fake),
  ),
}
KINDS = tuple(_LOSSES)
RELATIVISTIC = ('relativistic',)  # kinds whose generator loss looks at real logits, too


def _losses(kind: str) -> tuple[LossFn, LossFn]:
  if kind not in _LOSSES:
    raise UserError(f'unknown adversarial loss {kind!r}; choose one of: {", ".join(KINDS)}')
  return _LOSSES[kind]


def _float32(array: Array) -> Array:
  """At least float32; float64 in a test is kept."""
  return array.astype(jnp.promote_types(jnp.float32, array.dtype))


def discriminator_loss(kind: str, real_logits: Array, fake_logits: Array) -> Array:
  """What the discriminator minimises.

  minimax, non_saturating: -log sigmoid(real) - log(1 - sigmoid(fake)) (arXiv 1406.2661, eq. 1), by softplus.
  least_squares: 1/2 (real - 1)^2 + 1/2 fake^2 (arXiv 1611.04076, eq. 9: a = 0, b = c = 1).
  hinge: max(0, 1 - real) + max(0, 1 + fake) (arXiv 1705.02894).
  wasserstein: fake - real (arXiv 1701.07875, eq. 3 with its sign turned).
  relativistic: -log sigmoid(real - fake), row by row in pairs (arXiv 1807.00734, section 4; R3GAN, arXiv 2501.05441,
    eq. 2).

  Args:
    kind: one of `KINDS`.
    real_logits: [B] unbounded scores of real examples.
    fake_logits: [B] of generated ones.

  Returns:
    float32 [], the mean over the batch.

  Raises:
    UserError: unknown kind.
  """
  loss_fn, _ = _losses(kind)
  return loss_fn(_float32(real_logits), _float32(fake_logits)).mean()


def generator_loss(kind: str, fake_logits: Array, real_logits: Array | None = None) -> Array:
  """What the generator minimises: sources as in `discriminator_loss`.

  minimax: log(1 - sigmoid(fake)). non_saturating: -log sigmoid(fake). least_squares: 1/2 (fake - 1)^2.
  hinge, wasserstein: -fake. relativistic: -log sigmoid(fake - real).

  Args:
    kind: one of `KINDS`.
    fake_logits: [B] scores of generated examples.
    real_logits: [B] scores of real ones, for kinds of `RELATIVISTIC`; others do not look at them.

  Returns:
    float32 [], the mean over the batch.

  Raises:
    UserError: unknown kind.
    ValueError: a relativistic kind without real logits.
  """
  _, loss_fn = _losses(kind)
  if real_logits is None:
    if kind in RELATIVISTIC:
      raise ValueError(f'the generator loss {kind!r} compares with the logits of real examples: give real_logits')
    real_logits = fake_logits
  return loss_fn(_float32(real_logits), _float32(fake_logits)).mean()


def _squared_gradient_norm(discriminator_fn: DiscriminatorFn, x: Array) -> Array:
  """[B]: squared Euclidean norm of the gradient of each logit at its own example."""
  # Rows are independent, so the gradient of the sum holds every example's own gradient.
  gradient = jax.grad(lambda x: _float32(discriminator_fn(x)).sum())(_float32(x))
  return (gradient.reshape(gradient.shape[0], -1) ** 2).sum(-1)


def _safe_sqrt(square: Array) -> Array:
  """Square root whose gradient at 0 is 0 rather than infinite."""
  positive = square > 0.0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def gradient_penalty(discriminator_fn: DiscriminatorFn, real: Array, fake: Array, eps: Array) -> Array:
  """WGAN-GP's two-sided penalty (||grad D(x^)||_2 - 1)^2 (arXiv 1704.00028, eq. 3), without its coefficient lambda.

  Args:
    discriminator_fn: x [B, ...] -> logits [B].
    real: [B, ...]. fake: [B, ...].
    eps: [B] uniform in [0, 1]: x^ = eps real + (1 - eps) fake.

  Returns:
    float32 [], the mean over the batch.
  """
  eps = _float32(eps).reshape(eps.shape + (1,) * (real.ndim - 1))
  return _unit_slope_penalty(discriminator_fn, eps * real + (1.0 - eps) * fake)


def _unit_slope_penalty(discriminator_fn: DiscriminatorFn, x: Array) -> Array:
  """Mean of (||grad D(x)||_2 - 1)^2."""
  return ((_safe_sqrt(_squared_gradient_norm(discriminator_fn, x)) - 1.0) ** 2).mean()


def dragan_penalty(discriminator_fn: DiscriminatorFn, real: Array, noise: Array) -> Array:
  """DRAGAN's two-sided penalty (||grad D(x + delta)||_2 - 1)^2 around real examples (arXiv 1705.07215, section 2.3).

  delta = noise * std / 2, std over all images and pixels at hand (of a micro-batch, or a device's share); without the
  authors' lambda.

  Args:
    discriminator_fn: x [B, ...] -> logits [B].
    real: [B, ...].
    noise: of the shape of `real`; in the authors' code uniform in [0, 1], times a number per example that is, too.

  Returns:
    float32 [], the mean over the batch.
  """
  return _unit_slope_penalty(discriminator_fn, real + 0.5 * jax.lax.stop_gradient(real.std()) * noise)


def r1_penalty(discriminator_fn: DiscriminatorFn, real: Array) -> Array:
  """R1: 1/2 E ||grad D(real)||^2 (arXiv 1801.04406, eq. 9 without its gamma; the half is included).

  Args:
    discriminator_fn: x [B, ...] -> logits [B].
    real: [B, ...] real examples.

  Returns:
    float32 [].
  """
  return 0.5 * _squared_gradient_norm(discriminator_fn, real).mean()


def r2_penalty(discriminator_fn: DiscriminatorFn, fake: Array) -> Array:
  """R2: 1/2 E ||grad D(fake)||^2 (arXiv 1801.04406, eq. 10): R1 on generated examples."""
  return r1_penalty(discriminator_fn, fake)


def clip_weights(params: PyTree, limit: float | Array) -> PyTree:
  """Every parameter clipped to [-limit, limit], biases too (WGAN, arXiv 1701.07875, algorithm 1, line 7)."""
  return jax.tree.map(lambda p: jnp.clip(p, -limit, limit), params)


def pairs_won(real: Array, fake: Array) -> Array:
  """Per pair [B], 1 where the real example has the higher logit; its mean is 0.5 where neither network is ahead."""
  return (real > fake).astype(jnp.float32)
