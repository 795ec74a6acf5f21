"""Config files: load one, make a config of a family, override fields by name, write one as flags."""

import ast
import copy
import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gen_ai.config import idle
from gen_ai.config.defaults import common, declared, settle, usual
from gen_ai.config.field import NETWORK, either
from gen_ai.config.tree import difference, flatten
from gen_ai.core import installation
from gen_ai.core.errors import UserError
from gen_ai.core.installation import LAUNCH, SOURCE
from gen_ai.core.text import did_you_mean, near


def make_config(experiment: str, data: str, /, *, every: int = 0, **sections: Any) -> ConfigDict:
  """A config of a family, locked: what get_config() of a config file returns.

  Args:
    experiment: module in experiments/, whose fields gen_ai/config/families/ declares.
    data: name of the data set.
    every: updates between two evaluations, grids of samples and checkpoints; 0: as usual (500).
    sections: the fields of each section that are other than usual, as in optim=dict(lr=1e-3); `model.network` says
      which fields there are.

  Raises:
    UserError: see `assign`.
  """
  changes: dict[str, Any] = {f'run.{name}_every': every for name in ('eval', 'sample', 'save')} if every else {}
  for section, fields in sections.items():
    if isinstance(fields, Mapping):
      changes |= {f'{section}.{name}': value for name, value in fields.items()}
    else:
      changes[section] = fields
  config = usual(experiment, data, changes.get(NETWORK, ''))
  for path, value in changes.items():
    assign(config, path, value)
  return config.lock()


def _nearest_files(path: str) -> str:
  """' Did you mean X or Y?': config files beside `path` and in configs/ whose names are like its own."""
  folders = {str(Path(path).parent): Path(path).parent, 'configs': SOURCE / 'configs'}
  files = {p.stem: f'{name}/{p.name}' for name, folder in folders.items() if name != '.' for p in folder.glob('*.py')}
  match = near(Path(path).stem, files.keys() - {'__init__'}, most=2, cutoff=0.5)
  return f' Did you mean {" or ".join(files[stem] for stem in match)}?' if match else ''


def find_file(path: str) -> Path | None:
  """The config file at `path`, relative to the current folder or to what is installed; None where there is none."""
  return next((file for file in (Path(path), SOURCE / path) if file.is_file()), None)


def split_reference(reference: str) -> tuple[str, str | None]:
  """(path, argument) of 'configs/NAME.py:ARGUMENT', in which both may hold colons; the argument is None without one.

  NAME alone stands for configs/NAME.py, where no file has that very name.
  """
  colons = [i for i, char in enumerate(reference) if char == ':']
  for end in (len(reference), *colons):
    head, argument = reference[:end], reference[end + 1 :] if end < len(reference) else None
    if find_file(head):
      return head, argument
    if Path(head).name == head and find_file(f'configs/{head}.py'):
      return f'configs/{head}.py', argument
  return (reference[: colons[0]], reference[colons[0] + 1 :]) if colons else (reference, None)


def call(path: str, name: str, fn: Callable[..., Any], *args: Any) -> Any:
  """fn(*args) of the config file at `path`. Raises UserError naming the file's line for whatever goes wrong in it."""
  try:
    return fn(*args)
  except UserError:
    raise
  except SyntaxError as error:
    raise UserError(f'{path} has a syntax error in line {error.lineno}: {error.msg}.') from error
  except Exception as error:  # the file is the user's code
    file = str(find_file(path))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f' in line {lines[-1]}' if lines else ''
    message = ' '.join(str(error).split())
    raise UserError(f'{path}: {name} fails{where} with {type(error).__name__}: {message}') from error


def load_module(path: str, argument: str | None = None) -> ModuleType:
  """The config file at `path`, relative to the current folder or to what is installed.

  Every config has `sweep_best`, `sweep_seed` and `sweep_lr`: where the file defines one, that.

  Args:
    path: of the file.
    argument: of get_config(), around whose learning rate sweep_lr goes; None: its default.

  Raises:
    UserError: no such file (names the nearest), one that fails to run, or one without get_config.
  """
  file = find_file(path)
  if file is None:
    raise UserError(f"No config file '{path}'.{_nearest_files(path)} `{LAUNCH} --list` shows all.")
  loader = SourceFileLoader(f'config_{file.stem}', str(file))  # whatever its name ends in
  spec = importlib.util.spec_from_loader(loader.name, loader)
  assert spec is not None
  module = importlib.util.module_from_spec(spec)
  call(path, 'it', loader.exec_module, module)
  if not callable(getattr(module, 'get_config', None)):
    raise UserError(f'{path} defines no get_config(): is it a config file? `{LAUNCH} --list` shows all.')
  supplied = {
    'sweep_best': _sweep_best,
    'sweep_seed': _sweep_seed,
    'sweep_lr': lambda: _sweep_lr(_get_config(path, module, argument)),
  }
  for name, sweep in supplied.items():
    if not hasattr(module, name):
      setattr(module, name, sweep)
  return module


