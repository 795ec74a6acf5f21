"""Figures of a trained run, or of external samples, on a whole split, under one stated protocol.

python -m gen_ai.evaluate RUN_DIR [--metrics=fd,kid,prdc,nll,memorisation] [--split=test] [--samples=10000]
    [--extractor=classifier:RUN_DIR|inception:FILE|random] [--task=NAME] [--out=report.json]
    [--config.sample.truncation=0.7] [--axis=sample.truncation=0.3,0.7,1.0] [--ema=0.15] [--axis=ema=0.05,0.1,0.15]
    [--guide=RUN_DIR[@STEP] --axis=sample.autoguidance=0.0,0.5,1.0]
python -m gen_ai.evaluate --samples_file=x.npy --data=fashion_mnist [--run_dir=runs/theirs] [--metrics=...]
"""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import command_line, files
from gen_ai.core.errors import UserError
from gen_ai.core.method import GUIDE_BY, State, drawing_task
from gen_ai.data import kinds, pictures
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate import averages, companion, external, metrics, restored
from gen_ai.evaluate.companion import Companion
from gen_ai.evaluate.evaluator import Evaluator
from gen_ai.evaluate.metrics.metric import FEATURES, SAMPLES, Figure, Found, Metric
from gen_ai.evaluate.protocol import protocol, shared_stamp
from gen_ai.evaluate.trained import at_step
from gen_ai.run import data_identity, directory, info, older_runs
from gen_ai.sweep.trials import axis, signature
from gen_ai.train.resume import load_data

FLAGS = flags.FLAGS
BESIDE = 'data_'  # begins the field of a stamp that holds the same figure of the data
flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'which split')
flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
flags.DEFINE_string('out', '', 'also write the report, with its protocol, to this JSON file')
flags.DEFINE_string(
  'metrics',
  None,
  'figures besides the own ones of the method: fd, fd_infinity, kid, prdc, is, '
  'modes, agreement, ms_ssim, sliced_wasserstein, nll, classification, '
  'memorisation; config.eval.metrics if not given',
)
flags.DEFINE_integer('samples', None, 'samples they are measured on; config.eval.samples if not given', lower_bound=2)
flags.DEFINE_string(
  'extractor',
  None,
  'of features: classifier:RUN_DIR, inception:FILE or random (weak); config.eval.extractor if not given',
)
flags.DEFINE_string('task', None, 'that draws the samples: generate, complete, ...; config.eval.task if not given')
flags.DEFINE_float(
  'ema',
  None,
  'length of the average of the parameters, of a run that tracked some (config.optim.ema_lengths); the first of them '
  'if not given',
)
flags.DEFINE_string(
  'guide',
  '',
  'RUN_DIR or RUN_DIR@STEP of a smaller or earlier model: samples move away from what it says by '
  'config.sample.autoguidance',
)
flags.DEFINE_multi_string(
  'axis',
  [],
  'SECTION.FIELD=V1,V2,...: one evaluation a value of a setting, or of the length of the average (ema=0.05,0.1); '
  'repeat for a grid',
)
flags.DEFINE_string('samples_file', '', 'evaluate the samples in this .npy file instead of a run: uint8 [N, H, W, C]')
flags.DEFINE_string('data', '', 'with --samples_file: the data set they are compared with')
flags.DEFINE_string('run_dir', '', 'with --samples_file: the directory that makes them a run to compare')


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
  """Config overrides, those of the flags included."""
  named = {'eval.samples': FLAGS.samples, 'eval.extractor': FLAGS.extractor, 'eval.task': FLAGS.task}
  return {**given, **{path: value for path, value in named.items() if value is not None}}


def _refuse_idle(requested: Sequence[Metric], given: Mapping[str, Any]) -> None:
  """Refuses what the `requested` metrics would not read, and what is given twice."""
  samples, features = 'figures of samples (--metrics)', 'figures of images (--metrics)'
  drawn = any(metric.of in (FEATURES, SAMPLES) for metric in requested)
  now = [*([samples] if drawn else []), *([features] if any(metric.of == FEATURES for metric in requested) else [])]
  here = f'an evaluation of {", ".join(metric.name for metric in requested) or "the own figures of the method"}'
  command_line.refuse_idle({'samples': (samples,), 'extractor': (features,), 'task': (samples,)}, now, here)
  for path in given:
    name = path.removeprefix('eval.')
    if name in ('metrics', 'samples', 'extractor', 'task') and FLAGS[name].value is not None:
      raise UserError(f'--{name} and config.{path} say the same thing twice: leave one of them out.')
    idle = {
      'metrics_every': 'training',
      'importance_samples': '' if any(m.draws for m in requested) else "the figure 'nll'",
      'samples': '' if drawn else samples,
      'extractor': '' if features in now else features,
      'task': '' if drawn else samples,
      'best': '' if FLAGS.step == 'best' else '--step=best',
    }.get(name)
    if idle and path.startswith('eval.'):
      raise UserError(f'config.{path} would do nothing: it is for {idle}, and this is {here}. Leave it out.')


