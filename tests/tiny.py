"""Tiny runs of every config, for the tests that hold for all of them, and of one config a structure.

A structure is what is the same for all configs that may be lanes of one program: all but traced floats and seeds. What
a process has traced and compiled for a structure it keeps, and every config of it is served by that.
"""

import atexit
import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections import OrderedDict
from pathlib import Path

import fork_server
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core import files, random
from gen_ai.data import dataset as dataset_lib
from gen_ai.data.feed import Feed, make_feed
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.generation import CallInputs, Generation, SplitInputs
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program
from gen_ai.run import data_identity, directory
from gen_ai.run.info import RunInfo
from gen_ai.run.trackers import open_trackers
from gen_ai.sweep import unused_floats
from gen_ai.sweep.trials import signature
from gen_ai.train import trainer as trainer_lib
from gen_ai.train.interruption import Stop
from gen_ai.train.progress import Display
from gen_ai.train.run_logger import RunLogger

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')
_DATASETS: dict = {}


def config(name, **overrides):
  """configs/NAME.py with its tiny() and `overrides`, whose names have __ for the dot."""
  reference = f'configs/{name}.py'
  flat = {path.replace('__', '.'): value for path, value in overrides.items()}
  small = config_lib.override(config_lib.load(reference), {**config_lib.tiny(reference), 'run.trackers': ''})
  return config_lib.override(small, flat)


# For two programs that must agree, with everything that one could get wrong. Gradient descent, as Adam turns the
# rounding of a tiny gradient into a step of full size; clipped, as a likelihood's is thousands of nats at first.
_EXACT = {
  'optim__name': 'sgd',
  'optim__b1': 0.5,
  'optim__weight_decay': 0.0,
  'optim__clip_norm': 1.0,
  'optim__lr': 0.05,
  'optim__schedule': 'cosine',
  'optim__warmup_steps': 2,
  'optim__end_factor': 0.1,
  'optim__ema_decay': 0.9,
  'data__batch_size': 16,
}


def exact(name, **overrides):
  """configs/NAME.py with its tiny() and an optimiser that does not magnify rounding."""
  # The half-life says what ema_decay says, where there is one.
  halflife = {'optim__ema_halflife': 0.0} if 'ema_halflife' in config(name).optim else {}
  return config(name, **(_EXACT | halflife | overrides))


def kinds(config):
  """The settings of a config that make another graph: {('section.field', kind of value)}.

  A choice counts by its value, a number by whether it is on, a count by whether it is more than one, a list by its
  length; what nothing reads here does not count, nor what acts on one number at a time.
  """
  found = set()
  for path, value in config_lib.flatten(config).items():
    section, _, field = path.partition('.')
    if section not in ('model', 'loss', 'augment') or field.endswith(POINTWISE) or idle.reason(config, path):
      continue
    if isinstance(value, str | bool):
      found.add((path, value))
    else:
      found.add((path, len(value) if isinstance(value, list) else value > isinstance(value, int)))
  return found


POINTWISE = ('activation', 'output', 'weight_init', 'model.predicts', 'loss.space', 'loss.times')


def _structures():
  """Configs without those that show no kind of setting that others of their family do not show.

  So a new network, norm, loss or penalty is tested by existing. A family's config of the same name is always there.
  """
  chosen = {}
  for name in CONFIGS:
    one = config(name)
    chosen.setdefault(one.experiment, {})[name] = kinds(one)
  for family, shown in chosen.items():
    family = _NAMED_OTHERWISE.get(family, family)
    for name in sorted(shown, reverse=True):
      others = set().union(*(shown[other] for other in shown if other != name))
      if name != family and shown[name] <= others:
        del shown[name]
  return sorted(name for shown in chosen.values() for name in shown)


# The config that stands for a family, where none has its name. `.ci/run` knows it, too.
_NAMED_OTHERWISE = {'diffusion': 'flow'}
STRUCTURES = _structures()
FAMILIES = {_NAMED_OTHERWISE.get(path.stem, path.stem) for path in (ROOT / 'experiments').glob('[a-z]*.py')}
# Equalities that cost a compilation or three trainings each, and rest on what a family shares, how it trains: the
# config of its own name is held to all of them, its variants, of another network or loss, take turns at one each. A
# mesh only partitions what XLA sees, unless the code asks where it is, as the Transformer alone does: so dense and
# convolutional families show it, as do experts, and four others are held on one device to micro-batches, which a mesh
# is tested with (`test_contract`). Pmap parts what is over a batch: batch norm and the balance of experts, besides the
# families' own means. StyleGAN2 has the state with the most parts, R3GAN the dearest network. The two families over
# codes share their autoencoder and how they train it (experiments/_vq.py), and so these equalities. A flow of latents
# shares its denoiser with diffusion, and the rows of diffusion's table all but a formula; VDM's has numbers that bf16
# cannot tell apart, and EDM's by class a second network in its loss.
_TURNS = ('pmap', 'bf16', 'resumed', 'lanes', 'mesh')
_UNPARTED = {'pmap', 'bf16', 'resumed', 'lanes'}
_CHOSEN = {
  'classifier': _UNPARTED,
  'cvae': {'resumed'},
  'dcgan': {'pmap', 'mesh'},
  'ddpm': set(),
  'dit': set(),
  'edm_cond': {'resumed'},
  'image_tokens': {'bf16', 'resumed'},
  'inpaint_gan': _UNPARTED,
  'latent_flow': {'lanes', 'resumed'},
  'lora': {'lanes', 'resumed'},
  'moe': {'pmap', 'mesh'},
  'r3gan': {'bf16'},
  'stylegan2': {'resumed'},
  'vae_gan': _UNPARTED,
  'vdm': {'bf16'},
  'vqvae': {'pmap', 'lanes'},
  'wgan': {'mesh'},
}


