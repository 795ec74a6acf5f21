"""Runs that an older version of gen_ai recorded: what the fields that their configs lack mean. No JAX here.

Every command reads them alike, as `ADDED` says; a run that lacks a field which is not there is refused.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import record
from gen_ai.errors import UserError

# Fields that configs have got since runs were first recorded, and the value at which each means what a run without it
# did; a function where that depends on the other fields, {'section.field': value}. Whoever adds a field adds it here.
ADDED: dict[str, Any | Callable[[Mapping[str, Any]], Any]] = {
  'data.background': 'none',
  'sweep.lanes': 0,
  'eval.metrics': '', 'eval.metrics_every': 0, 'eval.samples': 10_000, 'eval.extractor': 'random',
  'eval.nll_draws': 5000,
  # GANs.
  'model.g_output': lambda flat: 'linear' if flat.get('model.network') == 'stylegan2' else 'tanh',
  'model.condition': 'none', 'model.g_spectral': False, 'model.d_spectral': False, 'model.attention': False,
  'model.max_width': 512, 'model.style': 64, 'model.mapping_layers': 4, 'model.mapping_lr': 0.01, 'model.mixing': 0.9,
  'model.group': 4,
  'loss.penalty_every': 1, 'loss.auxiliary': 1.0, 'loss.path_length': 0.0, 'loss.path_every': 4,
  'augment.kind': 'none', 'augment.policy': 'color,translation,cutout', 'augment.groups': 'blit,geometric,color',
  'augment.target': 0.6, 'augment.speed': 500_000, 'augment.interval': 4,
  'optim.ema_halflife': 0.0, 'sample.truncation': 1.0,
  # VAEs.
  'model.decoder_norm': 'none',
  'model.top_widths': (100, 100), 'model.conditional': False,
  'loss.bound': 'elbo', 'loss.draws': 1, 'loss.gradient': 'plain', 'loss.kl_warmup_steps': 0, 'loss.free_bits': 0.0,
}  # fmt: skip


def read_config(run_dir: str | Path) -> tuple[ConfigDict, dict[str, Any]]:
  """(config of the run at `run_dir`, {'section.field': value} of the fields in it that are newer than the run).

  Raises:
    UserError: there is none, it is damaged, or it lacks a field that has no value in `ADDED`; says which commit wrote
      it.
  """
  about = record.read_run(run_dir) if (Path(run_dir) / 'run.json').is_file() else {}
  whose = f'{run_dir} was recorded by {record.writer(run_dir)}'
  return complete(record.read_config(run_dir), whose, about.get('config_file') or {})


def complete(tree: Mapping[str, Any], whose: str, file: Mapping[str, str]) -> tuple[ConfigDict, dict[str, Any]]:
  """(the config that `config.to_json` wrote, {'section.field': value} of the fields that it lacked).

  Args:
    tree: plain nested dict.
    whose: 'RUN was recorded by VERSION', which begins the message.
    file: the config file that it came from, of which `path` and `argument` matter; {} where that is not known.

  Raises:
    UserError: it lacks a field that has no value in `ADDED`.
  """
  flat = config_lib.flatten(tree)
  needed, known = _fields(flat.get('experiment', ''), file.get('path', ''), file.get('argument', ''))
  missing = sorted(needed - flat.keys() - ADDED.keys())
  if missing:
    more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
    raise UserError(f'{whose}, whose config has no {", ".join(missing[:3])}{more}, and no value is known that would '
                    'mean the same: go on with the version that recorded it.')  # fmt: skip
  added = {path: ADDED[path] for path in sorted((known & ADDED.keys()) - flat.keys())}
  added = {path: value(flat) if callable(value) else value for path, value in added.items()}
  tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
  for path, value in added.items():
    section, _, name = path.partition('.')
    tree.setdefault(section, {})[name] = value
  return config_lib.from_json(tree), added


def note(run_dir: str | Path, added: Mapping[str, Any]) -> str:
  """One line about the fields that are newer than the run."""
  told = ', '.join(f'config.{path}={value!r}' for path, value in list(added.items())[:3])
  more = f' and {len(added) - 3} more' if len(added) > 3 else ''
  return (f'{run_dir} was recorded by {record.writer(run_dir)}, before some fields, which are taken to be as it was '
          f'then: {told}{more}')  # fmt: skip


@functools.cache
def _fields(experiment: str, path: str, argument: str) -> tuple[frozenset[str], frozenset[str]]:
  """(fields that a config needs, fields that it may have): what its own file has by now.

  Without that file, what all files of the experiment have, and what any has; without any, what all configs have.
  """
  own = _found(f'{path}:{argument}' if argument else path, experiment) if path else None
  if own:
    return own, own
  files = sorted((config_lib.SOURCE / 'configs').glob('*.py'))
  found = [fields for file in files if (fields := _found(str(file), experiment))]
  found = found or [frozenset(config_lib.flatten(config_lib.common('', '')))]
  return frozenset.intersection(*found), frozenset.union(*found)


def _found(reference: str, experiment: str) -> frozenset[str] | None:
  """The fields of a config file; None for one of another experiment, and for one that is broken or gone."""
  try:
    config = config_lib.load(reference)
  except Exception:  # of a file that someone works on, which is no matter of a recorded run
    return None
  return frozenset(config_lib.flatten(config)) if config.experiment == experiment else None
