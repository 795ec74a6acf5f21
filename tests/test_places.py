"""Default places where the user has no home folder, or one that cannot be written; ~ in paths that were named."""

import os

import cli
import jax
import pytest

from gen_ai.core import places
from gen_ai.core.errors import UserError
from gen_ai.data import store
from gen_ai.parallel import compilation_cache


def nobody(uid):
  raise KeyError(f'uid not found: {uid}')


@pytest.fixture
def homeless(monkeypatch, tmp_path):
  """No HOME, no entry of the user, as in a container with --user."""
  monkeypatch.delenv('HOME', raising=False)
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  monkeypatch.setattr('pwd.getpwuid', nobody)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  cached = jax.config.jax_compilation_cache_dir
  places.default.cache_clear()
  yield tmp_path / f'gen_ai-{os.getuid()}'
  places.default.cache_clear()
  jax.config.update('jax_compilation_cache_dir', cached)
  jax.config.update('jax_enable_compilation_cache', True)


def test_defaults_go_below_the_folder_of_temporary_files(homeless):
  assert places.default(places.DATA) == homeless / 'tensorflow_datasets' == store.data_folder('')
  assert compilation_cache.use_cache(places.COMPILED) == str(homeless / 'xla')
  assert homeless.stat().st_mode & 0o777 == 0o700


def test_what_others_may_write_is_no_place(homeless):
  homeless.mkdir()
  homeless.chmod(0o777)  # programs are loaded from there
  assert places.default(places.COMPILED) is None
  assert compilation_cache.use_cache(places.COMPILED) == ''
  with pytest.raises(UserError, match='config.data.data_dir'):
    store.data_folder('')


def test_what_was_asked_for_by_name_is_refused(homeless):
  for words in (
    ['--config=configs/gan.py', '--tiny', '--config.data.name=folder:~/pets'],
    ['--config=configs/lm.py', '--tiny', '--config.data.name=text:~/a.txt', '--config.data.split=auto'],
    ['--config=configs/gan.py', '--tiny', '--config.data.data_dir=~/sets'],
    ['--config=configs/gan.py', '--tiny', '--compilation_cache=~/xla'],
  ):
    cli.refused(cli.launch(*words), 'there is no home folder for ~ here', '~/')


def test_a_home_that_holds_something_or_can_be_written_is_used(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  places.default.cache_clear()
  assert places.default(places.DATA) == tmp_path / 'tensorflow_datasets'
  (tmp_path / 'file').touch()
  monkeypatch.setenv('HOME', str(tmp_path / 'file'))
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  places.default.cache_clear()
  assert places.default(places.DATA) == tmp_path / f'gen_ai-{os.getuid()}' / 'tensorflow_datasets'
  places.default.cache_clear()
