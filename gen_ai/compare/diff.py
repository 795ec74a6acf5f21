"""Two runs side by side: config, code, data, evaluation and environment, only what differs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from gen_ai import config as config_lib
from gen_ai.compare import layout
from gen_ai.compare.layout import Column
from gen_ai.compare.select import shown
from gen_ai.core.errors import UserError
from gen_ai.run import directory, info
from gen_ai.run.directory import is_run

ABSENT = '(absent)'
_WIDE = 48  # characters of a value in the table


def sections(path: Path) -> dict[str, dict[str, Any]]:
  """{section: {field: value}} of what decides the numbers of a run.

  Raises:
    UserError: `path` is no run directory, or its record is damaged.
  """
  if not is_run(path):
    raise UserError(f'--diff compares two run directories, and {path} is none: it has no config.json.')
  run = info.read_if_any(path) or info.RunInfo()
  data = {name: value for name, value in asdict(run.data).items() if name != 'location'}
  code = {name: value for name, value in asdict(run.git).items() if name not in ('patch', 'untracked')}
  places = {
    'host': run.host.name,
    'platform': run.host.platform,
    'cpus': run.host.cpus,
    'devices': run.devices,
    'lanes': run.lanes,
  }
  return {
    'config': config_lib.flatten(directory.read_config(path)),
    'code': {**code, 'config file': run.config_file.path, 'config file sha256': run.config_file.sha256},
    'data': config_lib.flatten(data),
    'evaluation': config_lib.flatten(asdict(run.evaluation) if run.evaluation else {}),
    'environment': {**places, **run.versions},
    'variables': dict(run.environment),
  }


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
  """{field: (value in a, value in b)} where they are not equal."""
  fields = dict.fromkeys([*a, *b])
  return {name: (_text(a, name), _text(b, name)) for name in fields if _text(a, name) != _text(b, name)}


def _text(values: Mapping[str, Any], name: str) -> str:
  value = values.get(name)
  if value is None:
    return ABSENT
  return shown(tuple(value)) if isinstance(value, list) else shown(value)


def show(console: Console, a: Path, b: Path) -> None:
  """Prints what differs between the runs `a` and `b`, section by section."""
  layout.line(console, ('A  ', 'bold'), str(a))
  layout.line(console, ('B  ', 'bold'), str(b))
  left, right = sections(a), sections(b)
  equal = []
  for name in left:
    fields = difference(left[name], right[name])
    if not fields:
      equal.append(name)
      continue
    same = len(set(left[name]) & set(right[name])) - sum(ABSENT not in pair for pair in fields.values())
    layout.title(console, name, f'{same} fields equal' if same else '')
    _section(console, fields)
    if name == 'code':
      _patches(console, a, b, fields)
  if equal:
    layout.title(console, 'no difference', f'in {", ".join(equal)}')


def _section(console: Console, fields: Mapping[str, tuple[str, str]]) -> None:
  """A table where values are short; below each other where one is long."""
  columns = [Column('', list(fields), right=False)]
  columns += [Column(side, [pair[i] for pair in fields.values()], right=False) for i, side in enumerate('AB')]
  if layout.fits(console, columns) and max(column.width for column in columns[1:]) <= _WIDE:
    layout.grid(console, columns)
    return
  for name, pair in fields.items():
    layout.line(console, name)
    for side, value in zip('AB', pair, strict=True):
      layout.line(console, (f'  {side}  ', 'dim'), value)


def _patches(console: Console, a: Path, b: Path, fields: Mapping[str, tuple[str, str]]) -> None:
  """Where the uncommitted changes lie, for whoever wants to read them."""
  if 'patch_sha256' not in fields and 'dirty' not in fields:
    return
  for side, path in zip('AB', (a, b), strict=True):
    patch = (info.read_if_any(path) or info.RunInfo()).git.patch
    layout.line(console, f'uncommitted changes of {side}: ', str(path / patch) if patch else 'none recorded')
