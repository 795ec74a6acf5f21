"""A run, run again from its record: bit-identical, within tolerance or different, and where it stops being so."""

import json
import os
import shutil

import cli
import made_runs
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.compare import reproducibility
from gen_ai.compare.reproducibility import DIFFERENT, IDENTICAL, WITHIN, Tolerance, compare_rows
from gen_ai.core.errors import DONE, REQUEUE, Diverged
from gen_ai.run import directory
from gen_ai.run.info import ConfigFile, Origin, RunInfo
from gen_ai.train import open_run

TOLERANCE = Tolerance(1e-3, 1e-5)
NAN = float('nan')


def rows(*losses, kind='train', **more):
  clock = {'attempt': 1, 'seconds': 0.1, 'examples_per_second': 7.0}
  return [{'step': 2 * i, 'kind': kind, **clock, 'loss': loss, **more} for i, loss in enumerate(losses, 1)]


def judged(a, b):
  return [(row.step, row.kind, row.verdict) for row in compare_rows(a, b, TOLERANCE)]


def test_rows_are_compared_step_by_step_and_clocks_are_not():
  a, b = rows(1.0, NAN, 3.0, 0.0, 5.0), rows(1.0, NAN, 3.0029, 9e-6, 5.006)
  for row in b:
    row |= {'attempt': 2, 'seconds': 9.0, 'examples_per_second': 5.0, 'input_stall_percent': 1.0}
  assert [verdict for *_, verdict in judged(a, b)] == [IDENTICAL, IDENTICAL, WITHIN, WITHIN, DIFFERENT]
  assert [verdict for *_, verdict in judged(rows(3.0), rows(3.004))] == [DIFFERENT]
  assert [verdict for *_, verdict in judged(rows(-3.0), rows(-3.002))] == [WITHIN]
  assert [verdict for *_, verdict in judged(rows(-3.0), rows(-3.1))] == [DIFFERENT]
  for bad in (NAN, float('inf')):
    assert judged(rows(bad), rows(1.0)) == judged(rows(1.0), rows(bad)) == [(2, 'train', DIFFERENT)]


def test_the_metric_that_differs_most_is_named():
  [row] = compare_rows(rows(1.0, acc=0.5, kl=2.0), rows(1.0001, acc=0.6, kl=2.0), TOLERANCE)
  assert row == (2, 'train', DIFFERENT, 'acc', 0.5, 0.6)
  [row] = compare_rows(rows(1.0, kl=NAN), rows(1.0, kl=2.0), TOLERANCE)
  assert (row.verdict, row.metric) == (DIFFERENT, 'kl')


def test_rows_and_metrics_that_one_side_lacks():
  a, b = rows(1.0, 2.0, 3.0), rows(1.0, 2.0, 3.0)
  assert judged(a, [b[0], b[2]]) == [(2, 'train', IDENTICAL), (4, 'train', DIFFERENT), (6, 'train', IDENTICAL)]
  assert judged([a[0], a[2]], b) == judged(a, [b[0], b[2]])
  # A run that was killed: nothing is said about what would have come after its last row.
  assert judged(a[:2], b) == [(2, 'train', IDENTICAL), (4, 'train', IDENTICAL)]
  assert judged(a[:1], [b[0], {**b[0], 'kind': 'eval'}]) == [(2, 'train', IDENTICAL)]
  assert judged(a[:1], rows(1.0, added=1.0)) == [(2, 'train', IDENTICAL)], 'newer code may measure more'
  [row] = compare_rows(rows(1.0, gone=7.0), rows(1.0), TOLERANCE)
  assert row == (2, 'train', DIFFERENT, 'gone', 7.0, '(absent)')