def row_of(
  found: Found, dataset: Dataset, split: str, step: int, seconds: float, point: Mapping[str, Any] = {}
) -> dict[str, Any]:
  """The evaluation as a line of evaluations.jsonl; `point` of --axis makes it one of a curve."""
  at = ''.join(f'_{path.rpartition(".")[2]}_{value}' for path, value in point.items())
  return {
    **({'axis': dict(point)} if point else {}),
    'time': datetime.now(UTC).isoformat(timespec='seconds'),
    'step': step,
    'split': split,
    'seconds': seconds,
    'stamp': shared_stamp(dataset, split),
    'figures': {name: figure.record() for name, figure in found.figures.items()},
    'pictures': {name: f'evaluations/step_{step:08d}_{split}{at}_{name}.png' for name in found.pictures},
    'texts': {name: list(texts) for name, texts in found.texts.items()},
    'notes': found.notes,
  }


def place(run_dir: str) -> Path | None:
  """Where the evaluation is to be recorded; None where that cannot be written and --out shall hold it alone.

  Raises:
    UserError: neither can be written. Nothing has been computed then.
  """
  if FLAGS.out:
    _check_out()
  path = Path(run_dir)
  why = files.unwritable(path / 'evaluations.jsonl', parents=True)
  why = why or files.unwritable(path / 'evaluations' / 'picture.png', parents=True)
  if not why:
    return path
  if not FLAGS.out:
    raise UserError(
      f'{run_dir} cannot be written ({why}), and holds its evaluations: --out=FILE.json keeps this one elsewhere.'
    )
  print(f'note: {run_dir} cannot be written ({why}): --out={FLAGS.out} alone holds the evaluation', file=sys.stderr)
  return None


def keep(run_dir: str, row: dict[str, Any], found: Found, at: Path | None) -> dict[str, Any]:
  """Writes --out, then adds the evaluation with its pictures to the record `at`; without one they lie beside --out.

  What cannot be kept is shown all the same.
  """
  if at is None:
    out = Path(FLAGS.out)
    row['pictures'] = {name: str(out.with_name(f'{out.stem}_{name}.png')) for name in found.pictures}
  try:
    if FLAGS.out:
      write_report(FLAGS.out, {'run': run_dir, **row})
    for name, (images, columns) in found.pictures.items():
      pictures.save_grid((at or Path()) / row['pictures'][name], images, columns)
    if at is not None:
      directory.append_evaluation(at, row)
  except UserError:
    show(f'{run_dir}, step {row["step"]}, not kept:', {**row, 'pictures': {}})
    raise
  return row


def show(title: str, row: Mapping[str, Any]) -> None:
  """Prints the figures with their intervals, the pictures, and what there is to say."""
  print(title)
  for name, figure in row['figures'].items():
    detail = f'  [{figure["low"]:.6g}, {figure["high"]:.6g}]' if 'low' in figure else ''
    if BESIDE + name in figure.get('stamp', {}):
      detail += f'  ({figure["stamp"][BESIDE + name]:.6g} in the training data)'
    print(f'  {name:24} {figure["value"]:<12.6g}{detail}')
  if any('low' in figure for figure in row['figures'].values()):
    print('  in brackets: 95 % intervals over examples or samples; other seeds of training vary more')
  for note in row['notes']:
    print(f'  note: {note}')
  for name, path in row['pictures'].items():
    print(f'  {name}: {path}')


def _check_out() -> None:
  """Raises UserError where --out cannot be written, before anything is computed."""
  why = files.unwritable(FLAGS.out)
  if why:
    raise UserError(f'--out={FLAGS.out} cannot be written: {why}.')


def write_report(out: str, report: Mapping[str, Any]) -> None:
  """Writes --out. Raises UserError where that is not possible."""
  try:
    Path(out).write_text(files.dumps(report, indent=2) + '\n', encoding='utf-8')
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror}.') from error


