"""The trials of a sweep, from what a user asks for, and which of them may share a program. No JAX here."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core import files, text
from gen_ai.core.errors import UserError
from gen_ai.sweep import space

SEEDS = ('run.seed', 'data.seed')  # differ between the lanes of one program, as traced floats do
MOST_TRIALS = 100_000  # of a sweep: a slip of the finger asks for more, and would be planned for hours
MOST_DRAWN = 10_000  # every trial is held against those before it
_NAME_LENGTH = 80


@dataclass(frozen=True)
class Trial:
  """One run of a sweep."""

  number: int
  overrides: dict[str, Any]  # {'section.field': value} over the sweep's base config
  config: ConfigDict
  name: str  # of its directory


# What trials there are.


def sweeps_of(module: ModuleType) -> dict[str, Callable[[], Iterable[Mapping[str, Any]]]]:
  """{'lr': sweep_lr, ...} of a config file."""
  found = {name.removeprefix('sweep_'): fn for name, fn in vars(module).items() if name.startswith('sweep_')}
  return {name: fn for name, fn in found.items() if callable(fn)}


def declared(reference: str, name: str) -> list[dict[str, Any]]:
  """The trials of sweep_<name>() in the config file.

  Raises:
    UserError: an unknown name, an empty sweep, or trials that are no dicts.
  """
  path, argument = config_lib.split_reference(reference)
  known = sweeps_of(config_lib.load_module(path, argument))
  if name not in known:
    listed = ', '.join(sorted(known)) or 'none'
    raise UserError(
      f"{path} has no sweep '{name}'.{text.did_you_mean(name, known)} It has: {listed}. Define "
      f'`def sweep_{name}(): yield {{"section.field": value}}`, or use --axis=FIELD=V1,V2.'
    )
  trials = config_lib.call(path, f'sweep_{name}()', lambda: list(known[name]() or ()))
  if not trials:
    raise UserError(f'sweep_{name}() of {path} yields no trial.')
  for trial in trials:
    if not isinstance(trial, Mapping):
      raise UserError(
        f'sweep_{name}() of {path} yields {trial!r}, which is no trial: yield {{"section.field": value}}.'
      )
  return [dict(trial) for trial in trials]


def _split(text: str) -> list[str]:
  """'a,(1,2),b' as ['a', '(1,2)', 'b']: commas inside brackets do not count."""
  parts, depth = [''], 0
  for char in text:
    depth += (char in '([') - (char in ')]')
    if char == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += char
  return [part.strip() for part in parts]


def axis(text: str) -> list[dict[str, Any]]:
  """The trials of --axis=FIELD=V1,V2 or, for whole numbers, --axis=FIELD=START:STOP[:STEP] (STOP left out)."""
  path, equals, values = text.partition('=')
  path = path.removeprefix('config.')
  if not equals or not path:
    raise UserError(f"--axis='{text}' must read --axis=FIELD=V1,V2 or --axis=FIELD=START:STOP.")
  whole = re.fullmatch(r'(-?\d+):(-?\d+)(?::(\d+))?', values)
  if whole:
    start, stop, step = int(whole[1]), int(whole[2]), int(whole[3] or 1)
    numbers = range(start, stop, step) if step else range(0)
    if numbers[MOST_TRIALS:]:  # a range knows its length without counting
      raise UserError(f'--axis={text} gives more than {MOST_TRIALS:,} trials: ask for fewer.')
    found = [str(number) for number in numbers]
  else:
    found = _split(values) if values.strip() else []
  if not found:
    raise UserError(f'--axis={text} has no value: write FIELD=V1,V2 or FIELD=START:STOP[:STEP], with STOP left out.')
  return [{path: value} for value in found]


def drawn(reference: str, n: int, seed: int) -> list[dict[str, Any]]:
  """`n` trials from space() of the config file; without one, learning rates from a tenth of the file's to ten times."""
  path, _ = config_lib.split_reference(reference)
  module = config_lib.load_module(path)
  if not 1 <= n <= MOST_DRAWN:
    raise UserError(f'--sample={n} must be from 1 to {MOST_DRAWN:,}.')
  if hasattr(module, 'space'):
    return space.draw(config_lib.call(path, 'space()', module.space), n, seed)
  lr = config_lib.load(reference).optim.lr
  return space.draw({'optim.lr': space.log_uniform(lr / 10, lr * 10)}, n, seed)


