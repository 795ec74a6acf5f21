"""Cross-entropy of next tokens, for which logits of a part of the vocabulary at a time are enough."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array


class TokenLoss(NamedTuple):
  """Of every target, float32 [B, T]."""

  nats: Array  # -log p(target)
  normaliser: Array  # log of the sum of exp(logits), whose square is the z-loss (arXiv 2204.02311, section 5)


def token_loss(logits: Array, targets: Array) -> TokenLoss:
  """The loss of float [B, T, V] logits against int32 [B, T] targets, in float32."""
  wide = logits.astype(jnp.float32)
  normaliser = jax.nn.logsumexp(wide, -1)
  chosen = jnp.take_along_axis(wide, targets[..., None], -1)[..., 0]
  return TokenLoss(normaliser - chosen, normaliser)


def tiled(
  logits_fn: Callable[[Array, Array], Array], rows: Array, hidden: Array, targets: Array, tile: int
) -> TokenLoss:
  """The same from hidden states, about `tile` tokens of the vocabulary at a time.

  The logits of one tile are in memory at once, forwards and backwards, where they are made again; and so are the rows
  of one tile, where `logits_fn` gathers them from several devices, and their gradients. The normaliser is summed up as
  in arXiv 1805.02867, algorithm 3.

  Args:
    logits_fn: (rows [n, D], hidden [B, T, D]) -> logits [B, T, n].
    rows: [V, D], what makes logits of hidden states.
    hidden: [B, T, D].
    targets: int32 [B, T].
    tile: tokens; V where that is not more, or 0, which needs no scan.
  """
  V, D = rows.shape
  if not 0 < tile < V:
    return token_loss(logits_fn(rows, hidden), targets)
  parts = -(-V // tile)
  n = -(-V // parts)
  # Token v is row v // parts of tile v % parts: where devices split the vocabulary, each has its share of every tile.
  tiles = jnp.pad(rows, ((0, n * parts - V), (0, 0))).reshape(n, parts, D).swapaxes(0, 1)

  @partial(jax.checkpoint, prevent_cse=False)
  def body(carry: tuple[Array, Array, Array], part: tuple[Array, Array]):
    top, total, chosen = carry
    rows, number = part
    token = jnp.arange(n) * parts + number
    logits = jnp.where(token < V, logits_fn(rows, hidden).astype(jnp.float32), -jnp.inf)
    higher = jax.lax.stop_gradient(jnp.maximum(top, logits.max(-1)))
    total = total * jnp.exp(top - higher) + jnp.exp(logits - higher[..., None]).sum(-1)
    here = jnp.take_along_axis(logits, (targets // parts)[..., None], -1)[..., 0]
    return (higher, total, jnp.where(targets % parts == number, here, chosen)), None

  zeros = jnp.zeros(targets.shape, jnp.float32)
  start = jnp.full_like(zeros, jnp.finfo(jnp.float32).min), zeros, zeros
  (top, total, chosen), _ = jax.lax.scan(body, start, (tiles, jnp.arange(parts)))
  normaliser = top + jnp.log(total)
  return TokenLoss(normaliser - chosen, normaliser)
