"""Five hundred command lines that are almost right: whatever a person types ends in an answer, never in a traceback.

Everything runs in this process. What would take long is replaced after all checks: training, the launchers of sweeps,
tracing, sampling and judging; what the commands read is one tiny recorded run beside runs that are records alone.
"""

import contextlib
import os
import random
import shlex
import shutil
import traceback
from pathlib import Path
from types import SimpleNamespace

import cli
import jax
import made_runs
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.data import dataset, mnist_5k
from gen_ai.evaluate import evaluator, examples, external, generation
from gen_ai.evaluate.metrics.metric import Found
from gen_ai.parallel import processes
from gen_ai.run import checkpoint, directory
from gen_ai.sweep import plan
from gen_ai.sweep.launchers import lanes, slurm
from gen_ai.sweep.launchers.registry import LAUNCHERS
from gen_ai.train import trainer as trainer_lib

CASES, PARTS = 500, 10
COMMON = '--config=configs/gan.py --tiny --config.run.trackers='
LINES = {  # valid as they are, with the stubs below
  'launch.py': [
    f'{COMMON} --runs_dir=r',
    f'{COMMON} --run_dir=new/one --config.optim.lr=1e-3 --config.model.latent=4',
    '--config=configs/gan.py:mnist_5k --tiny --runs_dir=r --config.data.batch_size=32 --config.run.steps=16',
    f'{COMMON} --runs_dir=r --config.loss.constraint=r1 --config.loss.penalty=2 --config.optim.schedule=cosine',
    '--config=configs/lm.py --tiny --print_config --config.model.width=32',
    '--config=configs/hvae.py --tiny --print_config --config.model.widths=(8,8) --config.loss.importance_samples=2',
    f'{COMMON} --runs_dir=r --axis=optim.lr=1e-4,1e-3 --axis=run.seed=0:2 --launcher=packed --dry_run',
    f'{COMMON} --runs_dir=r --sweep=lr,seed --launcher=local --per_device=2',
    f'{COMMON} --runs_dir=r --sample=3 --sample_seed=1 --launcher=slurm --sbatch=--time=60',
    f'{COMMON} --runs_dir=r --sweep=loss --halving=logit_gap:max,eta=2,first=4 --launcher=print',
    '--resume=run',
    '--resume=stopped --lease_wait=0',
    '--resume=SWEEP --launcher=local --retry_failed',
    '--status=SWEEP',
    '--stop=SWEEP --trial=1',
    '--list',
    '--help',
  ],
  'gen_ai.sample': ['run --n=4 --out=x.png --seed=1 --step=latest', 'run --n=2 --out=x.npy --step=8', 'run'],
  'gen_ai.generate': [
    'run --task=generate --n=3 --latent=latent.npy --out=x.npz',
    'run --input=latent=latent.npy --out=x.png',
  ],
  'gen_ai.evaluate': [
    'run --split=test --metrics=fd,kid --samples=16 --extractor=random --out=e.json',
    'run --config.eval.seed=3',
    'run --metrics=fd --task=generate --samples=16',
    '--samples_file=images.npy --data=mnist_5k --run_dir=theirs --metrics=fd --samples=16',
  ],
  'gen_ai.complete': ['inpaint --images=images.npy --mask=half --n=2 --out=c.png --seed=2 --step=latest'],
  'gen_ai.reproduce': ['run --steps=4 --rtol=1e-3 --atol=0 --report=p.json --out=again'],
  'gen_ai.compare': [
    'runs --metric=nll_bpd:min --where=optim.lr>=1e-9 --by=optim.lr',
    'runs --csv=-',
    '--diff runs/a runs/b',
    'runs --metric=nll_bpd:min --budget --last_k=2',
    'runs --metric=nll_bpd:min --baseline=A --force',
    'runs --metric=nll_bpd:min --runs --csv=o.csv',
    "runs '--sql=select run from runs' --index=i.sqlite",
    'runs SWEEP',
  ],
  'gen_ai.data.prepare': ['mnist_5k', 'python_stdlib'],
}
COMMANDS = [command for command in LINES for _ in range({'launch.py': 6, 'gen_ai.compare': 3}.get(command, 1))]
# No absolute paths and no '..': a mutated line may write.
VALUES = [
  '',
  ' ',
  '-1',
  '0',
  '1',
  '2',
  '3.7',
  '1e400',
  'nan',
  '-inf',
  '9' * 30,
  'x',
  'äöü',
  '(',
  '(1,',
  '[]',
  '{}',
  '()',
  'None',
  'true',
  'a b',
  "a'b",
  'a"b',
  'x' * 300,
  ':',
  '|',
  ',',
  '=',
  '%',
  '*',
  '[1]',
  '~nobody-is-called-so/x',
  'run',
  'SWEEP',
  'runs',
  'images.npy',
  'text.txt',
  'torn.npy',
  'empty',
  'folder:empty',
  'text:text.txt',
  'latest',
  'configs/vae.py',
  'mine.py',
  'min',
  'fd',
  'nll',
  'memorisation',
  'random',
  'classifier:run',
  'inception:x',
  'train[:5]|train[5:9]|test',
  '1:0',
  '0:3',
  'optim.lr=1,2',
  'run.steps',
  'sgd',
  'stylegan2',
  'cosine',
]
LATENT = tiny.config('gan').model.latent
FIELDS = {path: type(value) for path, value in sorted(config_lib.flatten(config_lib.load('configs/gan.py')).items())}
FITTING = {  # by type of the field: what parses, and may yet be out of range
  bool: ['true', 'false'],
  int: ['0', '1', '2', '3', '7', '48', '1000000000'],
  list: ['()', '(1,)', '(3,5)', '(0,)'],
  float: ['0', '-1', '1e-3', '0.5', '1', '1e30'],
  str: [
    'none',
    '',
    'x',
    'mlp',
    'dcgan',
    'resnet',
    'relu',
    'batch',
    'hinge',
    'r1',
    'ada',
    'lion',
    'linear',
    'bf16',
    'pmap',
    'host',
    'fd,kid',
    'logit_gap:min',
    'folder:empty',
    'text:text.txt',
    'projection',
    'char',
    'tensorboard,wandb',
  ],
}


