"""What a run takes over from the config of the run that it begins from (--init_from)."""

import importlib
from typing import Any

from ml_collections import ConfigDict

from gen_ai.config.defaults import has_family
from gen_ai.config.load import override
from gen_ai.config.tree import flatten
from gen_ai.core.errors import UserError


def inherited(config: ConfigDict, parent: ConfigDict, run_dir: str) -> dict[str, Any]:
  """{'section.field': value} that a run like `config` has from the config of `run_dir`; {} in most families.

  A family says so by `inherited(parent)` in its file of gen_ai/config/families/.

  Raises:
    UserError: it cannot begin from that run.
  """
  if not has_family(config.experiment):
    return {}
  module = importlib.import_module(f'gen_ai.config.families.{config.experiment}')
  if not hasattr(module, 'inherited'):
    return {}
  try:
    found: dict[str, Any] = module.inherited(parent)
  except UserError as error:
    raise UserError(f"--init_from={run_dir} {error} (config.experiment='{config.experiment}')") from None
  return found


def inherit(config: ConfigDict, parent: ConfigDict, run_dir: str) -> ConfigDict:
  """`config` with what it has from the config of `run_dir`. Raises UserError: see `inherited`."""
  return override(config, inherited(config, parent, run_dir))


def check_inherited(config: ConfigDict, parent: ConfigDict, run_dir: str) -> None:
  """Raises UserError where a field of `config` is not what the run at `run_dir` has there."""
  flat = flatten(config)
  for path, value in inherited(config, parent, run_dir).items():
    if flat[path] != value:
      raise UserError(
        f'--init_from={run_dir}: config.{path} is {value!r} there and {flat[path]!r} here: leave it out, as '
        'it is taken from there.'
      )
