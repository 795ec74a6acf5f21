"""Run directories as tidy pandas frames: one row a run, and one row a run and step."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gen_ai import config as config_lib
from gen_ai.compare import evaluations
from gen_ai.compare.find import Place, find
from gen_ai.core import command_line, surroundings
from gen_ai.core.errors import UserError
from gen_ai.run import directory, info, provenance
from gen_ai.run.directory import is_run
from gen_ai.run.info import EvalProtocol, RunInfo
from gen_ai.run.lease import Lease

if TYPE_CHECKING:
  import pandas as pd

COLUMNS = {  # of the frame `runs`; the index is `run`, the path as it was found
  'name': 'config.run.name',
  'experiment': 'config.experiment',
  'sweep': "directory of the sweep it belongs to; '' for a run of its own",
  'trial': 'number in that sweep; -1 for a run of its own',
  'state': 'running, done, stopped, diverged, pruned, failed; waiting: not started; lost: its process is gone',
  'step': 'completed updates',
  'steps': 'config.run.steps, the step budget',
  'message': 'what the run said when it ended',
  'seed': 'config.run.seed',
  'data_seed': 'config.data.seed',
  'group': 'hash of the config without seeds: equal for repetitions',
  'config_hash': 'hash of the whole config',
  'created': 'UTC time, ISO 8601',
  'attempts': 'times it was started',
  'host': 'name of the machine',
  'devices': "such as '1 x cpu'",
  'commit': 'git commit of the code',
  'dirty': 'whether the code had uncommitted changes',
  'patch': 'hash of these changes',
  'arithmetic': "precision that the environment asked for, 'JAX_DEFAULT_MATMUL_PRECISION=bfloat16'; or as usual",
  'compiler': "what else of the environment may change the rounding: flags of XLA, variables of JAX; '' for nothing",
  'versions': "of Python and packages, 'python 3.11.2, jax 0.10.2, ...'",
  'data': 'name of the data set',
  'data_version': 'its version',
  'data_hash': 'hash of its content',
  'data_spec': "what a model sees of it, such as 'image 28x28x1'",
  'split_rule': 'how it was cut into training, validation and test',
  'lanes': 'runs that shared the program and so the clock and the memory; 1: it had them to itself',
  'parameters': 'of the model',
  'wall_seconds': 'training, evaluation and sampling over all attempts, without compilation',
  'compile_seconds': 'of the last attempt',
  'examples_per_second': 'in training',
  'examples_per_step': 'examples in one update',
  'flops_per_step': 'floating-point operations of one update',
  'flops': 'floating-point operations of all updates',
  'peak_memory_bytes': 'of the busiest device, or of the process on a CPU',
  'eval_split': 'split that the evaluations used',
  'eval_examples': 'examples in it',
  'eval_seed': 'noise of the evaluation',
  'ema': 'whether averaged parameters were evaluated',
  'observation': "what the own metrics of the method are of, such as the likelihood of a VAE; '' for none",
  'bounds': "own metrics that bound what they are named after: 'nll_bpd'; '' for none",
  'extractor': "feature extractor of the metrics; '' for none",
  'eval_samples': 'generated samples that a metric used; 0 for none',
  'data_spread': 'of the training images: what the metric spread, of samples, is read beside',
  'leading': "metrics that tell most, with the way that is better: 'elbo_nats:max kl_nats:'",
}
METRIC_COLUMNS = {  # of `runs`, for each metric m evaluated in training
  'final/m': 'its last evaluation; NaN for a diverged run, which has no final figure',
  'last_k/m': 'mean of its last k evaluations; NaN for a diverged run',
  'best_min/m': 'lowest of its evaluations',
  'best_min_step/m': 'step of that',
  'best_max/m': 'highest of its evaluations',
  'best_max_step/m': 'step of that',
}
EVALUATION_COLUMNS = evaluations.COLUMNS  # of `runs`, for each figure m of the evaluations of a split
CURVE_COLUMNS = {  # of the frame `metrics`, besides train/m and eval/m for each metric m
  'run': 'index of the run in `runs`',
  'step': 'completed updates',
  'attempt': 'that wrote the row',
  'seconds': 'of training so far',
  'examples': 'seen so far',
  'flops': 'spent so far',
}
_CLOCKED = ('step', 'kind', 'attempt', 'seconds')
_NO_FINAL = ('diverged',)


@dataclass(frozen=True)
class Runs:
  """What `load` gives: two frames, the folder that holds the runs, the k of the columns last_k/m."""

  runs: 'pd.DataFrame'
  metrics: 'pd.DataFrame'
  root: Path
  last_k: int
  left: tuple[str, ...] = ()  # what could not be read, by name: it is in neither frame

  @property
  def names(self) -> list[str]:
    """Metrics that any run has: those evaluated in training, then figures of evaluation records, such as test/fd."""
    trained = [column.removeprefix('final/') for column in self.runs.columns if column.startswith('final/')]
    return [*trained, *(name for name in evaluations.names(self.runs) if name not in trained)]


def load(*patterns: str | os.PathLike, last_k: int = 5) -> Runs:
  """Reads all runs in, below or matched by `patterns`: folders, sweeps, run directories, globs such as 'runs/**'.

  Reads running and killed runs too; trials of a sweep that have not started are rows in state 'waiting'.

  Args:
    patterns: where to look.
    last_k: evaluations that the columns last_k/m are the mean of.

  Returns:
    runs: one row a run; index `run` (path). Columns as in `COLUMNS`, `config.<field>` for each field of any config,
      `METRIC_COLUMNS` for each metric evaluated in training and `EVALUATION_COLUMNS` for each figure of the
      evaluations. A number that is missing is NaN, a config field None.
    metrics: one row a run and step, `CURVE_COLUMNS`, `train/<metric>` and `eval/<metric>`; rows that a later attempt
      computed again are left out, and so is the row of the step at which a run diverged.

  Raises:
    UserError: nothing found, or all records are damaged (names file and line); one of many is left aside by name.
  """
  if last_k < 1:
    raise UserError(f'last_k={last_k} must be at least 1.')
  found = find(patterns)
  rows, curves, left = [], [], list(found.left)
  for place in found.places:
    try:
      row, curve = _read(place, last_k) if is_run(place.path) else (_waiting(place), {})
    except UserError as error:
      left.append(str(error))
      continue
    rows.append({'run': str(place.path), **row})
    curves.append(curve)
  if not rows:
    raise UserError(left[0])
  metrics = _metrics_frame([row['run'] for row in rows], curves)
  return Runs(_runs_frame(rows), metrics, found.root, last_k, tuple(f'left aside: {text}' for text in left))


def schema() -> str:
  """The columns of both frames as an aligned table."""
  runs = {**COLUMNS, 'config.<field>': 'of the config', **METRIC_COLUMNS, **EVALUATION_COLUMNS}
  tables = {'runs': runs, 'metrics': CURVE_COLUMNS}
  lines = []
  for table, columns in tables.items():
    lines += [f'{table}:', *(f'  {name:<20} {text}' for name, text in columns.items())]
  return '\n'.join(lines)


load.__doc__ = f'{load.__doc__}\n{schema()}\n'


# One run.


def _read(place: Place, last_k: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The columns of one run, and its curves as {column: [steps]}."""
  path = place.path
  config = config_lib.flatten(directory.read_config(path))
  about = info.read_if_any(path)
  summary = directory.read_summary(path) if (path / 'summary.json').is_file() else {}
  attempts, rows = directory.read_attempts(path), directory.read_metrics(path)
  row = {**_identity(place, config, about, attempts), **_state(path, config)}
  row['attempts'] = len({a['attempt'] for a in attempts})
  row |= _costs(row, about, summary, rows)
  curve = _curve(rows)
  step = curve['step']
  curve['examples'] = step * row['examples_per_step']
  curve['flops'] = step * row['flops_per_step']
  figures = {**_figures(rows, row['state'], last_k), **evaluations.columns(path)}
  return {**row, **_config_columns(config), **figures}, curve


