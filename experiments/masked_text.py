"""Masked diffusion of text on the language model's network: tokens are told from what is around them, in any order.

MDLM (arXiv 2406.07524) and LLaDA (arXiv 2502.09992); see `gen_ai.maths.masked_diffusion`. The Transformer has full
attention and reads one token more, the mask, for which it has no logit. The first token of a window is given, as it is
to a language model, so that 'loss_nats' and 'bits_per_byte' are of the same tokens given the same: upper bounds here.
"""

import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments._language import LEADING, architecture, beginning, stop_table
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  EXAMPLE,
  GENERATE,
  NUMBER,
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
  Stream,
  SumCount,
  Task,
  Vocab,
  identity,
)
from gen_ai.core.optim import Updater, Weighted, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths.cross_entropy import tiled
from gen_ai.maths.diffusion import quantiles
from gen_ai.maths.masked_diffusion import Hidden, Writing, Written, fill, hide, times
from gen_ai.maths.sampling import Rule
from gen_ai.nets import scaling
from gen_ai.nets.transformer import MATRICES, SHARDING, Transformer, head_of, logits_by

KINDS = ('text',)  # of data
_HOLES = re.compile(r'<mask(?:\*(\d+))?>')  # in a text to complete: one token to fill in, or so many


def with_holes(text: str, vocab: Vocab) -> np.ndarray:
  """Tokens int32 [P] of `text`, in which '<mask>' is one token to fill in and '<mask*12>' twelve: V in the result.

  Raises:
    UserError: there is nothing to fill in, or a text that the vocabulary cannot hold.
  """
  parts: list[np.ndarray] = []
  for place, part in enumerate(_HOLES.split(text)):
    if place % 2:
      parts.append(np.full(int(part or 1), vocab.size, np.int32))
    elif part:
      tokens = np.asarray(vocab.encode(part), np.int32)
      parts.append(tokens[tokens != vocab.separator] if vocab.separator is not None else tokens)
  found = np.concatenate([np.zeros(0, np.int32), *parts])
  if vocab.size not in found:
    raise UserError(f"{text!r} has nothing to fill in: write '<mask*12>' where 12 tokens are wanted.")
  return found


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The masked diffusion model of `config`; see `gen_ai.core.method.Method`."""
  model, sample, (T,), vocab = config.model, config.sample, spec.shape, spec.vocab
  assert vocab is not None
  V, C = vocab.size, T + 1
  arch = architecture(config, V, context=C, causal=False, unpredicted=1)
  if sample.block > T:
    raise UserError(f'config.sample.block={sample.block} must be at most config.data.block_size={T}.')
  net = Transformer(arch)
  updater = Updater(config, matrices=MATRICES, rates=scaling.rates(arch.growth, config.optim.name))
  bytes_of = jnp.asarray(vocab.byte_counts())
  begin, prompt = beginning(vocab), beginning(vocab, sample.prompt)
  stops = stop_table(vocab, tuple(sample.stop))
  rule = Rule(0.0, sample.temperature, sample.top_k, sample.top_p, sample.min_p)

  def init(key: Key) -> State:
    return updater.init(net.init({'params': key}, jnp.zeros((2, C), jnp.int32), train=False)['params'])

  def logits_of(rows: Array, hidden: Array) -> Array:
    return logits_by(hidden, rows, model.tied, model.softcap)

  def nats(params: PyTree, tokens: Array, hidden: Array, train: bool, key: Key) -> Array:
    """-log p of each of the tokens [B, T] after the first where it is hidden, from those that are not; else 0."""
    rngs = {'dropout': key} if train and not is_off(model.dropout) else None
    read = jnp.concatenate([tokens[:, :1], jnp.where(hidden, V, tokens[:, 1:])], 1)
    states: Any = net.apply({'params': params}, read, train, rngs=rngs, method='hidden')
    rows = head_of(params)[:V]
    return tiled(logits_of, rows, states[:, 1:], tokens[:, 1:], config.loss.chunk).nats * hidden

  def bound(params: PyTree, text: Array, at: Array, keys: Key) -> Array:
    """What each token after the first adds to an upper bound of -log p(text), float32 [B, T]: a mean over masks.

    Args:
      params: of the network.
      text: int32 [B, C], -1 after its end, where nothing is known to the model either.
      at: float32 [B, masks], their times.
      keys: [B], of their noise.
    """
    known, tokens = text[:, 1:] >= 0, jnp.maximum(text, 0)

    def one(number: Array) -> Array:
      noise = jax.vmap(lambda own: jax.random.uniform(own, (T,)))(random.stream(keys, 'mask', number))
      told = hide('counted', at[:, number], noise, known)
      found = nats(params, tokens, told.where | ~known, False, keys)
      return found * told.where * told.weight[:, None]

    return jax.lax.map(one, jnp.arange(at.shape[1])).mean(0)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    tokens = batch['tokens']
    B = tokens.shape[0]
    noise = jax.random.uniform(random.stream(key, 'mask'), (B, T))
    at = quantiles(jax.random.uniform(random.stream(key, 'time')), B)
    told = hide(config.loss.masks, at, noise, jnp.ones((B, T), bool))

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      told = Hidden(batch['where'], batch['weight'])
      found = nats(params, batch['tokens'], told.where, True, random.stream(key, 'dropout')) * told.weight[:, None]
      total = Weighted(found.sum(), jnp.float32(found.size))
      return total, ({'loss_nats': total}, stats)

    rows = {'tokens': tokens, **told._asdict()}
    grads, metrics, _ = gradients(loss_fn, state.params, (), rows, key, config.optim.accumulate, reduce)
    return updater.advance(updater.update(state, grads)), {**metrics, 'grad_norm': optax.tree.norm(grads)}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    tokens, index = batch['tokens'], batch['index']
    # The index of a window is that of its first token; their numbers are apart as those of examples are.
    at = times(index // T, jax.random.bits(random.stream(key, 'time')), config.eval.masks)
    per_token = bound(updater.eval_params(state), tokens, at, random.per_example(key, index))
    mask = batch['mask'][:, None] * (tokens[:, 1:] >= 0)
    of_bytes = bytes_of[jnp.maximum(tokens[:, 1:], 0)] * mask
    # Of separators, which are none of the text's bytes, nothing is counted, as by a language model.
    bits = (per_token * mask * (of_bytes > 0)).sum() / math.log(2)
    return {'loss_nats': ((per_token * mask).sum(), mask.sum()), 'bits_per_byte': (bits, of_bytes.sum())}

  def denoise(params: PyTree, tokens: Array, columns: Array) -> Array:
    states: Any = net.apply({'params': params}, tokens, False, method='hidden')
    return logits_of(head_of(params)[:V], jnp.take_along_axis(states, columns[..., None], 1))

  def writing(state: State, own_keys: Key) -> Writing:
    reads = partial(denoise, updater.eval_params(state))
    how = rule, sample.steps, sample.order, stops
    return Writing(reads, V, C, sample.length, sample.block, own_keys, *how)

  def start(state: State, inputs: Batch, own_keys: Key) -> PyTree:
    usual = jnp.broadcast_to(jnp.asarray(prompt), (own_keys.shape[0], len(prompt)))
    return writing(state, own_keys).start(inputs.get('prompt', usual))

  def advance(state: State, carry: PyTree, own_keys: Key, pieces: Array) -> PyTree:
    return writing(state, own_keys).advance(carry, pieces)

  def outputs(carry: Written) -> Batch:
    return {SAMPLE: carry.text, 'given': carry.given, 'evaluations': carry.evaluations}

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """Each row goes on from its own prompt by sample.length tokens; what follows them in a row is -1."""
    return outputs(advance(state, start(state, inputs, own_keys), own_keys, jnp.int32(sample.length)))

  def completed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """The text of each row with its holes filled in; it is read behind what every text may begin with."""
    params, text = updater.eval_params(state), inputs['prompt']
    B, P = text.shape
    columns = jnp.broadcast_to(len(begin) + jnp.arange(P), (B, P))
    rest = jnp.full((B, C - len(begin) - P), V)

    def of_text(tokens: Array, hidden: Array) -> Array:
      read = jnp.where(hidden | (text < 0), V, tokens)
      return denoise(params, jnp.concatenate([jnp.broadcast_to(begin, (B, len(begin))), read, rest], 1), columns)

    found = fill(of_text, text, text == V, own_keys, rule, sample.steps, sample.order)
    return {SAMPLE: found.tokens, 'evaluations': found.evaluations}

  def scored(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """What each token of a text adds to an upper bound of -log p of those after the first, which is given."""
    text, masks = inputs['prompt'], sample.masks
    B, P = text.shape
    text = jnp.pad(text, ((0, 0), (0, C - P)), constant_values=-1)
    at = times(jnp.zeros(B, jnp.int32), jax.vmap(jax.random.bits)(random.stream(own_keys, 'time')), masks)
    per_token = bound(updater.eval_params(state), text, at, own_keys)
    total = per_token.sum(1)
    return {'nats': jnp.pad(per_token, ((0, 0), (1, 0)))[:, :P], 'bound_nats': total, 'bound_bits': total / math.log(2)}

  def note_on_prompts(prompts: np.ndarray) -> str:
    longest, seen = int((prompts >= 0).sum(1).max()), C - sample.block
    if longest <= seen:
      return ''
    return (
      f'the prompt has {longest:,} tokens; with a block of {sample.block:,} (config.sample.block) the model sees the '
      f'last {seen:,}: the texts start with all of it, but go on from these alone'
    )

  def checked(inputs: Any) -> str:
    return note_on_prompts(np.asarray(inputs['prompt'])) if 'prompt' in inputs else ''

  def fits(inputs: Any, most: int, does: str) -> str:
    tokens = int((np.asarray(inputs['prompt']) >= 0).sum(1).max())
    if tokens > most:
      raise UserError(
        f'the text has {tokens:,} tokens; this model {does} at most {most:,} (config.data.block_size={T}).'
      )
    return ''

  text = {SAMPLE: Field(EXAMPLE, (None,)), 'evaluations': Field('count')}
  holes = Field(PROMPT, (None,), True, lambda words: with_holes(words, vocab))
  tasks = {
    GENERATE: Task(
      generated,
      {'prompt': Field(PROMPT, (None,))},
      {**text, 'given': Field('count')},
      check=checked,
      stream=Stream(start, advance, outputs, lambda carry: carry.done),
    ),
    'complete': Task(
      completed, {'prompt': holes}, text, check=lambda inputs: fits(inputs, C - len(begin), 'completes')
    ),
    'score': Task(
      scored,
      {'prompt': Field(PROMPT, (None,), True)},
      {'nats': Field(NUMBER, (None,)), 'bound_nats': Field(NUMBER), 'bound_bits': Field(NUMBER)},
      check=lambda inputs: fits(inputs, C, 'scores'),
    ),
  }
  note = note_on_prompts(prompt[None])
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    leading=LEADING,
    bounds=(*LEADING, 'perplexity'),
    sharding=SHARDING,
    notes=(note,) if note else (),
  )
