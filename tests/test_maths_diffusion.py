"""Noise levels, what a network says of them, weights of errors, and the terms of VDM's bound, by their closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.maths import diffusion
from gen_ai.maths.diffusion import GAMMA_MAX, GAMMA_MIN, PREDICTIONS, SCHEDULES, STEPS, TABLES, WEIGHTS, Level, schedule

SD = 0.7  # of the data, for 'F'
SNR = 5.0  # the most that min-SNR weighs by


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def drawn(name):
  """(x0, eps, x_t [64, 3], level [64]) of random times of a schedule, all float64."""
  random = np.random.default_rng(0)
  x0, eps = random.standard_normal((2, 64, 3))
  level = Level(*(np.asarray(v, np.float64) for v in schedule(name).level(random.uniform(0.02, 0.98, 64))))
  return x0, eps, np.asarray(level.noised(x0, eps)), level


@pytest.mark.parametrize('name', SCHEDULES)
def test_all_that_a_network_says_tells_the_same_x0_and_turns_into_each_other(name, float64):
  x0, eps, x, level = drawn(name)
  said = {kind: diffusion.said(kind, x0, eps, level, SD) for kind in PREDICTIONS}
  for kind in PREDICTIONS:
    found = diffusion.to_x(kind, said[kind], x, level, SD)
    np.testing.assert_allclose(found, x0, atol=1e-9, err_msg=kind)
    for other in PREDICTIONS:
      np.testing.assert_allclose(diffusion.of_x(other, found, x, level, SD), said[other], rtol=1e-7, atol=1e-7)
    moved = np.abs(diffusion.of_x(kind, x0 + 0.1, x, level, SD) - said[kind]) / 0.1
    slope = diffusion.slope(kind, level, SD)
    np.testing.assert_allclose(moved, np.broadcast_to(slope[:, None], moved.shape), rtol=1e-6, err_msg=kind)
    np.testing.assert_array_equal(diffusion.slope(kind, level, SD, floor=1e-9), slope)  # no level is below
  np.testing.assert_allclose(diffusion.slope('velocity', Level(0.99, 0.01), floor=0.05), 1.0 / 0.05)


def test_predictions_by_hand(float64):
  """EDM's preconditioning (arXiv 2206.00364, table 1) of x = x0 + sigma eps, and of the same scaled by a."""
  x0, eps, sigma, out = 0.3, -1.1, 2.0, 0.4
  skip, scale = SD**2 / (sigma**2 + SD**2), sigma * SD / np.hypot(sigma, SD)
  for a in (1.0, 0.25):
    level, x = Level(a, a * sigma), jnp.array([a * (x0 + sigma * eps)])
    np.testing.assert_allclose(diffusion.to_x('F', out, x, level, SD), [skip * (x0 + sigma * eps) + scale * out])
    np.testing.assert_allclose(diffusion.input_scale(level, SD) * x, (x0 + sigma * eps) / np.hypot(sigma, SD))
  by_hand = {'x': x0, 'eps': eps, 'v': 0.6 * eps - 0.8 * x0, 'velocity': eps - x0}
  for kind, expected in by_hand.items():
    np.testing.assert_allclose(diffusion.said(kind, jnp.array([x0]), jnp.array([eps]), Level(0.6, 0.8)), [expected])
  # An error of F weighs EDM's (sigma^2 + sd^2) / (sigma sd)^2 as one of x0.
  np.testing.assert_allclose(diffusion.slope('F', Level(1.0, sigma), SD), 1.0 / scale)