def _sweep_best() -> Iterator[dict[str, Any]]:
  """The file's setting."""
  yield {}


def _sweep_seed() -> Iterator[dict[str, Any]]:
  """Five repetitions of one setting."""
  for seed in range(5):
    yield {'run.seed': seed}


def _sweep_lr(config: ConfigDict) -> Iterator[dict[str, Any]]:
  """Learning rates around the file's: a third, itself, three times."""
  lr = config.optim.lr
  for rate in (float(f'{lr / 3:.3g}'), lr, float(f'{lr * 3:.3g}')):
    yield {'optim.lr': rate}


def _get_config(path: str, module: ModuleType, argument: str | None) -> Any:
  """What get_config() of a config file gives."""
  if argument is not None and not inspect.signature(module.get_config).parameters:
    raise UserError(f"{path} takes no argument, yet ':{argument}' was given.")
  return call(path, 'get_config()', module.get_config, *([] if argument is None else [argument]))


def load(reference: str) -> ConfigDict:
  """The locked config of 'configs/NAME.py' or 'configs/NAME.py:ARGUMENT'.

  Raises:
    UserError: no such file, one that fails to run, or one whose get_config() returns no whole config.
  """
  path, argument = split_reference(reference)
  config = _get_config(path, load_module(path), argument)
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'{path}: get_config() returns {_kind(config)}, not a ConfigDict: begin with gen_ai.config.make_config() or '
      'gen_ai.config.common(), and return what it gives.'
    )
  flat = flatten(config)
  for name, default in flatten(common('', '')).items():
    if type(flat.get(name)) is not type(default):
      has = f'{_kind(flat[name])} as config.{name}' if name in flat else f'no config.{name}'
      raise UserError(
        f'{path}: get_config() gives {has}, which every run has as {_kind(default)}: begin with '
        'gen_ai.config.make_config() or gen_ai.config.common().'
      )
  config.unlock()
  settle(config)  # the file may have set the network by hand
  return config.lock()


def _kind(value: Any) -> str:
  """'an int', 'a str', 'None'."""
  name = type(value).__name__
  return 'None' if value is None else f'{"an" if name[0] in "aeiou" else "a"} {name}'


def parse(path: str, text: str, current: Any) -> Any:
  """`text` as a value of the type that field `path` has now; UserError where it is none."""
  kind = type(current)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind is int:
      return int(text)
    if kind is float:
      return float(text)
    if kind in (tuple, list):
      value = ast.literal_eval(text)
      return kind(value if isinstance(value, tuple | list) else (value,))
  except (ValueError, KeyError, SyntaxError):
    example = {bool: 'true or false', int: 'a whole number', float: 'a number'}.get(kind, 'a list, as in (1,2)')
    raise UserError(f'config.{path}={text} is not {example}; its value in the file is {current!r}.') from None
  return text


def assign(config: ConfigDict, path: str, value: Any) -> None:
  """Sets field `path` ('section.field') in place; a str is parsed to the field's type.

  Raises:
    UserError: no such field (names the nearest, or the networks that have it), a section instead of a field, or a value
      of another type.
  """
  flat = flatten(config)
  if path not in flat:
    if any(name.startswith(path + '.') for name in flat):
      raise UserError(
        f'config.{path} is a section: name one of its fields, such as config.'
        f'{next(n for n in flat if n.startswith(path + "."))}.'
      )
    fields = declared(config.experiment)
    if path in fields and fields[path].networks and NETWORK in flat:
      raise UserError(
        f"The config has no field '{path}': it is for config.{NETWORK} {either(fields[path].networks)}, and here "
        f'config.{NETWORK}={flat[NETWORK]!r}.'
      )
    hint = did_you_mean(path, [*flat, *(fields.keys() - flat.keys())])
    others = [field for name, field in fields.items() if name not in flat and f"'{name}'" in hint]
    hint += ''.join(f' It is for config.{NETWORK} {either(other.networks)}.' for other in others if other.networks)
    raise UserError(f"The config has no field '{path}'.{hint} `--print_config` shows all.")
  section_path, _, name = path.rpartition('.')
  section = config
  for part in section_path.split('.') if section_path else []:
    section = section[part]
  current = section[name]
  if isinstance(value, str):
    value = parse(path, value, current)
  if isinstance(current, float) and type(value) is int:
    value = float(value)
  if isinstance(current, tuple) and isinstance(value, list):
    value = tuple(value)
  kinds = {type(item) for item in current} if isinstance(current, tuple) else set()
  if type(value) is not type(current) or (kinds and not {type(item) for item in value} <= kinds):
    raise UserError(
      f'config.{path}={value!r} is not of the type {type(current).__name__} that the file gives it: {current!r}.'
    )
  section[name] = value


