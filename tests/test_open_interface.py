"""The interface is open: this file alone defines a method, a kind of data, a task and a metric that nobody foresaw.

The method fits the mean of points in space. The file is its own experiment, named by its full path, and its own config
file. Everything else, from training to the report, is the commands as they are.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import MappingProxyType

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

import gen_ai
from gen_ai import config as config_lib
from gen_ai.core import optim, random
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import EXAMPLE, NUMBER, Field, Method, Spec, State, Task
from gen_ai.data import kinds
from gen_ai.data.assemble import Dataset
from gen_ai.data.source import Source
from gen_ai.evaluate import metrics
from gen_ai.evaluate.metrics.metric import SAMPLES, Figure, Metric
from gen_ai.run import directory
from gen_ai.run.checkpoint import Checkpoints

DIMS = 3


# A kind of data: points float32 [3].


class Points(Source):
  """Points of one split, around (1, 2, 3)."""

  def __init__(self, n, seed):
    noise = np.random.Generator(np.random.Philox(seed)).standard_normal((n, DIMS)).astype(np.float32)
    self._points = noise + np.arange(1, DIMS + 1, dtype=np.float32)
    self.nbytes = self._points.nbytes

  def __len__(self):
    return len(self._points)

  def arrays(self):
    return {'point': self._points}

  def train_index(self, example, epoch, seed):
    return example.astype(np.int32)

  def eval_index(self, example):
    return example.astype(np.int32)

  def gather(self, arrays, index):
    return {'point': arrays['point'][index], 'index': index}

  def read(self, index):
    return {'point': self._points[index], 'index': np.asarray(index, np.int32)}


def cloud(config_data):
  sizes = {'train': 64, 'validation': 20, 'test': 30}
  splits = {name: Points(n, seed) for seed, (name, n) in enumerate(sizes.items())}
  digest = hashlib.sha256(b''.join(split.arrays()['point'].tobytes() for split in splits.values())).hexdigest()
  return Dataset(config_data.name, '1', Spec('point', (DIMS,)), splits, 'its own', digest, 'memory')


class PointKind(kinds.DataKind):
  """Points, written as lines of numbers."""

  name, unit, example = 'point', 'points', 'point'
  endings = ('.txt', '.npy')
  metrics = 'mean_error'
  sources = MappingProxyType({'cloud': cloud})
  quick = MappingProxyType({'widest': ''})

  def save(self, path, spec, samples, columns=None, rows=()):
    if path.suffix == '.npy':
      np.save(path, samples)
    else:
      path.write_text('\n'.join(' '.join(f'{x:.3f}' for x in row) for row in samples) + '\n')

  def measured(self, samples):
    return {'widest': float(np.ptp(samples, 0).max())}

  def data_measured(self, source):
    return self.measured(source.arrays()['point'])


# A metric of it.


def mean_error(evidence, found):
  data = evidence.read_reference(np.arange(30))
  value = float(np.abs(evidence.outputs['sample'].mean(0) - data.mean(0)).max())
  found.figures['mean_error'] = Figure(value, stamp=dict(evidence.stamp))


kinds.register(PointKind())
metrics.register(Metric('mean_error', ('point',), {'mean_error': 'min'}, SAMPLES, mean_error))


# A method, with a task of its own: `mirror` turns a point about the mean, by a strength that a call may give.

KINDS = ('point',)


def build(config, spec, reduce=lambda tree: tree):
  rule = optim.optimiser(config.optim, config.run.steps)

  def init(key):
    params = {'mean': jax.random.normal(key, spec.shape)}
    return State(jnp.int32(0), params, rule.init(params))

  def loss(params, points):
    return 0.5 * ((points - params['mean']) ** 2).sum(-1)

  def train_step(state, batch, key):
    value, grads = jax.value_and_grad(lambda params: loss(params, batch['point']).mean())(state.params)
    value, grads = reduce((value, grads))
    change, opt_state = rule.update(grads, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, change)
    return State(state.step + 1, params, opt_state), {'distance': value}

  def eval_step(state, batch, key):
    value = loss(state.params, batch['point']) * batch['mask']
    return {'distance': (value.sum(), batch['mask'].sum())}

  def generate(state, inputs, own_keys):
    return {'sample': state.params['mean'] + config.sample.width * random.normal(own_keys, spec.shape)}

  def mirror(state, inputs, own_keys):
    strength = inputs.get('strength', jnp.ones(own_keys.shape[0]))[:, None]
    return {'sample': inputs['point'] + 2.0 * strength * (state.params['mean'] - inputs['point'])}

  point = Field(EXAMPLE, spec.shape)
  tasks = {
    'generate': Task(generate, {}, {'sample': point}),
    'mirror': Task(
      mirror, {'point': Field(EXAMPLE, spec.shape, True), 'strength': Field(NUMBER)}, {'sample': point}, ()
    ),
  }
  return Method(init, train_step, eval_step, tasks, leading={'distance': 'min'})


def get_config(data='cloud:3'):
  """A run of seconds."""
  config = config_lib.common('tests.test_open_interface', data)
  config.run.name = 'points'
  config.run.steps, config.run.log_every = 40, 10
  config.run.eval_every = config.run.sample_every = config.run.save_every = 20
  config.run.trackers = ''
  config.data.batch_size, config.eval.batch_size = 16, 8
  config.eval.best, config.eval.samples = 'distance:min', 50
  config.model, config.loss = ConfigDict(), ConfigDict()
  config.optim.lr = 0.1
  config.sample.n = 4
  config.sample.width = 1.0
  return config


# What all commands make of it.

FILE = 'tests/test_open_interface.py'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp('open') / 'run'
  done = cli.launch(f'--config={FILE}', f'--run_dir={path}')
  assert done.returncode == DONE, done.stderr
  assert 'data       cloud:3 1: 64 train, 20 validation, 30 test (points)' in done.stdout
  assert 'widest' in done.stdout
  return path


def final_state(path):
  config = config_lib.from_json(directory.read_config(path))
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True)
  step, state = checkpoints.restore(tiny.program(config).abstract_state())
  checkpoints.close()
  return step, jax.tree.map(np.asarray, state)


def test_it_trains_and_resumes_bit_for_bit(run, tmp_path):
  step, state = final_state(run)
  assert step == 40
  np.testing.assert_allclose(state.params['mean'], [1, 2, 3], atol=1.0)
  rows = [row['distance'] for row in directory.read_metrics(run) if row['kind'] == 'eval']
  assert rows[-1] < rows[0]
  short = tmp_path / 'short'
  assert cli.launch(f'--config={FILE}', f'--run_dir={short}', '--config.run.steps=20').returncode == DONE
  assert cli.launch(f'--resume={short}', '--config.run.steps=40').returncode == DONE
  jax.tree.map(np.testing.assert_array_equal, final_state(short), (step, state))


def test_it_runs_packed_in_a_sweep_as_alone(run, tmp_path):
  done = cli.launch(f'--config={FILE}', f'--runs_dir={tmp_path}', '--axis=optim.lr=0.05,0.1')
  assert done.returncode == DONE, done.stderr
  (sweep,) = (tmp_path / 'points').iterdir()
  lane = final_state(sweep / 'optim.lr=0.1')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), lane[1].params, final_state(run)[1].params)
  assert directory.read_run(sweep / 'optim.lr=0.1')['lanes'] == 2


def test_it_generates_and_does_what_nobody_foresaw(run, tmp_path):
  drawn = cli.command('gen_ai.sample', run, '--n=5', f'--out={tmp_path}/x.npy')
  assert drawn.returncode == DONE, drawn.stderr
  shown = (run / 'samples' / 'step_00000040.txt').read_text().splitlines()
  first = [' '.join(f'{x:.3f}' for x in row) for row in np.load(tmp_path / 'x.npy')[:4]]
  assert shown == first, 'what training shows are the first of the samples'
  np.save(tmp_path / 'p.npy', np.zeros((2, DIMS), np.float32))
  words = ['--task=mirror', f'--input=point={tmp_path}/p.npy', f'--out={tmp_path}/y.npy']
  done = cli.command('gen_ai.generate', run, *words, '--input=strength=0.5')
  assert done.returncode == DONE, done.stderr
  mean = final_state(run)[1].params['mean']
  np.testing.assert_allclose(np.load(tmp_path / 'y.npy'), [mean, mean], rtol=1e-5)
  cli.refused(cli.command('gen_ai.generate', run, '--task=fold'), "has no task 'fold'", 'generate, mirror')
  cli.refused(cli.command('gen_ai.generate', run, *words, '--label=3'), "takes no input 'label'")
  trained = gen_ai.load(run)
  np.testing.assert_allclose(trained.run('mirror', point=np.zeros(DIMS))['sample'], [2 * mean], rtol=1e-5)
  assert trained.params['mean'].shape == (DIMS,)
  with pytest.raises(UserError, match="needs the input 'point'"):
    trained.run('mirror')


def test_what_was_measured_at_other_settings_alone_is_told(run, tmp_path):
  other = shutil.copytree(run, tmp_path / 'other')
  done = cli.command('gen_ai.evaluate', other, '--metrics=mean_error', '--axis=sample.width=0.5,5.0')
  assert done.returncode == DONE, done.stderr
  cli.refused(cli.command('gen_ai.compare', other, '--metric=test/mean_error'), '--axis=sample.width=0.5,5.0')


def test_it_is_evaluated_compared_and_shown(run, tmp_path):
  done = cli.command('gen_ai.evaluate', run, '--metrics=mean_error', '--split=test')
  assert done.returncode == DONE, done.stderr
  curve = cli.command('gen_ai.evaluate', run, '--metrics=mean_error', '--axis=sample.width=0.5,1.0,5.0')
  assert curve.returncode == DONE, curve.stderr
  rows = directory.read_evaluations(run)
  assert [row.get('axis') for row in rows] == [None, *({'sample.width': width} for width in (0.5, 1.0, 5.0))]
  assert rows[0]['figures']['mean_error']['better'] == 'min'
  assert rows[0]['figures']['mean_error'] == rows[2]['figures']['mean_error'], 'width is 1.0 in the config'
  assert rows[3]['figures']['mean_error']['stamp']['sampler.width'] == '5.0'
  assert {row['stamp']['form'] for row in rows} == {'points 3'}
  page = tmp_path / 'report.html'
  done = cli.command('gen_ai.compare', run, '--metric=test/mean_error', f'--html={page}')
  assert done.returncode == DONE, done.stderr
  assert 'test/mean_error against config.sample.width' in done.stdout
  data = json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', page.read_text())[1])
  assert data['metrics'][0] == {
    'name': 'test/mean_error',
    'mode': 'min',
    'given': True,
    'evaluated': True,
    'copies': False,
  }
  assert any(one['metric'] == 'test/mean_error' and one['x'] == [0.5, 1.0, 5.0] for one in data['settings'])
  samples = data['samples']['views']['samples (text)']['runs']['0']['40']
  assert samples == (run / 'samples' / 'step_00000040.txt').read_text()


def test_a_kind_of_data_that_a_method_does_not_model_is_refused():
  done = cli.launch(f'--config={FILE}', '--config.data.name=mnist_5k')
  cli.refused(done, 'models data of the kind point', "config.data.name='mnist_5k' is of the kind image")


def test_no_room_but_that_of_the_kinds_asks_for_a_kind():
  compared = re.compile(r"""kind\s*(==|!=|in|not in)\s*[('"]|['"](image|text)['"]\s*(==|!=)""")
  asked = []
  for folder in ('gen_ai', 'experiments'):
    for file in sorted((tiny.ROOT / folder).rglob('*.py')):
      if 'kinds' not in file.parts:
        lines = enumerate(file.read_text().splitlines(), 1)
        asked += [f'{file.name}:{n}: {line.strip()}' for n, line in lines if compared.search(line) and 'spec' in line]
  assert not asked
  assert Path(tiny.ROOT, 'gen_ai', 'data', 'kinds').is_dir()