@pytest.mark.parametrize('name', SCHEDULES)
def test_in_float32_both_ends_of_a_schedule_are_exact_enough(name):
  random = np.random.default_rng(1)
  x0, eps = random.standard_normal((2, 2, 3)).astype(np.float32)
  shifted = schedule(name, shift=1.7) if name == 'flow' else schedule(name)
  first = diffusion.drawn_level('uniform', shifted, diffusion.quantiles(0.0, 2)[:1], 0.0, 1.0)
  level = Level(*(jnp.concatenate(ends) for ends in zip(first, shifted.level(jnp.ones(1)), strict=True)))
  assert level.a.dtype == np.float32
  assert np.all(level.a >= 0)
  assert np.all(level.s > 0)
  assert np.all(np.abs(shifted.condition(level)) <= 2.5)
  assert np.all(np.isfinite(shifted.condition(shifted.level(jnp.zeros(1)))))
  if name in (*TABLES, 'vdm'):
    np.testing.assert_allclose(level.a**2 + level.s**2, 1.0, rtol=1e-6)
  if name == 'vdm':
    np.testing.assert_allclose(level.log_snr, [-GAMMA_MIN, -GAMMA_MAX], atol=1e-4)
  if name == 'edm':
    np.testing.assert_allclose(level.sigma, [diffusion.SIGMA_MIN, diffusion.SIGMA_MAX], rtol=1e-4)
    assert shifted.exploding
    np.testing.assert_allclose(shifted.condition(level), np.log(level.sigma) / 4, rtol=1e-6)
  x = level.noised(x0, eps)
  for kind in PREDICTIONS:
    if diffusion.check_pair(name, kind):
      continue
    error = np.abs(diffusion.to_x(kind, diffusion.said(kind, x0, eps, level, SD), x, level, SD) - x0)
    reach = level.s / level.a if kind == 'eps' else 1.0  # rounding of noise is divided by the signal
    assert np.all(error < 3e-6 * np.maximum(1.0, reach).reshape(-1, 1)), kind
  for space in PREDICTIONS:
    for weight in WEIGHTS:
      assert np.all(np.isfinite(diffusion.weight(weight, space, level, SD, SNR))), (space, weight)


def test_where_there_is_no_signal_it_is_exactly_so_and_eps_is_refused():
  for name in ('zero_snr', 'flow'):
    for shift in (0.1, 1.0, 1.7, 3.0):
      np.testing.assert_array_equal(jnp.stack(schedule(name, shift).level(jnp.ones(()))), [0.0, 1.0])
    assert 'without any signal' in diffusion.check_pair(name, 'eps')
    assert not diffusion.check_pair(name, 'v')
  assert not any(diffusion.check_pair(name, 'eps') for name in ('linear', 'cosine', 'vdm', 'edm'))
  for name in ('linear', 'cosine', 'zero_snr', 'flow'):
    np.testing.assert_array_equal(jnp.stack(schedule(name).level(jnp.zeros(()))), [1.0, 0.0])


def test_a_shift_of_a_flow_is_the_one_of_its_paper():
  t = jnp.linspace(0.0, 1.0, 11)
  np.testing.assert_allclose(schedule('flow', 3.0).level(t).s, 3 * t / (1 + 2 * t), atol=1e-6)
  np.testing.assert_allclose(schedule('flow', 3.0).level(t).flow, 3 * t / (1 + 2 * t), atol=1e-6)
  late = jnp.float32(1 - 2.0**-20)  # little signal is not rounded away
  np.testing.assert_allclose(schedule('flow', 3.0).level(late).a, 2.0**-20 / (1 + 2 * (1 - 2.0**-20)), rtol=1e-6)


