"""One writer a run directory."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gen_ai import lease as lease_lib
from gen_ai.errors import UserError
from gen_ai.lease import Lease
from gen_ai.record import RunDir

ENV = {**os.environ, 'PYTHONPATH': str(Path(lease_lib.__file__).parents[1])}


def python(script, *args):
  command = [sys.executable, '-c', textwrap.dedent(script), *map(str, args)]
  return subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, env=ENV, text=True
  )


HOLD = """
  import sys
  from gen_ai.lease import Lease
  with Lease(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  process = python(HOLD, tmp_path)
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def forge(path, age=0.0, **changes):
  """A lease file as another process would have left it, `age` seconds after its last heartbeat."""
  lease = Lease(path)
  (path / 'lease.json').write_text(json.dumps({**lease._identity(), **changes}))
  os.utime(path / 'lease.json', (time.time() - age,) * 2)


def test_a_second_process_is_refused_at_once_and_told_who_holds_it(tmp_path, holder):
  begin = time.monotonic()
  with pytest.raises(UserError, match=f'in use by process {holder.pid} on host .*kill {holder.pid}'):
    Lease(tmp_path).acquire()
  assert time.monotonic() - begin < 1


def test_the_same_process_cannot_hold_it_twice(tmp_path):
  with Lease(tmp_path), pytest.raises(UserError, match=f'process {os.getpid()}'):
    Lease(tmp_path).acquire()


def test_a_lease_is_given_back(tmp_path):
  with Lease(tmp_path):
    assert (tmp_path / 'lease.json').exists()
  assert not (tmp_path / 'lease.json').exists()
  with Lease(tmp_path):
    pass


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, holder):
  holder.kill()
  while (Path('/proc') / str(holder.pid) / 'stat').read_text().rpartition(')')[2].split()[0] != 'Z':
    time.sleep(0.01)  # a zombie: killed, and its parent, this test, has not waited for it
  with Lease(tmp_path) as lease:
    lease.refresh()


def test_a_reused_process_id_is_not_taken_for_the_holder(tmp_path):
  forge(tmp_path)
  with pytest.raises(UserError, match='in use'):
    Lease(tmp_path).acquire()
  forge(tmp_path, started='1')  # our process id, but a process that started at another time
  with Lease(tmp_path):
    pass


@pytest.mark.parametrize('other', [{'host': 'elsewhere'}, {'machine': 'the same name in another container'}])
def test_a_holder_elsewhere_is_judged_by_its_heartbeat(tmp_path, other):
  forge(tmp_path, age=50, started='1', **other)
  with pytest.raises(UserError, match=r'last sign of life 50 s ago.*try again in 70 s'):
    Lease(tmp_path, stale_after=120).acquire()
  forge(tmp_path, age=121, started='1', **other)
  with Lease(tmp_path, stale_after=120):
    pass


def test_a_lease_cut_short_is_judged_by_its_age(tmp_path):
  (tmp_path / 'lease.json').write_text('{"host"')
  with pytest.raises(UserError, match='on host unknown'):
    Lease(tmp_path).acquire()
  os.utime(tmp_path / 'lease.json', (0, 0))
  with Lease(tmp_path):
    pass


def test_the_heartbeat_needs_no_help_from_the_training_loop(tmp_path):
  with Lease(tmp_path, beat=0.02):
    os.utime(tmp_path / 'lease.json', (0, 0))
    deadline = time.monotonic() + 5
    while (tmp_path / 'lease.json').stat().st_mtime == 0:
      assert time.monotonic() < deadline
      time.sleep(0.01)


def test_refresh_notices_a_deleted_a_replaced_and_a_lost_directory(tmp_path):
  path = tmp_path / 'run'
  path.mkdir()
  with Lease(path, beat=0.01) as lease:
    shutil.rmtree(path)
    with pytest.raises(UserError, match='deleted or replaced'):
      lease.refresh()
    path.mkdir()
    with pytest.raises(UserError, match='deleted or replaced'):
      lease.refresh()
    forge(path, pid=77, host='elsewhere')
    with pytest.raises(UserError, match='process 77 on host elsewhere has taken it over'):
      lease.refresh()
  assert (path / 'lease.json').exists()  # another's lease is not released
  shutil.rmtree(path)
  with pytest.raises(UserError, match='is gone'):
    Lease(path).acquire()


CONTEND = """
  import sys, time
  from gen_ai.errors import UserError
  from gen_ai.lease import Lease
  print('ready', flush=True)
  sys.stdin.readline()
  try:
    with Lease(sys.argv[1]) as lease:
      time.sleep(0.5)
      lease.refresh()
      print('won', flush=True)
  except UserError as error:
    print('in use' if 'in use' in str(error) else error, flush=True)
"""


def test_of_many_contenders_for_a_dead_lease_one_wins(tmp_path):
  forge(tmp_path, started='1')
  contenders = [python(CONTEND, tmp_path) for _ in range(6)]
  for process in contenders:
    assert process.stdout.readline() == 'ready\n'
  for process in contenders:
    process.stdin.write('\n')
    process.stdin.flush()
  said = sorted(process.communicate()[0].strip() for process in contenders)
  assert said == ['in use'] * 5 + ['won']


def test_a_slow_contender_does_not_remove_the_lease_of_a_faster_one(tmp_path, monkeypatch):
  """The classic race: judged dead, then taken over by another, then removed. The other must not get in between."""
  forge(tmp_path, started='1')
  rival = python(CONTEND, tmp_path)
  assert rival.stdout.readline() == 'ready\n'

  def slow(pid, real=lease_lib._started):
    rival.stdin.write('\n')
    rival.stdin.flush()
    monkeypatch.setattr(lease_lib, '_started', real)
    time.sleep(0.3)  # the rival goes for it now
    return real(pid)

  monkeypatch.setattr(lease_lib, '_started', slow)
  with Lease(tmp_path) as ours:
    assert rival.communicate()[0].strip() == 'in use'
    ours.refresh()


def test_the_run_directory_hands_out_and_checks_its_lease(tmp_path):
  run = RunDir.create(tmp_path, 'toy')
  run.check_lease()  # not held, for one that only reads
  with run.lease(beat=0):
    assert json.loads((run.path / 'lease.json').read_text())['attempt'] == 1
    run.check_lease()
    shutil.rmtree(run.path)
    with pytest.raises(UserError, match='lost the run directory'):
      run.check_lease()
