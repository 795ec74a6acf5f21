"""--where, --csv, --diff: choosing among runs, and writing them out."""

from pathlib import Path

import made_runs
import pandas as pd
import pytest
from cli import command, refused

from gen_ai.compare import load, select
from gen_ai.core.errors import UserError


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def frame():
  """Three runs: a (lr 1e-4), b (lr 1e-3, stopped), c (lr 1e-2, widths (8,), other code)."""
  made_runs.make('runs/a', model__network='mlp', optim__lr=1e-4)
  made_runs.make('runs/b', model__network='mlp', optim__lr=1e-3, state='stopped')
  made_runs.make(
    'runs/c',
    model__network='mlp',
    optim__lr=1e-2,
    model__widths=(8,),
    model__conditional=True,
    protocol={'about': {'git': {'commit': 'beef' * 10}}},
  )
  return load('runs').runs


@pytest.mark.parametrize(
  ('conditions', 'kept'),
  [
    (['optim.lr>=1e-3'], 'bc'),
    (['optim.lr<1e-3'], 'a'),
    (['optim.lr = 0.001'], 'b'),
    (['optim.lr!=1e-3'], 'ac'),
    (['lr<=.001'], 'ab'),
    (['config.optim.lr>1e-4'], 'bc'),
    (['state=done'], 'ac'),
    (['state!=done'], 'b'),
    (['model.widths=(8,)'], 'c'),
    (['model.widths=[512,256]'], 'ab'),
    (['model.conditional=true'], 'c'),
    (['model.conditional==0'], 'ab'),
    (['commit=beef'], 'c'),
    (['commit!=beef'], 'ab'),
    (['run=runs/b'], 'b'),
    (['final/nll_bpd<2', 'optim.lr<1e-2'], 'ab'),
    (["sweep=''"], 'abc'),
    (['sweep='], 'abc'),
    (['step>=50', 'state=stopped'], 'b'),
    (['optim.lr!=word'], 'abc'),
  ],
)
def test_conditions(frame, conditions, kept):
  assert select.where(frame, conditions).index.tolist() == [f'runs/{name}' for name in kept]


def test_a_run_without_the_field_fulfils_unequal_alone(frame):
  frame['config.loss.weight'] = pd.Series([None, 1.0, 2.0], index=frame.index, dtype=object)
  assert select.where(frame, ['loss.weight>0']).index.tolist() == ['runs/b', 'runs/c']
  assert select.where(frame, ['loss.weight!=1']).index.tolist() == ['runs/a', 'runs/c']


@pytest.mark.parametrize(
  ('condition', 'says'),
  [
    ('optim.lr>1', "'optim.lr>1' leaves no run: optim.lr is 0.0001, 0.001, 0.01"),
    ('optim.lrr>1', "no run has a field 'optim.lrr'. Did you mean 'optim.lr'"),
    ('seed=1', 'leaves no run: seed is 0'),
    ('decay>1', "no run has a field 'decay'"),
    ('batch_size>1', 'Did you mean data.batch_size or eval.batch_size'),
    ('optim.lr', 'must read FIELD OPERATOR VALUE'),
    ('optim.lr>=', 'must read FIELD OPERATOR VALUE'),
    ('commit=dead', 'leaves no run: commit is c0ffeec0ffee, beefbeefbeef.'),
  ],
)
def test_conditions_that_cannot_be(frame, condition, says):
  with pytest.raises(UserError) as caught:
    select.where(frame, [condition])
  assert says in str(caught.value)


def test_where_on_the_command_line(frame):
  done = command('gen_ai.compare', 'runs', '--where', 'optim.lr>=1e-3', '--where=state=done')
  assert done.returncode == 0 and done.stdout.startswith('1 run in 1 group')
  refused(command('gen_ai.compare', 'runs', '--where=optim.lr>9'), 'leaves no run')


