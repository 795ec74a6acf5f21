"""MeanFlow on images (arXiv 2505.13447): a network that says the mean velocity of a flow, so that one step draws.

Training differentiates the network along the flow (`jax.jvp`), see `gen_ai.maths.mean_flow`. Guidance is part of the
target: it costs a pass more of each update and none of a sample.

Evaluations tell 'flow_mse', the loss of flow matching (r = t) against eps - x without guidance, and 'identity_mse', how
far the network is from the identity of its own velocity: 0 would make one step as good as many.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._denoising import EVALUATIONS, FromNoise, classes_of, network, with_dropped
from experiments._views import COLUMNS
from gen_ai.core import random
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
from gen_ai.core.optim import Updater, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths import mean_flow
from gen_ai.maths.diffusion import Level, mean_square
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.transformer import MATRICES, SHARDING

KINDS = ('image',)  # of data
LEADING = {'flow_mse': 'min', 'identity_mse': 'min', 'mean_flow_mse': 'min', 'spread': ''}
SHOWN_STEPS = (1, 2, 4, 8)  # in the picture 'steps'


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The model of `config`; see `gen_ai.core.method.Method`.

  Pictures: 'steps', the same noise in 1, 2, 4 and 8 steps, a row each; 'classes' of a conditional model, a row a class
  by the same noise.
  """
  loss, shape = config.loss, spec.image_shape
  classes = classes_of(config, spec.num_classes)
  net = network(config, shape, classes, differentiable_forward=True)
  unguided = is_off(loss.guidance) and is_off(loss.kappa)
  updater = Updater(config, matrices=MATRICES)

  def velocity(params: PyTree, label: Array | None, key: Key | None = None) -> mean_flow.Velocity:
    """The network as u(z, t, r), for labels int32 [B] of a conditional model; in training with dropout by `key`."""
    rngs = None if key is None else {'dropout': key}

    def u(z: Array, t: Array, r: Array) -> Array:
      out: Any = net.apply({'params': params}, z, t, label, train=key is not None, r=r, rngs=rngs)
      return out

    return u

  def init(key: Key) -> State:
    x, t, label = jnp.zeros((2, *shape)), jnp.zeros(2), jnp.zeros(2, jnp.int32) if classes else None
    return updater.init(net.init(random.stream(key, 'net'), x, t, label, r=t)['params'])

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    x = to_signed(batch['image'])
    B = x.shape[0]
    rows = {
      'x': x,
      'eps': jax.random.normal(random.stream(key, 'eps'), x.shape),
      'normal': jax.random.normal(random.stream(key, 'times'), (B, 2)),
      'alike': jax.random.uniform(random.stream(key, 'alike'), (B,)) < loss.alike,
    }
    if classes:
      rows['label'] = with_dropped(batch['label'], classes, loss.drop_label, key)

    def loss_fn(params: PyTree, stats: PyTree, rows: Batch, key: Key):
      x, label = rows['x'], rows.get('label')
      t, r = mean_flow.drawn_times(rows['normal'], rows['alike'], loss.times_mean, loss.times_deviation)
      z, v = Level(1.0 - t, t).noised(x, rows['eps']), rows['eps'] - x
      if label is not None and not unguided:
        v = guided(jax.lax.stop_gradient(params), z, t, v, label)
      said, target = mean_flow.said_and_target(velocity(params, label, random.stream(key, 'dropout')), z, t, r, v)
      error = mean_square(said - target)
      value = mean_flow.adaptive(error * x[0].size, loss.power, loss.floor).mean()
      return value, ({'loss': value, 'mean_flow_mse': error.mean()}, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), rows, key, config.optim.accumulate, reduce)
    return updater.advance(updater.update(state, grads)), {**metrics, 'grad_norm': optax.tree.norm(grads)}

  def guided(params: PyTree, z: Array, t: Array, v: Array, label: Array) -> Array:
    """What the flow of labels moves by; the flow without labels, of the null class, is not guided."""
    nothing = jnp.full_like(label, classes)
    plain = velocity(params, nothing)(z, t, t)
    labelled = plain if is_off(loss.kappa) else velocity(params, label)(z, t, t)
    by = mean_flow.guided(v, labelled, plain, 1.0 + loss.guidance, loss.kappa)
    return jnp.where((label == nothing).reshape(-1, 1, 1, 1), v, by)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    keys = random.per_example(key, batch['index'])
    x, eps = to_signed(batch['image']), random.normal(random.stream(keys, 'eps'), shape)
    normal = random.normal(random.stream(keys, 'times'), (2,))
    t, r = mean_flow.drawn_times(normal, jnp.zeros(x.shape[:1], bool), loss.times_mean, loss.times_deviation)
    z = Level(1.0 - t, t).noised(x, eps)
    u = velocity(updater.eval_params(state), batch['label'] if classes else None)
    own = u(z, t, t)
    said, target = mean_flow.said_and_target(u, z, t, r, own)
    found = {'flow_mse': mean_square(own - (eps - x)), 'identity_mse': mean_square(said - target)}
    return masked(found, batch['mask'])

  def in_steps(steps: int, state: State, label: Array | None, noise: Array) -> Array:
    x = mean_flow.sample(velocity(updater.eval_params(state), label), noise, steps)
    return jnp.clip(x, -1.0, 1.0)

  drawing = FromNoise(
    shape, classes, lambda state, label, noise, keys: in_steps(config.sample.steps, state, label, noise)
  )

  def by_steps(state: State, batch: Batch, key: Key) -> Array:
    noise = jax.random.normal(random.stream(key, 'steps'), (COLUMNS, *shape))
    label = jnp.arange(COLUMNS) % classes if classes else None
    return jnp.concatenate([in_steps(steps, state, label, noise) for steps in SHOWN_STEPS])

  outputs = {SAMPLE: Field(EXAMPLE, shape), **({ASKED: Field(LABEL)} if classes else {})}
  inputs = {'latent': Field(LATENT, shape), **drawing.label}
  return Method(
    init,
    train_step,
    eval_step,
    {GENERATE: Task(drawing.generated, inputs, outputs, facts=lambda config: {EVALUATIONS: config.sample.steps})},
    visualizations={'steps': by_steps, **({CLASSES: drawing.by_class} if classes else {})},
    leading=LEADING,
    sharding=SHARDING if config.model.network == 'dit' else {},
  )
