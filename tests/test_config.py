"""Configs: loading, overriding, refusing, comparing, and what of them is traced."""

import json
import shutil

import jax
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core.errors import UserError
from gen_ai.run import provenance
from gen_ai.sweep import trials


@pytest.fixture
def config():
  return config_lib.load('configs/gan.py')


def says(*texts):
  """A UserError in one line that holds all of `texts`."""
  return pytest.raises(UserError, check=lambda e: '\n' not in str(e) and all(text in str(e) for text in texts))


@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_every_config_is_complete_valid_locked_and_survives_json(name):
  for config in (config_lib.load(f'configs/{name}.py'), tiny.config(name)):
    config_lib.validate(config)
    assert config.is_locked
    assert None not in config_lib.flatten(config).values()
    again = config_lib.from_json(json.loads(json.dumps(config_lib.to_json(config))))
    assert config_lib.difference(config, again) == {}
    types = [{path: type(value) for path, value in config_lib.flatten(c).items()} for c in (config, again)]
    assert types[0] == types[1]
    usual = config_lib.flatten(config_lib.common('gan', 'mnist_5k'))
    assert usual.keys() <= config_lib.flatten(config).keys()


@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_every_config_file_says_claim_command_and_cost(name):
  doc = config_lib.load_module(f'configs/{name}.py').__doc__
  assert doc.splitlines()[0].endswith('.')
  for part in ('Claim:', 'Command:', f'--config=configs/{name}.py', 'Cost:'):
    assert part in doc


def test_an_argument_chooses_the_data():
  assert config_lib.load('configs/gan.py:fashion_mnist').data.name == 'fashion_mnist'
  assert config_lib.load('configs/lm_shakespeare.py:gpu').model.layers == 6
  with says('lm_shakespeare.py:tpu', "'cpu', 'modern' or 'gpu'"):
    config_lib.load('configs/lm_shakespeare.py:tpu')


