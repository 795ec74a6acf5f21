"""MeanFlow: its identity on a Gaussian, derivatives along the flow, guidance in the target, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import meanflow
from gen_ai.config.traced import substitute
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.maths import mean_flow

MEAN, WIDTH = 0.3, 0.5  # of the data
N = 64


def moments(t):
  """(mean, deviation) of z_t."""
  return (1 - t) * MEAN, jnp.sqrt(((1 - t) * WIDTH) ** 2 + t**2)


def exact(z, t, r):
  """u(z, t, r) [B, 1] of the Gaussian, t > r: the flow keeps the number of deviations from the mean."""
  t, r = t[:, None], r[:, None]
  (mean, deviation), (mean_r, deviation_r) = moments(t), moments(r)
  return (z - mean_r - deviation_r * (z - mean) / deviation) / (t - r)


def instantaneous(z, t):
  """dz/dt [B, 1] of the same flow."""
  t = t[:, None]
  mean, deviation = moments(t)
  return -MEAN + (t - (1 - t) * WIDTH**2) / deviation**2 * (z - mean)


def network(z, t, r):
  """Something smooth of all that a network sees."""
  t, r = t[:, None], r[:, None]
  return jnp.sin(z * (1 + t)) + jnp.cos(2 * t - r) * z


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def places():
  """(z [N, 3], t [N], r [N]) with t > r."""
  random = np.random.default_rng(0)
  r = random.uniform(0.01, 0.7, N)
  return random.standard_normal((N, 3)), r + random.uniform(0.05, 0.25, N), r


def test_the_identity_holds_for_the_exact_mean_velocity_of_a_gaussian(float64):
  z, t, r = places()
  both = jax.jit(lambda z, t, r: mean_flow.said_and_target(exact, z, t, r, instantaneous(z, t)))
  said, target = both(z, t, r)
  assert np.abs(said).max() > 0.5
  np.testing.assert_allclose(said, target, rtol=0, atol=1e-12)
  np.testing.assert_allclose(exact(z, t, t - 1e-7), instantaneous(z, t), atol=1e-5)
  # One step from noise to data gives the data's moments, and so do several.
  eps = np.random.default_rng(1).standard_normal((20_000, 1))
  for steps in (1, 3):
    drawn = mean_flow.sample(exact, eps, steps)
    np.testing.assert_allclose(drawn, MEAN + WIDTH * eps, atol=1e-12)


def test_the_target_differentiates_along_the_flow(float64):
  z, t, r = places()
  v, h = np.cos(z), 1e-5
  said, target = mean_flow.said_and_target(network, z, t, r, v)
  np.testing.assert_array_equal(said, network(z, t, r))
  rate = (network(z + h * v, t + h, r) - network(z - h * v, t - h, r)) / (2 * h)
  np.testing.assert_allclose(target, v - (t - r)[:, None] * rate, atol=1e-9)
  _, at_once = mean_flow.said_and_target(network, z, t, t, v)
  np.testing.assert_array_equal(at_once, v)  # r = t: flow matching


def test_no_gradient_goes_through_the_target(float64):
  z, t, r = places()

  def error(scale, held):
    u = lambda z, t, r: scale * network(z, t, r)  # noqa: E731
    said, target = mean_flow.said_and_target(u, z, t, r, np.cos(z))
    return ((said - (target if held is None else held)) ** 2).sum()

  target = mean_flow.said_and_target(network, z, t, r, np.cos(z))[1]
  np.testing.assert_allclose(jax.grad(error)(1.0, None), jax.grad(error)(1.0, target), rtol=1e-12)


def test_guidance_of_the_target():
  v, labelled, plain = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0]), jnp.array([0.5, 4.0])
  np.testing.assert_array_equal(mean_flow.guided(v, labelled, plain, 1.0, 0.0), v)
  np.testing.assert_allclose(mean_flow.guided(v, labelled, plain, 2.0, 0.0), 2 * v - plain)
  # Once the network says the guided flow w of its label, w = plain + omega / (1 - kappa) (v - plain).
  omega, kappa = 1.5, 0.4
  w = plain + omega / (1 - kappa) * (v - plain)
  np.testing.assert_allclose(mean_flow.guided(v, w, plain, omega, kappa), w, rtol=1e-6)


def test_times_are_ordered_and_alike_where_asked():
  normal = jax.random.normal(jax.random.key(0), (4000, 2))
  alike = jnp.arange(4000) % 4 > 0
  t, r = mean_flow.drawn_times(normal, alike, -0.4, 1.2)
  assert np.all((r < t) == ~alike)
  np.testing.assert_array_equal(r[alike], t[alike])
  logit = np.stack([np.log(v / (1 - v)) for v in (t, r)])[:, ~alike]
  np.testing.assert_allclose(logit.mean(), -0.4, atol=0.1)
  np.testing.assert_allclose(logit.std(), 1.2, rtol=0.05)


def test_adaptive_weights_are_constants():
  error = jnp.array([0.5, 8.0])
  np.testing.assert_allclose(mean_flow.adaptive(error, 1.0, 0.5), [0.5, 8 / 8.5])
  np.testing.assert_allclose(jax.grad(lambda e: mean_flow.adaptive(e, 1.0, 0.5).sum())(error), [1.0, 1 / 8.5])
  np.testing.assert_array_equal(mean_flow.adaptive(error, 0.0, 0.5), error)


# The family.


def built(**overrides):
  config = tiny.config('meanflow', **overrides)
  method = meanflow.build(config, tiny.dataset(config).spec)
  return config, method, jax.jit(method.init)(jax.random.key(0))


def batch_of(config, n=16):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


def louder(state):
  """The state with all parameters drawn anew, as what a fresh network says is 0."""
  leaves, tree = jax.tree.flatten(state.params)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  drawn = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
  params = jax.tree.unflatten(tree, drawn)
  return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))


@functools.cache
def reporter(guided):
  """(values of floats, batch) -> what one update of a loud network reports, by the same draws; compiled once."""
  config, _, state = built(**({'loss.guidance': 0.5, 'loss.kappa': 0.5} if guided else {}))
  spec, state = tiny.dataset(config).spec, louder(state)

  def report(values, batch):
    method = meanflow.build(substitute(config, values), spec)
    return method.train_step(state, batch, jax.random.key(2))[1]

  return jax.jit(report), batch_of(config), spec.num_classes


ALIKE = {'loss.alike': 1.0, 'loss.power': 0.0, 'loss.drop_label': 0.0}
NEXT_TO_NONE = {'loss.guidance': 1e-9, 'loss.kappa': 1e-9}


def test_training_is_flow_matching_where_all_times_are_alike():
  report, batch, _ = reporter(False)
  found = report(ALIKE, batch)
  np.testing.assert_allclose(found['loss'], found['mean_flow_mse'] * 28 * 28, rtol=1e-5)
  unlike = report({**ALIKE, 'loss.alike': 0.0}, batch)
  assert abs(unlike['mean_flow_mse'] - found['mean_flow_mse']) > 1e-3
  assert report({**ALIKE, 'loss.power': 1.0}, batch)['loss'] < 1


def test_guidance_moves_the_target_of_labels_alone():
  report, batch, classes = reporter(True)
  plain = reporter(False)[0](ALIKE, batch)['mean_flow_mse']
  np.testing.assert_allclose(report(ALIKE | NEXT_TO_NONE, batch)['mean_flow_mse'], plain, rtol=1e-5)
  for guidance in ({'loss.guidance': 1.0, 'loss.kappa': 1e-9}, {'loss.guidance': 1e-9, 'loss.kappa': 0.5}):
    assert abs(report(ALIKE | guidance, batch)['mean_flow_mse'] - plain) > 1e-3
    nothing = batch | {'label': jnp.full(16, classes)}
    np.testing.assert_allclose(*(report(ALIKE | of, nothing)['mean_flow_mse'] for of in (guidance, NEXT_TO_NONE)))
    dropped = report(ALIKE | guidance | {'loss.drop_label': 1.0}, batch)  # all labels are
    np.testing.assert_allclose(dropped['mean_flow_mse'], report(ALIKE | guidance, nothing)['mean_flow_mse'], rtol=1e-5)


def test_evaluation_tells_flow_matching_and_the_identity_per_example():
  config, method, state = built()
  state, batch = louder(state), {**batch_of(config, 8), 'mask': jnp.ones(8)}
  found = jax.jit(method.eval_step)(state, batch, jax.random.key(1))
  alone = [jax.jit(method.eval_step)(state, {**batch, 'mask': jnp.eye(8)[i]}, jax.random.key(1)) for i in range(2)]
  assert found['flow_mse'][1] == 8
  assert found['identity_mse'][0] > 0
  assert alone[0]['flow_mse'][0] != alone[1]['flow_mse'][0]
  # A network that says nothing is as far from eps - x as that is long, and agrees with itself.
  silent = state._replace(
    params=jax.tree.map(jnp.zeros_like, state.params), ema=jax.tree.map(jnp.zeros_like, state.ema)
  )
  of_silent = jax.jit(method.eval_step)(silent, batch, jax.random.key(1))
  x = np.asarray(batch['image'], np.float64) / 127.5 - 1
  np.testing.assert_allclose(of_silent['flow_mse'][0] / 8, 1 + (x**2).mean(), rtol=0.1)
  assert of_silent['identity_mse'][0] == 0


def test_steps_are_a_setting_of_sampling_and_labels_and_noise_are_taken():
  config, method, state = built()
  state, keys = louder(state), jax.random.split(jax.random.key(3), 4)
  noise, label = jax.random.normal(jax.random.key(4), (4, 28, 28, 1)), jnp.arange(4)
  run = jax.jit(method.tasks['generate'].run)
  found = run(state, {'latent': noise, 'label': label}, keys)
  assert np.array_equal(found['label'], label)
  again = run(state, {'latent': noise, 'label': label}, jax.random.split(jax.random.key(9), 4))
  np.testing.assert_array_equal(found['sample'], again['sample'])  # nothing else is drawn
  assert np.abs(found['sample'] - run(state, {'latent': noise, 'label': label + 1}, keys)['sample']).max() > 1e-3
  _, two, _ = built(**{'sample.steps': 2})
  assert (
    np.abs(
      jax.jit(two.tasks['generate'].run)(state, {'latent': noise, 'label': label}, keys)['sample'] - found['sample']
    ).max()
    > 1e-3
  )


def test_labels_that_are_not_there_are_refused():
  config = tiny.config('meanflow')
  with pytest.raises(UserError, match='config.model.conditional=true needs labels'):
    meanflow.build(config, Spec('image', (28, 28, 1)))
