"""Samplers against closed forms: flows, moments and marginals of Gaussians, whose best denoiser is known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.maths import diffusion, grids, guidance, ode_likelihood, repaint, samplers
from gen_ai.maths.diffusion import Level
from gen_ai.maths.samplers import Churn

MEAN, SD = 0.3, 0.5  # of the data
WEIGHTS, MEANS, WIDTH = (0.3, 0.7), np.array([-1.0, 0.8]), 0.4  # a mixture of two Gaussians


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def gaussian(mean=MEAN, sd=SD):
  """The best denoiser of N(mean, sd^2), E[x0 | x]."""

  def denoise(x, level):
    a, s = level.over(x)
    return mean + a * sd**2 / (a**2 * sd**2 + s**2) * (x - a * mean)

  return denoise


GAUSSIAN = gaussian()


def mixture(x, level):
  """E[x0 | x] of the mixture."""
  a, s = level.over(x)
  variance = (a * WIDTH) ** 2 + s**2
  apart = x[..., None] - a[..., None] * MEANS
  share = jax.nn.softmax(np.log(WEIGHTS) - 0.5 * apart**2 / variance[..., None], -1)
  return (share * (MEANS + (a * WIDTH**2 / variance)[..., None] * apart)).sum(-1)


def grid_of(schedule, steps, name='uniform', **settings):
  return grids.make_grid(name, diffusion.schedule(schedule), steps, **settings)


@functools.cache
def compiled(solver, denoise, **settings):
  """The sampler as a function of grid, x and draws [N, B, ...]: one compilation for all schedules."""

  def run(grid, x, draws):
    return samplers.sample(solver, denoise, grid, x, lambda i: draws[i], **settings)

  return jax.jit(run)


def moments(run, grid, first):
  """Exact mean and deviation of what a sampler gives for Gaussian data, where all that it does is linear.

  Row 0 has neither start nor draws, row 1 starts at 1, row 2 + i has 1 as draw i.
  """
  rows = np.eye(grid.a.shape[0] + 1)
  out = np.asarray(run(grid, rows[1][:, None], rows[2:, :, None]))[:, 0]
  gains = out[1:] - out[0]
  return out[0], math.hypot(first * gains[0], *gains[1:])


@pytest.mark.parametrize('solver', samplers.SOLVERS)
def test_every_solver_ends_in_the_distribution_of_the_data(solver):
  """Those of second order closer. What noise is left in x at the start, and is not sampled, is 1% of 'vdm'."""
  run = compiled(solver, GAUSSIAN, **({'eta': 0.5} if solver == 'ddim' else {}))
  bound = 0.005 if samplers.SOLVERS[solver] == 2 else 0.05
  for name in ('cosine', 'vdm', 'edm', 'flow'):
    first = float(grids.first_deviation(diffusion.schedule(name)))
    mean, sd = moments(run, grid_of(name, 128), first)
    assert mean == pytest.approx(MEAN, abs=0.015), name
    assert sd == pytest.approx(SD, rel=bound), name


def exact_end(start, level):
  """Where the flow of the mixture's marginals takes x: it keeps the order of points, so their quantiles."""

  def below(x, a, s):
    return np.dot(WEIGHTS, stats.norm.cdf((x - a * MEANS) / math.hypot(a * WIDTH, s)))

  quantile = below(start, float(level.a), float(level.s))
  return optimize.brentq(lambda x: below(x, 1.0, 0.0) - quantile, -9.0, 9.0, xtol=1e-13)


@pytest.mark.parametrize(
  ('solver', 'order', 'where'),
  [
    ('euler', 1, [('flow', 'uniform'), ('edm', 'karras')]),
    ('heun', 2, [('flow', 'uniform'), ('edm', 'karras'), ('vdm', 'log_snr')]),
    ('dpmpp_2m', 2, [('edm', 'karras'), ('vdm', 'log_snr')]),
  ],
)
def test_error_falls_with_the_order_of_the_solver(solver, order, where):
  for schedule, name in where:
    errors = []
    for steps in (64, 128):
      grid = grid_of(schedule, steps, name)
      x = 1.7 * np.asarray(grid.s[:1])
      end = compiled(solver, mixture)(grid, x, np.zeros((1, 1)))[0]
      errors.append(abs(float(end) - exact_end(x[0], grids.at(grid, 0))))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2), (schedule, errors)