def held_to(equality):
  """The structures that are held to `equality`, one of _TURNS."""
  variants = [name for name in STRUCTURES if name not in FAMILIES and name not in _CHOSEN]
  turns = {name: {_TURNS[n % len(_TURNS)]} for n, name in enumerate(variants)} | _CHOSEN
  return [name for name in STRUCTURES if equality in turns.get(name, _TURNS)]


def by_turns(equality):
  """Parametrises a test over those structures."""
  return pytest.mark.parametrize('name', held_to(equality))


def dataset(config):
  """The config's data set, loaded once a process: seed, batches and feed are no part of it."""
  key = files.dumps({path: value for path, value in config.data.items() if path not in ('seed', 'batch_size', 'feed')})
  if key not in _DATASETS:
    _DATASETS[key] = dataset_lib.load(config.data)
  return _DATASETS[key]


class _Itself:
  """Equal to itself alone, and kept, so that nothing else gets its place in memory."""

  def __init__(self, value):
    self.value = value

  def __eq__(self, other):
    return isinstance(other, _Itself) and self.value is other.value

  def __hash__(self):
    return id(self.value)


def _told(value):
  """What of a function that is compiled tells it from others of one structure: its name and what it closes over."""
  if value is None or isinstance(value, str | int | float):
    return value
  if isinstance(value, types.FunctionType):
    return value.__module__, value.__qualname__, *(_told(cell.cell_contents) for cell in value.__closure__ or ())
  if isinstance(value, types.MethodType):
    return value.__func__.__qualname__, _told(value.__self__)
  if isinstance(value, ExamplePass):
    return 'ExamplePass', _told(value._fn), _told(value._feed)
  if isinstance(value, Generation):
    return 'Generation', value._name, _told(value._inputs)
  if isinstance(value, SplitInputs | CallInputs):  # what they give is in the rows
    return type(value).__name__
  if isinstance(value, Feed):  # of one structure they gather alike
    return type(value).__name__
  return _Itself(value)


def _like(tree):
  """Arrays for which one compilation serves."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, *((np.shape(leaf), str(leaf.dtype), getattr(leaf, 'sharding', None)) for leaf in leaves)


class _Shared(Program):
  """The program of a structure, which compiles everything once, however often a trainer or a test begins anew."""

  def __init__(self, config, devices):
    self._made, self._traced, layout = {}, [], make_layout(config, jax.devices()[:devices])
    self._compile_anew, layout.compile = layout.compile, self._compile_once
    if config.parallel == 'jit':
      self._stage_anew, layout.stage = layout.stage, self._stage
    self.trained_by = set()  # the programs that train, as text
    super().__init__(config, config_lib.builder(config), dataset(config).spec, layout)
    self._begin = jax.jit(self._init)

  @property
  def traces(self):
    """How often anything of the structure was traced to be compiled."""
    return len(self._traced)

  def of(self, config):
    """The program of another config of the structure: with floats and seeds of its own, as a lane has them."""
    other = copy.copy(self)
    other.floats = other._one = {path: np.float32(value) for path, value in config_lib.traced(config).items()}
    other.key, other.compile_stats = random.root(config.run.seed), {}
    other._init_keys = random.stream(other.key, 'init')
    return other

  def init(self):
    about = 'init', tuple(self.floats.values()), np.asarray(jax.random.key_data(self.key)).tobytes()
    if about not in self._made:
      self._made[about] = self.layout.init(self._begin, self.floats, self._init_keys)
    return jax.tree.map(jnp.copy, self._made[about])  # training donates its state

  def _stage(self, fn, *arguments):
    staged = self._stage_anew(fn, *arguments)
    if arguments[-1]:  # it returns a state: it trains
      self.trained_by.add(staged.lowered.as_text())
    return staged

  def _compile_once(self, fn, *arguments):
    about = _told(fn), *map(_like, arguments[:5]), *arguments[5:]
    if about not in self._made:

      @functools.wraps(fn)
      def counted(*traced):
        self._traced.append(about)
        return fn(*traced)

      self._made[about] = self._compile_anew(counted, *arguments)
    return self._made[about]


def program(config, devices=1):
  """The config's program on the first `devices` fake devices; what it compiles is kept for all of its structure."""
  about = signature(config), devices
  shared = _SHARED.pop(about, None) or _Shared(config, devices)
  _SHARED[about] = shared  # the last one used is forgotten last
  while len(_SHARED) > 8:
    _SHARED.popitem(last=False)
  return shared.of(config)


