"""Small parts under the programs: operation counts, the mesh, named random streams, finiteness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.names import name_of
from gen_ai.nets.transformer import SHARDING
from gen_ai.parallel import finite, flops, layouts, mesh

# Operations.

A, B = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.float32)
MATMUL = 2 * 8 * 16 * 32


def test_matrix_products():
  assert flops.count(jnp.matmul, A, B) == MATMUL
  assert flops.count(jax.jit(jnp.matmul), A, B) == MATMUL
  batched = [jax.ShapeDtypeStruct((5, *s.shape), s.dtype) for s in (A, B)]
  assert flops.count(jnp.matmul, *batched) == 5 * MATMUL
  assert flops.count(jax.vmap(jnp.matmul), *batched) == 5 * MATMUL
  assert flops.count(lambda a, b: a + 1, A, B) == 0


def test_work_of_shards_is_counted_over_all_devices():
  devices = jax.sharding.Mesh(np.asarray(jax.devices()), ('x',))
  rows, whole = P('x'), P()
  product = jax.jit(jax.shard_map(jnp.matmul, mesh=devices, in_specs=(rows, whole), out_specs=rows))
  assert flops.of(product.trace(A, B)) == MATMUL


def test_a_gradient_costs_twice_the_product():
  forward_and_back = jax.value_and_grad(lambda a, b: jnp.sum(a @ b), argnums=(0, 1))
  assert flops.count(forward_and_back, A, B) == 3 * MATMUL


@pytest.mark.parametrize(
  ('stride', 'groups', 'expected'),
  [
    (1, 1, 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4)),
    (2, 1, 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)),
    (1, 2, 2 * (2 * 8 * 8 * 6) * (3 * 3 * 2)),
  ],
)
def test_convolutions(stride, groups, expected):
  x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 4 // groups, 6), jnp.float32)

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups
    )

  assert flops.count(convolve, x, kernel) == expected


def test_loops_and_branches():
  def repeated(a, b):
    return jax.lax.scan(lambda c, _: (c, (a @ b).sum()), 0.0, None, length=7)[1]

  def branch(a, b):
    return jax.lax.cond(a[0, 0] > 0, lambda: (a @ b).sum(), lambda: (a @ b @ b.T).sum())

  assert flops.count(repeated, A, B) == 7 * MATMUL
  assert flops.count(branch, A, B) == 2 * MATMUL
  assert flops.count(jax.checkpoint(jnp.matmul), A, B) == MATMUL


# Mesh.


def section(**fields):
  return ConfigDict({'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1, **fields})


@pytest.mark.parametrize(
  ('fields', 'devices', 'shape'),
  [
    ({}, 8, (8, 1, 1, 1)),
    ({}, 1, (1, 1, 1, 1)),
    ({'fsdp': 4}, 8, (2, 4, 1, 1)),
    ({'expert': 4}, 8, (2, 1, 4, 1)),
    ({'tensor': 2, 'fsdp': 2}, 8, (2, 2, 1, 2)),
    ({'data': 3}, 3, (3, 1, 1, 1)),
    ({'fsdp': 8}, 8, (1, 8, 1, 1)),
  ],
)
def test_the_mesh_takes_all_devices(fields, devices, shape):
  made = mesh.make_mesh(section(**fields), jax.devices()[:devices])
  assert tuple(made.shape[axis] for axis in mesh.AXES) == shape
  assert made.axis_types == (AxisType.Auto,) * 4
  assert mesh.batch_devices(made) == shape[0] * shape[1] * shape[2]


@pytest.mark.parametrize('fields', [{'data': 3}, {'data': 0}, {'data': 16}, {'fsdp': 3}, {'fsdp': 16}, {'data': -2}])
def test_a_mesh_that_does_not_fit(fields):
  with pytest.raises(UserError, match=r'config\.mesh is .* does not fit 8 device'):
    mesh.make_mesh(section(**fields), jax.devices())


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((64, 256), P('fsdp', 'tensor')),  # widening: columns
    ((256, 64), P('tensor', 'fsdp')),  # narrowing: rows
    ((4, 4, 64, 128), P(None, None, 'fsdp', 'tensor')),
    ((512,), P('tensor')),  # one dimension, taken already
    ((510, 3), P('tensor', None)),
    ((7, 9, 15), P(None, None, None)),  # nothing divides
    ((4, 4), P()),  # below min_shard
    ((), P()),
  ],
)
def test_partition(shape, spec):
  made = mesh.make_mesh(section(fsdp=4, tensor=2), jax.devices())
  assert mesh.partition(shape, made, min_shard=100) == spec
  assert mesh.partition(shape, made, min_shard=10**6) == P()


def path_of(name):
  return tuple(jax.tree_util.DictKey(part) for part in name.split('/'))


@pytest.mark.parametrize(
  ('name', 'shape', 'spec'),
  [
    ('params/layers/block_0/qkv/kernel', (2, 64, 4, 3, 16), P(None, 'fsdp', 'tensor', None, None)),
    ('block_0/qkv/kernel', (64, 4, 3, 16), P('fsdp', 'tensor', None, None)),  # one layer inside the scan
    ('opt_state/0/mu/layers/block_0/mlp_out/kernel', (2, 256, 64), P(None, 'tensor', 'fsdp')),
    ('ema/token_embedding', (256, 64), P('tensor', 'fsdp')),
    ('ema/token_embedding', (65, 64), P(None, 'fsdp')),  # 65 tokens do not divide
    ('layers/block_0/mlp_norm/scale', (2, 64), P(None, None)),
    ('layers/block_0/mlp_norm/scale', (2, 32), P()),  # below min_shard
    ('opt_state/0/count', (), P()),
  ],
)
def test_partition_by_name(name, shape, spec):
  made = mesh.make_mesh(section(fsdp=4, tensor=2), jax.devices())
  assert mesh.named_partition(path_of(name), shape, made, 100, SHARDING) == spec


@pytest.mark.parametrize(
  ('name', 'shape', 'table', 'says'),
  [
    ('layers/block_0/qkv/kernel', (2, 64, 3, 3, 16), SHARDING, 'config.mesh.tensor=2 does not divide the 3 heads'),
    ('layers/block_0/gate/kernel', (2, 64), SHARDING, 'layers/block_0/gate/kernel matches 0 rows'),
    ('a/kernel', (2, 64), {'kernel': ('', ''), 'a/kernel': ('', '')}, 'a/kernel matches 2 rows'),
    ('a/kernel', (2, 64), {'kernel': ('',)}, r'a/kernel has the shape \[2, 64\]'),
  ],
)
def test_names_that_do_not_fit_the_table_are_refused(name, shape, table, says):
  made = mesh.make_mesh(section(fsdp=4, tensor=2), jax.devices())
  with pytest.raises(UserError, match=says):
    mesh.named_partition(path_of(name), shape, made, 100, table)


def test_fsdp_gathers_the_parameters_of_one_layer_at_a_time():
  """All layers gathered at once would take as much as without fsdp."""

  def taken(**fields):
    large = {'model__layers': 12, 'model__width': 64, 'data__block_size': 16, 'data__batch_size': 8}
    config = tiny.config(
      'lm', **large, model__remat='full', mesh__min_shard=16, optim__weight_decay=0.0, optim__name='adam', **fields
    )
    program = tiny.program(config, 8)
    feed = tiny.feed(config, program)
    program.trainer(feed, program.init(), feed.chunk(0, 1))
    return program.compile_stats['train'].peak_bytes

  assert taken(mesh__fsdp=8) < 0.5 * taken()


def test_shardings_of_a_state_hold_and_split_it():
  made = mesh.make_mesh(section(data=2, fsdp=4), jax.devices())
  shapes = {'w': jax.ShapeDtypeStruct((8, 64), jnp.float32), 'b': jax.ShapeDtypeStruct((8,), jnp.float32)}
  shardings = mesh.state_shardings(shapes, made, 64)
  assert shardings['w'].spec == P(None, 'fsdp')
  assert shardings['w'].shard_shape((8, 64)) == (8, 16)
  assert shardings['b'].is_fully_replicated
  assert mesh.replicated(made).is_fully_replicated


def test_what_an_optimiser_keeps_of_no_parameter_is_whole_on_every_device():
  """Muon's coefficients are in no table of shardings; its momentum lies as the parameter does."""
  config = tiny.config('lm', optim__name='muon', mesh__fsdp=2, mesh__min_shard=16)
  state = tiny.program(config, 8).abstract_state()
  leaves = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)}
  (coefficients,) = (leaf for name, leaf in leaves.items() if name.endswith('ns_coeffs'))
  (momentum,) = (leaf for name, leaf in leaves.items() if name.endswith('mu/layers/block_0/mlp_out/kernel'))
  assert coefficients.shape and coefficients.sharding.is_fully_replicated
  assert momentum.sharding.spec == state.params['layers']['block_0']['mlp_out']['kernel'].sharding.spec != P()


