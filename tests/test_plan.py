"""`launch.py --plan`: what is exact in a plan equals what a run has, and each mistake is one line."""

import dataclasses
import functools
import math
import re

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data import bpe, dataset, kinds, tokenize
from gen_ai.parallel import accelerators, flops, hlo, mesh, roofline
from gen_ai.parallel.accelerators import ACCELERATORS
from gen_ai.parallel.program import Program
from gen_ai.train import plan, plan_process, plan_table

H100 = ACCELERATORS['h100']


# What is read of a compiled program.


@functools.cache
def trained():
  """(text, FLOPs over all devices) of 5 updates of a layer on 8 devices, 3 times again within each."""
  grid = jax.sharding.Mesh(np.array(jax.devices()).reshape(8), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  whole, split = NamedSharding(grid, P()), NamedSharding(grid, P('data'))

  def loss(w, x):
    return (jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=3)[0] ** 2).mean()

  def run(w, x):
    return jax.lax.scan(lambda w, _: (w - jax.grad(loss)(w, x), None), w, None, length=5)[0]

  jitted = jax.jit(run, in_shardings=(whole, split), out_shardings=whole)
  traced = jitted.trace(jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((64, 32), jnp.float32))
  return traced.lower().compile().as_text(), flops.of(traced)


def test_loops_count_as_often_as_they_turn():
  text, work = trained()
  assert sum(one.flops * one.times for one in hlo.products(text)) * 8 == work
  found = hlo.collectives(text, 8)
  assert {one.kind for one in found} == {'all-reduce'} and all(one.groups.tolist() == [list(range(8))] for one in found)
  # A gradient of 32 x 32 numbers at each of 5 updates and 3 turns: a ring sends it twice but for one part in eight.
  assert sum(one.times for one in found) == 15
  assert sum(one.sent for one in found) == 15 * 2 * 32 * 32 * 4 * 7 / 8
  assert hlo.unknown_loops(text) == 0
  assert hlo.unknown_loops(text.replace('known_trip_count', 'trips')) > 0


@pytest.mark.parametrize(
  ('written', 'expected'),
  [
    ('replica_groups={{0,2},{1,3}}, x', [[0, 2], [1, 3]]),
    ('replica_groups=[2,2]<=[4], x', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[2,2]T(1,0), x', [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
    ('replica_groups={}, x', [[0, 1, 2, 3]]),
  ],
)
def test_groups_of_devices_in_every_way_of_writing_them(written, expected):
  assert hlo._groups(written, 4).tolist() == expected


def test_groups_that_cannot_be_read_are_no_silent_guess():
  with pytest.raises(ValueError, match='not known'):
    hlo._groups('replica_groups=every_other, x', 4)


def test_what_a_checkpoint_does_again_is_told_apart():
  def loss(w, x, policy):
    layer = lambda x, _: (jnp.tanh(jnp.tanh(x @ w) @ w), None)  # noqa: E731
    layer = layer if policy is None else jax.checkpoint(layer, prevent_cse=False, policy=policy)
    return jax.lax.scan(layer, x, None, length=5)[0].sum()

  def count(policy):
    closed = jax.make_jaxpr(jax.grad(lambda w, x: loss(w, x, policy)))(jnp.ones((8, 8)), jnp.ones((4, 8)))
    return flops.in_jaxpr(closed), flops.recomputed(closed)

  forward, policies = 5 * 2 * 2 * 4 * 8 * 8, jax.checkpoint_policies
  assert count(None) == (3 * forward, 0)
  assert count(policies.nothing_saveable) == (4 * forward, forward)
  assert count(policies.dots_with_no_batch_dims_saveable) == (3 * forward, 0)


# The roofline.


def test_seconds_are_work_over_speed_and_the_slowest_bounds():
  near = hlo.Collective('all-reduce', np.arange(16).reshape(2, 8), 1, 45e9)
  far = hlo.Collective('all-gather', np.arange(16).reshape(8, 2, order='F'), 1, 5e9)
  assert not roofline.crosses(near, 8) and roofline.crosses(far, 8)
  found = roofline.seconds(98.9e12, 33.5e9, [near, far], 'bf16', H100)
  assert found == pytest.approx((0.1, 0.01, 0.2))
  assert (found.bound, found.overlapped, found.apart) == ('network', pytest.approx(0.2), pytest.approx(0.3))


def test_scores_of_attention_are_not_moved_and_other_products_are():
  dense = hlo.Product((100, 200, 300), 1.0, 2)
  scores = hlo.Product((64, 64, 1024), 1.0, 1)
  assert roofline.traffic([dense], 2) == 2 * 600 * 2
  assert roofline.traffic([scores], 4) == 128 * 4


def test_accelerators_are_named_and_known_by_their_kind():
  assert accelerators.of_kind('NVIDIA H100 80GB HBM3') == 'h100' and not accelerators.of_kind('cpu')
  with pytest.raises(UserError, match="--accelerator=h10 is none of .*Did you mean 'h100'"):
    accelerators.named('h10')


# Plans.


def real(config, devices):
  """(bytes of a state on the first device, what compiling its training says) of a run that has arrays."""
  program = Program(config, config_lib.builder(config), tiny.dataset(config).spec, tiny.program(config, devices).layout)
  feed, state = tiny.feed(config, program), program.init()
  program.trainer(feed, state, feed.chunk(0, config.run.log_every))
  first = jax.tree.map(lambda x: x.addressable_shards[0].data.nbytes, state)
  return sum(jax.tree.leaves(first)), program.compile_stats['train']


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('lm', {'mesh__fsdp': 4, 'mesh__tensor': 2, 'mesh__min_shard': 16, 'data__name': 'python_stdlib'}),
    ('gan', {'mesh__fsdp': 8}),
    ('vae', {'parallel': 'pmap'}),
  ],
)
def test_a_plan_needs_what_the_run_needs(name, fields):
  config = tiny.config(name, **fields)
  tiny.dataset(config)  # prepared
  made = plan.make(config, 'cpu')
  state, stats = real(config, 8)
  assert sum(made.state.values()) == state and not made.data_note and made.data > 0
  assert made.temporaries == stats.new_bytes
  assert made.flops * config.run.log_every == pytest.approx(stats.flops)
  assert made.parameters == tiny.program(config, 8).parameter_count()
  assert made.collectives and made.recomputed == 0


