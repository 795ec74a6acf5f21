"""Generative adversarial networks on images: n_critic discriminator updates, then one generator update, a step.

Losses and constraints are in `gen_ai.maths.adversarial`, networks in `experiments._gan_networks`. State: params
{'g', 'd'}, opt_state {'g', 'd'}, stats {'g', 'd'} (batch-norm averages, spectral vectors, mean styles), 'ada' (the
controller of adaptive augmentation) and 'path' (mean path length) where they are used; where an
average is kept, ema {'params', 'stats'} of the generator: averaged weights need averages of the moments that belong to
them.

Regularisers that are computed every k-th update only ("lazily", arXiv 1912.04958, section 3.1) weigh k times as much.
Deviation: the optimiser's constants are not adjusted for that. Under conditions both networks see the labels of the
batch; samples have labels drawn evenly over the classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._gan_networks import Networks, networks
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.lowering import gather_params
from gen_ai.core.method import (
  ASKED,
  CLASSES,
  EXAMPLE,
  GENERATE,
  LABEL,
  LATENT,
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
from gen_ai.core.optim import Pace, Updater, gradients, split_batch
from gen_ai.core.switch import is_off, is_outside
from gen_ai.maths import adversarial, augment
from gen_ai.maths.masked import masked
from gen_ai.maths.path_length import path_length, path_length_mean, path_length_penalty
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import discriminate, generate, refresh, singular_values
from gen_ai.nets.gan import Scores

KINDS = ('image',)  # of data
PENALTIES = ('gradient_penalty', 'dragan', 'r1', 'r1_r2')
# No loss here has a better way: what one network gains the other loses.
LEADING = {'loss_d': '', 'loss_g': '', 'spread': '', 'pairs_won_d': '', 'logit_gap': ''}
# Losses under which 0 parts the logits of reals and fakes.
SIGNED = ('minimax', 'non_saturating', 'hinge')


class Updates(NamedTuple):
  """The two halves of a training step, each (state, batch, key) -> (state, metrics).

  A batch is what `draws` makes of images: {'image', 'z', 'noise', 'eps', 'seen'} and, under conditions, {'label'}.
  """

  discriminator: Callable[..., tuple[State, Metrics]]  # takes `number`, of the update within its step, too
  generator: Callable[[State, Batch, Key], tuple[State, Metrics]]


def lazily(due: Array, every: int, fn: Callable[[], Array]) -> Array:
  """`every` times the scalar fn() where it is `due`, else 0, so that its mean over updates is fn's own."""
  return fn() if every == 1 else every * jax.lax.cond(due, fn, lambda: jnp.float32(0.0))


def draws(config: ConfigDict, rows: Batch, key: Key, name: str) -> Batch:
  """Everything random that an update on `rows` needs, a row an image, so that micro-batches and devices share it."""
  B = rows['image'].shape[0]
  return {
    **rows,
    'z': jax.random.normal(random.stream(key, f'z_{name}'), (B, config.model.latent)),
    'noise': jax.random.split(random.stream(key, f'noise_{name}'), B),
    'eps': jax.random.uniform(random.stream(key, 'eps'), (B,)),
    'seen': jax.random.split(random.stream(key, f'seen_{name}'), B),
  }


def seen(config: ConfigDict, stats: PyTree, x: Array, keys_: Key) -> Array:
  """`x` as config.augment shows it to the discriminator."""
  if config.augment.kind == 'diffaugment':
    return augment.diff_augment(x, keys_, tuple(config.augment.policy.split(',')))
  if config.augment.kind == 'ada':
    return augment.ada_augment(x, keys_, stats['ada'].p, tuple(config.augment.groups.split(',')))
  return x


def penalty_fn(config: ConfigDict, critic: Callable[[Array], Array], real: Array, fake: Array, batch: Batch) -> Array:
  """The penalty that config.loss.constraint names, without its weight."""
  kind = config.loss.constraint
  if kind == 'gradient_penalty':
    return adversarial.gradient_penalty(critic, real, fake, batch['eps'])
  if kind == 'dragan':
    noise = jax.vmap(lambda k: jax.random.uniform(random.stream(k, 'dragan'), real.shape[1:]))(batch['noise'])
    return adversarial.dragan_penalty(critic, real, noise * batch['eps'][:, None, None, None])
  r1 = adversarial.r1_penalty(critic, real)
  return r1 if kind == 'r1' else r1 + adversarial.r2_penalty(critic, fake)


