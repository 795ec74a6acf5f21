"""Samplers against diffusers' schedulers: the same grid, the same draws and the best denoiser of N(0.3, 0.5^2).

Their tables and sigmas are float32, and some of their samples; so all agrees to about 1e-7, not to float64's digits.
"""

import jax
import numpy as np
import pytest

from gen_ai.maths import diffusion, grids, repaint, samplers
from gen_ai.maths.diffusion import Level

torch = pytest.importorskip('torch', reason='PyTorch is not installed (pip install -r requirements/parity.txt)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (requirements/parity.txt)')

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # of their own code

MEAN, SD, SHAPE = 0.3, 0.5, (3, 4)
START = np.random.default_rng(0).standard_normal(SHAPE)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def denoise(x, level):
  """E[x0 | x] of arrays of NumPy, JAX and PyTorch."""
  a, s = level
  return MEAN + a * SD**2 / (a**2 * SD**2 + s**2) * (x - a * MEAN)


def tensor(x):
  return torch.tensor(np.asarray(x), dtype=torch.float64)


def generator():
  return torch.Generator().manual_seed(3)


def draws(count):
  """What a generator of that seed gives [count, *SHAPE]."""
  made = generator()
  return np.stack([torch.randn(SHAPE, generator=made, dtype=torch.float64).numpy() for _ in range(count)])


def ours(solver, grid, x, **settings):
  z = draws(grid.a.shape[0] - 1)

  @jax.jit
  def run(x, z):
    return samplers.sample(solver, denoise, grid, x, lambda i: z[i], **settings)

  return np.asarray(run(x, z))


def theirs(scheduler, levels, x, said, **settings):
  """Their loop: what the network says of x at each of the levels that they ask for."""
  x = tensor(x)
  for t, level in zip(scheduler.timesteps, levels, strict=True):
    x = scheduler.step(said(scheduler.scale_model_input(x, t), x, level), t, x, **settings).prev_sample
  return x.numpy()


def eps(_, x, level):
  return (x - level.a * denoise(x, level)) / level.s


def velocity(_, x, level):
  return (x - denoise(x, level)) / level.s


def inner(_, x, level):
  """EDM's network F of data with deviation 0.5."""
  skip, out = SD**2 / (level.s**2 + SD**2), level.s * SD / np.sqrt(level.s**2 + SD**2)
  return (denoise(x, level) - skip * x) / out


def rows(grid):
  return [Level(float(a), float(s)) for a, s in zip(*grid, strict=True)]


def table(bar):
  """Levels of alpha_bar, and data at the end."""
  bar = np.append(np.asarray(bar, np.float64), 1.0)
  return Level(np.sqrt(bar), np.sqrt(1.0 - bar))


def exploding(sigma):
  sigma = np.asarray(sigma, np.float64)
  return Level(np.ones_like(sigma), sigma)


def preserving(sigma):
  a = 1.0 / np.sqrt(1.0 + np.asarray(sigma, np.float64) ** 2)
  return Level(a, a * np.asarray(sigma, np.float64))


def straight(t):
  t = np.asarray(t, np.float64)
  return Level(1.0 - t, t)


def agree(found, expected, tolerance=1e-6):
  assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_ddim(eta):
  made = diffusers.DDIMScheduler(
    beta_schedule='linear', clip_sample=False, set_alpha_to_one=True, timestep_spacing='trailing'
  )
  made.set_timesteps(20)
  grid = table(made.alphas_cumprod[made.timesteps])
  expected = theirs(made, rows(grid)[:-1], START, eps, eta=eta, generator=generator())
  agree(ours('ddim', grid, START, eta=eta), expected)
  # Their default betas are DDPM's; and the grid is ours.
  np.testing.assert_allclose(grids.make_grid('uniform', diffusion.schedule('linear'), 20).a, grid.a, rtol=1e-5)


@pytest.mark.parametrize(('solver', 'variance'), [('ddpm', 'fixed_small'), ('ddpm_large', 'fixed_large')])
def test_ddpm_over_the_whole_table(solver, variance):
  made = diffusers.DDPMScheduler(beta_schedule='squaredcos_cap_v2', clip_sample=False, variance_type=variance)
  made.set_timesteps(1000)
  made.alphas_cumprod = made.alphas_cumprod.double()  # in float32 1 - alpha_t of a step has three digits, of 1000 each
  grid = table(made.alphas_cumprod.flip(0))
  expected = theirs(made, rows(grid)[:-1], START, eps, generator=generator())
  agree(ours(solver, grid, START), expected)
  np.testing.assert_allclose(
    grids.make_grid('uniform', diffusion.schedule('cosine'), 1000).a, grid.a, rtol=2e-4, atol=1e-7
  )


@pytest.mark.parametrize('sde', [False, True])
def test_dpm_solver_on_a_table(sde):
  made = diffusers.DPMSolverMultistepScheduler(
    algorithm_type='sde-dpmsolver++' if sde else 'dpmsolver++',
    solver_type='midpoint',
    solver_order=2,
    final_sigmas_type='zero',
    timestep_spacing='linspace',
  )
  made.set_timesteps(20)
  grid = preserving(made.sigmas)
  expected = theirs(made, rows(grid)[:-1], START, eps, generator=generator())
  agree(ours('dpmpp_2m_sde' if sde else 'dpmpp_2m', grid, START), expected)


