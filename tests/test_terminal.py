"""What becomes of output that the terminal does not take."""

import io
import os
import pty
import sys

import cli
import made_runs
import pytest

from gen_ai.core import terminal
from gen_ai.core.errors import UserError
from gen_ai.train.progress import Display


def broken():
  """A pipe that nobody reads."""
  ours, theirs = os.pipe()
  os.close(ours)
  return theirs


def hung_up():
  ours, theirs = pty.openpty()
  os.close(ours)
  return theirs


def full():
  return os.open('/dev/full', os.O_WRONLY)


@pytest.fixture
def output(monkeypatch):
  """Makes a descriptor standard output; returns the stream."""
  opened = []

  def make(number, encoding='utf-8', name='stdout'):
    opened.append(io.TextIOWrapper(io.FileIO(number, 'w', closefd=False), encoding, write_through=True))
    monkeypatch.setattr(sys, name, opened[-1])
    return opened[-1]

  yield make
  for stream in opened:
    os.close(stream.fileno())


def test_a_reading_command_ends_as_unix_tools_do_once_nobody_reads(output, capfd):
  stream = output(broken())
  with pytest.raises(SystemExit) as end, terminal.guarded():
    terminal.console().print('text')
  assert end.value.code == 141 and capfd.readouterr().err == ''
  assert sys.stdout is stream


@pytest.mark.parametrize('place', [full, hung_up])
def test_a_reading_command_tells_that_its_output_is_not_complete(place, output):
  output(place())
  told = pytest.raises(UserError, match='standard output cannot be written .*: what it holds is not complete')
  with told, terminal.guarded():
    print('text')


@pytest.mark.parametrize(
  ('place', 'why'), [(broken, 'Broken pipe'), (full, 'No space left on device'), (hung_up, 'Input/output error')]
)
@pytest.mark.parametrize('name', ['stdout', 'stderr'])
def test_training_goes_on_without_its_terminal_and_says_so_in_its_log(place, why, name, output, tmp_path, capfd):
  output(place(), name=name)
  with terminal.guarded():
    terminal.outlive(tmp_path / 'logs')
    print('one', file=getattr(sys, name))
    print('two', file=getattr(sys, name), flush=True)
  said, *lines = (tmp_path / 'logs' / 'terminal.log').read_text().splitlines()
  what = 'standard output' if name == 'stdout' else 'standard error'
  assert f'{what} cannot be written ({why}): what is shown there goes on here' in said
  assert lines == ['one', 'two']
  if name == 'stdout':
    assert f'({why}): training goes on, and what is shown there goes on in {tmp_path}/logs/' in capfd.readouterr().err


def test_training_goes_on_where_its_log_cannot_be_written_either(output, tmp_path):
  (tmp_path / 'logs').write_text('in the way')
  output(broken())
  with terminal.guarded():
    terminal.outlive(tmp_path / 'logs')
    print('one', flush=True)
    print('two', flush=True)
  assert (tmp_path / 'logs').read_text() == 'in the way'


def test_a_bar_becomes_lines_of_the_log_once_the_terminal_hangs_up(output, tmp_path, monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  ours, theirs = pty.openpty()
  output(theirs)
  with terminal.guarded():
    terminal.outlive(tmp_path)
    display = Display(8)
    display.start(0)
    display.say('said before')
    display.update(2, 'loss 1', 3.0, 4.0)
    drawn = b''
    while b'said before' not in drawn:
      drawn += os.read(ours, 4096)
    os.close(ours)
    display.say('lost with the bar')
    for step in (4, 6, 8):
      display.update(step, 'loss 1', 3.0, 4.0)
    display.say('said after')
    display.stop()
  text = (tmp_path / 'terminal.log').read_text()
  assert '\x1b' not in text and 'lost with the bar\n' in text
  assert text.endswith('step 8/8  loss 1  3 examples/s  4s left\nsaid after\n')


@pytest.mark.parametrize(
  ('encoding', 'shown'),
  [
    ('utf-8', '1 ± 2 † → … é 中 '.encode() + b'\xff'),
    ('latin-1', b'1 \xb1 2 ^ -> ... \xe9 \\u4e2d \xff'),
    ('ascii', b'1 +/- 2 ^ -> ... \\xe9 \\u4e2d \xff'),
  ],
)
def test_characters_that_an_encoding_lacks_have_ascii_forms(encoding, shown, output, tmp_path):
  output(os.open(tmp_path / 'out', os.O_WRONLY | os.O_CREAT), encoding)
  with terminal.guarded():
    print('1 ± 2 † → … é 中 \udcff', end='')
  assert (tmp_path / 'out').read_bytes() == shown


def test_tables_stand_straight_in_ascii(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for seed in range(3):
    made_runs.make(f'runs/good{seed}', (3.0, 0.9, 1.0 + seed / 10), run__seed=seed, optim__lr=1e-3)
    made_runs.make(f'runs/bad{seed}', (3.0, 1.9, 2.0 + seed), costs={'lanes': 2}, run__seed=seed, optim__lr=1e-2)
  done = cli.command('gen_ai.compare', 'runs', encoding='ascii')
  assert done.returncode == 0, done.stderr
  header, first, second = done.stdout.split('lower is better\n')[1].splitlines()[:3]
  assert '1.10 +/- 0.25  ' in first and '+/-, [ ]: 95% interval' in done.stdout
  assert len(first) == len(second) == len(header)
  sweep = made_runs.sweep('swept', [{'optim.lr': 1e-3}, {'optim.lr': 1e-2}], started=1)
  done = cli.command('launch.py', f'--status={sweep.path}', encoding='latin-1')
  assert done.returncode == 0 and '--+--' in done.stdout, done
