"""Flags and fields that nothing would read are refused by name; what the tables declare is what the code reads."""

import ast
import inspect

import cli
import jax
import made_runs
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.launchers.registry import LAUNCHERS

GAN, VAE = 'configs/gan.py', 'configs/vae.py'


def launch(*words):
  return cli.launch(*words)


# Fields.


@pytest.mark.parametrize(
  ('reference', 'given', 'says'),
  [
    (GAN, {'model.width': '64'}, "no field 'model.width': it is for config.model.network 'dcgan', 'resnet' or"),
    (GAN, {'model.attention': 'true'}, "for config.model.network 'resnet', and here config.model.network='mlp'"),
    (GAN, {'model.mixing': '0.5'}, "no field 'model.mixing'"),
    (
      GAN,
      {'loss.penalty': '10', 'loss.constraint': 'none'},
      'config.loss.penalty=10.0',
    ),  # the usual value, set by hand
    (
      GAN,
      {'loss.penalty': '3', 'loss.constraint': 'none'},
      "config.loss.penalty=3.0 would do nothing: it is for config.loss.constraint '",
    ),
    (GAN, {'augment.target': '0.5', 'augment.kind': 'diffaugment'}, 'config.augment.target=0.5'),
    (
      GAN,
      {'optim.end_factor': '0.5', 'optim.schedule': 'constant'},
      "config.optim.schedule 'cosine', 'linear' or 'wsd'",
    ),
    (GAN, {'optim.b2': '0.5', 'optim.name': 'sgd'}, 'config.optim.b2=0.5'),
    (GAN, {'eval.metrics_every': '1000'}, 'config.eval.metrics that names figures'),
    (GAN, {'data.block_size': '32'}, 'config.data.name that holds text'),
    (GAN, {'data.on_bad_image': 'skip'}, "config.data.name 'folder:PATH'"),
    ('configs/lm.py', {'data.grey': 'true'}, 'config.data.name that holds images'),
    (VAE, {'model.widths': '(8,)'}, "config.model.network 'mlp'"),
    (VAE, {'model.top_widths': '(8,)'}, 'config.model.latents of several layers'),
    (VAE, {'loss.likelihood': 'gaussian', 'loss.binarise': 'static'}, "config.loss.binarise='static'"),
  ],
)
def test_fields_that_nothing_would_read_are_refused(reference, given, says):
  with pytest.raises(UserError) as error:
    idle.refuse(config_lib.override(config_lib.load(reference), given), given)
  assert says in str(error.value)


@pytest.mark.parametrize(
  ('reference', 'given'),
  [
    (GAN, {'model.network': 'dcgan', 'model.width': '8'}),
    ('configs/sngan.py', {'model.network': 'mlp'}),
    ('configs/iwae.py', {'loss.bound': 'elbo', 'loss.gradient': 'plain'}),
    ('configs/stylegan2.py', {'model.style': '8'}),
    ('configs/wgan.py', {'loss.penalty': '3'}),
    (GAN, {'data.name': 'cifar10', 'data.grey': 'true'}),
  ],
)
def test_fields_that_are_read_or_switched_off_pass(reference, given):
  idle.refuse(config_lib.override(config_lib.load(reference), given), given)


@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_every_config_passes_as_it_is_and_tiny(name):
  reference = f'configs/{name}.py'
  idle.refuse(config_lib.load(reference), ())
  idle.refuse(tiny.config(name), config_lib.tiny(reference))


@pytest.mark.parametrize('weight', ['1', '1.', '.5', '1e-1'])
def test_tokens_are_read_of_mixtures_that_hold_a_text(weight):
  config = config_lib.override(config_lib.load('configs/lm.py'), {'data.name': f'mix:1*tokens:a+{weight}*text:b'})
  idle.refuse(config, ['data.tokens'])
  config.data.name = f'mix:1*tokens:a+{weight}*tokens:b'
  with pytest.raises(UserError, match='would do nothing'):
    idle.refuse(config, ['data.tokens'])


