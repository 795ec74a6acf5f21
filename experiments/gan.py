"""Generative adversarial networks on images: n_critic discriminator updates, then one generator update, a step.

Losses and constraints are in `gen_ai.maths.adversarial`. State: params {'g', 'd'}, opt_state {'g', 'd'}, stats
{'g', 'd'} (batch-norm averages) and, with config.optim.ema_decay, ema {'params', 'stats'} of the generator:
averaged weights need averages of the moments that belong to them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from gen_ai import keys
from gen_ai.errors import UserError
from gen_ai.maths import adversarial
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.switch import is_off
from gen_ai.nets.dcgan import DCGANDiscriminator, DCGANGenerator
from gen_ai.nets.mlp import MLPDiscriminator, MLPGenerator
from gen_ai.optim import ema_update, gradients, optimiser, split_batch
from gen_ai.types import (
  Array,
  Batch,
  Key,
  Method,
  Metrics,
  PyTree,
  Reduce,
  Spec,
  State,
  SumCount,
  compute_dtype,
  identity,
)

CONSTRAINTS = ('none', 'clip', 'gradient_penalty', 'r1')


class Networks(NamedTuple):
  """The two players."""

  generator: nn.Module  # (z [B, Z], train) -> x [B, H, W, C]
  discriminator: nn.Module  # (x, train) -> logits [B]


def networks(config: ConfigDict, spec: Spec, reduce: Reduce) -> Networks:
  """The networks that config.model describes. Raises UserError for an unknown one or an image size it cannot take."""
  model, dtype = config.model, compute_dtype(config.precision)
  if model.network == 'mlp':
    return Networks(
      MLPGenerator(spec.image_shape, model.g_widths, activation=model.g_activation, dtype=dtype),
      MLPDiscriminator(model.d_widths, activation=model.d_activation, dtype=dtype),
    )
  if model.network == 'dcgan':
    shared = {'weight_init': model.weight_init, 'reduce': reduce, 'dtype': dtype}
    return Networks(
      DCGANGenerator(spec.image_shape, model.width, norm=model.g_norm, activation=model.g_activation, **shared),
      DCGANDiscriminator(model.width, norm=model.d_norm, activation=model.d_activation, **shared),
    )
  raise UserError(f"config.model.network='{model.network}' is none of mlp, dcgan.")


def forward(net: nn.Module, params: PyTree, stats: PyTree, x: Array, train: bool) -> tuple[Array, PyTree]:
  """(output, new stats) of a network; without `train` the stats are used and stay as they are."""
  out, changed = net.apply({'params': params, **stats}, x, train, mutable=list(stats) if train else [])
  return out, {**stats, **changed}


class Updates(NamedTuple):
  """The two halves of a training step, each (state, batch, key) -> (state, metrics)."""

  discriminator: Callable[[State, Batch, Key], tuple[State, Metrics]]
  generator: Callable[[State, Batch, Key], tuple[State, Metrics]]


def updates(config: ConfigDict, nets: Networks, reduce: Reduce) -> Updates:
  """The discriminator's update on a batch {'image', 'z', 'eps'} and the generator's on {'z'}."""
  loss, optim = config.loss, config.optim
  g_rule = optimiser(optim, config.run.steps)
  d_rule = optimiser(optim, config.run.steps, loss.d_lr_factor, loss.n_critic)

  def penalty(params: PyTree, stats: PyTree, real: Array, fake: Array, eps: Array) -> Array:
    def critic(x: Array) -> Array:
      return forward(nets.discriminator, params, stats, x, True)[0]

    if loss.constraint == 'gradient_penalty':
      return adversarial.gradient_penalty(critic, real, fake, eps)
    return adversarial.r1_penalty(critic, real)

  def d_update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      real = to_signed(batch['image'])
      fake, _ = forward(nets.generator, state.params['g'], state.stats['g'], batch['z'], True)
      real_logits, stats = forward(nets.discriminator, params, stats, real, True)
      fake_logits, stats = forward(nets.discriminator, params, stats, fake, True)
      adversary = adversarial.discriminator_loss(loss.kind, real_logits, fake_logits)
      metrics = {'loss_d': adversary, 'logit_real': real_logits.mean(), 'logit_fake': fake_logits.mean()}
      total = adversary
      if loss.constraint in ('gradient_penalty', 'r1') and not is_off(loss.penalty):
        metrics['penalty'] = penalty(params, stats, real, fake, batch['eps'])
        total = total + loss.penalty * metrics['penalty']
      return total, (metrics, stats)

    grads, metrics, stats = gradients(
      loss_fn, state.params['d'], state.stats['d'], batch, key, optim.accumulate, reduce
    )  # fmt: skip
    change, opt_state = d_rule.update(grads, state.opt_state['d'], state.params['d'])
    params = jax.tree.map(jnp.add, state.params['d'], change)
    if loss.constraint == 'clip':
      params = adversarial.clip_weights(params, loss.clip)
    return state._replace(
      params={**state.params, 'd': params}, opt_state={**state.opt_state, 'd': opt_state},
      stats={**state.stats, 'd': stats},
    ), metrics  # fmt: skip

  def g_update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      fake, stats = forward(nets.generator, params, stats, batch['z'], True)
      logits, _ = forward(nets.discriminator, state.params['d'], state.stats['d'], fake, True)
      value = adversarial.generator_loss(loss.kind, logits)
      return value, ({'loss_g': value}, stats)

    grads, metrics, stats = gradients(
      loss_fn, state.params['g'], state.stats['g'], batch, key, optim.accumulate, reduce
    )  # fmt: skip
    change, opt_state = g_rule.update(grads, state.opt_state['g'], state.params['g'])
    params = jax.tree.map(jnp.add, state.params['g'], change)
    return state._replace(
      params={**state.params, 'g': params}, opt_state={**state.opt_state, 'g': opt_state},
      stats={**state.stats, 'g': stats},
    ), metrics  # fmt: skip

  return Updates(d_update, g_update)


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for a loss, a constraint or data that this family does not know."""
  if spec.kind != 'image':
    raise UserError(f"experiment 'gan' draws images, but config.data.name='{config.data.name}' is text.")
  if config.loss.kind not in adversarial.KINDS:
    raise UserError(f"config.loss.kind='{config.loss.kind}' is none of {', '.join(adversarial.KINDS)}.")
  if config.loss.constraint not in CONSTRAINTS:
    raise UserError(f"config.loss.constraint='{config.loss.constraint}' is none of {', '.join(CONSTRAINTS)}.")
  if config.loss.constraint in ('gradient_penalty', 'r1') and config.model.d_norm == 'batch':
    raise UserError(f"config.loss.constraint='{config.loss.constraint}' is defined example by example, but "
                    "config.model.d_norm='batch' couples the examples of a batch: use 'group' or 'none'.")  # fmt: skip
  if config.loss.n_critic < 1:
    raise UserError(f'config.loss.n_critic={config.loss.n_critic} must be at least 1.')


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The GAN of `config`; see `gen_ai.types.Method`."""
  check(config, spec)
  nets = networks(config, spec, reduce)
  update = updates(config, nets, reduce)
  n_critic, latent = config.loss.n_critic, config.model.latent
  averaged = not is_off(config.optim.ema_decay)

  def init(key: Key) -> State:
    z = jnp.zeros((2, latent))
    g = dict(nets.generator.init(keys.stream(key, 'generator'), z, True))
    d = dict(nets.discriminator.init(keys.stream(key, 'discriminator'), jnp.zeros((2, *spec.shape)), True))
    params = {'g': g.pop('params'), 'd': d.pop('params')}
    rules = {'g': optimiser(config.optim, config.run.steps), 'd': optimiser(config.optim, config.run.steps)}
    opt_state = {name: rule.init(params[name]) for name, rule in rules.items()}
    # Copies: the programs donate the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, {'params': params['g'], 'stats': g}) if averaged else ()
    return State(jnp.int32(0), params, opt_state, ema, {'g': g, 'd': d})

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    B = batch['image'].shape[0]
    draws = {
      'image': batch['image'],
      'z': jax.random.normal(keys.stream(key, 'z_d'), (B, latent)),
      'eps': jax.random.uniform(keys.stream(key, 'eps'), (B,)),
    }

    def d_update(state: State, part: tuple[Batch, Array]):
      micro, number = part
      return update.discriminator(state, micro, keys.stream(key, 'd', number))

    if n_critic == 1:
      state, metrics = d_update(state, (draws, jnp.int32(0)))
    else:
      state, each = jax.lax.scan(d_update, state, (split_batch(draws, n_critic), jnp.arange(n_critic)))
      metrics = jax.tree.map(lambda x: x[-1], each)  # the critic as the generator meets it
    z = jax.random.normal(keys.stream(key, 'z_g'), (B // n_critic, latent))
    state, g_metrics = update.generator(state, {'z': z}, keys.stream(key, 'g'))
    step = state.step + 1
    ema = state.ema
    if averaged:
      now = {'params': state.params['g'], 'stats': state.stats['g']}
      ema = ema_update(ema, now, config.optim.ema_decay, step)
    return state._replace(step=step, ema=ema), {**metrics, **g_metrics}

  def generate(state: State, z: Array) -> Array:
    source = state.ema if averaged else {'params': state.params['g'], 'stats': state.stats['g']}
    return forward(nets.generator, source['params'], source['stats'], z, False)[0]

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    mask = batch['mask']
    z = keys.normal_per_example(keys.stream(key, 'z'), batch['index'], (latent,))

    def logits(x: Array) -> Array:
      return forward(nets.discriminator, state.params['d'], state.stats['d'], x, False)[0]

    real, fake = logits(to_signed(batch['image'])), logits(generate(state, z))
    per_example = {'logit_real': real, 'logit_fake': fake, 'logit_gap': real - fake}
    return {name: ((value * mask).sum(), mask.sum()) for name, value in per_example.items()}

  def sample(state: State, key: Key, n: int) -> Array:
    return generate(state, jax.random.normal(key, (n, latent)))

  return Method(init, train_step, eval_step, sample, batches_per_step=n_critic)
