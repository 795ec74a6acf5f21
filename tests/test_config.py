"""Configs: loading, overriding, refusing, comparing, and what of them is traced."""

import json
import shutil

import jax
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai import provenance, sweep
from gen_ai.errors import UserError


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
  with says('lm_shakespeare.py:tpu', "'cpu' or 'gpu'"):
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
  assert len(sweep.declared(f'{path}:{argument}', 'lr')) == 3
  assert len(sweep.drawn(f'{path}:{argument}', 2, 0)) == 2
  described = provenance.describe_file(f'{path}:{argument}')
  assert (described['path'], described['argument']) == (path, argument)
  assert described['text'] == (tiny.ROOT / 'configs' / 'gan.py').read_text()


@pytest.mark.parametrize(('text', 'texts'), [
  ('def get_config(: pass', ['syntax error in line 1']),
  ('import nothing_of_the_kind', ['fails in line 1 with ModuleNotFoundError', 'nothing_of_the_kind']),
  ('get_config = 3', ['defines no get_config()']),
  ('def get_config(): pass', ['get_config() returns None', 'gen_ai.config.common()']),
  ('def get_config(): return {"run": 1}', ['get_config() returns a dict', 'not a ConfigDict']),
  ('def get_config():\n  return 1 / 0', ['get_config() fails in line 2 with ZeroDivisionError']),
  ('from ml_collections import ConfigDict as C\ndef get_config(): return C()', ['no config.data.background']),
  ('from gen_ai.config import common\ndef get_config():\n  c = common("gan", "x")\n  c.run.steps = "9"\n  return c',
   ['fails in line 4 with TypeError']),
  ('from gen_ai.config import common\ndef get_config():\n  c = common("gan", "x")\n  c.run = dict(steps=9)\n'
   '  return c', ['gives no config.run.eval_every', 'an int']),
  ('\0', ['null bytes']),
])  # fmt: skip
def test_a_file_that_gives_no_config_says_which_line(text, texts, tmp_path):
  (tmp_path / 'mine.py').write_text(text)
  with says(f'{tmp_path}/mine.py', *texts):
    config_lib.load(f'{tmp_path}/mine.py')


@pytest.mark.parametrize(('text', 'read', 'texts'), [
  ('def tiny(): return 3', config_lib.tiny, ['tiny() returns an int']),
  ('def tiny(): return {}[0]', config_lib.tiny, ['tiny() fails in line 3 with KeyError']),
  ('def sweep_lr(): yield {}[0]', lambda path: sweep.declared(path, 'lr'), ['sweep_lr() fails in line 3']),
  ('def space(): return {}[0]', lambda path: sweep.drawn(path, 1, 0), ['space() fails in line 3 with KeyError']),
])  # fmt: skip
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
  with says('defines no tiny()'):
    config_lib.tiny(f'{tmp_path}/plain.py')


@pytest.mark.parametrize('wrong', ['configs/wgna.py', 'wgan', 'wgan.py', 'config/wgan.py', 'configs/wgan'])
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
    'model.attention': 'true',
    'model.g_widths': '(8, 16)',
    'data.name': '5',
  }
  new = config_lib.override(config, given)
  values = (new.optim.lr, new.run.steps, new.model.attention, new.model.g_widths, new.data.name)
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


@pytest.mark.parametrize(('path', 'value', 'texts'), [
  ('run.steps', '1.5', ['config.run.steps=1.5', 'whole number', '4000']),
  ('run.steps', 1.5, ['config.run.steps=1.5', 'int', '4000']),
  ('run.steps', True, ['config.run.steps=True', 'int', '4000']),
  ('optim.lr', 'fast', ['config.optim.lr=fast', 'a number', '0.0005']),
  ('optim.lr', True, ['config.optim.lr=True', 'float', '0.0005']),
  ('model.attention', 'maybe', ['config.model.attention=maybe', 'true or false']),
  ('model.g_widths', '(1,', ['config.model.g_widths=(1,', 'a list, as in (1,2)']),
  ('model.g_widths', "('a',)", ['config.model.g_widths', "('a',)"]),
  ('model.g_widths', '(1.5,)', ['config.model.g_widths', '(1.5,)']),
  ('optim', '1', ['config.optim is a section', 'config.optim.']),
  ('optim.lr_rate', '1', ["no field 'optim.lr_rate'", "'optim.lr'", '--print_config']),
  ('optm.lr', '1', ["no field 'optm.lr'", "'optim.lr'"]),
  ('optim.lr.x', '1', ["no field 'optim.lr.x'", "'optim.lr'"]),
])  # fmt: skip
def test_what_an_override_cannot_be(config, path, value, texts):
  with says(*texts):
    config_lib.override(config, {path: value})