def changed(rng, words, others):
  """`words` with one change, as slips of hand and mind make them."""
  at = rng.randrange(len(words)) if words else 0
  word = words[at] if words else ''
  name, equals, value = word.partition('=')
  i, odd, other, field = rng.randrange(len(word) + 1), rng.choice(VALUES), rng.choice(others), rng.choice(list(FIELDS))
  before, after = words[:at], words[at + 1 :]
  return rng.choice(
    [
      [*before, *after],
      [*before, word, word, *after],
      rng.sample(words, len(words)),  # left out, twice, in disorder
      [*before, f'{name}={odd}', *after],
      [*before, f'{name}={odd}', *after],
      [*before, *([name, value] if equals else [name, '=']), *after],
      [*before, word[:i] + odd + word[i:], *after],
      [*before, word[:i] + word[i + 1 :], *after],
      [*words, f'{other.partition("=")[0]}={odd}'],
      [*words, other],
      [*words, odd],
      [*words, f'--config.{field}={odd}'],
      [*words, f'--config.{field}={rng.choice(FITTING[FIELDS[field]])}'],
      [*words, f'--config.{field}={rng.choice(FITTING[FIELDS[field]])}'],
    ]
  )


def mutated(seed):
  """(command, words) of one case: a valid line and one to three changes."""
  rng = random.Random(seed)
  command = rng.choice(COMMANDS)
  words = shlex.split(rng.choice(LINES[command]))
  others = [word for line in LINES[command] for word in shlex.split(line)]
  for _ in range(rng.choice((1, 1, 2, 3))):
    words = changed(rng, words, others)
  return command, words


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with what the lines name."""
  folder = tmp_path_factory.mktemp('fuzz')
  with contextlib.chdir(folder):
    done = cli.launch(*COMMON.split(), '--run_dir=run')
    assert done.returncode == DONE, done
    shutil.copytree('run', 'stopped')
    Path('stopped/status.json').unlink()
    made = made_runs.sweep('sweeps', [{'run.seed': 0}, {'run.seed': 1}], started=1)
    made.path.rename('SWEEP')
    for name, seed in (('a', 0), ('b', 1)):
      made_runs.make(f'runs/{name}', run__seed=seed)
    made_runs.start('inpaint', tiny.config('inpaint_gan'))
    np.save('images.npy', np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8))
    np.save('latent.npy', np.zeros((3, LATENT), np.float32))
    Path('torn.npy').write_bytes(Path('images.npy').read_bytes()[:100])
    Path('text.txt').write_text('def f(x): return x\n' * 4000)
    Path('mine.py').write_text('def get_config(): return 3\n')
    Path('empty').mkdir()
  return folder


def train(trainer, restored=None):
  """In place of `trainer.train`: every run is done at once."""
  for lane in trainer.lanes:
    lane.begin(0, restored=False)
    lane.end(DONE)
    lane.close({})
  trainer.feed.close()
  return DONE


class Judged:
  """In place of `evaluator.Evaluator`."""

  generation = None

  def __init__(self, *arguments, **options):
    pass

  def lanes(self, state):
    return [Found({}, [], {}, {})]

  def own(self, state):
    return {}

  def use(self, config):
    pass


def no_network(*arguments, **options):
  raise RuntimeError('there is one process')


@pytest.fixture
def stubs(place, monkeypatch, tmp_path):
  """A copy of the folder, as lines write, and what takes long replaced after all checks."""
  load, restore, mnist = dataset.load, checkpoint.Checkpoints.restore, mnist_5k.prepare
  loaded, found = {}, {}

  def load_once(data):
    key = data.to_json()
    if key not in loaded:
      loaded[key] = load(data)
    return loaded[key]

  def restore_once(self, abstract, step=None):
    key = self.path, step
    if key not in found:
      found[key] = restore(self, abstract, step)
    return found[key]

  def prepare_here(folder):
    if str(folder) != os.environ['TFDS_DATA_DIR']:
      raise UserError(f'data set mnist_5k: cannot write under {folder}.')
    return mnist(folder)

  def outputs(self, state, index):
    """In place of `Generation.outputs` of a run of configs/gan.py."""
    return [{'sample': np.zeros((min(len(index), 8), 28, 28, 1), np.uint8)}]

  def end_all(sweep, trials, options):
    """In place of a launcher: every trial is done at once."""
    for trial in trials:
      sweep.run_dir(trial).mkdir(exist_ok=True)
      directory.RunDir(sweep.run_dir(trial)).status('done', trial.config.run.steps, trial.config.run.steps)

  shutil.copytree(place, tmp_path / 'here')
  monkeypatch.chdir(tmp_path / 'here')
  monkeypatch.setattr(dataset, 'load', load_once)
  monkeypatch.setattr(checkpoint.Checkpoints, 'restore', restore_once)
  monkeypatch.setattr(mnist_5k, 'prepare', prepare_here)
  monkeypatch.setattr(trainer_lib, 'train', train)
  monkeypatch.setattr(examples.ExamplePass, 'metric_names', lambda self: ['logit_fake', 'logit_gap', 'logit_real'])
  monkeypatch.setattr(generation.Generation, 'outputs', outputs)
  monkeypatch.setattr(evaluator, 'Evaluator', Judged)
  monkeypatch.setattr(external, 'evaluate', lambda *arguments: (Found({}, [], {}, {}), 'ab' * 32))
  monkeypatch.setattr(plan, '_check_group', lambda *arguments: None)
  monkeypatch.setattr(lanes, 'lane_bytes', lambda trial: 1)
  monkeypatch.setattr(slurm, 'shutil', SimpleNamespace(which=lambda name: name))  # Slurm is here, wherever this runs
  for name in ('packed', 'local', 'slurm', 'ray'):
    monkeypatch.setattr(LAUNCHERS[name], 'launch', end_all)
  monkeypatch.setattr(jax.distributed, 'initialize', no_network)
  monkeypatch.setattr(processes, 'PATIENCE', 0.0)
  cache = jax.config.jax_compilation_cache_dir
  yield
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_enable_compilation_cache', True)


def fault(command, words):
  """What went wrong with the program itself; '' where the line got an answer."""
  given = words if command != 'launch.py' else [f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words]
  try:
    done = cli.command(command, *given)
  except BaseException:  # cli.command knows the ways in which a command may end
    return traceback.format_exc()
  answered = done.returncode == DONE or (done.returncode == FAILED and (done.stderr or done.stdout))
  return str(done) if 'Traceback' in done.stderr or not answered else ''


@pytest.mark.slow
def test_the_lines_themselves_are_right(stubs):
  for command, lines in LINES.items():
    for line in lines:
      done = cli.command(command, *shlex.split(line))
      asked_for_help = '--help' in line or command in ('gen_ai.complete', 'gen_ai.reproduce')  # these lack a training
      assert done.returncode == DONE or asked_for_help, (command, line, done)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('part', range(PARTS))
def test_lines_that_are_almost_right_get_an_answer(part, stubs):
  faults = []
  for seed in range(part, CASES, PARTS):
    command, words = mutated(seed)
    what = fault(command, words)
    if what:
      faults.append(f'seed {seed}: {command} {shlex.join(words)}\n{what}')
  assert not faults, '\n\n'.join(faults)
