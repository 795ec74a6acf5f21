"""Every command that the product prints works as it is copied: quoted, and speaking of the same experiment."""

import json
import os
import re
import shlex

import cli
import made_runs
import printed
import pytest
import tiny

from gen_ai import compare
from gen_ai import config as config_lib
from gen_ai.compare import report
from gen_ai.core import command_line
from gen_ai.core.errors import DONE
from gen_ai.run import directory

WORDS = ['--config=configs/gan.py', '--tiny', '--config.optim.lr=3e-4', '--config.run.trackers=']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder whose name a shell would split."""
  path = tmp_path_factory.mktemp('printed') / "a b's"
  path.mkdir()
  return path


@pytest.fixture(scope='module')
def run(folder):
  """(what a run said, its directory)."""
  done = cli.launch(*WORDS, f'--runs_dir={folder}/runs')
  assert done.returncode == DONE, done.stderr
  [path] = (folder / 'runs' / 'gan').iterdir()
  return done, path


@pytest.fixture(scope='module')
def sweep(folder):
  """(what a packed sweep said, its directory)."""
  done = cli.launch(*WORDS, '--axis=run.seed=0:2', f'--runs_dir={folder}/swept')
  assert done.returncode == DONE, done.stderr
  [path] = (folder / 'swept' / 'gan').iterdir()
  return done, path


def test_what_follows_a_run(run, folder):
  said, path = run
  done = printed.run_all(said.stdout, folder)
  modules = [re.search(r'gen_ai\.(\w+)|--list|--config', text)[0] for text in done]
  assert modules == ['gen_ai.sample', 'gen_ai.evaluate', '--config', '--list']
  assert (folder / 'grid.png').is_file()
  [other] = set((folder / 'runs' / 'gan').iterdir()) - {path}
  ours, theirs = (config_lib.from_json(directory.read_config(each)) for each in (path, other))
  assert config_lib.difference(ours, theirs) == {'run.seed': (0, 1)}, 'the same experiment, another seed'
  assert f'run        {other}' in next(said.stdout for text, said in done.items() if '--config=' in text)


def test_what_follows_a_sweep(sweep, folder):
  said, path = sweep
  assert re.search(r'step 8/8  loss_d [-\d.]+ to [-\d.]+ over 2 lanes', said.stdout), said.stdout
  done = printed.run_all(said.stdout, folder)
  assert ['gen_ai.compare', str(path)] in [shlex.split(text)[-2:] for text in done]
  assert all('so all are shown: --metric=NAME:min' in found.stdout.replace('\n  ', ' ') for found in done.values())
  stopped = cli.launch(f'--stop={path}')
  assert 'no trial is left to start' in ''.join(end.stdout for end in printed.run_all(stopped.stdout, folder).values())
  refused = cli.launch(f'--stop={path}', '--trial=9')
  assert 'done' in ''.join(end.stdout for end in printed.run_all(refused.stderr, folder).values())


def test_commands_of_a_sweep_for_another_scheduler(folder):
  said = cli.launch(*WORDS, '--axis=run.seed=0:1', '--launcher=print', f'--runs_dir={folder}/listed')
  [done] = printed.run_all(said.stdout, folder).values()
  assert 'done       8 steps' in done.stdout


def test_the_report_repeats_a_run(run, folder):
  report.write(compare.load(run[1]), folder / 'report.html', [('logit_gap', None)], [])
  data = json.loads(re.search(r'id="data">(.*?)</script>', (folder / 'report.html').read_text(), re.DOTALL)[1])
  about = dict(data['runs'][0]['about'])
  cache = f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}'
  assert shlex.split(about['started as'])[2:] == [cache, *WORDS, f'--runs_dir={folder}/runs']
  [done] = printed.run_all(about['reproduce'], folder).values()
  assert 'verdict    identical' in done.stdout


def test_the_way_out_of_mistakes(run, folder):
  path = run[1]
  other = cli.launch(*WORDS, '--config.optim.lr=1e-2', f'--run_dir={path}')
  assert other.returncode == 1
  assert 'is complete' in ''.join(said.stdout for said in printed.run_all(other.stderr, folder).values())
  (path / 'checkpoints').rename(path / 'elsewhere')
  (path / 'checkpoints').mkdir()
  try:
    [resume] = printed.commands(cli.command('gen_ai.sample', path).stderr)
    assert shlex.split(resume)[-1] == f'--resume={path}'
  finally:
    (path / 'checkpoints').rmdir()
    (path / 'elsewhere').rename(path / 'checkpoints')


def test_a_comparison_keeps_the_command_of_a_lost_run_in_one_piece(folder, monkeypatch):
  monkeypatch.setenv('COLUMNS', '60')
  made_runs.make(folder / 'lost' / 'one of two', state='running')
  [resume] = printed.commands(cli.command('gen_ai.compare', folder / 'lost').stdout)
  assert shlex.split(resume)[-1] == f'--resume={folder}/lost/one of two'


def test_elsewhere_than_in_the_checkout_a_command_says_where_it_is(folder, monkeypatch):
  assert command_line.printed('launch.py', resume='x y') == "python launch.py '--resume=x y'"
  assert command_line.printed('gen_ai.sample', 'x', n=2) == 'python -m gen_ai.sample x --n=2'
  monkeypatch.chdir(folder)
  done = tiny.command('-c', 'print()', cwd=folder)
  assert done.returncode == 0
  text = command_line.printed('gen_ai.compare', 'x')
  assert text == f'PYTHONPATH={shlex.quote(str(tiny.ROOT))} python -m gen_ai.compare x'
  assert printed.run(command_line.printed('launch.py', '--list'), folder).stdout.startswith('configs/')


@pytest.mark.parametrize('name', ['lm', 'vae', 'gan'])
def test_the_flags_of_a_config_make_it_again(name):
  reference = f'configs/{name}.py'
  changed = {
    'optim.lr': 1e-05,
    'run.seed': 4,
    'run.trackers': '',
    'data.name': 'text:/a b/*',
    'optim.clip_norm': 0.5,
  }
  for base in (config_lib.load(reference), tiny.config(name)):
    config = config_lib.override(base, changed)
    words = config_lib.as_flags(config, reference)
    argv, overrides = command_line.split_overrides(words)
    again = config_lib.override(
      config_lib.load(reference), {**(config_lib.tiny(reference) if '--tiny' in argv else {}), **overrides}
    )
    assert not config_lib.difference(config, again) and len(words) <= 2 + len(changed)