def test_tables_are_their_closed_forms(float64):
  betas = [1e-4 + (0.02 - 1e-4) * k / (STEPS - 1) for k in range(STEPS)]
  by_hand = np.exp(np.cumsum(np.log1p(-np.array(betas))))
  np.testing.assert_allclose(diffusion.linear_table(), by_hand, rtol=1e-12)
  angle = (np.arange(STEPS + 1) / STEPS + 0.008) / 1.008 * np.pi / 2
  whole = (np.cos(angle) / np.cos(angle[0])) ** 2
  np.testing.assert_allclose(diffusion.cosine_table()[:-1], whole[1:-1], rtol=1e-9)
  np.testing.assert_allclose(diffusion.cosine_table()[-1], 0.001 * whole[-2], rtol=1e-9)  # beta is at most 0.999
  root, plain = np.sqrt(diffusion.zero_snr_table()), np.sqrt(by_hand)
  assert root[-1] == 0.0
  np.testing.assert_allclose(root[0], plain[0], rtol=1e-12)
  np.testing.assert_allclose(np.diff(root) / np.diff(plain), plain[0] / (plain[0] - plain[-1]), rtol=1e-9)
  for name, table in TABLES.items():
    level = schedule(name).level(jnp.array([1.0, 7.0, 7.4, STEPS]) / STEPS)
    np.testing.assert_allclose(level.a**2, table()[[0, 6, 6, -1]], rtol=1e-12)
    np.testing.assert_allclose(level.s**2, 1.0 - table()[[0, 6, 6, -1]], rtol=1e-12)


def test_all_spaces_of_a_loss_share_the_optimum(float64):
  """The best affine guess of x0 ~ N(mean, deviation^2), known in closed form, is where every loss has no slope."""
  mean, deviation = 0.4, 1.3
  # Four points with the first two moments of (x0, eps), all that a loss of squares depends on.
  x0 = jnp.array([mean + deviation, mean + deviation, mean - deviation, mean - deviation])[:, None]
  eps = jnp.array([1.0, -1.0, 1.0, -1.0])[:, None]

  @functools.partial(jax.jit, static_argnums=0)
  def slopes(kind, guess, level):
    def loss(guess):
      x = level.noised(x0, eps)
      return diffusion.mean_square(
        diffusion.of_x(kind, guess[0] * x + guess[1], x, level, SD) - diffusion.said(kind, x0, eps, level, SD)
      ).mean()

    return jax.grad(loss)(guess), jax.hessian(loss)(guess), loss(guess)

  for level in (Level(0.8, 0.6), Level(1.0, 3.0), Level(0.3, 0.7)):
    gain = level.a * deviation**2 / (level.a**2 * deviation**2 + level.s**2)
    best = jnp.array([gain, mean - gain * level.a * mean])
    level, left = Level(*map(jnp.float64, level)), (1 - gain * level.a) * deviation**2
    for kind in PREDICTIONS:
      slope, curvature, least = slopes(kind, best, level)
      np.testing.assert_allclose(slope, 0.0, atol=1e-10, err_msg=kind)
      assert np.linalg.eigvalsh(curvature).min() > 0, kind
      np.testing.assert_allclose(least, left * diffusion.slope(kind, level, SD) ** 2, rtol=1e-9, err_msg=kind)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_weight_is_the_same_in_every_space(name, float64):
  *_, level = drawn(name)
  snr = level.a**2 / level.s**2
  for space in PREDICTIONS:
    steep = diffusion.slope(space, level, SD) ** 2
    for weight, of_x in {'min_snr': np.minimum(snr, SNR), 'bound': snr}.items():
      found = diffusion.weight(weight, space, level, SD, SNR)
      np.testing.assert_allclose(found * steep, of_x, rtol=1e-6, err_msg=f'{space} {weight}')
    np.testing.assert_array_equal(diffusion.weight('one', space, level), 1.0)
  np.testing.assert_allclose(diffusion.weight('bound', 'eps', level), 1.0)
  found = diffusion.weight('min_snr', 'eps', level, gamma=SNR)
  np.testing.assert_allclose(found, np.minimum(snr, SNR) / snr, rtol=1e-6)
  if name in (*TABLES, 'vdm'):  # the known mistake is min(SNR + 1, gamma) / (SNR + 1)
    found = diffusion.weight('min_snr', 'v', level, gamma=SNR)
    np.testing.assert_allclose(found, np.minimum(snr, SNR) / (snr + 1), rtol=1e-6)