def _quick(samples: np.ndarray, dataset: Dataset, stamp: Mapping[str, Any]) -> dict[str, Figure]:
  """The figures that cost next to nothing, of the samples that are shown, beside those of the training data."""
  kind = kinds.of(dataset.spec)
  if len(samples) < kind.fewest or not kind.quick:
    return {}
  # To digits that no machine changes.
  beside = {f'{BESIDE}{name}': round(value, 4) for name, value in kind.data_measured(dataset.splits['train']).items()}
  measured = kind.measured(samples)
  return {name: Figure(value, stamp={**beside, **stamp}, better=kind.quick[name]) for name, value in measured.items()}


def _of_shown(evaluator: Evaluator, state: State, config: ConfigDict, dataset: Dataset) -> dict[str, Figure]:
  """`_quick` of the first samples, as in training; {} of a method that draws none."""
  if evaluator.generation is None:
    return {}
  (samples,) = evaluator.generation.read(state, np.arange(config.sample.n))
  return _quick(samples, dataset, {'samples': config.sample.n, **evaluator.stamp()})


class Point(NamedTuple):
  """One evaluation of a curve, or the only one."""

  axis: dict[str, Any]  # {'section.field' or 'ema': value}; {} without --axis and --ema
  config: ConfigDict
  length: float | None  # of the average of the parameters; None: the first that the run tracks


def _points(run_dir: str, config: ConfigDict, sections: Sequence[str]) -> list[Point]:
  """Every point of --axis.

  Raises:
    UserError: a field that no task can be run again under, values that it cannot have, or an average that the run has
      not.
  """
  axes, ema = [axis(text) for text in FLAGS.axis], directory.AXIS_EMA
  for path in (path for points in axes for path in points[0]):
    if path == ema and FLAGS.ema is not None:
      raise UserError(f'--ema={FLAGS.ema:g} and --axis={path}=... say the same thing twice: leave one of them out.')
    if path != ema and path.partition('.')[0] not in sections:
      free = ', '.join([*(f'config.{section}.*' for section in sections), ema])
      raise UserError(f'--axis={path}=...: an evaluation can vary {free} alone; the rest belongs to the training.')
  points = []
  for parts in itertools.product(*axes):
    values = {path: value for part in parts for path, value in part.items()}
    length = _length(values[ema]) if ema in values else FLAGS.ema
    if length is not None:
      averages.check(run_dir, config, length)
    own = config_lib.override(config, {path: value for path, value in values.items() if path != ema})
    flat = config_lib.flatten(own)
    config_lib.validate(own)
    at = {path: length if path == ema else flat[path] for path in values}
    # Of another average than the run's own it is no figure of the run, also where --ema alone asks for it.
    points.append(Point(at if length is None else {**at, ema: length}, own, length))
  return points