def class_loss(scores: Scores, label: Array) -> Array:
  """Cross-entropy in nats of the classes that an auxiliary discriminator tells."""
  return optax.softmax_cross_entropy_with_integer_labels(scores.classes, label).mean()


def updater_of(config: ConfigDict) -> Updater:
  """The optimisers of both networks; of the generator parameters and stats are averaged."""
  n_critic = config.loss.n_critic
  return Updater(
    config,
    {'g': Pace(), 'd': Pace(config.loss.d_lr_factor, n_critic)},
    average=lambda state: {'params': state.params['g'], 'stats': state.stats['g']},
    batches_per_step=n_critic,
  )


def d_updates(config: ConfigDict, nets: Networks, reduce: Reduce) -> Callable[..., tuple[State, Metrics]]:
  """The discriminator's update."""
  loss, optim, updater = config.loss, config.optim, updater_of(config)
  penalised = loss.constraint in PENALTIES and not is_off(loss.penalty)

  def update(state: State, batch: Batch, key: Key, number: int | Array = 0) -> tuple[State, Metrics]:
    due = (state.step * loss.n_critic + number) % loss.penalty_every == 0
    spectra = refresh(nets.discriminator, state.params['d'], state.stats['d'], batch['image'].shape[1:])

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      label, real = batch.get('label'), to_signed(batch['image'])
      fake, _ = generate(nets.generator, state.params['g'], state.stats['g'], batch, True)

      def scores(stats: PyTree, x: Array, name: str) -> tuple[Scores, PyTree]:
        x = seen(config, state.stats, x, jax.vmap(lambda k: random.stream(k, name))(batch['seen']))
        return discriminate(nets.discriminator, params, stats, x, label, True)

      of_real, stats = scores(stats, real, 'real')
      of_fake, stats = scores(stats, fake, 'fake')
      total = adversarial.discriminator_loss(loss.kind, of_real.logits, of_fake.logits)
      metrics = {
        'loss_d': total,
        'logit_real': of_real.logits.mean(),
        'logit_fake': of_fake.logits.mean(),
        'pairs_won_d': adversarial.pairs_won(of_real.logits, of_fake.logits).mean(),
      }
      if config.augment.kind == 'ada':
        metrics['sign_real'] = jnp.sign(of_real.logits).mean()
      if config.model.condition == 'auxiliary':
        metrics['class_nats_real'] = class_loss(of_real, batch['label'])
        total = total + loss.auxiliary * (metrics['class_nats_real'] + class_loss(of_fake, batch['label']))
      if penalised:
        critic = lambda x: scores(stats, x, 'real')[0].logits  # noqa: E731
        metrics['penalty'] = lazily(due, loss.penalty_every, lambda: penalty_fn(config, critic, real, fake, batch))
        total = total + loss.penalty * metrics['penalty']
      return total, (metrics, stats)

    grads, metrics, stats = gradients(loss_fn, state.params['d'], spectra, batch, key, optim.accumulate, reduce)
    after = updater.update(state, grads, 'd')
    if loss.constraint == 'clip':
      after = after._replace(params={**after.params, 'd': adversarial.clip_weights(after.params['d'], loss.clip)})
    metrics = {**metrics, 'grad_norm_d': optax.tree.norm(grads)}
    sigmas = singular_values(stats)
    if sigmas:
      metrics |= {'sigma_max_d': jnp.stack(sigmas).max(), 'sigma_min_d': jnp.stack(sigmas).min()}
    new = {**state.stats, 'd': stats}
    if config.augment.kind == 'ada':
      new['ada'] = augment.ada_step(
        new['ada'],
        metrics['sign_real'],
        config.data.batch_size,
        config.augment.interval,
        config.augment.target,
        config.augment.speed,
      )
      metrics['augment_p'] = new['ada'].p
    return after._replace(stats=new), metrics

  return update


