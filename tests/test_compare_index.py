"""The derived SQLite index: right, rebuilt when a record changed, and safe to ask from several processes."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import made_runs
import pytest
import tiny
from cli import command, refused

from gen_ai.compare import index

ASK = 'import sys; from gen_ai.compare import index; print(index.ask(["runs"], "select count(*) from metrics")[1])'


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  made_runs.make('runs/vae/a', (3.0, 2.0), optim__lr=1e-4)
  made_runs.make('runs/vae/b', (4.0, float('nan')), optim__lr=1e-3)


def ask(query, **options):
  return index.ask(['runs'], query, **options)[1]


def test_tables():
  assert ask('select run, [final/nll_bpd] from runs') == [('runs/vae/a', 2.0), ('runs/vae/b', None)]
  assert ask('select run, step, [eval/nll_bpd], [train/loss_nats] from metrics') == [
    ('runs/vae/a', 50, 3.0, 6.0),
    ('runs/vae/a', 100, 2.0, 4.0),
    ('runs/vae/b', 50, 4.0, 8.0),
    ('runs/vae/b', 100, None, None),
  ]
  query = "select value from config where field = 'optim.lr' and value > 2e-4"
  assert ask(query) == [(1e-3,)]
  assert ask("select distinct value from config where field = 'model.latents'") == [('(16)',)]


def test_the_command_prints_a_table_with_tabs_for_programs():
  done = command('gen_ai.compare', 'runs', '--sql', 'select step, [eval/nll_bpd] as nll from metrics limit 2')
  assert done.stdout == 'step\tnll\n50\t3.0\n100\t2.0\n' and (Path('runs') / 'index.sqlite').is_file()


def test_the_index_is_kept_until_a_record_changes():
  ask('select 1')
  made = Path('runs/index.sqlite').stat().st_ino
  ask('select 2')
  assert Path('runs/index.sqlite').stat().st_ino == made
  with Path('runs/vae/a/metrics.jsonl').open('a') as file:
    file.write('{"step": 110, "kind": "eval", "attempt": 1, "seconds": 9.0, "nll_bpd": 1.0}\n')
  assert ask("select [final/nll_bpd] from runs where run like '%a'") == [(1.0,)]
  made_runs.make('runs/vae/c')
  assert ask('select count(*) from runs') == [(3,)]
  assert ask("select [last_k/nll_bpd] from runs where run like '%a'", last_k=1) == [(1.0,)]


def test_an_index_of_other_runs_or_a_broken_one_is_made_anew():
  assert index.ask(['runs/vae/a'], 'select count(*) from runs', 'i.sqlite')[1] == [(1,)]
  assert ask('select count(*) from runs', path='i.sqlite') == [(2,)]
  with sqlite3.connect('i.sqlite') as base:
    base.execute('delete from about')
  base.close()
  assert ask('select count(*) from runs', path='i.sqlite') == [(2,)]


def test_a_file_that_is_no_index_is_left_alone():
  Path('notes.txt').write_text('mine')
  refused(command('gen_ai.compare', 'runs', '--sql=select 1', '--index=notes.txt'), 'is no index')
  assert Path('notes.txt').read_text() == 'mine'
  refused(command('gen_ai.compare', 'runs', '--sql=select 1', '--index=runs'), 'is a folder')


@pytest.mark.parametrize(
  'query',
  [
    'drop table runs',
    'delete from runs',
    "attach 'other.sqlite' as other",
    "update runs set name = ''",
    'create table t (a)',
    'pragma journal_mode = wal',
  ],
)
def test_queries_only_read(query):
  refused(command('gen_ai.compare', 'runs', '--sql', query), 'can only select')
  assert ask('select count(*) from runs') == [(2,)]
  assert not Path('other.sqlite').exists()


@pytest.mark.parametrize(
  ('query', 'says'),
  [
    ('select lr from runs', 'no such column: lr'),
    ('select * from run', 'no such table: run'),
    ('selec 1', 'syntax error'),
    ('select 1; select 2', 'one statement'),
    ('select [final/fid] from runs', 'final/fid'),
  ],
)
def test_a_wrong_query_is_shown_tables_and_columns(query, says):
  refused(
    command('gen_ai.compare', 'runs', '--sql', query),
    says,
    'runs: run, name,',
    '[final/nll_bpd]',
    'metrics: run, step,',
    'config: run, field, value',
  )


def test_an_index_where_nothing_can_be_written():
  Path('file').touch()
  refused(command('gen_ai.compare', 'runs', '--sql=select 1', '--index=file/i.sqlite'), '--index=file/i.sqlite')


def test_several_processes_at_once_get_answers(tmp_path):
  env = {**os.environ, 'PYTHONPATH': str(tiny.ROOT)}
  workers = [
    subprocess.Popen([sys.executable, '-c', ASK], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(3)
  ]
  for worker in workers:
    out, err = worker.communicate(timeout=60)
    assert (out, err) == ('[(4,)]\n', '')
  assert [path.name for path in (tmp_path / 'runs').iterdir() if path.is_file()] == ['index.sqlite']


def test_a_new_index_does_not_disturb_one_that_is_being_read():
  ask('select 1')
  with index._open(Path('runs/index.sqlite')) as base:
    made_runs.make('runs/vae/c')
    assert ask('select count(*) from runs') == [(3,)]
    assert base.execute('select count(*) from runs').fetchall() == [(2,)]
