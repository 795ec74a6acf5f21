"""What every method promises: DESIGN's contract. A new config is tested by existing.

What one compiled program shows is tested of every config, that one program serves all its floats and seeds of one for
every kind of setting, see `tiny.STRUCTURES`. That other layouts, other batches and another precision give the same is
tested of every family, and by turns of those that differ from their family's own config.
"""

import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.names import name_of
from gen_ai.data import kinds
from gen_ai.data.plan import eval_plan
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.metrics import likelihood
from gen_ai.parallel.compiled import CompileStats
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program

every_config = pytest.mark.parametrize('name', tiny.CONFIGS)
every_structure = pytest.mark.parametrize('name', tiny.STRUCTURES)


def close(a, b, tolerance=2e-5):
  """Trees agree, each leaf relative to its largest entry."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    scale = max(np.abs(x).max(initial=0), 1e-2)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


def test_structures_show_every_kind_of_setting():
  shown = {}
  for name in tiny.STRUCTURES:
    config = tiny.config(name)
    shown.setdefault(config.experiment, set()).update(tiny.kinds(config))
  for name in tiny.CONFIGS:
    config = tiny.config(name)
    assert tiny.kinds(config) <= shown[config.experiment], name
    assert 'network' not in config.model or ('model.network', config.model.network) in shown[config.experiment], name


@every_config
def test_train_step_keeps_structure_shapes_and_dtypes(name):
  config = tiny.config(name)
  program = tiny.program(config)
  feed = tiny.feed(config, program)
  method = config_lib.builder(config)(config, program.spec)
  state = jax.eval_shape(method.init, program.key)
  batch = jax.eval_shape(feed.gather, feed.resident, feed.chunk(0, 1)[0])
  after, metrics = jax.eval_shape(method.train_step, state, batch, program.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert metrics and all(m.shape == () and m.dtype == np.float32 for m in metrics.values())
  evaluated = ExamplePass(program, config, tiny.dataset(config).splits['validation']).metric_names()
  evaluated += kinds.of(program.spec).quick if program.drawing_task() else []
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
  equal = {name_of(path): np.array_equal(a, b) for (path, a), b in pairs if a.ndim > 1}
  trains = tiny.program(config).trains
  trained = [path for path in equal if trains is None or trains.holds(path)]
  assert trained and not any(equal[path] for path in trained), 'these parameters never move'
  assert all(equal[path] for path in equal.keys() - set(trained)), 'these are to stay as they are'


@every_structure
def test_one_trace_serves_all_chunks_all_floats_and_all_seeds(name):
  config = tiny.config(name)
  tiny.train(config)
  program = tiny.program(config)
  feed, state = tiny.feed(config, program), program.init()
  run = program.trainer(feed, state, feed.chunk(0, config.run.log_every))
  count = program.traces
  for step in range(0, 3 * config.run.log_every, config.run.log_every):
    state, _ = run(state, feed.chunk(step, config.run.log_every))
  assert count and program.traces == count, 'a later chunk traced again'
  # What all of a structure are served by: `tiny.program` relies on it, as sweeps do.
  changes = {path: 0.9 * value for path, value in tiny.floats(config).items()} | {'run.seed': 7, 'data.seed': 8}
  other = config_lib.override(config, changes)
  assert set(lowered(other, training)) <= program.trained_by, 'a float or a seed is baked into what trains'
  assert lowered(other, applying) == lowered(config, applying), 'a float or a seed is baked into what is drawn'


def lowered(config, compiling):
  """What a config of its own would compile, one text a program; nothing is compiled."""
  texts, layout = [], make_layout(config, jax.devices()[:1])

  def compile(*arguments):
    texts.append(layout.stage(*arguments[:7]).lowered.as_text())
    return None, CompileStats(0.0, 0.0, 0.0, 0)

  layout.compile = compile
  compiling(config, Program(config, config_lib.builder(config), tiny.dataset(config).spec, layout))
  return texts


def training(config, program):
  """What trains."""
  feed, state = tiny.feed(config, program), program.abstract_state()
  program.trainer(feed, state, feed.chunk(0, config.run.log_every))


def applying(config, program):
  """What evaluates and, if there is any, what samples."""
  feed, state = tiny.feed(config, program), program.abstract_state()
  source = tiny.dataset(config).splits['validation']
  evaluator, (index, mask) = ExamplePass(program, config, source), eval_plan(source, config.eval.batch_size)
  rows = {'row': index, 'mask': mask}
  program.over_rows('eval', evaluator._row, state, program.eval_key, feed.resident, rows)

  def drawn(method, state, resident, row, key):
    return method.tasks['generate'].run(state, {}, random.per_example(key, row))

  if 'generate' in program.tasks:
    program.over_rows('generate', drawn, state, program.eval_key, {}, np.arange(4)[None])


@every_structure
def test_every_traced_float_changes_what_is_computed_or_is_known_to_do_nothing(name):
  config = tiny.config(name)
  floats, known = config_lib.traced(config), tiny.floats(config)
  # Runs that go apart after a few updates only: the end of a schedule, Adam's epsilon.
  changed = {
    path: value * (0.5 if path.endswith(('b1', 'b2', 'decay', 'factor')) else 3.0) for path, value in floats.items()
  }
  changed['optim.eps'] = 1e-2
  changed |= {'optim.clip_norm': 1e-3} if 'optim.clip_norm' in floats else {}
  changed |= {'optim.ema_decay': 0.1} if 'optim.ema_decay' in floats else {}  # a short run's average is bounded by 0.5
  changed |= {'optim.ema_halflife': 1.0} if 'optim.ema_halflife' in floats else {}

  program = tiny.program(config)
  after = tiny.train(config)

  def computed(config, state, metrics):
    """The training, and what is drawn by its end."""
    own = tiny.program(config)
    drawn = tiny.samples(own, tiny.placed(own, state), config.sample.n) if 'generate' in own.tasks else ()
    return jax.tree.leaves((state, metrics, drawn))

  @jax.jit
  def run(floats, state, keys):
    batch = tiny.dataset(config).splits['validation'].read(np.arange(4))
    tasks = program.method(floats).tasks.values()
    given = [{name: batch[name] for name in task.inputs if name in batch} for task in tasks]
    needed = [{name for name, field in task.inputs.items() if field.required} for task in tasks]
    return [
      task.run(state, own, keys) for task, own, needs in zip(tasks, given, needed, strict=True) if needs <= own.keys()
    ]

  def done(config):
    """What the tasks return that need no more than a batch: some settings are of these alone."""
    keys = jax.random.split(jax.random.key(0), 4)
    return jax.tree.leaves(run(tiny.program(config).floats, tiny.placed(program, after[0]), keys))

  def changes(one, other):
    return any(not np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(one, other, strict=True))

  before = computed(config, *after)
  for path, value in changed.items():
    other = config_lib.override(config, {path: value})
    # What changes after training, too, must not change training: `run` has its state.
    differs = changes(before, computed(other, *(after if path.startswith('sample.') else tiny.train(other))))
    if path in known and not differs and path.startswith('sample.'):
      differs = changes(done(config), done(other))
    assert differs == (path in known), f'{path}: changes something: {differs}, known to: {path in known}'


ON_ALL = ('lm', 'wgan')
MESHES = {'data8': (8, 1, 1), 'data2fsdp4': (2, 4, 1), 'data2fsdp2tensor2': (2, 2, 2)}


@pytest.mark.parametrize(
  ('name', 'mesh'),
  [  # by turns, and the Transformer on all, as is WGAN, several of whose updates are one step
    *((name, list(MESHES)[i % len(MESHES)]) for i, name in enumerate(sorted(set(tiny.held_to('mesh')) - set(ON_ALL)))),
    *((name, mesh) for name in ON_ALL for mesh in MESHES),
  ],
)
def test_a_mesh_of_eight_equals_one_device(name, mesh):
  data, fsdp, tensor = MESHES[mesh]
  shape = {'mesh__data': data, 'mesh__fsdp': fsdp, 'mesh__tensor': tensor, 'mesh__min_shard': 16}
  free = {}
  if name not in ON_ALL:  # with accumulation, too, as one compilation shows both
    free, shape['optim__accumulate'] = uncoupled(name), 2
  alone, one = tiny.train(tiny.exact(name, **free), 1, 4)
  spread, eight = tiny.train(tiny.exact(name, **free, **shape), 8, 4)
  close(alone.params, spread.params)
  close(one, eight)


@pytest.mark.parametrize('mesh', ['data8', 'data2fsdp2tensor2'])
def test_micro_batches_over_a_mesh_equal_one_device_and_one_batch(mesh):
  data, fsdp, tensor = MESHES[mesh]
  shape = {'mesh__data': data, 'mesh__fsdp': fsdp, 'mesh__tensor': tensor, 'mesh__min_shard': 16}
  alone, one = tiny.train(tiny.exact('lm'), 1, 4)
  spread, eight = tiny.train(tiny.exact('lm', **shape, optim__accumulate=2), 8, 4)
  close(alone.params, spread.params)
  close(one, eight)


UNPARTED = sorted(tiny.FAMILIES & set(tiny.STRUCTURES) - set(tiny.held_to('mesh')) - {'vqvae'})  # as image_tokens is


def uncoupled(name):
  """Overrides without norms and deviations over a batch, under which micro-batches are another computation."""
  coupled = {'model__g_norm': 'none', 'model__d_norm': 'none', 'model__group': 1}
  return {k: v for k, v in coupled.items() if k.replace('__', '.') in config_lib.flatten(tiny.config(name))}


@pytest.mark.parametrize('name', [*UNPARTED, 'lm'])
def test_accumulated_gradients_equal_one_batch(name):
  # Of the other families by a mesh, above.
  free = uncoupled(name)
  whole, one = tiny.train(tiny.exact(name, **free), 1, 4)
  parts, four = tiny.train(tiny.exact(name, **free, optim__accumulate=4), 1, 4)
  close(whole.params, parts.params)
  close(one, four)


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


@tiny.by_turns('pmap')
def test_pmap_trains_every_method_and_evaluates_exactly_as_other_layouts_do(name):
  config = tiny.config(name, eval__batch_size=64, data__batch_size=16)
  program = tiny.program(config)
  trained, metrics = tiny.train(config_lib.override(config, {'parallel': 'pmap'}), 8, 4)
  assert trained.step == 4
  assert all(np.isfinite(value).all() for value in metrics.values())
  state, results = tiny.placed(program, trained), []
  layouts = [(64, 1, 'jit'), (56, 8, 'pmap'), *([(56, 8, 'jit'), (64, 8, 'pmap')] if name == 'lm' else [])]
  for size, devices, parallel in layouts:
    other = config_lib.override(config, {'eval.batch_size': size, 'parallel': parallel})
    source = tiny.dataset(config).splits['validation']
    assert len(source) % size, 'the last batch must be ragged'
    program = tiny.program(other, devices)
    results.append(ExamplePass(program, other, source)(tiny.placed(program, state)))
  assert all(np.isfinite(value) for value in results[0].values())
  for other in results[1:]:
    assert other.keys() == results[0].keys()
    for metric, value in results[0].items():
      assert other[metric] == pytest.approx(value, rel=2e-5, abs=1e-6), metric


@every_config
def test_evaluation_equals_that_of_single_examples(name):
  config = tiny.config(name)
  source = tiny.dataset(config).splits['validation']
  program = tiny.program(config)
  state = program.init()
  index, mask = eval_plan(source, config.eval.batch_size)
  assert not mask[-1].all(), 'the last batch must be ragged'
  step = jax.jit(config_lib.builder(config)(config, program.spec).eval_step)
  key, totals = random.stream(random.root(config.eval.seed), 'eval'), {}
  rows = source.read(index[-1])
  together = step(state, {**rows, 'mask': mask[-1]}, key)
  single = jax.jit(lambda *given: likelihood.per_example(step, *given))(state, {**rows, 'mask': mask[-1]}, key)
  if name in tiny.FAMILIES:  # one of each without vmap, a batch of one after the other
    for i in index[-1][mask[-1] > 0]:
      batch = {**source.read(np.array([i])), 'mask': np.ones(1, np.float32)}
      for metric, (value, count) in step(state, batch, key).items():
        total = totals.setdefault(metric, [0.0, 0.0])
        total[0] += float(value)
        total[1] += float(count)
    assert together.keys() == totals.keys()
    for metric, (value, count) in together.items():
      assert float(value) == pytest.approx(totals[metric][0], rel=1e-4, abs=1e-4), metric
      assert float(count) == totals[metric][1], metric
  assert together.keys() == single.keys()
  for metric, (value, count) in together.items():
    for apart, sum_over_batch in zip(single[metric], (value, count), strict=True):
      assert apart.shape == mask[-1].shape and not np.asarray(apart)[mask[-1] == 0].any(), metric
      assert float(apart.sum()) == pytest.approx(float(sum_over_batch), rel=1e-5, abs=1e-4), metric


def disturbed(state):
  """The state with noise in its parameters and their averages: a fresh network may say 0, whatever it sees."""
  leaves, tree = jax.tree.flatten((state.params, state.ema))
  keys = jax.random.split(jax.random.key(3), len(leaves))
  noisy = [x + 0.01 * jax.random.normal(key, x.shape, x.dtype) for x, key in zip(leaves, keys, strict=True)]
  params, ema = jax.tree.unflatten(tree, noisy)
  return state._replace(params=params, ema=ema)


@every_config
def test_samples_depend_on_the_latents_alone(name, tmp_path):
  config = tiny.config(name)
  program = tiny.program(config)
  state = disturbed(program.init())
  task = program.tasks.get(program.drawing_task())
  if task is None:
    with pytest.raises(UserError, match=f"'{config.experiment}' has no task 'generate'"):
      program.task('generate')
    return
  batch = tiny.dataset(config).splits['validation'].read(np.arange(4))
  given = {name: batch[name] for name, field in task.inputs.items() if field.required}
  run = jax.jit(lambda own: task.run(state, given, own)['sample'])
  first, again, other = (np.asarray(run(jax.random.split(jax.random.key(seed), 4))) for seed in (0, 0, 7))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  assert first.shape[0] == 4 and first.dtype in (np.float32, np.int32)
  if first.dtype == np.float32:
    assert first.shape[1:] == program.spec.shape and np.abs(first).max() <= 1.0
  kind, file = kinds.of(program.spec), tmp_path / 'drawn.npy'
  kind.save(file, program.spec, np.asarray(kind.stored(first)))
  np.testing.assert_array_equal(kind.load(str(file), program.spec, 4, 'samples_file'), kind.stored(first))


@tiny.by_turns('bf16')
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