def published(solver, grid, x, draws, denoise=GAUSSIAN):
  """Solvers as their papers write them, for a^2 + s^2 = 1, step by step."""
  a, s = (np.asarray(v) for v in grid)
  before = h_before = None
  for i, z in enumerate(draws):
    x0 = np.asarray(denoise(x, Level(a[i], s[i])))
    bar, bar_next = a[i] ** 2, a[i + 1] ** 2
    if solver.startswith('ddpm'):  # arXiv 2006.11239, eq. 7
      beta = 1 - bar / bar_next
      mean = (np.sqrt(bar_next) * beta * x0 + np.sqrt(1 - beta) * (1 - bar_next) * x) / (1 - bar)
      variance = beta if solver == 'ddpm_large' else (1 - bar_next) / (1 - bar) * beta
      x = mean + np.sqrt(variance) * z * (i + 1 < len(draws))
    elif solver == 'ddim':  # arXiv 2010.02502, eq. 12 and 16, eta = 0.7
      sigma = 0.7 * np.sqrt((1 - bar_next) / (1 - bar) * (1 - bar / bar_next))
      eps = (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
      x = np.sqrt(bar_next) * x0 + np.sqrt(1 - bar_next - sigma**2) * eps + sigma * z
    elif solver == 'vdm':  # arXiv 2107.00630, appendix A.4
      c = -np.expm1(np.log(bar / (1 - bar)) - np.log(bar_next / (1 - bar_next))) if s[i + 1] else 1.0
      eps = (x - a[i] * x0) / s[i]
      x = a[i + 1] / a[i] * (x - s[i] * c * eps) + s[i + 1] * np.sqrt(c) * z
    else:  # arXiv 2211.01095, algorithm 2; its SDE
      with np.errstate(divide='ignore'):
        h = np.log(a[i + 1] / s[i + 1]) - np.log(a[i] / s[i])
      D = x0
      if before is not None and np.isfinite(h):
        D = (1 + 1 / (2 * h_before / h)) * x0 - 1 / (2 * h_before / h) * before
      before, h_before = x0, h
      if solver == 'dpmpp_2m':
        x = s[i + 1] / s[i] * x - a[i + 1] * np.expm1(-h) * D
      else:
        x = s[i + 1] / s[i] * np.exp(-h) * x - a[i + 1] * np.expm1(-2 * h) * D
        x = x + s[i + 1] * np.sqrt(-np.expm1(-2 * h)) * z
  return x


@pytest.mark.parametrize('solver', ['ddpm', 'ddpm_large', 'ddim', 'dpmpp_2m', 'dpmpp_2m_sde'])
def test_solvers_are_the_published_formulas(solver):
  grid = grid_of('cosine', 6)
  x, draws = np.array([0.7, -1.4]), np.random.default_rng(0).standard_normal((6, 2))
  run = compiled(solver, GAUSSIAN, **({'eta': 0.7} if solver == 'ddim' else {}))
  np.testing.assert_allclose(run(grid, x, draws), published(solver, grid, x, draws), rtol=1e-9)
  if solver == 'ddpm':  # VDM's ancestral sampler is DDPM's, in other letters
    np.testing.assert_allclose(published('vdm', grid, x, draws), published('ddpm', grid, x, draws), rtol=1e-9)


def test_noise_follows_a_clipped_image():
  clipped = samplers.clipped(GAUSSIAN, 0.1)
  grid, x = grid_of('cosine', 6), np.array([1.5])
  expected = published('ddim', grid, x, np.zeros((6, 1)), lambda x, level: np.clip(GAUSSIAN(x, level), -0.1, 0.1))
  np.testing.assert_allclose(compiled('ddim', clipped, eta=0.7)(grid, x, np.zeros((6, 1))), expected, rtol=1e-9)


def test_any_diffusion_coefficient_keeps_the_marginals_of_a_flow():
  """Where a step ends in noise, and at the end: noise of variance w dt, and half of it along the score."""

  @jax.jit
  def run(w, grid, x, draws):
    return samplers.sample('sde', GAUSSIAN, grid, x, lambda i: draws[i], diffusion=lambda t: w)

  grid = grid_of('flow', 400)
  for w in (0.0, 0.5, 1.0, 2.0):
    for end in (100, 300):
      there = grids.at(grid, end)
      rest = jnp.concatenate([jnp.arange(end), jnp.full(401 - end, end)])  # where a step of no length does nothing
      mean, sd = moments(functools.partial(run, w), grids.at(grid, rest), 1.0)
      assert mean == pytest.approx(float(there.a) * MEAN, abs=0.003), (w, end)
      assert sd == pytest.approx(float(jnp.hypot(there.a * SD, there.s)), rel=0.01), (w, end)
    mean, sd = moments(functools.partial(run, w), grid, 1.0)
    assert (mean, sd) == (pytest.approx(MEAN, abs=0.003), pytest.approx(SD, rel=0.02)), w


def test_churn_is_noise_that_the_denoiser_sees():
  """The denoiser is asked at the noisier x and its level; the deviation of what comes out stays that of the data."""

  def told(x, level):
    return jnp.stack([x[:, 0], jnp.broadcast_to(level.s, x.shape[:1])], 1)

  churn = Churn(amount=0.3, low=0.01, noise=1.1)
  grid = Level(np.ones(2), np.array([2.0, 0.0]))
  x, s = samplers.sample('euler', told, grid, np.array([[1.0, 0.0]]), lambda i: np.full((1, 2), 0.5), churn=churn)[0]
  assert s == pytest.approx(2.0 * 1.3)
  assert x == pytest.approx(1.0 + 0.5 * 1.1 * math.sqrt(2.6**2 - 2.0**2))
  np.testing.assert_allclose(samplers.looked_at('euler', grid, churn).s, [2.6])
  assert float(samplers.looked_at('euler', grid, Churn(9.0)).s[0]) == pytest.approx(2.0 * math.sqrt(2.0))
  assert float(samplers.looked_at('euler', grid, Churn(9.0, high=1.9)).s[0]) == 2.0

  grid = grid_of('edm', 128, 'karras')
  for solver, bound in (('heun', 0.01), ('euler', 0.1)):
    run = compiled(solver, GAUSSIAN, churn=Churn(40.0, 0.05, 50.0))
    mean, sd = moments(run, grid, 80.0)
    assert (mean, sd) == (pytest.approx(MEAN, abs=0.003), pytest.approx(SD, rel=bound)), solver
  rows = np.eye(130)
  out = np.asarray(run(grid, rows[1][:, None], rows[2:, :, None]))[:, 0]
  assert np.hypot.reduce(out[2:] - out[0]) > 0.9 * SD  # draws, not the start, make what is sampled


@pytest.mark.parametrize('name', grids.GRIDS)
@pytest.mark.parametrize('schedule', diffusion.SCHEDULES)
def test_grids_go_from_the_noise_of_training_to_the_data(name, schedule):
  made = diffusion.schedule(schedule)
  for steps, start in ((1, 1.0), (7, 1.0), (7, 0.4)):
    a, s = grid = grids.make_grid(name, made, steps, start=start, shift=3.0)
    assert a.shape == s.shape == (steps + 1,)
    first = made.level(jnp.asarray(start))
    assert float(grid.flow[0]) == pytest.approx(float(first.flow), rel=1e-6)
    assert (a[-1], s[-1]) == (1.0, 0.0)
    assert bool((jnp.diff(grid.flow) < 0.0).all()), (steps, start)
    if name == 'karras' and steps == 7 and start == 1.0 and schedule in (*diffusion.NO_SIGNAL, 'cosine'):
      assert float(grid.sigma[1]) == pytest.approx(80.0)
    if not made.exploding and schedule != 'flow':
      np.testing.assert_allclose(a**2 + s**2, 1.0, rtol=1e-6)


def test_grids_are_those_of_the_papers():
  i = np.arange(18)
  sigma = (80 ** (1 / 5) + i / 17 * (0.002 ** (1 / 5) - 80 ** (1 / 5))) ** 5
  np.testing.assert_allclose(grid_of('edm', 18, 'karras', rho=5.0).s, [*sigma, 0.0], rtol=1e-12)
  np.testing.assert_allclose(np.diff(grid_of('vdm', 9, 'log_snr').log_snr[:-1]), 18.3 / 8)
  t = np.arange(5, 0, -1) / 5
  np.testing.assert_allclose(grid_of('flow', 5, 'shifted', shift=3.0).s, [*(3 * t / (1 + 2 * t)), 0.0])
  # trailing: steps of a table that include its last, T - 1 counted from 0; so 999, 749, 499, 249, and then data
  bar = diffusion.linear_table()[[999, 749, 499, 249]]
  np.testing.assert_allclose(grid_of('linear', 4).a, [*np.sqrt(bar), 1.0], rtol=1e-12)
  np.testing.assert_allclose(grid_of('linear', 1000).a[:-1] ** 2, diffusion.linear_table()[::-1], rtol=1e-12)


def test_what_cannot_be_sampled_is_refused():
  for solver, steps in (('heun', 1), ('dpmpp_2m', 1), ('dpmpp_2m_sde', 1)):
    with pytest.raises(UserError, match=rf'sample\.steps=1: sample\.solver={solver} needs at least 2'):
      samplers.sample(solver, GAUSSIAN, grid_of('flow', steps), jnp.ones(1), None)
  with pytest.raises(UserError, match=r'sample\.steps=0'):
    grid_of('flow', 0)
  with pytest.raises(UserError, match=r'sample\.steps=1001: the schedule cosine has no more than 1000'):
    grid_of('cosine', 1001)
  for start in (0.0, 1.5):
    with pytest.raises(UserError, match=f'starts at time {start}'):
      grid_of('edm', 5, start=start)
  for fails in (samplers.invert, lambda *given: ode_likelihood.log_prob(*given, jnp.ones((1, 1)))):
    with pytest.raises(UserError, match=r'sample\.steps=1'):
      fails(GAUSSIAN, grid_of('flow', 1), jnp.ones(1))
  with pytest.raises(UserError, match=r'sample\.jump=5: take less than sample\.steps=5'):
    repaint.path(5, 5, 2)
  with pytest.raises(UserError, match=r'sample\.resamplings=0'):
    repaint.path(5, 1, 0)


def test_float32_stays_float32():
  grid = grid_of('vdm', 8)
  draws = np.zeros((8, 1))
  for solver in ('heun', 'dpmpp_2m_sde'):
    run = compiled(solver, GAUSSIAN)
    out = run(grid, np.ones(1, np.float32), draws.astype(np.float32))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, run(grid, np.ones(1), draws), rtol=1e-5)


