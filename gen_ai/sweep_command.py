"""What launch.py does with a sweep: plan it, show it, start it, go on with it, stop it."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from gen_ai import command, halving, provenance, surroundings, sweep_table, terminal, writers
from gen_ai import config as config_lib
from gen_ai.engines import Options
from gen_ai.errors import UserError
from gen_ai.sweep import SEEDS, Point, Sweep, axis, declared, drawn, groups, packable, product, resolve

ENGINES = ('auto', 'packed', 'local', 'slurm', 'ray', 'print')


@dataclass(frozen=True)
class Request:
  """A sweep as the command line asks for it."""

  reference: str  # configs/NAME.py[:ARGUMENT]
  base: ConfigDict
  overrides: Mapping[str, str]  # --config.x=y: the same for all points
  sweeps: Sequence[str]
  axes: Sequence[str]
  sample: int
  sample_seed: int
  halving: str
  engine: str
  runs_dir: str


def plan(request: Request) -> list[Point]:
  """All points, every one known to be sound as far as its config tells.

  Raises:
    UserError: see `gen_ai.sweep`.
  """
  parts: dict[str, list[dict[str, Any]]] = {}
  for name in request.sweeps:
    if f'--sweep={name}' in parts:
      raise UserError(f'--sweep names {name} twice: once is enough.')
    parts[f'--sweep={name}'] = declared(request.reference, name)
  for text in request.axes:
    part = f'--axis={text.partition("=")[0]}'
    if part in parts:
      raise UserError(f'{part} is given twice: put all its values into one.')
    parts[part] = axis(text)
  if request.sample:
    parts[f'--sample={request.sample}'] = drawn(request.reference, request.sample, request.sample_seed)
  points = resolve(request.base, product(parts), request.overrides)
  if request.halving:
    rule = halving.parse(request.halving)
    for point in points:
      halving.rungs(rule, point.config.run.steps, point.config.run.eval_every)
  return points


def choose(engine: str, points: Sequence[Point]) -> str:
  """The engine that 'auto' stands for: packed where any two points can share a program, else local.

  Raises:
    UserError: an unknown engine, or packed for points that cannot be lanes.
  """
  if engine not in ENGINES:
    raise UserError(f'--engine={engine} is none of {", ".join(ENGINES)}.{config_lib.nearest(engine, list(ENGINES))}')
  reasons = [f'point {point.number}: {reason}' for point in points if (reason := packable(point.config))]
  if engine == 'packed' and reasons:
    raise UserError(f'--engine=packed runs every point whole on one device, but {reasons[0]}. Use --engine=local.')
  if engine != 'auto':
    return engine
  return 'packed' if not reasons and any(len(group) > 1 for group in groups(points)) else 'local'


def check(points: Sequence[Point], engine: str, rule: str) -> None:
  """Builds every point and traces one of every structure, so that a bad one is refused before anything starts.

  Args:
    points: from `plan`.
    engine: that will run them.
    rule: of early stopping; '' without.

  Raises:
    UserError: names the point that cannot be built, a swept field that nothing depends on, or a metric there is not.
  """
  surroundings.load()
  import jax

  if engine not in ('packed', 'print'):  # the launcher must not take an accelerator's memory from its workers
    jax.config.update('jax_platforms', 'cpu')
  surroundings.start()
  from gen_ai.data import dataset as dataset_lib

  judge = halving.parse(rule).metric if rule else ''
  datasets: dict[str, Any] = {}
  for group in groups(points):
    point, config = group[0], group[0].config
    try:
      writers.parse_names(config.run.writers)
      data = config.data.to_json()
      if data not in datasets:
        datasets[data] = dataset_lib.load(config.data)
      for point in group[1:]:  # a number of a later point may be out of its range
        config_lib.experiment(point.config).build(point.config, datasets[data].spec)
      point = group[0]
      _check_group(group, datasets[data], {'--halving': judge, 'config.eval.best': config.eval.best.rpartition(':')[0]})
    except UserError as error:
      raise UserError(f'point {point.number} ({point.name}): {error} Nothing was started.') from error


def _check_group(group: Sequence[Point], dataset: Any, judges: Mapping[str, str]) -> None:
  """Raises UserError as `check` does for points of one structure; `judges` are metrics {where it is named: name}."""
  import numpy as np

  from gen_ai.effect import trace

  source, config = dataset.splits['train'], group[0].config
  build = config_lib.experiment(config).build
  size = config.data.batch_size * build(config, dataset.spec).batches_per_step
  batch = source.read(source.eval_index(np.zeros(size, np.int64)))
  effective, metrics = trace(config, build, dataset.spec, batch)
  seen: dict[str, Point] = {}
  figures: list[str] = []
  if config.eval.metrics:
    from gen_ai.judge import training_protocol

    asked = training_protocol(config, dataset)
    figures = asked.figures if asked else []
  for point in group:
    told = {path: value for path, value in config_lib.traced(point.config).items() if path in effective}
    flat = config_lib.flatten(point.config)
    other = seen.setdefault(repr((told, [flat[seed] for seed in SEEDS])), point)
    if other is not point:
      idle = ', '.join(f'config.{path}' for path in config_lib.difference(other.config, point.config))
      raise UserError(f'points {other.number} and {point.number} would be the same run, as nothing depends on {idle} '
                      'with the other settings. Change what switches it on, or leave it out.')  # fmt: skip
  for where, name in judges.items():
    if name in figures and where == '--halving' and config.eval.metrics_every != config.run.eval_every:
      raise UserError(f"--halving judges by '{name}' at every evaluation: set config.eval.metrics_every="
                      f'{config.eval.metrics_every} to config.run.eval_every={config.run.eval_every}.')  # fmt: skip
    if name and name not in {*metrics, *figures}:
      known = [*sorted(metrics), *figures]
      raise UserError(f"{where} names the metric '{name}'.{config_lib.nearest(name, known)} Evaluations give "
                      f'{", ".join(known)}; config.eval.metrics adds figures of samples.')  # fmt: skip


def start(request: Request, options: Options, dry_run: bool) -> int:
  """Plans a sweep and runs it, or with `dry_run` prints what it would do. Returns the exit code."""
  points = plan(request)
  engine = choose(request.engine, points)
  options.refuse_idle(engine)
  if 'sweep.lanes' in request.overrides and engine != 'packed':
    raise UserError(f'config.sweep.lanes would do nothing: it is for --engine=packed, and this sweep runs with '
                    f'--engine={engine}. Leave it out.')  # fmt: skip
  if engine == 'slurm':
    importlib.import_module('gen_ai.engines.slurm').check(options, dry_run)
  check(points, engine, request.halving)
  about = {
    'argv': sys.argv, 'engine': engine, 'halving': request.halving,
    'config_file': provenance.describe_file(request.reference),
    'asked': {'sweeps': list(request.sweeps), 'axes': list(request.axes), 'sample': request.sample,
              'sample_seed': request.sample_seed, 'overrides': dict(request.overrides)},
  }  # fmt: skip
  swept = [text.partition('=')[0].rpartition('.')[2] for text in request.axes]
  label = '_'.join([*request.sweeps, *swept, *([f'sample{request.sample}'] if request.sample else [])])
  if dry_run:
    planned = Sweep.planned(request.runs_dir, label, request.base, points, about)
    told = engine in ('packed', 'slurm')
    lines = importlib.import_module(f'gen_ai.engines.{engine}').describe(planned, options) if told else []
    sweep_table.dry_run(planned, engine, lines)
    return 0
  sweep = Sweep.create(request.runs_dir, label, request.base, points, about)
  try:
    with sweep.lease():
      return _run(sweep, sweep.points, engine, options)
  except BaseException:
    if not sweep.started():  # else `ls` would find it as the newest one
      sweep.discard()
    raise


def resume(path: str, engine: str, retry_failed: bool, options: Options, overrides: Mapping[str, str]) -> int:
  """Goes on with what is unfinished of the sweep at `path`, by its own engine unless told. Returns the exit code.

  `overrides` may say where its data lies now.
  """
  sweep = Sweep.open(path)
  engine = choose(engine if engine != 'auto' else sweep.about['engine'], sweep.points)
  options.refuse_idle(engine)
  if overrides:
    surroundings.load()
    from gen_ai.resume import check_move, move_sweep  # JAX

    check_move(sweep, overrides)
  with sweep.lease():  # before the requests are withdrawn: they may be meant for a launcher that still works
    if overrides:
      move_sweep(sweep, overrides)
      sweep = Sweep.open(path)
    sweep.clear_stop()
    # With the lease ours, workers of these engines that still run have lost their launcher and are about to leave.
    return _run(sweep, sweep.unfinished(retry_failed, running=engine in ('packed', 'local', 'ray')), engine, options)


def _run(sweep: Sweep, points: Sequence[Point], engine: str, options: Options) -> int:
  if engine == 'print':
    for point in points:
      print(command.printed(*sweep.command(point)))
    return 0
  if points:
    terminal.outlive(sweep.path / 'logs')
  print(f'sweep      {sweep.path}', flush=True)
  if not points:
    print('no point is left to start', flush=True)
    return sweep_table.show(sweep)
  return importlib.import_module(f'gen_ai.engines.{engine}').launch(sweep, list(points), options)


def show(path: str) -> int:
  """Prints where the points of the sweep at `path` stand."""
  sweep_table.show(Sweep.open(path))
  return 0


def stop(path: str, numbers: Sequence[int]) -> int:
  """Asks points of the sweep at `path`, or all, to save and leave."""
  sweep = Sweep.open(path)
  known = {point.number for point in sweep.points}
  unknown = sorted(set(numbers) - known)
  if unknown:
    raise UserError(
      f'{path} has no point {unknown[0]}: its points are 0 to {max(known)}, as '
      f'`{command.printed("launch.py", status=path)}` shows.'
    )
  sweep.request_stop(numbers)
  if sweep.about['engine'] == 'slurm':
    importlib.import_module('gen_ai.engines.slurm').cancel_waiting(sweep, numbers)
  which = f'point(s) {", ".join(map(str, numbers))}' if numbers else 'all points'
  print(f'asked {which} of {path} to save and leave; `{command.printed("launch.py", resume=path)}` goes on.')
  return 0
