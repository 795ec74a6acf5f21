"""Low-rank adapters: the first forward is the base's, they alone are trained, and they merge into what others read."""

import dataclasses
from functools import partial

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import gen_ai
from gen_ai import config as config_lib
from gen_ai.core import optim
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import State
from gen_ai.core.names import Part, joined, name_of
from gen_ai.evaluate.trained import Trained
from gen_ai.nets import lora
from gen_ai.nets.transformer import SHARDING, Architecture, Transformer
from gen_ai.parallel import mesh
from gen_ai.run import info
from gen_ai.train import warm_start

GPT2 = Architecture(vocab_size=11, context=8, layers=2, heads=2, width=8)
MODERN = dataclasses.replace(
  GPT2, heads=4, kv_heads=2, width=16, gated=True, activation='silu', norm='rms', positions='rope', bias=False
)
LAYOUTS = {
  'gpt2': GPT2,
  'modern': dataclasses.replace(MODERN, qk_norm=True, tied=False, pattern='SL', window=3),
  'experts': dataclasses.replace(MODERN, experts=4),
}
TOKENS = jax.random.randint(jax.random.key(0), (3, 8), 0, 11)


def named(tree):
  return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def logits(net, params):
  return net.apply({'params': params}, TOKENS, False)


@pytest.fixture(scope='module', params=LAYOUTS)
def made(request):
  """(architecture with adapters, its parameters, its logits, logits of the network without any)."""
  base = LAYOUTS[request.param]
  arch = dataclasses.replace(base, lora=2, lora_scale=0.5)
  params = jax.jit(partial(Transformer(arch).init, train=False))(jax.random.key(1), TOKENS)['params']
  forward, plain = (jax.jit(partial(logits, Transformer(one))) for one in (arch, base))
  return arch, params, forward, plain


def test_the_first_forward_is_that_of_the_base_bit_for_bit(made):
  arch, params, forward, plain = made
  base = Transformer(dataclasses.replace(arch, lora=0))
  without = jax.jit(partial(base.init, train=False))(jax.random.key(1), TOKENS)['params']
  own = {name for name in named(params) if name.endswith(lora.NAMES)}
  assert named(without).keys() == named(params).keys() - own
  # Four modules a block, and two more of experts in place of the MLP's.
  assert len(own) == 2 * 4 * len(arch.pattern)
  np.testing.assert_array_equal(forward(params), plain(joined_without(params)))


def joined_without(params):
  """The parameters without adapters, which are left out rather than added."""
  if not isinstance(params, dict):
    return params
  return {name: joined_without(value) for name, value in params.items() if name not in lora.NAMES}


def test_merged_weights_have_the_same_logits(made):
  arch, params, forward, plain = made
  # As large as the kernels, so that they matter.
  moved = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
  )
  merged = lora.merged(moved, arch.lora_scale)
  assert jax.tree.structure(merged) == jax.tree.structure(joined_without(moved))
  ours = forward(moved)
  np.testing.assert_allclose(ours, plain(merged), rtol=1e-4, atol=1e-5)
  assert np.abs(ours - plain(joined_without(moved))).max() > 1e-3, 'the adapters do nothing'


def test_every_adapter_matches_one_row_of_the_shardings(made):
  _, params, _, _ = made
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    assert len(mesh.row_of(path, SHARDING)) == leaf.ndim


