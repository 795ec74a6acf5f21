"""Completion of images by a conditional GAN: adversarial and reconstruction loss (arXiv 1604.07379, 1611.07004).

The generator sees an image with hidden pixels, the mask, and a latent; the discriminator the completed image beside the
mask. Known pixels are pasted into what is drawn. There are no samples without an image: the task 'complete' draws a
completion of each example, by a mask of its own if it is given one, which the evaluation protocol measures.

State: params and opt_state {'g', 'd'}, stats {'d'} (spectral vectors); where an average is kept, ema of 'g'.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._views import rows_of
from gen_ai.core import random
from gen_ai.core.method import (
  EXAMPLE,
  LATENT,
  MASK,
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
from gen_ai.core.optim import Pace, Updater, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths import adversarial, masks
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import compute_dtype, discriminate, refresh
from gen_ai.nets.gan import Discriminator
from gen_ai.nets.inpaint import CompletionGenerator
from gen_ai.nets.pyramid import Downsample

KINDS = ('image',)  # of data
LEADING = {
  'l1_hidden': 'min',
  'psnr_hidden_db': 'max',
  'spread_hidden': '',
  'loss_d': '',
  'loss_g': '',
  'pairs_won_d': '',
  'logit_gap': '',
}
PEAK = 2.0  # of x in [-1, 1], for the signal-to-noise ratio
DRAWS = 8  # completions of one hole, whose spread an evaluation tells


def networks(config: ConfigDict, spec: Spec) -> tuple[CompletionGenerator, Discriminator]:
  """(generator: hidden x, mask, z -> x; discriminator: x beside its mask -> scores)."""
  model, dtype = config.model, compute_dtype(config.precision)
  trunk = Downsample(model.width, weight_init='lecun', spectral=model.d_spectral, dtype=dtype)
  return (
    CompletionGenerator(spec.image_shape[2], model.width, model.activation, dtype=dtype),
    Discriminator(trunk, spectral=model.d_spectral, dtype=dtype),
  )


def beside(x: Array, mask: Array) -> Array:
  """What the discriminator sees: [B, H, W, C + 1]."""
  return jnp.concatenate([x, mask], -1)


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The completing GAN of `config`; see `gen_ai.core.method.Method`. View 'completions': hidden, made, original."""
  generator, critic = networks(config, spec)
  loss, optim, latent = config.loss, config.optim, config.model.latent
  updater = Updater(config, {'g': Pace(), 'd': Pace(loss.d_lr_factor)}, average=lambda state: state.params['g'])

  def drawn(params: PyTree, batch: Batch) -> Array:
    """Everything the generator draws, known pixels too."""
    x: Any = generator.apply(
      {'params': params}, masks.hide(to_signed(batch['image']), batch['hole']), batch['hole'], batch['z']
    )
    return x

  def scores(params: PyTree, stats: PyTree, x: Array, mask: Array) -> Array:
    return discriminate(critic, params, stats, beside(x, mask), None, True)[0].logits

  def hidden(batch: Batch, key: Key) -> Batch:
    """The batch with masks and latents by example; masks that it brings along ('hole') stay."""
    if 'hole' in batch:
      hole = batch['hole']
      masks.check(hole, batch['image'].shape)
    else:
      own = random.per_example(random.stream(key, 'mask'), batch['index'])
      hole = masks.draw(config.model.mask, own, spec.image_shape[:2])
    return {
      'image': batch['image'],
      'hole': hole,
      'z': random.normal_per_example(random.stream(key, 'z'), batch['index'], (latent,)),
    }

  def init(key: Key) -> State:
    H, W, C = spec.image_shape
    x, mask, z = jnp.zeros((2, H, W, C)), jnp.zeros((2, H, W, 1)), jnp.zeros((2, latent))
    d = dict(critic.init(random.stream(key, 'discriminator'), beside(x, mask), train=True))
    params = {'g': generator.init(random.stream(key, 'generator'), x, mask, z)['params'], 'd': d.pop('params')}
    return updater.init(params, {'d': d})

  def d_loss(params: PyTree, stats: PyTree, batch: Batch, state: State) -> tuple[Array, Metrics]:
    x, mask = to_signed(batch['image']), batch['hole']
    fake = masks.paste(x, drawn(state.params['g'], batch), mask)
    real_logits, fake_logits = scores(params, stats, x, mask), scores(params, stats, fake, mask)
    value = adversarial.discriminator_loss(loss.kind, real_logits, fake_logits)
    metrics = {
      'loss_d': value,
      'logit_real': real_logits.mean(),
      'logit_fake': fake_logits.mean(),
      'pairs_won_d': adversarial.pairs_won(real_logits, fake_logits).mean(),
    }
    if not is_off(loss.penalty):
      metrics['penalty'] = adversarial.r1_penalty(lambda x: scores(params, stats, x, mask), x)
      value = value + loss.penalty * metrics['penalty']
    return value, metrics

  def g_loss(params: PyTree, stats: PyTree, batch: Batch, state: State) -> tuple[Array, Metrics]:
    x, mask = to_signed(batch['image']), batch['hole']
    whole = drawn(params, batch)
    adversary = adversarial.generator_loss(
      loss.kind, scores(state.params['d'], stats, masks.paste(x, whole, mask), mask)
    )
    # Over known pixels too: a network that cannot copy what it sees has not understood it.
    error = jnp.abs(whole - x)
    metrics = {'loss_g': adversary, 'l1': error.mean(), 'l1_hidden': masks.over_hidden(error, mask).mean()}
    return loss.adversarial * adversary + loss.reconstruction * metrics['l1'], metrics

  def updated(name: str, fn: Callable[..., tuple[Array, Metrics]], state: State, batch: Batch, key: Key):
    """(state after the update of one network, metrics)."""
    stats = state.stats['d']

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      value, metrics = fn(params, stats, batch, state)
      return value, (metrics, stats)

    grads, metrics, _ = gradients(loss_fn, state.params[name], stats, batch, key, optim.accumulate, reduce)
    return updater.update(state, grads, name), {**metrics, f'grad_norm_{name}': optax.tree.norm(grads)}

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    H, W, C = spec.image_shape
    spectra = refresh(critic, state.params['d'], state.stats['d'], (H, W, C + 1))
    state = state._replace(stats={'d': spectra})
    own = hidden(batch, key)
    state, d_metrics = updated('d', d_loss, state, own, random.stream(key, 'd'))
    state, g_metrics = updated('g', g_loss, state, own, random.stream(key, 'g'))
    return updater.advance(state), {**d_metrics, **g_metrics}

  def completed(state: State, batch: Batch) -> Array:
    whole = drawn(updater.eval_params(state), batch)
    return masks.paste(to_signed(batch['image']), whole, batch['hole'])

  def complete(state: State, inputs: Batch, own_keys: Key) -> Batch:
    own = {'image': inputs['image'], 'z': inputs.get('latent', random.normal(random.stream(own_keys, 'z'), (latent,)))}
    hole = inputs.get('mask', masks.draw(config.model.mask, random.stream(own_keys, 'mask'), spec.image_shape[:2]))
    masks.check(hole, inputs['image'].shape)
    return {SAMPLE: completed(state, {**own, 'hole': hole}), 'mask': hole}

  def spread(state: State, own: Batch, batch: Batch, key: Key) -> Array:
    """Standard deviation over completions of one hole, mean over its pixels: [B]; 0: the latent does nothing."""

    def draw(number: Array) -> Array:
      z = random.normal_per_example(random.stream(key, 'spread', number), batch['index'], (latent,))
      return completed(state, {**own, 'z': z})

    return masks.over_hidden(jax.lax.map(draw, jnp.arange(DRAWS)).std(0, ddof=1), own['hole'])

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    own = hidden(batch, key)
    x, output = to_signed(batch['image']), completed(state, own)
    square = masks.over_hidden((output - x) ** 2, own['hole'])
    real, fake = (scores(state.params['d'], state.stats['d'], image, own['hole']) for image in (x, output))
    per_example = {
      'l1_hidden': masks.over_hidden(jnp.abs(output - x), own['hole']),
      # Of each example, then averaged; an error below a hundredth of a level counts as that.
      'psnr_hidden_db': 10.0 / math.log(10.0) * jnp.log(PEAK**2 / jnp.maximum(square, 1e-8)),
      'logit_gap': real - fake,
      'spread_hidden': spread(state, own, batch, key),
    }
    return masked(per_example, batch['mask'])

  def completions(state: State, batch: Batch, key: Key) -> Array:
    own = hidden(batch, key)
    x = to_signed(batch['image'])
    parts = (masks.hide(x, own['hole']), completed(state, own), x)
    return jnp.stack([rows_of(part, spec.shape) for part in parts], axis=1).reshape(-1, *spec.shape)

  mask = Field(MASK, (*spec.image_shape[:2], 1))
  inputs = {'image': Field(EXAMPLE, spec.shape, True), 'mask': mask, 'latent': Field(LATENT, (latent,))}
  tasks = {'complete': Task(complete, inputs, {SAMPLE: Field(EXAMPLE, spec.shape), 'mask': mask})}
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    visualizations={'completions': completions},
    observation=f'completion of masks of kind {config.model.mask}',
    leading=LEADING,
  )
