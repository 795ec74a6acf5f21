"""The run directory: what is written, what a reader sees, and what happens when it goes wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.run import directory
from gen_ai.run.directory import RunDir

CONFIG = {'run': {'name': 'a', 'seed': 1}, 'data': {'seed': 2}, 'model': {'widths': (3, 4), 'clip': math.inf}}


@pytest.fixture
def run(tmp_path):
  run = RunDir.create(tmp_path, 'toy')
  run.write_run({'argv': ['launch.py']})
  run.write_config(CONFIG)
  return run


def train(run, *steps, start=None, **more):
  run.begin_attempt((steps[0] - 1) if start is None else start)
  for step in steps:
    run.append_metrics({'step': step, 'kind': 'train', 'loss_nats': step / 3, **more})


def test_create_names_the_directory_by_utc_time_and_never_reuses_one(tmp_path, monkeypatch):
  digits = iter(['aaaa', 'aaaa', 'bbbb'])
  monkeypatch.setattr(directory.secrets, 'token_hex', lambda n: next(digits))
  now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
  first, second = RunDir.create(tmp_path, 'toy', now), RunDir.create(tmp_path, 'toy', now)
  assert first.path == tmp_path / 'toy' / '20260304-050607-aaaa'
  assert second.path.name == '20260304-050607-bbbb'
  assert first.samples.is_dir() and first.checkpoints.is_dir() and first.logs.is_dir()
  with pytest.raises(UserError, match='20260304-050607-aaaa is in the way'):
    RunDir.make(first.path)


@pytest.mark.parametrize('name', ['', '../up', 'a/b', '-x', 'a b'])
def test_create_refuses_a_name_that_is_no_directory_name(tmp_path, name):
  with pytest.raises(UserError, match='cannot name a directory'):
    RunDir.create(tmp_path, name)


def test_create_where_a_file_is_in_the_way_names_it(tmp_path):
  (tmp_path / 'runs').write_text('')
  with pytest.raises(UserError, match=f'{tmp_path}/runs'):
    RunDir.create(tmp_path / 'runs', 'toy')


def test_create_without_write_permission_names_the_path(tmp_path, monkeypatch):
  def refuse(path, *args, **kwargs):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(Path, 'mkdir', refuse)  # root may write everywhere, so a real directory would not do
  with pytest.raises(UserError, match=f'no permission to write {tmp_path}/toy.*--runs_dir'):
    RunDir.create(tmp_path, 'toy')


def test_open_names_what_is_missing(tmp_path, run):
  assert RunDir.open(run.path).path == run.path
  with pytest.raises(UserError, match='no such directory'):
    RunDir.open(tmp_path / 'nowhere')
  (run.path / 'config.json').unlink()
  with pytest.raises(UserError, match=r'has no config\.json'):
    RunDir.open(run.path)


def test_run_and_config_are_written_once_and_read_back(run):
  assert directory.read_run(run.path) == {'argv': ['launch.py']}
  assert directory.read_config(run.path) == {**CONFIG, 'model': {'widths': [3, 4], 'clip': math.inf}}
  for write in (run.write_run, run.write_config):
    with pytest.raises(FileExistsError):
      write({})
  with pytest.raises(UserError, match=r'has no summary\.json'):
    directory.read_summary(run.path)
  run.write_summary({'final': {'loss': math.nan}})
  run.write_summary({'final': {'loss': -math.inf}})
  assert directory.read_summary(run.path) == {'final': {'loss': -math.inf}}
  (run.path / 'summary.json').write_text('{')
  with pytest.raises(UserError, match=r'summary\.json is damaged'):
    directory.read_summary(run.path)


def test_canonical_json_does_not_depend_on_order_or_kind_of_container():
  a = {'b': (1, 2), 'a': np.float32(0.1), 'c': {'y': None, 'x': True}}
  b = {'c': {'x': True, 'y': None}, 'a': float(np.float32(0.1)), 'b': [1, 2]}
  assert files.dumps(a) == files.dumps(b)
  assert files.sha256(files.dumps(a)) != files.sha256(files.dumps({**a, 'b': (2, 1)}))
  assert json.loads(files.dumps({'p': Path('x'), 'n': np.int64(3)})) == {'p': 'x', 'n': 3}


def test_status_is_replaced_whole(run):
  run.begin_attempt(0)
  run.status('running', 1, 10)
  before = (run.path / 'status.json').stat().st_ino
  run.status('stopped', 5, 10, 'SIGTERM')
  status = directory.read_status(run.path)
  assert (run.path / 'status.json').stat().st_ino != before  # a new file moved into place, not one rewritten
  assert (status['state'], status['step'], status['total'], status['attempt']) == ('stopped', 5, 10, 1)
  assert (status['message'], status['pid']) == ('SIGTERM', os.getpid())
  assert datetime.fromisoformat(status['heartbeat']).tzinfo is not None
  with pytest.raises(ValueError, match='paused'):
    run.status('paused', 1, 10)
  assert not list(run.path.glob('.*.tmp'))


def test_metrics_round_trip_to_the_last_bit(run):
  values = {'a': np.float32(1 / 3), 'b': 1e-45, 'c': 0.1 + 0.2, 'd': 2**60 + 1, 'e': math.nan, 'f': math.inf}
  run.begin_attempt(0)
  run.append_metrics({'step': np.int32(7), 'kind': 'eval', **values, 'g': -math.inf})
  text = (run.path / 'metrics.jsonl').read_text()
  assert '"nan"' in text and '"-inf"' in text and text.startswith('{"step": 7, "kind": "eval", "attempt": 1, ')
  (row,) = directory.read_metrics(run.path)
  assert math.isnan(row.pop('e'))
  assert row == {
    'step': 7,
    'kind': 'eval',
    'attempt': 1,
    'seconds': row['seconds'],
    'a': float(np.float32(1 / 3)),
    'b': 1e-45,
    'c': 0.1 + 0.2,
    'd': 2**60 + 1,
    'f': math.inf,
    'g': -math.inf,
  }


def test_metrics_before_an_attempt_are_refused(run):
  with pytest.raises(RuntimeError, match='begin_attempt'):
    run.append_metrics({'step': 1, 'kind': 'train'})


def test_superseded_rows_are_dropped(run):
  train(run, 1, 2, 3, 4, 5)  # attempt 1, killed after its checkpoint of step 2
  train(RunDir(run.path), 3, 4, 5, 6)  # attempt 2, killed before any checkpoint of its own
  train(RunDir(run.path), start=2)  # attempt 3 wrote nothing
  train(RunDir(run.path), 2, 3)  # attempt 4 had to go back to step 1
  kept = [(row['attempt'], row['step']) for row in directory.read_metrics(run.path)]
  assert kept == [(1, 1), (4, 2), (4, 3)]


def test_attempts_are_recorded_and_counted_over_processes(run):
  assert run.begin_attempt(0, versions={'jax': '1'}) == 1
  run.end_attempt(75, 4)
  assert RunDir(run.path).begin_attempt(4) == 2
  start, end, again = directory.read_attempts(run.path)
  assert (start['event'], start['step'], start['pid'], start['versions']) == ('start', 0, os.getpid(), {'jax': '1'})
  assert (end['event'], end['attempt'], end['exit'], end['step']) == ('end', 1, 75, 4)
  assert (again['event'], again['attempt'], again['step']) == ('start', 2, 4)


def test_seconds_continue_from_the_last_row_that_holds(run, monkeypatch):
  clock = iter([100.0, 110.0, 150.0, 1000.0, 1003.0, 2000.0, 2001.0])
  monkeypatch.setattr(directory.time, 'monotonic', lambda: next(clock))
  train(run, 1, 2)  # 10 s, then 50 s: this row will be superseded
  resumed = RunDir(run.path)
  resumed.begin_attempt(1)
  resumed.append_metrics({'step': 2, 'kind': 'train'})
  resumed.start_clock()  # compiled: counts from here
  resumed.append_metrics({'step': 3, 'kind': 'train'})
  assert [row['seconds'] for row in directory.read_metrics(run.path)] == [10.0, 13.0, 11.0]


def test_a_line_cut_short_is_ignored_then_repaired(run):
  train(run, 1, 2)
  for name in ('metrics.jsonl', 'attempts.jsonl'):
    with (run.path / name).open('a') as file:
      file.write('{"step": 3, "kind": "train", "atte')
  assert [row['step'] for row in directory.read_metrics(run.path)] == [1, 2]
  train(RunDir(run.path), 3)
  assert [row['step'] for row in directory.read_metrics(run.path)] == [1, 2, 3]
  assert all(json.loads(line) for line in (run.path / 'metrics.jsonl').read_text().splitlines())


def test_a_damaged_line_inside_is_named(run):
  train(run, 1, 2)
  path = run.path / 'metrics.jsonl'
  path.write_text('{"step": 0,\n' + path.read_text())
  with pytest.raises(UserError, match=r'metrics\.jsonl line 1 is damaged'):
    directory.read_metrics(run.path)


def test_sigkill_at_a_random_moment_leaves_complete_rows(run):
  script = textwrap.dedent("""
    import sys
    from gen_ai.run.directory import RunDir
    run = RunDir(sys.argv[1])
    run.begin_attempt(0)
    print('go', flush=True)
    for step in range(10**9):
      run.append_metrics({'step': step, 'kind': 'train', 'loss': step / 7, 'pad': 'x' * 500})
  """)
  root = Path(directory.__file__).parents[1]
  process = subprocess.Popen(
    [sys.executable, '-c', script, str(run.path)], stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': str(root)}
  )
  assert process.stdout.readline() == b'go\n'
  while not (run.path / 'metrics.jsonl').exists() or (run.path / 'metrics.jsonl').stat().st_size < 100_000:
    assert process.poll() is None
  process.send_signal(signal.SIGKILL)
  process.communicate()
  rows = directory.read_metrics(run.path)
  assert [row['step'] for row in rows] == list(range(len(rows))) and len(rows) > 100


def test_a_full_disk_is_named_with_the_way_out(run):
  (run.path / 'metrics.jsonl').symlink_to('/dev/full')
  run.begin_attempt(0)
  with pytest.raises(UserError) as caught:
    run.append_metrics({'step': 1, 'kind': 'train'})
  message = str(caught.value)
  assert f'the disk of {run.path}/metrics.jsonl is full' in message and 'bytes were needed' in message
  assert 'The last checkpoint is intact' in message and f'--resume={run.path}' in message


def test_a_row_that_fits_only_in_part_is_taken_back(run, monkeypatch):
  train(run, 1)
  real_write = os.write
  monkeypatch.setattr(directory.os, 'write', lambda fd, data: real_write(fd, data[: len(data) // 2]))
  with pytest.raises(UserError, match='is full'):
    run.append_metrics({'step': 2, 'kind': 'train'})
  monkeypatch.undo()
  run.append_metrics({'step': 3, 'kind': 'train'})
  assert [json.loads(line)['step'] for line in (run.path / 'metrics.jsonl').read_text().splitlines()] == [1, 3]


def test_many_run_directories_live_in_one_process(tmp_path):
  runs = [RunDir.create(tmp_path, 'toy') for _ in range(3)]
  for number, run in enumerate(runs):
    run.begin_attempt(number)
  for number, run in enumerate(runs):
    run.append_metrics({'step': number + 1, 'kind': 'train'})
  assert [[row['step'] for row in directory.read_metrics(run.path)] for run in runs] == [[1], [2], [3]]


def test_a_directory_left_before_its_first_record_is_taken_and_no_other(tmp_path):
  made = RunDir.make(tmp_path / 'run')
  (made.path / 'run.json').write_text('{}')
  assert RunDir.make(tmp_path / 'run', adopt=True).path == made.path
  (made.path / 'notes.txt').write_text('mine')
  with pytest.raises(UserError, match='is in the way'):
    RunDir.make(tmp_path / 'run', adopt=True)
