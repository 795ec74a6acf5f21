"""What may import what: light commands, training with the core packages alone, and rooms that look one way."""

import ast
import os
import re
from pathlib import Path

import pytest
import tiny

HEAVY = (
  'jax',
  'flax',
  'optax',
  'orbax',
  'tensorflow',
  'tensorflow_datasets',
  'matplotlib',
  'torch',
  'grain',
  'PIL',
  'pandas',
  'scipy',
  'tensorboardX',
  'rich',
)


@pytest.mark.parametrize(
  'code',
  [
    'import gen_ai',
    'import gen_ai.config, gen_ai.core.errors',
    'import gen_ai.__main__, gen_ai.core.installation',
    'import gen_ai.compare',
    'import gen_ai.sweep.command, gen_ai.sweep.halving, gen_ai.compare.reproducibility',
    'import runpy; run = lambda: runpy.run_path("launch.py", run_name="__main__")\n'
    'sys.argv = ["launch.py", "--help"]\ntry: run()\nexcept SystemExit: pass',
    'import runpy; run = lambda: runpy.run_path("launch.py", run_name="__main__")\n'
    'sys.argv = ["launch.py", "--list"]\ntry: run()\nexcept SystemExit: pass',
    'import runpy; run = lambda: runpy.run_path("launch.py", run_name="__main__")\n'
    'sys.argv = ["launch.py", "--config=configs/wgan.py", "--print_config"]\ntry: run()\nexcept SystemExit: pass',
  ],
  ids=['gen_ai', 'config', 'commands', 'compare', 'sweep', 'help', 'list', 'print_config'],
)
def test_light_commands_import_nothing_heavy(code):
  probe = f'import sys\n{code}\nprint("heavy:", *sorted(set({HEAVY}) & set(sys.modules)))'
  done = tiny.command('-c', probe)
  assert done.stdout.splitlines()[-1] == 'heavy:', done


CORE_ONLY = r"""
import re, sys
from importlib import metadata

started_with = set(sys.modules)
canonical = lambda name: re.sub('[-_.]+', '-', name).lower()

# The core packages and, by what their metadata says, all that they need: anything else that is installed is hidden.
core = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'absl-py', 'ml_collections', 'numpy')
seen, todo = set(), [(name, ()) for name in core]
while todo:
  name, extras = todo.pop()
  if (name, extras) in seen:
    continue
  seen.add((name, extras))
  try:
    needs = metadata.requires(name) or []
  except metadata.PackageNotFoundError:  # for another platform or another Python
    continue
  for need in needs:
    requirement, _, marker = need.partition(';')
    if 'extra' not in marker or any(extra in re.findall('[\'"](.*?)[\'"]', marker) for extra in extras):
      base, wanted = re.match(r'([A-Za-z0-9._-]+)(?:\[(.*?)\])?', requirement).groups()
      todo.append((canonical(base), tuple((wanted or '').replace(' ', '').split(','))))
allowed = {canonical(name) for name, _ in seen}
owners = metadata.packages_distributions()
hidden = {top for top, dists in owners.items() if not {canonical(d) for d in dists} & allowed}
hidden |= {'tensorflow', 'tensorflow_datasets', 'torch', 'grain', 'PIL', 'tensorboardX', 'wandb', 'matplotlib'}
hidden -= {'gen_ai'}  # where it is installed, too
assert not hidden & {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'absl', 'ml_collections', 'numpy'}

class Without:
  def __init__(self, finder):
    self.finder = finder

  def find_spec(self, name, *where):
    return None if name.partition('.')[0] in hidden else self.finder.find_spec(name, *where)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.path.insert(0, '.')

import numpy as np
from gen_ai import config as config_lib
from gen_ai.parallel import compilation_cache
from gen_ai.run import provenance
from gen_ai.train import open_run
from gen_ai.data import dataset as dataset_lib
from gen_ai.core.errors import DONE
from gen_ai.run.info import Origin

noise = np.random.default_rng(0)
arrays = {'train': {'image': noise.integers(0, 256, (160, 28, 28, 1), np.uint8), 'label': np.arange(160) % 10}}
dataset_lib.load = lambda data: (
  dataset_lib.from_text(data.name, {'train': 'def f(x): return x + 1\\n' * 200}, 'byte', data.block_size)
  if data.name == 'python_stdlib' else dataset_lib.from_arrays(data.name, arrays)
)
compilation_cache.use_cache(sys.argv[2])
for name in ('gan', 'lm'):
  reference = f'configs/{name}.py'
  config = config_lib.override(config_lib.load(reference), {**config_lib.tiny(reference), 'data.split': 'auto'})
  origin = Origin(sys.argv, provenance.describe_file(reference))
  assert open_run.work(config, f'{sys.argv[1]}/{name}', '', origin) == DONE
print('hidden but there:', *sorted(hidden & set(sys.modules) - started_with))
"""


