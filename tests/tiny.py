"""Tiny runs of every config, for the tests that hold for all of them."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai import config as config_lib
from gen_ai import engine, record, worker
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.data.feed import make_feed
from gen_ai.lane import Lane
from gen_ai.layouts import make_layout
from gen_ai.program import Program
from gen_ai.progress import Display
from gen_ai.stop import Stop
from gen_ai.writers import open_writers

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')
_DATASETS: dict = {}


def config(name, **overrides):
  """configs/NAME.py with its tiny() and `overrides`, whose names have __ for the dot."""
  reference = f'configs/{name}.py'
  flat = {path.replace('__', '.'): value for path, value in overrides.items()}
  return config_lib.override(config_lib.load(reference), {**config_lib.tiny(reference), 'run.writers': '', **flat})


# For two programs that must agree, with everything that one could get wrong. Gradient descent, as Adam turns the
# rounding of a tiny gradient into a step of full size; clipped, as a likelihood's is thousands of nats at first.
_EXACT = {
  'optim__name': 'sgd', 'optim__b1': 0.5, 'optim__weight_decay': 0.0, 'optim__clip_norm': 1.0, 'optim__lr': 0.05,
  'optim__schedule': 'cosine', 'optim__warmup_steps': 2, 'optim__end_factor': 0.1, 'optim__ema_decay': 0.9,
  'data__batch_size': 16,
}  # fmt: skip


def exact(name, **overrides):
  """configs/NAME.py with its tiny() and an optimiser that does not magnify rounding."""
  # The half-life says what ema_decay says, where there is one.
  halflife = {'optim__ema_halflife': 0.0} if 'ema_halflife' in config(name).optim else {}
  return config(name, **(_EXACT | halflife | overrides))


def dataset(config):
  """The config's data set, loaded once a process."""
  key = config.data.to_json()
  if key not in _DATASETS:
    _DATASETS[key] = dataset_lib.load(config.data)
  return _DATASETS[key]


class _Compiled(Program):
  """A program that compiles everything once, however often an engine or a test begins anew with it.

  `traces` counts how often JAX called its train_step.
  """

  def __init__(self, config, build, spec, layout):
    self.traces, self._made = 0, {}

    def counted(*args):
      method = build(*args)

      def train_step(state, batch, key):
        self.traces += 1
        return method.train_step(state, batch, key)

      return method._replace(train_step=train_step)

    super().__init__(config, counted, spec, layout)

  def _once(self, name, rows, make):
    about = name, str(jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), rows))
    if about not in self._made:
      self._made[about] = make()
    return self._made[about]

  def init(self):
    state = self._once('init', (), super().init)
    return jax.tree.map(jnp.copy, state)  # training donates its state

  def trainer(self, feed, state, rows, name='train'):
    return self._once(name, rows, lambda: super(_Compiled, self).trainer(feed, state, rows, name))

  def evaluator(self, feed, state, rows):
    return self._once('eval', rows, lambda: super(_Compiled, self).evaluator(feed, state, rows))

  def sampler(self, state, n, seed=None):
    return self._once(f'sample {n} {seed}', (), lambda: super(_Compiled, self).sampler(state, n, seed))

  def viewers(self, state, batch):
    return self._once('views', batch, lambda: super(_Compiled, self).viewers(state, batch))


def program(config, devices=1):
  """The config's program on the first `devices` fake devices, compiled once a process."""
  return _program(config.to_json(), devices)


@functools.lru_cache(maxsize=6)
def _program(text, devices):
  config = config_lib.from_json(json.loads(text))
  build = config_lib.experiment(config).build
  return _Compiled(config, build, dataset(config).spec, make_layout(config, jax.devices()[:devices]))


def placed(program, state):
  """A run's state on one device as `program`, of another layout, takes it."""
  where = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state())
  return program.layout.join([jax.device_put(state, where)])


def feed(config, program):
  """The config's training feed."""
  source = dataset(config).splits['train']
  return make_feed(source, config.data, config.run.log_every, program.layout.local_rows(program.batch_size),
                   program.batches_per_step)  # fmt: skip


def train(config, devices=1, steps=None):
  """(state as NumPy, metrics {name: [steps]}) after `steps` updates, in chunks, without an engine.

  What several tests compare with is compiled and trained once a process.
  """
  steps = steps or config.run.steps
  states, metrics = _training(config.to_json(), devices).until(steps)
  return states, {name: values[:steps] for name, values in metrics.items()}


class _Training:
  """A training that goes on as far as anyone has asked."""

  def __init__(self, config, devices):
    self.program, self.chunk = program(config, devices), config.run.log_every
    self.source, self.state = feed(config, self.program), self.program.init()
    self.run = self.program.trainer(self.source, self.state, self.source.chunk(0, self.chunk))
    self.states, self.rows = [], []

  def until(self, steps):
    assert steps % self.chunk == 0
    while len(self.states) * self.chunk < steps:
      self.state, metrics = self.run(self.state, self.source.chunk(len(self.states) * self.chunk, self.chunk))
      self.rows.append(jax.tree.map(np.asarray, metrics))
      self.states.append(jax.tree.map(np.array, next(self.program.layout.split(self.state, [0]))))
    return self.states[steps // self.chunk - 1], {n: np.concatenate([r[n] for r in self.rows]) for n in self.rows[0]}


@functools.lru_cache(maxsize=8)
def _training(text, devices):
  return _Training(config_lib.from_json(json.loads(text)), devices)


class StopAt:
  """A Stop that is asked `chunks` times before it says yes, as a signal at that moment would."""

  def __init__(self, chunks):
    self.left = chunks

  @property
  def requested(self):
    self.left -= 1
    return 'SIGTERM' if self.left < 0 else ''


def run(config, path, devices=1, stop=None):
  """Trains `config` in run directory `path` with the real engine, new or resumed; returns (exit code, trainer)."""
  path = Path(path)
  resumed = worker.is_run(str(path))
  rec = record.RunDir(path) if resumed else record.RunDir.make(path)
  if not resumed:
    rec.write_config(config_lib.to_json(config))
    rec.write_run({'data': identity.describe(dataset(config))})
  with Stop() as signals, rec.lease():
    lane = Lane(config, rec, path / 'checkpoints', lambda step: open_writers('', path, '', step))
    display = Display(config.run.steps, quiet=True)
    trainer = engine.Trainer([lane], dataset(config), program(config, devices), display, stop or signals)
    return engine.train(trainer), trainer


def command(*words, timeout=300, env=None, cwd=ROOT):
  """Runs a command line of the project on one CPU device; returns the completed process, text captured."""
  variables = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'], **(env or {})}
  return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=variables, capture_output=True, text=True,
                        timeout=timeout)  # fmt: skip


def launch(*words, **options):
  """python launch.py WORDS, sharing the suite's compilation cache."""
  return command('launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words, **options)


VOLATILE = ('attempt', 'seconds', 'examples_per_second', 'input_stall_percent')


def rows(path):
  """The rows of metrics.jsonl that still hold, without what a clock measured."""
  return [{k: v for k, v in row.items() if k not in VOLATILE} for row in record.read_metrics(path)]
