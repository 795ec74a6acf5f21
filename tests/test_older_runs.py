"""Runs recorded by a version whose config or run.json lacked a field: read as they were meant, or refused."""

import json
import shutil
import tarfile

import cli
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.run import directory, info, older_runs
from gen_ai.sweep import halving
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.directory import Sweep

LACKING = ('augment.interval', 'augment.kind', 'eval.metrics', 'eval.metrics_every', 'sweep.lanes', 'model.d_spectral')

# Fields of the configs when runs of each experiment were first recorded; '' stands for all experiments.
FIRST = {
  '': 'data.batch_size data.block_size data.data_dir data.feed data.grey data.image_size data.manual_dir data.name '
  'data.on_bad_image data.seed data.split data.tokens eval.batch_size eval.best eval.seed experiment mesh.data '
  'mesh.fsdp mesh.min_shard mesh.tensor optim.accumulate optim.b1 optim.b2 optim.clip_norm optim.decay_steps '
  'optim.ema_decay optim.end_factor optim.eps optim.lr optim.name optim.schedule optim.warmup_steps '
  'optim.weight_decay parallel precision run.eval_every run.keep run.log_every run.name run.sample_every '
  'run.save_every run.seed run.steps run.trackers sample.n',
  'classifier': 'augment.shift loss.label_smoothing model.activation model.blocks model.features model.norm '
  'model.width',
  'gan': 'loss.clip loss.constraint loss.d_lr_factor loss.kind loss.n_critic loss.penalty model.d_activation '
  'model.d_norm model.d_widths model.g_activation model.g_norm model.g_widths model.latent model.network '
  'model.weight_init model.width',
  'inpaint_gan': 'loss.adversarial loss.d_lr_factor loss.kind loss.penalty loss.reconstruction model.activation '
  'model.latent model.mask model.width',
  'lm': 'model.activation model.bias model.dropout model.heads model.layers model.width sample.length sample.prompt '
  'sample.temperature sample.top_k',
  'vae': 'loss.binarise loss.kl_weight loss.likelihood model.activation model.latents model.network model.width '
  'model.widths',
  'vae_gan': 'loss.d_lr_factor loss.gamma loss.kind loss.kl_weight loss.penalty model.activation model.d_norm '
  'model.hidden model.latent model.width',
  'vqvae': 'loss.autoencoder_steps loss.codebook_decay loss.commitment loss.prior_lr_factor loss.restart_below '
  'model.activation model.blocks model.code_dim model.codes model.downsamples model.prior_heads '
  'model.prior_layers model.prior_width model.width sample.temperature sample.top_k',
}


@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_a_field_that_is_added_says_what_runs_without_it_did(name):
  flat = config_lib.flatten(config_lib.load(f'configs/{name}.py'))
  first = {*FIRST[''].split(), *FIRST.get(flat['experiment'], ' '.join(flat)).split()}
  first &= flat.keys()  # a network's own fields are in its configs alone
  new = sorted(flat.keys() - first - older_runs.ADDED.keys())
  assert not new, 'give gen_ai.run.older_runs.ADDED the value at which it changes nothing'
  tree = config_lib.to_json(config_lib.load(f'configs/{name}.py'))
  for path in older_runs.ADDED.keys() & flat.keys():
    section, _, field = path.partition('.')
    del tree[section][field]
  config, added = older_runs.complete({section: value for section, value in tree.items() if value != {}}, 'it', {})
  assert added.keys() == older_runs.ADDED.keys() & flat.keys()
  if name == 'stylegan2':
    assert added['model.g_output'] == 'linear'
  config_lib.validate(config)
  for path, value in added.items():
    assert type(value) is type(config_lib.override(config, {path: flat[path]})[path.split('.')[0]][path.split('.')[1]])


def strip(path, *fields):
  """Makes the run at `path` one that an older version recorded, without `fields`."""
  tree, about = (json.loads((path / file).read_text()) for file in ('config.json', 'run.json'))
  for field in fields:
    section, _, name = field.partition('.')
    del tree[section][name]
  (path / 'config.json').write_text(json.dumps({name: value for name, value in tree.items() if value != {}}))
  (path / 'run.json').write_text(json.dumps({**about, 'git': {'commit': 'c0ffee' * 6}}))
  return path


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """A run of configs/gan.py that was stopped at step 4 of 8."""
  path = tmp_path_factory.mktemp('older') / 'run'
  assert tiny.run(tiny.config('gan'), path, stop=tiny.StopAt(2))[0] == REQUEUE
  return path


@pytest.fixture
def older(stopped, tmp_path):
  """The same, as a version that lacked fields would have recorded it."""
  return strip(shutil.copytree(stopped, tmp_path / 'older'), *LACKING)