@pytest.mark.parametrize(('path', 'value', 'texts'), [
  *[(path, 'neither', [f"config.{path}='neither'", *choices]) for path, choices in config_lib.CHOICES.items()],
  *[(path, 0, [f'config.{path}=0', 'at least 1']) for path in config_lib.POSITIVE],
  *[(path, 1.0, [f'config.{path}=1.0', 'less than 1']) for path in config_lib.BELOW_ONE],
  ('optim.lr', float('nan'), ['config.optim.lr=nan', 'finite']),
  ('optim.lr', float('inf'), ['config.optim.lr=inf', 'finite']),
  ('optim.lr', -1.0, ['config.optim.lr=-1.0', 'negative']),
  ('optim.warmup_steps', -1, ['config.optim.warmup_steps=-1', 'negative']),
  ('data.image_size', -1, ['config.data.image_size=-1', 'negative']),
  ('run.eval_every', -100, ['config.run.eval_every=-100', 'negative']),
  ('run.seed', -1, ['config.run.seed=-1', 'negative']),
  ('run.seed', 2**31, ['config.run.seed=2147483648', 'at most 2147483647']),
  ('model.latent', 0, ['config.model.latent=0', 'at least 1']),
  ('model.g_widths', (8, 0), ['config.model.g_widths=[8, 0]', 'at least 1']),
  *[(f'run.{name}', 150, [f'config.run.{name}=150', 'config.run.log_every=100', f'Try {name}=200'])
    for name in ('steps', 'eval_every', 'sample_every', 'save_every')],
  ('optim.accumulate', 3, ['config.data.batch_size=64', 'config.optim.accumulate=3']),
  ('run.name', 'a/b', ["config.run.name='a/b'", 'folder name']),
  ('run.name', '', ["config.run.name=''"]),
  ('eval.best', 'logit_gap', ["config.eval.best='logit_gap'", 'metric:min']),
  ('eval.best', ':min', ["config.eval.best=':min'", 'metric:min']),
  ('eval.best', 'min', ["config.eval.best='min'", 'metric:min']),
])  # fmt: skip
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
    'model.g_widths': ([256, 512, 1024], [1, 2]), 'optim.lr': (5e-4, 1e-3),
  }  # fmt: skip
  absent = config_lib.difference(config, config_lib.load('configs/vae.py'))
  assert absent['model.g_widths'] == ([256, 512, 1024], '(absent)')


def test_floats_that_matter_are_traced_and_zeros_are_structure(config):
  traced = config_lib.traced(config)
  assert traced == {'optim.lr': 5e-4, 'optim.b1': 0.5, 'optim.b2': 0.999, 'optim.eps': 1e-8, 'optim.ema_decay': 0.995,
                    'loss.penalty': 10.0, 'loss.clip': 0.01, 'loss.d_lr_factor': 1.0, 'loss.auxiliary': 1.0,
                    'model.mapping_lr': 0.01, 'model.mixing': 0.9, 'sample.truncation': 1.0}  # fmt: skip

  @jax.jit
  def read(values):
    config_in_trace = config_lib.substitute(config, values)
    assert isinstance(config_in_trace.optim.lr, jax.core.Tracer)
    assert config_in_trace.optim.clip_norm == 0.0
    assert config_in_trace.loss.n_critic == 1
    return config_in_trace.optim.lr * 2

  assert float(read(traced)) == pytest.approx(1e-3)
  assert config.optim.lr == 5e-4
