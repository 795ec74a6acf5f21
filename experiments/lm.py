"""Decoder-only Transformer language model on text: next-token prediction, sampling with temperature and top-k.

The network is GPT-2's (Radford et al. 2019): learned positions, pre-norm, GELU, tied embeddings.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gen_ai import keys
from gen_ai.errors import UserError
from gen_ai.maths.sampling import StepFn, generate, looks_back
from gen_ai.maths.switch import is_off
from gen_ai.nets.transformer import Transformer
from gen_ai.optim import ema_update, gradients, optimiser
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

LEADING = {'loss_nats': 'min', 'bits_per_byte': 'min'}


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data or sampling settings that this family does not know."""
  if spec.kind != 'text':
    raise UserError(f"experiment 'lm' models text, but config.data.name='{config.data.name}' holds images.")
  if config.model.width % config.model.heads:
    raise UserError(f'config.model.width={config.model.width} does not divide into {config.model.heads} heads.')
  for path, value, limit in (
    ('model.dropout', config.model.dropout, 1.0),
    ('sample.temperature', config.sample.temperature, math.inf),
  ):
    if not isinstance(value, jax.core.Tracer) and not 0 <= value < limit:
      raise UserError(f'config.{path}={value} must be at least 0{" and below 1" if limit == 1.0 else ""}.')
  if config.sample.length < 1 or config.sample.top_k < 0:
    raise UserError('config.sample.length must be at least 1 and config.sample.top_k at least 0.')


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The language model of `config`; see `gen_ai.types.Method`."""
  check(config, spec)
  model, (T,), vocab = config.model, spec.shape, spec.vocab
  assert vocab is not None
  net = Transformer(
    vocab_size=vocab.size, context=T, num_layers=model.layers, num_heads=model.heads, width=model.width,
    dropout=model.dropout, use_bias=model.bias, activation=model.activation, dtype=compute_dtype(config.precision),
  )  # fmt: skip
  rule = optimiser(config.optim, config.run.steps)
  averaged = not is_off(config.optim.ema_decay)
  bytes_of = jnp.asarray(vocab.byte_counts())
  prompt = np.asarray(vocab.encode(config.sample.prompt or '\n'))

  def init(key: Key) -> State:
    params = net.init({'params': key}, jnp.zeros((2, T), jnp.int32), train=False)['params']
    # A copy: the programs donate the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, params) if averaged else ()
    return State(jnp.int32(0), params, rule.init(params), ema)

  def nats(params: PyTree, tokens: Array, train: bool, key: Key) -> Array:
    """-log p of each target [B, T]."""
    rngs = {'dropout': key} if train and not is_off(model.dropout) else None
    logits = net.apply({'params': params}, tokens[:, :-1], train=train, rngs=rngs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      loss = nats(params, batch['tokens'], True, keys.stream(key, 'dropout')).mean()
      return loss, ({'loss_nats': loss}, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), {'tokens': batch['tokens']}, key, config.optim.accumulate,
                                  reduce)  # fmt: skip
    change, opt_state = rule.update(grads, state.opt_state, state.params)
    params, step = jax.tree.map(jnp.add, state.params, change), state.step + 1
    ema = ema_update(state.ema, params, config.optim.ema_decay, step) if averaged else ()
    return State(step, params, opt_state, ema), {**metrics, 'grad_norm': optax.tree.norm(grads)}

  def settled(state: State) -> PyTree:
    return state.ema if averaged else state.params

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    mask = batch['mask'][:, None]
    per_token = nats(settled(state), batch['tokens'], False, key) * mask
    tokens = (mask * jnp.ones_like(per_token)).sum()
    byte_count = (bytes_of[batch['tokens'][:, 1:]] * mask).sum()
    total = per_token.sum()
    return {'loss_nats': (total, tokens), 'bits_per_byte': (total / math.log(2), byte_count)}

  def decoder(params: PyTree) -> StepFn:
    def step(cache: PyTree, token: Array, position: Array) -> tuple[Array, PyTree]:
      out: Any = net.apply({'params': params}, cache, token, position, method='decode_step')
      return out

    return step

  def sample(state: State, key: Key, n: int) -> Array:
    params, end = settled(state), len(prompt) + config.sample.length
    text = jnp.tile(jnp.asarray(prompt, jnp.int32), (n, 1))
    while text.shape[1] < end:
      # The cache holds T positions. When they are used up, the end of the text starts a fresh one.
      context = text[:, -looks_back(text.shape[1], T) :]
      length = min(max(T, 2), context.shape[1] + end - text.shape[1])
      longer = generate(
        decoder(params), net.init_cache(n), context, length, keys.stream(key, 'extend', text.shape[1]),
        config.sample.temperature, config.sample.top_k,
      )  # fmt: skip
      text = jnp.concatenate([text, longer[:, context.shape[1] :]], axis=1)
    return text

  return Method(init, train_step, eval_step, sample, leading=LEADING)
