"""Decoder-only Transformer language model on text: next-token prediction, continuation of prompts, scores of texts.

GPT-2's network (Radford et al. 2019) or today's, by config.model; see `gen_ai.nets.transformer.Architecture`.
"""

import math
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
  DRAFT,
  DRAFT_BY,
  EXAMPLE,
  GENERATE,
  NUMBER,
  PROMPT,
  SAMPLE,
  Array,
  Batch,
  Field,
  Help,
  Key,
  Method,
  Metrics,
  PyTree,
  Reader,
  Reduce,
  Spec,
  State,
  Stream,
  SumCount,
  Task,
  identity,
)
from gen_ai.core.names import Part
from gen_ai.core.optim import Updater, Weighted, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths.cross_entropy import TokenLoss, tiled, token_loss
from gen_ai.maths.sampling import Decoding, Rule, looks_back
from gen_ai.maths.speculative import Speculation
from gen_ai.nets import hugging_face, lora, scaling
from gen_ai.nets.experts import LOSSES
from gen_ai.nets.transformer import MATRICES, SHARDING, Transformer, head_of, logits_by

ROUTERS = ('balance', 'router_z')  # names of losses of routers, in config.loss, among the metrics and as sown
KINDS = ('text',)  # of data
BESIDE = 'another run (python -m gen_ai.convert makes one of files of GPT-2 or Llama)'  # adapters are trained


def routed(sown: PyTree, layers: int) -> dict[str, Array]:
  """{name: sum over tokens, mean over layers} of what `gen_ai.nets.experts.Experts` has sown."""
  found: dict[str, Array] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(sown):
    name = next(name for name in ROUTERS if name in jax.tree_util.keystr(path))
    found[name] = found.get(name, jnp.float32(0)) + leaf.sum() / layers
  return found