_SHARED: OrderedDict = OrderedDict()


def placed(program, state):
  """A run's state on one device as `program`, of another layout, takes it."""
  where = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state())
  return program.layout.join([jax.device_put(state, where)])


def samples(program, state, n, seed=0):
  """The first `n` samples of every lane, as files hold them."""
  return Generation(program, seed, program.drawing_task()).read(state, np.arange(n))


def sample(method, state, key, n, task='generate', **inputs):
  """What a task of a method returns as its samples, by the noise of `key`."""
  run = jax.jit(lambda state, random: method.tasks[task].run(state, inputs, random))
  return run(state, jax.random.split(key, n))['sample']


def floats(config):
  """The traced floats of a config that something depends on."""
  known = _known(config.to_json())
  return {path: value for path, value in config_lib.traced(config).items() if path in known}


@functools.lru_cache(maxsize=8)
def _known(text):
  config = config_lib.from_json(json.loads(text))
  data = dataset(config)
  batch = data.splits['train'].read(np.arange(program(config).batch_size))
  return unused_floats.trace(config, config_lib.builder(config), data.spec, batch)[0]


def feed(config, program):
  """The config's training feed."""
  source = dataset(config).splits['train']
  return make_feed(
    source, config.data, config.run.log_every, program.layout.local_rows(program.batch_size), program.batches_per_step
  )


def train(config, devices=1, steps=None):
  """(state as NumPy, metrics {name: [steps]}) after `steps` updates, in chunks, without a trainer.

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


def forget():
  """Forgets all programs and trainings that were kept for later tests."""
  _SHARED.clear()
  for kept in (_training, _known):
    kept.cache_clear()


class StopAt:
  """A Stop that is asked `chunks` times before it says yes, as a signal at that moment would."""

  def __init__(self, chunks):
    self.left = chunks

  @property
  def requested(self):
    self.left -= 1
    return 'SIGTERM' if self.left < 0 else ''


def run(config, path, devices=1, stop=None):
  """Trains `config` in run directory `path` with the real trainer, new or resumed; returns (exit code, trainer)."""
  path = Path(path)
  resumed = directory.is_run(path)
  rec = directory.RunDir(path) if resumed else directory.RunDir.make(path)
  if not resumed:
    rec.write_config(config_lib.to_json(config))
    rec.write_run(RunInfo(data=data_identity.describe(dataset(config))).to_json())
  with Stop() as signals, rec.lease():
    lane = RunLogger(config, rec, path / 'checkpoints', lambda step: open_trackers('', path, '', step))
    display = Display(config.run.steps, quiet=True)
    trainer = trainer_lib.Trainer([lane], dataset(config), program(config, devices), display, stop or signals)
    return trainer_lib.train(trainer), trainer


def command(*words, timeout=300, env=None, cwd=ROOT):
  """Runs a command line of the project on one CPU device; returns the completed process, text captured."""
  return subprocess.run(
    [*forked_python(), *map(str, words)],
    cwd=cwd,
    env={**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'], **(env or {})},
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def forked_python():
  """The first words of a command line that does as `python` does, without the seconds of imports."""
  _start_fork_server()
  return sys.executable, '-I', '-S', fork_server.__file__


@functools.cache
def _start_fork_server():
  """Starts this process's server of forks, once, and waits until it answers."""
  place = Path(tempfile.mkdtemp(), 'forks')
  os.environ[fork_server.PLACE] = str(place)
  server = subprocess.Popen([sys.executable, fork_server.__file__, '--serve', place])

  @atexit.register
  def end():
    server.kill()
    server.wait()
    shutil.rmtree(place.parent)

  while not place.exists():
    assert server.poll() is None, 'the server of forks did not start'
    time.sleep(0.01)


def launch(*words, **options):
  """python launch.py WORDS, sharing the suite's compilation cache."""
  return command('launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words, **options)


VOLATILE = ('attempt', 'seconds', 'examples_per_second', 'input_stall_percent')


def rows(path):
  """The rows of metrics.jsonl that still hold, without what a clock measured."""
  return [{k: v for k, v in row.items() if k not in VOLATILE} for row in directory.read_metrics(path)]