def test_what_a_field_meant_is_said_in_one_line_and_the_run_is_sampled_evaluated_and_resumed(older, stopped, tmp_path):
  said = f'note: {older} was recorded by commit c0ffeec0ffee, before some fields, which are taken to be as it was '
  said += "then: config.augment.interval=4, config.augment.kind='none', config.eval.metrics='' and 3 more"
  done = cli.command('gen_ai.sample', older, '--n=4', f'--out={tmp_path}/x.png')
  assert (done.returncode, done.stderr.strip()) == (0, said)
  done = cli.command('gen_ai.evaluate', older)
  assert (done.returncode, done.stderr.strip()) == (0, said)
  assert [row['notes'] for row in directory.read_evaluations(older)] == [[said.removeprefix('note: ')]]
  config, added = older_runs.read_config(older)
  assert sorted(added) == sorted(LACKING)
  assert config_lib.to_json(config) == directory.read_config(stopped)
  assert tiny.run(config, older)[0] == DONE
  tiny.run(tiny.config('gan'), tmp_path / 'whole')
  assert tiny.rows(older) == tiny.rows(tmp_path / 'whole')


def test_a_field_without_such_a_value_is_named_with_the_commit(older):
  strip(older, 'optim.lr', 'model.latent')
  before = cli.files(older)
  for target, *words in (
    ['gen_ai.sample', older, '--out=x.png'],
    ['gen_ai.evaluate', older],
    ['gen_ai.reproduce', older],
    ['launch.py', f'--resume={older}'],
  ):
    done = cli.command(target, *words)
    cli.refused(done, 'recorded by commit c0ffeec0ffee, whose config has no model.latent, optim.lr', 'version')
    assert len(done.stderr.strip().splitlines()) == 1
  assert cli.files(older) == before


