"""VQ-VAE (arXiv 1711.00937): images as grids of codes, and a Transformer over the codes so that it draws.

Two stages in one run. The autoencoder learns by the likelihood of an image given its codes, with straight-through
gradients and a commitment term, the codebook by moving averages with dead codes restarted. The prior, the project's own
language model, learns the codes in reading order; it trains at every update on what the codes are then, and after
config.loss.autoencoder_steps updates the autoencoder and the codebook stay as they are.

log p(x | codes) + log p(codes) is a lower bound of log p(x) (section 3, last equation): 'elbo_nats'.

State: params and opt_state {'autoencoder': {encoder, decoder, log_scale}, 'prior'}; ema {'params', 'codebook'}, as
averaged weights need the codes that belong to them; stats is the `Codebook`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._views import rows_of
from gen_ai.core import random
from gen_ai.core.errors import UserError
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
from gen_ai.core.optim import Pace, Updater, gradients
from gen_ai.maths import densities, quantise
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.sampling import Rule, generate
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import MATRICES, Architecture, Transformer
from gen_ai.nets.vqvae import GridDecoder, GridEncoder

KINDS = ('image',)  # of data
LEADING = {'elbo_nats': 'max', 'nll_bpd': 'min', 'pixel_mse': 'min', 'spread': '', 'perplexity': ''}


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data, or sizes together, that this family cannot train."""
  model = config.model
  H, W, _ = spec.image_shape
  step = 2**model.downsamples
  if H % step or W % step:
    raise UserError(
      f'config.model.downsamples={model.downsamples} needs sides that are multiples of {step}; the images are {H}x{W}. '
      'Halve less often, or resize by config.data.image_size.'
    )
  vectors = config.data.batch_size * (H // step) * (W // step)
  if model.codes > vectors:
    raise UserError(
      f'config.model.codes={model.codes} are more codes than data: an update sees {vectors} vectors '
      f'({config.data.batch_size} images of {H // step}x{W // step}), so that most codes would never be '
      'chosen. Take fewer codes or a larger config.data.batch_size.'
    )
  if model.prior_width % model.prior_heads:
    raise UserError(
      f'config.model.prior_width={model.prior_width} does not divide into {model.prior_heads} heads '
      '(config.model.prior_heads).'
    )


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VQ-VAE of `config`; see `gen_ai.core.method.Method`. Picture 'reconstructions': inputs above outputs."""
  check(config, spec)
  model, loss, dtype = config.model, config.loss, compute_dtype(config.precision)
  H, W, C = spec.image_shape
  grid = (H // 2**model.downsamples, W // 2**model.downsamples)
  T, K, dims = grid[0] * grid[1], model.codes, H * W * C
  shared = {
    'width': model.width,
    'downsamples': model.downsamples,
    'blocks': model.blocks,
    'activation': model.activation,
    'dtype': dtype,
  }
  encoder, decoder = GridEncoder(model.code_dim, **shared), GridDecoder(C, **shared)
  # Code K begins a sequence and is never drawn.
  prior = Transformer(Architecture(K + 1, T, model.prior_layers, model.prior_heads, model.prior_width, dtype=dtype))
  updater = Updater(
    config,
    {'autoencoder': Pace(), 'prior': Pace(loss.prior_lr_factor)},
    average=lambda state: {'params': state.params, 'codebook': state.stats.vectors},
    matrices=MATRICES,
  )

  def encode(params: PyTree, x: Array) -> Array:
    z: Any = encoder.apply({'params': params['encoder']}, x)
    return z

  def decode(params: PyTree, vectors: Array) -> Array:
    """Mean of x, [B, H, W, C]."""
    mean: Any = decoder.apply({'params': params['decoder']}, vectors)
    return mean

  def log_prob(params: PyTree, mean: Array, x: Array) -> Array:
    """log p(x | codes) in nats [B]."""
    scale = jnp.maximum(params['log_scale'], densities.MIN_LOG_SCALE)
    return densities.discretised_logistic_log_prob(x, mean, scale)

  def prior_logits(params: PyTree, index: Array) -> Array:
    """Logits [B, T, K] of codes int32 [B, T], each from those before it."""
    begin = jnp.full((index.shape[0], 1), K, jnp.int32)
    logits: Any = prior.apply({'params': params}, jnp.concatenate([begin, index[:, :-1]], 1), train=False)
    return logits[..., :K]

  def prior_nats(params: PyTree, index: Array) -> Array:
    """-log p(codes) [B] of int32 [B, T]."""
    return optax.softmax_cross_entropy_with_integer_labels(prior_logits(params, index), index).sum(1)

  def init(key: Key) -> State:
    x = jnp.zeros((2, *spec.shape))
    params = {
      'autoencoder': {
        'encoder': encoder.init(random.stream(key, 'encoder'), x)['params'],
        'decoder': decoder.init(random.stream(key, 'decoder'), jnp.zeros((2, *grid, model.code_dim)))['params'],
        'log_scale': jnp.float32(-1.0),
      },
      'prior': prior.init(random.stream(key, 'prior'), jnp.zeros((2, T), jnp.int32), train=False)['params'],
    }
    return updater.init(params, quantise.start(random.stream(key, 'codebook'), K, model.code_dim))

  def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
    """Both stages: no gradient of one reaches the other, as codes are whole numbers."""
    x, own = to_signed(batch['image']), params['autoencoder']
    z = encode(own, x)
    index = quantise.nearest(stats.vectors, jax.lax.stop_gradient(z))
    code = stats.vectors[index]
    reconstruction = log_prob(own, decode(own, quantise.straight_through(z, code)), x).mean()
    # The paper's terms are per vector; the likelihood is of a whole image.
    committed = quantise.commitment(z, code).sum((1, 2)).mean()
    codes = prior_nats(params['prior'], index.reshape(-1, T)).mean()
    noise = jax.vmap(lambda k: jax.random.normal(k, (T, K)))(batch['noise'])
    seen = quantise.usage(index.reshape(-1), z.reshape(-1, model.code_dim), noise.reshape(-1, K))
    metrics = {
      'loss_nats': -reconstruction + loss.commitment * committed,
      'reconstruction_nats': reconstruction,
      'commitment': committed,
      'prior_nats': codes / T,
      'elbo_nats': reconstruction - codes,
      'seen': seen,
    }
    return metrics['loss_nats'] + codes, (metrics, stats)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    B = batch['image'].shape[0]
    rows = {'image': batch['image'], 'noise': jax.random.split(random.stream(key, 'restart'), B)}
    grads, metrics, _ = gradients(loss_fn, state.params, state.stats, rows, key, config.optim.accumulate, reduce)
    metrics = dict(metrics)
    seen = metrics.pop('seen')
    book = quantise.update(state.stats, seen, config.data.batch_size * T, loss.codebook_decay, loss.restart_below)
    new = updater.update(state, grads)._replace(stats=book)
    if loss.autoencoder_steps:
      learns, kept = state.step < loss.autoencoder_steps, {'autoencoder': state.params['autoencoder']}
      old = new._replace(
        params=new.params | kept,
        opt_state=new.opt_state | {'autoencoder': state.opt_state['autoencoder']},
        stats=state.stats,
      )
      new = jax.tree.map(lambda n, o: jnp.where(learns, n, o), new, old)
    metrics |= {
      'nll_bpd': densities.nats_to_bpd(-metrics['elbo_nats'], dims),
      'codes_used': (seen.share > 0).mean(),
      'perplexity': quantise.perplexity(seen.share),
      'grad_norm_autoencoder': optax.tree.norm(grads['autoencoder']),
      'grad_norm_prior': optax.tree.norm(grads['prior']),
    }
    return updater.advance(new), metrics

  def eval_params(state: State) -> tuple[PyTree, Array]:
    """(parameters, codes)."""
    own = updater.eval_params(state)
    return own['params'], own['codebook']

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    params, codes = eval_params(state)
    own, x = params['autoencoder'], to_signed(batch['image'])
    index = quantise.nearest(codes, encode(own, x))
    mean = decode(own, codes[index])
    reconstruction, prior_cost = log_prob(own, mean, x), prior_nats(params['prior'], index.reshape(-1, T))
    bound = reconstruction - prior_cost
    per_example = {
      'elbo_nats': bound,
      'reconstruction_nats': reconstruction,
      'prior_nats': prior_cost / T,
      'nll_bpd': densities.nats_to_bpd(-bound, dims),
      # A mean beyond the range is how the likelihood says black or white.
      'pixel_mse': ((jnp.clip(mean, -1.0, 1.0) - x) ** 2).mean((1, 2, 3)),
    }
    return masked(per_example, batch['mask'])

  def pictured(params: PyTree, vectors: Array) -> Array:
    return jnp.clip(decode(params['autoencoder'], vectors), -1.0, 1.0)

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, codes = eval_params(state)
    B = own_keys.shape[0]

    def extend(cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
      out: Any = prior.apply({'params': params['prior']}, cache, tokens, positions, pick, fresh, method='extend')
      return out[0][:, :K], out[1]

    begin, rule = jnp.full((B, 1), K, jnp.int32), Rule(temperature=config.sample.temperature, top_k=config.sample.top_k)
    # T codes follow the begin token; the last of them is never looked at, so the context of T holds them all.
    keys = random.stream(own_keys, 'codes')
    drawn = generate(extend, prior.init_cache(B), begin, T, T + 1, keys, rule)[:, 1:]
    return {SAMPLE: pictured(params, codes[drawn.reshape(B, *grid)])}

  def encoded(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, codes = eval_params(state)
    return {'codes': quantise.nearest(codes, encode(params['autoencoder'], to_signed(inputs['image'])))}

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, codes = eval_params(state)
    return {SAMPLE: pictured(params, codes[encoded(state, inputs, own_keys)['codes']])}

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    params, codes = eval_params(state)
    x = to_signed(batch['image'])
    output = decode(params['autoencoder'], codes[quantise.nearest(codes, encode(params['autoencoder'], x))])
    pairs = jnp.stack([rows_of(a, spec.shape) for a in (x, jnp.clip(output, -1.0, 1.0))], axis=1)
    return pairs.reshape(-1, *spec.shape)

  observation = 'discretised_logistic likelihood, 256 levels as they are'
  given, image = {'image': Field(EXAMPLE, spec.shape, True)}, {SAMPLE: Field(EXAMPLE, spec.shape)}
  tasks = {
    GENERATE: Task(generated, {}, image),
    'reconstruct': Task(reconstructed, given, image),
    'encode': Task(encoded, given, {'codes': Field('codes', grid)}),
  }
  visualizations = {'reconstructions': reconstructions}
  return Method(
    init, train_step, eval_step, tasks, visualizations=visualizations, observation=observation, leading=LEADING
  )