def test_attention_alone():
  arch = dataclasses.replace(GPT2, lora=2, lora_on='attention')
  shapes = jax.eval_shape(partial(Transformer(arch).init, train=False), jax.random.key(0), TOKENS)
  modules = {name.split('/')[-2] for name in named(shapes) if name.endswith(lora.NAMES)}
  assert modules == {'qkv', 'attention_out'}
  with pytest.raises(UserError, match="lora_on='mlp' is none of attention, all"):
    dataclasses.replace(arch, lora_on='mlp').check()


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_only_the_part_is_moved_decayed_and_has_a_state(name):
  config = config_lib.common('lm', 'python_stdlib')
  config.optim.update({'name': name, 'lr': 0.1, 'weight_decay': 0.5, 'clip_norm': 1.0})
  params = {'a': {'kernel': jnp.ones((4, 4)), 'lora_a': jnp.ones((4, 2))}, 'b': {'scale': jnp.ones(4)}}
  part = Part('lora_a|lora_b', 'it')
  assert part.of(params) == {'a': {'lora_a': params['a']['lora_a']}}
  updater = optim.Updater(config, trains=part)
  state = updater.init(params)
  assert {name.rpartition('/')[2] for name, leaf in named(state.opt_state).items() if leaf.ndim > 1} == {'lora_a'}
  trained = updater.trained(params)
  assert updater.whole(trained, params) == joined(trained, params)
  after = updater.update(state, jax.tree.map(jnp.ones_like, trained)).params
  assert after['a']['kernel'] is params['a']['kernel'] and after['b'] == params['b']
  assert not np.allclose(after['a']['lora_a'], 1.0)


BASE = {
  'model__gated': False,
  'model__activation': 'gelu',
  'model__norm': 'layer',
  'model__positions': 'learned',
  'model__bias': True,
  'model__qk_norm': False,
  'model__layers': 2,
  'optim__ema_decay': 0.9,
}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A run of GPT-2's layout, which keeps averages, and one of four updates of adapters from it."""
  folder = tmp_path_factory.mktemp('lora')
  assert tiny.run(tiny.config('lm', **BASE), folder / 'base')[0] == DONE
  done = launch(folder, 'base', f'--run_dir={folder}/tuned')
  assert done.returncode == DONE, done
  return folder, done.stdout


def launch(folder, parent, *words):
  return cli.launch(
    f'--config={tiny.ROOT}/configs/lora.py:{folder}/{parent}',
    f'--init_from={folder}/{parent}',
    '--config.run.trackers=',
    '--config.run.steps=4',
    '--config.run.log_every=2',
    '--config.optim.warmup_steps=0',
    *(f'--config.run.{name}_every=4' for name in ('eval', 'sample', 'save')),
    *words,
  )


def test_a_tuned_run_begins_from_its_parent_and_leaves_its_weights_alone(base):
  folder, said = base
  assert ', of which 4,096 are trained' in said
  parent, tuned = gen_ai.load(folder / 'base'), gen_ai.load(folder / 'tuned')
  assert parent.averaged and not tuned.averaged
  before, after = named(parent.params), named(tuned.state.params)
  for name, leaf in before.items():
    np.testing.assert_array_equal(leaf, after[name], err_msg=name)
  assert all(np.any(after[name]) for name in after.keys() - before.keys())
  assert {name.rpartition('/')[2] for name, leaf in named(tuned.state.opt_state).items() if leaf.ndim > 1} == {
    *lora.NAMES
  }
  about = info.read(folder / 'tuned').parent
  assert all('lora' in name for name in about['new']) and about['step'] == 8


@pytest.mark.parametrize('kept', [True, False], ids=['an average', 'no average'])
@pytest.mark.parametrize('averaged', [True, False], ids=['with an average', 'without'])
def test_a_part_is_trained_beside_what_the_parent_is_evaluated_by(kept, averaged):
  values = {'a/bias': 1.0, 'b/bias': 2.0, 'b/kernel': 3.0}
  raw = {f'params/{name}': np.full(2, value) for name, value in values.items()}
  average = {f'ema/{name}': np.full(2, value + 10.0) for name, value in values.items()}
  parent = warm_start.Parent('runs/p', 8, '', {}, {**raw, **(average if kept else {})})
  params = {'a': {'bias': jnp.zeros(2)}, 'b': {'bias': jnp.zeros(2), 'kernel': jnp.ones(2), 'lora_a': jnp.ones(2)}}
  state = State(jnp.int32(0), params, (), jax.tree.map(jnp.copy, params) if averaged else ())
  begin, report = warm_start.beginning(parent, Part('lora_a', 'it'))
  began = begin(state)
  for tree in (began.params, began.ema) if averaged else (began.params,):
    expected = {name: value + 10.0 * kept for name, value in values.items()} | {'b/lora_a': 1.0}
    assert {name: float(leaf[0]) for name, leaf in named(tree).items()} == expected
  assert report['new'] == [*(['ema/b/lora_a [2]'] if averaged else []), 'params/b/lora_a [2]']
  assert report['skipped'] == [f'{name} [2]' for name in raw if kept]
  plain = warm_start.beginning(parent)[0](state)
  assert {name: float(leaf[0]) for name, leaf in named(plain.params).items()} == values | {'b/lora_a': 1.0}
  if averaged:  # where the parent has no average, that of each parameter, however alike they begin
    expected = {name: value + 10.0 * kept for name, value in values.items()} | {'b/lora_a': 1.0}
    assert {name: float(leaf[0]) for name, leaf in named(plain.ema).items()} == expected


