"""One run from a config or from its directory: what every way of launching ends in."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gen_ai import (
  command,
  distributed,
  engine,
  halving,
  older_runs,
  places,
  provenance,
  record,
  samples,
  spread,
  surroundings,
  terminal,
  writers,
)
from gen_ai import config as config_lib
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.errors import DONE, REQUEUE, UserError
from gen_ai.lane import Lane
from gen_ai.layouts import make_layout
from gen_ai.program import Program
from gen_ai.progress import Display, duration, number
from gen_ai.resume import changed, load_data, record_changes
from gen_ai.stop import Stop
from gen_ai.sweep import Point, Sweep


def use_cache(path: str) -> str:
  """Compiled programs are kept under `path` and found there by the next run; '' switches that off.

  The default goes elsewhere, or nowhere, where it cannot be written (`places.default`); returns what is used.

  Raises:
    UserError: a folder that was asked for by name cannot be written.
  """
  folder = places.default(path) if path == places.COMPILED else places.expand(path, '--compilation_cache')
  if not path or folder is None:
    jax.config.update('jax_enable_compilation_cache', False)
    return ''
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'--compilation_cache={folder} cannot be written ({error.strerror}): name another folder, or '
                    "'' to do without.") from error  # fmt: skip
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  return str(folder)


class SilentRecord:
  """The record of a process that writes none: any call does nothing."""

  def __init__(self, path: Path):
    self.path = path
    self.samples = path / 'samples'

  def __getattr__(self, name: str):
    return lambda *args, **kwargs: None


def resume_config(run_dir: str, given: ConfigDict | None, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
  """The config to go on with: the one recorded in `run_dir`, with `overrides` that a run that goes on may have.

  Raises:
    UserError: `given`, the config on the command line, is another one; names the fields that differ. Or `overrides`
      would make another run.
  """
  record.RunDir.open(run_dir)
  config, added = older_runs.read_config(run_dir)
  if added and distributed.is_main():
    print(f'note: {older_runs.note(run_dir, added)}', file=sys.stderr)
  if given is not None:
    fields = config_lib.difference(config, given)
    if fields:
      shown = ', '.join(f'config.{name} is {a!r} there and {b!r} here' for name, (a, b) in list(fields.items())[:3])
      more = f' and {len(fields) - 3} more' if len(fields) > 3 else ''
      way = command.printed('launch.py', resume=run_dir)
      raise UserError(f'{run_dir} holds a run of another config: {shown}{more}. Resume it as it is with `{way}`, or '
                      'leave --run_dir out to start a new run.')  # fmt: skip
  return changed(run_dir, config, overrides or {})


def is_run(run_dir: str) -> bool:
  """Whether `run_dir` holds a run already."""
  return bool(run_dir) and (Path(run_dir) / 'config.json').is_file()


def work(config: ConfigDict, run_dir: str, runs_dir: str, origin: Mapping[str, Any],
         point: tuple[Sweep, Point] | None = None, lease_wait: float = 0.0,
         stop_files: Sequence[Path] = (), by_hand: bool = False, limit: int = 0) -> int:  # fmt: skip
  """Trains the run of `config`, new or continued; returns the exit code.

  Nothing is written before config, data and program are known to be sound.

  Args:
    config: resolved; for a run that exists, that of `resume_config`.
    run_dir: directory of the run; '' makes a new one under `runs_dir`.
    runs_dir: where new run directories go.
    origin: argv, config_file (described) and overrides, for run.json; and cache, to be shown.
    point: the sweep and the point of it that this run is, if it is one.
    lease_wait: seconds to wait while another process holds the run directory.
    by_hand: a person goes on with this very run: neither an earlier end nor the sweep's rule stops it.
    stop_files: files whose existence asks this run to stop.
    limit: updates after which it stops as on a signal, its schedules being those of the whole run; 0: no such.

  Raises:
    UserError, Diverged: see `engine.train`.
  """
  surroundings.start()
  config_lib.validate(config)
  writers.parse_names(config.run.writers)
  main = distributed.is_main()
  display = Display(config.run.steps, quiet=not main)
  known = is_run(run_dir) and (Path(run_dir) / 'status.json').is_file()
  status = record.read_status(run_dir) if known else {'state': '', 'step': 0}
  state = status['state']
  if (state == 'done' and status['step'] >= config.run.steps) or (state == 'pruned' and not by_hand):
    steps = f'its {config.run.steps:,} steps are done' if state == 'done' else 'early stopping ended it'
    display.say(f'{run_dir} is complete: {steps}.')
    _next_steps(display, Path(run_dir))
    return DONE
  with Stop(stop_files) as stop, contextlib.ExitStack() as stack:
    dataset = load_data(run_dir, config) if is_run(run_dir) else dataset_lib.load(config.data)
    program = Program(config, config_lib.experiment(config).build, dataset.spec, make_layout(config))
    judging, judge = judged(config, dataset)
    path = Path(distributed.from_main(lambda: _directory(run_dir, runs_dir, config.run.name)))
    terminal.outlive(path / 'logs')
    run = record.RunDir(path) if main else SilentRecord(path)

    def begin() -> str:
      stack.enter_context(run.lease(wait=lease_wait))
      if isinstance(run, record.RunDir) and is_run(run_dir):
        for name, (before, now) in record_changes(run, config, dataset).items():
          display.say(f'changed    config.{name}: {before!r} before, {now!r} from now on')
      describe(run, config, dataset, program, origin, judging)
      _header(display, path, config, dataset, program, origin['cache'])
      return record.read_run(path)['data']['fingerprint']

    identity.check(dataset, distributed.from_main(begin), path)  # each process loads its own
    lane = Lane(config, run, path / 'checkpoints', mirrors(config, path, main), number=point[1].number if point else 0)
    prune = pruner(point[0]) if point and not by_hand else None
    trainer = engine.Trainer([lane], dataset, program, display, stop, prune=prune, limit=limit, judge=judge)
    code = engine.train(trainer)
    if main:
      _footer(display, trainer, lane)
  return code


def judged(config: ConfigDict, dataset: dataset_lib.Dataset
           ) -> tuple[dict[str, Any], Callable[[Program], engine.Judge] | None]:  # fmt: skip
  """(what the protocol of config.eval.metrics adds to run.json, what makes their judge); ({}, None) without any.

  Raises:
    UserError: they cannot be measured so.
  """
  if not config.eval.metrics:
    return {}, None
  from gen_ai import judge  # brings SciPy, which training does without

  protocol = judge.training_protocol(config, dataset)
  assert protocol is not None
  return judge.describe(protocol), lambda program: judge.Judge(program, config, dataset, protocol)


def mirrors(config: ConfigDict, path: Path, main: bool = True) -> Callable[[int], writers.Writers]:
  """Opens the mirrors of the record at `path` that `config` names, given the step from which it goes on."""
  names, text = config.run.writers if main else '', record.dumps(config_lib.to_json(config))
  return lambda step: writers.open_writers(names, path, text, step)


def pruner(sweep: Sweep) -> engine.Prune | None:
  """Early stopping by the sweep's rule; None without one."""
  if not sweep.about['halving']:
    return None
  rule = halving.parse(sweep.about['halving'])

  def prune(lanes: Sequence[Lane], step: int) -> dict[int, str]:
    if step not in halving.rungs(rule, lanes[0].config.run.steps, lanes[0].config.run.eval_every):
      return {}
    numbers = [lane.number for lane in lanes]  # one process decides, for all of a run

    def decide() -> str:
      return json.dumps(sorted(set(numbers) - halving.decide(sweep.path, rule, step, numbers)))

    stopped = json.loads(distributed.from_main(decide))
    why = f'by {rule} at step {step}: see {sweep.path / halving.FILE}'
    return dict.fromkeys(stopped, why)

  return prune


