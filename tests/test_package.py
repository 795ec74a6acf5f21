"""The package: what it requires, what a wheel holds and does in any folder, and gen-ai, one name for all commands."""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
import zipfile
from pathlib import Path

import cli
import pytest
import tiny
from packaging.requirements import Requirement

import gen_ai
from gen_ai import config as config_lib
from gen_ai.core import command_line, installation
from gen_ai.core import command_table as commands
from gen_ai.core.errors import UserError
from gen_ai.run import provenance

PROJECT = tomllib.loads((tiny.ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']


def listed(file):
  """The requirements of a file and of those it names with -r, but for requirements.txt itself; normalised."""
  found = set()
  for line in file.read_text().splitlines():
    line = line.partition('#')[0].strip()
    if line.startswith('-r '):
      other = (file.parent / line[3:]).resolve()
      found |= listed(other) if other != tiny.ROOT / 'requirements.txt' else set()
    elif line:
      found.add(str(Requirement(line)))
  return found


def declared(words):
  """The requirements of pyproject.toml, gen_ai's own extras put in; normalised."""
  found = set()
  for requirement in map(Requirement, words):
    if requirement.name == 'gen_ai':
      found |= declared([word for extra in requirement.extras for word in EXTRAS[extra]])
    else:
      found.add(str(requirement))
  return found


def test_requirements_files_and_pyproject_say_the_same():
  assert listed(tiny.ROOT / 'requirements.txt') == declared(PROJECT['dependencies'])
  files = {file.stem: listed(file) for file in (tiny.ROOT / 'requirements').glob('*.txt')}
  assert files == {extra: declared(words) for extra, words in EXTRAS.items()}


def test_accelerators_take_the_jax_of_the_base():
  base = {Requirement(word).name: Requirement(word).specifier for word in PROJECT['dependencies']}
  for extra in ('cuda12', 'cuda13', 'tpu'):
    [jax] = map(Requirement, EXTRAS[extra])
    assert (jax.name, jax.extras, jax.specifier) == ('jax', {extra}, base['jax'])


def test_the_version_is_one():
  assert gen_ai.__version__ == PROJECT['version']


def test_every_requirement_is_explained():
  table = (tiny.ROOT / 'WORKSPACE.md').read_text().partition('## Dependencies and why')[2].partition('\n## ')[0]
  explained = set(re.findall(r'[\w-]+', ' '.join(row.split('|')[1] for row in table.splitlines() if '|' in row)))
  names = {Requirement(word).name for words in [PROJECT['dependencies'], *EXTRAS.values()] for word in words}
  assert names - {'gen_ai'} <= explained


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """A folder of installed packages that holds gen_ai's wheel."""
  pytest.importorskip('hatchling', reason='needs hatchling of requirements/dev.txt')
  folder = tmp_path_factory.mktemp('wheel')
  done = subprocess.run(
    [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', folder], cwd=tiny.ROOT, capture_output=True
  )
  assert done.returncode == 0, done.stderr
  [wheel] = folder.glob('*.whl')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / 'site')
  return folder / 'site'


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
  """A user's folder, with an experiments/ and a configs/ of their own."""
  folder = tmp_path_factory.mktemp('elsewhere')
  for name in ('experiments', 'configs'):
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text("raise RuntimeError('of the user')\n")
  (folder / 'configs' / 'mine.py').write_text((tiny.ROOT / 'configs' / 'gan.py').read_text())
  return folder


def installed(site, folder, *words):
  """What `gen-ai WORDS` does in `folder`, where the wheel is installed; what it said."""
  done = tiny.command('-m', 'gen_ai', *words, cwd=folder, env={'PYTHONPATH': str(site)})
  assert done.returncode == 0, (done.stdout, done.stderr)
  return done.stdout


def test_a_wheel_holds_all_that_git_does_and_no_common_name(site):
  tops = {path.name for path in site.iterdir()}
  assert tops == {'gen_ai', f'gen_ai-{gen_ai.__version__}.dist-info'}
  tracked = subprocess.run(
    ['git', 'ls-files', '-co', '--exclude-standard', 'gen_ai', 'configs', 'experiments'],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  names = [name for name in tracked.stdout.splitlines() if (tiny.ROOT / name).is_file()]
  expected = {name if name.startswith('gen_ai/') else f'gen_ai/_shipped/{name}' for name in [*names, 'launch.py']}
  assert {str(path.relative_to(site)) for path in (site / 'gen_ai').rglob('*') if path.is_file()} == expected
  entry = (site / f'gen_ai-{gen_ai.__version__}.dist-info' / 'entry_points.txt').read_text()
  assert 'gen-ai = gen_ai.__main__:main' in entry


def test_what_is_installed_works_in_a_folder_of_its_own(site, elsewhere):
  configs = installed(site, elsewhere, 'train', '--list')
  assert [line.split()[0] for line in configs.splitlines()] == [f'configs/{name}.py' for name in tiny.CONFIGS]
  cache = f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}'
  said = installed(site, elsewhere, 'train', '--config=mine', '--tiny', '--config.run.trackers=', cache)
  [sample] = re.findall(r'^  (gen-ai sample \S+)', said, re.MULTILINE)
  assert 'gen-ai train --config=configs/mine.py --tiny' in said and 'python' not in said
  installed(site, elsewhere, *shlex.split(sample)[1:], '--n=4', '--out=grid.png')
  assert (elsewhere / 'grid.png').stat().st_size > 0


def test_help_is_one_screen_that_names_every_command():
  done = cli.command('gen_ai', '--help')
  lines = done.stdout.splitlines()
  assert done.returncode == 0 and len(lines) <= 24 and max(map(len, lines)) <= 120
  for name, told in commands.COMMANDS.items():
    assert any(line.startswith(f'  gen-ai {name} ') and line.endswith(told.about) for line in lines)
    script = told.target.endswith('.py')
    assert (tiny.ROOT / told.target).is_file() if script else importlib.util.find_spec(told.target), told.target


def test_a_command_by_name_does_what_it_does_by_itself():
  assert cli.command('gen_ai', 'launch', '--list') == cli.command('gen_ai', 'train', '--list') == cli.launch('--list')
  by_name, by_itself = (cli.command(*words, 'nowhere') for words in (('gen_ai', 'sample'), ('gen_ai.sample',)))
  assert by_name == by_itself and by_name.returncode == 1 and 'nowhere' in by_name.stderr
  assert cli.command('gen_ai', '--version').stdout.startswith(f'gen_ai {gen_ai.__version__} ')


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['smaple'], "'smaple' is no command. Did you mean 'sample'?"),
    (['xyzzy'], "'xyzzy' is no command. There are train, "),
    ([], 'no command is given. There are train, '),
  ],
  ids=['near', 'far', 'none'],
)
def test_a_mistyped_command(words, says):
  cli.refused(cli.command('gen_ai', *words), says, 'gen-ai --help')


