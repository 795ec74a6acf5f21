"""One run from a config or from its directory: what every way of launching ends in."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import command_line, files, surroundings, terminal
from gen_ai.core.averages import is_averaged
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.core.method import GENERATE
from gen_ai.core.text import duration, number
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import kinds
from gen_ai.evaluate import companion
from gen_ai.parallel import processes
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program
from gen_ai.run import data_identity, directory, info, older_runs, provenance, trackers
from gen_ai.run.info import EvalProtocol, Origin
from gen_ai.train import trainer as trainer_lib
from gen_ai.train import warm_start
from gen_ai.train.hooks import profiler
from gen_ai.train.interruption import Stop
from gen_ai.train.progress import Display
from gen_ai.train.resume import changed, load_data, record_changes
from gen_ai.train.run_logger import RunLogger


class SilentRecord:
  """The record of a process that writes none: any call does nothing."""

  def __init__(self, path: Path):
    self.path = path
    self.samples = path / 'samples'

  def __getattr__(self, name: str):
    return lambda *args, **kwargs: None


def resume_config(
  run_dir: str, given: ConfigDict | None, overrides: Mapping[str, Any] | None = None, sweep: str | Path = ''
) -> ConfigDict:
  """The config to go on with: the one recorded in `run_dir`, with `overrides` that a run that goes on may have.

  `sweep` is the directory of the sweep that the run belongs to, if any.

  Raises:
    UserError: `given`, the config on the command line, is another one; names the fields that differ. Or `overrides`
      would make another run.
  """
  directory.RunDir.open(run_dir)
  config, added = older_runs.read_config(run_dir)
  if added and processes.is_main():
    print(f'note: {older_runs.note(run_dir, added)}', file=sys.stderr)
  if given is not None:
    fields = config_lib.difference(config, given)
    if fields:
      shown = ', '.join(f'config.{name} is {a!r} there and {b!r} here' for name, (a, b) in list(fields.items())[:3])
      more = f' and {len(fields) - 3} more' if len(fields) > 3 else ''
      way = command_line.printed('launch.py', resume=run_dir)
      raise UserError(
        f'{run_dir} holds a run of another config: {shown}{more}. Resume it as it is with `{way}`, or '
        'leave --run_dir out to start a new run.'
      )
  return changed(run_dir, config, overrides or {}, sweep)


def work(
  config: ConfigDict,
  run_dir: str,
  runs_dir: str,
  origin: Origin,
  trial: int = 0,
  prune: trainer_lib.Prune | None = None,
  lease_wait: float = 0.0,
  stop_files: Sequence[Path] = (),
  by_hand: bool = False,
  limit: int = 0,
  profile: str = '',
) -> int:
  """Trains the run of `config`, new or continued; returns the exit code.

  Nothing is written before config, data and program are known to be sound.

  Args:
    config: resolved; for a run that exists, that of `resume_config`.
    run_dir: directory of the run; '' makes a new one under `runs_dir`.
    runs_dir: where new run directories go.
    origin: how it was asked for.
    trial: number of the run in its sweep.
    prune: early stopping by the rule of its sweep; None without.
    lease_wait: seconds to wait while another process holds the run directory.
    by_hand: a person goes on with this very run: an earlier end by the sweep's rule does not stop it.
    stop_files: files whose existence asks this run to stop.
    limit: updates after which it stops as on a signal, its schedules being those of the whole run; 0: no such.
    profile: 'STEP:COUNT', updates to be traced; '' for none.

  Raises:
    UserError, Diverged: see `trainer.train`.
  """
  surroundings.start()
  config_lib.validate(config)
  trackers.parse_names(config.run.trackers)
  main = processes.is_main()
  display = Display(config.run.steps, quiet=not main)
  known = directory.is_run(run_dir) and (Path(run_dir) / 'status.json').is_file()
  status = directory.read_status(run_dir) if known else {'state': '', 'step': 0}
  state = status['state']
  if (state == 'done' and status['step'] >= config.run.steps) or (state == 'pruned' and not by_hand):
    steps = f'its {config.run.steps:,} steps are done' if state == 'done' else 'early stopping ended it'
    display.say(f'{run_dir} is complete: {steps}.')
    _next_steps(display, Path(run_dir))
    return DONE
  with Stop(stop_files) as stop, contextlib.ExitStack() as stack:
    dataset = load_data(run_dir, config) if directory.is_run(run_dir) else dataset_lib.load(config.data)
    program = Program(config, config_lib.builder(config), dataset.spec, make_layout(config))
    companion.require(*program.tasks.values())
    parent = info.read(run_dir).parent if directory.is_run(run_dir) else origin.parent
    # Before anything is written. A run that was killed before its first checkpoint begins from there again.
    begun = directory.has_checkpoint(run_dir) if run_dir else False
    parent = warm_start.begin_from(program, config, parent, data_identity.describe(dataset).spec, begun)
    origin = dataclasses.replace(origin, parent=parent)
    protocol_fields, evaluator = evaluator_of(config, dataset)
    path = Path(processes.from_main(lambda: _directory(run_dir, runs_dir, config.run.name)))
    terminal.outlive(path / 'logs')
    run = directory.RunDir(path) if main else SilentRecord(path)

    def begin() -> str:
      stack.enter_context(run.lease(wait=lease_wait))
      if isinstance(run, directory.RunDir) and directory.is_run(run_dir):
        for name, (before, now) in record_changes(run, config, dataset).items():
          display.say(f'changed    config.{name}: {before!r} before, {now!r} from now on')
      describe(run, config, dataset, program, origin, protocol_fields)
      _header(display, path, config, dataset, program, origin.cache)
      return info.trained_on(path).fingerprint

    data_identity.check(dataset, processes.from_main(begin), path)  # each process loads its own
    lane = RunLogger(config, run, path / 'checkpoints', trackers_of(config, path, main), number=trial)
    hooks = profiler(profile, config.run.log_every, path) if profile else []
    trainer = trainer_lib.Trainer([lane], dataset, program, display, stop, None, prune, limit, evaluator, hooks)
    code = trainer_lib.train(trainer)
    if main:
      _footer(display, trainer, lane)
  return code


def parent_of(reference: str) -> dict[str, Any]:
  """What --init_from=RUN_DIR or RUN_DIR@STEP names, as `info.Origin` has it; {} for ''. Raises UserError for no run."""
  if not reference:
    return {}
  parent = warm_start.read(reference)
  return {'run_dir': str(Path(parent.run_dir).resolve()), 'step': parent.step}


def evaluator_of(
  config: ConfigDict, dataset: dataset_lib.Dataset
) -> tuple[dict[str, Any], Callable[[Program], trainer_lib.Evaluator] | None]:
  """(what the protocol of config.eval.metrics adds to run.json, what makes their evaluator); ({}, None) without any.

  Raises:
    UserError: they cannot be measured so.
  """
  if not config.eval.metrics:
    return {}, None
  from gen_ai.evaluate import evaluator  # brings SciPy, which training does without
  from gen_ai.evaluate import protocol as protocol_lib

  protocol = protocol_lib.training_protocol(config, dataset)
  assert protocol is not None
  return protocol_lib.describe(protocol), lambda program: evaluator.Evaluator(program, config, dataset, protocol)


def trackers_of(config: ConfigDict, path: Path, main: bool = True) -> Callable[[int], trackers.Trackers]:
  """Opens the trackers of the run at `path` that `config` names, given the step from which it goes on."""
  names, text = config.run.trackers if main else '', files.dumps(config_lib.to_json(config))
  return lambda step: trackers.open_trackers(names, path, text, step)


def _directory(run_dir: str, runs_dir: str, name: str) -> str:
  """The run's directory, made where it is new."""
  if directory.is_run(run_dir):
    return run_dir
  return str((directory.RunDir.make(run_dir, adopt=True) if run_dir else directory.RunDir.create(runs_dir, name)).path)