def test_weights_have_values_where_there_is_no_signal():
  level = schedule('zero_snr').level(jnp.ones(1))
  found = {space: float(diffusion.weight('min_snr', space, level, SD, SNR)[0]) for space in PREDICTIONS}
  assert found == {'x': 0.0, 'eps': 1.0, 'v': 0.0, 'velocity': 0.0, 'F': 0.0}


def test_quantiles_are_evenly_apart():
  for first in (0.0, 0.37, 0.999):
    u = np.sort(diffusion.quantiles(jnp.float32(first), 64))
    assert 0 < u[0] <= u[-1] < 1
    np.testing.assert_allclose(np.diff(u), 1 / 64, atol=2e-6)
    assert np.min(np.abs(u - first)) < 2e-6


def test_levels_follow_their_distribution():
  u = diffusion.quantiles(jnp.float32(0.5 / 4000), 4000)
  log_sigma = np.log(diffusion.drawn_level('lognormal', schedule('edm'), u, -1.2, 1.3).sigma)
  np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.3], rtol=2e-3)
  np.testing.assert_allclose(((log_sigma + 1.2) ** 4).mean(), 3 * 1.3**4, rtol=0.02)  # a normal variable's
  flow = diffusion.drawn_level('logit_normal', schedule('flow'), u, -0.4, 1.1)
  logit = np.log(flow.s / flow.a)
  np.testing.assert_allclose([logit.mean(), logit.std()], [-0.4, 1.1], rtol=2e-3)
  vdm = diffusion.drawn_level('uniform', schedule('vdm'), u, 0.0, 1.0)
  middle, width = -(GAMMA_MIN + GAMMA_MAX) / 2, GAMMA_MAX - GAMMA_MIN
  np.testing.assert_allclose([vdm.log_snr.mean(), vdm.log_snr.std()], [middle, width / 12**0.5], rtol=1e-3)
  steps, counts = np.unique(diffusion.drawn_level('uniform', schedule('linear'), u, 0.0, 1.0).a, return_counts=True)
  assert len(steps) == STEPS
  assert set(counts) == {4}
  np.testing.assert_allclose(steps.min(), np.sqrt(diffusion.linear_table()[-1]), rtol=1e-6)


@pytest.mark.parametrize('name', TABLES)
def test_no_level_that_is_drawn_of_a_table_lacks_noise(name):
  level = diffusion.drawn_level('logit_normal', schedule(name), jnp.array([1e-6, 0.5, 1 - 1e-6]), -3.0, 2.0)
  assert np.all(level.s > 0)
  assert np.all(np.isfinite(diffusion.slope('v', level)))


# --- The bound of VDM on x0 ~ N(0, WIDTH^2), two pixels, with the perfect denoiser ---

WIDTH = 0.8


def error_of(gamma):
  """E ||eps - eps_hat||^2 at -log SNR = gamma: of each pixel, WIDTH^2 SNR / (1 + WIDTH^2 SNR)."""
  signal = WIDTH**2 * np.exp(-np.asarray(gamma))
  return 2 * signal / (1 + signal)


def between(low, high):
  """The diffusion term in closed form: half of the integral of `error_of` from low to high."""
  return np.log1p(WIDTH**2 * np.exp(-low)) - np.log1p(WIDTH**2 * np.exp(-high))


TIMES = (np.arange(4000) + 0.5) / 4000


def test_the_prior_term_is_the_divergence_of_gaussians(float64):
  level = schedule('vdm').level(jnp.ones(()))
  x = jnp.array([[0.5, -1.0], [0.0, 0.3]])
  by_hand = [sum(0.5 * (level.s**2 + (level.a * v) ** 2 - 1 - np.log(level.s**2)) for v in row) for row in x]
  np.testing.assert_allclose(diffusion.prior_nats(x, level), by_hand, rtol=1e-9)
  np.testing.assert_allclose(diffusion.prior_nats(x, Level(jnp.float64(0.0), jnp.float64(1.0))), 0.0)