def test_training_needs_the_core_packages_only(tmp_path):
  done = tiny.command('-c', CORE_ONLY, tmp_path, os.environ['GEN_AI_TEST_XLA'])
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == 'hidden but there:'
  assert 'the tensorboard tracker is off' in done.stderr, 'the hiding works: its package is not a core one'
  for name, last in (('gan', 'step_00000008.png'), ('lm', 'step_00000008.txt')):
    assert (tmp_path / name / 'samples' / last).is_file()
    assert (tmp_path / name / 'checkpoints' / '8').is_dir()


# Room: the rooms that it may look into, lower floors first. A room is a folder of gen_ai, or a folder beside it.
MAY_IMPORT = {
  'core': set(),
  'config': {'core'},
  'maths': {'core'},
  'nets': {'core', 'maths'},
  'data': {'core', 'maths'},
  'run': {'core', 'config', 'data'},
  'parallel': {'core', 'config'},
  'evaluate': {'core', 'config', 'maths', 'nets', 'data', 'run', 'parallel'},
  'train': {'core', 'config', 'maths', 'data', 'run', 'parallel', 'evaluate'},
  'sweep': {'core', 'config', 'data', 'run', 'parallel', 'evaluate', 'train'},
  'compare': {'core', 'config', 'run', 'sweep'},  # reads directories only
  'commands': {'core', 'config', 'maths', 'nets', 'data', 'run', 'parallel', 'evaluate', 'train', 'sweep', 'compare'},
  'experiments': {'core', 'maths', 'nets'},
  'configs': {'core', 'config', 'run', 'sweep'},  # of run: configs that were recorded; of sweep: space
  '': {'core', 'commands', 'evaluate'},  # gen_ai/__init__.py and __main__.py
}
# The loop and all below it know no method: experiments are found by the name in a config.
NEVER = {
  'gen_ai.train.trainer': (
    'experiments',
    'configs',
    'gen_ai.nets',
    'gen_ai.maths',
    'gen_ai.core.optim',
    'gen_ai.evaluate.metrics',
    'gen_ai.evaluate.evaluator',
  ),
  'gen_ai.evaluate.examples': ('experiments', 'gen_ai.nets', 'gen_ai.maths'),
  'gen_ai.parallel.program': ('experiments', 'gen_ai.core.optim'),
}


def module(path):
  """'gen_ai/nets/mlp.py' -> 'gen_ai.nets.mlp'."""
  return '.'.join(path.with_suffix('').parts).removesuffix('.__init__')


def room(path):
  """The room of a file, or of a dotted name ('gen_ai.nets.mlp' -> 'nets')."""
  parts = str(path).removesuffix('.py').replace('/', '.').split('.')
  if parts[-1] == '__main__':  # where a command begins
    return 'commands' if len(parts) > 2 else ''
  if parts[0] != 'gen_ai':
    return parts[0]
  return parts[1] if len(parts) > 1 and (tiny.ROOT / 'gen_ai' / parts[1]).is_dir() else ''


def by_string(call):
  """The module that `call` imports by its name in a string, if it is such a call: [name], or as much of it as is fixed.

  Experiments are found by the name in a config, which no code fixes.
  """
  function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
  if function not in ('import_module', '__import__', 'run_module') or not call.args:
    return []
  name = call.args[0].values[0] if isinstance(call.args[0], ast.JoinedStr) else call.args[0]
  if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
    return []
  return [name.value] if name.value.startswith('gen_ai') else []


def looked_into(file):
  """Rooms of ours that `file` imports from, anywhere in it, by a statement or by a name in a string."""
  return {room(name) for name in imported(file)}