def describe(
  run: directory.RunDir | SilentRecord,
  config: ConfigDict,
  dataset: dataset_lib.Dataset,
  program: Program,
  origin: Origin,
  protocol_fields: Mapping[str, Any],
  lanes: int = 1,
) -> None:
  """config.json and run.json of a new run, one of `lanes` in its program; a run that has them keeps them."""
  if directory.is_run(run.path):
    return
  tree, devices = config_lib.to_json(config), jax.devices()
  names = [str(device) if device.platform == 'cpu' else device.device_kind for device in devices]
  about = dataclasses.replace(
    provenance.collect(origin, tree, data_identity.describe(dataset), names, run.path),
    evaluation=_protocol(config, dataset, program, protocol_fields),
    examples_per_step=program.batch_size,
    parameters=program.parameter_count(),
    lanes=lanes,
    leading=[f'{name}:{mode}' for name, mode in program.leading.items()],
    tasks=list(program.tasks),
  )
  (run.path / 'run.json').unlink(missing_ok=True)  # of a process that was killed before it wrote the config
  run.write_run(about.to_json())
  run.write_config(tree)  # last: it makes the directory a run


def data_lines(config: ConfigDict, path: Path) -> list[str]:
  """What the header of the run at `path` says of its data; nothing of what is not on its record."""
  protocol = info.read(path).evaluation
  figures = protocol.data_figures if protocol is not None else {}
  return [
    f'{name:<10} {value:.3f} in the training data; evaluations tell that of {config.sample.n} samples'
    for name, value in figures.items()
  ]