def product(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """All combinations. Raises UserError where two parts set one field."""
  owner: dict[str, str] = {}
  for part, trials in parts.items():
    for path in sorted({path for trial in trials for path in trial}):
      if owner.setdefault(path, part) != part:
        raise UserError(f'{owner[path]} and {part} both set {path}: leave one of them out.')
  if math.prod(map(len, parts.values())) > MOST_TRIALS:
    raise UserError(f'{" and ".join(parts)} give more than {MOST_TRIALS:,} trials: ask for fewer.')
  combined = []
  for combination in itertools.product(*parts.values()):
    combined.append({path: value for trial in combination for path, value in trial.items()})
  return combined


def resolve(base: ConfigDict, overrides: Sequence[Mapping[str, Any]], fixed: Iterable[str] = ()) -> list[Trial]:
  """Trials over `base`, every one validated.

  Args:
    base: what all share.
    overrides: a trial each; text is parsed to the field's type.
    fixed: fields that the command line sets, which no trial may set as well.

  Raises:
    UserError: a misspelt field, a value no run could have, two trials alike; names the trial.
  """
  trials: list[Trial] = []
  seen: dict[str, int] = {}
  names: set[str] = set()
  for number, changes in enumerate(overrides):
    clash = sorted(set(changes) & set(fixed))
    if clash:
      raise UserError(f'--config.{clash[0]} and the sweep both set {clash[0]}: leave one of them out.')
    try:
      config = config_lib.override(base, {path: _scalar(value) for path, value in changes.items()})
      config_lib.validate(config)
      config_lib.experiment(config)
      idle.refuse(config, changes)
    except UserError as error:
      raise UserError(f'trial {number} ({_label(changes)}): {error} Nothing was started.') from error
    flat = config_lib.flatten(config)
    typed = {path: flat[path] for path in changes}
    key = files.dumps(config_lib.to_json(config))
    if key in seen:
      raise UserError(f'trials {seen[key]} and {number} are the same run ({_label(typed)}): leave one of them out.')
    seen[key] = number
    names.add(name := _directory(number, typed, names))
    trials.append(Trial(number, typed, config, name))
  for path in fixed:
    if trials and all(idle.reason(trial.config, path) for trial in trials):  # what one trial reads is not idle
      idle.refuse(trials[0].config, [path])
  return trials


def _scalar(value: Any) -> Any:
  """A NumPy scalar, as np.logspace yields, as the Python number; anything else as it is."""
  return value.item() if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0 else value


def _label(overrides: Mapping[str, Any]) -> str:
  return ','.join(f'{path}={text.value(value)}' for path, value in overrides.items()) or 'the config as it is'


def _directory(number: int, overrides: Mapping[str, Any], taken: set[str]) -> str:
  name = re.sub(r'[^\w.+=,-]', '_', _label(overrides) if overrides else f'trial-{number}', flags=re.ASCII)
  return name if len(name) <= _NAME_LENGTH and name not in taken else f'{name[: _NAME_LENGTH - 6]}-{number:05d}'


# What may share a program.


def signature(config: ConfigDict) -> str:
  """Equal for configs that can be lanes of one program: all but traced floats and seeds is the same."""
  flat = config_lib.flatten(config)
  structure = {path: value for path, value in flat.items() if path not in SEEDS}
  return files.dumps({**structure, **dict.fromkeys(config_lib.traced(config), '')})


def groups(trials: Iterable[Trial]) -> list[list[Trial]]:
  """Trials that differ in traced values alone, together; in order."""
  found: dict[str, list[Trial]] = {}
  for trial in trials:
    found.setdefault(signature(trial.config), []).append(trial)
  return list(found.values())


def packable(config: ConfigDict) -> str:
  """Why runs of `config` cannot be lanes; '' where they can."""
  mesh = config.mesh
  if config.parallel != 'jit':
    return f"config.parallel='{config.parallel}'"
  if mesh.fsdp * mesh.expert * mesh.tensor != 1 or mesh.data not in (-1, 1):
    sizes = ', '.join(f'{axis}={mesh[axis]}' for axis in ('data', 'fsdp', 'expert', 'tensor'))
    return f'config.mesh splits one run over devices ({sizes})'
  return ''
