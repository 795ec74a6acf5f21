"""What families of diffusion and flows share: a network that denoises arrays of any shape, and how it is trained.

`Denoising` knows nothing of images: its x are arrays [B, *shape] around 0, such as pixels in [-1, 1] or latents.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments._views import COLUMNS, interpolate
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  ASKED,
  GUIDE_BY,
  LABEL,
  SAMPLE,
  Array,
  Batch,
  Field,
  Help,
  Key,
  PyTree,
  Reduce,
  State,
  Task,
)
from gen_ai.core.switch import is_off
from gen_ai.maths import diffusion, grids, guidance, latents, ode_likelihood, repaint, samplers
from gen_ai.maths.diffusion import Level, Schedule
from gen_ai.maths.samplers import Denoise
from gen_ai.nets.apply import Module, compute_dtype
from gen_ai.nets.conditioning import LogVariance
from gen_ai.nets.denoiser_mlp import DenoiserMLP
from gen_ai.nets.dit import DiT
from gen_ai.nets.unet import UNet

RECONSTRUCTED = 8  # of as many values of an image training looks at one, to estimate how well all are reconstructed
EVALUATIONS = 'evaluations'  # of a network, for one example, as evaluations record it
MEASURED = 100  # updates whose examples tell the mean and the deviation of the data


def network(config: ConfigDict, shape: tuple[int, ...], classes: int, differentiable_forward: bool = False) -> Module:
  """The network of config.model.network for x [B, *shape]: (x and channels beside it, c, label) -> [B, *shape].

  Args:
    config: of the run.
    shape: of x, of one example.
    classes: whose labels it is told.
    differentiable_forward: whether `jax.jvp` goes through, on every device.
  """
  model, dtype = config.model, compute_dtype(config.precision)
  if model.network == 'dit':
    return DiT(
      shape,
      patch=model.patch,
      width=model.width,
      layers=model.layers,
      heads=model.heads,
      bottleneck=model.bottleneck,
      num_classes=classes,
      dropout=model.dropout,
      remat=model.remat,
      differentiable_forward=differentiable_forward,
      dtype=dtype,
    )
  if model.network == 'unet':
    return UNet(
      shape,
      width=model.width,
      multipliers=tuple(model.multipliers),
      blocks=model.blocks,
      attention=tuple(model.attention),
      num_classes=classes,
      dropout=model.dropout,
      differentiable_forward=differentiable_forward,
      dtype=dtype,
    )
  assert model.network == 'mlp', f'a branch for {model.network}'  # the config knows no other
  return DenoiserMLP(
    shape, width=model.width, blocks=model.blocks, num_classes=classes, dropout=model.dropout, dtype=dtype
  )


class Measured(NamedTuple):
  """Moments of the data, of the examples of the first updates: float32, sums over updates."""

  mean: Array
  square: Array
  updates: Array

  @property
  def deviation(self) -> Array:
    """Standard deviation; 1 where nothing was seen."""
    count = jnp.maximum(self.updates, 1.0)
    variance = self.square / count - (self.mean / count) ** 2
    return jnp.where(self.updates > 0, jnp.sqrt(jnp.maximum(variance, 1e-12)), 1.0)

  @property
  def centre(self) -> Array:
    """Mean; 0 where nothing was seen."""
    return self.mean / jnp.maximum(self.updates, 1.0)

  def seen(self, x: Array, axes: tuple[int, ...], reduce: Reduce) -> 'Measured':
    """With a batch x more, unless MEASURED updates have been seen."""
    mean, square = reduce((x.mean(axes), jnp.square(x).mean(axes)))
    new = Measured(self.mean + mean, self.square + square, self.updates + 1.0)
    return jax.tree.map(lambda n, o: jnp.where(self.updates < MEASURED, n, o), new, self)


def nothing_measured(shape: tuple[int, ...] = ()) -> Measured:
  """Of moments [*shape]."""
  return Measured(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(()))


def classes_of(config: ConfigDict, num_classes: int) -> int:
  """Classes whose labels the network is told, the null class apart; 0: none.

  Raises:
    UserError: labels are asked for, and the data has none.
  """
  if config.model.conditional and num_classes < 2:
    raise UserError(
      f"config.model.conditional=true needs labels, but config.data.name='{config.data.name}' has none: "
      'choose a labelled data set, or config.model.conditional=false.'
    )
  return num_classes if config.model.conditional else 0


def with_dropped(label: Array, classes: int, share: float | Array, key: Key) -> Array:
  """Labels int32 [B], a share of them the null class, number `classes`."""
  if is_off(share):
    return label
  return jnp.where(jax.random.uniform(random.stream(key, 'drop'), label.shape) < share, classes, label)


def check(config: ConfigDict) -> None:
  """Raises UserError for settings together that these families cannot train."""
  model, loss, sample = config.model, config.loss, config.sample
  samplers.check_steps(sample.solver, sample.steps)
  grids.check_steps(diffusion.schedule(model.schedule), sample.steps)
  if why := diffusion.check_pair(model.schedule, model.predicts):
    raise UserError(
      f"config.model.predicts='{model.predicts}' does not go with config.model.schedule='{model.schedule}', which "
      f'{why}: set config.model.predicts=v.'
    )
  if loss.times == 'lognormal' and model.schedule != 'edm':
    raise UserError(
      f"config.loss.times='lognormal' draws sigma of config.model.schedule='edm', not of '{model.schedule}': "
      'set config.loss.times=logit_normal or uniform.'
    )


def evaluations(config: ConfigDict) -> dict[str, int]:
  """{EVALUATIONS: how often a network is applied to draw one example under `config`}."""
  grid, sample = _grid(config), config.sample
  return _counted(samplers.looked_at(sample.solver, grid, churn_of(sample)), sample)


def evaluations_to_edit(config: ConfigDict) -> dict[str, int]:
  """The same to draw one anew from config.sample.strength."""
  grid, sample = _grid(config, config.sample.strength), config.sample
  return _counted(samplers.looked_at(sample.solver, grid, churn_of(sample)), sample)


def evaluations_to_complete(config: ConfigDict) -> dict[str, int]:
  """The same to complete one: RePaint's steps, those that are walked again among them."""
  sample = config.sample
  _, steps = repaint.path(sample.steps, sample.jump, sample.resamplings)
  return _counted(grids.at(_grid(config), steps), sample)


