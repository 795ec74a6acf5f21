"""A lane of a packed program is the run alone, with schedules, averages and clipping."""

import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.data.feed import LaneFeed
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.nets import conv
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.program import Program

VARIED = {
  'optim__lr': 0.01,
  'optim__clip_norm': 0.3,
  'data__seed': 3,
  'optim__ema_decay': 0.5,
  'optim__end_factor': 0.7,
  'run__seed': 9,
  'optim__b1': 0.2,
}


def close(a, b, tolerance=2e-4):
  """Trees agree, each leaf relative to its largest entry."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    scale = max(np.abs(x).max(initial=0), 1e-2)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


def train(configs, devices=1, steps=None, mapping='vmap'):
  """(states, metrics) of lanes, a list each, after `steps` updates."""
  base = configs[0]
  data = tiny.dataset(base)
  layout = LaneLayout(jax.devices()[:devices], mapping)
  program = Program(base, config_lib.builder(base), data.spec, layout, configs)
  seeds = sorted({config.data.seed for config in configs})
  feeds = [tiny.feed(next(c for c in configs if c.data.seed == seed), program) for seed in seeds]
  feed = LaneFeed(feeds, [seeds.index(c.data.seed) for c in configs]) if len(feeds) > 1 else feeds[0]
  state, chunk = program.init(), base.run.log_every
  run = program.trainer(feed, state, feed.chunk(0, chunk))
  rows = []
  for step in range(0, steps or base.run.steps, chunk):
    state, metrics = run(state, feed.chunk(step, chunk))
    rows.append(program.layout.per_lane(metrics))
  metrics = [
    {name: np.concatenate([row[lane][name] for row in rows]) for name in rows[0][lane]} for lane in range(len(configs))
  ]
  states = [jax.tree.map(np.asarray, own) for own in program.layout.split(state, range(len(configs)))]
  return states, metrics, (program, state)


@tiny.by_turns('lanes')
def test_a_lane_equals_the_run_alone(name):
  assert_lanes_equal_runs(name, 'vmap')


@pytest.mark.parametrize('name', ['dcgan', 'vae', 'lm'])
def test_a_lane_that_takes_turns_equals_the_run_alone(name):
  assert_lanes_equal_runs(name, 'map')


def assert_lanes_equal_runs(name, mapping):
  plain = tiny.exact(name)
  others = {path: 0.8 * value for path, value in tiny.floats(plain).items() if not path.startswith('optim.')}
  configs = [plain, config_lib.override(tiny.exact(name, **VARIED), others)]
  states, metrics, (program, state) = train(configs, mapping=mapping)
  for lane, config in enumerate(configs):
    alone, one = tiny.train(config)
    close(alone, states[lane])
    close(one, metrics[lane])
  if name not in tiny.FAMILIES:  # one of each is evaluated and drawn from
    return
  evaluations = ExamplePass(program, configs[0], tiny.dataset(configs[0]).splits['validation']).lanes(state)
  config, solo = configs[1], tiny.program(configs[1])
  restored = solo.layout.join([jax.tree.map(jax.numpy.asarray, alone)])
  expected = ExamplePass(solo, config, tiny.dataset(config).splits['validation'])(restored)
  for metric, value in expected.items():
    assert evaluations[1][metric] == pytest.approx(value, rel=1e-3, abs=1e-3), metric
  if program.drawing_task() != 'generate':
    return
  drawn, (sample,) = tiny.samples(program, state, 4)[1], tiny.samples(solo, restored, 4)
  if sample.dtype == np.uint8:
    np.testing.assert_allclose(sample.astype(int), drawn, atol=1)  # levels
  else:
    assert sample.shape == drawn.shape


@pytest.mark.parametrize(('name', 'mapping'), [('gan', 'vmap'), ('vae', 'map'), ('lm', 'vmap')])
def test_lanes_over_eight_devices_equal_lanes_on_one(name, mapping):
  configs = [tiny.exact(name, run__seed=seed, data__seed=seed % 3) for seed in range(16)]
  one, first, _ = train(configs, 1, 4, mapping)
  eight, second, (_, state) = train(configs, 8, 4, mapping)
  close(one, eight)
  close(first, second)
  assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {8}


def test_a_cpu_takes_turns():
  assert LaneLayout(jax.devices()[:1]).mapping == 'map'


def test_lanes_do_not_touch_one_another():
  config = tiny.exact('gan')
  wild = config_lib.override(config, {'optim.lr': 1e30})
  (_, calm), (values, _), _ = train([wild, config], 1, 8)
  (alone, _), (expected, _), _ = train([config, config], 1, 8)
  jax.tree.map(np.testing.assert_array_equal, alone, calm)
  jax.tree.map(np.testing.assert_array_equal, expected, train([wild, config], 1, 8)[1][1])
  assert not all(np.isfinite(value).all() for value in values.values())


def test_convolutions_of_lanes_are_matrix_products_everywhere(monkeypatch):
  from gen_ai.core.lowering import under_run_axis

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert conv.resolve_lowering('auto') == 'direct'
  with under_run_axis():
    assert conv.resolve_lowering('auto') == 'patches'
    assert conv.resolve_lowering('direct') == 'direct'
  assert conv.resolve_lowering('auto') == 'direct'


@pytest.mark.parametrize('lowering', ['direct', 'patches'])
def test_convolutions_under_a_run_axis_equal_one_after_the_other(lowering):
  key = jax.random.key(0)
  x = jax.random.normal(key, (3, 2, 8, 8, 4))
  kernel = jax.random.normal(key, (3, 4, 4, 4, 6))

  def loss(x, kernel):
    return (conv.conv(x, kernel, (2, 2), lowering=lowering) ** 2).sum() + (
      conv.conv_transpose(x, kernel, (2, 2), lowering=lowering) ** 2
    ).sum()

  grad = jax.grad(loss, argnums=(0, 1))
  lanes = jax.vmap(grad)(x, kernel)
  for i in range(3):
    close([np.asarray(g) for g in grad(x[i], kernel[i])], [np.asarray(g[i]) for g in lanes], 1e-5)
