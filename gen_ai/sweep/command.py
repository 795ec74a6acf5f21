"""What launch.py does with a sweep: starts it, shows it, goes on with it, stops it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gen_ai.core import command_line, surroundings, terminal
from gen_ai.core.errors import DONE, UserError
from gen_ai.run import provenance
from gen_ai.sweep import board
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.launchers.registry import LAUNCHERS
from gen_ai.sweep.plan import Request, check, choose, plan
from gen_ai.sweep.trials import Trial


def start(request: Request, options: Options, dry_run: bool) -> int:
  """Plans a sweep and runs it, or with `dry_run` prints what it would do. Returns the exit code."""
  trials = plan(request)
  name = choose(request.launcher, trials)
  launcher = LAUNCHERS[name]
  options.refuse_idle(name)
  if 'sweep.lanes' in request.overrides and name != 'packed':
    raise UserError(
      f'config.sweep.lanes would do nothing: it is for --launcher=packed, and this sweep runs with '
      f'--launcher={name}. Leave it out.'
    )
  launcher.check(options, dry_run)
  parent = check(trials, request.halving, launcher.in_process, request.init_from)
  about = {
    'argv': sys.argv,
    'launcher': name,
    'halving': request.halving,
    'parent': parent,
    'config_file': asdict(provenance.describe_file(request.reference)),
    'asked': {
      'sweeps': list(request.sweeps),
      'axes': list(request.axes),
      'sample': request.sample,
      'sample_seed': request.sample_seed,
      'overrides': dict(request.overrides),
    },
  }
  swept = [text.partition('=')[0].rpartition('.')[2] for text in request.axes]
  label = '_'.join([*request.sweeps, *swept, *([f'sample{request.sample}'] if request.sample else [])])
  if dry_run:
    planned = Sweep.planned(request.runs_dir, label, request.base, trials, about)
    board.dry_run(planned, name, launcher.describe(planned, options))
    return DONE
  sweep = Sweep.create(request.runs_dir, label, request.base, trials, about)
  try:
    with sweep.lease():
      return _run(sweep, sweep.trials, launcher, options)
  except BaseException:
    if not sweep.started():  # else `ls` would find it as the newest one
      sweep.discard()
    raise


def resume(path: str, launcher: str, retry_failed: bool, options: Options, overrides: Mapping[str, str]) -> int:
  """Goes on with what is unfinished of the sweep at `path`, by its own launcher unless told. Returns the exit code.

  `overrides` may say where its data lies now.
  """
  sweep = Sweep.open(path)
  name = choose(launcher if launcher != 'auto' else sweep.launcher, sweep.trials)
  options.refuse_idle(name)
  if overrides:
    surroundings.load()
    from gen_ai.sweep.move import check_move, move_sweep  # JAX

    check_move(sweep, overrides)
  with sweep.lease():  # before the requests are withdrawn: they may be meant for a launcher that still works
    if overrides:
      move_sweep(sweep, overrides)
      sweep = Sweep.open(path)
    sweep.clear_stop()
    # With the lease ours, workers that still run have lost their launcher.
    trials = sweep.unfinished(retry_failed, running=LAUNCHERS[name].takes_workers_along)
    return _run(sweep, trials, LAUNCHERS[name], options)


def _run(sweep: Sweep, trials: Sequence[Trial], launcher: Launcher, options: Options) -> int:
  if not launcher.speaks:
    launcher.launch(sweep, trials, options)
    return DONE
  if trials:
    terminal.outlive(sweep.path / 'logs')
  print(f'sweep      {sweep.path}', flush=True)
  if not trials:
    print('no trial is left to start', flush=True)
    return board.show(sweep)
  launcher.launch(sweep, trials, options)
  return board.show(sweep) if launcher.waits else DONE


def show(path: str) -> int:
  """Prints where the trials of the sweep at `path` stand."""
  board.show(Sweep.open(path))
  return 0


def stop(path: str, numbers: Sequence[int]) -> int:
  """Asks trials of the sweep at `path`, or all, to save and leave."""
  sweep = Sweep.open(path)
  known = {trial.number for trial in sweep.trials}
  unknown = sorted(set(numbers) - known)
  if unknown:
    raise UserError(
      f'{path} has no trial {unknown[0]}: its trials are 0 to {max(known)}, as '
      f'`{command_line.printed("launch.py", status=path)}` shows.'
    )
  sweep.request_stop(numbers)
  LAUNCHERS[sweep.launcher].cancel(sweep, numbers)
  which = f'trial(s) {", ".join(map(str, numbers))}' if numbers else 'all trials'
  print(f'asked {which} of {path} to save and leave; `{command_line.printed("launch.py", resume=path)}` goes on.')
  return 0
