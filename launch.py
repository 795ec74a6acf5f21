"""Train one run: python launch.py --config=configs/wgan.py [--config.optim.lr=3e-4 ...]."""

import sys

from absl import flags

from gen_ai import command
from gen_ai import config as config_lib
from gen_ai.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string('config', '', 'configs/NAME.py or configs/NAME.py:ARGUMENT; --config.section.field=VALUE overrides')
flags.DEFINE_string('runs_dir', 'runs', 'where new run directories go')
flags.DEFINE_string('run_dir', '', 'directory of this run: continued if it holds the same config, else made')
flags.DEFINE_string('resume', '', 'directory of the run to continue, with the config recorded there')
flags.DEFINE_string('compilation_cache', '~/.cache/gen_ai/xla', "where compiled programs are kept; '' for nowhere")
flags.DEFINE_bool('tiny', False, "apply the config's tiny() overrides: a whole run in seconds, to see that all works")
flags.DEFINE_bool('print_config', False, 'print the resolved config and stop')
flags.DEFINE_bool('list', False, 'list the configs and stop')
flags.DEFINE_string('coordinator', '', 'HOST:PORT of process 0, to run as several processes')
flags.DEFINE_integer('num_processes', -1, 'number of processes (with --coordinator)')
flags.DEFINE_integer('process_id', -1, 'number of this process, from 0 (with --coordinator)')


def list_configs() -> None:
  """Prints every config with the first line of its docstring."""
  files = sorted(p for p in (config_lib.SOURCE / 'configs').glob('*.py') if p.stem != '__init__')
  for file in files:
    doc = (config_lib.load_module(f'configs/{file.name}').__doc__ or '').strip().splitlines()
    print(f'configs/{file.name:24} {doc[0] if doc else ""}')


def resolve(overrides: dict[str, str]):
  """The config of the command line, or None where only --resume is given."""
  if not FLAGS.config:
    if overrides:
      raise UserError(f'--config.{next(iter(overrides))} overrides a config, but there is no --config=configs/NAME.py.')
    return None
  config = config_lib.load(FLAGS.config)
  if FLAGS.tiny:
    config = config_lib.override(config, config_lib.tiny(FLAGS.config))
  return config_lib.override(config, overrides)


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to config to run."""
  if arguments:
    raise UserError(f"'{arguments[0]}' is no flag: did you mean --config={arguments[0]}?")
  if FLAGS.list:
    list_configs()
    return 0
  config = resolve(overrides)
  run_dir = FLAGS.resume or FLAGS.run_dir
  if config is None and not run_dir:
    raise UserError(
      'Nothing to run: give --config=configs/NAME.py (`python launch.py --list` shows all) or --resume=DIR.'
    )
  if FLAGS.print_config:
    if config is None:
      raise UserError(
        '--print_config prints what --config=configs/NAME.py stands for; a run keeps its own in config.json.'
      )
    config_lib.validate(config)
    for path, value in config_lib.flatten(config).items():
      print(f'{path} = {value!r}')
    return 0
  from gen_ai import distributed, worker  # JAX: not for --help, --list and mistakes in the flags

  distributed.initialise(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
  worker.use_cache(FLAGS.compilation_cache)
  if FLAGS.resume or worker.is_run(run_dir):
    config = worker.resume_config(run_dir, config)
  elif config is None:
    raise UserError(f'{run_dir} holds no run yet: give --config=configs/NAME.py to start one there.')
  origin = {'argv': sys.argv, 'config_file': FLAGS.config, 'overrides': overrides, 'cache': FLAGS.compilation_cache}
  return worker.work(config, run_dir, FLAGS.runs_dir, origin)


if __name__ == '__main__':
  command.run(run)
