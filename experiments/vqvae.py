"""VQ-VAE (arXiv 1711.00937): images as grids of codes, and a Transformer over the codes so that it draws.

The codes and the two stages of training are those of `experiments._vq`; the prior is the project's own language model.

log p(x | codes) + log p(codes) is a lower bound of log p(x) (section 3, last equation): 'elbo_nats'.
"""

from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._vq import OBSERVATION, CodedImages, check, grid_of
from gen_ai.core import random
from gen_ai.core.method import (
  EXAMPLE,
  GENERATE,
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
from gen_ai.maths.masked import masked
from gen_ai.maths.sampling import Rule, generate
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import Architecture, Transformer

KINDS = ('image',)  # of data
LEADING = {'elbo_nats': 'max', 'nll_bpd': 'min', 'pixel_mse': 'min', 'spread': '', 'perplexity': ''}


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VQ-VAE of `config`; see `gen_ai.core.method.Method`. Picture 'reconstructions': inputs above outputs."""
  check(config, spec)
  model, (h, w) = config.model, grid_of(spec, config.model.downsamples)
  T, K, dtype = h * w, model.codes, compute_dtype(config.precision)
  # Code K begins a sequence and is never drawn.
  prior = Transformer(Architecture(K + 1, T, model.prior_layers, model.prior_heads, model.prior_width, dtype=dtype))

  def init_prior(key: Key) -> PyTree:
    return prior.init(key, jnp.zeros((2, T), jnp.int32), train=False)['params']

  def prior_nats(params: PyTree, rows: Batch, index: Array) -> Array:
    """-log p(codes) [B] of int32 [B, T], each from those before it."""
    del rows
    begin = jnp.full((index.shape[0], 1), K, jnp.int32)
    logits: Any = prior.apply({'params': params}, jnp.concatenate([begin, index[:, :-1]], 1), train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits[..., :K], index).sum(1)

  coded = CodedImages(config, spec, reduce, init_prior, prior_nats)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    return coded.train_step(state, {'image': batch['image']}, key)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    del key
    return masked(coded.bound(state, batch), batch['mask'])

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, _ = coded.eval_params(state)
    B = own_keys.shape[0]

    def extend(cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
      out: Any = prior.apply({'params': params['prior']}, cache, tokens, positions, pick, fresh, method='extend')
      return out[0][:, :K], out[1]

    begin, rule = jnp.full((B, 1), K, jnp.int32), Rule(temperature=config.sample.temperature, top_k=config.sample.top_k)
    # T codes follow the begin token; the last of them is never looked at, so the context of T holds them all.
    keys = random.stream(own_keys, 'codes')
    drawn = generate(extend, prior.init_cache(B), begin, T, T + 1, keys, rule)[:, 1:]
    return {SAMPLE: coded.picture(state, drawn)}

  def encoded(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {'codes': coded.codes(state, inputs['image'])}

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {SAMPLE: coded.picture(state, coded.codes(state, inputs['image']))}

  given, image = {'image': Field(EXAMPLE, spec.shape, True)}, {SAMPLE: Field(EXAMPLE, spec.shape)}
  tasks = {
    GENERATE: Task(generated, {}, image),
    'reconstruct': Task(reconstructed, given, image),
    'encode': Task(encoded, given, {'codes': Field('codes', coded.grid)}),
  }
  return Method(
    coded.init,
    train_step,
    eval_step,
    tasks,
    visualizations={'reconstructions': coded.reconstructions},
    observation=OBSERVATION,
    bounds=('nll_bpd',),
    leading=LEADING,
  )