def path_lengths(config: ConfigDict, nets: Networks, params: PyTree, stats: PyTree, batch: Batch) -> Array:
  """Path lengths [B / 2] of the first half: the penalty is dear, and half a batch is enough (appendix B).

  Micro-batches are strided, so that their first halves together are that of the batch.
  """
  size = -(-batch['z'].shape[0] // 2)
  half = jax.tree.map(lambda leaf: leaf[:size], batch)
  variables = {'params': params, **stats}
  w: Any = nets.generator.apply(variables, half['z'], half.get('label'), method='mapping')
  layers = nets.generator.num_layers
  ws = jnp.broadcast_to(w[:, None], (w.shape[0], layers, w.shape[1]))

  def synthesise(ws: Array) -> Array:
    x: Any = nets.generator.apply(variables, ws, half['noise'], method='synthesis')
    return x

  shape = jax.eval_shape(synthesise, ws).shape[1:]
  y = jax.vmap(lambda k: jax.random.normal(random.stream(k, 'path'), shape))(half['noise'])
  return path_length(synthesise, ws, y)


def has_paths(config: ConfigDict) -> bool:
  """Whether the generator pays for uneven path lengths."""
  return config.model.network == 'stylegan2' and not is_off(config.loss.path_length)


def g_updates(config: ConfigDict, nets: Networks, reduce: Reduce) -> Callable[[State, Batch, Key], Any]:
  """The generator's update."""
  loss, optim, updater = config.loss, config.optim, updater_of(config)
  paths = has_paths(config)

  def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    due = state.step % loss.path_every == 0 if paths else False
    spectra = refresh(nets.generator, state.params['g'], state.stats['g'], batch['z'].shape[1:])

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      label = batch.get('label')

      def scores(x: Array, name: str) -> Scores:
        x = seen(config, state.stats, x, jax.vmap(lambda k: random.stream(k, name))(batch['seen']))
        return discriminate(nets.discriminator, state.params['d'], state.stats['d'], x, label, True)[0]

      fake, new = generate(nets.generator, params, stats, batch, True)
      of_fake = scores(fake, 'fake')
      relative = loss.kind in adversarial.RELATIVISTIC
      real_logits = scores(to_signed(batch['image']), 'real').logits if relative else None
      total = adversarial.generator_loss(loss.kind, of_fake.logits, real_logits)
      metrics = {'loss_g': total}
      if config.model.condition == 'auxiliary':
        metrics['class_nats_fake'] = class_loss(of_fake, batch['label'])
        total = total + loss.auxiliary * metrics['class_nats_fake']
      if paths:
        lengths = jax.lax.cond(
          due,
          lambda: path_lengths(config, nets, params, stats, batch),
          lambda: jnp.zeros((-(-batch['z'].shape[0] // 2),)),
        )
        penalty = jnp.where(due, path_length_penalty(lengths, state.stats['path']), 0.0)
        metrics |= {'path_length': lengths.mean(), 'path_penalty': loss.path_every * penalty}
        total = total + loss.path_length * metrics['path_penalty']
      return total, (metrics, new)

    grads, metrics, stats = gradients(loss_fn, state.params['g'], spectra, batch, key, optim.accumulate, reduce)
    new = {**state.stats, 'g': stats}
    if paths:
      new['path'] = jnp.where(due, path_length_mean(new['path'], metrics['path_length']), new['path'])
      metrics = {**metrics, 'path_length': new['path']}
    after = updater.update(state, grads, 'g')._replace(stats=new)
    return after, {**metrics, 'grad_norm_g': optax.tree.norm(grads)}

  return update


def updates(config: ConfigDict, nets: Networks, reduce: Reduce) -> Updates:
  """The updates of both networks."""
  return Updates(d_updates(config, nets, reduce), g_updates(config, nets, reduce))


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data, or settings together, that this family cannot train."""
  loss, model = config.loss, config.model
  if model.condition != 'none' and spec.num_classes < 2:
    raise UserError(
      f"config.model.condition='{model.condition}' needs labels, but config.data.name='{config.data.name}' has none: "
      'choose a labelled data set, or config.model.condition=none.'
    )
  if config.augment.kind == 'ada' and loss.kind not in SIGNED:
    raise UserError(
      f'config.augment.kind=ada goes by the sign of the logits of real images, which says nothing under '
      f"config.loss.kind='{loss.kind}': take one of {', '.join(SIGNED)}, or config.augment.kind=diffaugment."
    )
  if loss.constraint == 'clip' and (is_off(loss.clip) or is_outside(loss.clip, 0.0)):
    raise UserError(f'config.loss.clip={loss.clip} leaves the discriminator no weights: it must be positive.')
  if loss.constraint in PENALTIES and model.network in ('dcgan', 'resnet') and model.d_norm == 'batch':
    raise UserError(
      f"config.loss.constraint='{loss.constraint}' is defined example by example, but config.model.d_norm='batch' "
      "couples the examples of a batch: use 'group' or 'none'."
    )


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The GAN of `config`; see `gen_ai.core.method.Method`. Conditional ones draw 'classes', a row a class."""
  check(config, spec)
  nets = networks(config, spec, reduce)
  update, updater = updates(config, nets, reduce), updater_of(config)
  n_critic, latent = config.loss.n_critic, config.model.latent
  conditional = config.model.condition != 'none'
  fields = ('image', 'label') if conditional else ('image',)

  def init(key: Key) -> State:
    label = jnp.zeros((2,), jnp.int32) if conditional else None
    # Noise at initialisation: networks that take any make its parameters then.
    noise = jax.random.split(key, 2)
    g = dict(
      nets.generator.init(random.stream(key, 'generator'), jnp.zeros((2, latent)), train=True, label=label, noise=noise)
    )
    d = dict(
      nets.discriminator.init(random.stream(key, 'discriminator'), jnp.zeros((2, *spec.shape)), train=True, label=label)
    )
    params = {'g': g.pop('params'), 'd': d.pop('params')}
    stats: dict[str, Any] = {'g': g, 'd': d}
    if config.augment.kind == 'ada':
      stats['ada'] = augment.ada_start()
    if has_paths(config):
      stats['path'] = jnp.float32(0.0)
    return updater.init(params, stats)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    parts = split_batch({name: batch[name] for name in fields}, n_critic)
    every = draws(config, {name: batch[name] for name in fields}, key, 'd')

    def d_update(state: State, part: tuple[Batch, Array]):
      micro, number = part
      return update.discriminator(gather_params(state), micro, random.stream(key, 'd', number), number)

    if n_critic == 1:
      state, metrics = d_update(state, (every, jnp.int32(0)))
    else:
      state, each = jax.lax.scan(d_update, state, (split_batch(every, n_critic), jnp.arange(n_critic)))
      metrics = jax.tree.map(lambda x: x[-1], each)  # the critic as the generator meets it
      if 'penalty' in each:  # lazily computed: the last update may never be due
        metrics['penalty'] = each['penalty'].mean()
    own = draws(config, jax.tree.map(lambda x: x[-1], parts), key, 'g')
    state, g_metrics = update.generator(state, own, random.stream(key, 'g'))
    return updater.advance(state), {**metrics, **g_metrics}

  def rendered(state: State, own: Batch) -> Array:
    source = updater.eval_params(state)
    return jnp.clip(generate(nets.generator, source['params'], source['stats'], own, False)[0], -1.0, 1.0)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    index = batch['index']
    own = {
      'z': random.normal_per_example(random.stream(key, 'z'), index, (latent,)),
      'noise': random.per_example(random.stream(key, 'noise'), index),
    }
    own |= {'label': batch['label']} if conditional else {}

    def scores(x: Array) -> Scores:
      return discriminate(nets.discriminator, state.params['d'], state.stats['d'], x, own.get('label'), False)[0]

    real, fake = scores(to_signed(batch['image'])), scores(rendered(state, own))
    per_example = {
      'logit_real': real.logits,
      'logit_fake': fake.logits,
      'logit_gap': real.logits - fake.logits,
      'pairs_won_d': adversarial.pairs_won(real.logits, fake.logits),
    }
    if config.model.condition == 'auxiliary':
      for name, said in (('real', real), ('fake', fake)):
        per_example[f'class_accuracy_{name}'] = (said.classes.argmax(1) == batch['label']).astype(jnp.float32)
    return masked(per_example, batch['mask'])

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    noise = jax.vmap(lambda key: jax.random.split(random.stream(key, 'noise'), 1)[0])(own_keys)
    own = {'z': inputs.get('latent', random.normal(own_keys, (latent,))), 'noise': noise}
    if conditional:
      own['label'] = inputs.get('label', random.labels(own_keys, spec.num_classes))
    return {SAMPLE: rendered(state, own), **({ASKED: own['label']} if conditional else {})}

  def classes(state: State, batch: Batch, key: Key) -> Array:
    z = jnp.tile(jax.random.normal(random.stream(key, 'z'), (8, latent)), (spec.num_classes, 1))
    noise = jnp.tile(jax.random.split(random.stream(key, 'noise'), 8), spec.num_classes)
    return rendered(state, {'z': z, 'noise': noise, 'label': jnp.repeat(jnp.arange(spec.num_classes), 8)})

  visualizations = {CLASSES: classes} if conditional else {}
  inputs = {'latent': Field(LATENT, (latent,)), **({'label': Field(LABEL)} if conditional else {})}
  outputs = {SAMPLE: Field(EXAMPLE, spec.shape), **({ASKED: Field(LABEL)} if conditional else {})}
  tasks = {GENERATE: Task(generated, inputs, outputs)}
  return Method(init, train_step, eval_step, tasks, n_critic, visualizations=visualizations, leading=LEADING)