def test_fsdp_sends_parameters_and_gradients_a_few_times_and_not_at_every_turn_of_a_loop():
  """Gathered forwards, and backwards once more, and gradients summed up whole: at most four times all of them."""
  large = {
    'model__layers': 8,
    'model__width': 64,
    'data__batch_size': 8,
    'data__tokens': 'byte',
    'optim__name': 'adamw',
  }
  config = tiny.config('lm', **large, mesh__fsdp=8, mesh__min_shard=16, loss__chunk=20, model__remat='full')
  made = plan.make(config, 'gpu')
  assert 4 * made.parameters < sum(one.sent for one in made.collectives) < 4 * 4 * made.parameters


def test_data_parallel_exchanges_gradients_once_an_update_however_many_micro_batches_there_are():
  config = tiny.config('lm', data__batch_size=64, data__tokens='byte', optim__accumulate=8)
  made = plan.make(config, 'gpu')
  (found,) = made.collectives
  assert (found.kind, found.times, found.groups.shape) == ('all-reduce', 1, (1, 8))
  numbers = made.parameters + 3  # nats and counts go with the gradients
  assert found.sent <= numbers * 4 * 2 * 7 / 8


def test_nothing_needs_to_be_prepared_and_nothing_is(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  of_bytes = {'data__name': 'tiny_shakespeare', 'data__tokens': 'bpe:1000', 'data__split': 'auto'}
  for name, fields in (('vae', {}), ('lm', of_bytes), ('lm', of_bytes | {'data__tokens': 'byte'})):
    spec, source, note = plan.data(tiny.config(name, **fields))
    assert note and len(source) == 1
    assert spec.vocab is None or spec.vocab.size == (1000 if 'bpe' in fields['data__tokens'] else 256)
  with pytest.raises(UserError, match='not prepared'):
    plan.data(tiny.config('lm', **(of_bytes | {'data__tokens': 'char'})))
  assert not cli.files(tmp_path)


@pytest.mark.parametrize(
  ('name', 'data', 'tokens', 'says'),
  [
    ('vae', 'fashion_mnits', '', "unknown data set 'fashion_mnits'. Did you mean 'fashion_mnist'"),
    ('lm', 'tiny_shakespear', 'byte', "unknown data set 'tiny_shakespear'. Did you mean 'tiny_shakespeare'"),
    ('lm', 'tiny_shakespear', 'bpe:1000', "unknown data set 'tiny_shakespear'. Did you mean 'tiny_shakespeare'"),
    ('lm', 'mix:1*tiny_shakespear', 'byte', "Did you mean 'tiny_shakespeare'"),
    ('lm', 'text:no/such/*.txt', 'bpe:1000', 'text:no/such/*.txt'),
    ('lm', 'text:no/such/*.txt', 'byte', 'text:no/such/*.txt'),
    ('vae', 'folder:no/such', '', 'no/such'),
  ],
)
def test_a_name_that_nothing_prepares_is_refused_as_by_training(name, data, tokens, says, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  fields = {'data__tokens': tokens, 'data__split': 'auto'} if tokens else {}
  config = tiny.config(name, data__name=data, **fields)
  for opens in (lambda: plan.data(config), lambda: dataset.load(config.data)):
    with pytest.raises(UserError, match=re.escape(says)):
      opens()


def test_a_mixture_whose_texts_are_known_and_not_prepared_is_foreseen(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  mixed = tiny.config('lm', data__name='mix:1*tiny_shakespeare', data__tokens='byte', data__split='auto')
  spec, _, note = plan.data(mixed)
  assert spec.vocab.size == 256 and 'not prepared' in note


def test_the_names_of_classes_are_foreseen_with_their_number(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  found = {
    name: plan.data(tiny.config('vae', data__name=name))[0].class_names for name in ('mnist_5k', 'fashion_mnist')
  }
  assert found['mnist_5k'] == tuple('0123456789') and found['fashion_mnist'][9] == 'Ankle boot'


def test_tokens_that_are_made_are_opened_and_mixtures_refused_as_a_run_refuses_them(tmp_path):
  (tmp_path / 'a.txt').write_text('two'.join(f'number {i}\n' * 9 for i in range(60)))
  text, made = f'text:{tmp_path}/a.txt', f'tokens:{tmp_path}/made'
  tokenize.tokenize(tokenize.Request(text, made.partition(':')[2], 'bpe:270', '2:1:1', delimiter='two'))
  to_learn = {'data__tokens': 'bpe:4096', 'data__split': 'auto', 'data__block_size': 8}
  for name in (made, f'mix:1*{made}'):
    spec, _, note = plan.data(tiny.config('lm', **to_learn, data__name=name))
    assert spec.vocab.size == 270 and not note
  assert plan.data(tiny.config('lm', **to_learn, data__name=f'mix:1*{text}'))[0].vocab.size == 4096
  for name, says in (
    ('tokens:/no/such', 'there is no such folder'),
    ('mix:1*tokens:/no/such', 'of its source tokens:/no/such: .*no such folder'),
    (f'mix:1*{text}+1*python_stdlib', 'one of each text: .*gen_ai.data.tokenizer text:.* --size=4096 .*tokens=bpe:'),
    (f'mix:1*{text}+1*{made}', f'config.data.tokens=bpe:{tmp_path}/made reads all'),
  ):
    config = tiny.config('lm', **to_learn, data__name=name)
    for opens in (lambda config: plan.data(config), lambda config: dataset.load(config.data)):
      with pytest.raises(UserError, match=says):
        opens(config)


def test_what_a_plan_would_make_and_nobody_foresees_is_opened(monkeypatch):
  monkeypatch.setattr(type(kinds.get('text')), 'made', lambda *args: True)
  monkeypatch.setattr(type(kinds.get('text')), 'foreseen', lambda *args: None)
  assert not plan.data(tiny.config('lm'))[2]


def test_adapters_alone_have_gradients_and_are_written(monkeypatch):
  monkeypatch.setattr(roofline, 'traffic', lambda *args: 0)  # of products
  config = tiny.config('lm', model__lora=2, data__tokens='byte')
  made, program = plan.make(config, 'cpu'), tiny.program(config, 8)
  own = plan._bytes(program.trains.of(program.abstract_state().params))
  assert made.trained == program.trained_count() < made.parameters and made.gradients == own < made.state['params']
  assert made.traffic == 2 * sum(made.state.values()) - (made.state['params'] - own)
  shown = plan_table.lines(made, config, H100, '', '')
  assert f'parameters {made.parameters:,}, of which {made.trained:,} are trained' in shown


def planned(**fields):
  """A plan of round figures on 8 devices."""
  made = dict(
    spec=tiny.dataset(tiny.config('lm')).spec,
    data_note='',
    devices=8,
    mesh={'data': 8, 'fsdp': 1, 'expert': 1, 'tensor': 1},
    examples=16,
    parameters=10,
    trained=10,
    state={'step': 0, 'params': 10 * 10**9, 'opt_state': 20 * 10**9, 'ema': 0, 'stats': 0},
    data=0,
    gradients=10**9,
    temporaries=5 * 10**9,
    flops=8 * 9.89e14,
    recomputed=8 * 2.4725e14,
    compiled_flops=9.89e14,
    collectives=[],
    traffic=3.35e12,
    loops=0,
    seconds=1.0,
  )
  return plan.Plan(**(made | fields))


def test_the_table_tells_speed_and_share_of_the_peak():
  config = tiny.config('lm', precision='bf16')
  shown = '\n'.join(plan_table.lines(planned(), config, H100, 'configs/lm.py', 'python launch.py --config=lm'))
  tokens = 16 * config.data.block_size
  assert f'bound by compute: at most {tokens} tokens/s and 75% MFU' in shown
  assert '35.00 GB  44% of h100: it fits' in shown and '25% of them done again' in shown
  assert shown.endswith('\n  python launch.py --config=lm') and 'ways out' not in shown
  assert 'even share' in '\n'.join(plan_table.lines(planned(compiled_flops=2e15), config, H100, '', ''))


def test_what_does_not_fit_says_so_and_names_the_ways_out_of_this_config():
  def ways(name, made, **fields):
    config = tiny.config(name, **fields)
    assert not plan_table.fits(made, H100)
    (line,) = [line for line in plan_table.lines(made, config, H100, '', '') if 'ways out' in line]
    return line.partition(': ')[2].split(', ')

  state = planned(state={'step': 0, 'params': 40 * 10**9, 'opt_state': 80 * 10**9, 'ema': 0, 'stats': 0})
  assert ways('lm', state)[0] == 'config.mesh.fsdp=8'
  step = planned(temporaries=10**12, examples=64, spec=Spec('text', (16,), vocab=bpe.Unlearned(50_257)))
  batch = {'data__batch_size': 64}
  assert ways('lm', step, **batch)[:3] == [
    'config.model.remat=full',
    'config.loss.chunk=8192',
    'config.optim.accumulate=2',
  ]
  gan = ways('gan', step, precision='bf16', **batch)
  assert gan == ['config.optim.accumulate=2', 'config.mesh.fsdp=8']
  for data, fsdp, first in ((2, 2, 'config.mesh.fsdp=4'), (1, 4, 'config.model.remat=full')):
    mesh = {'data': data, 'fsdp': fsdp, 'expert': 1, 'tensor': 2}
    assert ways('lm', dataclasses.replace(state, mesh=mesh))[0] == first
  assert ways('lm', state, mesh__data=8)[0] == 'config.mesh.fsdp=8 with config.mesh.data=1'


# The command line.


def test_a_command_line_prints_the_plan_of_as_many_devices_and_the_command_that_trains(tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  words = ['--tiny', '--config=lm', '--config.mesh.fsdp=2', '--config.data.tokens=bpe:300']
  done = cli.launch(*words, '--plan', '--devices=16', '--accelerator', 'a100')
  shown = capfd.readouterr().out  # of a process of its own
  assert done.returncode == 0 and not cli.files(tmp_path)
  assert 'on 16 device(s), data 8 x fsdp 2' in shown and 'of a100: it fits' in shown
  assert shown.splitlines()[-1].startswith('  python') and '--plan' not in shown and '--config.mesh.fsdp=2' in shown


def test_the_command_that_trains_is_the_one_that_was_typed():
  kept = ['--config=a.py', '--init_from=runs/a', '--config.run.seed=1']
  argv = ['launch.py', '--plan', *kept[:2], '--devices', '8', '--accelerator=h100', kept[2]]
  assert plan_process._training(argv) == ['launch.py', *kept]


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--config=lm', '--devices=0'], '--devices=0 must be from 1'),
    (['--config=lm', '--init_from=runs/a', '--devices=8'], 'runs/a is not a run directory'),
    (['--config=lm', '--devices=1,2'], 'must be one number'),
    (['--config=lm', '--devices=8', '--accelerator=h10'], "Did you mean 'h100'?"),
    (['--config=lm', '--sweep=lr'], '--sweep is for a sweep'),
    ([], '--plan needs --config'),
  ],
)
def test_mistakes_are_one_line_at_once(words, says):
  cli.refused(cli.launch('--plan', *words), says)


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'mesh__fsdp': 3}, 'does not fit 8 device'),
    ({'data__batch_size': 12}, r'data\.batch_size=12 does not divide over 8'),
    ({'mesh__tensor': 8}, r'config\.mesh\.tensor=8 does not divide the 2 heads'),
  ],
)
def test_what_does_not_fit_the_devices_is_refused_by_plans_and_by_runs(fields, says):
  config = tiny.config('lm', **fields)
  with pytest.raises(UserError, match=says):
    plan.make(config, 'gpu')
  with pytest.raises(UserError, match=says):
    tiny.program(config, 8)  # which a run makes before its directory


# Sizes that fit no machine of ours.


@pytest.mark.parametrize(
  ('reference', 'parameters'), [('gpt2_124m.py:1.5b', 1_557_611_200), ('llama_8b.py', 8_030_261_248)]
)
def test_large_configs_split_their_state_over_eight_devices(reference, parameters):
  config = config_lib.load(f'configs/{reference}')
  config_lib.validate(config)
  spec, _, note = plan.data(config)
  layout = tiny.program(tiny.config('lm', mesh__fsdp=8), 8).layout
  program = Program(config, config_lib.builder(config), spec, type(layout)(config, jax.devices()))
  assert note and program.parameter_count() == parameters
  own = plan._bytes(program.abstract_state().params)
  assert own < 1.01 * 4 * parameters / 8
  assert math.prod(program.layout.mesh.shape.values()) == 8 and mesh.batch_devices(program.layout.mesh) == 8
