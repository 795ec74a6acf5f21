"""Mistakes on the command line: one clear line that names the thing and the way out, exit code 1, nothing written."""

import json
import os
import shutil

import cli
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DIVERGED, FAILED, Diverged
from gen_ai.parallel.finite import finite
from gen_ai.run import directory
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.run.lease import Lease

GAN = '--config=configs/gan.py'
LM = '--config=configs/lm.py'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished run of configs/gan.py."""
  path = tmp_path_factory.mktemp('bad_input') / 'gan'
  tiny.run(tiny.config('gan'), path)
  return path


def refuse(words, *says, folder=None):
  """Asserts that launch.py refuses `words` in one line that holds `says`, and leaves `folder` as it is."""
  before = cli.files(folder) if folder else []
  cli.refused(cli.launch(*words), *says)
  assert not folder or cli.files(folder) == before


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    ([], ['Nothing to run', '--config=configs/NAME.py', '--list', '--resume=DIR']),
    (['configs/gan.py'], ["'configs/gan.py' is no flag", '--config=configs/gan.py']),
    (['--config=configs/gna.py'], ["No config file 'configs/gna.py'", 'configs/gan.py', '--list']),
    (['--config=configs/lm_shakespeare.py:tpu'], ["'cpu', 'modern' or 'gpu'"]),
    (['--config.optim.lr=1'], ['--config.optim.lr', 'no --config=configs/NAME.py']),
    (['--print_config'], ['--config=configs/NAME.py']),
    ([GAN, '--config.optim.lr'], ['--config.optim.lr needs a value']),
    ([GAN, '--config.optim.rate=1'], ["no field 'optim.rate'", 'Did you mean', '--print_config']),
    ([GAN, '--config.optim=1'], ['config.optim is a section', 'such as config.optim.']),
    ([GAN, '--config.optim.lr=fast'], ['config.optim.lr=fast is not a number']),
    ([GAN, '--config.run.steps=1e3'], ['config.run.steps=1e3 is not a whole number']),
    ([GAN, '--print_config', '--config.parallel=mpi'], ["config.parallel='mpi'", 'jit, pmap']),
    ([GAN, '--num_processes=2'], ['--num_processes', '--coordinator=HOST:PORT']),
    ([GAN, '--process_id=0'], ['--process_id', '--coordinator=HOST:PORT']),
    ([GAN, '--coordinator=localhost:1'], ['--coordinator=localhost:1', '--num_processes=N', '--process_id=0..N-1']),
    ([GAN, '--coordinator=localhost:1', '--num_processes=2', '--process_id=2'], ['--process_id=0..N-1']),
    ([GAN, '--coordinator=localhost', '--num_processes=2', '--process_id=1'], ['--coordinator=localhost', 'HOST:PORT']),
  ],
)
def test_mistakes_in_the_flags(words, says):
  refuse(words, *says)


@pytest.mark.parametrize(
  ('config', 'override', 'says'),
  [
    (GAN, 'experiment=gans', ["No experiment 'gans'", "'gan'"]),
    (GAN, 'parallel=mpi', ["config.parallel='mpi'", 'jit', 'pmap']),
    (GAN, 'precision=fp16', ["config.precision='fp16'", 'fp32', 'bf16']),
    (GAN, 'run.trackers=tensorbord', ["'tensorbord'", "'tensorboard'"]),
    (GAN, 'run.steps=7', ['config.run.steps=7', 'config.run.log_every=2', 'Try steps=8']),
    (GAN, 'run.eval_every=3', ['config.run.eval_every=3', 'config.run.log_every=2', 'Try eval_every=4']),
    (GAN, 'run.sample_every=5', ['config.run.sample_every=5', 'Try sample_every=4']),
    (GAN, 'run.save_every=7', ['config.run.save_every=7', 'Try save_every=8']),
    (GAN, 'run.seed=-1', ['config.run.seed=-1']),
    (GAN, 'data.batch_size=12', ['config.data.batch_size=12', '8 device(s)', 'multiple of 8', '16']),
    (GAN, 'eval.batch_size=100', ['config.eval.batch_size=100', '8 device(s)', '96']),
    (GAN, 'optim.accumulate=4', ['config.data.batch_size=16', '4 micro-batches', 'multiple of 32']),
    (GAN, 'mesh.data=3', ['data=3', '8 device(s)', 'data=-1']),
    (GAN, 'mesh.fsdp=3', ['fsdp=3', '8 device(s)']),
    (GAN, 'data.name=mnist5k', ["unknown data set 'mnist5k'", 'mnist_5k']),
    (GAN, 'data.name=cifar10', ["'cifar10' is not prepared", 'python -m gen_ai.data.prepare cifar10']),
    (GAN, 'data.name=folder:/no/such', ['/no/such']),
    (GAN, 'data.name=python_stdlib', ["config.experiment='gan' models data of the kind image", 'python_stdlib']),
    (GAN, 'data.split=train', ["data.split='train'", 'TRAIN|VALIDATION|TEST']),
    (GAN, 'data.feed=disk', ["config.data.feed='disk'", 'device', 'host']),
    (GAN, 'data.grey=maybe', ["config.data.grey='maybe'", 'auto, true, false']),
    (GAN, 'data.background=blue', ["config.data.background='blue'", 'white, black, none and #RRGGBB']),
    (GAN, 'data.tokens=word', ["config.data.tokens='word'", 'byte', 'char']),
    (GAN, 'data.on_bad_image=ignore', ["config.data.on_bad_image='ignore'", 'refuse', 'skip']),
    (GAN, 'optim.name=adamm', ["config.optim.name='adamm'", 'adam', 'muon']),
    (GAN, 'optim.schedule=step', ["config.optim.schedule='step'", 'cosine', 'linear']),
    (GAN, 'optim.weight_decay=0.1', ['config.optim.weight_decay', 'adam has none', 'adamw']),
    (GAN, 'model.network=unet', ["config.model.network='unet'", 'mlp', 'dcgan']),
    (GAN, 'model.latent=0', ['config.model.latent=0', 'at least 1']),
    (GAN, 'model.g_activation=swish', ["'swish'", 'relu', 'silu']),
    (GAN, 'loss.kind=hing', ["config.loss.kind='hing'", 'hinge', 'wasserstein']),
    (GAN, 'loss.constraint=lipschitz', ["config.loss.constraint='lipschitz'", 'clip', 'gradient_penalty', 'r1']),
    (GAN, 'loss.n_critic=0', ['config.loss.n_critic=0']),
    ('--config=configs/dcgan.py', 'model.g_norm=layer', ["'layer'", 'batch', 'group']),
    ('--config=configs/dcgan.py', 'model.weight_init=xavier', ["'xavier'", 'normal', 'lecun']),
    ('--config=configs/dcgan.py', 'loss.constraint=r1', ["config.loss.constraint='r1'", "config.model.d_norm='batch'"]),
    (
      '--config=configs/vae.py',
      'loss.likelihood=poisson',
      ["config.loss.likelihood='poisson'", 'bernoulli', 'gaussian'],
    ),
    ('--config=configs/vae.py', 'loss.binarise=never', ["config.loss.binarise='never'", 'dynamic', 'static']),
    ('--config=configs/vae.py', 'loss.kl_weight=-1', ['config.loss.kl_weight=-1', 'at least 0']),
    ('--config=configs/vae.py', 'loss.free_bits=-0.1', ['config.loss.free_bits=-0.1', 'at least 0']),
    ('--config=configs/vae.py', 'parallel=pmap --config.loss.free_bits=0.1', ["parallel='pmap'", 'parallel=jit']),
    ('--config=configs/vqvae.py', 'loss.codebook_decay=1.0', ['config.loss.codebook_decay=1.0', 'less than 1']),
    ('--config=configs/vqvae.py', 'loss.commitment=-1.0', ['config.loss.commitment=-1.0', 'at least 0']),
    ('--config=configs/vae_gan.py', 'loss.gamma=-1.0', ['config.loss.gamma=-1.0', 'at least 0']),
    ('--config=configs/stylegan2.py', 'model.mixing=1.5', ['config.model.mixing=1.5', 'from 0 to 1']),
    (GAN, 'sample.truncation=0.5', ["no field 'sample.truncation'", "for config.model.network 'stylegan2', and here"]),
    ('--config=configs/vae.py', 'model.network=unet', ["config.model.network='unet'", 'mlp', 'conv']),
    (LM, 'model.heads=3', ['config.model.width=16', '3 heads']),
    (LM, 'model.activation=swish', ["'swish'", 'gelu']),
    (LM, 'sample.top_k=-1', ['config.sample.top_k']),
    (LM, 'data.name=mnist_5k --config.data.split=auto', ["experiment='lm' models data of the kind text", 'mnist_5k']),
    (LM, 'data.name=text:/no/such/*.txt', ['/no/such/*.txt']),
    (LM, 'data.block_size=100000', ['data.block_size', '20000 tokens']),
    (LM, 'optim.warmup_steps=8', ['config.optim.warmup_steps=8', 'update 8']),
  ],
)
def test_a_wrong_field_is_named_before_anything_is_written(config, override, says, tmp_path):
  words = [config, '--tiny', f'--runs_dir={tmp_path}/runs', *f'--config.{override}'.split()]
  refuse(words, *says, folder=tmp_path)


def test_run_directories_that_are_none(tmp_path, run):
  refuse([f'--resume={tmp_path}/gone'], f'{tmp_path}/gone', 'no such directory')
  refuse([f'--resume={tmp_path}'], f'{tmp_path} is not a run directory', 'run.json', folder=tmp_path)
  refuse([f'--run_dir={tmp_path}/new'], f'{tmp_path}/new holds no run yet', '--config=', folder=tmp_path)
  (tmp_path / 'notes').mkdir()
  (tmp_path / 'notes' / 'thesis.txt').write_text('mine')
  refuse([GAN, '--tiny', f'--run_dir={tmp_path}/notes'], f'{tmp_path}/notes', 'in the way', folder=tmp_path)


def test_a_run_directory_of_another_config(run):
  words = [GAN, '--tiny', f'--run_dir={run}', '--config.run.trackers=']
  says = [f'{run} holds a run of another config', f'--resume={run}', '--run_dir']
  refuse([*words, '--config.optim.lr=0.5'], *says, 'config.optim.lr is 0.0005 there and 0.5 here', folder=run)
  refuse(['--config=configs/vae.py', '--tiny', f'--run_dir={run}'], *says, 'more', folder=run)


def test_data_that_changed_since(run, tmp_path):
  moved = tmp_path / 'run'
  shutil.copytree(run, moved)
  about = directory.read_run(moved)
  about['data']['fingerprint'] = 'ab' * 32
  (moved / 'run.json').write_text(json.dumps(about))
  says = ['trained on other data', 'mnist_5k', 'abababababab', 'start a new run']
  cli.refused(cli.command('gen_ai.evaluate', moved), *says)
  (moved / 'status.json').unlink()  # as if it had been killed
  refuse([f'--resume={moved}'], *says)


def test_a_damaged_record_is_named(run, tmp_path):
  moved = tmp_path / 'run'
  shutil.copytree(run, moved)
  (moved / 'config.json').write_text('{"run": ')
  refuse([f'--resume={moved}'], f'{moved}/config.json is damaged')


def test_places_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')  # also root cannot make a directory below a file or in /proc
  words = [GAN, '--tiny', '--config.run.trackers=']
  refuse([*words, f'--runs_dir={tmp_path}/file/runs'], f'{tmp_path}/file', 'in the way', folder=tmp_path)
  refuse([*words, f'--run_dir={tmp_path}/file'], f'{tmp_path}/file', 'in the way', folder=tmp_path)
  done = cli.command('launch.py', *words, f'--compilation_cache={tmp_path}/file/xla')
  cli.refused(done, '--compilation_cache', f'{tmp_path}/file/xla', "''")


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_no_permission(tmp_path):
  (tmp_path / 'runs').mkdir(mode=0o500)
  refuse([GAN, '--tiny', f'--runs_dir={tmp_path}/runs'], 'no permission', '--runs_dir', folder=tmp_path)


def test_a_run_in_use_by_another_process(run, tmp_path):
  moved = tmp_path / 'run'
  shutil.copytree(run, moved)
  (moved / 'status.json').unlink()
  with Lease(moved):
    done = tiny.launch(f'--resume={moved}')  # a process of its own: this one holds the lease
  cli.refused(done, f'{moved} is in use by process {os.getpid()}', 'kill')
  assert len(directory.read_attempts(moved)) == 2


def test_sampling_and_evaluating(run, tmp_path):
  sample, evaluate = ('gen_ai.sample', run), ('gen_ai.evaluate', run)
  cases = [
    (('gen_ai.sample',), ['gen_ai.sample takes one run directory', 'RUN_DIR']),
    (('gen_ai.evaluate', run, run), ['gen_ai.evaluate takes one run directory']),
    (('gen_ai.sample', tmp_path / 'gone'), [f'{tmp_path}/gone', 'no such directory']),
    (('gen_ai.evaluate', tmp_path), [f'{tmp_path} is not a run directory']),
    ((*sample, '--prompt=def '), ["the task 'generate' takes no input 'prompt'", 'it takes latent (latent).']),
    ((*sample, '--out=grid.jpg'), ['--out=grid.jpg', '.png, .npy or .npz']),
    ((*sample, '--out=grid'), ['--out=grid', '.png, .npy or .npz']),
    ((*sample, f'--out={run}/config.json/x.npy'), ['--out=', 'cannot be written']),
    ((*sample, '--step=newest'), ['--step=newest', "'latest', 'best'"]),
    ((*sample, '--step=3'), ['no checkpoint of step 3', '4', '8']),
    ((*sample, '--step=best'), ['no best checkpoint', "config.eval.best=''", '--step=latest']),
    ((*sample, '--config.optim.lr=1'), ['config.optim.lr', 'fixed', 'config.sample.*']),
    ((*sample, '--config.sample.m=1'), ["no field 'sample.m'"]),
    ((*evaluate, '--config.eval.batch_size=0'), ['config.eval.batch_size=0']),
    ((*evaluate, f'--out={run}/config.json/x'), ['--out=', 'cannot be written']),
  ]
  before = cli.files(run)
  for words, says in cases:
    cli.refused(cli.command(*words), *says)
  refused_by_absl = ((*evaluate, '--split=dev'), (*sample, '--seed=-1'), (*sample, '--size=3'), (*sample, '--n=0'))
  for words in refused_by_absl:
    done = cli.command(*words)
    assert done.returncode == FAILED
    assert words[-1].split('=')[0].lstrip('-') in done.stderr
    assert 'Traceback' not in done.stderr
  assert cli.files(run) == before


def test_a_run_that_has_saved_nothing_yet(run, tmp_path):
  moved = tmp_path / 'run'
  shutil.copytree(run, moved)
  shutil.rmtree(moved / 'checkpoints')
  (moved / 'checkpoints').mkdir()
  cli.refused(cli.command('gen_ai.sample', moved, '--out=x.png'), f'{moved} has no checkpoint yet', '--resume=')


# The first update is finite, what follows is not.
UNSTABLE = {'optim.name': 'sgd', 'optim.lr': 1e12, 'loss.constraint': 'none'}


def test_a_loss_that_is_no_number_names_step_and_tensor_and_leaves_the_last_good_checkpoint(tmp_path):
  config = tiny.config('gan', **{path.replace('.', '__'): value for path, value in UNSTABLE.items()})
  _, metrics = tiny.train(config)
  bad = {name: np.flatnonzero(~np.isfinite(value)) for name, value in metrics.items()}
  step = 1 + min(int(steps[0]) for steps in bad.values() if len(steps))
  first = sorted(name for name, steps in bad.items() if len(steps) and steps[0] == step - 1)
  assert 1 < step <= 8, 'the test needs a run that saves before it diverges'

  # From the command line, with a checkpoint to go back to: exit code 65.
  run = tmp_path / 'run'
  overrides = [f'--config.{path}={value}' for path, value in UNSTABLE.items()]
  done = tiny.launch(
    GAN, '--tiny', f'--run_dir={run}', *(f'--config.run.{n}=1' for n in ('log_every', 'save_every')), *overrides
  )
  assert done.returncode == DIVERGED, done
  assert 'Traceback' not in done.stderr
  message = done.stderr.strip().splitlines()[-1]
  named = message.partition(f'{run}: diverged at step {step}: ')[2].partition(' not finite')[0]
  assert sorted(named.split(', ')) == first
  last = f'last good checkpoint is step {step - 1}'
  for text in ('first bad tensor: params/', last, 'config.optim.lr', 'config.optim.clip_norm'):
    assert text in message
  status = directory.read_status(run)
  assert (status['state'], status['message']) == ('diverged', message.removeprefix('diverged: '))
  assert directory.read_attempts(run)[-1]['exit'] == DIVERGED
  rows = directory.read_metrics(run)
  assert (rows[-1]['kind'], rows[-1]['step']) == ('diverged', step)
  assert all(not np.isfinite(rows[-1][name]) for name in first)
  restored, state = Checkpoints(run / 'checkpoints', read_only=True).restore(tiny.program(config).abstract_state())
  assert restored == step - 1
  assert bool(finite(state))

  # Without one the replay starts from the initial state and finds the same.
  with pytest.raises(Diverged, match=f'diverged at step {step}: .*first bad tensor: params/') as error:
    tiny.run(config_lib.override(config, {'run.save_every': 8}), tmp_path / 'unsaved')
  assert str(error.value).split('tensor: ')[1].split('.')[0] == message.split('tensor: ')[1].split('.')[0]
  assert 'last good checkpoint' not in str(error.value)