def test_the_continuous_term_is_its_closed_form_whatever_gamma_does_between_its_ends(float64):
  def bound(gamma):
    rate = jax.vmap(jax.grad(gamma))(TIMES)
    return float(diffusion.continuous_nats(error_of(gamma(TIMES)), rate).mean())

  def bent(low, high):
    return lambda t: low + (high - low) * (t + 0.15 * jnp.sin(2 * jnp.pi * t))

  straight = bound(lambda t: GAMMA_MIN + (GAMMA_MAX - GAMMA_MIN) * t)
  np.testing.assert_allclose(straight, between(GAMMA_MIN, GAMMA_MAX), rtol=1e-6)
  np.testing.assert_allclose(bound(bent(GAMMA_MIN, GAMMA_MAX)), straight, rtol=1e-6)
  moved = bound(bent(GAMMA_MIN, GAMMA_MAX - 3.0))
  np.testing.assert_allclose(moved, between(GAMMA_MIN, GAMMA_MAX - 3.0), rtol=1e-6)
  assert abs(moved - straight) > 0.05
  # What the schedule with learned ends gives is the same level.
  level = schedule('vdm', ends=(jnp.float64(-4.0), jnp.float64(2.0))).level(jnp.array([0.0, 0.5, 1.0]))
  np.testing.assert_allclose(level.log_snr, [4.0, 1.0, -2.0])


def test_the_discrete_term_is_the_divergence_of_its_chain_and_tends_to_the_continuous_one(float64):
  def chain(steps):
    gamma = np.linspace(-6.0, GAMMA_MAX, steps + 1)
    return gamma, np.asarray(diffusion.discrete_nats(error_of(gamma[1:]), np.diff(gamma), steps)) / steps

  gamma, found = chain(8)
  before, after = (diffusion.of_log_snr(-g) for g in (gamma[:-1], gamma[1:]))  # q(z_s | z_t, x), appendix A
  fresh = after.s**2 - (after.a / before.a * before.s) ** 2
  variance = fresh * before.s**2 / after.s**2
  left = 2 * WIDTH**2 * after.s**2 / (after.a**2 * WIDTH**2 + after.s**2)  # E ||x - x_hat||^2
  np.testing.assert_allclose(found, (before.a * fresh / after.s**2) ** 2 * left / (2 * variance), rtol=1e-9)
  gaps = [chain(steps)[1].sum() - between(-6.0, GAMMA_MAX) for steps in (10, 100, 1000)]
  assert gaps[0] > gaps[1] > gaps[2] > 0  # a finer chain is a tighter bound
  np.testing.assert_allclose(gaps[1] / gaps[2], 10.0, rtol=0.05)


@pytest.mark.parametrize('gamma', [GAMMA_MIN, -6.0, 0.0])
def test_the_probabilities_of_all_levels_sum_to_one(gamma):
  level = diffusion.of_log_snr(jnp.float32(-gamma))
  values = (np.arange(256) / 127.5 - 1).astype(np.float32)[:, None]

  @jax.jit
  def log_probs(z, level, x):
    return diffusion.level_log_probs((z - level.a * x) / level.s, level, x)

  for z in (-1.3, -1.0, 0.2, 1.0):
    found = np.exp(np.float64(log_probs(jnp.full((256, 1), z), level, values)))
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-4)
    assert found.argmax() == np.abs(level.a * values - z).argmin()
  pairs = log_probs(jnp.array([[0.2, -1.3]] * 256), level, np.repeat(values, 2, 1))
  alone = [log_probs(jnp.full((256, 1), z), level, values) for z in (0.2, -1.3)]
  np.testing.assert_allclose(pairs, sum(alone), rtol=1e-5)  # pixels are independent


def test_errors_are_summed_in_float32():
  x = jnp.full((2, 5000), 1.001, jnp.bfloat16)
  assert diffusion.mean_square(x).dtype == np.float32
  np.testing.assert_allclose(diffusion.mean_square(x), 1.0, rtol=1e-5)