def test_a_file_of_ones_own_says_which_fields_its_runs_need(older, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(
    'from gen_ai.config import make_config\n\n\ndef get_config():\n  c = make_config("gan", "mnist_5k").unlock()\n'
    '  del c.loss.d_lr_factor\n  return c\n'
  )
  strip(older, 'loss.d_lr_factor')
  about = json.loads((older / 'run.json').read_text())
  with pytest.raises(UserError, match='whose config has no loss.d_lr_factor'):
    older_runs.read_config(older)
  (older / 'run.json').write_text(json.dumps({**about, 'config_file': {'path': str(file), 'argument': ''}}))
  config, added = older_runs.read_config(older)
  assert sorted(added) == sorted(LACKING) and 'd_lr_factor' not in config.loss
  file.write_text('def get_config(: broken')
  older_runs._fields.cache_clear()
  with pytest.raises(UserError, match='whose config has no loss.d_lr_factor'):
    older_runs.read_config(older)


def test_a_record_that_lacks_a_field_is_named_with_the_commit(stopped, tmp_path):
  older = strip(shutil.copytree(stopped, tmp_path / 'older'))
  about = json.loads((older / 'run.json').read_text())
  del about['data']['spec'], about['data']['fingerprint']
  (older / 'run.json').write_text(json.dumps(about))
  cli.refused(
    cli.command('gen_ai.sample', older, f'--out={tmp_path}/x.png'),
    f'{older}/run.json was written by commit c0ffeec0ffee and says nothing of data.spec',
  )
  with pytest.raises(UserError, match='says nothing of data.fingerprint'):
    directory.read_run(older)['data']['fingerprint']
  assert directory.read_run(older)['data'].get('spec') is None
  (older / 'status.json').write_text('[]')
  with pytest.raises(UserError, match='is no JSON object'):
    directory.read_status(older)


def test_a_sweep_whose_base_lacks_fields(tmp_path):
  base = tiny.config('gan')
  trials = trials_lib.resolve(base, [{'run.seed': 0}, {'run.seed': 1}])
  sweep = Sweep.create(str(tmp_path), 'seed', base, trials, {'engine': 'local'})
  file = sweep.path / 'sweep.json'
  tree = json.loads(file.read_text())
  for field in LACKING:
    section, _, name = field.partition('.')
    del tree['base'][section][name]
  file.write_text(json.dumps(tree))
  again = Sweep.open(sweep.path)
  assert [trial.config.to_dict() for trial in again.trials] == [trial.config.to_dict() for trial in trials]
  del tree['base']['optim']['lr']
  file.write_text(json.dumps(tree))
  with pytest.raises(UserError, match='whose config has no optim.lr'):
    Sweep.open(sweep.path)


def flat_fields(tree):
  """Adds to `tree`, a config of experiment 'gan', what one recorded before every network had its own fields."""
  for path, field in config_lib.declared('gan').items():
    if field.networks:
      section, _, name = path.partition('.')
      value = list(field.default) if isinstance(field.default, tuple) else field.default
      tree[section].setdefault(name, value)
  return tree


def test_a_run_that_recorded_the_fields_of_all_networks_goes_on_as_it_was(stopped, tmp_path):
  older = strip(shutil.copytree(stopped, tmp_path / 'older'))
  tree = flat_fields(directory.read_config(older))
  (older / 'config.json').write_text(json.dumps(tree))
  assert len(tree['model']) > len(directory.read_config(stopped)['model']) + 9
  config, added = older_runs.read_config(older)
  assert added == {} and config_lib.to_json(config) == directory.read_config(stopped)
  assert tiny.run(config, older)[0] == DONE
  tiny.run(tiny.config('gan'), tmp_path / 'whole')
  assert tiny.rows(older) == tiny.rows(tmp_path / 'whole')
  assert directory.read_config(older) == tree, 'the record stays as it was written'


def test_a_sweep_over_networks_that_recorded_the_fields_of_all_keeps_its_points(tmp_path):
  base = config_lib.to_json(tiny.config('gan'))
  points = [{'model.network': 'dcgan'}, {'run.seed': 1, 'model.attention': False}, {'model.network': 'stylegan2'}]
  tree = {
    'base': flat_fields(base),
    'name': 'old',
    'points': [{'number': n, 'dir': str(n), 'overrides': point} for n, point in enumerate(points)],
  }
  tree['base']['model'] |= {'width': 24, 'style': 9}  # set by hand, for the points that read them
  (tmp_path / 'sweep.json').write_text(json.dumps(tree))
  dcgan, seed, style = (point.config for point in Sweep.open(tmp_path).trials)
  assert dcgan.model.width == 24 and 'style' not in dcgan.model and 'g_widths' not in dcgan.model
  assert seed.run.seed == 1 and seed.model.g_widths == (16, 16) and 'attention' not in seed.model
  assert style.model.width == 24 and style.model.style == 9


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  """A run of configs/iwae.py and a packed sweep over it, as commit 1e0ef3d recorded them, with its names."""
  folder = tmp_path_factory.mktemp('kept')
  with tarfile.open(tiny.ROOT / 'tests' / 'data' / 'older_runs.tar.gz') as file:
    file.extractall(folder, filter='data')
  return folder


def test_directories_with_older_names_are_read_with_those_of_today(kept, tmp_path):
  raw = json.loads((kept / 'run' / 'config.json').read_text())
  assert 'writers' in raw['run'] and 'draws' in raw['loss'] and 'nll_draws' in raw['eval']
  config, added = older_runs.read_config(kept / 'run')
  averages = {'optim.ema_halflife': 0.0, 'optim.ema_rampup': 0.0, 'optim.ema_lengths': (), 'run.ema_snapshots': 0}
  assert (
    added == {'eval.task': '', 'optim.cooldown': 0.2, 'mesh.expert': 1} | averages
    and config.loss.importance_samples == raw['loss']['draws']
    and config.run.trackers == ''
  )
  (row,) = directory.read_evaluations(kept / 'run')
  stamp = row['figures']['iwae_nats']['stamp']
  assert stamp['importance_samples'] == 4 and stamp['observation'].startswith('bernoulli')
  assert info.read(kept / 'run').evaluation.observation == stamp['observation']
  sweep = Sweep.open(kept / 'sweep')
  assert sweep.launcher == 'packed'
  assert [trial.config.loss.importance_samples for trial in sweep.trials] == [2, 3]
  assert [trial.overrides for trial in sweep.trials] == [{'loss.importance_samples': 2}, {'loss.importance_samples': 3}]
  assert [(row['trial'], row['decision']) for row in halving.read_decisions(sweep.path)] == [
    (0, 'continue'),
    (1, 'stop'),
  ]
  done = cli.command('gen_ai.compare', kept / 'sweep', kept / 'run', '--metric=elbo_nats:max')
  assert done.returncode == 0 and 'loss.importance_samples' in done.stdout, done
  done = cli.command('launch.py', f'--status={kept / "sweep"}')
  assert done.returncode == 0 and 'pruned' in done.stdout, done


def test_a_run_with_older_names_goes_on_generates_and_is_evaluated(kept, tmp_path):
  run = shutil.copytree(kept / 'run', tmp_path / 'run')
  done = cli.command('gen_ai.sample', run, '--n=4', f'--out={tmp_path}/x.png')
  assert done.returncode == 0 and (tmp_path / 'x.png').is_file(), done
  done = cli.command('gen_ai.evaluate', run, '--metrics=nll', '--config.eval.importance_samples=4')
  assert done.returncode == 0, done
  before, after = directory.read_evaluations(run)
  assert after['figures']['iwae_nats']['value'] == pytest.approx(before['figures']['iwae_nats']['value'], rel=1e-5)
  done = cli.launch(f'--resume={run}')
  assert done.returncode == DONE and 'is complete: its 4 steps are done' in done.stdout, done
  assert '--config.run.trackers=' in done.stdout, 'commands have the names of today'