def test_what_one_point_of_a_sweep_reads_is_not_idle():
  base = config_lib.override(config_lib.load(GAN), {'loss.penalty': '3', 'loss.constraint': 'none'})
  trials = [{'loss.constraint': 'none'}, {'loss.constraint': 'r1'}]
  assert len(trials_lib.resolve(base, trials, ['loss.penalty'])) == 2
  with pytest.raises(UserError, match='config.loss.penalty=3.0 would do nothing'):
    trials_lib.resolve(base, trials[:1], ['loss.penalty'])
  with pytest.raises(UserError, match="trial 1 .*no field 'model.width': it is for config.model.network"):
    trials_lib.resolve(config_lib.load(GAN), [{}, {'model.width': 9}])


class _Recording(ConfigDict):
  """A config that notes which fields are read of it."""

  def __init__(self, tree, reads, prefix=''):
    super().__init__()
    object.__setattr__(self, '_reads', (reads, prefix))
    for name, value in tree.items():
      path = f'{prefix}{name}'
      self[name] = _Recording(value, reads, f'{path}.') if isinstance(value, ConfigDict | dict) else value

  def __getattr__(self, name):
    reads, prefix = object.__getattribute__(self, '_reads')
    reads.add(f'{prefix}{name}')
    return super().__getattr__(name)

  def __getitem__(self, name):
    reads, prefix = object.__getattribute__(self, '_reads')
    reads.add(f'{prefix}{name}')
    return super().__getitem__(name)


def reads_of(config):
  """Fields of model, loss, augment that building, initialising and one update read."""
  reads = set()
  recording = _Recording(config.to_dict(), reads)
  reads.clear()
  size = config.data.image_size or 28
  spec = Spec(kind='image', shape=(size, size, 1), num_classes=10)
  method = config_lib.builder(config)(recording, spec)
  n = config.data.batch_size * method.batches_per_step
  batch = {'image': np.zeros((n, size, size, 1), np.uint8), 'label': np.zeros(n, np.int32), 'index': np.arange(n)}
  state = jax.eval_shape(method.init, jax.random.key(0))
  jax.eval_shape(method.train_step, state, batch, jax.random.key(0))
  return reads