def test_draws_are_addressed_by_example():
  keys = random.per_example(jax.random.key(0), jnp.arange(3))
  noise, alone = samplers.addressed(keys, (2, 2)), samplers.addressed(keys[1:2], (2, 2))
  np.testing.assert_array_equal(noise(4)[1:2], alone(4))
  assert not np.array_equal(noise(4), noise(5))


# --- How often networks are called ---


def counting(denoise, calls, name):
  def counted(x, level):
    jax.debug.callback(lambda: calls.append(name))
    return denoise(x, level)

  return counted


@pytest.mark.parametrize('solver', ['ddim', 'heun'])
def test_calls_are_counted_exactly_under_guidance_in_an_interval(solver):
  calls = []
  conditional, guide = (counting(GAUSSIAN, calls, name) for name in ('conditional', 'guide'))
  grid = grid_of('edm', 9, 'karras')
  low, high = 0.1, float(grid.s[3])  # the upper bound belongs to the interval
  jax.jit(lambda x: samplers.sample(solver, guidance.guided(conditional, guide, 2.0, low, high), grid, x, lambda i: x))(
    jnp.ones(1)
  )
  jax.effects_barrier()
  levels = samplers.looked_at(solver, grid)
  assert calls.count('conditional') == samplers.evaluations(solver, 9) == levels.s.shape[0]
  inside = np.asarray((levels.s > low) & (levels.s <= high)).sum()
  assert calls.count('guide') == inside > 0
  assert len(calls) == guidance.evaluations(levels, low, high)
  assert guidance.evaluations(levels) == 2 * levels.s.shape[0]