def _directory(run_dir: str, runs_dir: str, name: str) -> str:
  """The run's directory, made where it is new."""
  if is_run(run_dir):
    return run_dir
  return str((record.RunDir.make(run_dir, adopt=True) if run_dir else record.RunDir.create(runs_dir, name)).path)


def describe(run: record.RunDir | SilentRecord, config: ConfigDict, dataset: dataset_lib.Dataset, program: Program,
             origin: Mapping[str, Any], judging: Mapping[str, Any], lanes: int = 1) -> None:  # fmt: skip
  """config.json and run.json of a new run, one of `lanes` in its program; a run that has them keeps them."""
  if is_run(str(run.path)):
    return
  about = provenance.collect(
    argv=origin['argv'], config_file=origin['config_file'], overrides=origin['overrides'],
    config=config_lib.to_json(config), data=identity.describe(dataset), run_dir=run.path,
    devices=[str(device) if device.platform == 'cpu' else device.device_kind for device in jax.devices()],
  )  # fmt: skip
  (run.path / 'run.json').unlink(missing_ok=True)  # of a process that was killed before it wrote the config
  run.write_run({
    **about, 'evaluation': _protocol(config, dataset, program, judging),
    'examples_per_step': program.batch_size, 'parameters': program.parameter_count(), 'lanes': lanes,
    'leading': [f'{name}:{mode}' for name, mode in program.leading.items()],
  })  # fmt: skip
  run.write_config(config_lib.to_json(config))  # last: it makes the directory a run


def data_spread(dataset: dataset_lib.Dataset, program: Program) -> float | None:
  """The spread of the training images, which that of samples is read beside; None where samples have none."""
  return spread.of_source(dataset.splits['train']) if program.draws and dataset.spec.kind == 'image' else None


def spread_line(config: ConfigDict, path: Path) -> str:
  """What the header of the run at `path` says of the spread of its data; '' where that is not on its record."""
  found = record.read_run(path).get('evaluation', {}).get('data_spread')  # older runs lack both
  n = config.sample.n
  return '' if found is None else f'spread     {found:.3f} in the training images; evaluations tell that of {n} samples'


