"""The commands of README.md and WORKSPACE.md run as they are written, in copies of the checkout, made tiny."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from experiments import vae

BLOCK = re.compile(r'```bash\n(.*?)```', re.DOTALL)
# What `.ci/run` itself runs, or what would run this very suite.
ELSEWHERE = ('pip install', 'uv sync', 'python -m pytest', 'ruff check')
# What commands share: a variable of the shell, the folder of a config's runs, a file, a folder of tokens.
SHARED = re.compile(
  r'\b([A-Z]{2,})=\$|\$([A-Z]+)|runs/(\w+)|configs/(\w+)\.py|([a-z_]+\.(?:npy|png|json|html|csv)|\w+-tokens)\b'
)
MADE = re.compile(r'--(?:out|html|csv)=(\S+)')


def commands(document):
  """The lines of all bash blocks, in order."""
  text = (tiny.ROOT / document).read_text()
  return [line for block in BLOCK.findall(text) for line in block.strip().splitlines()]


def here():
  """The commands of both documents that run here, in order; `pip install` before one is left to `.ci/run`."""
  found = []
  for command in commands('README.md') + commands('WORKSPACE.md'):
    if command.startswith(ELSEWHERE):
      _, _, command = command.partition(' && ')
    if command and not command.startswith((*ELSEWHERE, 'ruff')):
      found.append(command)
  return found


def parts():
  """{name: commands in order} of those that share nothing with the commands of another part."""
  found = []  # (what it shares, {place in the documents: command})
  for place, command in enumerate(here()):
    shared, lines = {name for names in SHARED.findall(command) for name in names if name}, {place: command}
    for part in [part for part in found if part[0] & shared]:
      found.remove(part)
      shared, lines = shared | part[0], lines | part[1]
    found.append((shared, lines))
  ordered = [[lines[place] for place in sorted(lines)] for _, lines in found]
  return {(re.findall(r'configs/(\w+)', part[0]) or part[0].split()[-1:])[0].strip('-'): part for part in ordered}


def ci_runs(command):
  """Whether `.ci/run` holds the parts of a command that this test leaves to it."""
  script = (tiny.ROOT / '.ci' / 'run').read_text()
  parts = [part.strip() for part in command.split('&&')]
  return all(part in script or part.replace('pip install', '').strip() in script for part in parts)


@pytest.fixture
def checkout(tmp_path):
  """A copy of the tracked and new files."""
  listed = subprocess.run(
    ['git', 'ls-files', '-co', '--exclude-standard'], cwd=tiny.ROOT, capture_output=True, text=True
  )
  for name in listed.stdout.splitlines():
    if (tiny.ROOT / name).is_file() and name.split('/')[0] not in ('tests', 'benchmarks'):
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(tiny.ROOT / name, tmp_path / name)
  return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize('part', parts())
def test_every_command_runs(part, checkout):
  lines = parts()[part]
  text = '\n'.join(['set -e', 'exec < /dev/null', *lines])  # nobody writes prompts
  # What is not installed here runs by its other name. Without --resume a run is made tiny; the cache is the suite's.
  text = re.sub(r'^gen-ai train', 'python launch.py', text, flags=re.MULTILINE)
  text = re.sub(r'^gen-ai', 'python -m gen_ai', text, flags=re.MULTILINE)
  text = re.sub(r'python launch\.py (?=--config)', 'python launch.py --tiny ', text)
  text = text.replace('python launch.py', f'python launch.py --compilation_cache={os.environ["GEN_AI_TEST_XLA"]}')
  text = text.replace('gen_ai.reproduce', f'gen_ai.reproduce --compilation_cache={os.environ["GEN_AI_TEST_XLA"]}')
  # By the server of forks, as most of the 4 CPU seconds of a command go into imports.
  text = f'python() {{ {shlex.join(tiny.forked_python())} "$@"; }}\n{text}'
  variables = {
    **os.environ,
    'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'],
    'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
  }
  done = subprocess.run(['bash', '-c', text], cwd=checkout, env=variables, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, f'{text}\n{done.stdout}\n{done.stderr}'
  assert 'is complete' in done.stdout or 'python launch.py --resume=$RUN' not in lines
  for made in MADE.findall(text):
    assert (checkout / made).stat().st_size > 0


def test_no_command_is_left_out():
  assert sorted(line for part in parts().values() for line in part) == sorted(here())
  wanted = ('python launch.py --resume=$RUN', '--html=', '--csv=', '--out=')  # what is looked at above
  assert all(any(word in line for line in here()) for word in wanted)
  for command in commands('README.md') + commands('WORKSPACE.md'):
    if command.startswith(ELSEWHERE) and ' && python launch.py' not in command and not command.startswith('ruff'):
      assert ci_runs(command.replace('$', '')), command


@pytest.mark.parametrize('document', ['README.md', 'WORKSPACE.md'])
def test_links_and_files_that_the_documents_name_exist(document):
  text = (tiny.ROOT / document).read_text()
  for target in re.findall(r'\]\(([^)#]+)\)', text):
    assert (tiny.ROOT / target).exists(), target
  for target in re.findall(r'configs/\w+\.py|requirements/\w+\.txt', text):
    assert (tiny.ROOT / target).exists(), target


def test_every_config_says_what_it_claims_how_to_run_it_and_what_it_costs():
  listed = tiny.launch('--list').stdout
  for name in tiny.CONFIGS:
    text = (tiny.ROOT / 'configs' / f'{name}.py').read_text()
    assert all(word in text for word in ('Claim:', 'Command:', 'Cost:')), name
    assert f'configs/{name}.py' in listed
    assert f'configs/{name}.py' in (tiny.ROOT / 'README.md').read_text(), f'the README does not mention {name}'


def test_the_sweep_in_the_readme_shows_the_leading_metrics_as_a_sweep_does():
  lines = (tiny.ROOT / 'README.md').read_text().splitlines()
  heading = next(line for line in lines if line.startswith(' #  lr'))
  assert heading.split()[5:] == list(vae.LEADING)[:3]
  bar = next(line for line in lines if line.startswith('training ━'))
  assert f' {next(iter(vae.LEADING))} -219.7 to -124.2 over 12 lanes ' in bar
