"""Train a run: python launch.py --config=configs/wgan.py [--config.optim.lr=3e-4 ...]; with --sweep=lr,seed a sweep."""

import os
import sys

from absl import flags
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core import command_line, places, surroundings
from gen_ai.core.errors import UserError
from gen_ai.core.installation import LAUNCH
from gen_ai.run import directory, info, older_runs, provenance
from gen_ai.sweep import command as sweep_command
from gen_ai.sweep.directory import is_sweep, owner
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.plan import Request
from gen_ai.train import plan_process

FLAGS = flags.FLAGS
flags.DEFINE_string(
  'config', '', 'NAME or configs/NAME.py, maybe with :ARGUMENT; --config.section.field=VALUE overrides'
)
flags.DEFINE_string('runs_dir', 'runs', 'where new run directories go')
flags.DEFINE_string('run_dir', '', 'directory of this run: continued if it holds the same config, else made')
flags.DEFINE_string(
  'resume',
  '',
  'directory of the run to continue, with the config recorded there, of which '
  '--config.run.steps=N may add steps and --config.data.name=NAME say where the data is',
)
flags.DEFINE_string('compilation_cache', places.COMPILED, "where compiled programs are kept; '' for nowhere")
flags.DEFINE_bool('tiny', False, "apply the config's tiny() overrides: a whole run in seconds, to see that all works")
flags.DEFINE_string(
  'init_from', '', 'begin from the weights of this run, RUN_DIR or RUN_DIR@STEP, where names and shapes agree'
)
flags.DEFINE_string('profile', '', 'STEP:COUNT: trace COUNT updates after update STEP, for Perfetto and TensorBoard')
flags.DEFINE_bool('print_config', False, 'print the resolved config and stop')
flags.DEFINE_bool(
  'plan', False, 'print memory, FLOPs, messages and the speed to hope for of the run, compiled for --devices, and stop'
)
flags.DEFINE_string(
  'accelerator', '', "--plan for this one: a100, b200, h100, h200, v5e, v6e; '': what is here, or h100"
)
flags.DEFINE_bool('list', False, 'list the configs and stop')
flags.DEFINE_list('sweep', [], 'names of sweep_<name>() in the config file; several are multiplied')
flags.DEFINE_multi_string('axis', [], 'FIELD=V1,V2 or FIELD=START:STOP; several are multiplied')
flags.DEFINE_integer('sample', 0, 'number of trials drawn from space() of the config file')
flags.DEFINE_integer('sample_seed', 0, 'seed of these draws')
flags.DEFINE_string(
  'launcher', 'auto', 'auto | packed (lanes of one program) | local | slurm | ray | print (the commands)'
)
flags.DEFINE_bool(
  'dry_run', False, "print the trials of the sweep, their packing and memory or Slurm's script, and stop"
)
flags.DEFINE_string('halving', '', 'early stopping of hopeless trials: METRIC:min,eta=3,first=STEPS')
flags.DEFINE_list(
  'devices', [], 'local launcher: accelerators to use, by number; --plan: how many, by default as there are'
)
flags.DEFINE_integer(
  'per_device',
  0,
  'local and slurm launchers: trials that share one device (a task of Slurm); 0: '
  'one an accelerator or task, one a core',
)
flags.DEFINE_integer('max_jobs', 0, 'slurm launcher: tasks that run at a time; 0: as many as Slurm lets')
flags.DEFINE_multi_string('sbatch', [], "slurm launcher: an option for sbatch, as in --sbatch='--time=60'")
flags.DEFINE_string('ray_address', '', "ray launcher: address of the cluster; '' starts a local one")
flags.DEFINE_string('status', '', 'directory of a sweep: show where its trials stand')
flags.DEFINE_string('stop', '', 'directory of a sweep: ask its trials to save and leave')
flags.DEFINE_list('trial', [], 'numbers of the trials to stop (with --stop); none: all')
flags.DEFINE_bool('retry_failed', False, 'with --resume=SWEEP: also go on with trials that failed')
flags.DEFINE_float('lease_wait', 0, 'seconds to wait while another process holds the run directory')
flags.DEFINE_string('coordinator', '', 'HOST:PORT of process 0, to run as several processes')
flags.DEFINE_integer('num_processes', -1, 'number of processes (with --coordinator)')
flags.DEFINE_integer('process_id', -1, 'number of this process, from 0 (with --coordinator)')
# As they were called in commands that were written down earlier.
flags.DEFINE_alias('engine', 'launcher')
flags.DEFINE_alias('point', 'trial')