def _protocol(
  config: ConfigDict, dataset: dataset_lib.Dataset, program: Program, protocol_fields: Mapping[str, Any]
) -> EvalProtocol:
  """What the evaluations in metrics.jsonl rest on."""
  task = config.eval.task or program.drawing_task()
  return EvalProtocol(
    split='validation',
    examples=dataset.splits['validation'].evaluated,
    split_rule=dataset.split_rule,
    data=dataset.fingerprint,
    averaged=is_averaged(config),
    seed=config.eval.seed,
    observation=program.observation,
    bounds=program.bounds,
    extractor=protocol_fields.get('extractor', ''),
    samples=protocol_fields.get('samples', 0),
    task=task,
    data_figures=kinds.of(dataset.spec).data_measured(dataset.splits['train']) if task else {},
  )


def _header(
  display: Display, path: Path, config: ConfigDict, dataset: dataset_lib.Dataset, program: Program, cache: str
) -> None:
  sizes = ', '.join(f'{len(source):,} {name}' for name, source in dataset.splits.items())
  unit = kinds.of(dataset.spec).counted(dataset.spec)
  devices = jax.devices()
  kind = devices[0].device_kind if devices[0].platform != 'cpu' else f'cpu, {os.cpu_count()} cores'
  display.say(f'run        {path}')
  display.say(f'device     {len(devices)} x {kind}, layout {config.parallel}, {config.precision}')
  display.say(f'data       {dataset.name} {dataset.version}: {sizes} ({unit}), {data_identity.summary(dataset)}')
  for line in data_lines(config, path):
    display.say(line)
  trained = f', of which {program.trained_count():,} are trained' if program.trains else ''
  display.say(f'parameters {program.parameter_count():,}{trained}')
  for note in program.notes:
    display.say(f'note       {note}')
  if parent := info.read(path).parent:
    display.say(f'parent     {warm_start.summary(parent)}')
  tell_numerics(display, path)
  display.say(f'cache      {cache or "off"} (compiled programs; --compilation_cache)')


def tell_numerics(display: Display, path: Path) -> None:
  """Says what of the environment changes the numbers of the run at `path`, and where it is not what it began with."""
  here, there = surroundings.numerics(), surroundings.numerics(info.read(path).environment)
  if here:
    display.say(f'numbers    {here} (from the environment, and so on the record)')
  if here != there:
    display.say(f'numbers    differ from where the run began: {there or "nothing was set"} there')


def _footer(display: Display, trainer: trainer_lib.Trainer, lane: RunLogger) -> None:
  path = Path(lane.record.path)
  if lane.code == REQUEUE:
    display.say(f'stopped by {lane.message} at step {lane.step}; the run is saved. Continue it with')
    display.say(f'  {command_line.printed("launch.py", resume=path)}')
    return
  if lane.state_name == 'pruned':
    display.say(f'ended early {lane.message}')
  costs = trainer.costs()
  figures = '  '.join(f'{name} {number(value)}' for name, value in lane.last_eval.items())
  display.say(
    f'done       {lane.step:,} steps in {duration(costs["train_seconds"])} '
    f'({costs["examples_per_second"]:,.0f} examples/s): {figures}'
  )
  if lane.last_sample:
    display.say(f'samples    {lane.last_sample}')
  _next_steps(display, path)


def _next_steps(display: Display, path: Path) -> None:
  about = info.read(path)
  kind = kinds.get(about.data.spec['kind'])
  commands = []
  if any((path / 'samples').glob('step_*')):  # a classifier draws none
    out = {} if kind.printed else {'out': kind.sheet}
    commands.append(_task_command(path, about, out))
  commands.append(command_line.printed('gen_ai.evaluate', path, split='test'))
  commands.append(_another_seed(path, about))
  commands.append(command_line.printed('launch.py', '--list'))
  display.say('next')
  for text in filter(None, commands):
    display.say(f'  {text}')


def _task_command(path: Path, about: info.RunInfo, out: Mapping[str, str]) -> str:
  """The command of what the samples of the run show."""
  task = about.evaluation.task if about.evaluation is not None else ''
  if task in ('', GENERATE):
    return command_line.printed('gen_ai.sample', path, n=64, **out)
  return command_line.printed('gen_ai.generate', path, task=task, n=16, **out)


def _another_seed(path: Path, about: info.RunInfo) -> str:
  """The command of this very experiment with the next seed; '' where its config file is gone."""
  config, file = config_lib.from_json(directory.read_config(path)), about.config_file
  seed = config.run.seed + 1 if config.run.seed < config_lib.LARGEST_SEED else 0
  try:
    words = config_lib.as_flags(config_lib.override(config, {'run.seed': seed}), file.reference)
  except UserError:
    return ''
  if about.parent:
    words.append(f'--init_from={about.parent["run_dir"]}@{about.parent["step"]}')
  runs_dir = path.parent.parent if path.parent.name == config.run.name else Path('runs')
  return command_line.printed('launch.py', *words, *([] if runs_dir == Path('runs') else [f'--runs_dir={runs_dir}']))