def _grid(config: ConfigDict, start: float = 1.0) -> Level:
  sample, schedule = config.sample, diffusion.schedule(config.model.schedule, config.model.shift)
  return grids.make_grid(sample.grid, schedule, sample.steps, start, sample.shift, sample.rho)


def _counted(seen: Level, sample: ConfigDict) -> dict[str, int]:
  """Calls of the network at these levels [E], guided as `sample` says."""
  guides = [weight for weight in (sample.guidance, sample.autoguidance) if not is_off(weight)]
  if not guides:
    return {EVALUATIONS: int(seen.a.shape[0])}
  return {EVALUATIONS: guidance.evaluations(seen, sample.guidance_low, sample.guidance_high, len(guides))}


def churn_of(sample: ConfigDict) -> samplers.Churn:
  """The noise that `sample` asks to be added between steps."""
  high = math.inf if is_off(sample.churn_high) else sample.churn_high
  return samplers.Churn(sample.churn, sample.churn_low, high, sample.churn_noise)


# What a run is to another that it guides: labels int32 [B], or None of an unconditional model -> its denoiser.
Guide = Callable[[Array | None], Denoise]
# What both must have the same: what a level is, what x is, and what labels are.
ALIKE = ('experiment', 'examples', 'model.schedule', 'model.conditional')
NO_GUIDE = (
  'config.sample.autoguidance guides samples by another run of the same kind: name it when the trained run is used, '
  '--guide=RUN_DIR or RUN_DIR@STEP, in Python run.guided_by(other), or set config.sample.autoguidance=0.0.'
)


