"""Planning a sweep: its trials from the command line, its launcher, and whether every trial can be built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import surroundings, text
from gen_ai.core.errors import UserError
from gen_ai.run import trackers
from gen_ai.sweep import halving
from gen_ai.sweep.launchers.registry import LAUNCHERS
from gen_ai.sweep.trials import SEEDS, Trial, axis, declared, drawn, groups, packable, product, resolve


@dataclass(frozen=True)
class Request:
  """A sweep as the command line asks for it."""

  reference: str  # configs/NAME.py[:ARGUMENT]
  base: ConfigDict
  overrides: Mapping[str, str]  # --config.x=y: the same for all trials
  sweeps: Sequence[str]
  axes: Sequence[str]
  sample: int
  sample_seed: int
  halving: str
  launcher: str
  runs_dir: str
  init_from: str = ''  # RUN_DIR or RUN_DIR@STEP, from whose weights all trials begin


def plan(request: Request) -> list[Trial]:
  """All trials, every one known to be sound as far as its config tells.

  Raises:
    UserError: see `gen_ai.sweep.trials`.
  """
  parts: dict[str, list[dict[str, Any]]] = {}
  for name in request.sweeps:
    if f'--sweep={name}' in parts:
      raise UserError(f'--sweep names {name} twice: once is enough.')
    parts[f'--sweep={name}'] = declared(request.reference, name)
  for given in request.axes:
    part = f'--axis={given.partition("=")[0]}'
    if part in parts:
      raise UserError(f'{part} is given twice: put all its values into one.')
    parts[part] = axis(given)
  if request.sample:
    parts[f'--sample={request.sample}'] = drawn(request.reference, request.sample, request.sample_seed)
  trials = resolve(request.base, product(parts), request.overrides)
  if request.halving:
    rule = halving.parse(request.halving)
    for trial in trials:
      halving.rungs(rule, trial.config.run.steps, trial.config.run.eval_every)
  return trials


def choose(launcher: str, trials: Sequence[Trial]) -> str:
  """The launcher that 'auto' stands for: packed where any two trials can share a program, else local.

  Raises:
    UserError: an unknown launcher, or packed for trials that cannot be lanes.
  """
  known = ['auto', *LAUNCHERS]
  if launcher not in known:
    raise UserError(f'--launcher={launcher} is none of {", ".join(known)}.{text.did_you_mean(launcher, known)}')
  reasons = [f'trial {trial.number}: {reason}' for trial in trials if (reason := packable(trial.config))]
  if launcher == 'packed' and reasons:
    raise UserError(f'--launcher=packed runs every trial whole on one device, but {reasons[0]}. Use --launcher=local.')
  if launcher != 'auto':
    return launcher
  return 'packed' if not reasons and any(len(group) > 1 for group in groups(trials)) else 'local'


def check(trials: Sequence[Trial], rule: str, in_process: bool, init_from: str = '') -> dict[str, Any]:
  """Builds every trial and traces one of every structure, so that a bad one is refused before anything starts.

  Returns the run that all begin from, as `train.open_run.parent_of` has it.

  Args:
    trials: from `plan`.
    rule: of early stopping; '' without.
    in_process: whether they will be trained in this process.
    init_from: the run from whose weights they begin; '' for none.

  Raises:
    UserError: names the trial that cannot be built, a swept field that nothing depends on, or a metric there is not.
  """
  surroundings.load()
  import jax

  if not in_process:  # the launcher must not take an accelerator's memory from its workers
    jax.config.update('jax_platforms', 'cpu')
  surroundings.start()
  from gen_ai.data import dataset as dataset_lib
  from gen_ai.train import open_run, warm_start

  parent = open_run.parent_of(init_from)
  rule_metric = halving.parse(rule).metric if rule else ''
  datasets: dict[str, Any] = {}
  for group in groups(trials):
    trial, config = group[0], group[0].config
    try:
      trackers.parse_names(config.run.trackers)
      data = config.data.to_json()
      if data not in datasets:
        datasets[data] = dataset_lib.load(config.data)
      for trial in group[1:]:  # a number of a later trial may be out of its range
        config_lib.builder(trial.config)(trial.config, datasets[data].spec)
      trial = group[0]
      warm_start.require(config_lib.builder(config)(config, datasets[data].spec).trains, parent)
      _check_group(
        group, datasets[data], {'--halving': rule_metric, 'config.eval.best': config.eval.best.rpartition(':')[0]}
      )
    except UserError as error:
      raise UserError(f'trial {trial.number} ({trial.name}): {error} Nothing was started.') from error
  return parent


def _check_group(group: Sequence[Trial], dataset: Any, judges: Mapping[str, str]) -> None:
  """Raises UserError as `check` does for trials of one structure; `judges` are metrics {where it is named: name}."""
  import numpy as np

  from gen_ai.evaluate.examples import of_parts
  from gen_ai.sweep.unused_floats import trace

  source, config = dataset.splits['train'], group[0].config
  build = config_lib.builder(config)
  size = config.data.batch_size * build(config, dataset.spec).batches_per_step
  batch = source.read(source.eval_index(np.zeros(size, np.int64)))
  effective, names = trace(config, build, dataset.spec, batch)
  metrics = [*sorted(names), *of_parts(sorted(names), dataset.splits['validation'].parts)]
  seen: dict[str, Trial] = {}
  figures: list[str] = []
  if config.eval.metrics:
    from gen_ai.evaluate.protocol import training_protocol

    protocol = training_protocol(config, dataset)
    figures = protocol.figures if protocol else []
  for trial in group:
    floats = {path: value for path, value in config_lib.traced(trial.config).items() if path in effective}
    flat = config_lib.flatten(trial.config)
    other = seen.setdefault(repr((floats, [flat[seed] for seed in SEEDS])), trial)
    if other is not trial:
      idle = ', '.join(f'config.{path}' for path in config_lib.difference(other.config, trial.config))
      raise UserError(
        f'trials {other.number} and {trial.number} would be the same run, as nothing depends on {idle} '
        'with the other settings. Change what switches it on, or leave it out.'
      )
  for where, name in judges.items():
    if name in figures and where == '--halving' and config.eval.metrics_every != config.run.eval_every:
      raise UserError(
        f"--halving judges by '{name}' at every evaluation: set config.eval.metrics_every="
        f'{config.eval.metrics_every} to config.run.eval_every={config.run.eval_every}.'
      )
    if name and name not in {*metrics, *figures}:
      known = [*metrics, *figures]
      raise UserError(
        f"{where} names the metric '{name}'.{text.did_you_mean(name, known)} Evaluations give "
        f'{", ".join(known)}; config.eval.metrics adds figures of samples.'
      )
