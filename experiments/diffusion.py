"""Diffusion and flow matching on images: DDPM, VDM, EDM, rectified flow and what lies between, by their config.

Noise is added as config.model.schedule says, the network says config.model.predicts of it, and the loss is a mean
square error in config.loss.space, times config.loss.weight; see `gen_ai.maths.diffusion`. With the schedule 'vdm' the
loss is the variational bound of log p(x) on 256 levels, and the ends of the schedule are learned (arXiv 2107.00630).
Solver, steps, grid and guidance are settings of sampling: they change after training.

State: params {'net'} and, where the config asks for them, {'variance'} (a loss for each level) and {'ends'} (of
'vdm'); stats are the moments of the pixels, measured in the first updates, whose deviation preconditions the network.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._denoising import (
  Denoising,
  Drawing,
  evaluations,
  evaluations_to_complete,
  evaluations_to_edit,
  nothing_measured,
)
from experiments._views import COLUMNS, rows_of
from gen_ai.core import random
from gen_ai.core.method import (
  ASKED,
  CLASSES,
  EXAMPLE,
  GENERATE,
  LABEL,
  LATENT,
  MASK,
  NUMBER,
  SAMPLE,
  Array,
  Batch,
  Field,
  Key,
  Method,
  Metrics,
  PyTree,
  Reduce,
  Spec,
  State,
  SumCount,
  Task,
  identity,
)
from gen_ai.core.optim import Updater, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths import densities, diffusion, masks
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.transformer import MATRICES, SHARDING

OWN = {r'log_variance/kernel': ('', ''), r'log_variance/bias': ('',)}  # how parameters lie over a mesh
KINDS = ('image',)  # of data
OBSERVATIONS = {True: 'variational bound, 256 levels as they are', False: ''}
MASKS = 'box'  # of the task 'complete' where a call gives none
LOG_PROB = ('log_prob_nats', 'probe_error_nats')
DEQUANTISED = '256 levels, dequantised by uniform noise'  # what the likelihood of the ODE is of, a bound on average
PIXELS = 'pixels in [-1, 1]'  # what an error of denoising is of
LEADING = {'loss': 'min', 'spread': ''}
BOUND = {'nll_bpd': 'min', 'elbo_nats': 'max', 'spread': ''}  # of 'vdm'


def of_denoised(config: ConfigDict) -> Mapping[str, Any]:
  """What an error of denoising is of under `config`; not the variational bound of 'vdm'."""
  return {'observation': PIXELS, 'clip': config.sample.clip}


def of_log_prob(config: ConfigDict) -> Mapping[str, Any]:
  """What a likelihood by the ODE is of under `config`."""
  sample = config.sample
  return {'observation': DEQUANTISED, **{name: sample[name] for name in ('ode_steps', 'probes', 'clip')}}


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The model of `config`; see `gen_ai.core.method.Method`.

  Pictures: 'denoised', images, the same with noise, and what the network says lies behind; 'interpolations' between the
  noises of two images; 'classes' of a conditional model, a row a class by the same noise.
  """
  model = Denoising(config, spec.image_shape, spec.num_classes, tuple(config.model.fourier), config.sample.clip)
  measures = is_off(config.model.data_std)
  updater = Updater(config, matrices=MATRICES)
  axes = (0, 1, 2, 3)

  def deviation(state: State) -> Array:
    return state.stats.deviation if measures else jnp.float32(config.model.data_std)

  def init(key: Key) -> State:
    return updater.init(model.init(key), nothing_measured() if measures else ())

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    x = to_signed(batch['image'])
    if measures:
      state = state._replace(stats=state.stats.seen(x, axes, reduce))
    sd = deviation(state)
    rows = model.draws(x, batch.get('label'), key)

    def loss_fn(params: PyTree, stats: PyTree, rows: Batch, key: Key):
      found = {
        name: value.mean() for name, value in model.losses(params, rows, sd, random.stream(key, 'dropout')).items()
      }
      return found['loss'], (found, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), rows, key, config.optim.accumulate, reduce)
    metrics = {**metrics, 'grad_norm': optax.tree.norm(grads)}
    return updater.advance(updater.update(state, grads)), metrics

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    keys = random.per_example(key, batch['index'])
    rows = model.draws_by_example(to_signed(batch['image']), batch.get('label'), keys, batch['index'], key)
    found = model.losses(updater.eval_params(state), rows, deviation(state))
    if model.bound:
      found = {**found, 'nll_bpd': densities.nats_to_bpd(-found['elbo_nats'], model.dims)}
    return masked(found, batch['mask'])

  drawing = Drawing(model, lambda state: (updater.eval_params(state), deviation(state)))

  def completed(drawing: Drawing, state: State, inputs: Batch, own_keys: Key) -> Batch:
    label, x = drawing.labels(inputs, own_keys), to_signed(inputs['image'])
    hole = inputs.get('mask', masks.draw(MASKS, random.stream(own_keys, 'mask'), spec.image_shape[:2]))
    masks.check(hole, x.shape)
    return {**drawing.outputs(drawing.sampler(state, label).complete(x, hole, own_keys), label), 'mask': hole}

  def edited(drawing: Drawing, state: State, inputs: Batch, own_keys: Key) -> Batch:
    label = drawing.labels(inputs, own_keys)
    return drawing.outputs(drawing.sampler(state, label).edit(to_signed(inputs['image']), own_keys), label)

  def encoded(drawing: Drawing, state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {'latent': drawing.sampler(state, drawing.told(inputs, own_keys)).encode(to_signed(inputs['image']))}

  def denoised(state: State, inputs: Batch, own_keys: Key) -> Batch:
    x, params, label = to_signed(inputs['image']), updater.eval_params(state), drawing.told(inputs, own_keys)
    return model.errors(params, x, inputs['log_snr'], label, deviation(state), own_keys)

  def log_prob(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """A lower bound, on average, of the log-probability of 256 levels: of dequantised pixels, see `densities`."""
    x = densities.dequantise(random.stream(own_keys, 'dequantise'), to_signed(inputs['image']))
    plain = model.unguided(updater.eval_params(state), drawing.told(inputs, own_keys), deviation(state))
    mean, error = plain.log_prob(x, config.sample.probes, own_keys)
    return dict(zip(LOG_PROB, (densities.density_to_level_log_prob(mean, model.dims), error), strict=True))

  def pictured(state: State, batch: Batch, key: Key) -> Array:
    """Rows of images, of the same with noise, and of what lies behind, from much noise to little."""
    x = rows_of(to_signed(batch['image']), spec.shape)[0]
    label = batch['label'][jnp.arange(COLUMNS) % batch['label'].shape[0]] if model.classes else None
    params, sd = updater.eval_params(state), deviation(state)
    level = diffusion.of_log_snr(jnp.linspace(-6.0, 6.0, COLUMNS), model.schedule(params).exploding)
    noisy = level.noised(x, jax.random.normal(random.stream(key, 'denoised'), x.shape))
    behind = model.denoiser(params, label, sd)(noisy, level)
    scale = level.over(noisy)
    return jnp.concatenate([x, jnp.clip(noisy / (scale.a + scale.s), -1.0, 1.0), behind])

  def interpolations(state: State, batch: Batch, key: Key) -> Array:
    keys = jax.random.split(random.stream(key, 'images'), batch['index'].shape[0])
    return drawing.interpolations(state, batch, encoded(drawing, state, drawing.given(batch), keys)['latent'], key)

  visualizations = {'denoised': pictured}
  if config.sample.steps > 1:  # what finds the noise of an image takes two
    visualizations['interpolations'] = interpolations
  if model.classes:
    visualizations[CLASSES] = drawing.by_class
  label = drawing.label
  image, drawn = {'image': Field(EXAMPLE, spec.shape, True)}, {SAMPLE: Field(EXAMPLE, spec.shape)}
  drawn |= {ASKED: Field(LABEL)} if model.classes else {}
  mask = Field(MASK, (*spec.image_shape[:2], 1))
  errors = {name: Field(NUMBER, (None,)) for name in ('mse', 'trained')}
  latent, levels = Field(LATENT, spec.shape), Field(NUMBER, (None,), True)
  tasks = {
    GENERATE: drawing.task(Drawing.generated, {'latent': latent, **label}, drawn, evaluations),
    'complete': drawing.task(
      completed, {**image, 'mask': mask, **label}, {**drawn, 'mask': mask}, evaluations_to_complete
    ),
    'edit': drawing.task(edited, {**image, **label}, drawn, evaluations_to_edit),
    'encode': drawing.task(encoded, {**image, **label}, {'latent': latent}),
    'denoise': Task(denoised, {**image, 'log_snr': levels, **label}, errors, facts=of_denoised),
    'log_prob': Task(log_prob, {**image, **label}, {name: Field(NUMBER) for name in LOG_PROB}, facts=of_log_prob),
  }
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    visualizations=visualizations,
    observation=OBSERVATIONS[model.bound],
    leading=BOUND if model.bound else LEADING,
    bounds=('nll_bpd',) if model.bound else (),
    sharding=SHARDING | OWN if config.model.network == 'dit' else {},
  )