def test_printed_commands_where_the_package_is_installed(monkeypatch):
  monkeypatch.setattr(installation, 'PACKAGED', True)
  assert command_line.printed('launch.py', resume='x y') == "gen-ai train '--resume=x y'"
  assert command_line.printed('gen_ai.compare', 'x') == 'gen-ai compare x'
  assert command_line.printed('gen_ai.convert_inception', 'x') == 'python -m gen_ai.convert_inception x'
  assert command_line.started([str(installation.SOURCE / 'launch.py'), '--tiny']) == 'gen-ai train --tiny'
  assert (installation.pip(), installation.pip('tfds')) == ('pip install gen_ai', "pip install 'gen_ai[tfds]'")


@pytest.mark.parametrize(
  ('about', 'anywhere'),
  [
    ('{{"url": "file://{here}", "dir_info": {{"editable": true}}}}', True),
    ('{{"url": "file://{here}", "dir_info": {{}}}}', False),  # a copy of this checkout as it was
    ('{{"url": "file:///somewhere/else", "dir_info": {{"editable": true}}}}', False),
    ('{{"url": "https://host/gen_ai.whl", "archive_info": {{}}}}', False),
  ],
  ids=['editable', 'copy', 'another', 'archive'],
)
def test_only_an_editable_installation_runs_this_checkout_anywhere(about, anywhere, monkeypatch):
  text = about.format(here=tiny.ROOT)
  found = types.SimpleNamespace(read_text=lambda name: text if name == 'direct_url.json' else None)
  monkeypatch.setattr(importlib.metadata, 'distribution', lambda name: found)
  assert installation.anywhere() is anywhere


def test_another_package_of_the_name_experiments_is_named(monkeypatch, tmp_path):
  other = types.ModuleType('experiments')
  other.__path__ = [str(tmp_path)]
  monkeypatch.setitem(sys.modules, 'experiments', other)
  with pytest.raises(UserError, match=f'{tmp_path}.*hides {re.escape(str(tiny.ROOT))}'):
    config_lib.experiment(config_lib.load('configs/gan.py'))


def test_a_config_is_found_by_its_name(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert config_lib.load('gan') == config_lib.load('configs/gan.py')
  assert config_lib.load('gan:fashion_mnist').data.name == 'fashion_mnist'
  described = provenance.describe_file('gan:folder:/a:b')
  assert (described.path, described.argument) == ('configs/gan.py', 'folder:/a:b')
  Path('configs').mkdir()
  Path('configs/mine.py').write_text('from gen_ai.config import common\ndef get_config(): return common("gan", "x")\n')
  assert config_lib.load('mine').data.name == 'x'
  Path('configs/mine.py').rename('gan')  # a file of that very name
  assert config_lib.load('gan').data.name == 'x'
