"""Two processes with two devices each, joined over loopback, are the run that one process with four devices is."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import tiny

from gen_ai.core.errors import DONE, FAILED, REQUEUE, UserError
from gen_ai.parallel import processes as processes_lib
from gen_ai.run import directory

# What Gloo prints as it connects, in pieces, since its threads mix them; a number or a blank says nothing by itself.
GLOO = re.compile(r'\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|[\s\d]')

# launch.py, with what it reads on the host written down, and a signal to itself before a chunk where the test says so.
SPY = """
import json, os, runpy, signal, sys
from gen_ai.data import feed, source
loaded, read, chunk = [], source.TextSource.read, feed.HostFeed.chunk

def spy_read(self, index):
  loaded.append(sorted(int(i) for i in index))
  return read(self, index)

def spy_chunk(self, step, steps):
  if step == int(os.environ.get('SIGTERM_AT', -1)):
    os.kill(os.getpid(), signal.SIGTERM)
  return chunk(self, step, steps)

source.TextSource.read, feed.HostFeed.chunk = spy_read, spy_chunk
out = sys.argv.pop(1)
try:
  runpy.run_path('launch.py', run_name='__main__')
finally:
  with open(out, 'w') as file:
    json.dump(loaded, file)
"""


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def start(words, count=2, env=None, spy=None):
  """`count` processes with two devices each, as one run: [(exit code, stdout, stderr)]."""
  port, processes = free_port(), []
  flags = f'{os.environ["GEN_AI_TEST_FLAGS"]} --xla_force_host_platform_device_count=2'
  shared = [
    f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}',
    f'--coordinator=localhost:{port}',
    f'--num_processes={count}',
    *words,
  ]
  for i in range(count):
    script = ['-c', SPY, str(spy / f'{i}.json')] if spy else ['launch.py']
    variables = {**os.environ, 'XLA_FLAGS': flags, **(env or {}).get(i, {})}
    command = [sys.executable, *script, *shared, f'--process_id={i}']
    processes.append(
      subprocess.Popen(command, cwd=tiny.ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
  try:
    ended = [process.communicate(timeout=240) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]


def assert_rows_close(a, b, tolerance):
  """The records of two runs agree."""
  rows_a, rows_b = tiny.rows(a), tiny.rows(b)
  assert [(row['step'], row['kind']) for row in rows_a] == [(row['step'], row['kind']) for row in rows_b]
  for x, y in zip(rows_a, rows_b, strict=True):
    assert x.keys() == y.keys()
    for name in x.keys() - {'step', 'kind'}:
      assert x[name] == pytest.approx(y[name], rel=tolerance, abs=tolerance), (name, x['step'])


def test_a_language_model_in_two_processes_that_are_stopped_and_gone_on_with_by_one(tmp_path):
  run, alone = tmp_path / 'run', tmp_path / 'alone'
  assert tiny.run(tiny.config('lm'), alone, devices=4)[0] == DONE
  words = [
    '--config=configs/lm.py',
    '--tiny',
    f'--run_dir={run}',
    '--config.run.trackers=',
    '--config.data.feed=host',
  ]
  # The second process is told to stop during its second chunk; both must.
  ended = start(words, env={1: {'SIGTERM_AT': '2'}}, spy=tmp_path)
  for i, (code, out, err) in enumerate(ended):
    assert code == REQUEUE, (i, out, err)
    assert 'Traceback' not in err
    assert bool(GLOO.sub('', out)) == (i == 0), 'only the first process speaks'
  status = directory.read_status(run)
  assert (status['state'], status['step']) == ('stopped', 4)
  assert len(directory.read_attempts(run)) == 2, 'only the first process writes'
  assert_shares(tmp_path)
  # What two processes saved one continues.
  code, trainer = tiny.run(tiny.config('lm', data__feed='host'), run, devices=4)
  assert (code, trainer.step) == (DONE, 8)
  assert directory.read_attempts(run)[2]['step'] == 4
  assert_rows_close(alone, run, 1e-4)


def assert_shares(folder):
  """Each process read only its half of every training batch, and the halves are the whole."""
  config = tiny.config('lm')
  plan = tiny.feed(config, tiny.program(config)).chunk(0, 4)
  halves = []
  for i in (0, 1):
    batches = json.loads((folder / f'{i}.json').read_text())
    train = [batch for batch in batches if len(batch) == config.data.batch_size // 2]
    assert len(train) >= 4
    assert not [batch for batch in batches if len(batch) == config.data.batch_size]
    halves.append(train)
  for step in range(4):
    first, second = (sorted(plan[step][rows].tolist()) for rows in (slice(0, 8), slice(8, 16)))
    assert first in halves[0]
    assert second in halves[1]
    assert first not in halves[1]


def test_a_gan_in_two_processes_by_pmap_with_several_critic_batches_a_step(tmp_path):
  config = tiny.config('gan', loss__n_critic=3, parallel='pmap', data__feed='device')
  code, _ = tiny.run(config, tmp_path / 'alone', devices=4)
  assert code == DONE
  words = [
    '--config=configs/gan.py',
    '--tiny',
    f'--run_dir={tmp_path}/run',
    '--config.run.trackers=',
    '--config.loss.n_critic=3',
    '--config.parallel=pmap',
    '--config.data.feed=device',
  ]
  for code, out, err in start(words):
    assert code == DONE, (out, err)
  assert_rows_close(tmp_path / 'alone', tmp_path / 'run', 2e-3)
  names = {p.name for p in (tmp_path / 'run' / 'samples').iterdir()}
  assert names == {p.name for p in (tmp_path / 'alone' / 'samples').iterdir()}


def test_what_stops_the_first_process_stops_the_second(tmp_path):
  (tmp_path / 'file').write_text('')
  ended = start(['--config=configs/lm.py', '--tiny', f'--runs_dir={tmp_path}/file/runs'])
  for code, _, err in ended:
    assert code == FAILED
    assert 'Traceback' not in err
    assert err.startswith('error: cannot make the run directory')


@pytest.mark.parametrize('address', ['localhost:{port}', 'no.such.host.invalid:9876', 'localhost:99999'])
def test_a_coordinator_that_does_not_answer(address, monkeypatch):
  monkeypatch.setattr(processes_lib, 'PATIENCE', 0.3)
  address = address.format(port=free_port())
  with pytest.raises(UserError, match=f'Process 0 does not answer at --coordinator={address}'):
    processes_lib.initialise(address, 2, 1)


def test_one_process_agrees_with_itself():
  assert processes_lib.agree('text') == processes_lib.from_main(lambda: 'text') == 'text'
  assert [processes_lib.any_process(flag) for flag in (True, False)] == [True, False]
  assert processes_lib.is_main()
