"""Images and words by one Transformer (DALL-E, arXiv 2102.12092): a caption, then the VQ-VAE codes of what it says.

A sequence is the words of a caption (`experiments._captions`) and the codes of the image in reading order, whose
vocabulary follows that of the words. The codes and the two stages of training are those of `experiments._vq`. Captions
are made of the names of the classes: each image gets a random one of its class at every update, and now and then none,
so that samples can be guided (arXiv 2207.12598, eq. 6, on the logits of the next code).

log p(x | codes) + log p(codes | caption) is a lower bound of log p(x | caption): 'elbo_nats', for the first caption of
the image's class. By Bayes' rule it says which caption an image has: the task 'classify'.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments._captions import BLANK, Captions
from experiments._views import COLUMNS
from experiments._vq import OBSERVATION, CodedImages, check, grid_of
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  ASKED,
  CLASSES,
  EXAMPLE,
  GENERATE,
  LABEL,
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
  SumCount,
  Task,
  identity,
)
from gen_ai.core.switch import is_off
from gen_ai.maths.masked import masked
from gen_ai.maths.sampling import Rule, generate
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import Architecture, Transformer, head_of, logits_by

KINDS = ('image',)  # of data
LEADING = {'elbo_nats': 'max', 'nll_bpd': 'min', 'prior_nats': 'min', 'pixel_mse': 'min', 'spread': ''}


class Sequences:
  """The Transformer over captions and codes.

  Args:
    config: of the run.
    captions: whose tokens begin a sequence.
    T: codes of an image, which end it.
  """

  def __init__(self, config: ConfigDict, captions: Captions, T: int):
    model, self.captions, self.T = config.model, captions, T
    # The last code is never looked at, so that this context holds a caption and all codes.
    context = captions.length + T - 1
    self.net = Transformer(
      Architecture(
        captions.size + model.codes,
        context,
        model.prior_layers,
        model.prior_heads,
        model.prior_width,
        dtype=compute_dtype(config.precision),
      )
    )

  def init(self, key: Key) -> PyTree:
    """Parameters."""
    tokens = jnp.zeros((2, self.captions.length + self.T - 1), jnp.int32)
    return self.net.init(key, tokens, train=False)['params']

  def nats(self, params: PyTree, caption: Array, codes: Array) -> Array:
    """-log p(code | those before it, caption) [B, T] of tokens [B, length] and codes int32 [B, T]."""
    words = self.captions
    tokens = jnp.concatenate([caption, codes[:, :-1] + words.size], 1)
    hidden: Any = self.net.apply({'params': params}, tokens, False, method='hidden')
    hidden = hidden[:, words.length - 1 :]
    rows = head_of(params)[words.size :]  # no word comes after the first code
    logits = logits_by(hidden, rows, tied=True, softcap=0.0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, codes)

  def draw(self, params: PyTree, caption: Array, guidance: float | Array, rule: Rule, keys: Key) -> Array:
    """Codes int32 [B, T] after captions [B, length], by noise of keys [B]; see config.sample.guidance."""
    words, B = self.captions, caption.shape[0]
    guided = not is_off(guidance)

    def step(cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
      out: Any = self.net.apply({'params': params}, cache, tokens, positions, pick, fresh, method='extend')
      return out

    def extend(cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
      logits, given = step(cache[0], tokens, positions, pick, fresh)
      if not guided:
        return codes_alone(logits), (given,)
      plain, without = step(cache[1], words.blanks(B) if fresh else tokens, positions, pick, fresh)
      return codes_alone(logits + guidance * (logits - plain)), (given, without)

    def codes_alone(logits: Array) -> Array:
      return jnp.where(jnp.arange(logits.shape[1]) < words.size, -jnp.inf, logits)

    cache = tuple(self.net.init_cache(B) for _ in range(1 + guided))
    drawn = generate(extend, cache, caption, self.T, words.length + self.T, keys, rule)
    return drawn[:, words.length :] - words.size


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The model of `config`; see `gen_ai.core.method.Method`.

  Pictures: 'reconstructions', inputs above outputs; 'classes', a row a class by the same noise.
  """
  check(config, spec)
  captions = Captions(config.model.captions, spec)
  grid = grid_of(spec, config.model.downsamples)
  T, classes, drops = math.prod(grid), spec.num_classes, not is_off(config.loss.drop_caption)
  sequences = Sequences(config, captions, T)

  def prior_nats(params: PyTree, rows: Batch, codes: Array) -> Array:
    return sequences.nats(params, rows['caption'], codes).sum(1)

  coded = CodedImages(config, spec, reduce, sequences.init, prior_nats)
  first = jnp.asarray(captions.first)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    keys = random.per_example(random.stream(key, 'caption'), batch['index'])
    caption = captions.drawn(keys, batch['label'])
    if drops:
      left_out = jax.vmap(lambda own: jax.random.uniform(random.stream(own, 'drop')))(keys) < config.loss.drop_caption
      caption = jnp.where(left_out[:, None], BLANK, caption)
    return coded.train_step(state, {'image': batch['image'], 'caption': caption}, key)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    del key
    return masked(coded.bound(state, {**batch, 'caption': first[batch['label']]}), batch['mask'])

  def drawn(state: State, caption: Array, own_keys: Key) -> Array:
    sample, keys = config.sample, random.stream(own_keys, 'codes')
    rule = Rule(temperature=sample.temperature, top_k=sample.top_k)
    params, _ = coded.eval_params(state)
    guidance = sample.guidance if drops else 0.0
    return coded.picture(state, sequences.draw(params['prior'], caption, guidance, rule, keys))

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """By a prompt, or by a random caption of a class, which is drawn where none is given."""
    if 'prompt' in inputs:
      caption = inputs['prompt']
      return {SAMPLE: drawn(state, caption, own_keys), ASKED: captions.label(caption)}
    label = inputs.get('label', random.labels(own_keys, classes))
    return {SAMPLE: drawn(state, captions.drawn(own_keys, label), own_keys), ASKED: label}

  def scored(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """What an image costs after a caption: of a prompt, of a class its first, else the empty one."""
    B = own_keys.shape[0]
    caption = first[inputs['label']] if 'label' in inputs else inputs.get('prompt', captions.blanks(B))
    parts = coded.bound(state, {'image': inputs['image'], 'caption': caption})
    codes, (params, _) = coded.codes(state, inputs['image']).reshape(B, T), coded.eval_params(state)
    return {
      'bits': -parts['elbo_nats'] / math.log(2),
      'elbo_nats': parts['elbo_nats'],
      'reconstruction_nats': parts['reconstruction_nats'],
      'code_nats': sequences.nats(params['prior'], caption, codes),
    }

  def classified(state: State, inputs: Batch, own_keys: Key) -> Batch:
    """By Bayes' rule from the first caption of every class, each as likely as any other; and a bound of log p(x)."""
    B = own_keys.shape[0]
    codes, (params, _) = coded.codes(state, inputs['image']).reshape(B, T), coded.eval_params(state)

    def of_class(caption: Array) -> Array:
      return -sequences.nats(params['prior'], jnp.broadcast_to(caption, (B, captions.length)), codes).sum(1)

    parts = coded.bound(state, {'image': inputs['image'], 'caption': captions.blanks(B)})
    joint = parts['reconstruction_nats'][:, None] + jax.lax.map(of_class, first).T - math.log(classes)
    return {'log_probs': jax.nn.log_softmax(joint), 'elbo_nats': jax.nn.logsumexp(joint, 1)}

  def checked(inputs: Any) -> str:
    if 'label' in inputs and 'prompt' in inputs:
      raise UserError("give a label or a prompt: the label's caption is a prompt.")
    if not drops and 'prompt' in inputs and (np.asarray(inputs['prompt']) == BLANK).all(1).any():
      raise UserError(
        'the prompt is empty, and this model saw no image without a caption (config.loss.drop_caption=0).'
      )
    return ''

  def checked_score(inputs: Any) -> str:
    if not drops and 'label' not in inputs and 'prompt' not in inputs:
      raise UserError(
        'a score needs a label or a prompt: this model saw no image without a caption (config.loss.drop_caption=0).'
      )
    return checked(inputs)

  def by_class(state: State, batch: Batch, key: Key) -> Array:
    keys = jax.random.split(random.stream(key, 'classes'), COLUMNS)
    label, keys = jnp.repeat(jnp.arange(classes), COLUMNS), jnp.tile(keys, classes)
    return drawn(state, first[label], keys)

  def encoded(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {'codes': coded.codes(state, inputs['image'])}

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {SAMPLE: coded.picture(state, coded.codes(state, inputs['image']))}

  asked = {'label': Field(LABEL), 'prompt': Field(PROMPT, (captions.length,), encode=captions.encode)}
  given, image = {'image': Field(EXAMPLE, spec.shape, True)}, {SAMPLE: Field(EXAMPLE, spec.shape)}
  costs = {name: Field(NUMBER) for name in ('bits', 'elbo_nats', 'reconstruction_nats')}
  tasks = {
    GENERATE: Task(generated, asked, {**image, ASKED: Field(LABEL)}, check=checked),
    'score': Task(scored, {**given, **asked}, {**costs, 'code_nats': Field(NUMBER, (T,))}, (), checked_score),
    'classify': Task(classified, given, {'log_probs': Field(NUMBER, (classes,)), 'elbo_nats': Field(NUMBER)}, ()),
    'reconstruct': Task(reconstructed, given, image, ()),
    'encode': Task(encoded, given, {'codes': Field('codes', grid)}, ()),
  }
  return Method(
    coded.init,
    train_step,
    eval_step,
    tasks,
    visualizations={CLASSES: by_class, 'reconstructions': coded.reconstructions},
    observation=f'{OBSERVATION}, given the caption of the class',
    bounds=('nll_bpd',),
    leading=LEADING,
  )
