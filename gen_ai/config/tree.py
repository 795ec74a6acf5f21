"""A config as plain values: flat, as JSON and back, and beside another."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'section.field': value}; tuples and lists become lists, as they do in JSON."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, (ConfigDict, Mapping)):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple | list) else value
  return flat


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Plain nested dict, keys sorted, tuples as lists."""
  tree: dict[str, Any] = json.loads(json.dumps(config.to_dict(), sort_keys=True))
  return tree


def from_json(tree: Mapping[str, Any]) -> ConfigDict:
  """The locked config that `to_json` wrote; lists come back as tuples.

  Runs once recorded `data.grey` as a truth value, before it could be 'auto'.
  """

  def tuples(node: Any) -> Any:
    if isinstance(node, Mapping):
      return {name: tuples(value) for name, value in node.items()}
    return tuple(node) if isinstance(node, list) else node

  config = ConfigDict(tuples(tree))
  if 'data' in config and isinstance(config.data.get('grey'), bool):
    config.data = ConfigDict({**config.data, 'grey': str(config.data.grey).lower()})
  return config.lock()


def difference(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """{'section.field': (value in a, value in b)} where they differ; a field one lacks shows as '(absent)'."""
  flat_a, flat_b = flatten(a), flatten(b)
  paths = sorted(flat_a.keys() | flat_b.keys())
  pairs = {path: (flat_a.get(path, '(absent)'), flat_b.get(path, '(absent)')) for path in paths}
  return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
