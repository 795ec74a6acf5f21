"""What run.json tells, and what it must not tell."""

import json
import subprocess

import pytest

from gen_ai.core.errors import UserError
from gen_ai.core.files import dumps, sha256
from gen_ai.run import provenance
from gen_ai.run.info import ConfigFile, DataInfo, GitState, Origin, RunInfo

CONFIG = {'run': {'name': 'a', 'seed': 1}, 'data': {'name': 'd', 'seed': 2}, 'optim': {'lr': 0.1}}


def changed(section, field, value):
  return {**CONFIG, section: {**CONFIG[section], field: value}}


def git(path, *arguments):
  who = ('-c', 'user.name=t', '-c', 'user.email=t@t', '-c', 'commit.gpgsign=false')
  subprocess.run(['git', '-C', str(path), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def source(tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  git(source, 'init')
  (source / 'a.py').write_text('x = 1\n')
  git(source, 'add', '.')
  git(source, 'commit', '-m', 'first')
  return source


def collect(tmp_path, source, config_file='toy.py'):
  (tmp_path / 'toy.py').write_text('# claim\n')
  data = DataInfo(name='d', version='1.0.0', split_rule='r', fingerprint='f')
  file = provenance.describe_file(str(tmp_path / config_file))
  origin = Origin(['launch.py', '--x'], file, {'optim.lr': 0.1})
  return provenance.collect(origin, CONFIG, data, ['cpu'], tmp_path, source)


def test_hashes_group_what_differs_in_seeds_only():
  assert provenance.config_hash(CONFIG) == sha256(dumps(CONFIG))
  for section in ('run', 'data'):
    assert provenance.config_hash(changed(section, 'seed', 9)) != provenance.config_hash(CONFIG)
    assert provenance.group_hash(changed(section, 'seed', 9)) == provenance.group_hash(CONFIG)
  assert provenance.group_hash(changed('optim', 'lr', 0.2)) != provenance.group_hash(CONFIG)
  assert CONFIG['run']['seed'] == 1  # hashing changes nothing


def test_the_environment_is_an_allow_list(monkeypatch):
  monkeypatch.setenv('JAX_SOME_FLAG', '1')
  monkeypatch.setenv('SLURM_JOB_ID', '7')
  for name in ('WANDB_API_KEY', 'MY_JAX_TOKEN', 'SLURM_JOB_ID_SECRET', 'AWS_SECRET_ACCESS_KEY'):
    monkeypatch.setenv(name, 'hunter2')
  found = provenance.environment()
  assert found['JAX_SOME_FLAG'] == '1' and found['SLURM_JOB_ID'] == '7'
  assert 'hunter2' not in found.values() and 'PATH' not in found


def test_a_clean_tree_is_its_commit(tmp_path, source):
  run = collect(tmp_path, source)
  assert len(run.git.commit) == 40 and run.git.dirty is False
  assert not (tmp_path / provenance.PATCH).exists()
  assert run.versions['jax'] and run.versions['python']
  assert run.config_file == ConfigFile(str(tmp_path / 'toy.py'), '', sha256('# claim\n'), '# claim\n')
  written = json.loads(dumps(run.to_json()))
  assert json.loads(dumps(RunInfo.from_json(written).to_json())) == written, 'one class writes it and reads it'


def test_uncommitted_changes_are_a_patch_that_applies(tmp_path, source, monkeypatch):
  monkeypatch.chdir('/')  # where the process stands says nothing about its source
  (source / 'a.py').write_text('x = 2\n')
  (source / 'new.py').write_text('')
  state = collect(tmp_path, source).git
  assert state.dirty and state.untracked == ['new.py'] and not state.patch_cut
  patch = tmp_path / state.patch
  assert sha256(patch.read_bytes()) == state.patch_sha256
  git(source, 'checkout', 'a.py')
  git(source, 'apply', str(patch))
  assert (source / 'a.py').read_text() == 'x = 2\n'


def test_a_huge_patch_is_cut_and_says_so(tmp_path, source):
  (source / 'a.py').write_text('# line\n' * 300_000)
  state = collect(tmp_path, source).git
  assert state.patch_cut and (tmp_path / state.patch).stat().st_size == 1 << 20


def test_no_repository_no_git_and_a_foreign_repository_are_tolerated(tmp_path, source, monkeypatch):
  bare, inside = tmp_path / 'bare', source / 'site-packages'
  bare.mkdir()
  inside.mkdir()
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path))
  assert collect(tmp_path, bare).git == GitState()
  assert collect(tmp_path, inside).git == GitState()
  monkeypatch.setenv('PATH', '')
  assert collect(tmp_path, source).git == GitState()


def test_the_config_file_with_an_argument(tmp_path, source):
  described = collect(tmp_path, source, 'toy.py:fashion_mnist').config_file
  assert described.path == str(tmp_path / 'toy.py') and described.argument == 'fashion_mnist'
  with pytest.raises(UserError, match=r'cannot read the config file .*other\.py'):
    collect(tmp_path, source, 'other.py')