def test_dpm_solver_in_the_space_of_edm():
  made = diffusers.EDMDPMSolverMultistepScheduler(sigma_data=SD)
  made.set_timesteps(20)
  grid = exploding(made.sigmas)
  agree(ours('dpmpp_2m', grid, 80.0 * START), theirs(made, rows(grid)[:-1], 80.0 * START, inner))


def test_euler_in_the_space_of_edm():
  made = diffusers.EDMEulerScheduler(sigma_data=SD)
  made.set_timesteps(20)
  grid = exploding(made.sigmas)
  agree(ours('euler', grid, 80.0 * START), theirs(made, rows(grid)[:-1], 80.0 * START, inner))
  karras = grids.make_grid('karras', diffusion.schedule('edm'), 20)
  np.testing.assert_allclose(karras.s, grid.s, rtol=1e-6)


def test_heun():
  made = diffusers.HeunDiscreteScheduler(beta_schedule='linear')
  made.set_timesteps(20)
  sigma = np.asarray(made.sigmas)  # each but the first and the last twice
  grid = exploding(np.concatenate([sigma[:1], sigma[1::2]]))
  seen = rows(samplers.looked_at('heun', grid))
  first = float(sigma[0])
  agree(ours('heun', grid, first * START), theirs(made, seen, first * START, eps))


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_euler_of_a_flow(shift):
  made = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
  made.set_timesteps(sigmas=list(np.arange(20, 0, -1) / 20))
  grid = grids.make_grid('shifted', diffusion.schedule('flow'), 20, shift=shift)
  np.testing.assert_allclose(grid.s, made.sigmas, rtol=1e-6)
  grid = straight(made.sigmas)
  velocities = [Level(float(a), float(s)) for a, s in zip(*grid, strict=True)][:-1]
  x = tensor(START)
  for t, level in zip(made.timesteps, velocities, strict=True):
    x = made.step(velocity(None, x, level), t, x).prev_sample
  agree(ours('euler', grid, START), x.numpy())


def test_heun_of_a_flow():
  made = diffusers.FlowMatchHeunDiscreteScheduler()
  made.set_timesteps(20)
  sigma = np.asarray(made.sigmas)
  grid = straight(np.concatenate([sigma[:1], sigma[1::2]]))
  x = tensor(START)
  for t, level in zip(made.timesteps, rows(samplers.looked_at('heun', grid)), strict=True):
    x = made.step(velocity(None, x, level), t, x).prev_sample
  agree(ours('heun', grid, START), x.numpy())


def test_repaint():
  """With as many steps as their table has: else they add the noise of wrong steps when they undo some."""
  steps, jump, resamplings = 20, 4, 3
  made = diffusers.RePaintScheduler(
    num_train_timesteps=steps, beta_start=0.01, beta_end=0.4, eta=1.0, clip_sample=False
  )
  made.set_timesteps(steps, jump, resamplings)
  grid = table(made.alphas_cumprod.flip(0))
  rng = np.random.default_rng(1)
  image, known = rng.standard_normal(SHAPE), (rng.random(SHAPE) < 0.5).astype(float)
  noise = generator()
  x, last, drawn, undone = tensor(START), steps, [], []
  for t in made.timesteps.tolist():
    if t < last:
      level = Level(float(grid.a[steps - 1 - t]), float(grid.s[steps - 1 - t]))
      before = noise.get_state()
      drawn.append((undone, torch.randn(SHAPE, generator=torch.Generator().set_state(before), dtype=torch.float64)))
      x = made.step(eps(None, x, level), t, x, tensor(image), tensor(known), generator=noise).prev_sample
      undone = []
    else:
      z = torch.randn(SHAPE, generator=torch.Generator().set_state(noise.get_state()), dtype=torch.float64)
      undone = [*undone, (float(made.betas[last]), z)]
      x = made.undo_step(x, last, generator=noise)
    last = t

  def together(parts):
    """One draw that does what several smaller ones do one after another."""
    total, variance = np.zeros(SHAPE), 0.0
    for beta, z in parts:
      total, variance = np.sqrt(1 - beta) * total + np.sqrt(beta) * z.numpy(), (1 - beta) * variance + beta
    return total / np.sqrt(variance or 1.0)

  z = np.stack([one for parts, step in drawn for one in (together(parts), step.numpy())])
  assert len(drawn) == repaint.evaluations(steps, jump, resamplings)
  found = jax.jit(
    lambda x: repaint.repaint(
      denoise, grid, x, image, 1.0 - known, lambda i: jax.numpy.asarray(z)[i], jump, resamplings
    )
  )(START)
  agree(np.asarray(found), x.numpy())
  np.testing.assert_array_equal(np.asarray(found)[known > 0], image[known > 0])
