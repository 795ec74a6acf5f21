"""Fields of a config that nothing would read: refused by name where a person sets one. Light: no JAX.

What reads a field is declared beside it: `Field.used_with`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_ai.config.defaults import declared
from gen_ai.config.field import Needs
from gen_ai.config.tree import flatten
from gen_ai.core.errors import UserError


def reason(config: ConfigDict, path: str) -> str:
  """Why nothing reads the field `path` under the other settings of `config`; '' where something does."""
  flat, fields = flatten(config), declared(config.experiment)
  if path not in fields:
    return ''
  return _reason(flat, fields[path].used_with) if path in flat else f'there is no config.{path}'


def _reason(flat: Mapping[str, Any], needs: Needs) -> str:
  for other, (words, holds) in needs.items():
    named = (other,) if isinstance(other, str) else other
    here = {path: flat[path] for path in named if path in flat}
    if not any(map(holds, here.values())):
      shown = ' and '.join(f'config.{path}={value!r}' for path, value in here.items())
      wanted = ' or '.join(f'config.{path}' for path in named)
      return f'it is for {wanted} {words}, and {f"here {shown}" if here else f"there is no {wanted}"}'
  return ''


def refuse(config: ConfigDict, given: Collection[str]) -> None:
  """Refuses what would do nothing.

  A size, a weight or a path counts where it was set by hand: config files have values for all cases. A feature that is
  switched on, whoever did so, must be one that the other settings have.

  Args:
    config: resolved.
    given: fields that a person set, on the command line or in a trial of a sweep.

  Raises:
    UserError: names the field, what it belongs to, and what stands there.
  """
  flat = flatten(config)
  for path, field in declared(config.experiment).items():
    if path not in flat or not (why := _reason(flat, field.used_with)):
      continue
    value, usual = flat[path], field.usual('')
    feature = isinstance(usual, bool | str)
    if path in given and not (feature and value == usual):
      raise UserError(f'config.{path}={value!r} would do nothing: {why}. Leave it out.')
    if _is_on(value) and not _is_on(usual) and feature:
      raise UserError(f'config.{path}={value!r} would do nothing: {why}. Set it to {usual!r}.')


def _is_on(value: Any) -> bool:
  return value not in (False, 'none')