def _length(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise UserError(f'--axis={directory.AXIS_EMA}={text} is no number: lengths of averages are, such as 0.1.') from None


def _guides(run_dir: str, task: str, points: Sequence[Point]) -> list[Companion | None]:
  """What guides the samples of `task` at each point: the run of --guide where the settings ask for one.

  Raises:
    UserError: it cannot guide this run or would do nothing at any point, or there is none where one is needed.
  """
  run = restored.recorded(run_dir)
  name = task or drawing_task(run.tasks)
  if name not in run.tasks:
    if FLAGS.guide and not task:
      raise UserError(f'--guide={FLAGS.guide} would do nothing: {run_dir} has no task that draws.')
    return [None for _ in points]
  tasks = [config_lib.builder(point.config)(point.config, run.spec).tasks[name] for point in points]
  if not FLAGS.guide:
    companion.require(*tasks)
    return [None for _ in points]
  companion.check(GUIDE_BY, name, run, restored.recorded(directory.split_step(FLAGS.guide)[0]))
  guide = at_step(FLAGS.guide).as_companion(GUIDE_BY)
  idle = [bool(task.helps[GUIDE_BY].idle) for task in tasks]
  if all(idle):
    companion.check_use(tasks[0], guide)
  return [None if nothing else guide for nothing in idle]


def evaluate_run(run_dir: str, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Evaluates a checkpoint, once or at every point of --axis; adds to the run's record and returns what was added."""
  sections = restored.task_sections(run_dir)
  config = restored.open_config(run_dir, _overrides(overrides), ('eval', *config_lib.PLACES, *sections))
  at = place(run_dir)
  dataset = load_data(run_dir, config)
  data_identity.check(dataset, info.trained_on(run_dir).fingerprint, run_dir)
  names = config.eval.metrics if FLAGS.metrics is None else FLAGS.metrics
  requested = metrics.parse(names, dataset.spec.kind)
  _refuse_idle(requested, overrides)
  points, started = _points(run_dir, config, sections), time.perf_counter()
  guides = _guides(run_dir, config.eval.task, points)
  program, evaluator, rows, before = None, None, [], config
  for (point, own, length), guide in zip(points, guides, strict=True):
    if program is None or evaluator is None or signature(own) != signature(before):
      program, whole, step = restored.restore(run_dir, own, dataset.spec, FLAGS.step)
      recipes = {one: averages.recipe(run_dir, config, step, one) for _, _, one in points if one is not None}
      judged = protocol(own, dataset, FLAGS.split, requested)
      evaluator = Evaluator(program, own, dataset, judged, length=length, companion=guide)
    else:  # the same program, with other floats or another average
      program.use_floats(own)
      evaluator.use(own, length)
    before = own
    state = whole if length is None else averages.applied(recipes[length], own, program, whole)
    (found,) = evaluator.lanes(state)
    found = found._replace(
      figures={**evaluator.own(state), **_of_shown(evaluator, state, own, dataset), **found.figures}
    )
    row = row_of(found, dataset, FLAGS.split, step, time.perf_counter() - started, point)
    started = time.perf_counter()
    added = older_runs.read_config(run_dir)[1]
    row['notes'] += [older_runs.note(run_dir, added)] if added else []
    row['notes'] += [f'samples are guided by {guide.name} (weights sha256 {guide.weights[:12]})'] if guide else []
    rows.append(keep(run_dir, row, found, at))
  if FLAGS.out:
    write_report(FLAGS.out, {'run': run_dir, **rows[0]} if len(rows) == 1 else {'run': run_dir, 'curve': rows})
  return rows


def evaluate_file(overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
  """Measures external samples; returns the run directory that holds the evaluation, and the evaluation."""
  started = time.perf_counter()
  run_dir = FLAGS.run_dir or f'runs/external/{Path(FLAGS.samples_file).stem}'
  at = place(run_dir)
  config, dataset = external.open_data(FLAGS.data, _overrides(overrides))
  kind = kinds.of(dataset.spec)
  requested = metrics.parse(kind.metrics if FLAGS.metrics is None else FLAGS.metrics, kind.name)
  _refuse_idle(requested, overrides)
  samples = kind.load(FLAGS.samples_file, dataset.spec, FLAGS.samples, 'samples_file')
  config = config_lib.override(config, {'eval.samples': len(samples)})
  found, content = external.evaluate(samples, config, dataset, protocol(config, dataset, FLAGS.split, requested))
  found = found._replace(figures={**_quick(samples, dataset, {'samples': len(samples)}), **found.figures})
  if at is not None:
    external.run_directory(run_dir, config, dataset, FLAGS.samples_file, content)
  row = row_of(found, dataset, FLAGS.split, config.run.steps, time.perf_counter() - started)
  return run_dir, keep(run_dir, row, found, at)


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Evaluates and prints."""
  command_line.refuse_idle(
    {
      'data': ('--samples_file',),
      'run_dir': ('--samples_file',),
      'step': ('a run',),
      'task': ('a run',),
      'ema': ('a run',),
      'guide': ('a run',),
      'axis': ('a run',),
    },
    ['--samples_file' if FLAGS.samples_file else 'a run'],
    'samples of a file, which have no checkpoint' if FLAGS.samples_file else 'a run, which has its own data',
  )
  if FLAGS.samples_file:
    if arguments or not FLAGS.data:
      raise UserError('--samples_file=FILE.npy goes with --data=NAME, the data set to compare with, and with no run.')
    run_dir, row = evaluate_file(overrides)
    rows, what = [row], f'{FLAGS.samples_file}, as {run_dir}'
  else:
    run_dir = restored.one_argument(arguments, 'gen_ai.evaluate')
    rows = evaluate_run(run_dir, overrides)
    what = f'{run_dir}, step {rows[0]["step"]}'
  for row in rows:
    stamp, at = (
      row['stamp'],
      ''.join(f', {directory.axis_name(path)}={value}' for path, value in row.get('axis', {}).items()),
    )
    show(f'{what}{at}, {row["split"]} split of {stamp["data"]}: {stamp["examples"]:,} {stamp["form"]}', row)
  return 0


if __name__ == '__main__':
  command_line.run(main)