class Denoising:
  """A network that says what lies behind noise.

  Args:
    config: of the run.
    shape: of x, of one example.
    num_classes: of the data.
    fourier: powers n of sin and cos(2^n pi x), which the network sees beside x.
    clip: whether what lies behind noise is known to be in [-1, 1], when examples are drawn.
  """

  def __init__(
    self,
    config: ConfigDict,
    shape: tuple[int, ...],
    num_classes: int,
    fourier: tuple[int, ...] = (),
    clip: bool = False,
  ):
    check(config)
    self._model, self._loss, self._sample = config.model, config.loss, config.sample
    self.shape, self.dims = shape, math.prod(shape)
    self._fourier, self._clip = fourier, clip
    self.classes = classes_of(config, num_classes)
    self.bound = config.model.schedule == 'vdm'  # whether the loss is a bound of the likelihood
    self.net = network(config, shape, self.classes)
    self._variance = LogVariance() if not self.bound and config.loss.learned_variance else None

  def init(self, key: Key) -> PyTree:
    """Parameters."""
    x, c = jnp.zeros((2, *self.shape)), jnp.zeros((2,))
    label = jnp.zeros((2,), jnp.int32) if self.classes else None
    params = {'net': self.net.init(random.stream(key, 'net'), self._beside(x), c, label)['params']}
    if self._variance:
      params['variance'] = self._variance.init(random.stream(key, 'variance'), c)['params']
    if self.bound:
      params['ends'] = {'first': jnp.float32(diffusion.GAMMA_MIN), 'last': jnp.float32(diffusion.GAMMA_MAX)}
    return params

  def schedule(self, params: PyTree) -> Schedule:
    """The noise levels, of VDM by its learned ends."""
    name = self._model.schedule
    if self.bound:
      return diffusion.schedule(name, ends=(params['ends']['first'], params['ends']['last']))
    return diffusion.schedule(name, self._model.shift if name == 'flow' else 1.0)

  def _beside(self, x: Array) -> Array:
    """x and, in channels behind it, sines and cosines that tell its lowest bits (arXiv 2107.00630, appendix C)."""
    angles = [2.0**power * math.pi * x for power in self._fourier]
    return jnp.concatenate([x, *(wave(a) for a in angles for wave in (jnp.sin, jnp.cos))], -1)

  def said(
    self, params: PyTree, x: Array, level: Level, label: Array | None, sd: Array, key: Key | None = None
  ) -> Array:
    """What the network says of x [B, *shape] at levels [B]; it sees x at a deviation of 1.

    Args:
      params: of the network.
      x: with noise.
      level: of each example.
      label: int32 [B], of a conditional model.
      sd: deviation of the data.
      key: of dropout in training; None: there is no dropout.
    """
    level = Level(*(jnp.broadcast_to(v, x.shape[:1]) for v in level))
    scaled = jnp.reshape(diffusion.input_scale(level, sd), (-1,) + (1,) * len(self.shape)) * x
    inputs = jnp.concatenate([scaled, self._beside(x)[..., x.shape[-1] :]], -1) if self._fourier else scaled
    c = self.schedule(params).condition(level)
    rngs = None if key is None else {'dropout': key}
    out: Any = self.net.apply({'params': params['net']}, inputs, c, label, train=key is not None, rngs=rngs)
    return out

  # --- training ---

  def draws(self, x: Array, label: Array | None, key: Key) -> dict[str, Array]:
    """What one update is computed from: rows {'x', 'eps', 'u', 'label'}."""
    B = x.shape[0]
    first = jax.random.uniform(random.stream(key, 'times'))
    rows = {'x': x, 'eps': jax.random.normal(random.stream(key, 'eps'), x.shape), 'u': diffusion.quantiles(first, B)}
    if self.classes:
      assert label is not None
      rows['label'] = with_dropped(label, self.classes, self._loss.drop_label, key)
    if self.bound:
      # Of 256 levels a value: it would take as long as the network. What is learned by it is one end of the noise.
      count = max(self.dims // RECONSTRUCTED, 1)
      first = jax.random.randint(random.stream(key, 'reconstructed'), (B, 1), 0, self.dims)
      places = (first + RECONSTRUCTED * jnp.arange(count)) % self.dims
      rows['clean'] = jnp.take_along_axis(x.reshape(B, -1), places, 1)
      rows['eps_clean'] = jax.random.normal(random.stream(key, 'eps_clean'), (B, count))
    return rows

  def draws_by_example(self, x: Array, label: Array | None, keys: Key, index: Array, key: Key) -> dict[str, Array]:
    """The same for an evaluation: by keys [B] of the examples, and times evenly apart by their numbers int32 [B]."""
    first = jax.random.uniform(random.stream(key, 'times'))
    u = diffusion.quantiles_by_number(first, index)
    rows = {'x': x, 'eps': random.normal(random.stream(keys, 'eps'), self.shape), 'u': u}
    rows |= {'label': label} if self.classes and label is not None else {}
    if self.bound:
      rows['clean'] = x.reshape(x.shape[0], -1)
      rows['eps_clean'] = random.normal(random.stream(keys, 'eps_clean'), (self.dims,))
    return rows

  def losses(self, params: PyTree, rows: Batch, sd: Array, key: Key | None = None) -> dict[str, Array]:
    """{'loss', and its parts}, float32 [B] each, of rows as `draws` makes them; `key` as `said` has it."""
    return self._bound(params, rows, sd, key) if self.bound else self._square(params, rows, sd, key)

  def _error(self, space: str, params: PyTree, rows: Batch, level: Level, sd: Array, key: Key | None) -> Array:
    """Mean square error in `space` of what the network says of noised rows at levels [B]; float32 [B]."""
    predicts = self._model.predicts
    out = self.said(params, level.noised(rows['x'], rows['eps']), level, rows.get('label'), sd, key)
    error = diffusion.mean_square(out - diffusion.said(predicts, rows['x'], rows['eps'], level, sd))
    if space == predicts:
      return error
    # The bound is exact, and is of eps alone.
    floor = 0.0 if self.bound else diffusion.MIN_S
    own, other = (diffusion.slope(kind, level, sd, floor) for kind in (predicts, space))
    return error * jnp.square(other / own)

  def _square(self, params: PyTree, rows: Batch, sd: Array, key: Key | None) -> dict[str, Array]:
    loss, schedule = self._loss, self.schedule(params)
    level = diffusion.drawn_level(loss.times, schedule, rows['u'], loss.times_mean, loss.times_deviation)
    squared = self._error(loss.space, params, rows, level, sd, key)
    squared *= diffusion.weight(loss.weight, loss.space, level, sd, loss.snr_gamma, diffusion.MIN_S)
    if not self._variance:
      return {'loss': squared}
    u: Any = self._variance.apply({'params': params['variance']}, schedule.condition(level))
    return {'loss': squared / jnp.exp(u) + u, 'loss_square': squared}

  def _bound(self, params: PyTree, rows: Batch, sd: Array, key: Key | None) -> dict[str, Array]:
    """The bound of log p(x) of pixels in nats, and its parts (arXiv 2107.00630, section 3)."""
    schedule, x, steps = self.schedule(params), rows['x'], self._loss.steps
    first, last = params['ends']['first'], params['ends']['last']
    t = jnp.ceil(rows['u'] * steps) / steps if steps else rows['u']
    level = schedule.level(t)
    error = self._error('eps', params, rows, level, sd, key) * self.dims
    rate = last - first
    diffused = diffusion.discrete_nats(error, rate / steps, steps) if steps else diffusion.continuous_nats(error, rate)
    prior = diffusion.prior_nats(x, schedule.level(jnp.ones(x.shape[:1])))
    clean = schedule.level(jnp.zeros(x.shape[:1]))
    reconstruction = diffusion.level_log_probs(rows['eps_clean'], clean, rows['clean'])
    reconstruction *= self.dims / rows['clean'].shape[1]
    nats = diffused + prior - reconstruction
    return {
      'loss': nats / (self.dims * math.log(2.0)),
      'elbo_nats': -nats,
      'reconstruction_nats': reconstruction,
      'diffusion_nats': diffused,
      'prior_nats': prior,
    }

  # --- sampling ---

  def behind(self, params: PyTree, label: Array | None, sd: Array) -> Denoise:
    """What the network says lies behind noise, of any values, by labels int32 [B]."""

    def denoise(x: Array, level: Level) -> Array:
      return diffusion.to_x(self._model.predicts, self.said(params, x, level, label, sd), x, level, sd)

    return denoise

  def _clipped(self, denoise: Denoise) -> Denoise:
    return samplers.clipped(denoise) if self._clip else denoise

  def denoiser(self, params: PyTree, label: Array | None, sd: Array) -> Denoise:
    """The same without values that x cannot have; without guidance."""
    return self._clipped(self.behind(params, label, sd))

  def errors(self, params: PyTree, x: Array, log_snr: Array, label: Array | None, sd: Array, keys: Key) -> Batch:
    """{'mse': mean square errors of x0, 'trained': whether the schedule has the level, 1 or 0}, float32 [B, L].

    At the levels of log_snr [B, L], each with noise of its own.
    """
    denoise, schedule = self.denoiser(params, label, sd), self.schedule(params)
    least, most = grids.ends(schedule)

    def of_level(number: Array, log_snr: Array) -> Array:
      level = diffusion.of_log_snr(log_snr, schedule.exploding)
      eps = random.normal(random.stream(keys, 'denoise', number), self.shape)
      return diffusion.mean_square(denoise(level.noised(x, eps), level) - x)

    over = jnp.arange(log_snr.shape[1]), log_snr.T
    within = (most.log_snr <= log_snr) & (log_snr <= least.log_snr)
    return {'mse': jax.lax.map(lambda one: of_level(*one), over).T, 'trained': within.astype(jnp.float32)}

  def unguided(self, params: PyTree, label: Array | None, sd: Array) -> 'Sampler':
    """The model as it is, which has a likelihood; arguments as `sampler` has them."""
    return Sampler(self.denoiser(params, label, sd), self.schedule(params), self._sample, self.shape)

  def sampler(self, params: PyTree, label: Array | None, sd: Array, guide: Guide | None = None) -> 'Sampler':
    """What draws as config.sample asks.

    Args:
      params: of the network.
      label: int32 [B], of a conditional model.
      sd: deviation of the data.
      guide: another run, which is asked with the same labels.

    Raises:
      UserError: config.sample.autoguidance asks for a guide, and there is none.
    """
    sample, denoise = self._sample, self.behind(params, label, sd)
    within = sample.guidance_low, sample.guidance_high
    if not is_off(sample.guidance):
      assert label is not None  # guidance is a field of conditional models
      without = self.behind(params, jnp.full_like(label, self.classes), sd)
      denoise = guidance.guided(denoise, without, 1.0 + sample.guidance, *within)
    if not is_off(sample.autoguidance):
      if guide is None:
        raise UserError(NO_GUIDE)
      denoise = guidance.guided(denoise, guide(label), 1.0 + sample.autoguidance, *within)
    return Sampler(self._clipped(denoise), self.schedule(params), sample, self.shape)

  def check_latent(self, inputs: Mapping[str, Any]) -> str:
    """What a person should know who gives the noise 'latent' that a sample begins with; '' for nothing."""
    sample = self._sample
    amounts = {'ddim': sample.eta, 'euler': sample.churn, 'heun': sample.churn, 'sde': sample.diffusion}
    draws = sample.solver in samplers.ANCESTRAL or not is_off(amounts.get(sample.solver, 0.0))
    if 'latent' not in inputs or not draws:
      return ''
    return (
      f"config.sample.solver='{sample.solver}' draws noise on the way: another seed makes another sample of a latent, "
      'and none is the image that it was found for; config.sample.solver=dpmpp_2m draws none'
    )

  def help(
    self, offers: Callable[[State], Guide], taken: Callable[[Guide], Task], alike: tuple[str, ...]
  ) -> dict[str, Help]:
    """`Task.helps` of a task that draws; arguments as `Help` has them, `alike` beyond `ALIKE`."""
    if is_off(self._sample.autoguidance):
      return {GUIDE_BY: Help(offers, taken, ALIKE + alike, idle='config.sample.autoguidance=0.0')}
    return {GUIDE_BY: Help(offers, taken, ALIKE + alike, missing=NO_GUIDE)}


class Sampler:
  """Draws by a denoiser.

  Args:
    denoise: guided, if it is to be.
    schedule: of its noise levels.
    sample: config.sample.
    shape: of one example.
  """

  def __init__(self, denoise: Denoise, schedule: Schedule, sample: ConfigDict, shape: tuple[int, ...]):
    self._denoise, self._schedule, self._sample, self._shape = denoise, schedule, sample, shape

  def _grid(self, start: float | Array = 1.0) -> Level:
    sample = self._sample
    return grids.make_grid(sample.grid, self._schedule, sample.steps, start, sample.shift, sample.rho)

  def _run(self, x: Array, grid: Level, keys: Key) -> Array:
    sample = self._sample
    return samplers.sample(
      sample.solver,
      self._denoise,
      grid,
      x,
      samplers.addressed(keys, self._shape),
      eta=sample.eta,
      churn=churn_of(sample),
      diffusion=lambda t: sample.diffusion * t,
    )

  def generate(self, noise: Array, keys: Key) -> Array:
    """x [B, *shape] of standard normal noise; what is drawn on the way is by keys [B]."""
    return self._run(grids.first_deviation(self._schedule) * noise, self._grid(), keys)

  def edit(self, x: Array, keys: Key) -> Array:
    """x [B, *shape] with as much noise as config.sample.strength asks for, denoised anew (arXiv 2108.01073)."""
    grid = self._grid(self._sample.strength)
    noise = random.normal(random.stream(keys, 'edit'), self._shape)
    return self._run(grids.at(grid, 0).noised(x, noise), grid, keys)

  def encode(self, x: Array) -> Array:
    """The standard normal noise from which a sampler without noise of its own leads to x."""
    return samplers.invert(self._denoise, self._grid(), x) / grids.first_deviation(self._schedule)

  def complete(self, x: Array, hidden: Array, keys: Key) -> Array:
    """x [B, *shape] with what is hidden drawn anew, by RePaint; known values stay exactly as they are."""
    sample, grid = self._sample, self._grid()
    noise = random.normal(random.stream(keys, 'latent'), self._shape)
    return repaint.repaint(
      self._denoise,
      grid,
      grids.first_deviation(self._schedule) * noise,
      x,
      hidden,
      samplers.addressed(keys, self._shape),
      sample.jump,
      sample.resamplings,
    )

  def log_prob(self, x: Array, probes: int, keys: Key) -> tuple[Array, Array]:
    """(log-density of x [B, *shape] in nats by the probability-flow ODE, its standard error over probes), [B] each."""
    signs = ode_likelihood.rademacher(random.stream(keys, 'probes'), probes, self._shape)
    # Even in log SNR, and down to little noise, wherever samplers step: all of it adds to the likelihood.
    grid = grids.make_grid('log_snr', self._schedule, self._sample.ode_steps)
    deviation = grids.first_deviation(self._schedule)
    return ode_likelihood.mean_and_error(ode_likelihood.log_prob(self._denoise, grid, x, signs, deviation))


class FromNoise:
  """Examples drawn from noise, of classes if there are any: the task `generate`, and what other tasks share with it.

  Args:
    shape: of the noise of one example.
    classes: whose labels the network is told; 0: none.
    draw: (state, labels int32 [B] or None, standard normal noise [B, *shape], keys [B]) -> examples.
  """

  def __init__(
    self,
    shape: tuple[int, ...],
    classes: int,
    draw: Callable[[State, Array | None, Array, Key], Array],
  ):
    self.shape, self.classes, self._draw = shape, classes, draw

  @property
  def label(self) -> dict[str, Field]:
    """Inputs that tasks of a conditional model take besides their own."""
    return {'label': Field(LABEL)} if self.classes else {}

  def given(self, batch: Batch) -> Batch:
    """What a task that reads images is given of a batch."""
    return {name: batch[name] for name in ('image', *self.label)}

  def labels(self, inputs: Batch, keys: Key) -> Array | None:
    """The labels that a call asks for, or drawn ones, of a conditional model."""
    return inputs.get('label', random.labels(keys, self.classes)) if self.classes else None

  def told(self, inputs: Batch, keys: Key) -> Array | None:
    """The labels that a call tells of its images, or the null class, of a conditional model."""
    nothing = jnp.full(keys.shape, self.classes, jnp.int32)
    return inputs.get('label', nothing) if self.classes else None

  def outputs(self, images: Array, label: Array | None) -> Batch:
    """What a task that draws returns."""
    return {SAMPLE: images} if label is None else {SAMPLE: images, ASKED: label}

  def generated(self, state: State, inputs: Batch, keys: Key) -> Batch:
    """The task `generate`: of labels, and of standard normal noise 'latent' [B, *shape]."""
    label = self.labels(inputs, keys)
    noise = inputs.get('latent', random.normal(random.stream(keys, 'latent'), self.shape))
    return self.outputs(self._draw(state, label, noise, keys), label)

  def by_class(self, state: State, batch: Batch, key: Key) -> Array:
    """The picture of a conditional model that has a row a class, by the same noise."""
    classes, keys = self.classes, jax.random.split(random.stream(key, 'classes'), COLUMNS)
    label = jnp.repeat(jnp.arange(classes), COLUMNS)
    images: Array = self.generated(state, {'label': label}, jnp.tile(keys, classes))[SAMPLE]
    return images


class Drawing(FromNoise):
  """Examples drawn by a `Sampler`, and tasks that another run may guide.

  Args:
    model: of the arrays x [B, *shape] that are drawn.
    parts: state -> (parameters of the network, deviation of the data).
    shown: (state, x) -> the images that they stand for, in [-1, 1].
    alike: what a guide must have the same beyond what any must, see `Help`.
    guide: another run, from whose x samples are moved away; None: none.
  """

  def __init__(
    self,
    model: Denoising,
    parts: Callable[[State], tuple[PyTree, Array]],
    shown: Callable[[State, Array], Array] = lambda state, x: x,
    alike: tuple[str, ...] = (),
    guide: Guide | None = None,
  ):
    super().__init__(model.shape, model.classes, self._drawn)
    self._model, self._parts, self._shown, self._alike, self._guide = model, parts, shown, alike, guide

  def _drawn(self, state: State, label: Array | None, noise: Array, keys: Key) -> Array:
    return self._shown(state, self.sampler(state, label).generate(noise, keys))

  def sampler(self, state: State, label: Array | None) -> Sampler:
    """What draws, by labels int32 [B] of a conditional model."""
    params, sd = self._parts(state)
    return self._model.sampler(params, label, sd, self._guide)

  def task(
    self,
    run: Callable[['Drawing', State, Batch, Key], Batch],
    inputs: Mapping[str, Field],
    outputs: Mapping[str, Field],
    facts: Callable[[ConfigDict], Mapping[str, Any]] = lambda config: {},
  ) -> Task:
    """A task that draws by the `sampler` of the drawing that `run` is given, and may be guided by another run."""

    def guide(state: State) -> Guide:
      params, sd = self._parts(state)
      return lambda label: self._model.behind(params, label, sd)

    def guided(guide: Guide) -> Task:
      return Drawing(self._model, self._parts, self._shown, self._alike, guide).task(run, inputs, outputs, facts)

    helps = {} if self._guide else self._model.help(guide, guided, self._alike)
    check = self._model.check_latent
    return Task(functools.partial(run, self), inputs, outputs, helps=helps, facts=facts, check=check)

  def interpolations(self, state: State, batch: Batch, noise: Array, key: Key) -> Array:
    """The picture of paths between the noises [B, *shape] that lead to the examples of a batch."""
    path = interpolate(latents.slerp, noise.reshape(noise.shape[0], -1))
    rows = path.shape[0]
    label = jnp.repeat(batch['label'][jnp.arange(rows) % noise.shape[0]], COLUMNS) if self.classes else None
    keys = jax.random.split(random.stream(key, 'interpolations'), rows * COLUMNS)
    return self._drawn(state, label, path.reshape(-1, *self.shape), keys)
