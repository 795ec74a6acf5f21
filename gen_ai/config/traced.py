"""Which floats of a config reach the compiled program as arguments."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_ai.config.tree import flatten

TRACED = ('model', 'loss', 'optim', 'sample')  # sections whose floats are arguments; all else is structure


def traced(config: ConfigDict) -> dict[str, float]:
  """The floats that reach the compiled program as arguments: {'optim.lr': 1e-3, ...}."""
  return {
    path: value
    for path, value in flatten(config).items()
    if isinstance(value, float) and value != 0.0 and path.split('.')[0] in TRACED
  }


def substitute(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  """A copy of `config` that holds `values` (tracers, in a trace) in the named fields."""
  tree = config.to_dict()
  for path, value in values.items():
    *sections, name = path.split('.')
    node = tree
    for section in sections:
      node = node[section]
    node[name] = value
  return ConfigDict(tree)
