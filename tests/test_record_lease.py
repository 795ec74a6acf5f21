"""One writer a run directory."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from gen_ai.core.errors import UserError
from gen_ai.run import lease as lease_lib
from gen_ai.run.directory import RunDir
from gen_ai.run.lease import Lease

ENV = {**os.environ, 'PYTHONPATH': str(Path(lease_lib.__file__).parents[1])}


def python(script, *args):
  command = [sys.executable, '-c', textwrap.dedent(script), *map(str, args)]
  return subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, env=ENV, text=True
  )


HOLD = """
  import sys
  from gen_ai.run.lease import Lease
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
  """A lease file as a process of this machine that was killed leaves it, `age` seconds after its last heartbeat."""
  (path / 'lease.json').unlink(missing_ok=True)
  with Lease(path, beat=0):
    left = json.loads((path / 'lease.json').read_text())
  (path / 'lease.json').write_text(json.dumps({**left, **changes}))
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


OLDER = {'machine': '0f1e boot pid:[4026531836]', 'started': '1'}  # as written before the lock was kept


@pytest.mark.parametrize(
  'other',
  [{'host': 'elsewhere', 'machine': 'elsewhere 0f1e'}, {'machine': ''}, OLDER],
  ids=['host', 'no locks', 'older version'],
)
def test_a_holder_that_no_lock_tells_of_is_judged_by_its_heartbeat(tmp_path, other):
  forge(tmp_path, age=50, **other)
  assert Lease(tmp_path).held()
  with pytest.raises(UserError, match=r'last sign of life 50 s ago.*try again in 70 s'):
    Lease(tmp_path, stale_after=120).acquire()
  forge(tmp_path, age=121, **other)
  assert not Lease(tmp_path).held()
  with Lease(tmp_path, stale_after=120):
    pass


def test_a_process_that_died_here_is_dead_at_once_whoever_has_its_id_now(tmp_path):
  forge(tmp_path, pid=os.getpid())
  assert not Lease(tmp_path).held()
  with Lease(tmp_path) as lease:
    assert Lease(tmp_path).held()
    lease.refresh()
    (tmp_path / '.lease.lock').unlink()
    assert Lease(tmp_path).held(), 'the heartbeat is there for whoever cannot look at the lock'
  assert not Lease(tmp_path).held()


def test_asking_writes_nothing(tmp_path, holder):
  before = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert Lease(tmp_path).held()
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
  holder.kill()
  holder.wait()
  assert not Lease(tmp_path).held()
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
  (tmp_path / '.lease.lock').unlink()
  (tmp_path / 'lease.json').unlink()
  assert not Lease(tmp_path).held() and not list(tmp_path.iterdir())


def test_who_only_asks_is_not_in_the_way_of_a_contender(tmp_path, monkeypatch):
  forge(tmp_path)
  asking = os.open(tmp_path / '.lease.lock', os.O_RDONLY)
  fcntl.flock(asking, fcntl.LOCK_SH)  # as `held` of another process does for an instant
  threading.Timer(0.05, os.close, [asking]).start()
  with Lease(tmp_path, beat=0):
    pass
  forge(tmp_path)
  free = []

  def look(lease, real=Lease._holder):
    with (tmp_path / '.lease.lock').open('r+') as other:
      fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    free.append(True)
    return real(lease)

  monkeypatch.setattr(Lease, '_holder', look)
  assert not Lease(tmp_path).held()
  assert free, 'the lock is free again while the record is read'


@pytest.mark.parametrize('way', ['fork', 'spawn'])
def test_a_child_that_outlives_the_holder_does_not_keep_the_lease(tmp_path, way):
  child = {
    'fork': 'os.fork() and time.sleep(60)',  # the child speaks, once it is one
    'spawn': 'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)',
  }[way]
  script = f"""
    import os, subprocess, sys, time
    from gen_ai.run.lease import Lease
    Lease(sys.argv[1]).acquire()
    {child}
    print('held', flush=True)
    time.sleep(60)
  """
  command = [sys.executable, '-c', textwrap.dedent(script), tmp_path]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENV, text=True, start_new_session=True)
  try:
    assert process.stdout.readline() == 'held\n'
    assert Lease(tmp_path).held()
    process.kill()
    process.wait()
    assert not Lease(tmp_path).held()
    with Lease(tmp_path):
      pass
  finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()


def test_a_forked_child_that_ends_takes_nothing_from_its_parent(tmp_path):
  script = """
    import os, sys
    from gen_ai.run.lease import Lease
    with Lease(sys.argv[1], beat=0) as lease:
      child = os.fork()
      if child:
        os.waitpid(child, 0)
        lease.refresh()
        print('still held:', Lease(sys.argv[1]).held())
  """
  assert python(script, tmp_path).communicate()[0].strip() == 'still held: True'


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_heartbeat_judges_and_that_is_said(tmp_path, monkeypatch, caplog, code):
  def no_locks(fd, kind):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, 'flock', no_locks)
  with caplog.at_level('WARNING', logger='absl'), Lease(tmp_path, beat=0) as lease:
    assert 'file system without locks' in caplog.text
    assert Lease(tmp_path).held()
    with pytest.raises(UserError, match='in use by process .*try again in 1'):
      Lease(tmp_path).acquire()
    lease.refresh()
    os.utime(tmp_path / 'lease.json', (0, 0))
    with Lease(tmp_path, beat=0) as other:
      other.refresh()
      with pytest.raises(UserError, match='has taken it over'):
        lease.refresh()


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
  from gen_ai.core.errors import UserError
  from gen_ai.run.lease import Lease
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
  forge(tmp_path)
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
  forge(tmp_path)
  rival = python(CONTEND, tmp_path)
  assert rival.stdout.readline() == 'ready\n'

  def slow(real=lease_lib._machine):
    monkeypatch.setattr(lease_lib, '_machine', real)
    rival.stdin.write('\n')
    rival.stdin.flush()
    time.sleep(0.3)  # the rival goes for it now
    return real()

  monkeypatch.setattr(lease_lib, '_machine', slow)
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