def select(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """A copy of `config`, not locked, with the fields of the network that `overrides` or itself names."""
  config = copy.deepcopy(config).unlock()
  if NETWORK in overrides:
    assign(config, NETWORK, overrides[NETWORK])
  settle(config)
  return config


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """A locked copy of `config` with {'section.field': value} applied, the network first: it says which fields there are.

  Raises:
    UserError: see `assign`.
  """
  config = select(config, overrides)
  for path, value in overrides.items():
    assign(config, path, value)
  return config.lock()


def experiment(config: ConfigDict) -> ModuleType:
  """The module that `config.experiment` names: one of experiments/, or any other by its full path with dots.

  Raises:
    UserError: there is none, or it cannot be imported.
  """
  if '.' in config.experiment:
    try:
      return importlib.import_module(config.experiment)
    except ImportError as error:
      raise UserError(
        f"config.experiment='{config.experiment}' cannot be imported ({error}): is its folder on the path of Python "
        '(PYTHONPATH)?'
      ) from error
  names = sorted(p.stem for p in (SOURCE / 'experiments').glob('*.py') if not p.stem.startswith('_'))
  if config.experiment not in names:
    hint = did_you_mean(config.experiment, names)
    raise UserError(f"No experiment '{config.experiment}'.{hint} There are {', '.join(names)}.")
  return installation.experiment(config.experiment)


def builder(config: ConfigDict) -> Callable[..., Any]:
  """build() of the experiment, which refuses kinds of data that are not among the experiment's KINDS.

  Raises:
    UserError: there is no such experiment.
  """
  module = experiment(config)

  def build(config: ConfigDict, spec: Any, *args: Any, **kwargs: Any) -> Any:
    if spec.kind not in module.KINDS:
      raise UserError(
        f"config.experiment='{config.experiment}' models data of the kind {' or '.join(module.KINDS)}, but "
        f"config.data.name='{config.data.name}' is of the kind {spec.kind}."
      )
    return module.build(config, spec, *args, **kwargs)

  return build


def as_flags(config: ConfigDict, reference: str) -> list[str]:
  """The words after `python launch.py` that stand for `config`, a config of the file 'configs/NAME.py[:ARGUMENT]'.

  One --config.x=y a field in which it differs from the file, or from the file's --tiny where that is nearer.

  Raises:
    UserError: the file is gone, or has become wrong.
  """
  base = load(reference)
  plain, small = _differing(base, config), _differing(override(base, tiny(reference)), config)
  words, changed = ([], plain) if len(plain) <= len(small) else (['--tiny'], small)
  return [f'--config={reference}', *words, *(f'--config.{path}={_text(value)}' for path, value in changed.items())]


def _differing(base: ConfigDict, config: ConfigDict) -> dict[str, Any]:
  """The fields that make `base` into `config`, the network first; without those that only one of them knows."""
  there, here = flatten(base).get(NETWORK), flatten(config).get(NETWORK)
  network = {NETWORK: here} if None not in (there, here) and there != here else {}
  pairs = difference(select(base, network), config)
  return network | {path: now for path, (was, now) in pairs.items() if '(absent)' not in (was, now)}


def _text(value: Any) -> str:
  """A value as `parse` reads it."""
  if isinstance(value, list):
    return f'({",".join(map(repr, value))})'
  return str(value).lower() if isinstance(value, bool) else str(value)


def tiny(reference: str) -> dict[str, Any]:
  """Overrides with which a whole run of a config file takes seconds.

  They are the `tiny` values of declared fields that something reads, and what tiny() of the file gives besides.

  Raises:
    UserError: the file's tiny() gives no {'section.field': value}.
  """
  path, argument = split_reference(reference)
  module, config = load_module(path, argument), load(reference)
  flat, supplied = flatten(config), dict[str, Any]()
  small = {name: field.tiny for name, field in declared(config.experiment).items() if name in flat}
  while more := {
    name: value
    for name, value in small.items()
    if value is not None and name not in supplied and not idle.reason(override(config, supplied), name)
  }:  # a dial that is off makes the sizes that it set fields that are read
    supplied |= more
  overrides = call(path, 'tiny()', module.tiny) if hasattr(module, 'tiny') else {}
  if not isinstance(overrides, Mapping):
    raise UserError(f'{path}: tiny() returns {_kind(overrides)}, not {{"section.field": value}}.')
  return {**supplied, **overrides}
