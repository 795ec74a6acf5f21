"""A mixture of experts in place of a Transformer's MLP: a router sends every token to a few of many MLPs.

arXiv 1701.06538 has the idea; the top-k router with normalised weights is that of Mixtral (arXiv 2401.04088), the
balance loss that of Switch Transformers (arXiv 2101.03961, eq. 4), the router's z loss that of ST-MoE (arXiv
2202.08906, eq. 5). Shapes: B batch, T tokens, D width, E experts, F hidden units, C places of an expert.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets import lora

LOSSES = 'losses'  # the collection of variables in which `Experts` leaves what the router costs


class Routes(NamedTuple):
  """Where tokens go: weights float32 [B, T, E], 0 for experts that were not chosen, and the router's losses.

  Both losses are sums over the tokens of each row, [B], so that they add up over any batching; `balance` compares the
  share of tokens that an expert gets with the probability that it has, over a row.
  """

  weights: Array
  balance: Array
  z: Array


def route(logits: Array, k: int) -> Routes:
  """The routes of router logits float32 [B, T, E], each token to its `k` likeliest experts.

  Their weights sum to 1. The balance loss is 1 a token where all experts are as likely and as often chosen.
  """
  T, E = logits.shape[1:]
  chance = jax.nn.softmax(logits, -1)
  top, which = jax.lax.top_k(chance, k)
  chosen = jax.nn.one_hot(which, E, dtype=jnp.float32)
  weights = (chosen * (top / top.sum(-1, keepdims=True))[..., None]).sum(2)
  share = chosen.sum(2).mean(1) / k
  balance = T * E * (share * chance.mean(1)).sum(-1)
  z = (jax.nn.logsumexp(logits, -1) ** 2).sum(-1)
  return Routes(weights, balance, z)


def places(tokens: int, experts: int, k: int, capacity: int) -> int:
  """C, the tokens of a row that one expert takes: `capacity` percent of its even share, rounded up, at most all."""
  return min(tokens, math.ceil(tokens * k * capacity / (100 * experts)))


def limited(weights: Array, count: int) -> Array:
  """Which place of which expert a token gets: float32 [B, T, E, C] of zeros and ones.

  Places go to the tokens of a row in their order, so that none depends on what comes after it. Those who find an expert
  full go past it.

  Args:
    weights: of `Routes`.
    count: C, see `places`.
  """
  chosen = (weights > 0).astype(jnp.float32)
  before = jnp.cumsum(chosen, 1) - chosen
  return jax.nn.one_hot(before.astype(jnp.int32), count, dtype=jnp.float32) * chosen[..., None]


class Experts(nn.Module):
  """The mixture, [B, T, D] -> [B, T, D].

  Attributes:
    count: E.
    chosen: experts that a token is sent to.
    hidden: F.
    gated: whether the hidden layer is multiplied by another.
    activation: of the hidden layer.
    capacity: of an expert in training, in percent of its even share of a row; 0: it takes all that come.
    std, out_std, router_std: of the initial kernels, into the hidden layer, out of it, and of the router.
    dtype: of activations; the router computes in float32.
    rank: of adapters of the kernels (`gen_ai.nets.lora`), which are added to them; 0: none.
    scale: their factor.
  """

  count: int
  chosen: int
  hidden: int
  gated: bool
  activation: Callable[[Array], Array]
  capacity: int
  std: float
  out_std: float
  router_std: float
  dtype: Any
  rank: int = 0
  scale: float | Array = 1.0

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Every expert computes every token unless it trains with a capacity; sows the losses [B] of `Routes`."""
    T, D = x.shape[1:]
    E, F, dtype = self.count, self.hidden, self.dtype
    router = _Kernel((D, E), self.router_std, name='router')()
    into = _Kernel((E, D, 1 + self.gated, F), self.std, self.rank, self.scale, name='experts_in')().astype(dtype)
    out = _Kernel((E, F, D), self.out_std, self.rank, self.scale, name='experts_out')().astype(dtype)
    routes = route(x.astype(jnp.float32) @ router, self.chosen)
    self.sow(LOSSES, 'balance', routes.balance)
    self.sow(LOSSES, 'router_z', routes.z)

    def hidden(before: Array) -> Array:
      active = self.activation(before[..., 0, :])
      return active * before[..., 1, :] if self.gated else active

    if not train or not self.capacity:
      made = hidden(jnp.einsum('btd,edgf->betgf', x, into))
      return jnp.einsum('bte,betf,efd->btd', routes.weights.astype(dtype), made, out)
    place = limited(routes.weights, places(T, E, self.chosen, self.capacity))
    given = jnp.einsum('btec,btd->becd', place.astype(dtype), x)
    made = jnp.einsum('becf,efd->becd', hidden(jnp.einsum('becd,edgf->becgf', given, into)), out)
    return jnp.einsum('btec,becd->btd', (place * routes.weights[..., None]).astype(dtype), made)


class _Kernel(nn.Module):
  """A parameter NAME/kernel of its own; with a `rank`, of experts [E, in, ...], plus `scale` times its adapters."""

  shape: tuple[int, ...]
  std: float
  rank: int = 0
  scale: float | Array = 1.0

  @nn.compact
  def __call__(self) -> Array:
    kernel: Array = self.param('kernel', nn.initializers.normal(self.std), self.shape, jnp.float32)
    if not self.rank:
      return kernel
    count, into, *out = self.shape
    return kernel + self.scale * lora.product(*lora.pair(self, self.rank, (into,), tuple(out), (count,)), self.shape)
