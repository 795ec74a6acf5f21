"""One run from a config or from its directory: what every way of launching ends in."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import distributed, engine, provenance, record, writers
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.errors import DONE, REQUEUE, UserError
from gen_ai.program import Program, make_layout
from gen_ai.progress import Display, duration, number
from gen_ai.stop import Stop


def use_cache(path: str) -> None:
  """Compiled programs are kept under `path` and found there by the next run; '' switches that off."""
  if not path:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  folder = Path(path).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'--compilation_cache={folder} cannot be written ({error.strerror}): name another folder, or '
                    "'' to do without.") from error  # fmt: skip
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


class SilentRecord:
  """The record of a process that writes none: any call does nothing."""

  def __init__(self, path: Path):
    self.path = path
    self.samples = path / 'samples'

  def __getattr__(self, name: str):
    return lambda *args, **kwargs: None


def resume_config(run_dir: str, given: ConfigDict | None) -> ConfigDict:
  """The config recorded in `run_dir`.

  Raises:
    UserError: `given`, the config on the command line, is another one; names the fields that differ.
  """
  record.RunDir.open(run_dir)
  recorded = config_lib.from_json(record.read_config(run_dir))
  if given is not None:
    fields = config_lib.difference(recorded, given)
    if fields:
      shown = ', '.join(f'config.{name} is {a!r} there and {b!r} here' for name, (a, b) in list(fields.items())[:3])
      more = f' and {len(fields) - 3} more' if len(fields) > 3 else ''
      raise UserError(f'{run_dir} holds a run of another config: {shown}{more}. Resume it as it is with '
                      f'`python launch.py --resume={run_dir}`, or leave --run_dir out to start a new run.')  # fmt: skip
  return recorded


def is_run(run_dir: str) -> bool:
  """Whether `run_dir` holds a run already."""
  return bool(run_dir) and (Path(run_dir) / 'config.json').is_file()


def work(config: ConfigDict, run_dir: str, runs_dir: str, origin: Mapping[str, Any]) -> int:
  """Trains the run of `config`, new or continued; returns the exit code.

  Nothing is written before config, data and program are known to be sound.

  Args:
    config: resolved; for a run that exists, the recorded one.
    run_dir: directory of the run; '' makes a new one under `runs_dir`.
    runs_dir: where new run directories go.
    origin: argv, config_file and overrides, for run.json; and cache, to be shown.

  Raises:
    UserError, Diverged: see `engine.train`.
  """
  config_lib.validate(config)
  writers.parse_names(config.run.writers)
  main = distributed.is_main()
  display = Display(config.run.steps, quiet=not main)
  if is_run(run_dir) and _finished(run_dir):
    display.say(f'{run_dir} is complete: its {config.run.steps:,} steps are done.')
    _next_steps(display, Path(run_dir))
    return DONE
  with Stop() as stop, contextlib.ExitStack() as stack:
    dataset = dataset_lib.load(config.data)
    program = Program(config, config_lib.experiment(config).build, dataset.spec, make_layout(config))
    path = Path(distributed.from_main(lambda: _directory(run_dir, runs_dir, config.run.name)))
    run = record.RunDir(path) if main else SilentRecord(path)

    def begin() -> str:
      stack.enter_context(run.lease())
      _describe(run, config, dataset, origin)
      _header(display, path, config, dataset, program, origin['cache'])
      return record.read_run(path)['data']['fingerprint']

    identity.check(dataset, distributed.from_main(begin), path)  # each process loads its own
    names, text = config.run.writers if main else '', record.dumps(config_lib.to_json(config))

    def mirrors(step: int) -> writers.Writers:
      return writers.open_writers(names, path, text, step)

    trainer = engine.Trainer(config, dataset, program, run, path / 'checkpoints', display, stop, mirrors)
    code = engine.train(trainer)
    if main:
      _footer(display, trainer, path, code)
  return code


def _finished(run_dir: str) -> bool:
  status = Path(run_dir) / 'status.json'
  return status.is_file() and record.read_status(run_dir)['state'] == 'done'


def _directory(run_dir: str, runs_dir: str, name: str) -> str:
  """The run's directory, made where it is new."""
  if is_run(run_dir):
    return run_dir
  return str((record.RunDir.make(run_dir, adopt=True) if run_dir else record.RunDir.create(runs_dir, name)).path)


def _describe(
  run: record.RunDir | SilentRecord, config: ConfigDict, dataset: dataset_lib.Dataset, origin: Mapping[str, Any]
) -> None:
  """config.json and run.json of a new run; a run that has them keeps them."""
  if is_run(str(run.path)):
    return
  about = provenance.collect(
    argv=origin['argv'], config_file=origin['config_file'], overrides=origin['overrides'],
    config=config_lib.to_json(config), devices=[str(d) for d in jax.devices()], data=identity.describe(dataset),
    run_dir=run.path,
  )  # fmt: skip
  (run.path / 'run.json').unlink(missing_ok=True)  # of a process that was killed before it wrote the config
  run.write_run(about)
  run.write_config(config_lib.to_json(config))  # last: it makes the directory a run


def _header(display: Display, path: Path, config: ConfigDict, dataset: dataset_lib.Dataset, program: Program,
            cache: str) -> None:  # fmt: skip
  sizes = ', '.join(f'{len(source):,} {name}' for name, source in dataset.splits.items())
  unit = 'images' if dataset.spec.kind == 'image' else f'blocks of {dataset.spec.shape[0]} tokens'
  devices = jax.devices()
  kind = devices[0].device_kind if devices[0].platform != 'cpu' else f'cpu, {os.cpu_count()} cores'
  display.say(f'run        {path}')
  display.say(f'device     {len(devices)} x {kind}, layout {config.parallel}, {config.precision}')
  display.say(f'data       {dataset.name} {dataset.version}: {sizes} ({unit}), sha256 {dataset.fingerprint[:12]}')
  display.say(f'parameters {program.parameter_count():,}')
  display.say(f'cache      {cache or "off"} (compiled programs; --compilation_cache)')


def _footer(display: Display, trainer: engine.Trainer, path: Path, code: int) -> None:
  if code == REQUEUE:
    display.say(f'stopped by {trainer.stop.requested} at step {trainer.step}; the run is saved. Continue it with')
    display.say(f'  python launch.py --resume={path}')
    return
  summary = trainer.summary()
  figures = '  '.join(f'{name} {number(value)}' for name, value in trainer.last_eval.items())
  display.say(f'done       {trainer.step:,} steps in {duration(summary["train_seconds"])} '
              f'({summary["examples_per_second"]:,.0f} examples/s): {figures}')  # fmt: skip
  if trainer.last_sample:
    display.say(f'samples    {trainer.last_sample}')
  _next_steps(display, path)


def _next_steps(display: Display, path: Path) -> None:
  run = record.read_run(path)
  image = identity.spec_from_json(run['data']['spec']).kind == 'image'
  display.say('next')
  display.say(f'  python -m gen_ai.sample {path} --n=64 {"--out=grid.png" if image else "--prompt=TEXT"}')
  display.say(f'  python -m gen_ai.evaluate {path} --split=test')
  file = run['config_file']
  argument = f':{file["argument"]}' if file['argument'] else ''
  display.say(f'  python launch.py --config={file["path"]}{argument} --config.run.seed=1')
  display.say('  python launch.py --list')