def test_guidance_moves_away_from_the_guide():
  """Of two Gaussians with one deviation it gives the Gaussian around w m_c + (1 - w) m_g at every level."""
  x, level = jnp.array([[0.3, -1.0], [2.0, 0.1]]), Level(jnp.array([0.8, 0.3]), jnp.array([0.6, 0.9]))
  conditional, guide = gaussian(0.5), gaussian(-0.2)
  for scale in (0.0, 1.0, 3.0):
    expected = gaussian(0.5 * scale - 0.2 * (1 - scale))(x, level)
    np.testing.assert_allclose(guidance.guided(conditional, guide, scale)(x, level), expected, rtol=1e-12)
  outside = guidance.guided(conditional, guide, 3.0, low=0.0, high=2.0)(x, level)  # the second row's sigma is 3
  np.testing.assert_allclose(outside[0], gaussian(0.5 * 3 + 0.2 * 2)(x, level)[0], rtol=1e-12)
  np.testing.assert_array_equal(outside[1], conditional(x, level)[1])


# --- From images ---


def test_inversion_finds_the_noise_that_leads_to_an_image():
  x0 = np.array([0.9, -0.4])
  for name in ('flow', 'edm'):
    grid = grid_of(name, 256, 'uniform')
    noise = jax.jit(samplers.invert, static_argnums=0)(GAUSSIAN, grid, x0)
    a, s = grids.at(grid, 0)
    exact = a * MEAN + jnp.hypot(a * SD, s) / SD * (x0 - MEAN)
    np.testing.assert_allclose(noise, exact, rtol=2e-3)
    np.testing.assert_allclose(compiled('heun', GAUSSIAN)(grid, noise, np.zeros((1, 2))), x0, rtol=2e-3)


