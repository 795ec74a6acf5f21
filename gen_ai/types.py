"""The one interface between methods and everything else, and the shape glossary of the repository.

Shapes:
  B batch   H W C image height, width, channels   T tokens   D width   V vocabulary   Z latent
  R runs    K steps in a chunk    N examples
Values:
  image  uint8 [B, H, W, C] in a batch; networks see float32 x in [-1, 1] (`gen_ai.maths.pixels`)
  index  int32 [B] number of each example in its split: the address of its noise
  mask   float32 [B] 1 for an example, 0 for padding (evaluation batches only)
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array  # a typed key, jax.random.key
PyTree = Any
Batch = Mapping[str, Array]
Metrics = Mapping[str, Array]  # {name with unit: float32 scalar}
SumCount = Mapping[str, tuple[Array, Array]]  # {name with unit: (float32 sum, float32 count)}


CLASSES = 'classes'  # the view (see `Method`) that has a row a class, in the order of their labels


class State(NamedTuple):
  """Everything that training changes: arrays only. `step` counts completed updates.

  `ema` and `stats` are `()` where a method uses none.
  """

  step: Array  # int32 []
  params: PyTree
  opt_state: PyTree
  ema: PyTree = ()  # averaged parameters (and statistics) used to sample and evaluate
  stats: PyTree = ()  # batch-norm moments and other state of the networks


class Method(NamedTuple):
  """A generative method: four pure functions, all traceable.

  `views` are pictures beyond plain samples (reconstructions, traversals): {name: (state, batch, key) -> images}, drawn
  in rows of 8 from the first validation examples whenever samples are. The rows of the view CLASSES are named.
  """

  init: Callable[[Key], State]
  train_step: Callable[[State, Batch, Key], tuple[State, Metrics]]
  eval_step: Callable[[State, Batch, Key], SumCount]
  # images float32 [n, H, W, C] in [-1, 1], or tokens int32 [n, T]; None: it draws nothing
  sample: Callable[[State, Key, int], Array] | None
  batches_per_step: int = 1  # batches of data that one train_step takes, joined to [batches_per_step * B, ...]
  measure: str = ''  # what evaluations measure where a config can change it: figures of unlike ones are not compared
  views: Mapping[str, Callable[[State, Batch, Key], Array]] = MappingProxyType({})
  # (state, images uint8 [B, H, W, C]) -> features float32 [B, D], logits float32 [B, classes]; of classifiers
  features: Callable[[State, Array], tuple[Array, Array]] | None = None
  # (state, batch, key, draws int32 [k]) -> log p(x, z_j) - log q(z_j | x) in nats, float32 [k, B], of latent draws j of
  # one observation x of each example; noise is addressed by (example, draw)
  log_weights: Callable[[State, Batch, Key, Array], Array] | None = None
  # (state, batch, key) -> images float32 [B, H, W, C] in [-1, 1], one drawn for each example (completions): of methods
  # without `sample`; noise is addressed by example; a batch may bring its masks 'hole' float32 [B, H, W, 1], 1: hidden
  conditional: Callable[[State, Batch, Key], Array] | None = None
  # The metrics of training and evaluation that tell most: {name: 'min' | 'max', the way that is better, or '' where
  # neither is}. Wherever metrics are shown these come first, in this order.
  leading: Mapping[str, str] = MappingProxyType({})


class Vocab(Protocol):
  """Text to tokens and back."""

  size: int

  def encode(self, text: str) -> Any:
    """Tokens int32 [T] of `text`; raises UserError on a character outside the vocabulary."""

  def decode(self, tokens: Any) -> str:
    """Text of int [T] tokens."""

  def byte_counts(self) -> Any:
    """float32 [V]: UTF-8 bytes that each token stands for."""


class Spec(NamedTuple):
  """What a method may know of its data before it sees any."""

  kind: str  # 'image' | 'text'
  shape: tuple[int, ...]  # (H, W, C), or (T,)
  num_classes: int = 0  # 0: no labels
  vocab: Vocab | None = None  # text only

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of images."""
    H, W, C = self.shape
    return H, W, C


# `identity` under jit, where arrays are global; `lax.pmean` over devices under pmap.
Reduce = Callable[[PyTree], PyTree]


def identity(tree: PyTree) -> PyTree:
  """The reduction of a program whose arrays are global already."""
  return tree


def compute_dtype(precision: str) -> Any:
  """Type of activations and of the weights in matrix products: `config.precision` 'fp32' or 'bf16'."""
  return jnp.bfloat16 if precision == 'bf16' else jnp.float32
