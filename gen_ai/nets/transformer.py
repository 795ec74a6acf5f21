"""A decoder-only Transformer language model, as GPT-2: tokens in, logits out.

Pre-norm blocks, learned positions, GELU, tied embeddings ("Language Models are Unsupervised Multitask Learners", 2019;
arXiv 1706.03762 for attention, 1608.05859 for tying). Layers are a Python loop: the dozen layers meant here compile in
seconds, and parameters keep one name a layer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.core.switch import is_off
from gen_ai.nets.activation import activation_fn

Cache = list[tuple[Array, Array]]  # a layer: keys and values [B, context, heads, D / heads]

_INIT_STD = 0.02  # GPT-2's
_LAYER_NORM_EPSILON = 1e-5  # PyTorch's, which nanoGPT and its published losses use


class Dropout(nn.Module):
  """Inverted dropout whose rate may be traced; a Python 0 compiles to nothing. Draws from the stream 'dropout'."""

  rate: float | Array

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Any shape; the identity unless `train`. Kept entries are divided by 1 - rate, so that the mean is kept."""
    if not train or is_off(self.rate):
      return x
    keep = 1.0 - jnp.asarray(self.rate, jnp.float32)
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, x.shape)
    return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


def attention_weights(query: Array, key: Array, mask: Array) -> Array:
  """softmax(Q K^T / sqrt(D)) of arXiv 1706.03762, eq. 1, in float32 whatever the operands are.

  Args:
    query: [B, Tq, heads, D / heads].
    key: [B, Tk, heads, D / heads].
    mask: bool [Tq, Tk], true where a query may look; every query may look somewhere.

  Returns:
    float32 [B, heads, Tq, Tk].
  """
  scores = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
  return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)


class Block(nn.Module):
  """Attention, then an MLP of four times the width; each behind a layer norm and added to its input."""

  num_heads: int
  residual_std: float  # initial weights of the two projections that feed the residual stream
  dropout: float | Array = 0.0
  use_bias: bool = True
  activation: str = 'gelu'
  dtype: Any = jnp.float32

  def _norm(self, name: str, x: Array) -> Array:
    return nn.LayerNorm(epsilon=_LAYER_NORM_EPSILON, use_bias=self.use_bias, dtype=self.dtype, name=name)(x)

  def _dense(self, name: str, x: Array, features: int, std: float = _INIT_STD) -> Array:
    init = nn.initializers.normal(std)
    return nn.Dense(features, use_bias=self.use_bias, kernel_init=init, dtype=self.dtype, name=name)(x)

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool,
    cache: tuple[Array, Array] | None = None,
    position: int | Array = 0,
  ) -> tuple[Array, tuple[Array, Array]]:
    """x [B, T, D] at `position` on -> (x [B, T, D], keys and values up to here).

    With a cache, the T new keys and values are written into it at `position`, and queries look at all it holds.
    """
    B, T, D = x.shape
    qkv = self._dense('qkv', self._norm('attention_norm', x), 3 * D)
    query, key, value = jnp.split(qkv.reshape(B, T, 3 * self.num_heads, D // self.num_heads), 3, 2)
    if cache is not None:
      key = lax.dynamic_update_slice_in_dim(cache[0], key, position, 1)
      value = lax.dynamic_update_slice_in_dim(cache[1], value, position, 1)
    mask = jnp.arange(key.shape[1]) <= position + jnp.arange(T)[:, None]
    weights = Dropout(self.dropout)(attention_weights(query, key, mask).astype(self.dtype), train)
    attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value).reshape(B, T, D)
    x = x + Dropout(self.dropout)(self._dense('attention_out', attended, D, self.residual_std), train)
    hidden = activation_fn(self.activation)(self._dense('mlp_in', self._norm('mlp_norm', x), 4 * D))
    x = x + Dropout(self.dropout)(self._dense('mlp_out', hidden, D, self.residual_std), train)
    return x, (key, value)


class Transformer(nn.Module):
  """The language model. Logits at position t depend on tokens 0..t only."""

  vocab_size: int
  context: int  # the longest sequence, T
  num_layers: int
  num_heads: int
  width: int  # D
  dropout: float | Array = 0.0  # may be traced; a Python 0 switches it off
  use_bias: bool = True  # of dense layers and layer norms
  activation: str = 'gelu'
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Parameters and layers; raises UserError on a width that the heads do not divide."""
    if self.width % self.num_heads:
      raise UserError(
        f'a width of {self.width} does not divide into {self.num_heads} heads; make it a multiple of them'
      )
    init = nn.initializers.normal(_INIT_STD)
    self.token_embedding = self.param('token_embedding', init, (self.vocab_size, self.width), jnp.float32)
    self.position_embedding = self.param('position_embedding', init, (self.context, self.width), jnp.float32)
    # Each layer adds twice to the residual stream: this keeps its variance independent of depth (GPT-2, section 2.3).
    residual_std = _INIT_STD / (2 * self.num_layers) ** 0.5
    self.blocks = [
      Block(self.num_heads, residual_std, self.dropout, self.use_bias, self.activation, self.dtype)
      for _ in range(self.num_layers)
    ]
    self.embedding_dropout = Dropout(self.dropout)
    self.final_norm = nn.LayerNorm(epsilon=_LAYER_NORM_EPSILON, use_bias=self.use_bias, dtype=self.dtype)

  def _logits(self, x: Array) -> Array:
    """[B, T, D] -> float32 [B, T, V], by the token embedding itself."""
    embedding = self.token_embedding.astype(self.dtype)
    return jnp.einsum('btd,vd->btv', self.final_norm(x), embedding, preferred_element_type=jnp.float32)

  def __call__(self, tokens: Array, train: bool) -> Array:
    """Logits of each next token.

    Args:
      tokens: int32 [B, T], T <= context.
      train: whether dropout is on; it then needs `rngs={'dropout': key}`.

    Returns:
      float32 [B, T, V].

    Raises:
      UserError: more tokens than the context, or a width that the heads do not divide.
    """
    T = tokens.shape[1]
    if self.context < T:
      raise UserError(f'a sequence of {T} tokens exceeds the context of {self.context}')
    x = (self.token_embedding[tokens] + self.position_embedding[:T]).astype(self.dtype)
    x = self.embedding_dropout(x, train)
    for block in self.blocks:
      x, _ = block(x, train)
    return self._logits(x)

  def init_cache(self, batch_size: int) -> Cache:
    """An empty cache for `decode_step`; needs no parameters."""
    shape = (batch_size, self.context, self.num_heads, self.width // self.num_heads)
    return [(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)) for _ in range(self.num_layers)]

  def decode_step(self, cache: Cache, token: Array, position: Array) -> tuple[Array, Cache]:
    """The logits `__call__` gives at `position`, in time linear in the context.

    Use: `model.apply({'params': params}, cache, token, position, method='decode_step')`.

    Args:
      cache: of `init_cache`, holding positions 0..position - 1.
      token: int32 [B], the token at `position`.
      position: int32 [], below the context.

    Returns:
      (float32 [B, V], the cache with `position` filled).
    """
    x = (self.token_embedding[token] + self.position_embedding[position]).astype(self.dtype)[:, None]
    filled = []
    for block, layer_cache in zip(self.blocks, cache, strict=True):
      x, layer_cache = block(x, train=False, cache=layer_cache, position=position)
      filled.append(layer_cache)
    return self._logits(x)[:, 0], filled