def test_an_image_is_changed_from_an_intermediate_level():
  """Noise of time 0.4 is all that is forgotten: what remains of the image is its weight in the posterior's mean."""
  grid = grid_of('flow', 128, start=0.4)
  a, s = map(float, grids.at(grid, 0))
  mean, sd = moments(compiled('ddpm', GAUSSIAN), grid, math.hypot(a * SD, s))
  assert sd == pytest.approx(SD, rel=0.01)
  x0 = compiled('euler', GAUSSIAN)(grid, a * np.array([1.0]), np.zeros((1, 1)))[0]
  assert float(x0) == pytest.approx(MEAN + SD / math.hypot(a * SD, s) * a * (1.0 - MEAN), abs=0.003)


def test_resampling_jumps_as_published():
  """Of 8 steps with jumps of 3 made twice: from data, then 3 levels before it, x is made noisier again."""
  lies, step = repaint.path(8, 3, 2)
  assert list(zip(lies.tolist(), step.tolist(), strict=True)) == [
    (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 5), (6, 6), (7, 7)
  ]  # fmt: skip
  assert repaint.evaluations(8, 3, 2) == 14
  assert repaint.evaluations(8, 8, 1) == 8


def pair(correlation):
  """E[x0 | x] of two pixels N(0, 1) with a correlation, x [B, 2]."""
  covariance = np.array([[1.0, correlation], [correlation, 1.0]])

  def denoise(x, level):
    a, s = level.over(x)
    return a * x @ jnp.linalg.solve(a**2 * covariance + s**2 * np.eye(2), covariance)

  return denoise


