"""Transformer blocks, and a language model of them: tokens in, logits out. GPT-2's layout, and today's.

`Architecture` says which. GPT-2 ("Language Models are Unsupervised Multitask Learners", 2019): layer norms, learned
positions, a plain MLP, tied embeddings. Today's: RMS norms (arXiv 1910.07467), rotary positions (arXiv 2104.09864), a
gated MLP (arXiv 2002.05202), grouped queries (arXiv 2305.13245), normalised queries and keys, windows. Blocks may be
modulated from outside and see all tokens, as the denoiser of `gen_ai.nets.dit` has them.

Layers are one scan over stacked parameters [layers, ...], so that compilation takes as long for 48 as for 4. With
`fsdp` the parameters of a layer are gathered inside of it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core import lowering
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.core.switch import is_off
from gen_ai.nets import attention, lora
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.conditioning import modulated
from gen_ai.nets.experts import LOSSES, Experts

Cache = Any  # {block: (keys, values)}, each [groups of layers, B, context, K, H]

NORMS = ('layer', 'rms')
POSITIONS = ('learned', 'rope')
REMAT = ('none', 'dots', 'full')
_INIT_STD = 0.02  # GPT-2's
# Layers that one turn of the scan holds. On a CPU a loop of single layers copies what the backward pass needs: 127
# examples/s in place of 180 (nanoGPT's CPU setting). Compilation takes as long for 48 layers as for this many.
_UNROLLED_ON_CPU = 4

# How parameters lie over a mesh: {end of the name: what each axis is}, for `gen_ai.parallel.mesh`.
SHARDING = {
  r'token_embedding': ('vocab', 'embed'),
  r'position_embedding': ('context', 'embed'),
  r'qkv/kernel': ('layer', 'embed', 'heads', '', ''),
  r'qkv/bias': ('layer', 'heads', '', ''),
  r'attention_out/kernel': ('layer', 'heads', '', '', 'embed'),
  r'mlp_in/kernel': ('layer', 'embed', '', 'mlp'),
  r'mlp_in/bias': ('layer', '', 'mlp'),
  r'mlp_out/kernel': ('layer', 'mlp', 'embed'),
  r'modulation/kernel': ('layer', 'embed', '', '', ''),
  r'modulation/bias': ('layer', '', '', ''),
  r'qkv/lora_a': ('layer', 'embed', ''),
  r'qkv/lora_b': ('layer', '', 'heads', '', ''),
  r'attention_out/lora_a': ('layer', 'heads', '', '', ''),
  r'(attention_out|mlp_out)/lora_b': ('layer', '', 'embed'),
  r'mlp_in/lora_a': ('layer', 'embed', ''),
  r'mlp_in/lora_b': ('layer', '', '', 'mlp'),
  r'mlp_out/lora_a': ('layer', 'mlp', ''),
  r'router/kernel': ('layer', '', ''),
  r'experts_in/kernel': ('layer', 'expert', 'embed', '', 'mlp'),
  r'experts_out/kernel': ('layer', 'expert', 'mlp', 'embed'),
  r'experts_in/lora_a': ('layer', 'expert', 'embed', ''),
  r'experts_in/lora_b': ('layer', 'expert', '', '', 'mlp'),
  r'experts_out/lora_a': ('layer', 'expert', 'mlp', ''),
  r'experts_out/lora_b': ('layer', 'expert', '', 'embed'),
  r'(attention_out|mlp_out)/bias': ('layer', ''),
  r'(attention_norm|mlp_norm)/(scale|bias)': ('layer', ''),
  r'final_norm/(scale|bias)': ('',),
  r'head/kernel': ('embed', 'vocab'),
  # Of the denoiser: thin ends, whole on every device.
  r'(time|interval)_(in|out)/kernel|(patch_narrow|patch_in|patch_out|final_modulation)/kernel|label_embedding': (
    '',
    '',
  ),
  r'(time|interval)_(in|out)/bias|(patch_in|patch_out|final_modulation)/bias': ('',),
}
# Which axes of a kernel are a matrix: {end of the name: (axes in, axes out)}; all other axes count matrices.
MATRICES = {
  r'qkv/kernel': ((-4,), (-3, -1)),  # one of each query head of a group, one of the keys, one of the values
  r'attention_out/kernel': ((-4, -3, -2), (-1,)),
  r'mlp_in/kernel': ((-3,), (-1,)),  # of the gate, of what it lets through
  r'modulation/kernel': ((-4,), (-1,)),  # of each shift, scale and gate
  r'mlp_out/kernel': ((-2,), (-1,)),
  r'experts_in/kernel': ((-3,), (-1,)),  # of each expert, as of the MLP
  r'experts_out/kernel': ((-2,), (-1,)),
  r'qkv/lora_b': ((-4,), (-3, -1)),
  r'attention_out/lora_a': ((-4, -3, -2), (-1,)),
  r'(mlp_in|experts_in)/lora_b': ((-3,), (-1,)),
  r'router/kernel|lora_a|lora_b': ((-2,), (-1,)),
}


@dataclass(frozen=True)
class Architecture:
  """What a Transformer is made of.

  Attributes:
    vocab_size: V; of a network without tokens 0.
    context: T, the longest sequence.
    layers: number of blocks.
    heads: N, of queries.
    width: D, of the residual stream.
    kv_heads: K, of keys and values; 0: as many as queries.
    head_width: H; 0: D / N.
    mlp_width: of the hidden layer; 0: 4 D, of a gated one 8 / 3 D rounded up to a multiple of 8.
    gated: whether the MLP's hidden layer is multiplied by another projection (SwiGLU with 'silu').
    experts: MLPs of a block, of which a token takes `chosen`; 0: one, without a router (see `gen_ai.nets.experts`).
    chosen: experts a token.
    capacity: of an expert in training, in percent of its even share of a row's tokens; 0: it takes all that come.
    activation: of the MLP, see `gen_ai.nets.activation`.
    norm: 'layer' or 'rms'.
    norm_epsilon: added to variances.
    positions: 'learned' or 'rope'.
    rope_theta: base of RoPE's wavelengths.
    bias: whether dense layers and layer norms have one.
    qk_norm: whether queries and keys are divided by their RMS.
    window: tokens that a layer marked S sees.
    pattern: of windows, repeated over the layers: L sees all, S the last `window` tokens.
    tied: whether the head is the token embedding.
    softcap: logits become softcap * tanh(logits / softcap) (arXiv 2408.00118); 0: as they are.
    dropout: of embeddings, attention weights and both branches of a block; may be traced, a Python 0 switches it off.
    remat: what the backward pass computes again: 'none', 'dots' (all but matrix products) or 'full'.
    base_width: D of the model whose learning rate is known, see `gen_ai.nets.scaling`; 0: no scaling by width.
    lora: rank of adapters (`gen_ai.nets.lora`); 0: none.
    lora_scale: their factor, alpha / rank; may be traced.
    lora_on: which kernels get them: 'attention' or 'all' (of blocks).
    causal: whether a token sees only what is before it.
    unpredicted: tokens after the V of the vocabulary, which are read and have no logits, such as a mask.
    modulated: whether blocks are shifted, scaled and gated by a vector from outside, see `Block`.
    differentiable_forward: whether `jax.jvp` can go through attention that is not causal.
    dtype: of activations and of the weights in matrix products.
  """

  vocab_size: int
  context: int
  layers: int
  heads: int
  width: int
  kv_heads: int = 0
  head_width: int = 0
  mlp_width: int = 0
  gated: bool = False
  experts: int = 0
  chosen: int = 2
  capacity: int = 0
  activation: str = 'gelu'
  norm: str = 'layer'
  norm_epsilon: float = 1e-5  # PyTorch's, which nanoGPT and its published losses use
  positions: str = 'learned'
  rope_theta: float | Array = 10_000.0
  bias: bool = True
  qk_norm: bool = False
  window: int = 0
  pattern: str = 'L'
  tied: bool = True
  softcap: float | Array = 0.0
  dropout: float | Array = 0.0
  remat: str = 'none'
  base_width: int = 0
  lora: int = 0
  lora_scale: float | Array = 1.0
  lora_on: str = 'all'
  causal: bool = True
  unpredicted: int = 0
  modulated: bool = False
  differentiable_forward: bool = False
  dtype: Any = jnp.float32

  def check(self, name: Callable[[str], str] = str) -> None:
    """Raises UserError where the sizes do not fit together; `name` makes a field's name one that users know."""
    keys = self.kv_heads or self.heads
    fields = (('norm', NORMS), ('positions', POSITIONS), ('remat', REMAT), ('lora_on', tuple(lora.ON)))
    for field, choices in fields:
      if getattr(self, field) not in choices:
        raise UserError(f"{name(field)}='{getattr(self, field)}' is none of {', '.join(choices)}.")
    if not self.head_width and self.width % self.heads:
      raise UserError(f'{name("width")}={self.width} does not divide into {self.heads} heads ({name("heads")}).')
    if self.heads % keys:
      raise UserError(f'{name("heads")}={self.heads} is no multiple of {name("kv_heads")}={keys}.')
    if self.positions == 'rope' and self.sizes[2] % 2:
      raise UserError(f'{name("positions")}=rope turns pairs of numbers: heads of {self.sizes[2]} numbers have none.')
    if set(self.pattern) - {'L', 'S'} or not self.pattern:
      raise UserError(f"{name('pattern')}='{self.pattern}' must be made of the letters L (all) and S (a window).")
    if self.layers % len(self.pattern):
      raise UserError(
        f'{name("layers")}={self.layers} is no multiple of the {len(self.pattern)} letters of '
        f"{name('pattern')}='{self.pattern}'."
      )
    if self.experts and not 1 <= self.chosen <= self.experts:
      raise UserError(f'{name("chosen")}={self.chosen} must be from 1 to {name("experts")}={self.experts}.')
    if self.experts and self.bias:
      raise UserError(f'{name("experts")}={self.experts}: experts have no biases; take {name("bias")}=False.')
    if 'S' in self.pattern and not self.causal:
      raise UserError(f"{name('pattern')}='{self.pattern}': windows look back; of attention to all tokens take L.")
    if 'S' in self.pattern and self.window < 1:
      raise UserError(f"{name('pattern')}='{self.pattern}' needs {name('window')}, the tokens that an S layer sees.")

  @property
  def sizes(self) -> tuple[int, int, int, int]:
    """(K, query heads a key head, H, hidden units of the MLP)."""
    keys = self.kv_heads or self.heads
    usual = -(-self.width * 8 // 3 // 8) * 8 if self.gated else 4 * self.width
    return keys, self.heads // keys, self.head_width or self.width // self.heads, self.mlp_width or usual

  @property
  def growth(self) -> float:
    """D over that of the model whose learning rate is known; 1 without one."""
    return self.width / self.base_width if self.base_width else 1.0

  @property
  def init_std(self) -> float:
    """Of kernels between hidden layers."""
    return _INIT_STD * self.growth**-0.5

  @property
  def residual_std(self) -> float:
    """Of kernels that lead to the residual stream.

    Each layer adds to it twice: this keeps its variance independent of depth (GPT-2, section 2.3).
    """
    return self.init_std / (2 * self.layers) ** 0.5

  @property
  def attention_scale(self) -> float | None:
    """Factor of products of queries and keys, in proportion 1 / H, where heads have grown; None: H^-1/2.

    Heads of a `head_width` have not: there are more of them.
    """
    return None if self.head_width or self.growth == 1 else (self.sizes[2] * self.growth) ** -0.5

  @property
  def output_scale(self) -> float:
    """Factor of logits."""
    return 1 / self.growth

  def adapted(self, module: str) -> int:
    """Rank of the adapters of a module of a block, by its name; 0: it has none."""
    return self.lora if re.fullmatch(lora.ON[self.lora_on], module) else 0


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


class Projection(nn.Module):
  """x times a kernel [*into, *out], plus a bias [*out]: the last axes of x are `into`, those of the result `out`.

  With a `rank`, plus `scale` times x A B, see `gen_ai.nets.lora`.
  """

  into: tuple[int, ...]
  out: tuple[int, ...]
  std: float
  use_bias: bool
  dtype: Any
  rank: int = 0
  scale: float | Array = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., *into] -> [..., *out]."""
    kernel = self.param('kernel', nn.initializers.normal(self.std), (*self.into, *self.out), jnp.float32)
    given, made = math.prod(self.into), math.prod(self.out)
    batch = x.shape[: x.ndim - len(self.into)]
    # One product of two matrices, which every platform has a fast kernel for.
    x = x.reshape(*batch, given).astype(self.dtype)
    y = x @ kernel.astype(self.dtype).reshape(given, made)
    if self.rank:
      a, b = (matrix.astype(self.dtype) for matrix in lora.pair(self, self.rank, self.into, self.out))
      y += jnp.asarray(self.scale, self.dtype) * (x @ a.reshape(given, self.rank) @ b.reshape(self.rank, made))
    y = y.reshape(*batch, *self.out)
    return (
      y + self.param('bias', nn.initializers.zeros, self.out, jnp.float32).astype(self.dtype) if self.use_bias else y
    )


def norm_of(arch: Architecture, name: str | None = None) -> nn.Module:
  """The norm of an architecture. Where it is modulated its scale and bias come from there."""
  own = not arch.modulated
  if arch.norm == 'rms':
    return nn.RMSNorm(epsilon=arch.norm_epsilon, use_scale=own, dtype=arch.dtype, name=name)
  bias = arch.bias and own
  return nn.LayerNorm(epsilon=arch.norm_epsilon, use_bias=bias, use_scale=own, dtype=arch.dtype, name=name)


class Block(nn.Module):
  """Attention, then an MLP; each behind a norm and added to its input.

  A modulated one has adaLN-zero (arXiv 2212.09748, section 3.2): a linear map, zero at first, of a vector makes of each
  branch a shift and a scale, behind its norm, and a gate of what it adds: at first nothing.
  """

  arch: Architecture
  window: int  # tokens that a query sees; 0: all before it

  def _projection(self, name: str, into: tuple[int, ...], out: tuple[int, ...], residual: bool = False) -> Projection:
    arch = self.arch
    std = arch.residual_std if residual else arch.init_std
    return Projection(into, out, std, arch.bias, arch.dtype, arch.adapted(name), arch.lora_scale, name=name)

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool,
    positions: Any,
    parts: Array | None = None,
    cache: tuple[Array, Array] | None = None,
    fresh: bool = False,
    condition: Array | None = None,
  ) -> tuple[Array, tuple[Array, Array] | None]:
    """x [B, T, D] at `positions` int32 [T] or [B, T] -> (x [B, T, D], cache).

    Args:
      x: the residual stream.
      train: whether dropout is on.
      positions: of the tokens; None where they are in x.
      parts: int32 [B, T], the document of each token; None: one.
      cache: keys and values [B, context, K, H], into which those of the T tokens are written at their positions.
      fresh: with a cache, that nothing was written before these tokens.
      condition: [B, D], of a modulated block: what it is modulated by.
    """
    arch, (B, T, D) = self.arch, x.shape
    K, G, H, F = arch.sizes
    drop = Dropout(arch.dropout)
    modulation: Any = None  # shift, scale and gate of both branches, [2, 3, B, D]
    if arch.modulated:
      assert condition is not None, 'a modulated block is called with what modulates it'
      made = Projection((D,), (2, 3, D), 0.0, True, arch.dtype, name='modulation')(condition)
      modulation = jnp.moveaxis(made, 0, 2)

    def normed(name: str, branch: int) -> Array:
      y: Array = norm_of(arch, name)(x)
      return modulated(y, *modulation[branch, :2]) if arch.modulated else y

    def added(out: Array, branch: int) -> Array:
      out = Dropout(arch.dropout)(out, train)
      return x + (modulation[branch, 2][:, None] * out if arch.modulated else out)

    # Of each key head: its queries, its key, its value.
    qkv = self._projection('qkv', (D,), (K, G + 2, H))(normed('attention_norm', 0))
    query, key, value = qkv[:, :, :, :G].reshape(B, T, K * G, H), qkv[:, :, :, G], qkv[:, :, :, G + 1]
    if arch.positions == 'rope':
      query, key = (attention.rotated(side, positions, arch.rope_theta) for side in (query, key))
    if arch.qk_norm:
      query, key = attention.rms_normalised(query), attention.rms_normalised(key)
    if cache is not None:
      row = jnp.arange(B)[:, None]
      at = jnp.broadcast_to(positions, (B, T))
      cache = cache[0].at[row, at].set(key, mode='drop'), cache[1].at[row, at].set(value, mode='drop')
    if cache is not None and not fresh:
      mask = attention.causal_mask(positions, jnp.arange(cache[0].shape[1]), self.window)
      attended = attention.over(query, *cache, mask, arch.attention_scale)
    elif train and not is_off(arch.dropout):  # no fused kernel drops attention weights
      mask = attention.mask_of(T, arch.causal, self.window, parts)
      weights = attention.weights(query, key, mask, arch.attention_scale)
      attended = attention.weighted(drop(weights.astype(arch.dtype), train), value)
    elif arch.causal:
      attended = attention.causal(query, key, value, self.window, parts, arch.attention_scale)
    else:
      attended = attention.full(query, key, value, parts, arch.attention_scale, arch.differentiable_forward)
    out = self._projection('attention_out', (K, G, H), (D,), residual=True)(attended.reshape(B, T, K, G, H))
    x = added(out, 0)
    normalised, act = normed('mlp_norm', 1), activation_fn(arch.activation)
    if arch.experts:
      out = Experts(
        arch.experts,
        arch.chosen,
        F,
        arch.gated,
        act,
        arch.capacity,
        arch.init_std,
        arch.residual_std,
        _INIT_STD / arch.growth,
        arch.dtype,
        arch.adapted('experts_in'),
        arch.lora_scale,
        name='mixture',
      )(normalised, train)
    else:
      hidden = self._projection('mlp_in', (D,), (1 + arch.gated, F))(normalised)
      active = act(hidden[..., 0, :])
      hidden = active * hidden[..., 1, :] if arch.gated else active
      out = self._projection('mlp_out', (F,), (D,), residual=True)(hidden)
    return added(out, 1), cache


class Group(nn.Module):
  """The layers of one pattern of windows, which the scan repeats."""

  arch: Architecture

  @nn.compact
  def __call__(
    self,
    x: Array,
    cache: Any,
    train: bool,
    positions: Array | None,
    parts: Array | None,
    fresh: bool,
    condition: Array | None,
  ):
    """(x [B, T, D], {block: (keys, values)} or None) -> the same after the layers."""
    filled = {}
    for number, letter in enumerate(self.arch.pattern):
      name = f'block_{number}'
      block = Block(self.arch, self.arch.window if letter == 'S' else 0, name=name)
      x, filled[name] = block(x, train, positions, parts, cache and cache[name], fresh, condition)
    return lowering.constrain_batch(x), None if cache is None else filled


def stack(arch: Architecture, initialising: bool) -> nn.Module:
  """The layers as one scan named 'layers', called as `Group`: for a network's `setup` or compact method.

  The parameters of a layer are gathered inside of the scan, see `gen_ai.core.lowering`.
  """

  def gathered(variables: Any) -> Any:
    return lowering.gather_layer(variables)

  group = nn.map_variables(Group, 'params', trans_in_fn=gathered, init=initialising, mutable=initialising)
  if arch.remat != 'none':
    policy = None if arch.remat == 'full' else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    group = nn.remat(group, prevent_cse=False, policy=policy, static_argnums=(3, 6))
  scanned = nn.scan(
    group,
    variable_axes={'params': 0, LOSSES: 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
    length=arch.layers // len(arch.pattern),
    unroll=_UNROLLED_ON_CPU if lowering.platform() == 'cpu' else 1,
  )
  return scanned(arch, name='layers')


class Transformer(nn.Module):
  """The language model. Logits at position t depend on tokens 0..t only, unless it is not causal."""

  arch: Architecture

  def setup(self) -> None:
    """Parameters and layers; raises UserError, see `Architecture.check`."""
    arch = self.arch
    arch.check()
    init = nn.initializers.normal(_INIT_STD)
    read = arch.vocab_size + arch.unpredicted
    self.token_embedding = self.param('token_embedding', init, (read, arch.width), jnp.float32)
    if arch.positions == 'learned':
      self.position_embedding = self.param('position_embedding', init, (arch.context, arch.width), jnp.float32)
    self.layers = stack(arch, self.is_initializing())
    self.embedding_dropout = Dropout(arch.dropout)
    self.final_norm = norm_of(arch)
    if not arch.tied:
      self.head = self.param('head', lambda key: {'kernel': init(key, (arch.width, arch.vocab_size), jnp.float32)})

  def _embedded(self, tokens: Array, positions: Array) -> Array:
    x = lowering.constrain_features(self.token_embedding[tokens])
    if self.arch.positions == 'learned':
      x = lowering.constrain_batch(x)
      x = x + _gathered(position_embedding=self.position_embedding)['position_embedding'][positions]
    return x.astype(self.arch.dtype)

  def hidden(self, tokens: Array, train: bool, positions: Array | None = None, parts: Array | None = None) -> Array:
    """The last hidden states [B, T, D], normalised, times `output_scale`: logits are their products with `head_of`.

    Args:
      tokens: int32 [B, T], T <= context.
      train: whether dropout is on; it then needs `rngs={'dropout': key}`.
      positions: int32 [T] or [B, T]; None: 0 to T - 1.
      parts: int32 [B, T], the document of each token, which alone it sees; None: all of one.

    Raises:
      UserError: more tokens than the context, or sizes that do not fit together.
    """
    T = tokens.shape[1]
    if self.arch.context < T:
      raise UserError(f'a sequence of {T} tokens exceeds the context of {self.arch.context}')
    positions = jnp.arange(T) if positions is None else positions
    x = self.embedding_dropout(self._embedded(tokens, positions), train)
    x, _ = self.layers(lowering.constrain_batch(x), None, train, positions, parts, False, None)
    return self._final(x)

  def _final(self, x: Array) -> Array:
    hidden: Array = self.final_norm(x)
    return hidden if self.arch.growth == 1 else hidden * jnp.asarray(self.arch.output_scale, hidden.dtype)

  def _logits(self, hidden: Array) -> Array:
    """[..., D] -> float32 [..., V]."""
    rows = self.token_embedding[: self.arch.vocab_size] if self.arch.tied else self.head['kernel'].T
    return logits_by(hidden, rows, self.arch.tied, self.arch.softcap)

  def __call__(self, tokens: Array, train: bool, positions: Array | None = None, parts: Array | None = None) -> Array:
    """Logits float32 [B, T, V] of each next token; see `hidden`."""
    return self._logits(self.hidden(tokens, train, positions, parts))

  def init_cache(self, batch_size: int) -> Cache:
    """An empty cache for `extend`; needs no parameters."""
    arch, (K, _, H, _) = self.arch, self.arch.sizes
    shape = (arch.layers // len(arch.pattern), batch_size, arch.context, K, H)
    return {
      f'block_{i}': (jnp.zeros(shape, arch.dtype), jnp.zeros(shape, arch.dtype)) for i in range(len(arch.pattern))
    }

  def extend(
    self, cache: Cache, tokens: Array, positions: Array, pick: Array, fresh: bool = False
  ) -> tuple[Array, Cache]:
    """The logits `__call__` of a causal model gives after some of `tokens`, from a cache of what was before them.

    Use: `model.apply({'params': params}, cache, tokens, positions, pick, method='extend')`.

    Args:
      cache: of `init_cache`, filled by earlier calls.
      tokens: int32 [B, P].
      positions: int32 [B, P], below the context; a row's own, one after another. A token at the context or beyond is
        not kept.
      pick: int32 [B] or [B, Q], numbers of the tokens in their row whose logits are wanted.
      fresh: whether nothing is before these tokens, whose positions are then 0 to P - 1.

    Returns:
      (float32 [B, V] or [B, Q, V], the cache with these positions filled).
    """
    x, cache = self.layers(self._embedded(tokens, positions), cache, False, positions, None, fresh, None)
    x = jnp.take_along_axis(x, pick.reshape(len(pick), -1, 1), 1)
    return self._logits(self._final(x if pick.ndim == 2 else x[:, 0])), cache


def capped(logits: Array, softcap: float | Array) -> Array:
  """softcap * tanh(logits / softcap), arXiv 2408.00118, section 2; as they are where it is a Python 0."""
  return logits if is_off(softcap) else softcap * jnp.tanh(logits / softcap)


def _gathered(**params: Any) -> Any:
  """Parameters outside of the scan over layers by their names, whole over fsdp."""
  return lowering.gather_layer(params)


def head_of(params: Any) -> Array:
  """What makes logits of hidden states: a row [D] for every token, [V, D], as it lies on the devices.

  Where it is the token embedding, its last rows are those of `Architecture.unpredicted` tokens: take V of them.
  """
  kernel: Array = params['head']['kernel'].T if 'head' in params else params['token_embedding']
  return kernel


def logits_by(hidden: Array, rows: Array, tied: bool, softcap: float | Array) -> Array:
  """Logits float32 [..., n] of the tokens whose `rows` [n, D] of `head_of` these are; the rows are gathered for it."""
  if tied:
    kernel = _gathered(token_embedding=rows)['token_embedding'].T
  else:
    kernel = _gathered(head={'kernel': rows.T})['head']['kernel']
  return capped(jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32), softcap)