# What reads a flag; one that is not named is always read. `Options` of the launchers says which launcher reads which.
RUN, RESUME, SWEEP, GO_ON = 'a run', 'the resume of a run', 'a sweep', 'the resume of a sweep'
PLAN = '--plan'
CONFIG, DRAWN, NEW = '--config=configs/NAME.py', '--sample=N', 'a new run without --run_dir'
READERS = {
  'list': ('--list',),
  'status': ('--status',),
  'stop': ('--stop',),
  'trial': ('--stop',),
  'plan': (PLAN,),
  'accelerator': (PLAN,),
  'config': (RUN, RESUME, SWEEP, PLAN),
  'tiny': (CONFIG,),
  'print_config': (RUN,),
  'runs_dir': (NEW, SWEEP),
  'run_dir': (RUN,),
  'resume': (RESUME, GO_ON),
  'sweep': (SWEEP,),
  'axis': (SWEEP,),
  'sample': (SWEEP,),
  'sample_seed': (DRAWN,),
  'halving': (SWEEP,),
  'dry_run': (SWEEP,),
  'launcher': (SWEEP, GO_ON),
  'devices': (SWEEP, GO_ON, PLAN),
  'per_device': (SWEEP, GO_ON),
  'max_jobs': (SWEEP, GO_ON),
  'sbatch': (SWEEP, GO_ON),
  'ray_address': (SWEEP, GO_ON),
  'retry_failed': (GO_ON,),
  'lease_wait': (RUN, RESUME),
  'coordinator': (RUN, RESUME),
  'num_processes': (RUN, RESUME),
  'process_id': (RUN, RESUME),
  'profile': (RUN, RESUME),
  'init_from': (RUN, SWEEP, PLAN),
}


def list_configs() -> None:
  """Prints every config with the first line of its docstring."""
  files = sorted(p for p in (config_lib.SOURCE / 'configs').glob('*.py') if p.stem != '__init__')
  for file in files:
    doc = (config_lib.load_module(f'configs/{file.name}').__doc__ or '').strip().splitlines()
    print(f'configs/{file.name:24} {doc[0] if doc else ""}')


def resolve(overrides: dict[str, str]):
  """The config of the command line, or None where only --resume is given."""
  if not FLAGS.config:
    if overrides and not FLAGS.resume:
      raise UserError(f'--config.{next(iter(overrides))} overrides a config, but there is no --config=configs/NAME.py.')
    return None
  config = config_lib.load(FLAGS.config)
  if FLAGS.tiny:
    config = config_lib.override(config, config_lib.tiny(FLAGS.config))
  if FLAGS.init_from:
    run_dir, _ = directory.split_step(FLAGS.init_from)
    directory.RunDir.open(run_dir)  # refuses what is no run
    config = config_lib.inherit(config, older_runs.read_config(run_dir)[0], run_dir)
  config = config_lib.override(config, overrides)
  if not _sweeps():  # of which every trial is asked by itself
    config_lib.validate(config)
    idle.refuse(config, overrides)
    if 'sweep.lanes' in overrides:
      raise UserError('config.sweep.lanes would do nothing: it is for sweeps of --launcher=packed. Leave it out.')
  return config


def _sweeps() -> bool:
  """Whether the command line asks for a new sweep."""
  return bool(FLAGS.sweep or FLAGS.axis or FLAGS.sample)


def _numbers(words: list[str]) -> list[int]:
  """--trial=1,2 as numbers."""
  wrong = [word for word in words if not word.isdigit()]
  if wrong:
    raise UserError(f'--trial={wrong[0]} is no number of a trial.')
  return [int(word) for word in words]


def use() -> str:
  """What the command line asks for, as `READERS` calls it; flags that go with nothing of it are refused."""
  command = next((f'--{name}' for name in ('list', 'status', 'stop', 'plan') if FLAGS[name].value), '')
  if not command and FLAGS.resume:
    command = GO_ON if is_sweep(FLAGS.resume) else RESUME
  elif not command:
    command = SWEEP if _sweeps() else RUN
  if command in (SWEEP, GO_ON):
    _alone()
  more = {CONFIG: FLAGS.config, DRAWN: FLAGS.sample, NEW: command == RUN and not FLAGS.run_dir}
  here = {
    RUN: f'{RUN} (--sweep=NAME, --axis=FIELD=V1,V2 or --sample=N makes a sweep)',
    GO_ON: f'{GO_ON}, which keeps what it was started with',
  }
  command_line.refuse_idle(
    READERS, [command, *(word for word, holds in more.items() if holds)], here.get(command, command)
  )
  return command


def _alone() -> None:
  """Raises UserError where several processes would launch one sweep each."""
  if FLAGS.coordinator or int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1:
    raise UserError(
      'A sweep is launched by one process: leave --coordinator and srun out, and for runs of several '
      "processes each use --launcher=slurm --sbatch='--ntasks=N'."
    )


