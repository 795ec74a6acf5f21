"""Batch normalisation sees the global batch, however it is split; the other norms see one example."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_ai.core.errors import UserError
from gen_ai.nets.norms import BatchNorm, normalise

X = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (16, 2, 2, 4)) * jnp.arange(1.0, 17.0)[:, None, None, None]


def loss_fn(norm, variables, x):
  y, updated = norm.apply(variables, x, train=True, mutable=['batch_stats'])
  return (jnp.sin(y) * jnp.arange(4.0)).mean(), updated


def variables_of(norm):
  params = {'scale': jnp.array([1.0, 2.0, -1.0, 0.5]), 'bias': jnp.array([0.3, 0.0, 1.0, -1.0])}
  return {**norm.init(jax.random.key(0), X, train=True), 'params': params}


def test_train_mode_against_the_formula_and_running_averages():
  norm = BatchNorm(momentum=0.75)
  variables = variables_of(norm)
  y, updated = norm.apply(variables, X, train=True, mutable=['batch_stats'])
  x = np.asarray(X, np.float64)
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  scale, bias = variables['params']['scale'], variables['params']['bias']
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(updated['batch_stats']['mean'], 0.25 * mean, rtol=1e-5)
  np.testing.assert_allclose(updated['batch_stats']['var'], 0.75 + 0.25 * var, rtol=1e-5)


def test_running_averages_serve_evaluation_one_example_at_a_time():
  norm = BatchNorm()
  variables = variables_of(norm)
  variables['batch_stats'] = {'mean': jnp.full(4, 2.0), 'var': jnp.full(4, 9.0)}
  y = norm.apply(variables, X, train=False)
  expected = (X - 2.0) / 3.0 * variables['params']['scale'] + variables['params']['bias']
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(norm.apply(variables, X[3:4], train=False), y[3:4], rtol=1e-6)


def test_init_leaves_the_running_averages_alone_and_needs_no_axis():
  variables = BatchNorm(reduce=partial(jax.lax.pmean, axis_name='data')).init(jax.random.key(0), X, train=True)
  assert not variables['batch_stats']['mean'].any() and (variables['batch_stats']['var'] == 1).all()


def test_variance_does_not_cancel():
  norm = BatchNorm()
  x = 1e4 + jax.random.normal(jax.random.key(1), (512, 4))
  y, _ = norm.apply(norm.init(jax.random.key(0), x, train=True), x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(y.std(0), 1.0, atol=1e-2)


def test_pmap_with_pmean_equals_one_global_batch():
  alone = BatchNorm()
  variables = variables_of(alone)
  grad_fn = jax.value_and_grad(loss_fn, (1, 2), has_aux=True)
  (loss, updated), (by_params, by_x) = jax.jit(partial(grad_fn, alone))(variables, X)

  reduce = partial(jax.lax.pmean, axis_name='data')

  def shard_fn(variables, x):
    (loss, updated), (by_params, by_x) = grad_fn(BatchNorm(reduce=reduce), variables, x)
    return reduce(loss), updated, reduce(by_params), by_x

  shards = X.reshape(8, 2, *X.shape[1:])
  p_loss, p_updated, p_by_params, p_by_x = jax.pmap(shard_fn, axis_name='data', in_axes=(None, 0))(variables, shards)
  close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  close(p_loss, jnp.full(8, loss))
  jax.tree.map(lambda a, b: close(a, jnp.stack([b] * 8)), p_updated, updated)
  jax.tree.map(lambda a, b: close(a[0], b), p_by_params['params'], by_params['params'])
  close(p_by_x.reshape(X.shape) / 8, by_x)  # each device's loss is a mean over its eighth


def test_a_batch_sharded_over_a_mesh_equals_one_device():
  norm = BatchNorm()
  variables = variables_of(norm)
  step = jax.jit(jax.grad(partial(loss_fn, norm), has_aux=True))
  mesh = Mesh(np.array(jax.devices()), ('data',))
  sharded = step(variables, jax.device_put(X, NamedSharding(mesh, PartitionSpec('data'))))
  expected = step(variables, X)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sharded, expected)


def test_bfloat16_moments_are_float32():
  norm = BatchNorm(dtype=jnp.bfloat16)
  x = (100.0 + jax.random.normal(jax.random.key(1), (4096, 4))).astype(jnp.bfloat16)
  y, updated = norm.apply(norm.init(jax.random.key(0), x, train=True), x, train=True, mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16 and updated['batch_stats']['mean'].dtype == jnp.float32
  np.testing.assert_allclose(updated['batch_stats']['mean'], x.astype(jnp.float32).mean(0) * 0.1, rtol=1e-5)


class Normalised(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, x):
    return normalise(self.kind, x, train=True)


def test_group_norm_of_one_example_ignores_the_others():
  x = jax.random.normal(jax.random.key(0), (3, 2, 2, 32))
  module = Normalised('group')
  variables = module.init(jax.random.key(0), x)
  y = module.apply(variables, x)
  np.testing.assert_allclose(y[1:2], module.apply(variables, x[1:2]), rtol=1e-5, atol=1e-6)
  groups = np.asarray(x, np.float64).reshape(3, 4, 2, 16)
  expected = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
  np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-3, atol=1e-3)


def test_no_norm_has_no_variables():
  y, variables = Normalised('none').init_with_output(jax.random.key(0), X)
  assert not variables and y is X


def test_unknown_norm_lists_the_known_ones():
  with pytest.raises(UserError, match="'layer'.*none, batch, group"):
    Normalised('layer').init(jax.random.key(0), X)