def note_on_prompts(prompts: np.ndarray, context: int) -> str:
  """What to say of prompts int32 [N, P], the rest of shorter ones -1, for a model that sees `context` tokens; or ''."""
  longest = int((prompts >= 0).sum(1).max())
  seen = looks_back(longest, context)
  if seen == longest:
    return ''
  return (
    f'the prompt has {longest:,} tokens, too many for blocks of {context:,} (config.data.block_size): the texts '
    f'start with all of it, but the model goes on from its last {seen:,} tokens alone'
  )


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The language model of `config`; see `gen_ai.core.method.Method`."""
  model, (T,), vocab = config.model, spec.shape, spec.vocab
  assert vocab is not None
  arch = architecture(config, vocab.size)
  net = Transformer(arch)
  trains = Part('|'.join(lora.NAMES), f'config.model.lora={arch.lora}', BESIDE) if arch.lora else None
  updater = Updater(config, matrices=MATRICES, rates=scaling.rates(arch.growth, config.optim.name), trains=trains)
  bytes_of = jnp.asarray(vocab.byte_counts())
  apart, separator = model.documents == 'apart', vocab.separator
  if apart and separator is None:
    raise UserError(
      f"config.model.documents=apart needs tokens that begin every document; config.data.tokens='{config.data.tokens}' "
      "has none: take 'bpe:4096', say."
    )
  prompt = beginning(vocab, config.sample.prompt)
  stops = stop_table(vocab, tuple(config.sample.stop))

  def init(key: Key) -> State:
    return updater.init(net.init({'params': key}, jnp.zeros((2, T), jnp.int32), train=False)['params'])

  def losses(params: PyTree, tokens: Array, train: bool, key: Key) -> tuple[TokenLoss, dict[str, Array]]:
    """(of each token [B, T] after the first, {name: of the routers, summed over layers and tokens})."""
    rngs = {'dropout': key} if train and not is_off(model.dropout) else None
    given = tokens[:, :-1]
    # The separator is of the document that it begins, whose first word is then predicted from nothing.
    parts = jnp.cumsum(given == separator, 1) if apart else None
    found: Any = net.apply(
      {'params': params},
      given,
      train,
      None,
      parts,
      rngs=rngs,
      method='hidden',
      mutable=[LOSSES] if arch.experts else False,
    )
    hidden, sown = found if arch.experts else (found, {})

    def logits(rows: Array, hidden: Array) -> Array:
      return logits_by(hidden, rows, model.tied, model.softcap)

    return tiled(logits, head_of(params), hidden, tokens[:, 1:], config.loss.chunk), routed(sown, arch.layers)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    def loss_fn(trained: PyTree, stats: PyTree, batch: Batch, key: Key):
      params = updater.whole(trained, state.params)
      found, routers = losses(params, batch['tokens'], True, random.stream(key, 'dropout'))
      nats, count = found.nats.sum(), jnp.float32(found.nats.size)
      total = nats if is_off(config.loss.z) else nats + config.loss.z * (found.normaliser**2).sum()
      for name, value in routers.items():
        total += config.loss[name] * value
      metrics = {'loss_nats': nats, **routers}
      return Weighted(total, count), ({name: Weighted(value, count) for name, value in metrics.items()}, stats)

    grads, metrics, _ = gradients(
      loss_fn,
      updater.trained(state.params),
      (),
      {'tokens': batch['tokens']},
      key,
      config.optim.accumulate,
      reduce,
      rowwise=is_off(model.dropout),
    )
    return updater.advance(updater.update(state, grads)), {**metrics, 'grad_norm': optax.tree.norm(grads)}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    tokens = jnp.maximum(batch['tokens'], 0)
    # After the end of the text, in its last window, there is nothing to predict.
    mask = batch['mask'][:, None] * (batch['tokens'][:, 1:] >= 0)
    per_token = losses(updater.eval_params(state), tokens, False, key)[0].nats * mask
    of_bytes = bytes_of[tokens[:, 1:]] * mask
    # A separator is none of the text's bytes: without it, figures of all tokenizers are of the same.
    bits = (per_token * (of_bytes > 0)).sum() / math.log(2)
    return {'loss_nats': (per_token.sum(), mask.sum()), 'bits_per_byte': (bits, of_bytes.sum())}

  def reader(state: State) -> Reader:
    params = updater.eval_params(state)

    def extend(cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
      out: Any = net.apply({'params': params}, cache, tokens, positions, pick, fresh, method='extend')
      return out

    return Reader(extend, net.init_cache, T)

  def continuing(draft: Reader | None = None, tokens: int = 0) -> Task:
    """Each row goes on from its own prompt by sample.length tokens; what follows them in a row is -1."""
    sample = config.sample
    rule = Rule(sample.repetition, sample.temperature, sample.top_k, sample.top_p, sample.min_p)

    def decoding(state: State, own_keys: Key) -> Any:
      how = sample.length, random.stream(own_keys, 'extend'), rule, stops
      if draft is None:
        return Decoding(reader(state), *how)
      return Speculation(reader(state), draft, tokens, *how)

    def start(state: State, inputs: Batch, own_keys: Key) -> PyTree:
      usual = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (own_keys.shape[0], len(prompt)))
      return decoding(state, own_keys).start(inputs.get('prompt', usual))

    def advance(state: State, carry: PyTree, own_keys: Key, pieces: Array) -> PyTree:
      return decoding(state, own_keys).advance(carry, pieces)

    def outputs(carry: Any) -> Batch:
      told = DRAFT if draft is not None else ()
      return {SAMPLE: carry.text, 'given': carry.given, **{name: getattr(carry, name) for name in told}}

    def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
      whole = jnp.int32(sample.length)
      return outputs(advance(state, start(state, inputs, own_keys), own_keys, whole))

    names = ('given', *(DRAFT if draft is not None else ()))
    return Task(
      generated,
      {'prompt': Field(PROMPT, (None,))},
      {SAMPLE: Field(EXAMPLE, (None,)), **{name: Field('count') for name in names}},
      check=checked,
      stream=Stream(start, advance, outputs, lambda carry: carry.done),
      helps={} if draft is not None else {DRAFT_BY: Help(reader, continuing, ('tokens',))},
    )

  def scored(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """-log p of each token given those before it; 0 for the first, which nothing predicts, and after the end."""
    del own_keys
    text = inputs['prompt']
    logits: Any = net.apply({'params': updater.eval_params(state)}, jnp.maximum(text[:, :-1], 0), train=False)
    nats = token_loss(logits, jnp.maximum(text[:, 1:], 0)).nats
    return {'nats': jnp.pad(jnp.where(text[:, 1:] >= 0, nats, 0.0), ((0, 0), (1, 0)))}

  def checked(inputs: Any) -> str:
    return note_on_prompts(np.asarray(inputs['prompt']), T) if 'prompt' in inputs else ''

  def check_length(inputs: Any) -> str:
    tokens = int((np.asarray(inputs['prompt']) >= 0).sum(1).max())
    if tokens - 1 > T:
      raise UserError(
        f'the text has {tokens:,} tokens; this model scores at most {T + 1:,} (config.data.block_size + 1).'
      )
    return ''

  tasks = {
    GENERATE: continuing(),
    'score': Task(
      scored,
      {'prompt': Field(PROMPT, (None,), True)},
      {'nats': Field(NUMBER, (None,))},
      settings=(),
      check=check_length,
    ),
  }
  note = note_on_prompts(prompt[None], T)
  notes = (note,) if note else ()
  files = hugging_face.layout(arch)
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    leading=LEADING,
    sharding=SHARDING,
    files=files,
    notes=notes,
    trains=trains,
    merged=lambda params: lora.merged(params, arch.lora_scale),
  )
