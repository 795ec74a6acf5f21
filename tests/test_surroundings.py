"""Variables of the environment that would change a run's numbers: refused by name, or told, recorded and compared."""

import os
from types import SimpleNamespace

import cli
import made_runs
import pytest
import tiny

from gen_ai.compare import load
from gen_ai.core import surroundings
from gen_ai.core.errors import UserError
from gen_ai.run import directory, provenance
from gen_ai.train import open_run

GAN = ['--config=configs/gan.py', '--tiny', '--config.run.trackers=']
UNUSUAL = {
  'JAX_ENABLE_X64': ('1', 'true', 'on'),
  'JAX_DISABLE_JIT': ('True',),
  'JAX_DEBUG_NANS': ('1',),
  'JAX_DEFAULT_PRNG_IMPL': ('rbg', 'unsafe_rbg'),
  'JAX_THREEFRY_PARTITIONABLE': ('0',),
  'JAX_RANDOM_SEED_OFFSET': ('7',),
  'JAX_NUMPY_DTYPE_PROMOTION': ('strict',),
  'JAX_NUMPY_RANK_PROMOTION': ('raise',),
  'XLA_FLAGS': ('--xla_cpu_enable_fast_math', '--xla_dump_to=x --xla_cpu_enable_fast_math=true'),
}
USUAL = {
  'JAX_ENABLE_X64': '0',
  'JAX_DEFAULT_PRNG_IMPL': 'threefry2x32',
  'JAX_THREEFRY_PARTITIONABLE': 'True',
  'JAX_NUMPY_RANK_PROMOTION': 'allow',
  'JAX_DEBUG_NANS': '',
  'JAX_PLATFORMS': 'cpu',
  'JAX_COMPILATION_CACHE_DIR': '/x',
  'XLA_FLAGS': '--xla_force_host_platform_device_count=8 --xla_dump_to=/x',
  'PATH': '/bin',
  'OMP_NUM_THREADS': '3',
}


@pytest.mark.parametrize(('name', 'value'), [(name, value) for name, values in UNUSUAL.items() for value in values])
def test_what_would_make_another_experiment_is_refused_by_name(name, value):
  with pytest.raises(UserError, match=name):
    surroundings.check({name: value})


def test_what_leaves_the_numbers_alone_is_not_told():
  surroundings.check(USUAL)
  assert surroundings.numerics(USUAL) == ''


def test_what_changes_the_rounding_is_told():
  variables = {
    'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16',
    'NVIDIA_TF32_OVERRIDE': '0',
    'JAX_NEW_FANGLED': '2',
    'XLA_FLAGS': '--xla_gpu_autotune_level=0 --xla_dump_to=/x',
  }
  surroundings.check(variables)
  assert surroundings.arithmetic(variables) == 'JAX_DEFAULT_MATMUL_PRECISION=bfloat16 NVIDIA_TF32_OVERRIDE=0'
  assert surroundings.compiler(variables) == 'JAX_NEW_FANGLED=2 --xla_gpu_autotune_level=0'


def test_every_refused_variable_is_one_of_jax():
  import jax

  known = {name.upper() for name in jax.config.values}
  assert set(surroundings.REFUSED) <= known
  # All that draws, types and promotes is decided here, whatever a later JAX adds.
  about = [name for name in known if any(word in name for word in ('X64', 'PRNG', 'THREEFRY', 'SEED', 'PROMOTION'))]
  told = [name for name in about if name in surroundings.REFUSED or surroundings.compiler({name: '1'})]
  assert set(about) - set(told) <= {'JAX_ENABLE_CUSTOM_PRNG', 'JAX_LEGACY_PRNG_KEY'}


def test_every_command_refuses_before_it_writes(tmp_path, monkeypatch):
  run, says = made_runs.make(tmp_path / 'run', state='stopped'), ['JAX_ENABLE_X64=1', 'float64', 'unset JAX_ENABLE_X64']
  monkeypatch.setenv('JAX_ENABLE_X64', '1')
  before = cli.files(tmp_path)
  for words in ([*GAN, f'--runs_dir={tmp_path}/r'], [f'--resume={run}'], [*GAN, '--axis=run.seed=0,1', '--dry_run']):
    cli.refused(cli.launch(*words), *says)
  for command in ('sample', 'evaluate', 'complete', 'reproduce'):
    cli.refused(cli.command(f'gen_ai.{command}', run), *says)
  cli.refused(cli.command('gen_ai.evaluate', '--samples_file=x.npy', '--data=mnist_5k'), *says)
  assert cli.files(tmp_path) == before


def test_devices_that_are_not_here(tmp_path):
  done = tiny.launch(*GAN, f'--runs_dir={tmp_path}/r', env={'JAX_PLATFORMS': 'cuda'})
  cli.refused(done, 'JAX_PLATFORMS=cuda', 'no such device here', 'JAX_PLATFORMS=cpu')
  assert not cli.files(tmp_path)


def test_numbers_that_the_environment_changes_are_told_recorded_and_not_pooled(tmp_path, monkeypatch):
  monkeypatch.delenv('XLA_FLAGS')
  usual = made_runs.make(tmp_path / 'a', nll=(), state='stopped')
  unusual = {'environment': {'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16'}}
  made_runs.make(tmp_path / 'b', run__seed=1, protocol={'about': unusual})
  monkeypatch.setenv('JAX_DEFAULT_MATMUL_PRECISION', 'bfloat16')
  lines = []
  open_run.tell_numerics(SimpleNamespace(say=lines.append), usual)
  assert [' '.join(line.split()) for line in lines] == [
    'numbers JAX_DEFAULT_MATMUL_PRECISION=bfloat16 (from the environment, and so on the record)',
    'numbers differ from where the run began: nothing was set there',
  ]
  directory.RunDir(usual).begin_attempt(50, environment=provenance.environment())  # as a lane begins
  assert list(load(tmp_path).runs['arithmetic']) == [
    'as usual then JAX_DEFAULT_MATMUL_PRECISION=bfloat16',
    'JAX_DEFAULT_MATMUL_PRECISION=bfloat16',
  ]
  done = cli.command('gen_ai.compare', tmp_path, '--metric=nll_bpd:min')
  cli.refused(done, 'arithmetic (precision that the environment asked for)', '--where')


def test_flags_of_the_compiler_are_a_note(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  made_runs.make('runs/a')
  made_runs.make(
    'runs/b', run__seed=1, protocol={'about': {'environment': {'XLA_FLAGS': '--xla_gpu_autotune_level=0'}}}
  )
  done = cli.command('gen_ai.compare', 'runs')
  assert done.returncode == 0, done.stderr
  assert 'flags of the compiler differ' in ' '.join(done.stdout.split())


def test_the_suite_itself_runs_in_usual_arithmetic():
  assert surroundings.arithmetic(os.environ) == ''
