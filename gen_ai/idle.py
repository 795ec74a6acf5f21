"""Fields of a config that nothing would read: refused by name where a person sets one. Light: no JAX.

What belongs to what is declared beside the fields: `USED_WITH` of `gen_ai.config` for those that every run has,
of `gen_ai.gan_fields` and `gen_ai.vae_fields` for those of a family.
"""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import gan_fields, vae_fields
from gen_ai.config import Needs
from gen_ai.errors import UserError

_FAMILIES = {
  'gan': (gan_fields.adversarial, gan_fields.USED_WITH),
  'vae': (vae_fields.variational, vae_fields.USED_WITH),
}


def reason(config: ConfigDict, path: str) -> str:
  """Why nothing reads the field `path` under the other settings of `config`; '' where something does."""
  return _reason(config_lib.flatten(config), _table(config).get(path, {}))


def _reason(flat: Mapping[str, Any], needs: Needs) -> str:
  for other, (words, holds) in needs.items():
    if other not in flat or not holds(flat[other]):
      here = f'here config.{other}={flat[other]!r}' if other in flat else f'there is no config.{other}'
      return f'it is for config.{other} {words}, and {here}'
  return ''


def _table(config: ConfigDict) -> dict[str, Needs]:
  return {**config_lib.USED_WITH, **_FAMILIES.get(config.experiment, (None, {}))[1]}


def refuse(config: ConfigDict, given: Collection[str]) -> None:
  """Refuses what would do nothing.

  A size, a weight or a path counts where it was set by hand: config files have values for all networks. A feature
  that is switched on, whoever did so, must be one that the others settings have.

  Args:
    config: resolved.
    given: fields that a person set, on the command line or in a point of a sweep.

  Raises:
    UserError: names the field, what it belongs to, and what stands there.
  """
  flat, table = config_lib.flatten(config), _table(config)
  usual = _usual(config.experiment)
  for path, needs in table.items():
    if path not in flat or not (why := _reason(flat, needs)):
      continue
    value, feature = flat[path], isinstance(usual[path], bool | str)
    if path in given and not (feature and value == usual[path]):
      raise UserError(f'config.{path}={value!r} would do nothing: {why}. Leave it out.')
    if _is_on(value) and not _is_on(usual[path]) and feature:
      raise UserError(f'config.{path}={value!r} would do nothing: {why}. Set it to {usual[path]!r}.')


@functools.cache
def _usual(experiment: str) -> dict[str, Any]:
  """The fields at their usual values."""
  make = _FAMILIES.get(experiment, (None,))[0]
  return config_lib.flatten(config_lib.common('', '') if make is None else make(''))


def _is_on(value: Any) -> bool:
  return value not in (False, 'none')