def imported(file):
  """Dotted names of ours that `file` imports."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{file}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Call):
      names = by_string(node)
    else:
      continue
    found |= {name for name in names if name.split('.')[0] in ('gen_ai', 'experiments', 'configs', 'launch')}
  return found


FILES = sorted(
  path.relative_to(tiny.ROOT)
  for folder in ('gen_ai', 'experiments', 'configs')
  for path in (tiny.ROOT / folder).rglob('*.py')
)


@pytest.mark.parametrize(
  ('text', 'rooms'),
  [
    ('from importlib import import_module\nimport_module("gen_ai.sweep.board")', {'sweep'}),
    ('import importlib\ndef later(name):\n  return importlib.import_module(f"gen_ai.compare.{name}")', {'compare'}),
    ('__import__("gen_ai.train.trainer", fromlist=["Trainer"])', {'train'}),
    (
      'import_module(name)\nimport_module("numpy")\nprint("gen_ai.compare")\nimport_module(f"experiments.{name}")',
      set(),
    ),
  ],
)
def test_imports_by_a_string_are_seen(tmp_path, text, rooms):
  file = tmp_path / 'module.py'
  file.write_text(text)
  assert looked_into(file) == rooms


def test_imports_point_one_way():
  assert {room(path) for path in FILES} == MAY_IMPORT.keys(), 'a room is new or gone: mend this test and WORKSPACE.md'
  done = []
  for name, below in MAY_IMPORT.items():
    assert below <= {*done, 'commands'}, f'{name} may look up'
    done.append(name)
  wrong = []
  for path in FILES:
    bad = looked_into(tiny.ROOT / path) - MAY_IMPORT[room(path)] - {room(path), ''}
    wrong += [f'{path} imports {name}' for name in sorted(bad)]
  assert not wrong


def test_the_loop_knows_no_method():
  files = {module(path): path for path in FILES}
  wrong = []
  for name, never in NEVER.items():
    bad = [other for other in imported(tiny.ROOT / files[name]) if other.startswith(never)]
    wrong += [f'{name} imports {other}' for other in sorted(bad)]
  assert not wrong


@pytest.mark.parametrize('name', [name for name in MAY_IMPORT if name not in ('', 'commands')])
def test_no_modules_of_a_room_import_each_other_in_a_circle(name):
  files = {module(path): path for path in FILES if room(path) == name}
  graph = {}
  for own, path in files.items():
    there = imported(tiny.ROOT / path)
    there |= {other.rpartition('.')[0] for other in there}
    graph[own] = {other for other in files if other in there and not own.startswith(f'{other}.') and other != own}
  assert_no_circle(graph)


WORKSPACE = (tiny.ROOT / 'WORKSPACE.md').read_text()


def test_every_folder_has_its_line_in_the_workspace():
  folders = {path.parent for path in FILES if len(path.parts) > 2} | {
    Path('gen_ai/core'),
    Path('experiments'),
    Path('configs'),
    Path('tests'),
  }
  missing = [str(folder) for folder in sorted(folders) if not re.search(rf'^\| `{folder}/`', WORKSPACE, re.M)]
  assert not missing


def test_all_files_and_folders_that_the_workspace_names_exist():
  folders = [tiny.ROOT, *{(tiny.ROOT / path).parent for path in FILES}]
  named = re.findall(r'`([a-z_/0-9]+(?:\.py|/))`', WORKSPACE)
  assert len(named) > 60
  made = {'logs/', 'stop/', 'slurm/'}  # of a sweep's directory
  assert not [name for name in named if name not in made and not any((folder / name).exists() for folder in folders)]


@pytest.mark.parametrize('path', FILES, ids=str)
def test_every_module_says_in_a_sentence_what_it_is(path):
  first = (ast.get_docstring(ast.parse((tiny.ROOT / path).read_text())) or '').split('\n\n')[0].replace('\n', ' ')
  assert re.match(r'.{15,250}?[.:](\s|$)', first), first


def test_the_package_has_a_dozen_entries():
  entries = [path.name for path in (tiny.ROOT / 'gen_ai').iterdir() if not path.name.startswith(('_', '.'))]
  assert len(entries) <= 12, sorted(entries)


def assert_no_circle(graph):
  """Fails with a circle of `graph`, {name: names it leads to}."""
  seen, done = [], set()

  def walk(name):
    assert name not in seen, ' -> '.join([*seen[seen.index(name) :], name])
    if name in done:
      return
    seen.append(name)
    for other in sorted(graph.get(name, ())):
      walk(other)
    seen.pop()
    done.add(name)

  for name in sorted(graph):
    walk(name)


def test_flax_is_imported_by_the_networks_alone():
  importing = set()
  for path in FILES:
    for node in ast.walk(ast.parse((tiny.ROOT / path).read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      importing |= {room(path) for name in names if name.split('.')[0] == 'flax'}
  assert importing == {'nets'}


def test_heavy_optional_packages_are_imported_where_they_are_needed():
  optional = {'tensorflow', 'tensorflow_datasets', 'grain', 'PIL', 'matplotlib', 'tensorboardX', 'wandb'}
  wrong = []
  for path in FILES:
    for node in ast.parse((tiny.ROOT / path).read_text()).body:
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      wrong += [f'{path}: {name}' for name in names if name.split('.')[0] in optional]
  assert not wrong


def test_the_formatter_is_right():
  text = {path: (tiny.ROOT / path).read_text() for path in FILES}
  assert not [f'{path}: say why' for path, code in text.items() if re.search(r'# fmt: (skip|off)$', code, re.M)]