def _waiting(place: Place) -> dict[str, Any]:
  """The columns of a trial that has not started: what its config says."""
  assert place.trial is not None
  tree = config_lib.to_json(place.trial.config)
  about = RunInfo(group_hash=provenance.group_hash(tree), config_hash=provenance.config_hash(tree))
  config = config_lib.flatten(tree)
  row = _identity(place, config, about)
  row |= {'state': 'waiting', 'step': 0, 'message': '', 'attempts': 0}
  return {**row, **_costs(row, about, {}, []), **_config_columns(config)}


def _config_columns(config: Mapping[str, Any]) -> dict[str, Any]:
  return {f'config.{path}': tuple(v) if isinstance(v, list) else v for path, v in config.items()}


def _identity(
  place: Place, config: Mapping[str, Any], about: RunInfo | None, attempts: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
  """What the run is, and under which protocol it is evaluated; '' and NaN where its record does not say."""
  run = about or RunInfo()
  protocol, is_recorded = run.evaluation or EvalProtocol(), run.evaluation is not None
  environments = [run.environment, *(a['environment'] for a in attempts if 'environment' in a)]
  arithmetic = dict.fromkeys(surroundings.arithmetic(each) or 'as usual' for each in environments)
  compiler = dict.fromkeys(map(surroundings.compiler, environments))
  return {
    'name': config.get('run.name', ''),
    'experiment': config.get('experiment', ''),
    'sweep': place.sweep,
    'trial': place.trial.number if place.trial else -1,
    'steps': config.get('run.steps', np.nan),
    'seed': config.get('run.seed', np.nan),
    'data_seed': config.get('data.seed', np.nan),
    'group': run.group_hash,
    'config_hash': run.config_hash,
    'created': run.created,
    'host': run.host.name,
    'devices': _devices(run.devices),
    'commit': run.git.commit,
    'dirty': run.git.dirty,
    'patch': run.git.patch_sha256,
    'arithmetic': ' then '.join(arithmetic) if about is not None else '',
    'compiler': ' then '.join(filter(None, compiler)),
    'versions': ', '.join(f'{name} {version}' for name, version in run.versions.items()),
    'data': run.data.name,
    'data_version': run.data.version,
    'data_hash': run.data.fingerprint,
    'data_spec': _spec(run.data.spec),
    'split_rule': run.data.split_rule,
    'lanes': run.lanes,
    'eval_split': protocol.split,
    'eval_examples': protocol.examples if is_recorded else np.nan,
    'eval_seed': np.nan if protocol.seed is None else protocol.seed,
    'ema': protocol.averaged,
    'observation': protocol.observation,
    'bounds': ' '.join(protocol.bounds),
    'extractor': protocol.extractor,
    'eval_samples': protocol.samples if is_recorded else np.nan,
    'data_spread': protocol.data_figures.get('spread', np.nan),
    'leading': ' '.join(run.leading),
  }


def _devices(devices: Sequence[str]) -> str:
  """'2 x cuda' of ['cuda:0', 'cuda:1'], '1 x cpu' of ['TFRT_CPU_0']: numbers say nothing about the kind."""
  kinds = [device.lower().removeprefix('tfrt_').partition(':')[0].partition('_')[0] for device in devices]
  return ', '.join(f'{kinds.count(kind)} x {kind}' for kind in dict.fromkeys(kinds))


def _spec(spec: Mapping[str, Any]) -> str:
  if not spec:
    return ''
  text = f'{spec["kind"]} {"x".join(map(str, spec["shape"]))}'
  if spec.get('tokenizer'):
    return f'{text} of {spec["tokens"]:,} BPE tokens'
  return f'{text} of {len(spec["alphabet"])} characters' if spec.get('alphabet') else text


def _state(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
  """state, step and message; a run that says it is running while no process holds it is lost."""
  if not (path / 'status.json').is_file():
    return {'state': 'waiting', 'step': 0, 'message': ''}
  status = directory.read_status(path)
  state, message = status['state'], status['message']
  if state == 'running' and not Lease(path).held():
    state = 'lost'
    message = f'its process on {status["host"]} is gone; go on with `{command_line.printed("launch.py", resume=path)}`'
  return {'state': state, 'step': status['step'], 'message': message}


def _costs(
  row: Mapping[str, Any], about: RunInfo | None, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """What the run took; of a run without a summary, what its rows and run.json tell."""
  speeds = [r['examples_per_second'] for r in rows if 'examples_per_second' in r]
  flops = summary.get('flops_per_step') or np.nan
  parameters, examples = (np.nan, np.nan) if about is None else (about.parameters, about.examples_per_step)
  return {
    'parameters': summary.get('parameters', np.nan if parameters is None else parameters),
    'wall_seconds': summary.get('seconds', rows[-1]['seconds'] if rows else np.nan),
    'compile_seconds': summary.get('compile_seconds', np.nan),
    'examples_per_second': summary.get('examples_per_second') or (float(np.median(speeds)) if speeds else np.nan),
    'examples_per_step': np.nan if examples is None else examples,
    'flops_per_step': flops,
    'flops': flops * row['step'],
    'peak_memory_bytes': summary.get('peak_memory_bytes', np.nan),
  }


def _curve(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """{column: [steps]} with the train and eval rows of one step merged."""
  kinds = {kind: [row for row in rows if row['kind'] == kind] for kind in ('train', 'eval')}
  steps = {kind: np.array([row['step'] for row in kept], np.int64) for kind, kept in kinds.items()}
  step = np.union1d(steps['train'], steps['eval'])
  curve: dict[str, np.ndarray] = {'step': step}
  for kind in ('eval', 'train'):  # the clock of a training row is that of its update
    place = np.searchsorted(step, steps[kind])
    for name in dict.fromkeys(itertools.chain.from_iterable(kinds[kind])):
      if name in ('step', 'kind'):
        continue
      column = curve.setdefault(name if name in _CLOCKED else f'{kind}/{name}', np.full(len(step), np.nan))
      column[place] = [row.get(name, np.nan) for row in kinds[kind]]
  return curve


def _figures(rows: Sequence[Mapping[str, Any]], state: str, last_k: int) -> dict[str, float]:
  """`METRIC_COLUMNS` of each evaluation metric."""
  evals = [row for row in rows if row['kind'] == 'eval']
  figures: dict[str, float] = {}
  for name in dict.fromkeys(itertools.chain.from_iterable(evals)):
    if name in _CLOCKED:
      continue
    values = np.array([row[name] for row in evals if name in row], np.float64)
    steps = [row['step'] for row in evals if name in row]
    ended = state not in _NO_FINAL
    figures[f'final/{name}'] = float(values[-1]) if ended else np.nan
    figures[f'last_k/{name}'] = float(values[-last_k:].mean()) if ended else np.nan
    finite = np.flatnonzero(np.isfinite(values))
    for mode, pick in (('min', np.argmin), ('max', np.argmax)):
      at = finite[pick(values[finite])] if len(finite) else None
      figures[f'best_{mode}/{name}'] = np.nan if at is None else float(values[at])
      figures[f'best_{mode}_step/{name}'] = np.nan if at is None else float(steps[at])
  return figures


# The frames.


def _runs_frame(rows: Sequence[Mapping[str, Any]]) -> 'pd.DataFrame':
  import pandas as pd

  names = list(dict.fromkeys(name for row in rows for name in row))
  known = ['run', *COLUMNS]
  config = sorted(name for name in names if name.startswith('config.'))
  figures = [name for name in names if '/' in name]
  columns = {name: [row.get(name, np.nan) for row in rows] for name in known + figures}
  for name in config:
    values = [row.get(name) for row in rows]
    columns[name] = pd.Series(values, dtype=object) if None in values else values  # a whole number stays one
  return pd.DataFrame(columns).set_index('run')


def _metrics_frame(names: Sequence[str], curves: Sequence[Mapping[str, np.ndarray]]) -> 'pd.DataFrame':
  import pandas as pd

  lengths = [len(curve['step']) if curve else 0 for curve in curves]
  found = dict.fromkeys(name for curve in curves for name in curve)
  ordered = [name for name in CURVE_COLUMNS if name != 'run'] + [name for name in found if '/' in name]
  columns: dict[str, Any] = {'run': np.repeat(np.array(names, dtype=object), lengths)}
  for name in ordered:
    parts = [curve.get(name, np.full(n, np.nan)) for curve, n in zip(curves, lengths, strict=True)]
    columns[name] = np.concatenate(parts)
  frame = pd.DataFrame(columns)
  return frame.astype({'step': np.int64, 'attempt': np.int64})
