"""Denoising networks: 0 at first, what they depend on, symmetries, derivatives by time, sizes that do not fit."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core import lowering
from gen_ai.core.errors import UserError
from gen_ai.nets import attention, conditioning, dit
from gen_ai.nets.denoiser_mlp import DenoiserMLP
from gen_ai.nets.dit import DiT
from gen_ai.nets.transformer import SHARDING
from gen_ai.nets.unet import UNet
from gen_ai.parallel import mesh

SHAPE, CLASSES = (8, 8, 2), 3
NETS = {
  'dit': DiT(SHAPE, patch=4, width=16, layers=2, heads=2, num_classes=CLASSES),
  'unet': UNet(SHAPE, width=4, multipliers=(1, 2), blocks=1, attention=(1,), head_width=4, num_classes=CLASSES),
  'mlp': DenoiserMLP(SHAPE, width=16, blocks=1, embedding=8, num_classes=CLASSES),
}
X = jax.random.normal(jax.random.key(0), (3, *SHAPE))
C, R, LABEL = jnp.array([0.2, 0.5, -1.3]), jnp.array([0.1, 0.5, -1.5]), jnp.array([0, 1, CLASSES])


@functools.cache
def built(name):
  """(name, network, initial variables, the same away from zero kernels, so that every part matters, forward)."""
  net = NETS[name]
  variables = jax.jit(net.init)(jax.random.key(1), X, C, LABEL, r=R)
  draw = np.random.default_rng(0)
  moved = jax.tree.map(lambda p: p + jnp.asarray(0.2 * draw.normal(size=p.shape), jnp.float32), variables)
  return name, net, variables, moved, jax.jit(net.apply)


@pytest.fixture(params=NETS)
def made(request):
  return built(request.param)


def test_at_first_it_says_exactly_0_in_float32(made):
  _, net, variables, moved, forward = made
  out = forward(variables, X, C, LABEL, r=R)
  assert out.shape == X.shape and out.dtype == jnp.float32
  assert not out.any() and forward(moved, X, C, LABEL, r=R).std() > 0.1


def test_bf16_is_near_and_its_output_float32(made):
  _, net, _, moved, forward = made
  half = jax.jit(net.clone(dtype=jnp.bfloat16).apply)(moved, X, C, LABEL, r=R)
  exact = forward(moved, X, C, LABEL, r=R)
  assert half.dtype == jnp.float32
  assert 1e-5 < np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


def test_dropout_is_drawn_by_its_key_at_a_traced_rate(made):
  _, net, _, moved, forward = made

  @jax.jit
  def trained(rate, key):
    return net.clone(dropout=rate).apply(moved, X, C, LABEL, True, R, rngs={'dropout': key})

  plain, key = forward(moved, X, C, LABEL, r=R), jax.random.key(0)
  np.testing.assert_allclose(trained(1e-9, key), plain, rtol=1e-4, atol=1e-4)
  drawn = trained(0.3, key)
  np.testing.assert_array_equal(trained(0.3, key), drawn)
  for other in (plain, trained(0.3, jax.random.key(1))):
    assert np.abs(other - drawn).max(axis=(1, 2, 3)).min() > 1e-3


def test_it_depends_on_all_it_is_told_of_an_example_and_on_no_other_example(made):
  _, _, _, moved, forward = made
  before = forward(moved, X, C, LABEL, r=R)
  for changed in (
    forward(moved, X.at[1, 3, 5].add(1.0), C, LABEL, r=R),
    forward(moved, X, C.at[1].add(0.3), LABEL, r=R),
    forward(moved, X, C, LABEL.at[1].set(2), r=R),
    forward(moved, X, C, LABEL, r=R.at[1].add(-0.3)),
  ):
    np.testing.assert_array_equal(changed[::2], before[::2])
    assert np.abs(changed[1] - before[1]).max() > 1e-3


def test_no_label_is_the_null_class(made):
  _, net, _, moved, forward = made
  null = forward(moved, X, C, jnp.full(3, CLASSES), r=R)
  np.testing.assert_array_equal(jax.jit(partial(net.apply, label=None))(moved, X, C, r=R), null)
  with pytest.raises(UserError, match='num_classes=0'):
    jax.eval_shape(net.clone(num_classes=0).init, jax.random.key(0), X, C, LABEL)


def test_without_a_second_time_there_are_no_parameters_for_it(made):
  _, net, variables, _, _ = made
  one = jax.eval_shape(net.init, jax.random.key(0), X, C, LABEL)['params']
  assert set(variables['params']['condition']) - set(one['condition']) == {'interval_in', 'interval_out'}


def test_a_mirrored_image_or_patches_in_another_order_give_the_same_moved(made):
  """Symmetries: of patches with their positions, of a convolution with its kernels, of numbers with their weights."""
  name, _, _, moved, forward = made
  before, params = forward(moved, X, C, LABEL, r=R), moved['params']
  order = np.random.default_rng(0).permutation(4 if name == 'dit' else X[0].size)

  def reordered(x):
    if name == 'unet':
      return x[:, :, ::-1]
    if name == 'mlp':
      return x.reshape(3, -1)[:, order].reshape(x.shape)
    return dit.unpatched(dit.patches(x, 4)[:, order], SHAPE, 4)

  if name == 'unet':
    params = jax.tree.map(lambda p: p[:, ::-1] if p.ndim == 4 else p, params)
  elif name == 'mlp':
    into, head = ({**params[name]} for name in ('into', 'head'))
    into['kernel'], head['kernel'], head['bias'] = into['kernel'][order], head['kernel'][:, order], head['bias'][order]
    params = {**params, 'into': into, 'head': head}
  else:
    params = {**params, 'position_embedding': params['position_embedding'][order]}
  after = forward({'params': params}, reordered(X), C, LABEL, r=R)
  np.testing.assert_allclose(after, reordered(before), rtol=1e-3, atol=1e-4)
  assert np.abs(reordered(before) - before).max() > 0.1


def test_every_patch_sees_every_other_and_at_first_no_block_adds_anything():
  _, _, variables, moved, forward = built('dit')
  initial = {'params': {**variables['params'], 'patch_out': moved['params']['patch_out']}}
  for row, own in ((0, 0), (7, 3)):
    for state, seen in ((moved, [True] * 4), (initial, [number == own for number in range(4)])):
      out, changed = (forward(state, x, C, LABEL, r=R) for x in (X, X.at[0, row, row].add(1.0)))
      assert (np.abs(dit.patches(changed - out, 4))[0].max(-1) > 1e-4).tolist() == seen


@pytest.mark.parametrize('name', ['dit', 'unet'])
def test_derivatives_by_time_go_through_gathered_layers_too(name):
  """jvp equals a central difference, where layers are gathered as fsdp does it: by a rule for grad alone."""

  @jax.custom_vjp
  def gather(params):
    return params

  gather.defvjp(lambda params: (params, None), lambda _, grad: (grad,))
  same = lowering.MeshHooks(*[lambda tree: tree] * len(lowering.MeshHooks._fields))
  _, net, _, moved, _ = built(name)
  with jax.enable_x64(True), lowering.under_mesh(same._replace(gather_layer=gather)):
    net = net.clone(dtype=jnp.float64, differentiable_forward=True)
    point = tuple(np.asarray(v, np.float64) for v in (X, C, R))
    way = (np.random.default_rng(0).normal(size=X.shape), np.ones(3), np.array([0.5, 0.0, -1.0]))
    at = jax.jit(lambda v, x, c, r: net.apply(v, x, c, LABEL, train=True, r=r))
    _, tangent = jax.jit(lambda v: jax.jvp(partial(at, v), point, way))(moved)
    # JAX takes the softmax of attention in float32 whatever the operands are: a shorter way would be lost in it.
    ahead, behind = (at(moved, *(p + h * w for p, w in zip(point, way, strict=True))) for h in (3e-4, -3e-4))
    assert tangent.dtype == jnp.float64 and np.abs(tangent).max() > 1
    np.testing.assert_allclose(tangent, (ahead - behind) / 6e-4, rtol=2e-3, atol=2e-3)


def test_what_is_computed_again_changes_no_gradient():
  _, net, _, moved, _ = built('dit')

  def gradient(remat):
    again = net.clone(remat=remat)
    return jax.jit(jax.grad(lambda v: (again.apply(v, X, C, LABEL, train=True, r=R) ** 2).mean()))(moved)

  for a, b in zip(*(jax.tree.leaves(gradient(remat)) for remat in ('none', 'dots')), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_no_kernel_without_a_forward_derivative_is_asked_for_where_one_is_needed(monkeypatch):
  asked = []
  monkeypatch.setattr(attention, 'kernel', lambda *_: 'cudnn')
  monkeypatch.setattr(
    jax.nn, 'dot_product_attention', lambda query, *_, implementation, **__: asked.append(implementation)
  )
  x = jnp.zeros((1, 4, 1, 8))
  for needed in (False, True):
    attention.full(x, x, x, differentiable_forward=needed)
  assert asked == ['cudnn', 'xla']


def test_attention_to_all_is_a_mean_by_weights_within_documents():
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 4))
  parts = jnp.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
  for documents in (None, parts):
    scores = np.einsum('btnh,bsnh->bnts', query, key) / 2
    seen = np.ones_like(scores, bool) if documents is None else np.equal(parts[:, :, None], parts[:, None])[:, None]
    share = np.exp(scores) * seen
    expected = np.einsum('bnts,bsnh->btnh', share / share.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(attention.full(query, key, value, documents), expected, rtol=1e-4, atol=1e-5)
    mask = attention.mask_of(5, False, parts=documents)
    np.testing.assert_allclose(attention.over(query, key, value, mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('shape', 'patch'), [((8, 12, 3), 4), ((28, 28, 1), 7), ((12,), 3)])
def test_patches_are_runs_of_pixels_and_come_together_again(shape, patch):
  x = np.arange(2 * np.prod(shape)).reshape(2, *shape)
  tokens = dit.patches(x, patch)
  np.testing.assert_array_equal(dit.unpatched(tokens, shape, patch), x)
  second = x[1, patch : 2 * patch] if len(shape) == 1 else x[1, :patch, patch : 2 * patch]
  np.testing.assert_array_equal(tokens[1, 1], second.ravel())


def test_positions_begin_as_waves_of_row_and_column():
  features = dit.position_features((3, 5), 18).reshape(3, 5, 18)
  frequency = 10_000.0 ** -np.array([0, 1 / 4, 2 / 4, 3 / 4])
  angles = np.concatenate([2 * frequency, 3 * frequency])
  np.testing.assert_allclose(features[2, 3], [*np.sin(angles), *np.cos(angles), 0, 0], rtol=1e-5)
  np.testing.assert_allclose(dit.position_features((4,), 4)[2], [*np.sin([2, 0.02]), *np.cos([2, 0.02])], rtol=1e-5)


def test_times_are_told_by_waves_evenly_apart_in_their_logarithm():
  features = conditioning.fourier_features(jnp.array([0.7]))[0]
  frequency = 0.25 * 64 ** (np.arange(32) / 31)
  np.testing.assert_allclose(features, [*np.sin(0.7 * frequency), *np.cos(0.7 * frequency)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('net', [DiT((6,), 2, width=8, layers=1, heads=1, bottleneck=1), DenoiserMLP((6,), 8, 1, 4)])
def test_vectors_are_taken_too(net):
  x = X.reshape(3, -1)[:, :6]
  out, variables = jax.jit(net.init_with_output)(jax.random.key(0), x, C)
  assert out.shape == (3, 6) and not out.any() and 'label_embedding' not in variables['params']['condition']


def test_every_parameter_of_the_transformer_matches_one_row_of_its_table():
  net = NETS['dit'].clone(bottleneck=2)
  shapes = jax.eval_shape(partial(net.init, r=R), jax.random.key(0), X, C, LABEL)['params']
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    assert len(mesh.row_of(path, SHARDING)) == leaf.ndim


@pytest.mark.parametrize(
  ('make', 'says'),
  [
    (lambda: DiT((28, 28, 1), patch=5), r'config.model.patch=5 does not divide .* 28x28 .* 1, 2, 4, 7, 14, 28\.'),
    (lambda: DiT((28, 32, 1), patch=7), r'config.model.patch=7 .* 28x32 pixels; these do: 1, 2, 4\.'),
    (lambda: DiT((6,), patch=4), r'config.model.patch=4 .* 6 numbers; these do: 1, 2, 3, 6\.'),
    (lambda: DiT((8, 8, 1), width=16, heads=3), r'config.model.width=16 does not divide into 3 heads'),
    (lambda: UNet((28, 28, 1), multipliers=(1, 1, 2, 2)), r'halves the sides 3 times; .* 2 times: take 3 numbers'),
    (lambda: UNet((28, 28, 1), attention=(3,)), r'config.model.attention=\(3,\) must name levels from 0 to 2'),
    (lambda: UNet((6,)), 'takes images, not vectors of 6 numbers'),
    (lambda: dataclasses.replace(DiT(SHAPE).architecture, pattern='S', window=2).check(), 'windows look back'),
  ],
)
def test_sizes_that_do_not_fit_are_refused_with_what_would(make, says):
  with pytest.raises(UserError, match=says):
    make()