def _protocol(config: ConfigDict, dataset: dataset_lib.Dataset, program: Program, judging: Mapping[str, Any]
              ) -> dict[str, Any]:  # fmt: skip
  """What the evaluations in metrics.jsonl rest on: figures of unlike protocols must not be compared."""
  found = data_spread(dataset, program)
  return {
    'split': 'validation', 'examples': len(dataset.splits['validation']), 'split_rule': dataset.split_rule,
    'data': dataset.fingerprint, 'averaged': config_lib.averages(config), 'seed': config.eval.seed,
    'measure': program.measure, 'extractor': judging.get('extractor', ''), 'samples': judging.get('samples', 0),
  } | ({} if found is None else {'data_spread': found})  # fmt: skip


def _header(display: Display, path: Path, config: ConfigDict, dataset: dataset_lib.Dataset, program: Program,
            cache: str) -> None:  # fmt: skip
  sizes = ', '.join(f'{len(source):,} {name}' for name, source in dataset.splits.items())
  unit = 'images' if dataset.spec.kind == 'image' else f'blocks of {dataset.spec.shape[0]} tokens'
  devices = jax.devices()
  kind = devices[0].device_kind if devices[0].platform != 'cpu' else f'cpu, {os.cpu_count()} cores'
  display.say(f'run        {path}')
  display.say(f'device     {len(devices)} x {kind}, layout {config.parallel}, {config.precision}')
  display.say(f'data       {dataset.name} {dataset.version}: {sizes} ({unit}), {identity.told(dataset)}')
  if line := spread_line(config, path):
    display.say(line)
  display.say(f'parameters {program.parameter_count():,}')
  if note := samples.prompt_note(config, dataset.spec):
    display.say(f'prompt     {note}')
  tell_numerics(display, path)
  display.say(f'cache      {cache or "off"} (compiled programs; --compilation_cache)')


def tell_numerics(display: Display, path: Path) -> None:
  """Says what of the environment changes the numbers of the run at `path`, and where it is not what it began with."""
  here, there = surroundings.numerics(), surroundings.numerics(record.read_run(path).get('environment', {}))
  if here:
    display.say(f'numbers    {here} (from the environment, and so on the record)')
  if here != there:
    display.say(f'numbers    differ from where the run began: {there or "nothing was set"} there')


def _footer(display: Display, trainer: engine.Trainer, lane: Lane) -> None:
  path = Path(lane.record.path)
  if lane.code == REQUEUE:
    display.say(f'stopped by {lane.message} at step {lane.step}; the run is saved. Continue it with')
    display.say(f'  {command.printed("launch.py", resume=path)}')
    return
  if lane.state_name == 'pruned':
    display.say(f'ended early {lane.message}')
  costs = trainer.costs()
  figures = '  '.join(f'{name} {number(value)}' for name, value in lane.last_eval.items())
  display.say(f'done       {lane.step:,} steps in {duration(costs["train_seconds"])} '
              f'({costs["examples_per_second"]:,.0f} examples/s): {figures}')  # fmt: skip
  if lane.last_sample:
    display.say(f'samples    {lane.last_sample}')
  _next_steps(display, path)


def _next_steps(display: Display, path: Path) -> None:
  run = record.read_run(path)
  image = identity.spec_from_json(run['data']['spec']).kind == 'image'
  commands = []
  if any((path / 'samples').glob('step_*')):  # a classifier draws none
    commands.append(command.printed('gen_ai.sample', path, n=64, **({'out': 'grid.png'} if image else {})))
  if any((path / 'samples').glob('completions_*')):
    commands.append(command.printed('gen_ai.complete', path, mask='half', out='completed.png'))
  commands.append(command.printed('gen_ai.evaluate', path, split='test'))
  commands.append(_another_seed(path, run))
  commands.append(command.printed('launch.py', '--list'))
  display.say('next')
  for text in filter(None, commands):
    display.say(f'  {text}')


def _another_seed(path: Path, run: Mapping[str, Any]) -> str:
  """The command of this very experiment with the next seed; '' where its config file is gone."""
  config, file = config_lib.from_json(record.read_config(path)), run['config_file']
  seed = config.run.seed + 1 if config.run.seed < config_lib.LARGEST_SEED else 0
  try:
    words = config_lib.as_flags(config_lib.override(config, {'run.seed': seed}), _reference(file))
  except UserError:
    return ''
  runs_dir = path.parent.parent if path.parent.name == config.run.name else Path('runs')
  return command.printed('launch.py', *words, *([] if runs_dir == Path('runs') else [f'--runs_dir={runs_dir}']))


def _reference(file: Mapping[str, str]) -> str:
  return f'{file["path"]}:{file["argument"]}' if file['argument'] else file['path']
