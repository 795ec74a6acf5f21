"""launch.py as a user meets it: what it prints, what it continues, how it stops."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import cli
import tiny

from gen_ai import config as config_lib
from gen_ai.core import text
from gen_ai.core.errors import DONE, REQUEUE
from gen_ai.run import directory, provenance
from gen_ai.train import open_run
from gen_ai.train.interruption import Stop

GAN = '--config=configs/gan.py'


def test_list_names_every_config_with_its_claim():
  done = cli.launch('--list')
  assert done.returncode == DONE
  lines = done.stdout.splitlines()
  assert [line.split()[0] for line in lines] == [f'configs/{name}.py' for name in tiny.CONFIGS]
  for name, line in zip(tiny.CONFIGS, lines, strict=True):
    assert line.endswith(config_lib.load_module(f'configs/{name}.py').__doc__.splitlines()[0])


def test_help_shows_the_flags_at_once():
  started = time.monotonic()
  done = tiny.command('launch.py', '--help')
  assert time.monotonic() - started < 5
  assert done.returncode == 1  # absl's way
  for flag in (
    'config',
    'run_dir',
    'resume',
    'runs_dir',
    '[no]tiny',
    '[no]print_config',
    '[no]list',
    'coordinator',
    'compilation_cache',
    'num_processes',
    'process_id',
    'config.section.field=VALUE',
  ):
    assert f'--{flag}' in done.stdout


def printed(done):
  """{'section.field': value text} of --print_config."""
  assert done.returncode == DONE, done.stderr
  return dict(line.split(' = ', 1) for line in done.stdout.splitlines())


def test_print_config_is_what_a_run_records(tmp_path):
  words = [
    '--config=configs/vae.py',
    '--tiny',
    '--config.optim.lr=3e-4',
    '--config.run.trackers=',
    '--config.model.network=mlp',
    '--config.model.widths=(8,4)',
  ]
  config = config_lib.override(tiny.config('vae'), {'optim.lr': 3e-4, 'model.network': 'mlp', 'model.widths': (8, 4)})
  shown = printed(cli.launch(*words, '--print_config', f'--runs_dir={tmp_path}/runs'))
  assert shown == {path: repr(value) for path, value in config_lib.flatten(config).items()}
  assert not list(tmp_path.iterdir())
  # Both ways of writing an override, and the last one wins.
  again = cli.launch(*words, '--config.optim.lr', '5e-4', '-config.run.seed=3', '--print_config')
  assert (printed(again)['optim.lr'], printed(again)['run.seed']) == ('0.0005', '3')


def test_a_run_from_its_first_line_to_its_last_and_what_follows(tmp_path):
  words = [GAN, '--tiny', '--config.optim.lr=3e-4']
  done = cli.launch(*words, f'--runs_dir={tmp_path}/runs')
  assert done.returncode == DONE, done.stderr
  [path] = (tmp_path / 'runs' / 'gan').iterdir()
  assert re.fullmatch(r'\d{8}-\d{6}-[0-9a-f]{4}', path.name)
  lines = done.stdout.splitlines()
  assert lines[0].split() == ['run', str(path)]
  assert re.search(r'^device +8 x cpu, \d+ cores, layout jit, fp32$', done.stdout, re.MULTILINE)
  assert re.search(r'^data +mnist_5k 1.0.0: 800 train, 100 validation, 100 test', done.stdout, re.MULTILINE)
  assert re.search(r'^estimated +\d+s for 8 steps', done.stdout, re.MULTILINE)
  assert re.search(r'^step 8/8  loss_d .*examples/s  0s left$', done.stdout, re.MULTILINE)
  assert '\x1b' not in done.stdout, 'plain lines where there is no terminal'
  assert f'samples    {path}/samples/step_00000008.png' in lines
  assert f'  python -m gen_ai.sample {path} --n=64 --out=grid.png' in lines
  assert f'  python -m gen_ai.evaluate {path} --split=test' in lines
  again = '--config=configs/gan.py --tiny --config.optim.lr=0.0003 --config.run.seed=1'
  assert f'  python launch.py {again} --runs_dir={tmp_path}/runs' in lines
  assert (path / 'samples' / 'step_00000008.png').is_file()

  # The record.
  recorded = config_lib.from_json(directory.read_config(path))
  shown = printed(cli.launch(*words, '--print_config'))
  assert shown == {field: repr(value) for field, value in config_lib.flatten(recorded).items()}
  about = directory.read_run(path)
  assert about['overrides'] == {'optim.lr': '3e-4'}
  assert about['config_file']['path'] == 'configs/gan.py'
  assert directory.read_status(path)['state'] == 'done'
  summary = directory.read_summary(path)
  assert summary['step'] == 8
  assert f'parameters {summary["parameters"]:,}' in lines
  assert list((path / 'tb').iterdir())

  # It is complete: to go on with it is no mistake and changes nothing.
  before = {file: file.stat().st_mtime_ns for file in cli.files(path)}
  for more in ([f'--resume={path}'], [*words, f'--run_dir={path}'], [*words, f'--resume={path}']):
    again = cli.launch(*more)
    assert again.returncode == DONE
    assert f'{path} is complete: its 8 steps are done.' in again.stdout
  assert {file: file.stat().st_mtime_ns for file in cli.files(path)} == before


class StopAt:
  """A Stop that is asked twice before it says yes, as a signal at that moment would."""

  waited_for = []

  def __init__(self, files=()):
    self.left = 2

  @property
  def requested(self):
    self.waited_for.append(self.waits_for)
    self.left -= 1
    return 'SIGTERM' if self.left < 0 else ''

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    pass


def test_run_dir_makes_a_run_and_continues_it(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'run'
  words = [GAN, '--tiny', '--config.run.trackers=', f'--run_dir={path}']
  with monkeypatch.context() as patch:
    patch.setattr(open_run, 'Stop', StopAt)
    done = cli.launch(*words)
  assert done.returncode == REQUEUE, done.stderr
  assert [text for text, _ in StopAt.waited_for[:3]] == [
    'after the compilation',
    'after this chunk of 2 updates',
    'after the evaluation, samples, checkpoint',
  ]
  lines = done.stdout.splitlines()
  assert lines[-2:] == [
    'stopped by SIGTERM at step 4; the run is saved. Continue it with',
    f'  python launch.py --resume={path}',
  ]
  done = cli.launch(*words)
  assert done.returncode == DONE, done.stderr
  assert [row['step'] for row in directory.read_metrics(path) if row['kind'] == 'train'] == [2, 4, 6, 8]
  assert [(row['event'], row['step']) for row in directory.read_attempts(path)] == [
    ('start', 0),
    ('end', 4),
    ('start', 4),
    ('end', 8),
  ]
  assert directory.read_attempts(path)[2]['environment'] == provenance.environment()
  assert 'step 2/8' not in done.stdout


LONG = [
  '--tiny',
  '--config.run.steps=200000',
  '--config.run.trackers=',
  '--config.run.eval_every=0',
  '--config.run.sample_every=0',
  '--config.run.save_every=0',
]


def on_a_terminal(*words, **variables):
  """launch.py WORDS in a process with a pseudo-terminal; returns (process, file descriptor of the terminal)."""
  ours, theirs = pty.openpty()
  command = [sys.executable, 'launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words]
  environment = {**os.environ, 'XLA_FLAGS': '', 'TERM': 'xterm', 'COLUMNS': '160', **variables}
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the child inherits it; the suite itself may run under nohup
  try:
    process = subprocess.Popen(
      command, cwd=tiny.ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
  finally:
    signal.signal(signal.SIGHUP, before)
  os.close(theirs)
  return process, ours


def read_until(descriptor, pattern='', seconds=120):
  """Text from the terminal until `pattern` appears, or until its end."""
  text, deadline = '', time.monotonic() + seconds
  while not pattern or not re.search(pattern, text):
    assert time.monotonic() < deadline, text
    try:
      part = os.read(descriptor, 4096)
    except OSError:  # Linux: the other side is closed
      part = b''
    text += part.decode(errors='replace')
    if not part:
      assert not pattern, text
      break
  return text


def test_a_bar_on_a_terminal_ctrl_c_saves_and_the_command_it_prints_resumes(tmp_path):
  path = tmp_path / 'run'
  process, terminal = on_a_terminal(GAN, *LONG, f'--run_dir={path}')
  text = read_until(terminal, r'examples/s.*left')
  assert re.search(r'training.*━.*/200000', text), 'a progress bar'
  assert '\x1b[' in text
  process.send_signal(signal.SIGINT)
  text += read_until(terminal)
  assert process.wait(timeout=60) == REQUEUE
  os.close(terminal)
  assert 'Traceback' not in text
  assert re.search(
    r'stopping after this chunk of \d+ updates, about \d+ s; press again to leave without saving\r\n', text
  )
  status = directory.read_status(path)
  step = status['step']
  assert (status['state'], status['message']) == ('stopped', 'SIGINT')
  assert f'stopped by SIGINT at step {step}; the run is saved' in text
  resume = re.search(r'python (launch\.py --resume=\S+)', text)[1].split()
  assert resume == ['launch.py', f'--resume={path}']

  # That command goes on where it stopped; a second Ctrl-C kills, and the saved step stands.
  process, terminal = on_a_terminal(*resume[1:])
  text = read_until(terminal, r'examples/s.*left')
  process.send_signal(signal.SIGSTOP)
  process.send_signal(signal.SIGINT)
  process.send_signal(signal.SIGCONT)
  deadline = time.monotonic() + 60
  while process.poll() is None and time.monotonic() < deadline:
    process.send_signal(signal.SIGINT)
    time.sleep(0.001)
  os.close(terminal)
  assert process.wait(timeout=60) in (128 + signal.SIGINT, REQUEUE)
  attempts = [row for row in directory.read_attempts(path) if row['event'] == 'start']
  assert [row['step'] for row in attempts] == [0, step]


def test_ctrl_c_before_training_is_no_traceback(tmp_path):
  code = 'import sys; sys.argv = ["launch.py"]; from gen_ai.core import command_line; command_line.run(main)'
  main = 'import os, signal\ndef main(arguments, overrides): os.kill(os.getpid(), signal.SIGINT); return 0\n'
  done = tiny.command('-c', main + code)
  assert done.returncode == 128 + signal.SIGINT
  assert done.stderr == 'interrupted\n'


def test_a_second_interrupt_kills_at_once():
  code = (
    'import hashlib, os, signal, threading, time\nfrom gen_ai.train.interruption import Stop\n'
    'signal.signal(signal.SIGHUP, signal.SIG_DFL)\nwith Stop() as stop:\n'  # the suite may run under nohup
    '  stop.waits_for = "after this chunk", time.perf_counter() + 6.2\n'
    '  os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGUSR1)\n'
    '  os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1); print(stop.requested, flush=True)\n'
    '  threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n'
    '  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)\n'
  )  # no handler in Python runs meanwhile
  done = tiny.command('-c', code, timeout=60)
  assert (done.returncode, done.stdout) == (128 + signal.SIGINT, 'SIGHUP\n')
  assert done.stderr.splitlines() == [
    'stopping after this chunk, about 6 s (SIGHUP)',
    'stopping after this chunk, about 6 s (SIGUSR1)',
    'stopping after this chunk, about 6 s; press again to leave without saving',
    'left without saving: what was saved before stands',
  ]


def test_a_sighup_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
  try:
    with Stop() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_without_utf8_that_hangs_up(tmp_path):
  path = tmp_path / 'run'
  process, terminal = on_a_terminal(GAN, *LONG, f'--run_dir={path}', PYTHONIOENCODING='latin-1')
  text = read_until(terminal, r'examples/s.*left')
  assert re.search(r'training.*---.*/200000', text) and '━' not in text
  os.close(terminal)
  log = path / 'logs' / 'terminal.log'
  deadline = time.monotonic() + 60
  while not (log.is_file() and 'examples/s' in log.read_text()):  # it trains on
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGHUP)
  assert process.wait(timeout=60) == REQUEUE
  status = directory.read_status(path)
  assert (status['state'], status['message']) == ('stopped', 'SIGHUP')
  assert (path / 'checkpoints' / str(status['step'])).is_dir()
  lines = log.read_text().splitlines()
  assert 'standard output cannot be written (Input/output error): what is shown there goes on here' in lines[0]
  assert lines[-2].startswith(f'stopped by SIGHUP at step {status["step"]}') and '\x1b' not in log.read_text()


def test_a_language_model_run_prints_its_own_next_step(tmp_path):
  path = tmp_path / 'run'
  done = cli.launch('--config=configs/lm.py', '--tiny', f'--run_dir={path}', '--config.run.trackers=')
  assert done.returncode == DONE, done.stderr
  assert f'  python -m gen_ai.sample {path} --n=64' in done.stdout.splitlines()
  assert (path / 'samples' / 'step_00000008.txt').read_text().startswith('def ')
  assert directory.read_metrics(path)[-1]['loss_nats'] > 0


def test_figures_are_legible():
  assert [text.duration(s) for s in (0.4, 59.4, 59.6, 200, 3599, 7500)] == [
    '0s',
    '59s',
    '1m 00s',
    '3m 20s',
    '59m 59s',
    '2h 05m',
  ]
  assert [text.number(x) for x in (1.23456, 12345.6, 0.000012345, float('nan'))] == [
    '1.235',
    '12346',
    '1.234e-05',
    'nan',
  ]