@pytest.mark.parametrize('argument', ['folder:/data/pets', 'folder:a:b', 'folder:a b/c', 'text:rel/*.txt', ''])
@pytest.mark.parametrize('place', ['', 'a:b', 'a b'])
def test_data_references_are_arguments_from_wherever_the_file_is_named(argument, place, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = 'configs/gan.py'  # of the checkout, which is somewhere else
  if place:
    path = f'{place}/my:gan.py'
    (tmp_path / place).mkdir()
    shutil.copy(tiny.ROOT / 'configs' / 'gan.py', tmp_path / path)
  assert config_lib.load(f'{path}:{argument}').data.name == argument
  assert config_lib.tiny(f'{path}:{argument}')['model.latent'] == 8
  assert len(trials.declared(f'{path}:{argument}', 'lr')) == 3
  assert len(trials.drawn(f'{path}:{argument}', 2, 0)) == 2
  described = provenance.describe_file(f'{path}:{argument}')
  assert (described.path, described.argument) == (path, argument)
  assert described.text == (tiny.ROOT / 'configs' / 'gan.py').read_text()


@pytest.mark.parametrize(
  ('text', 'texts'),
  [
    ('def get_config(: pass', ['syntax error in line 1']),
    ('import nothing_of_the_kind', ['fails in line 1 with ModuleNotFoundError', 'nothing_of_the_kind']),
    ('get_config = 3', ['defines no get_config()']),
    ('def get_config(): pass', ['get_config() returns None', 'gen_ai.config.common()']),
    ('def get_config(): return {"run": 1}', ['get_config() returns a dict', 'not a ConfigDict']),
    ('def get_config():\n  return 1 / 0', ['get_config() fails in line 2 with ZeroDivisionError']),
    ('from ml_collections import ConfigDict as C\ndef get_config(): return C()', ['no config.data.background']),
    (
      'from gen_ai.config import common\ndef get_config():\n  c = common("gan", "x")\n  c.run.steps = "9"\n  return c',
      ['fails in line 4 with TypeError'],
    ),
    (
      'from gen_ai.config import common\ndef get_config():\n  c = common("gan", "x")\n  c.run = dict(steps=9)\n'
      '  return c',
      ['gives no config.run.ema_snapshots', 'an int'],
    ),
    ('\0', ['null bytes']),
  ],
)
def test_a_file_that_gives_no_config_says_which_line(text, texts, tmp_path):
  (tmp_path / 'mine.py').write_text(text)
  with says(f'{tmp_path}/mine.py', *texts):
    config_lib.load(f'{tmp_path}/mine.py')


@pytest.mark.parametrize(
  ('text', 'read', 'texts'),
  [
    ('def tiny(): return 3', config_lib.tiny, ['tiny() returns an int']),
    ('def tiny(): return {}[0]', config_lib.tiny, ['tiny() fails in line 3 with KeyError']),
    ('def sweep_lr(): yield {}[0]', lambda path: trials.declared(path, 'lr'), ['sweep_lr() fails in line 3']),
    ('def space(): return {}[0]', lambda path: trials.drawn(path, 1, 0), ['space() fails in line 3 with KeyError']),
  ],
)
def test_what_else_a_config_file_defines_says_which_line(text, read, texts, tmp_path):
  usual = 'from gen_ai.config import common\ndef get_config(): return common("gan", "")\n'
  (tmp_path / 'mine.py').write_text(usual + text)
  with says(*texts):
    read(f'{tmp_path}/mine.py')


def test_an_argument_that_a_config_does_not_take(tmp_path):
  (tmp_path / 'plain.py').write_text('from gen_ai.config import common\ndef get_config(): return common("gan", "x")\n')
  assert config_lib.load(f'{tmp_path}/plain.py').experiment == 'gan'
  with says('takes no argument', ':other'):
    config_lib.load(f'{tmp_path}/plain.py:other')


def test_sweeps_and_a_tiny_run_come_with_every_config_and_a_file_may_have_its_own(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from gen_ai.config import make_config\n'
    'def get_config(network="mlp"): return make_config("gan", "x", optim=dict(lr=5e-4), model=dict(network=network))\n'
  )
  assert [point['optim.lr'] for point in trials.declared(str(path), 'lr')] == [1.67e-4, 5e-4, 1.5e-3]
  assert [point['run.seed'] for point in trials.declared(str(path), 'seed')] == [0, 1, 2, 3, 4]
  assert trials.declared(str(path), 'best') == [{}]
  small = config_lib.tiny(str(path))
  assert (small['run.steps'], small['model.latent'], small['model.g_widths']) == (8, 8, (16, 16))
  assert 'model.width' not in small and config_lib.tiny(f'{path}:dcgan')['model.width'] == 4
  with path.open('a') as file:
    file.write('def sweep_lr(): yield {"optim.lr": 1.0}\ndef tiny(): return {"model.latent": 2}\n')
  assert trials.declared(str(path), 'lr') == [{'optim.lr': 1.0}]
  assert config_lib.tiny(str(path)) == small | {'model.latent': 2}
  path.write_text(
    'from gen_ai.config import make_config\n'
    'def get_config(lr): return make_config("gan", "x", optim=dict(lr=float(lr)))\n'
  )
  assert [point['optim.lr'] for point in trials.declared(f'{path}:0.3', 'lr')] == [0.1, 0.3, 0.9]


def test_a_config_is_made_of_its_familys_fields():
  config = config_lib.make_config(
    'gan', 'cifar10', model={'network': 'dcgan'}, optim={'lr': 1}, run={'save_every': 50}, every=250
  )
  assert (config.experiment, config.run.name, config.data.name, config.optim.lr) == ('gan', 'gan', 'cifar10', 1.0)
  assert (config.run.eval_every, config.run.sample_every, config.run.save_every) == (250, 250, 50)
  assert 'width' in config.model and 'g_widths' not in config.model and 'truncation' not in config.sample
  assert config_lib.make_config('vae', 'mnist_5k').loss.likelihood == 'bernoulli'
  assert config_lib.make_config('vae', 'cifar10').loss.likelihood == 'discretised_logistic'
  with says("no field 'optim.rl'", "'optim.lr'"):
    config_lib.make_config('gan', 'cifar10', optim={'rl': 1.0})
  with says('config.optim is a section'):
    config_lib.make_config('gan', 'cifar10', optim=1.0)


def test_a_file_may_set_fields_by_hand_too(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from gen_ai.config import make_config\ndef get_config():\n  c = make_config("gan", "x")\n'
    '  c.optim.lr = 0.25\n  c.model.network = "stylegan2"\n  return c\n'
  )
  config = config_lib.load(str(path))
  assert (config.optim.lr, config.model.style, 'g_widths' in config.model) == (0.25, 64, False)
  path.write_text(path.read_text().replace('optim.lr', 'optim.lrate'))
  with says('fails in line 4 with AttributeError', '"lrate" does not exist'):
    config_lib.load(str(path))


def test_another_network_has_other_fields_and_the_shared_ones_stay(config):
  given = {'model.width': '8', 'model.network': 'dcgan', 'model.latent': '7'}  # in any order
  dcgan = config_lib.override(config, given)
  assert (dcgan.model.width, dcgan.model.latent, dcgan.model.g_norm) == (8, 7, 'none')
  assert 'g_widths' not in dcgan.model and 'weight_init' in dcgan.model
  style = config_lib.override(dcgan, {'model.network': 'stylegan2'})
  assert (style.model.width, style.model.style, style.sample.truncation) == (8, 64, 1.0)
  assert 'weight_init' not in style.model and style.is_locked
  with says("no field 'model.g_widths'", "for config.model.network 'mlp'", "='dcgan'"):
    config_lib.override(config, {'model.network': 'dcgan', 'model.g_widths': (8,)})
  with says("config.model.network='dgcan' is none of mlp, dcgan"):
    config_lib.validate(config_lib.override(config, {'model.network': 'dgcan'}))


def test_a_config_as_flags_names_its_network_first():
  reference = 'configs/gan.py'
  config = config_lib.override(config_lib.load(reference), {'model.network': 'dcgan', 'model.width': 8, 'run.seed': 3})
  words = ['--config.model.network=dcgan', '--config.model.width=8', '--config.run.seed=3']
  assert config_lib.as_flags(config, reference) == [f'--config={reference}', *words]


@pytest.mark.parametrize('wrong', ['configs/wgna.py', 'wgna', 'wgan.py', 'config/wgan.py', 'configs/wgan'])
def test_an_unknown_config_file_names_the_nearest(wrong):
  with says(f"'{wrong}'", 'configs/wgan.py or configs/', '--list'):
    config_lib.load(wrong)


def test_a_file_that_is_no_config(tmp_path):
  (tmp_path / 'mine.py').write_text('x = 1\n')
  with says('mine.py', 'get_config()'):
    config_lib.load(f'{tmp_path}/mine.py')
  with says(f'{tmp_path}/mine.py'):  # the nearest beside the wrong one
    config_lib.load(f'{tmp_path}/mien.py')


def test_text_becomes_the_type_of_the_field(config):
  given = {
    'optim.lr': '3',
    'run.steps': '200',
    'model.d_spectral': 'true',
    'model.g_widths': '(8, 16)',
    'data.name': '5',
  }
  new = config_lib.override(config, given)
  values = (new.optim.lr, new.run.steps, new.model.d_spectral, new.model.g_widths, new.data.name)
  assert values == (3.0, 200, True, (8, 16), '5')
  assert [type(value) for value in values] == [float, int, bool, tuple, str]
  assert config_lib.override(config, {'model.g_widths': '8'}).model.g_widths == (8,)
  assert new.is_locked
  assert config.run.steps == 4000, 'the config itself must stay'


def test_a_run_from_before_grey_could_be_auto_keeps_its_meaning(config):
  for recorded, now in ((True, 'true'), (False, 'false'), ('auto', 'auto')):
    tree = config_lib.to_json(config)
    tree['data']['grey'] = recorded
    again = config_lib.from_json(tree)
    assert (again.data.grey, again.is_locked) == (now, True)
    config_lib.validate(again)


def test_values_keep_the_type_of_the_field(config):
  new = config_lib.override(config, {'optim.lr': 1, 'model.g_widths': [8, 16]})
  assert (type(new.optim.lr), new.model.g_widths) == (float, (8, 16))


@pytest.mark.parametrize(
  ('path', 'value', 'texts'),
  [
    ('run.steps', '1.5', ['config.run.steps=1.5', 'whole number', '4000']),
    ('run.steps', 1.5, ['config.run.steps=1.5', 'int', '4000']),
    ('run.steps', True, ['config.run.steps=True', 'int', '4000']),
    ('optim.lr', 'fast', ['config.optim.lr=fast', 'a number', '0.0005']),
    ('optim.lr', True, ['config.optim.lr=True', 'float', '0.0005']),
    ('model.d_spectral', 'maybe', ['config.model.d_spectral=maybe', 'true or false']),
    ('model.g_widths', '(1,', ['config.model.g_widths=(1,', 'a list, as in (1,2)']),
    ('model.g_widths', "('a',)", ['config.model.g_widths', "('a',)"]),
    ('model.g_widths', '(1.5,)', ['config.model.g_widths', '(1.5,)']),
    ('optim', '1', ['config.optim is a section', 'config.optim.']),
    ('optim.lr_rate', '1', ["no field 'optim.lr_rate'", "'optim.lr'", '--print_config']),
    ('optm.lr', '1', ["no field 'optm.lr'", "'optim.lr'"]),
    ('model.style', '8', ["no field 'model.style'", "for config.model.network 'stylegan2', and here", "='mlp'"]),
    ('model.stile', '8', ["no field 'model.stile'", "'model.style'? It is for config.model.network 'stylegan2'."]),
    ('optim.lr.x', '1', ["no field 'optim.lr.x'", "'optim.lr'"]),
  ],
)
def test_what_an_override_cannot_be(config, path, value, texts):
  with says(*texts):
    config_lib.override(config, {path: value})


BELOW_ONE = ('optim.b1', 'optim.b2', 'optim.ema_decay')
# Of every run; those of families are below.
FIELDS = {path: field for path, field in config_lib.COMMON.items() if not path.startswith('experiment')}


@pytest.mark.parametrize(
  ('path', 'value', 'texts'),
  [
    *[
      (path, 'neither', [f"config.{path}='neither'", *field.choices]) for path, field in FIELDS.items() if field.choices
    ],
    *[(path, 0, [f'config.{path}=0', 'at least 1']) for path, field in FIELDS.items() if field.min == 1],
    *[(path, 1.0, [f'config.{path}=1.0', 'at least 0 and less than 1']) for path in BELOW_ONE],
    ('optim.lr', float('nan'), ['config.optim.lr=nan', 'finite']),
    ('optim.lr', float('inf'), ['config.optim.lr=inf', 'finite']),
    ('optim.lr', -1.0, ['config.optim.lr=-1.0', 'at least 0']),
    ('optim.warmup_steps', -1, ['config.optim.warmup_steps=-1', 'at least 0']),
    ('data.image_size', -1, ['config.data.image_size=-1', 'at least 0']),
    ('run.eval_every', -100, ['config.run.eval_every=-100', 'at least 0']),
    ('run.seed', -1, ['config.run.seed=-1', 'from 0 to 2147483647']),
    ('run.seed', 2**31, ['config.run.seed=2147483648', 'from 0 to 2147483647']),
    ('model.latent', 0, ['config.model.latent=0', 'at least 1']),
    ('model.g_widths', (8, 0), ['config.model.g_widths=[8, 0]', 'at least 1']),
    *[
      (f'run.{name}', 150, [f'config.run.{name}=150', 'config.run.log_every=100', f'Try {name}=200'])
      for name in ('steps', 'eval_every', 'sample_every', 'save_every')
    ],
    ('optim.accumulate', 3, ['config.data.batch_size=64', 'config.optim.accumulate=3']),
    ('run.name', 'a/b', ["config.run.name='a/b'", 'folder name']),
    ('run.name', '', ["config.run.name=''"]),
    ('eval.best', 'logit_gap', ["config.eval.best='logit_gap'", 'metric:min']),
    ('eval.best', ':min', ["config.eval.best=':min'", 'metric:min']),
    ('eval.best', 'min', ["config.eval.best='min'", 'metric:min']),
  ],
)
def test_what_no_run_could_mean(config, path, value, texts):
  config_lib.validate(config)
  with says(*texts):
    config_lib.validate(config_lib.override(config, {path: value}))


def test_zero_switches_a_cadence_off(config):
  off = {f'run.{name}': 0 for name in ('eval_every', 'sample_every', 'save_every')}
  config_lib.validate(config_lib.override(config, off))


def test_an_unknown_experiment_names_the_nearest(config):
  with says("'gans'", "'gan'", 'vae'):
    config_lib.experiment(config_lib.override(config, {'experiment': 'gans'}))


def test_difference_names_the_fields_and_both_values(config):
  other = config_lib.override(config, {'optim.lr': 1e-3, 'model.g_widths': (1, 2)})
  assert config_lib.difference(config, other) == {
    'model.g_widths': ([256, 512, 1024], [1, 2]),
    'optim.lr': (5e-4, 1e-3),
  }
  absent = config_lib.difference(config, config_lib.load('configs/vae.py'))
  assert absent['model.g_widths'] == ([256, 512, 1024], '(absent)')


def test_floats_that_matter_are_traced_and_zeros_are_structure(config):
  traced = config_lib.traced(config)
  assert traced == {
    'optim.lr': 5e-4,
    'optim.b1': 0.5,
    'optim.b2': 0.999,
    'optim.eps': 1e-8,
    'optim.cooldown': 0.2,
    'optim.ema_decay': 0.995,
    'loss.penalty': 10.0,
    'loss.clip': 0.01,
    'loss.d_lr_factor': 1.0,
    'loss.auxiliary': 1.0,
  }

  @jax.jit
  def read(values):
    config_in_trace = config_lib.substitute(config, values)
    assert isinstance(config_in_trace.optim.lr, jax.core.Tracer)
    assert config_in_trace.optim.clip_norm == 0.0
    assert config_in_trace.loss.n_critic == 1
    return config_in_trace.optim.lr * 2

  assert float(read(traced)) == pytest.approx(1e-3)
  assert config.optim.lr == 5e-4


EXPERIMENTS = sorted(p.stem for p in (tiny.ROOT / 'experiments').glob('*.py') if not p.stem.startswith('_'))


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_every_family_declares_fields_whose_own_values_are_allowed(experiment):
  fields = config_lib.declared(experiment)
  assert fields.keys() > config_lib.COMMON.keys()
  for path, field in fields.items():
    for value in (field.usual('mnist_5k'), *(() if field.tiny is None else (field.tiny,))):
      assert not field.refusal(value), path
      assert type(value) is type(field.usual('mnist_5k'))
    assert all(not field.refusal(choice) for choice in field.choices)
    assert not field.choices or field.refusal('neither')


HALF_OPEN = {
  'gan': {
    'optim.b1': (0.0, 1.0),
    'model.mixing': (1.0, 1.1),
    'model.mapping_lr': (1e-9, 0.0),
    'loss.penalty': (0.0, -1.0),
    'loss.path_every': (1, 0),
    'loss.n_critic': (1, 0),
    'loss.clip': (0.0, None),
    'sample.truncation': (-1.0, None),
    'augment.target': (-2.0, None),
    'augment.speed': (1, 0),
    'optim.ema_halflife': (0.0, -1.0),
    'mesh.data': (-5, None),
  },
  'lm': {
    'model.dropout': (0.0, 1.0),
    'sample.temperature': (0.0, -0.1),
    'sample.top_k': (0, -1),
    'sample.length': (1, 0),
  },
  'classifier': {'loss.label_smoothing': (0.0, 1.0), 'augment.shift': (0, -1)},
  'vqvae': {
    'loss.codebook_decay': (0.0, 1.0),
    'loss.commitment': (0.0, -1.0),
    'loss.restart_below': (0.0, -1.0),
    'loss.prior_lr_factor': (0.0, -1.0),
    'loss.autoencoder_steps': (0, -1),
  },
  'vae': {
    'loss.free_bits': (0.0, -1.0),
    'loss.kl_weight': (0.0, -1.0),
    'loss.importance_samples': (1, 0),
    'model.latents': ((1,), (4, 0)),
    'loss.kl_warmup_steps': (0, -1),
  },
  'vae_gan': dict.fromkeys(('loss.kl_weight', 'loss.gamma', 'loss.penalty', 'loss.d_lr_factor'), (0.0, -1.0)),
  'inpaint_gan': {'loss.penalty': (-1.0, None), 'loss.adversarial': (-1.0, None), 'model.latent': (1, 0)},
}


@pytest.mark.parametrize('experiment', HALF_OPEN)
def test_ranges_are_half_open_where_they_always_were(experiment):
  fields = config_lib.declared(experiment)
  for path, (allowed, refused) in HALF_OPEN[experiment].items():
    assert not fields[path].refusal(allowed)
    assert refused is None or fields[path].refusal(refused)


def test_choices_are_what_the_code_knows():
  from gen_ai.core import optim
  from gen_ai.maths import adversarial, augment, masks
  from gen_ai.nets import gan as gan_nets
  from gen_ai.nets import norms, pyramid, stylegan2, transformer

  gan, vae_gan, inpaint = (config_lib.declared(name) for name in ('gan', 'vae_gan', 'inpaint_gan'))
  assert gan['loss.kind'].choices == adversarial.KINDS
  plain = tuple(kind for kind in adversarial.KINDS if kind not in adversarial.RELATIVISTIC)
  assert vae_gan['loss.kind'].choices == inpaint['loss.kind'].choices == plain, 'LOSSES of config/families/gan.py'
  assert gan['model.condition'].choices == gan_nets.CONDITIONS
  assert gan['model.g_norm'].choices == gan['model.d_norm'].choices == norms.NORMS
  assert gan['model.weight_init'].choices == pyramid.INITS
  assert gan['model.g_output'].choices == tuple(stylegan2.OUTPUTS)
  assert gan['augment.policy'].choices == augment.POLICIES and gan['augment.groups'].choices == augment.GROUPS
  assert inpaint['model.mask'].choices == masks.KINDS
  lm = config_lib.declared('lm')
  assert lm['model.norm'].choices == transformer.NORMS and lm['model.positions'].choices == transformer.POSITIONS
  assert lm['model.remat'].choices == transformer.REMAT
  assert gan['optim.name'].choices == optim.OPTIMISERS and gan['optim.schedule'].choices == optim.SCHEDULES


def test_a_list_of_choices_names_the_wrong_one():
  field = config_lib.declared('gan')['augment.policy']
  assert not field.refusal('cutout,color')
  assert field.refusal('color,colour') == "has 'colour', which is none of color, translation, cutout"


def test_a_depth_sets_sizes_and_is_no_matter_of_the_sizes_by_hand():
  from experiments import lm

  sizes = []
  for depth in (1, 3):
    config = config_lib.override(config_lib.load('configs/lm.py'), {'model.depth': depth, 'model.base_width': 128})
    arch = lm.architecture(config, 11)
    sizes.append((arch.layers, arch.heads, arch.width, arch.sizes[2]))
    assert arch.growth == depth / 2 and arch.attention_scale is None, 'heads are of 64 numbers at every depth'
    with pytest.raises(UserError, match='config.model.width=32 would do nothing: it is for config.model.depth 0'):
      idle.refuse(config_lib.override(config, {'model.width': 32}), ['model.width'])
  assert sizes == [(1, 1, 64, 64), (3, 3, 192, 64)]


def test_the_dial_of_a_config_file():
  assert config_lib.by_depth('d6', 'lm.py') == {'model.depth': 6, 'model.base_width': 256, 'run.steps': 3000}
  for text in ('6', 'd0', 'deep', 'd-1', ''):
    with pytest.raises(UserError, match=f'lm.py:{text} is no depth: .* as in lm.py:d6'):
      config_lib.by_depth(text, 'lm.py')


def test_a_tiny_run_of_a_depth_has_the_tiny_sizes(tmp_path):
  file = tmp_path / 'deep.py'
  file.write_text(
    "from gen_ai.config import by_depth, load, override\n\n\ndef get_config(depth='d4'):\n"
    "  return override(load('configs/lm.py'), by_depth(depth, 'deep.py'))\n"
  )
  small = config_lib.override(config_lib.load(f'{file}:d6'), config_lib.tiny(f'{file}:d6')).model
  assert (small.depth, small.layers, small.heads, small.width) == (0, 1, 2, 16)
  swept = trials.resolve(config_lib.load(f'{file}:d2'), [{'model.depth': depth} for depth in ('1', '2', '3')])
  assert [trial.config.model.depth for trial in swept] == [1, 2, 3] and len(trials.groups(swept)) == 3
