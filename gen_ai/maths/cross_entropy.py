"""Cross-entropy of next tokens, whose logits need not all be in memory at once."""

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


def chunked(logits_fn: Callable[[Array], Array], hidden: Array, targets: Array, chunk: int) -> TokenLoss:
  """The same from hidden states, `chunk` positions of every row at a time.

  The logits of one chunk are in memory at once, forwards and backwards, where they are made again.

  Args:
    logits_fn: hidden [B, t, D] -> logits [B, t, V].
    hidden: [B, T, D].
    targets: int32 [B, T].
    chunk: positions; T where that is not longer, or 0, which needs no scan.
  """
  B, T = targets.shape
  if not 0 < chunk < T:
    return token_loss(logits_fn(hidden), targets)
  parts = -(-T // chunk)
  short = parts * chunk - T
  hidden = jnp.pad(hidden, ((0, 0), (0, short), (0, 0)))
  targets = jnp.pad(targets, ((0, 0), (0, short)))

  @partial(jax.checkpoint, prevent_cse=False)
  def body(_: None, part: tuple[Array, Array]):
    return None, token_loss(logits_fn(part[0]), part[1])

  by_part = (hidden.reshape(B, parts, chunk, -1).swapaxes(0, 1), targets.reshape(B, parts, chunk).swapaxes(0, 1))
  _, found = jax.lax.scan(body, None, by_part)
  return TokenLoss(*(x.swapaxes(0, 1).reshape(B, parts * chunk)[:, :T] for x in found))