def test_a_tuned_run_is_exported_merged_and_comes_back(base, tmp_path):
  folder, _ = base
  done = cli.command('gen_ai.export', folder / 'tuned', f'--out={tmp_path}/files')
  assert done.returncode == DONE, done
  done = cli.command('gen_ai.convert', tmp_path / 'files', f'--run_dir={tmp_path}/back')
  assert done.returncode == DONE, done
  text = 'def f(x):\n  retu'
  scores = [Trained(run).run('score', prompt=text)['nats'] for run in (folder / 'tuned', tmp_path / 'back')]
  np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)
  assert not np.allclose(scores[0], Trained(folder / 'base').run('score', prompt=text)['nats'], atol=1e-4)


def test_what_begins_from_a_tuned_run_has_its_adapters_in_its_kernels(base):
  folder, _ = base
  tuned = gen_ai.load(folder / 'tuned')
  expected = named({'params': lora.merged(tuned.state.params, tuned.config.model.lora_scale)})
  found = warm_start.read(str(folder / 'tuned')).leaves
  assert found.keys() == expected.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf)


def test_lanes_of_a_sweep_begin_from_the_parent_as_a_run_alone_does(base, tmp_path):
  folder, _ = base
  done = launch(folder, 'base', '--axis=optim.lr=2e-3,1e-3', f'--runs_dir={tmp_path}', '--launcher=packed')
  assert done.returncode == DONE, done
  (sweep,) = (tmp_path / 'lora').iterdir()
  lane = next(path for path in sweep.iterdir() if path.name.endswith('0.002'))
  for one, other in zip(tiny.rows(lane), tiny.rows(folder / 'tuned'), strict=True):
    assert one.pop('kind') == other.pop('kind')
    assert one == pytest.approx(other, rel=1e-3), 'a lane is on one device, a run on eight'
  assert info.read(lane).parent == info.read(folder / 'tuned').parent
  assert info.read(lane).group_hash == info.read(folder / 'tuned').group_hash


def test_adapters_without_weights_that_fit_are_refused_and_nothing_is_written(base, tmp_path, monkeypatch):
  folder, _ = base
  monkeypatch.chdir(tmp_path)
  config = f'--config={tiny.ROOT}/configs/lm.py'
  cli.refused(cli.launch(config, '--tiny', '--config.model.lora=4'), 'config.model.lora=4', '--init_from=RUN_DIR')
  sweep = ['--config.model.lora=4', '--axis=optim.lr=1e-3,2e-3']
  cli.refused(cli.launch(config, '--tiny', *sweep), 'config.model.lora=4', '--init_from=RUN_DIR', 'Nothing was started')
  wider = launch(folder, 'base', '--config.model.width=32')
  cli.refused(wider, 'final_norm/bias has the shape [16] there and [32] here', 'config.model.lora=8')
  other = launch(folder, 'base', '--config.data.tokens=char')
  cli.refused(other, 'its data has another alphabet', 'config.model.lora=8')
  assert tiny.run(tiny.config('gan', run__steps=4, run__log_every=4), tmp_path / 'gan')[0] == DONE
  of_gan = cli.launch(f'--config={tiny.ROOT}/configs/lora.py:{tmp_path}/gan')
  cli.refused(of_gan, "is a run of the family 'gan'")
  assert not (tmp_path / 'runs').exists()