@pytest.mark.parametrize(
  ('a', 'b', 'diverged', 'verdict', 'says'),
  [
    ([1, 2, 3], [1, 2, 3], (0, 0), IDENTICAL, 'all 3 rows up to step 6 are bit-identical'),
    (
      [1, 2, 3],
      [1, 2.001, 3],
      (0, 0),
      WITHIN,
      'identical before step 4, then train loss at step 4: 2 there, 2.001 here',
    ),
    ([1, 2, 3], [1.0001, 2, 4], (0, 0), DIFFERENT, 'not identical from the start; out of tolerance from train loss at'),
    ([1, 2, 3], [1, 2, 3], (6, 6), IDENTICAL, 'bit-identical; both diverged at step 6'),
    ([1, 2, 3], [1, 2, 3], (6, 0), DIFFERENT, 'the recorded run diverged at step 6, this one did not diverge'),
    ([1, 2, 3], [1, 2, 3], (0, 5), DIFFERENT, 'the recorded run did not diverge, this one diverged at step 5'),
  ],
)
def test_the_verdict_and_its_reason(a, b, diverged, verdict, says):
  found, why = reproducibility.verdict_of(compare_rows(rows(*a), rows(*b), TOLERANCE), diverged)
  assert found == verdict and says in why


def test_the_table_joins_neighbours_and_stays_short():
  some = compare_rows(rows(*range(100)), rows(*range(50), *[x * 1.0001 for x in range(50, 100)]), TOLERANCE)
  head, same, within = reproducibility.table(some)
  assert same.split() == ['2', 'to', '100', '50', 'identical']
  assert within.split()[:6] == ['102', 'to', '200', '50', 'within', 'tolerance']
  assert 'train loss at step 102: 50 there, 50.005 here' in within
  restless = compare_rows(rows(*range(1, 101)), rows(*[x + x % 2 for x in range(1, 101)]), TOLERANCE)
  assert len(reproducibility.table(restless)) == 22 and '80 more lines' in reproducibility.table(restless)[-1]


def test_what_differs_in_origin_is_told():
  there = RunInfo.from_json(
    {
      'git': {'commit': 'abc', 'dirty': True, 'patch_sha256': '12'},
      'versions': {'jax': '0.10.2', 'old': '1'},
      'devices': ['cuda:0'],
      'lanes': 16,
      'host': {'cpus': 2},
      'environment': {'XLA_FLAGS': '--x'},
    }
  )
  here = RunInfo.from_json(
    {
      'git': {'commit': 'abc', 'dirty': False},
      'versions': {'jax': '0.12.0'},
      'devices': ['TFRT_CPU_0'],
      'host': {'cpus': 2},
      'environment': {},
    }
  )
  assert reproducibility.origin_differences(there, here) == {
    'version of jax': ('0.10.2', '0.12.0'),
    'version of old': ('1', '(absent)'),
    'uncommitted changes': ('12', 'none'),
    'devices': ('cuda:0', 'TFRT_CPU_0'),
    'lanes of its program': (16, 1),
    'environment XLA_FLAGS': ('--x', '(absent)'),
  }
  assert reproducibility.origin_differences(there, there) == {}


def test_where_a_run_diverged_is_read_from_its_row_or_else_its_status(tmp_path):
  run = directory.RunDir.make(tmp_path / 'run')
  run.write_config(config_lib.to_json(config_lib.load('configs/lm.py')))
  run.write_run(dict.fromkeys(('data', 'versions', 'git', 'devices', 'host', 'environment'), {}))
  run.begin_attempt(0)
  run.append_metrics({'step': 4, 'kind': 'train', 'loss': 1.0})
  run.status('done', 4, 4)
  assert reproducibility.read(run.path).diverged == 0
  run.status('diverged', 4, 8)  # metrics were finite, the state at its save was not
  assert reproducibility.read(run.path).diverged == 4
  assert reproducibility.read(run.path).until(3).diverged == 0
  run.append_metrics({'step': 5, 'kind': 'diverged', 'loss': NAN})
  read = reproducibility.read(run.path)
  assert (read.diverged, read.until(5).diverged, read.until(4).diverged) == (5, 5, 0)
  assert (read.state, len(read.rows), len(read.until(4).rows), read.defaults) == ('diverged', 2, 1, {})


