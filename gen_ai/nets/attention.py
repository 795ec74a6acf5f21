"""Attention of the Transformer: rotary positions, grouped queries, windows, and which kernel computes it.

Shapes: B batch, T queries, S keys, N query heads, K key heads (N a multiple of K), H width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array

MOST_CUDNN_WIDTH = 128  # of a head


def rms_normalised(x: Array, epsilon: float = 1e-6) -> Array:
  """x / RMS(x) over the last axis in float32, without parameters (arXiv 1910.07467; QK-norm, arXiv 2302.05442)."""
  wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + epsilon)).astype(x.dtype)


def rotated(x: Array, positions: Array, theta: float | Array) -> Array:
  """Rotary position embedding, arXiv 2104.09864, in the half-split order of Llama's weights.

  Args:
    x: [B, T, heads, H], H even.
    positions: int32 [T] or [B, T].
    theta: base of the wavelengths, 10,000 in the paper.

  Returns:
    [B, T, heads, H]; pair (i, i + H / 2) turned by position * theta^(-2 i / H), computed in float32.
  """
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions.astype(jnp.float32)[..., None, None] * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  one, two = jnp.split(x.astype(jnp.float32), 2, -1)
  return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1).astype(x.dtype)


def weights(query: Array, key: Array, mask: Array, scale: float | None = None) -> Array:
  """softmax(Q K^T / sqrt(H)) of arXiv 1706.03762, eq. 1, in float32 whatever the operands are.

  Args:
    query: [B, T, N, H].
    key: [B, S, K, H]; query head n looks at key head n // (N / K).
    mask: bool [B or 1, 1, T, S], true where a query may look; every query may look somewhere.
    scale: in place of 1 / sqrt(H).

  Returns:
    float32 [B, N, T, S].
  """
  B, T, N, H = query.shape
  S, K = key.shape[1], key.shape[2]
  grouped = query.reshape(B, T, K, N // K, H)
  scale = H**-0.5 if scale is None else scale
  scores = jnp.einsum('btkgh,bskh->bkgts', grouped, key, preferred_element_type=jnp.float32) * scale
  return jax.nn.softmax(jnp.where(mask, scores.reshape(B, N, T, S), -jnp.inf), -1)


def weighted(weights: Array, value: Array) -> Array:
  """Sums of value [B, S, K, H] by weights [B, N, T, S]: [B, T, N, H]."""
  B, N, T, S = weights.shape
  K, H = value.shape[2:]
  out = jnp.einsum('bkgts,bskh->btkgh', weights.reshape(B, K, N // K, T, S), value)
  return out.reshape(B, T, N, H)


def kernel(platform: str, dtype: Any, length: int, head_width: int) -> str:
  """'cudnn' where its fused kernel can compute attention of `length` tokens over themselves, else 'xla'.

  JAX never chooses cuDNN by itself. It takes half precision and heads of a multiple of 8 up to 128. Its backward pass
  has given NaN at lengths that are no multiple of 128.
  """
  fits = jnp.dtype(dtype).itemsize == 2 and head_width % 8 == 0 and head_width <= MOST_CUDNN_WIDTH
  return 'cudnn' if platform == 'gpu' and fits and length % 128 == 0 else 'xla'


def causal_mask(queries: Array, keys: Array, window: int = 0, query_parts: Any = None, key_parts: Any = None) -> Array:
  """bool [B or 1, 1, T, S]: a query looks at keys at its own position and before, within its window and its document.

  Args:
    queries: int32 [T] or [B, T], positions.
    keys: int32 [S] or [B, S], positions.
    window: tokens that a query sees, its own among them; 0: all.
    query_parts, key_parts: int32 [B, T] and [B, S], the document of each token; None: all of one.
  """
  distance = jnp.atleast_2d(queries)[:, :, None] - jnp.atleast_2d(keys)[:, None]
  mask = distance >= 0
  if window:
    mask &= distance < window
  if query_parts is not None:
    mask &= query_parts[:, :, None] == key_parts[:, None]
  return mask[:, None]


def mask_of(length: int, causal: bool, window: int = 0, parts: Array | None = None) -> Array:
  """bool [B or 1, 1, T, T] of T = `length` tokens among themselves: which each sees; see `causal_mask` and `full`."""
  if causal:
    return causal_mask(jnp.arange(length), jnp.arange(length), window, parts, parts)
  if parts is None:
    return jnp.ones((1, 1, length, length), bool)
  return (parts[:, :, None] == parts[:, None])[:, None]


def causal(
  query: Array, key: Array, value: Array, window: int = 0, parts: Array | None = None, scale: float | None = None
) -> Array:
  """Causal attention of T tokens over themselves: [B, T, N, H].

  Args:
    query: [B, T, N, H].
    key: [B, T, K, H].
    value: [B, T, K, H].
    window: see `causal_mask`.
    parts: int32 [B, T], the document of each token, which alone it sees; None: all of one. They need a mask, which
      cuDNN would take as a bias of T^2 numbers: such rows are computed by XLA.
    scale: of the products of queries and keys; None: 1 / sqrt(H).
  """
  T, H = query.shape[1], query.shape[-1]
  if parts is not None:
    return over(query, key, value, mask_of(T, True, window, parts), scale)
  implementation: Any = kernel(jax.default_backend(), query.dtype, T, H)
  out: Any = jax.nn.dot_product_attention(
    query,
    key,
    value,
    scale=scale,
    is_causal=True,
    local_window_size=(window - 1, 0) if window else None,
    implementation=implementation,
  )
  attended: Array = out
  return attended


def full(
  query: Array,
  key: Array,
  value: Array,
  parts: Array | None = None,
  scale: float | None = None,
  differentiable_forward: bool = False,
) -> Array:
  """Attention of T tokens over all of themselves, before and after: [B, T, N, H]. Arguments as `causal` has them.

  Args:
    query, key, value: [B, T, N or K, H].
    parts: the document of each token.
    scale: of the products of queries and keys.
    differentiable_forward: whether `jax.jvp` must go through. cuDNN's kernel has a rule for `jax.grad` alone.
  """
  if parts is not None:
    return over(query, key, value, mask_of(query.shape[1], False, parts=parts), scale)
  fused = kernel(jax.default_backend(), query.dtype, query.shape[1], query.shape[-1])
  implementation: Any = 'xla' if differentiable_forward else fused
  out: Any = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation=implementation)
  attended: Array = out
  return attended


def over(query: Array, key: Array, value: Array, mask: Array, scale: float | None = None) -> Array:
  """Attention [B, T, N, H] under a mask bool [B or 1, 1, T, S], by XLA; `scale` as `causal` has it."""
  out: Any = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation='xla')
  attended: Array = out
  return attended