@pytest.mark.parametrize(
  ('data', 'evaluation', 'accumulate', 'message'),
  [
    (16, 64, 1, None),
    (12, 64, 1, r'data\.batch_size=12 .* 8 device.*multiple of 8, such as 16'),
    (16, 60, 1, r'eval\.batch_size=60'),
    (16, 64, 2, None),
    (16, 64, 4, '4 micro-batches: .* multiple of 32'),
  ],
)
def test_batches_must_divide(data, evaluation, accumulate, message):
  fields = {'data.batch_size': data, 'eval.batch_size': evaluation, 'optim.accumulate': accumulate}
  config = config_lib.override(config_lib.load('configs/gan.py'), fields)
  if message is None:
    layouts.check_batch(config, 8)
    return
  with pytest.raises(UserError, match=message):
    layouts.check_batch(config, 8)


def test_what_a_process_of_several_loads():
  config = config_lib.load('configs/gan.py')
  for parallel in ('jit', 'pmap'):
    layout = layouts.make_layout(config_lib.override(config, {'parallel': parallel}))
    assert layout.local_rows(16) == slice(0, 16)  # one process: all; two: tests/test_multiprocess.py


# Keys.


def bits(key):
  return np.asarray(jax.random.key_data(key)).tolist()


def test_a_stream_depends_on_its_address_alone():
  root = random.root(0)
  addresses = [('a', 0), ('a', 1), ('b', 0), ('ab', 0), ('a', 2**20)]
  before = [bits(random.stream(root, *address)) for address in addresses]
  random.stream(root, 'another')  # nothing is threaded: to draw from one stream moves no other
  assert [bits(random.stream(root, *address)) for address in addresses] == before
  assert len({str(b) for b in before}) == len(addresses)
  assert bits(random.stream(random.root(1), 'a')) != before[0]
  traced = jax.jit(lambda seed, step: jax.random.key_data(random.stream(random.root(seed), 'a', step)))
  assert traced(0, 1).tolist() == before[1]


