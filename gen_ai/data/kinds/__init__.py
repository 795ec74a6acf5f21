"""Kinds of data: each module here is one, and owns whatever depends on the kind; nothing elsewhere asks for it.

A kind says how its data sets are opened, how examples are stored, checked, written to files and shown, and in which
unit they are counted. A module is found by existing: it holds one `KIND`. Code outside the package, such as a test or a
plug-in that `config.experiment` names, calls `register`.
"""

import functools
import importlib
import pkgutil

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data.kinds import base as base
from gen_ai.data.kinds.base import DataKind as DataKind

_registered: dict[str, DataKind] = {}


@functools.cache
def _found() -> dict[str, DataKind]:
  modules = [importlib.import_module(f'{__name__}.{module.name}') for module in pkgutil.iter_modules(__path__)]
  return {module.KIND.name: module.KIND for module in modules if hasattr(module, 'KIND')}


def register(kind: DataKind) -> None:
  """Adds a kind that is not in this package; one of the same name is replaced."""
  _registered[kind.name] = kind


def every() -> list[DataKind]:
  """All kinds that are known."""
  return list({**_found(), **_registered}.values())


def get(name: str) -> DataKind:
  """The kind of that name.

  Raises:
    UserError: there is none, as where the module that registers it is not imported.
  """
  kinds = {kind.name: kind for kind in every()}
  if name not in kinds:
    raise UserError(
      f"the data is of the kind '{name}', which is none of {', '.join(kinds)}: the module that registers "
      'it must be imported (config.experiment can name a module by its full path).'
    )
  return kinds[name]


def of(spec: Spec) -> DataKind:
  """The kind of the data that `spec` describes."""
  return get(spec.kind)
