"""The lowerings of a convolution agree with each other and with Flax, to second derivatives and along a run axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.nets import conv as convs

# kernel, strides, padding, features, (H, W): 3 channels in. Features below 3 take another path than features above.
CONVS = [
  ((3, 3), (1, 1), 'SAME', 5, (6, 7)),
  ((4, 2), (1, 1), 'SAME', 2, (6, 7)),
  ((3, 2), (1, 1), 'VALID', 1, (6, 7)),
  ((4, 4), (2, 2), 'SAME', 4, (8, 6)),
  ((4, 4), (2, 2), 'VALID', 4, (7, 6)),
  ((5, 5), (2, 2), 'SAME', 4, (7, 8)),
  ((3, 3), (2, 2), 'VALID', 2, (8, 7)),
  ((2, 3), (2, 1), 'SAME', 4, (5, 5)),
]
TRANSPOSED = [
  ((4, 4), (2, 2)),
  ((5, 5), (2, 2)),
  ((3, 3), (2, 2)),
  ((3, 3), (1, 1)),
  ((2, 3), (3, 1)),
]


def compare(apply, x_shape, kernel_shape):
  """Value, gradients, and the gradients of a penalty on those gradients, of both lowerings, in float64."""

  def all_orders(lowering):
    def score(x, kernel):
      y = apply(x, kernel, lowering)
      return jnp.sin(y).sum(), y  # curved, so that no second derivative is zero

    def penalty(x, kernel):
      gradients, y = jax.grad(score, (0, 1), has_aux=True)(x, kernel)
      return sum((g**2).sum() for g in gradients), (y, gradients)

    return jax.jit(jax.grad(penalty, (0, 1), has_aux=True))(x, kernel)

  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0))
    x, kernel = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)
    direct, patches = all_orders('direct'), all_orders('patches')
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), direct, patches)
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(direct))


@pytest.mark.parametrize(('kernel', 'strides', 'padding', 'features', 'sides'), CONVS)
def test_conv_lowerings_agree(kernel, strides, padding, features, sides):
  apply = lambda x, w, lowering: convs.conv(x, w, strides, padding, lowering)  # noqa: E731
  compare(apply, (2, *sides, 3), (*kernel, 3, features))


@pytest.mark.parametrize(('kernel', 'strides'), TRANSPOSED)
def test_conv_transpose_lowerings_agree(kernel, strides):
  apply = lambda x, w, lowering: convs.conv_transpose(x, w, strides, lowering)  # noqa: E731
  compare(apply, (2, 3, 4, 3), (*kernel, 3, 2))


@pytest.mark.parametrize('name', ['conv', 'conv_transpose'])
def test_lanes_of_a_run_axis_agree_with_runs_alone(name):
  keys = jax.random.split(jax.random.key(0))
  x, w = jax.random.normal(keys[0], (3, 2, 6, 6, 2)), jax.random.normal(keys[1], (3, 4, 4, 2, 4))
  apply = lambda x, w: getattr(convs, name)(x, w, (2, 2), lowering='patches')  # noqa: E731
  alone = jnp.stack([getattr(convs, name)(a, b, (2, 2), lowering='direct') for a, b in zip(x, w, strict=True)])
  np.testing.assert_allclose(jax.vmap(apply)(x, w), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('lowering', ['direct', 'patches'])
@pytest.mark.parametrize(('ours', 'flax'), [(convs.Conv, nn.Conv), (convs.ConvTranspose, nn.ConvTranspose)])
def test_modules_equal_flax(ours, flax, lowering):
  x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
  reference = flax(5, (4, 4), (2, 2), padding='SAME', bias_init=nn.initializers.normal(1.0))
  params = reference.init(jax.random.key(1), x)
  module = ours(5, (4, 4), (2, 2), lowering=lowering)
  initial = module.init(jax.random.key(1), x)
  assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)
  np.testing.assert_array_equal(initial['params']['kernel'], params['params']['kernel'])
  np.testing.assert_allclose(module.apply(params, x), reference.apply(params, x), rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
  module = convs.Conv(2, (3, 3), dtype=jnp.bfloat16)
  y, params = module.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
  assert y.dtype == jnp.bfloat16 and params['params']['kernel'].dtype == jnp.float32


def test_auto_is_patches_on_cpu_alone(monkeypatch):
  assert convs.resolve_lowering('auto') == 'patches'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert convs.resolve_lowering('auto') == 'direct'


def test_patches_leave_no_convolution_in_the_program():
  x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((4, 4, 2, 3))
  for apply in (convs.conv, convs.conv_transpose):
    program = lambda lowering, apply=apply: str(  # noqa: E731
      jax.make_jaxpr(jax.grad(lambda x, w: (apply(x, w, (2, 2), lowering=lowering) ** 2).sum(), (0, 1)))(x, w)
    )
    assert 'conv_general_dilated' in program('direct') and 'conv_general_dilated' not in program('patches')


def test_unknown_lowering_lists_the_known_ones():
  with pytest.raises(UserError, match="'fast'.*auto, direct, patches"):
    convs.conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), (1, 1), lowering='fast')