def test_streams_are_what_they_were():
  """A change here would change every run that is recorded."""
  assert bits(random.stream(random.root(0), 'train', 3)) == bits(
    jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1550247075), 3)
  )


def test_noise_of_an_example_is_independent_of_its_batch():
  key = random.root(0)
  all_at_once = random.normal_per_example(key, jnp.arange(12), (3, 2))
  assert all_at_once.shape == (12, 3, 2)
  shuffled = jnp.array([7, 0, 11])
  np.testing.assert_array_equal(random.normal_per_example(key, shuffled, (3, 2)), all_at_once[shuffled])
  assert len(np.unique(np.asarray(all_at_once))) == all_at_once.size
  assert bits(random.per_example(key, jnp.arange(3)))[2] == bits(jax.random.fold_in(key, 2))


# Finiteness.


def test_the_first_bad_tensor_is_named():
  good = {'a': jnp.ones(3), 'b': {'c': jnp.zeros((2, 2)), 'n': jnp.int32(3)}, 'z': jnp.ones(1)}
  assert bool(finite.finite(good))
  assert finite.first_bad(good) == ''
  for value in (jnp.nan, jnp.inf, -jnp.inf):
    bad = {**good, 'b': {**good['b'], 'c': good['b']['c'].at[1, 0].set(value)}, 'z': jnp.full(1, jnp.nan)}
    assert not bool(finite.finite(bad))
    assert finite.first_bad(bad) == 'b/c'