def _options() -> Options:
  return Options(
    FLAGS.compilation_cache,
    tuple(FLAGS.devices),
    FLAGS.per_device,
    FLAGS.max_jobs,
    tuple(FLAGS.sbatch),
    FLAGS.ray_address,
  )


def sweep(config: ConfigDict | None, overrides: dict[str, str]) -> int:
  """Flags to trials to a launcher."""
  if config is None:
    raise UserError('A sweep needs --config=configs/NAME.py, whose trials it runs.')
  request = Request(
    FLAGS.config,
    config,
    overrides,
    FLAGS.sweep,
    FLAGS.axis,
    FLAGS.sample,
    FLAGS.sample_seed,
    FLAGS.halving,
    FLAGS.launcher,
    FLAGS.runs_dir,
    FLAGS.init_from,
  )
  return sweep_command.start(request, _options(), FLAGS.dry_run)


def plan(config: ConfigDict | None) -> int:
  """Flags to a plan of a run."""
  if config is None:
    raise UserError('--plan needs --config=configs/NAME.py, whose run it plans.')
  words = FLAGS.devices
  if len(words) > 1 or not all(word.isdigit() for word in words):
    raise UserError(f'--devices={",".join(words)} must be one number with --plan: how many devices there will be.')
  devices = int(words[0]) if words else None
  return plan_process.run(config, FLAGS.config, sys.argv, devices, FLAGS.accelerator)


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to config to run."""
  if arguments:
    raise UserError(f"'{arguments[0]}' is no flag: did you mean --config={arguments[0]}?")
  command = use()
  if overrides and command not in (RUN, RESUME, SWEEP, GO_ON, PLAN):
    raise UserError(f'{command} starts no run: leave --config.{next(iter(overrides))} out.')
  if command == '--list':
    list_configs()
    return 0
  if command == '--status':
    return sweep_command.show(FLAGS.status)
  if command == '--stop':
    return sweep_command.stop(FLAGS.stop, _numbers(FLAGS.trial))
  if command == GO_ON:
    return sweep_command.resume(FLAGS.resume, FLAGS.launcher, FLAGS.retry_failed, _options(), overrides)
  config = resolve(overrides)
  if command == SWEEP:
    return sweep(config, overrides)
  if command == PLAN:
    return plan(config)
  run_dir = FLAGS.resume or FLAGS.run_dir
  if config is None and not run_dir:
    raise UserError(f'Nothing to run: give --config=configs/NAME.py (`{LAUNCH} --list` shows all) or --resume=DIR.')
  if FLAGS.print_config:
    if config is None:
      raise UserError(
        '--print_config prints what --config=configs/NAME.py stands for; a run keeps its own in config.json.'
      )
    config_lib.validate(config)
    for path, value in config_lib.flatten(config).items():
      print(f'{path} = {value!r}')
    return 0
  surroundings.load()
  from gen_ai.parallel import compilation_cache, processes
  from gen_ai.sweep.pruning import pruner
  from gen_ai.train import open_run  # JAX: not for --help, --list and mistakes in the flags

  processes.initialise(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
  cache = compilation_cache.use_cache(FLAGS.compilation_cache)
  trial = owner(run_dir) if run_dir else None
  if FLAGS.resume or directory.is_run(run_dir):
    config = open_run.resume_config(run_dir, config, {} if FLAGS.config else overrides, trial[0].path if trial else '')
  elif config is None and trial:
    config = trial[1].config
  elif config is None:
    raise UserError(f'{run_dir} holds no run yet: give --config=configs/NAME.py to start one there.')
  file = provenance.describe_file(FLAGS.config) if FLAGS.config else info.ConfigFile()
  if trial:
    file, overrides = trial[0].config_file, trial[0].about['asked']['overrides'] | trial[1].overrides
  parent = trial[0].parent if trial else open_run.parent_of(FLAGS.init_from)
  origin = info.Origin(sys.argv, file, overrides, cache, parent)
  files = trial[0].stop_files(trial[1]) if trial else []
  if FLAGS.resume:  # by hand: a stop that was asked of the sweep before does not hold for this
    files = [file for file in files if not file.exists()]
  by_hand = bool(FLAGS.resume)
  number, prune = trial[1].number if trial else 0, pruner(trial[0]) if trial and not by_hand else None
  return open_run.work(
    config, run_dir, FLAGS.runs_dir, origin, number, prune, FLAGS.lease_wait, files, by_hand, profile=FLAGS.profile
  )


if __name__ == '__main__':
  command_line.run(run)
