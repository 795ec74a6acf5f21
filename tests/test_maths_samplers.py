"""Samplers against closed forms: exact flows, moments and marginals of Gaussians, whose best denoiser is known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from gen_ai.core.errors import UserError
from gen_ai.maths import diffusion, samplers
from gen_ai.maths.diffusion import Level

MEAN, SD = 0.3, 0.5  # of the data
START = 1.7  # noise that a deterministic sampler starts from
WEIGHTS, MEANS, WIDTH = (0.3, 0.7), (-1.0, 0.8), 0.4  # a mixture of two Gaussians


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


def mixture(x, level):
  """E[x0 | x] of the mixture."""
  a, s = level.over(x)
  means, variance = np.array(MEANS), (a * WIDTH) ** 2 + s**2
  apart = x[..., None] - a[..., None] * means
  share = jax.nn.softmax(np.log(WEIGHTS) - 0.5 * apart**2 / variance[..., None], -1)
  return (share * (means + (a * WIDTH**2 / variance)[..., None] * apart)).sum(-1)


def grid_of(schedule, steps=64, name='uniform', **settings):
  return samplers.make_grid(name, diffusion.schedule(schedule), steps, **settings)


@functools.cache
def compiled(solver, denoise, **settings):
  """The sampler as a function of grid, x and draws [N, B, ...]: one compilation for all schedules."""

  def run(grid, x, draws):
    return samplers.sample(solver, denoise, grid, x, lambda i: draws[i], **settings)

  return jax.jit(run)


def moments(solver, grid, first, **settings):
  """Exact mean and deviation of what a sampler gives for Gaussian data, where all it does is linear.

  Row 0 has neither start nor draws, row 1 starts at 1, row 2 + i has 1 as draw i.
  """
  n = grid.a.shape[0] - 1
  rows = np.eye(n + 2)
  x, draws = rows[1][:, None], rows[2:, :, None]
  out = np.asarray(compiled(solver, GAUSSIAN, **settings)(grid, x, draws))[:, 0]
  gains = out[1:] - out[0]
  return out[0], math.hypot(first * gains[0], *gains[1:])


GAUSSIAN = gaussian()
SCHEDULES = ('cosine', 'vdm', 'edm', 'flow')


@pytest.mark.parametrize('solver', samplers.SOLVERS)
def test_every_solver_ends_in_the_distribution_of_the_data(solver):
  settings = {'ddim': {'eta': 0.5}, 'ddpm_large': {'eta': 0.0}}.get(solver, {})
  for name in SCHEDULES:
    schedule = diffusion.schedule(name)
    first = float(samplers.first_deviation(schedule))
    mean, sd = moments(solver, grid_of(name, 128), first, **settings)
    assert mean == pytest.approx(MEAN, abs=0.02), name
    assert sd == pytest.approx(SD, rel=0.05), name


def exact_end(start, level):
  """Where the flow of the mixture's marginals takes x: it keeps the order of points, so their quantiles."""

  def below(x, a, s):
    return np.dot(WEIGHTS, stats.norm.cdf((x - a * np.array(MEANS)) / math.hypot(a * WIDTH, s)))

  quantile = below(start, float(level.a), float(level.s))
  return optimize.brentq(lambda x: below(x, 1.0, 0.0) - quantile, -9.0, 9.0, xtol=1e-13)


@pytest.mark.parametrize(
  ('solver', 'order'), [('euler', 1), ('ddim', 1), ('heun', 2), ('dpmpp_2m', 2)]
)
def test_error_falls_with_the_order_of_the_solver(solver, order):
  for name in ('flow', 'edm'):
    errors = []
    for steps in (64, 256):
      grid = grid_of(name, steps)
      x = START * np.asarray(grid.s[:1])
      end = compiled(solver, mixture)(grid, x, np.zeros((1, 1)))[0]
      errors.append(abs(float(end) - exact_end(x[0], samplers.at(grid, 0))))
    slope = math.log(errors[0] / errors[1], 4)
    print(solver, name, errors, slope)
    assert slope == pytest.approx(order, abs=0.2), (name, errors)
