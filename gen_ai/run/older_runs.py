"""Runs that an older version of gen_ai recorded: what the fields that their configs lack mean. No JAX here.

Every command reads them alike, as `ADDED` says; a run that lacks a field which is not there is refused. Fields that the
run's network does not have, which configs once held for all networks, are left out: nothing ever read them.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.run import directory, info

# Fields that configs have got since runs were first recorded, and the value at which each means what a run without it
# did; a function where that depends on the other fields, {'section.field': value}. Whoever adds a field adds it here.
ADDED: dict[str, Any | Callable[[Mapping[str, Any]], Any]] = {
  'data.background': 'none',
  'optim.cooldown': 0.2,
  'optim.ema_halflife': 0.0,
  'optim.ema_rampup': 0.0,
  'optim.ema_lengths': (),
  'run.ema_snapshots': 0,
  'sweep.lanes': 0,
  'eval.metrics': '',
  'eval.metrics_every': 0,
  'eval.samples': 10_000,
  'eval.extractor': 'random',
  'eval.importance_samples': 5000,
  'eval.task': '',
  # GANs.
  'model.g_output': lambda flat: 'linear' if flat.get('model.network') == 'stylegan2' else 'tanh',
  'model.condition': 'none',
  'model.g_spectral': False,
  'model.d_spectral': False,
  'model.attention': False,
  'model.max_width': 512,
  'model.style': 64,
  'model.mapping_layers': 4,
  'model.mapping_lr': 0.01,
  'model.mixing': 0.9,
  'model.group': 4,
  'loss.penalty_every': 1,
  'loss.auxiliary': 1.0,
  'loss.path_length': 0.0,
  'loss.path_every': 4,
  'augment.kind': 'none',
  'augment.policy': 'color,translation,cutout',
  'augment.groups': 'blit,geometric,color',
  'augment.target': 0.6,
  'augment.speed': 500_000,
  'augment.interval': 4,
  'sample.truncation': 1.0,
  # Language models: GPT-2's layout.
  'model.kv_heads': 0,
  'model.mlp_width': 0,
  'model.gated': False,
  'model.norm': lambda flat: 'layer' if 'model.heads' in flat else 'group',  # a classifier's was always there
  'model.norm_epsilon': 1e-5,
  'mesh.expert': 1,
  'model.documents': 'joined',
  'model.head_width': 0,
  'model.experts': 0,
  'model.chosen': 2,
  'model.capacity': 125,
  'loss.balance': 0.01,
  'loss.router_z': 1e-3,
  'model.positions': 'learned',
  'model.rope_theta': 10_000.0,
  'model.qk_norm': False,
  'model.pattern': 'L',
  'model.window': 0,
  'model.tied': True,
  'model.softcap': 0.0,
  'model.remat': 'none',
  'model.depth': 0,
  'model.base_width': 0,
  'model.lora': 0,
  'model.lora_scale': 1.0,
  'model.lora_on': 'all',
  'loss.z': 0.0,
  'loss.chunk': 0,
  'sample.top_p': 0.0,
  'sample.min_p': 0.0,
  'sample.repetition': 0.0,
  'sample.stop': (),
  # Diffusion.
  'model.dropout': 0.0,
  'sample.churn_low': 0.0,
  'sample.churn_high': 0.0,
  'sample.churn_noise': 1.0,
  'sample.autoguidance': 0.0,
  # VAEs.
  'model.decoder_norm': 'none',
  'model.top_widths': (100, 100),
  'model.conditional': False,
  'loss.bound': 'elbo',
  'loss.importance_samples': 1,
  'loss.gradient': 'plain',
  'loss.kl_warmup_steps': 0,
  'loss.free_bits': 0.0,
}


def read_config(run_dir: str | Path) -> tuple[ConfigDict, dict[str, Any]]:
  """(config of the run at `run_dir`, {'section.field': value} of the fields in it that are newer than the run).

  Raises:
    UserError: there is none, it is damaged, or it lacks a field that has no value in `ADDED`; says which commit wrote
      it.
  """
  about = info.read_if_any(run_dir)
  whose = f'{run_dir} was recorded by {directory.writer(run_dir)}'
  return complete(directory.read_config(run_dir), whose, about.config_file if about is not None else None)


def complete(
  tree: Mapping[str, Any], whose: str, file: info.ConfigFile | None = None
) -> tuple[ConfigDict, dict[str, Any]]:
  """(the config that `config.to_json` wrote, {'section.field': value} of the fields that it lacked).

  Args:
    tree: plain nested dict.
    whose: 'RUN was recorded by VERSION', which begins the message.
    file: the config file that it came from, of which `path` and `argument` matter; None where that is not known.

  Raises:
    UserError: it lacks a field that has no value in `ADDED`.
  """
  base, added = complete_base(tree, whose, file)
  config = config_lib.select(base, {}).lock()
  flat = config_lib.flatten(config)
  return config, {path: value for path, value in added.items() if path in flat}


def complete_base(
  tree: Mapping[str, Any], whose: str, file: info.ConfigFile | None = None
) -> tuple[ConfigDict, dict[str, Any]]:
  """`complete` for the base of a sweep, which keeps the fields of other networks: its trials may take them."""
  flat = config_lib.flatten(tree)
  experiment, network = flat.get('experiment', ''), flat.get(config_lib.NETWORK, '')
  needed = _fields(experiment, network, file.path if file else '', file.argument if file else '')
  missing = sorted(needed - flat.keys() - ADDED.keys())
  if missing:
    more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
    raise UserError(
      f'{whose}, whose config has no {", ".join(missing[:3])}{more}, and no value is known that would mean the same: '
      'go on with the version that recorded it.'
    )
  known = needed | (config_lib.declared(experiment).keys() if config_lib.NETWORK in flat else set())
  added = {path: ADDED[path] for path in sorted((known & ADDED.keys()) - flat.keys())}
  added = {path: value(flat) if callable(value) else value for path, value in added.items()}
  tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
  for path, value in added.items():
    section, _, name = path.partition('.')
    tree.setdefault(section, {})[name] = value
  return config_lib.from_json(tree), added


def trial_config(base: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """The config of a recorded trial of a sweep over `base`, that of `complete_base`.

  A trial once could set, to no effect, a field that its network does not have: that is left out.
  """
  network = overrides.get(config_lib.NETWORK, config_lib.flatten(base).get(config_lib.NETWORK))
  fields = config_lib.declared(base.experiment)
  others = {path for path in overrides.keys() & fields.keys() if network not in (fields[path].networks or (network,))}
  return config_lib.override(base, {path: value for path, value in overrides.items() if path not in others})


def note(run_dir: str | Path, added: Mapping[str, Any]) -> str:
  """One line about the fields that are newer than the run."""
  shown = ', '.join(f'config.{path}={value!r}' for path, value in list(added.items())[:3])
  more = f' and {len(added) - 3} more' if len(added) > 3 else ''
  return (
    f'{run_dir} was recorded by {directory.writer(run_dir)}, before some fields, which are taken to be as it was '
    f'then: {shown}{more}'
  )


@functools.cache
def _fields(experiment: str, network: str, path: str, argument: str) -> frozenset[str]:
  """The fields that a config of `experiment` with `network` has: those of its own file by now, else of its family."""
  own = _of_file(f'{path}:{argument}' if argument else path, experiment, network) if path else None
  return own or frozenset(config_lib.flatten(config_lib.usual(experiment, '', network)))


def _of_file(reference: str, experiment: str, network: str) -> frozenset[str] | None:
  """The fields of a config file; None for one of another experiment, and for one that is broken or gone."""
  try:
    config = config_lib.load(reference)
    if config_lib.NETWORK in config_lib.flatten(config):
      config = config_lib.select(config, {config_lib.NETWORK: network})
  except Exception:  # of a file that someone works on, which is no matter of a recorded run
    return None
  return frozenset(config_lib.flatten(config)) if config.experiment == experiment else None
