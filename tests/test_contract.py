"""What every method promises, over every config: DESIGN's contract. A new config is tested by existing."""

import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai import keys, spread
from gen_ai.data.plan import eval_plan
from gen_ai.errors import UserError
from gen_ai.evaluation import Evaluator
from gen_ai.program import chunk

every_config = pytest.mark.parametrize('name', tiny.CONFIGS)


def close(a, b, tolerance=2e-5):
  """Trees agree, each leaf relative to its largest entry."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    scale = max(np.abs(x).max(initial=0), 1e-2)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


@every_config
def test_train_step_keeps_structure_shapes_and_dtypes(name):
  config = tiny.config(name)
  program = tiny.program(config)
  feed = tiny.feed(config, program)
  method = config_lib.experiment(config).build(config, program.spec)
  state = jax.eval_shape(method.init, program.key)
  batch = jax.eval_shape(feed.gather, feed.resident, feed.chunk(0, 1)[0])
  after, metrics = jax.eval_shape(method.train_step, state, batch, program.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert metrics and all(m.shape == () and m.dtype == np.float32 for m in metrics.values())
  evaluated = Evaluator(program, config, tiny.dataset(config).splits['validation']).metric_names()
  evaluated += [spread.NAME] if method.sample and program.spec.kind == 'image' else []
  assert set(method.leading) <= {*metrics, *evaluated} and set(method.leading.values()) <= {'min', 'max', ''}
  for found in (metrics, dict.fromkeys(evaluated)):
    known = [name for name in method.leading if name in found]
    assert known and list(program.ordered(found))[: len(known)] == known, 'a family names what tells most of it'


@every_config
def test_training_learns_finite_numbers_and_counts_its_steps(name):
  config = tiny.config(name)
  state, metrics = tiny.train(config)
  assert state.step == config.run.steps
  assert all(np.isfinite(value).all() and len(value) == config.run.steps for value in metrics.values())
  before = jax.tree.map(np.asarray, tiny.program(config).init())
  pairs = zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(state.params), strict=True)
  # Kernels: the last bias of a Wasserstein critic has no gradient at all.
  still = [jax.tree_util.keystr(path) for (path, a), b in pairs if a.ndim > 1 and np.array_equal(a, b)]
  assert not still, 'these parameters never move'


@every_config
def test_one_trace_serves_all_chunks_and_all_learning_rates(name):
  config = tiny.config(name)
  program = tiny.program(config)
  feed = tiny.feed(config, program)
  state = program.init()
  run = program.trainer(feed, state, feed.chunk(0, config.run.log_every))
  count = program.traces
  for step in range(0, 3 * config.run.log_every, config.run.log_every):
    state, _ = run(state, feed.chunk(step, config.run.log_every))
  assert count and program.traces == count, 'a later chunk traced again'
  texts = set()
  for other in (config, config_lib.override(config, {'optim.lr': 3 * config.optim.lr})):
    program = tiny.program(other)
    arguments = (program.floats, program.abstract_state(), program.key, feed.resident, feed.chunk(0, 2))
    texts.add(jax.jit(chunk(program._make, feed, program.layout)).lower(*arguments).as_text())
  assert len(texts) == 1, 'the learning rate is baked into the program'


def assert_mesh_equals_one_device(name, data, fsdp, tensor):
  alone, one = tiny.train(tiny.exact(name), 1, 4)
  config = tiny.exact(name, mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor, mesh__min_shard=16)
  spread, eight = tiny.train(config, 8, 4)
  close(alone.params, spread.params)
  close(one, eight)


@every_config
def test_a_mesh_of_eight_equals_one_device(name):
  assert_mesh_equals_one_device(name, 2, 4, 1)


@pytest.mark.parametrize('mesh', [(8, 1, 1), (2, 2, 2)], ids=['data8', 'data2fsdp2tensor2'])
@pytest.mark.parametrize('name', ['gan', 'vae', 'lm'])
def test_other_meshes_of_eight_equal_one_device(name, mesh):
  assert_mesh_equals_one_device(name, *mesh)


def test_fsdp_and_tensor_really_split_parameters():
  config = tiny.config('lm', mesh__fsdp=2, mesh__tensor=2, mesh__min_shard=16)
  state = tiny.program(config, 8).init()
  specs = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(state.params)}
  assert any('fsdp' in spec and 'tensor' in spec for spec in specs), specs


def test_pmap_equals_one_device_for_a_noise_free_method():
  alone, one = tiny.train(tiny.exact('lm'), 1, 8)
  spread, eight = tiny.train(tiny.exact('lm', parallel='pmap'), 8, 8)
  close(alone.params, spread.params)
  close(one, eight)


@every_config
def test_pmap_trains_every_method(name):
  config = tiny.config(name, eval__batch_size=64, data__batch_size=16, parallel='pmap')
  state, metrics = tiny.train(config, 8, 4)
  assert state.step == 4
  assert all(np.isfinite(value).all() for value in metrics.values())


@every_config
def test_evaluation_is_exact_whatever_the_batch_size_and_the_layout(name):
  state, results = tiny.program(tiny.config(name)).init(), []
  for size, devices, parallel in ((48, 1, 'jit'), (56, 8, 'jit'), (64, 8, 'pmap')):
    config = tiny.config(name, eval__batch_size=size, parallel=parallel, data__batch_size=16)
    source = tiny.dataset(config).splits['validation']
    assert len(source) % size, 'the last batch must be ragged'
    program = tiny.program(config, devices)
    results.append(Evaluator(program, config, source)(tiny.placed(program, state)))
  assert all(np.isfinite(value) for value in results[0].values())
  for other in results[1:]:
    assert other.keys() == results[0].keys()
    for metric, value in results[0].items():
      assert other[metric] == pytest.approx(value, rel=2e-5, abs=1e-6), metric


@every_config
def test_evaluation_equals_a_plain_loop_over_single_examples(name):
  config = tiny.config(name)
  source = tiny.dataset(config).splits['validation']
  program = tiny.program(config)
  state = program.init()
  method = config_lib.experiment(config).build(config, program.spec)
  key = keys.stream(keys.root(config.eval.seed), 'eval')
  step = jax.jit(method.eval_step)
  index, _ = eval_plan(source, 1)
  totals = {}
  for i in index[:20, 0]:
    batch = {**source.read(np.array([i])), 'mask': np.ones(1, np.float32)}
    for metric, (value, count) in step(state, batch, key).items():
      total = totals.setdefault(metric, [0.0, 0.0])
      total[0] += float(value)
      total[1] += float(count)
  batch = {**source.read(index[:20, 0]), 'mask': np.ones(20, np.float32)}
  for metric, (value, count) in step(state, batch, key).items():
    assert float(value) == pytest.approx(totals[metric][0], rel=1e-4, abs=1e-4)
    assert float(count) == totals[metric][1]


@every_config
def test_samples_depend_on_the_latents_alone(name):
  config = tiny.config(name)
  program = tiny.program(config)
  state = program.init()
  if not program.draws:
    with pytest.raises(UserError, match='draws no samples'):
      program.sampler(state, 4)
    return
  first, again = (np.asarray(program.sampler(state, 4)(state)) for _ in range(2))
  other = np.asarray(program.sampler(state, 4, seed=7)(state))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  if program.spec.kind == 'image':
    assert first.shape == (4, *program.spec.shape)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1.0
  else:
    assert first.dtype == np.int32
    assert first.min() >= 0
    assert first.max() < program.spec.vocab.size


@every_config
def test_accumulated_gradients_equal_one_batch(name):
  # Where batch norm couples a batch, micro-batches are another (documented) computation.
  coupled = {'model__g_norm': 'none', 'model__d_norm': 'none', 'model__group': 1}
  config = tiny.config(name)
  free = {k: v for k, v in coupled.items() if k.replace('__', '.') in config_lib.flatten(config)}
  whole, one = tiny.train(tiny.exact(name, **free), 1, 4)
  parts, four = tiny.train(tiny.exact(name, optim__accumulate=4, **free), 1, 4)
  close(whole.params, parts.params)
  close(one, four)


@every_config
def test_bf16_keeps_parameters_and_losses_in_fp32(name):
  state, metrics = tiny.train(tiny.config(name, precision='bf16'), 1, 2)
  assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema))} == {np.dtype('float32')}
  exact, reference = tiny.train(tiny.config(name), 1, 2)
  for metric, value in metrics.items():
    assert np.isfinite(value).all()
    np.testing.assert_allclose(value, reference[metric], rtol=0.1, atol=0.1, err_msg=metric)
  assert any(
    not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(exact.params), strict=True)
  )