def test_the_evaluation_at_an_end_that_a_resume_moved_is_not_compared(tmp_path):
  run = made_runs.start(tmp_path / 'run', made_runs.config())
  run.begin_attempt(0)
  for step in (40, 100):
    run.append_metrics({'step': step, 'kind': 'train', 'loss': 1.0})
    run.append_metrics({'step': step, 'kind': 'eval', 'loss': 1.0})
  run.status('done', 100, 100)
  assert reproducibility.read(run.path).ends == ()
  run.change({'run.steps': (40, 100)}, directory.read_run(run.path), directory.read_config(run.path))
  read = reproducibility.read(run.path)
  assert read.ends == (40,)
  assert [(row['step'], row['kind']) for row in read.until(100).rows] == [(40, 'train'), (100, 'train'), (100, 'eval')]


# Whole runs.


def train(folder, **overrides):
  """A tiny language model on a text of its own, as `launch.py` would train it; (run directory, exit code)."""
  text = folder / 'text'
  text.mkdir(exist_ok=True)
  (text / 'a.txt').write_text('how to say a thing twice\n' * 400)
  config = tiny.config('lm', data__name=f'text:{text}/*.txt', data__split='auto', **overrides)
  config = config_lib.override(config, {'run.name': 'lm'})
  origin = Origin(['launch.py'], ConfigFile('configs/lm.py'))
  path = directory.RunDir.create(folder / 'runs', 'lm').path
  try:
    return path, open_run.work(config, str(path), '', origin)
  except Diverged:
    return path, None


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(a run, a bit-identical reproduction of it): shared, not to be changed."""
  path, code = train(tmp_path_factory.mktemp('reproduce'))
  assert code == DONE
  done = again(path, f'--report={path.parent.parent / "report.json"}')
  assert done.returncode == 0, (done.stdout, done.stderr)
  [other] = [p for p in path.parent.iterdir() if p != path]
  return path, other, done


@pytest.fixture
def copy(run, tmp_path):
  """A copy of the run to tamper with."""
  return shutil.copytree(run[0], tmp_path / 'runs' / 'lm' / 'copy')


def again(*words):
  return cli.command('gen_ai.reproduce', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words)


def tamper(path, step, kind, **values):
  """Changes metrics of one row; a value that is a function takes what is there."""
  lines = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  [row] = [line for line in lines if (line['step'], line['kind']) == (step, kind)]
  row |= {name: value(row[name]) for name, value in values.items()}
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_a_run_reproduces_bit_for_bit(run):
  path, other, done = run
  assert 'verdict    identical: all 6 rows up to step 8 are bit-identical' in done.stdout
  assert 'differs    ' not in done.stdout, 'same code, machine and versions'
  assert 'tolerance  |a - b| <= 1e-05 + 0.001 |a|' in done.stdout
  assert tiny.rows(path) == tiny.rows(other)
  assert directory.read_config(path) == directory.read_config(other)
  assert directory.read_run(other)['config_file']['path'] == 'configs/lm.py'
  assert directory.read_run(other)['argv'][0].endswith('reproduce.py')
  report = json.loads((path.parent.parent / 'report.json').read_text())
  assert (report['verdict'], report['recorded'], report['again']) == (IDENTICAL, str(path), str(other))
  assert (report['first_changed'], report['first_different']) == (None, None)
  assert [row['step'] for row in report['rows']] == [2, 4, 4, 6, 8, 8]


def test_a_changed_metric_is_found_at_its_step(run, copy, tmp_path):
  tamper(copy, 6, 'train', loss_nats=lambda value: value * 1.0001)
  tamper(copy, 8, 'eval', bits_per_byte=lambda value: value * 1.1)
  done = again(copy, f'--out={run[1]}', f'--report={tmp_path / "report.json"}')  # it is complete: only compared
  assert done.returncode == 1
  verdict = done.stdout.splitlines()[-1]
  assert verdict.startswith(
    'verdict    different: identical before step 6; out of tolerance from eval bits_per_byte at step 8'
  )
  report = json.loads((tmp_path / 'report.json').read_text())
  assert (report['first_changed']['step'], report['first_changed']['metric']) == (6, 'loss_nats')
  assert (report['first_different']['step'], report['first_different']['kind']) == (8, 'eval')
  assert report['first_changed']['verdict'] == WITHIN
  assert [row['verdict'] for row in report['rows']] == [*[IDENTICAL] * 3, WITHIN, IDENTICAL, DIFFERENT]
  assert again(copy, f'--out={run[1]}', '--rtol=0.2').returncode == 0
  assert again(copy, f'--out={run[1]}', '--steps=6', '--rtol=0').returncode == 1


def test_the_first_steps_alone(copy):
  tamper(copy, 8, 'train', loss_nats=lambda value: value + 1)
  done = again(copy, '--steps=5')
  assert done.returncode == 0, done.stderr
  assert 'verdict    identical: all 3 rows up to step 4 are bit-identical' in done.stdout
  [other] = [p for p in copy.parent.iterdir() if p != copy]
  assert (directory.read_status(other)['state'], directory.read_status(other)['step']) == ('stopped', 6)
  assert directory.read_config(other) == directory.read_config(copy), 'schedules are those of the whole run'
  assert tiny.rows(other) == [row for row in tiny.rows(copy) if row['step'] <= 6]
  # Later, the rest.
  done = again(copy, f'--out={other}')
  assert (
    done.returncode == 1 and 'identical before step 8; out of tolerance from train loss_nats at step 8' in done.stdout
  )
  for steps in (1, -1):
    cli.refused(again(copy, f'--steps={steps}'), f'--steps={steps} is before the first row', 'step 2')


def test_a_run_that_was_killed_is_compared_as_far_as_it_came(run, copy):
  lines = (copy / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (copy / 'metrics.jsonl').write_text(''.join(lines[:4]) + lines[4][:20])
  directory.RunDir(copy).status('running', 6, 8)
  done = again(copy, f'--out={run[1]}')
  assert done.returncode == 0
  assert f'recorded   {copy} (running)' in done.stdout
  assert 'identical: all 4 rows up to step 6 are bit-identical' in done.stdout


def test_a_lane_of_a_packed_sweep_is_run_alone(run, copy):
  about = json.loads((copy / 'run.json').read_text())
  (copy / 'run.json').write_text(json.dumps({**about, 'lanes': 16, 'versions': {**about['versions'], 'jax': '0.0.1'}}))
  tamper(copy, 4, 'eval', bits_per_byte=lambda value: value * (1 + 1e-6))
  done = again(copy, f'--out={run[1]}')
  assert done.returncode == 0
  assert 'it was one of 16 lanes of a packed sweep' in done.stdout
  assert 'differs    lanes of its program: 16 there, 1 here' in done.stdout
  assert 'differs    version of jax: 0.0.1 there, ' in done.stdout
  assert (
    'verdict    within tolerance: all 6 rows up to step 8 are within tolerance; identical before step 4' in done.stdout
  )


def test_a_diverged_run_diverges_again_at_the_same_step(tmp_path):
  path, code = train(tmp_path, optim__lr=1e30)
  assert code is None
  done = again(path)
  assert done.returncode == 0, (done.stdout, done.stderr)
  assert 'diverged   ' in done.stdout and 'both diverged at step' in done.stdout.splitlines()[-1]
  [other] = [p for p in path.parent.iterdir() if p != path]
  assert directory.read_status(other)['state'] == 'diverged'
  assert tiny.rows(other)[-1]['kind'] == 'diverged' and len(tiny.rows(other)) == len(tiny.rows(path))
  # A record that says otherwise.
  kept = [line for line in (path / 'metrics.jsonl').read_text().splitlines() if 'diverged' not in line]
  sound = {'step': 8, 'kind': 'train', 'attempt': 1, 'seconds': 1.0, 'loss_nats': 1.0}
  (path / 'metrics.jsonl').write_text('\n'.join([*kept, json.dumps(sound)]) + '\n')
  directory.RunDir(path).status('done', 8, 8)
  done = again(path)
  assert done.returncode == 1
  assert 'the recorded run did not diverge, this one diverged at step' in done.stdout


def test_other_data_and_no_data_are_refused_before_anything_is_made(tmp_path):
  path, _ = train(tmp_path)
  (tmp_path / 'text' / 'a.txt').write_text('other words\n' * 900)
  cli.refused(again(path), str(path), 'was trained on other data')
  (tmp_path / 'text' / 'a.txt').unlink()
  cli.refused(again(path), 'text:', '--config.data.name=NAME')
  moved = '--config.data.name=python_stdlib'
  cli.refused(again(path, moved, '--config.data.split=auto'), '--config.data.split would make it another run', 'moved')
  cli.refused(again(path, moved), 'was trained on other data')
  assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_reproduced_is_refused(run, copy, tmp_path):
  path, other, _ = run
  cli.refused(again(), 'takes one run directory')
  cli.refused(again(path, other), 'takes one run directory')
  cli.refused(again(tmp_path / 'none'), 'is not a run directory')
  cli.refused(again(path, '--config.optim.lr=1'), '--config.optim.lr would make it another run')
  cli.refused(again(path, f'--out={path}'), 'is the run itself')
  cli.refused(again(path, f'--report={tmp_path}/no/such/report.json'), 'lies in no folder')
  (tmp_path / 'file').write_text('')
  cli.refused(again(path, f'--out={tmp_path / "file"}'), 'is in the way')
  (copy.parent / 'sweep.json').write_text('{}')
  cli.refused(again(copy.parent), 'is a sweep: name the directory of one of its runs')
  config = json.loads((copy / 'config.json').read_text())
  (copy / 'config.json').write_text(json.dumps({**config, 'optim': {**config['optim'], 'lr': 0.5}}))
  cli.refused(again(copy, f'--out={other}'), 'holds a run of another config', 'config.optim.lr')
  (copy / 'metrics.jsonl').write_text('{"step": 2, "ki')
  (copy / 'config.json').write_text((path / 'config.json').read_text())
  cli.refused(again(copy), 'has no metrics')
  about = json.loads((copy / 'run.json').read_text())
  (copy / 'run.json').write_text(json.dumps({'data': about['data'], 'git': about['git']}))
  cli.refused(again(copy), 'says nothing of versions, devices, host, environment')


def test_fields_that_are_newer_than_the_run_are_told(run, copy):
  config = json.loads((copy / 'config.json').read_text())
  del config['eval']['metrics'], config['sweep']
  (copy / 'config.json').write_text(json.dumps(config))
  done = again(copy, f'--out={run[1]}')
  assert done.returncode == 0, done.stderr
  assert "to be as it was then: config.eval.metrics='', config.sweep.lanes=0\n" in done.stdout


def copying(source, monkeypatch, rows=None, code=DONE):
  """Training replaced by a copy of a run, cut after `rows` rows."""

  def work(config, run_dir, *arguments, **options):
    shutil.copytree(source, run_dir, dirs_exist_ok=True)
    file = directory.RunDir(run_dir).path / 'metrics.jsonl'
    file.write_text(''.join(file.read_text().splitlines(keepends=True)[:rows]))
    return code

  monkeypatch.setattr(open_run, 'work', work)


def test_a_new_run_lies_next_to_the_others(run, copy, tmp_path, monkeypatch):
  copying(run[0], monkeypatch)
  sweep = copy.parent / 'sweep'
  sweep.mkdir()
  (sweep / 'sweep.json').write_text('{}')
  point = copy.rename(sweep / 'optim.lr=1')
  assert again(point).returncode == 0
  assert len([*sweep.iterdir()]) == 2 and len([*sweep.parent.iterdir()]) == 2, 'beside the sweep, not in it'
  elsewhere = shutil.copytree(point, tmp_path / 'elsewhere' / 'a')
  assert again(elsewhere).returncode == 0
  assert len([*(tmp_path / 'elsewhere' / 'lm').iterdir()]) == 1


def test_an_interrupted_reproduction_says_how_to_go_on(copy, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  copying(copy, monkeypatch, rows=3, code=REQUEUE)
  done = again(copy, f'--out={out}', '--steps=8')
  assert done.returncode == REQUEUE
  assert (
    f'interrupted at step 4. Go on with\n  python -m gen_ai.reproduce {copy} --out={out} --steps=8\n' in done.stdout
  )
  assert again(copy, f'--out={tmp_path / "more"}', '--steps=4').returncode == 0, 'far enough'
  copying(copy, monkeypatch, rows=0, code=REQUEUE)
  assert 'interrupted at step 0' in again(copy, f'--out={tmp_path / "none"}').stdout
