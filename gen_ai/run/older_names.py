"""What older versions called the fields that they recorded: readers of run and sweep directories give today's names."""

from collections.abc import Mapping
from typing import Any

# Of configs, {'section.field': today's}.
CONFIG = {
  'run.writers': 'run.trackers',
  'eval.nll_draws': 'eval.importance_samples',
  'loss.draws': 'loss.importance_samples',
  'model.halvings': 'model.downsamples',
}
# Of the stamps of figures, and of the evaluation protocol in run.json.
STAMP = {'measure': 'observation', 'nll_draws': 'importance_samples'}
# Of sweep.json and decisions.jsonl.
SWEEP = {'points': 'trials', 'point': 'trial', 'engine': 'launcher'}


def renamed(tree: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
  """`tree` with the keys of today; its values stay."""
  return {names.get(name, name): value for name, value in tree.items()}


def config(tree: Mapping[str, Any]) -> dict[str, Any]:
  """A config as config.json holds it, {section: {field: value}}, with the names of today."""
  found = {}
  for section, fields in tree.items():
    if isinstance(fields, Mapping):
      fields = {CONFIG.get(f'{section}.{name}', f'.{name}').partition('.')[2]: value for name, value in fields.items()}
    found[section] = fields
  return found


def sweep(tree: Mapping[str, Any]) -> dict[str, Any]:
  """sweep.json with the names of today."""
  tree = renamed(tree, SWEEP)
  asked = dict(tree.get('asked') or {})
  if isinstance(asked.get('overrides'), Mapping):
    asked['overrides'] = renamed(asked['overrides'], CONFIG)
  trials = [{**trial, 'overrides': renamed(trial['overrides'], CONFIG)} for trial in tree['trials']]
  return {**tree, 'base': config(tree['base']), 'trials': trials, **({'asked': asked} if asked else {})}