CASES = {
  'mlp': ('gan', {}),
  'dcgan': ('dcgan', {}),
  'resnet': ('sngan', {}),
  'stylegan2': ('stylegan2', {}),
  'conv': ('vae', {}),
  'deep': ('hvae', {}),
  'penalised': ('gan', {'loss.constraint': 'r1'}),
  'clipped': ('gan', {'loss.constraint': 'clip'}),
  'auxiliary': ('cgan', {'model.condition': 'auxiliary'}),
  'ada': ('gan', {'augment.kind': 'ada'}),
  'diffaugment': ('gan', {'augment.kind': 'diffaugment'}),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_the_tables_say_what_the_code_reads(case):
  name, changes = CASES[case]
  config = config_lib.override(tiny.config(name), changes)
  fields, flat = config_lib.declared(config.experiment), config_lib.flatten(config)
  own = {path: field for path, field in fields.items() if path in flat and path not in config_lib.COMMON}
  table = {path for path, field in own.items() if field.used_with or field.networks}
  reads = reads_of(config)
  used = {path for path in table if not idle.reason(config, path)}
  assert used <= reads, 'declared to be read, and is not'
  # What is looked at to check it, or before a branch, is not yet used.
  looked_at = {
    'loss.penalty',
    'loss.clip',
    'loss.auxiliary',
    'loss.penalty_every',
    'loss.path_every',
    'model.mixing',
    'augment.policy',
    'augment.groups',
    'augment.speed',
    'augment.interval',
    'model.d_norm',
    'model.top_widths',
    'loss.binarise',
    'loss.gradient',
    'model.mapping_lr',
  }
  assert reads & table - used <= looked_at, 'declared to be idle, and is read'


# Flags.


@pytest.fixture
def places(tmp_path, monkeypatch):
  """A run and a sweep, as their records."""
  monkeypatch.chdir(tmp_path)
  made_runs.make('run', state='stopped')
  made = made_runs.sweep('runs', [{'run.seed': 0}, {'run.seed': 1}])
  return {'RUN': 'run', 'SWEEP': str(made.path)}


@pytest.mark.parametrize(
  ('words', 'flag'),
  [
    ('--resume=RUN --tiny', 'tiny'),
    ('--resume=RUN --runs_dir=x', 'runs_dir'),
    ('--resume=RUN --run_dir=x', 'run_dir'),
    ('--resume=RUN --print_config', 'print_config'),
    ('--resume=RUN --axis=run.seed=0,1', 'axis'),
    ('--resume=RUN --retry_failed', 'retry_failed'),
    ('--resume=RUN --trial=1', 'trial'),
    ('--config=configs/gan.py --run_dir=x --runs_dir=y', 'runs_dir'),
    ('--config=configs/gan.py --dry_run', 'dry_run'),
    ('--config=configs/gan.py --sample_seed=1', 'sample_seed'),
    ('--run_dir=x --tiny', 'tiny'),
    ('--config=configs/gan.py --axis=run.seed=0,1 --print_config', 'print_config'),
    ('--config=configs/gan.py --axis=run.seed=0,1 --lease_wait=3', 'lease_wait'),
    ('--config=configs/gan.py --axis=run.seed=0,1 --sample_seed=3', 'sample_seed'),
    ('--config=configs/gan.py --tiny --axis=run.seed=0,1 --per_device=2', 'per_device'),
    ('--config=configs/gan.py --tiny --axis=run.seed=0,1 --sbatch=--time=1', 'sbatch'),
    ('--config=configs/gan.py --tiny --axis=run.seed=0,1 --launcher=local --ray_address=h:1', 'ray_address'),
    ('--config=configs/gan.py --tiny --axis=run.seed=0,1 --launcher=ray --devices=0', 'devices'),
    ('--resume=SWEEP --tiny', 'tiny'),
    ('--resume=SWEEP --runs_dir=x', 'runs_dir'),
    ('--resume=SWEEP --sample=2', 'sample'),
    ('--resume=SWEEP --trial=1', 'trial'),
    ('--resume=SWEEP --sbatch=--time=1', 'sbatch'),
    ('--resume=SWEEP --launcher=slurm --devices=0', 'devices'),
    ('--resume=SWEEP --config.run.seed=1', 'config.run.seed'),
    ('--status=SWEEP --trial=1', 'trial'),
    ('--status=SWEEP --config=configs/gan.py', 'config'),
    ('--status=SWEEP --stop=SWEEP', 'stop'),
    ('--stop=SWEEP --resume=SWEEP', 'resume'),
    ('--stop=SWEEP --tiny', 'tiny'),
    ('--list --tiny', 'tiny'),
    ('--list --config=configs/gan.py', 'config'),
    ('--list --config.run.seed=1', 'config.run.seed'),
  ],
)
def test_flags_that_go_with_nothing_are_refused(words, flag, places):
  before = cli.files('.')
  words = [word.replace('RUN', places['RUN']).replace('SWEEP', places['SWEEP']) for word in words.split()]
  cli.refused(launch(*words), f'--{flag}', 'out')
  assert cli.files('.') == before


def test_every_flag_of_launch_is_in_a_table_or_always_read():
  tree = ast.parse((tiny.ROOT / 'launch.py').read_text())
  defined = {
    node.args[0].value
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith('DEFINE_')
  }
  [table] = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
  older = {'engine', 'point'}  # aliases
  assert {key.value for key in table.keys} == defined - {'compilation_cache'} - older
  assert {field.name for field in Options.__dataclass_fields__.values()} - {'cache'} <= defined


def test_an_option_of_launchers_says_which_read_it():
  for name, field in Options.__dataclass_fields__.items():
    if name != 'cache':
      for launcher in field.metadata['launchers']:
        source = inspect.getsource(inspect.getmodule(type(LAUNCHERS[launcher])))
        assert f'options.{name}' in source
