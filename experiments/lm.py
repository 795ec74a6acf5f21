"""Decoder-only Transformer language model on text: next-token prediction, sampling with temperature and top-k.

The network is GPT-2's (Radford et al. 2019): learned positions, pre-norm, GELU, tied embeddings.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  EXAMPLE,
  GENERATE,
  PROMPT,
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
from gen_ai.maths.sampling import StepFn, generate, looks_back
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import Transformer

KINDS = ('text',)  # of data
LEADING = {'loss_nats': 'min', 'bits_per_byte': 'min'}


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for a width that its heads do not divide."""
  if config.model.width % config.model.heads:
    raise UserError(f'config.model.width={config.model.width} does not divide into {config.model.heads} heads.')


def check_prompts(prompts: np.ndarray, context: int) -> str:
  """What to say of prompts int32 [N, P], the rest of shorter ones -1, for a model that sees `context` tokens; or ''.

  Raises:
    UserError: prompts of unlike lengths of which one is longer than the model can see.
  """
  lengths = (prompts >= 0).sum(1)
  longest = int(lengths.max())
  seen = looks_back(longest, context)
  if seen == longest:
    return ''
  if lengths.min() != longest:
    raise UserError(
      f'the prompts have {lengths.min():,} to {longest:,} tokens: where one is too long for blocks of '
      f'{context:,} tokens (config.data.block_size) all must have one length. Call with one at a time.'
    )
  return (
    f'the prompt has {longest:,} tokens, too many for blocks of {context:,} (config.data.block_size): the texts '
    f'start with all of it, but the model goes on from its last {seen:,} tokens alone'
  )


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The language model of `config`; see `gen_ai.core.method.Method`."""
  check(config, spec)
  model, (T,), vocab = config.model, spec.shape, spec.vocab
  assert vocab is not None
  net = Transformer(
    vocab_size=vocab.size,
    context=T,
    num_layers=model.layers,
    num_heads=model.heads,
    width=model.width,
    dropout=model.dropout,
    use_bias=model.bias,
    activation=model.activation,
    dtype=compute_dtype(config.precision),
  )
  updater = Updater(config)
  bytes_of = jnp.asarray(vocab.byte_counts())
  prompt = np.asarray(vocab.encode(config.sample.prompt or '\n'))

  def init(key: Key) -> State:
    return updater.init(net.init({'params': key}, jnp.zeros((2, T), jnp.int32), train=False)['params'])

  def nats(params: PyTree, tokens: Array, train: bool, key: Key) -> Array:
    """-log p of each target [B, T]."""
    rngs = {'dropout': key} if train and not is_off(model.dropout) else None
    logits = net.apply({'params': params}, tokens[:, :-1], train=train, rngs=rngs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      loss = nats(params, batch['tokens'], True, random.stream(key, 'dropout')).mean()
      return loss, ({'loss_nats': loss}, stats)

    grads, metrics, _ = gradients(
      loss_fn, state.params, (), {'tokens': batch['tokens']}, key, config.optim.accumulate, reduce
    )
    return updater.advance(updater.update(state, grads)), {**metrics, 'grad_norm': optax.tree.norm(grads)}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    mask = batch['mask'][:, None]
    per_token = nats(updater.eval_params(state), batch['tokens'], False, key) * mask
    tokens = (mask * jnp.ones_like(per_token)).sum()
    byte_count = (bytes_of[batch['tokens'][:, 1:]] * mask).sum()
    total = per_token.sum()
    return {'loss_nats': (total, tokens), 'bits_per_byte': (total / math.log(2), byte_count)}

  def decoder(params: PyTree) -> StepFn:
    def step(cache: PyTree, token: Array, position: Array) -> tuple[Array, PyTree]:
      out: Any = net.apply({'params': params}, cache, token, position, method='decode_step')
      return out

    return step

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """Each row goes on from its own prompt by sample.length tokens; what follows them in a row is -1."""
    params, B = updater.eval_params(state), own_keys.shape[0]
    prompts = inputs.get('prompt', jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (B, len(prompt))))
    given, P = (prompts >= 0).sum(1), prompts.shape[1]
    # All rows begin at position 0, and a shorter prompt is gone on from while a longer one is still read.
    text, end = prompts, P + config.sample.length
    begins: int | Array = given  # what first addresses the noise: a longer prompt of another row changes nothing
    while text.shape[1] < end:
      # The cache holds T positions. When they are used up, the end of the text starts a fresh one.
      start = text.shape[1] - looks_back(text.shape[1], T)
      context = text[:, start:]
      length = min(max(T, 2), context.shape[1] + end - text.shape[1])
      longer = generate(
        decoder(params),
        net.init_cache(B),
        context,
        length,
        random.stream(own_keys, 'extend', begins),
        config.sample.temperature,
        config.sample.top_k,
      )
      text = jnp.concatenate([text[:, :start], longer], axis=1)
      begins = text.shape[1]
    position = jnp.arange(end)
    return {SAMPLE: jnp.where(position < given[:, None] + config.sample.length, text, -1), 'given': given}

  tasks = {
    GENERATE: Task(
      generated,
      {'prompt': Field(PROMPT, (None,))},
      {SAMPLE: Field(EXAMPLE, (None,)), 'given': Field('count')},
      check=lambda inputs: check_prompts(np.asarray(inputs['prompt']), T) if 'prompt' in inputs else '',
    )
  }
  note = check_prompts(prompt[None], T)
  return Method(init, train_step, eval_step, tasks, leading=LEADING, notes=(note,) if note else ())