def test_csv_is_the_frame(frame):
  done = command('gen_ai.compare', 'runs', '--csv=out/runs.csv')
  assert done.returncode == 0 and 'out/runs.csv' in done.stdout
  read = pd.read_csv('out/runs.csv', index_col='run')
  assert list(read.columns) == list(frame.columns) and read.index.tolist() == frame.index.tolist()
  assert read['config.optim.lr'].tolist() == [1e-4, 1e-3, 1e-2]


def test_csv_to_the_terminal_is_nothing_else(frame):
  done = command('gen_ai.compare', 'runs', '--csv=-', '--where=state=done')
  assert done.stdout.startswith('run,name,') and len(done.stdout.splitlines()) == 3


def test_csv_that_cannot_be_written(frame):
  Path('file').touch()
  refused(command('gen_ai.compare', 'runs', '--csv=file/runs.csv'), 'file/runs.csv')


def test_diff_of_two_runs(frame):
  about = {
    'environment': {'XLA_FLAGS': '--a'},
    'git': {'commit': 'beef', 'dirty': True, 'patch_sha256': 'cd' * 32, 'patch': 'uncommitted.patch'},
    'versions': {'python': '3.12.1', 'jax': '0.10.2'},
    'host': {'name': 'other', 'platform': 'Linux', 'cpus': 2},
    'devices': ['cuda:0'],
  }
  made_runs.make('runs/d', optim__lr=1.0, protocol={'about': about, 'data': {'fingerprint': 'ff' * 32}})
  done = command('gen_ai.compare', '--diff', 'runs/a', 'runs/d')
  assert done.returncode == 0, done.stderr
  words = [line.split() for line in done.stdout.splitlines()]
  for expected in (
    ['optim.lr', '0.0001', '1'],
    ['python', '3.11.7', '3.12.1'],
    ['host', 'box', 'other'],
    ['XLA_FLAGS', '(absent)', '--a'],
    ['commit'],
    ['fingerprint'],
  ):
    assert expected in words, done.stdout
  assert 'uncommitted changes of B: runs/d/uncommitted.patch' in done.stdout and 'ff' * 32 in done.stdout
  assert 'run.steps' not in done.stdout and ['no', 'difference', 'in', 'evaluation'] in words


def test_diff_of_a_run_with_itself(frame):
  done = command('gen_ai.compare', '--diff', 'runs/a', 'runs/a')
  assert 'no difference  in config, code, data, evaluation, environment, variables' in done.stdout


@pytest.mark.parametrize('words', ['runs/a', 'runs/a runs/b runs/c', 'runs/a runs', 'runs/a nowhere'])
def test_diff_takes_two_runs(frame, words):
  refused(command('gen_ai.compare', '--diff', *words.split()), '--diff')


@pytest.mark.parametrize('flag', ['--where=state=done', '--by=optim.lr', '--metric=nll_bpd:min', '--csv=-', '--runs'])
@pytest.mark.parametrize('mode', ['--diff', '--sql=select 1'])
def test_flags_that_would_have_no_effect_are_refused(frame, mode, flag):
  name = flag.partition('=')[0]
  says = f'{name} is for a comparison', f'and this is {mode.partition("=")[0]}: leave {name} out'
  refused(command('gen_ai.compare', 'runs/a', 'runs/b', mode, flag), *says)


@pytest.mark.parametrize(
  ('words', 'name'),
  [
    ('--runs --by=optim.lr', 'by'),
    ('--runs --baseline=A', 'baseline'),
    ('--csv=- --html=x.html', 'html'),
    ('--csv=- --budget', 'budget'),
    ('--diff --sql=select', 'sql'),
    ('--sql=select --force', 'force'),
    ('--diff --last_k=3', 'last_k'),
    ('--index=x.sqlite', 'index'),
  ],
)
def test_flags_of_another_use_are_refused(frame, words, name):
  refused(command('gen_ai.compare', 'runs/a', 'runs/b', *words.split()), f'leave --{name} out')
