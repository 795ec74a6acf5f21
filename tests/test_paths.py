"""Runs live in folders of any name: no character of a path is a pattern, a separator or an end of a word."""

import os
from pathlib import Path

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gen_ai import compare
from gen_ai.compare.find import find
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.run import directory
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.sweep.directory import Sweep

NAME = '~a [1]*?{b,c}\'"#%&$d;:(|)<!>^`=@ -é漢字 '  # as one folder: every one of these is legal
STATE = {'w': jnp.arange(12.0).reshape(3, 4)}
ABSTRACT = jax.eval_shape(lambda: STATE)


def test_train_resume_sample_and_move_a_run_of_any_name(tmp_path):
  config, path = tiny.config('gan'), tmp_path / NAME / 'run [2]'
  assert tiny.run(config, path, stop=tiny.StopAt(2))[0] == REQUEUE
  assert tiny.run(config, path)[0] == DONE
  assert [row['step'] for row in directory.read_attempts(path)] == [0, 4, 4, 8]
  tiny.run(config, tmp_path / 'plain')
  assert tiny.rows(path) == tiny.rows(tmp_path / 'plain')
  (tmp_path / NAME).rename(tmp_path / f'moved {NAME}')
  path = tmp_path / f'moved {NAME}' / 'run [2]'
  for step in (4, 8):
    out = path.parent / f'{step}.png'
    done = cli.command('gen_ai.sample', path, '--n=4', f'--step={step}', f'--out={out}')
    assert done.returncode == 0, done.stderr
    assert out.is_file()
  assert list(compare.load(path).runs['state']) == ['done']


def test_lanes_of_a_sweep_in_a_folder_of_any_name(tmp_path):
  done = cli.launch(
    '--config=configs/gan.py', '--tiny', f'--runs_dir={tmp_path / NAME}', '--axis=run.seed=0:2', '--launcher=packed'
  )
  assert done.returncode == DONE, done.stderr
  [path] = (tmp_path / NAME / 'gan').iterdir()
  abstract = tiny.program(tiny.config('gan')).abstract_state()
  for trial in Sweep.open(path).trials:
    assert Checkpoints(path / trial.name / 'checkpoints', read_only=True).restore(abstract)[0] == 8
  assert cli.launch(f'--status={path}').stdout.count('done') >= 2
  assert len(compare.load(path).runs) == 2


def test_a_folder_behind_a_link_and_two_dots(tmp_path):
  (tmp_path / 'far' / 'away').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'far' / 'away')
  made = Checkpoints(tmp_path / 'link' / '..' / 'run')
  made.save(1, STATE)
  made.close()
  _, got = Checkpoints(tmp_path / 'far' / 'run', read_only=True).restore(ABSTRACT)
  np.testing.assert_array_equal(got['w'], STATE['w'])
  assert sorted(path.name for path in tmp_path.iterdir()) == ['far', 'link']


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('a\\b', 'holds a backslash'),
    ('gs:', "ends in 'gs:'"),
    (os.fsdecode(b'\xff'), 'no UTF-8'),
  ],
)
def test_what_storage_cannot_hold_is_refused_before_anything_is_written(name, says, tmp_path):
  words = ['--config=configs/gan.py', '--tiny']
  cli.refused(cli.launch(*words, f'--run_dir={tmp_path / name}'), says)
  cli.refused(cli.launch(*words, f'--runs_dir={tmp_path / name}', '--axis=run.seed=0:2'), says)
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match=says):
    directory.check_path(tmp_path / name / 'run')
  with pytest.raises(UserError, match=says):
    Checkpoints(tmp_path / name / 'run')


def test_a_pattern_below_a_folder_that_looks_like_one(tmp_path, monkeypatch):
  for run in ('a[1]/x1', 'a[1]/x2', 'a1/x1'):
    (tmp_path / run).mkdir(parents=True)
    (tmp_path / run / 'config.json').write_text('{}')
  monkeypatch.chdir(tmp_path)
  for patterns, wanted in (
    (['a[1]'], ['a[1]/x1', 'a[1]/x2']),
    (['a[1]/*2'], ['a[1]/x2']),
    (['a?/x*'], ['a1/x1']),
    (['a[1]/**'], ['a[1]/x1', 'a[1]/x2']),
  ):
    assert [place.path for place in find(patterns).places] == list(map(Path, wanted))
