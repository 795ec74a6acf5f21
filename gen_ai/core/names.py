"""Parameters by their names: which are decayed, which Muon moves and as which matrices, which a run trains at all.

A name is the path of a leaf with '/', as in 'layers/block_0/qkv/kernel'. Tables have regular expressions that a name
ends in.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax

PyTree = Any

HEADS = ('score', 'classes', 'head', 'to_rgb', 'patch_out')  # modules whose kernels lead out of a network
NOT_DECAYED = ('bias', 'scale')  # names of parameters to which weight decay does not apply, whatever their shape
KERNELS = ('kernel', 'lora_a', 'lora_b')  # what matrices are called

Row = TypeVar('Row')


def name_of(path: tuple[Any, ...]) -> str:
  """The name of the leaf at `path` of a tree."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def ends_in(name: str, pattern: str) -> bool:
  """Whether `name` ends in whole parts that match `pattern`."""
  return re.search(f'(^|/)({pattern})$', name) is not None


def row(name: str, table: Mapping[str, Row], otherwise: Row) -> Row:
  """The first row of the table that `name` ends in."""
  return next((value for pattern, value in table.items() if ends_in(name, pattern)), otherwise)


def decayed(params: PyTree) -> PyTree:
  """True for kernels and embeddings, False for biases and scales, stacked or not: what weight decay applies to."""
  return jax.tree_util.tree_map_with_path(
    lambda path, p: p.ndim >= 2 and name_of(path).rpartition('/')[2] not in NOT_DECAYED, params
  )


def groups(params: PyTree) -> PyTree:
  """'muon' or 'adam' for every parameter, by its name: which rule of optimiser 'muon' moves it.

  Muon is made for the matrices of hidden layers (https://kellerjordan.github.io/posts/muon/): dense and convolution
  kernels, and what LoRA adds to them. Embeddings, learned constants, norms and biases are Adam's, and so are the
  kernels of HEADS.
  """

  def group(path: tuple[Any, ...], leaf: Any) -> str:
    *modules, name = name_of(path).split('/')
    head = bool(modules) and modules[-1].rstrip('0123456789').rstrip('_') in HEADS
    return 'muon' if name in KERNELS and leaf.ndim >= 2 and not head else 'adam'

  return jax.tree_util.tree_map_with_path(group, params)


class Part(NamedTuple):
  """A part of the parameters, by their names.

  Attributes:
    pattern: regular expression that the names in it end in.
    setting: what asks for it, as users write it: 'config.model.lora=8'.
    beside: whose the other parameters are.
  """

  pattern: str
  setting: str
  beside: str = 'another run'

  def holds(self, name: str) -> bool:
    """Whether the parameter of that name is in it."""
    return ends_in(name, self.pattern)

  def of(self, params: PyTree, within: str = '') -> PyTree:
    """The nested dict `params` without what is not in the part; `within` is the name of `params` itself."""
    found = {}
    for name, value in params.items():
      path = f'{within}/{name}' if within else name
      if isinstance(value, Mapping):
        if inner := self.of(value, path):
          found[name] = inner
      elif self.holds(path):
        found[name] = value
    return found


def joined(part: PyTree, whole: PyTree) -> PyTree:
  """The nested dict `whole` with the leaves of `part` in place of its own."""
  if not isinstance(part, Mapping):
    return part
  return {name: joined(part[name], value) if name in part else value for name, value in whole.items()}