def test_repaint_keeps_what_is_known_and_resampling_draws_by_it():
  """The mean of the hidden pixel comes nearer to that of its conditional distribution, 0.8 times the known one."""
  known, hidden = np.array([[1.5, np.nan]]), np.array([0.0, 1.0])

  @functools.partial(jax.jit, static_argnums=(1, 2))
  def mean(grid, jump, resamplings):  # no draws: of a linear denoiser that gives the mean
    x = jnp.zeros((1, 2))
    return repaint.repaint(pair(0.8), grid, x, known, hidden, lambda i: x, jump, resamplings)

  for schedule in ('cosine', 'flow'):
    once, often = (mean(grid_of(schedule, 20), *settings)[0] for settings in ((1, 1), (4, 12)))
    assert once[0] == often[0] == 1.5
    distance = [abs(float(drawn[1]) - 0.8 * 1.5) for drawn in (once, often)]
    assert distance[1] < 0.3 * distance[0], (schedule, distance)


# --- Likelihood ---


@functools.cache
def likelihoods(denoise):
  return jax.jit(functools.partial(ode_likelihood.log_prob, denoise))


def likelihood(denoise, schedule, grid, x, probes=None):
  probes = ode_likelihood.basis(x) if probes is None else probes
  first = grids.first_deviation(diffusion.schedule(schedule))
  return np.asarray(likelihoods(denoise)(grid, x, probes, first))


def test_likelihood_of_the_flow_is_that_of_the_data_and_sums_to_one():
  x = jnp.linspace(-6.0, 6.0, 201)[:, None]
  found = likelihood(mixture, 'flow', grid_of('flow', 200), x).mean(0)
  exact = np.log(sum(w * stats.norm.pdf(x[:, 0], m, WIDTH) for w, m in zip(WEIGHTS, MEANS, strict=True)))
  assert np.trapezoid(np.exp(found), x[:, 0]) == pytest.approx(1.0, abs=2e-4)
  np.testing.assert_allclose(found[67:134], exact[67:134], atol=2e-3)  # from -2 to 2


def test_likelihood_of_a_gaussian_is_that_of_what_is_sampled():
  """The flow is linear then: of noise at the grid's start it makes data with the noise of the grid's last level."""
  x = jnp.array([[0.1, 0.9], [-0.7, 0.4]])
  for schedule, name in (('flow', 'uniform'), ('edm', 'karras'), ('vdm', 'log_snr')):
    grid = grid_of(schedule, 600, name)
    found = likelihood(GAUSSIAN, schedule, grid, x).mean(0)
    (a, s), least = grids.at(grid, 0), grids.at(grid, 599).sigma
    stretch = math.hypot(SD, least) / math.hypot(a * SD, s)
    first = grids.first_deviation(diffusion.schedule(schedule))
    exact = stats.norm.logpdf(x, MEAN - stretch * a * MEAN, stretch * first).sum(1)
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_probes_estimate_the_trace():
  """Of correlated pixels a probe errs by what is beside the diagonal; opposite signs cancel exactly."""
  x = jnp.array([[0.5, -0.2]])
  probes = jnp.array([[[1.0, 1.0]], [[1.0, -1.0]]])
  found = likelihood(pair(0.8), 'flow', grid_of('flow', 600), x, probes)
  exact = stats.multivariate_normal.logpdf(x[0], None, [[1, 0.8], [0.8, 1]])
  mean, error = ode_likelihood.mean_and_error(found)
  assert mean[0] == pytest.approx(exact, abs=2e-3)
  assert error[0] == pytest.approx(abs(found[0, 0] - found[1, 0]) / 2) and error[0] > 0.1
  assert ode_likelihood.mean_and_error(found[:1])[1] == math.inf
  keys = random.per_example(jax.random.key(0), jnp.arange(3))
  signs = ode_likelihood.rademacher(keys, 4, (5,))
  assert signs.shape == (4, 3, 5) and set(np.unique(signs)) == {-1.0, 1.0}
  np.testing.assert_array_equal(signs[:, 1:2], ode_likelihood.rademacher(keys[1:2], 4, (5,)))
