"""VQ-VAE (arXiv 1711.00937): images as grids of codes, and a Transformer over the codes so that it draws.

Two stages in one run. The autoencoder learns by the likelihood of an image given its codes, with straight-through
gradients and a commitment term, the codebook by moving averages with dead codes restarted. The prior, the project's own
language model, learns the codes in reading order; it trains at every update on what the codes are then, and after
config.loss.autoencoder_steps updates the autoencoder and the codebook stay as they are.

log p(x | codes) + log p(codes) is a lower bound of log p(x) (section 3, last equation): 'elbo_nats'.

State: params and opt_state {'autoencoder': {encoder, decoder, log_scale}, 'prior'}; ema {'params', 'codebook'}, as
averaged weights need the codes that belong to them; stats is the `Codebook`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.vae import MIN_LOG_SCALE, rows_of
from gen_ai import keys
from gen_ai.errors import UserError
from gen_ai.maths import densities, quantise
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.sampling import StepFn, generate
from gen_ai.maths.switch import is_off
from gen_ai.nets.transformer import Transformer
from gen_ai.nets.vqvae import GridDecoder, GridEncoder
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

LEADING = {'elbo_nats': 'max', 'nll_bpd': 'min', 'pixel_mse': 'min', 'spread': '', 'perplexity': ''}
PARTS = ('autoencoder', 'prior')


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data, sizes or settings that this family does not know."""
  model = config.model
  if spec.kind != 'image':
    raise UserError(f"experiment 'vqvae' models images, but config.data.name='{config.data.name}' is text.")
  H, W, _ = spec.image_shape
  step = 2**model.halvings
  if H % step or W % step:
    raise UserError(f'config.model.halvings={model.halvings} needs sides that are multiples of {step}; the images are '
                    f'{H}x{W}. Halve less often, or resize by config.data.image_size.')  # fmt: skip
  vectors = config.data.batch_size * (H // step) * (W // step)
  if model.codes > vectors:
    raise UserError(f'config.model.codes={model.codes} are more codes than data: an update sees {vectors} vectors '
                    f'({config.data.batch_size} images of {H // step}x{W // step}), so that most codes would never be '
                    'chosen. Take fewer codes or a larger config.data.batch_size.')  # fmt: skip
  if model.prior_width % model.prior_heads:
    raise UserError(
      f'config.model.prior_width={model.prior_width} does not divide into {model.prior_heads} heads '
      '(config.model.prior_heads).'
    )
  for path, value, most in (
    ('sample.temperature', config.sample.temperature, math.inf), ('loss.commitment', config.loss.commitment, math.inf),
    ('loss.restart_below', config.loss.restart_below, math.inf),
    ('loss.prior_lr_factor', config.loss.prior_lr_factor, math.inf),
    ('loss.codebook_decay', config.loss.codebook_decay, 1.0),
  ):  # fmt: skip
    if not isinstance(value, jax.core.Tracer) and not 0 <= value < most:
      raise UserError(f'config.{path}={value} must be at least 0{" and less than 1" if most == 1 else ""}.')
  if config.sample.top_k < 0:
    raise UserError(f'config.sample.top_k={config.sample.top_k} must be at least 0; 0 draws from all codes.')


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VQ-VAE of `config`; see `gen_ai.types.Method`. Its view 'reconstructions' shows inputs above outputs."""
  check(config, spec)
  model, loss, dtype = config.model, config.loss, compute_dtype(config.precision)
  H, W, C = spec.image_shape
  grid = (H // 2**model.halvings, W // 2**model.halvings)
  T, K, dims = grid[0] * grid[1], model.codes, H * W * C
  shared = {'width': model.width, 'halvings': model.halvings, 'blocks': model.blocks,
            'activation': model.activation, 'dtype': dtype}  # fmt: skip
  encoder, decoder = GridEncoder(model.code_dim, **shared), GridDecoder(C, **shared)
  # Code K begins a sequence and is never drawn.
  prior = Transformer(vocab_size=K + 1, context=T, num_layers=model.prior_layers, num_heads=model.prior_heads,
                      width=model.prior_width, dtype=dtype)  # fmt: skip
  rules = {
    'autoencoder': optimiser(config.optim, config.run.steps),
    'prior': optimiser(config.optim, config.run.steps, loss.prior_lr_factor),
  }
  averaged = not is_off(config.optim.ema_decay)

  def encode(params: PyTree, x: Array) -> Array:
    z: Any = encoder.apply({'params': params['encoder']}, x)
    return z

  def decode(params: PyTree, vectors: Array) -> Array:
    """Mean of x, [B, H, W, C]."""
    mean: Any = decoder.apply({'params': params['decoder']}, vectors)
    return mean

  def log_prob(params: PyTree, mean: Array, x: Array) -> Array:
    """log p(x | codes) in nats [B]."""
    scale = jnp.maximum(params['log_scale'], MIN_LOG_SCALE)
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
        'encoder': encoder.init(keys.stream(key, 'encoder'), x)['params'],
        'decoder': decoder.init(keys.stream(key, 'decoder'), jnp.zeros((2, *grid, model.code_dim)))['params'],
        'log_scale': jnp.float32(-1.0),
      },
      'prior': prior.init(keys.stream(key, 'prior'), jnp.zeros((2, T), jnp.int32), train=False)['params'],
    }
    book = quantise.start(keys.stream(key, 'codebook'), K, model.code_dim)
    # Copies: the programs donate the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, {'params': params, 'codebook': book.vectors}) if averaged else ()
    return State(jnp.int32(0), params, {part: rules[part].init(params[part]) for part in PARTS}, ema, book)

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
    metrics = {'loss_nats': -reconstruction + loss.commitment * committed, 'reconstruction_nats': reconstruction,
               'commitment': committed, 'prior_nats': codes / T,
               'elbo_nats': reconstruction - codes, 'seen': seen}  # fmt: skip
    return metrics['loss_nats'] + codes, (metrics, stats)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    B = batch['image'].shape[0]
    rows = {'image': batch['image'], 'noise': jax.random.split(keys.stream(key, 'restart'), B)}
    grads, metrics, _ = gradients(loss_fn, state.params, state.stats, rows, key, config.optim.accumulate, reduce)
    metrics = dict(metrics)
    seen = metrics.pop('seen')
    book = quantise.update(state.stats, seen, config.data.batch_size * T, loss.codebook_decay, loss.restart_below)
    params, opt_state = {}, {}
    for part in PARTS:
      change, opt_state[part] = rules[part].update(grads[part], state.opt_state[part], state.params[part])
      params[part] = jax.tree.map(jnp.add, state.params[part], change)
    if loss.autoencoder_steps:
      learns = state.step < loss.autoencoder_steps
      keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(learns, n, o), new, old)  # noqa: E731
      params['autoencoder'] = keep(params['autoencoder'], state.params['autoencoder'])
      opt_state['autoencoder'] = keep(opt_state['autoencoder'], state.opt_state['autoencoder'])
      book = keep(book, state.stats)
    step = state.step + 1
    ema = state.ema
    if averaged:
      ema = ema_update(ema, {'params': params, 'codebook': book.vectors}, config.optim.ema_decay, step)
    metrics |= {'nll_bpd': densities.nats_to_bpd(-metrics['elbo_nats'], dims),
                'codes_used': (seen.share > 0).mean(), 'perplexity': quantise.perplexity(seen.share),
                'grad_norm_autoencoder': optax.tree.norm(grads['autoencoder']),
                'grad_norm_prior': optax.tree.norm(grads['prior'])}  # fmt: skip
    return State(step, params, opt_state, ema, book), metrics

  def settled(state: State) -> tuple[PyTree, Array]:
    """(parameters, codes)."""
    return (state.ema['params'], state.ema['codebook']) if averaged else (state.params, state.stats.vectors)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    params, codes = settled(state)
    own, x = params['autoencoder'], to_signed(batch['image'])
    index = quantise.nearest(codes, encode(own, x))
    mean = decode(own, codes[index])
    reconstruction, prior_cost = log_prob(own, mean, x), prior_nats(params['prior'], index.reshape(-1, T))
    bound = reconstruction - prior_cost
    per_example = {'elbo_nats': bound, 'reconstruction_nats': reconstruction, 'prior_nats': prior_cost / T,
                   'nll_bpd': densities.nats_to_bpd(-bound, dims),
                   # A mean beyond the range is how the likelihood says black or white.
                   'pixel_mse': ((jnp.clip(mean, -1.0, 1.0) - x) ** 2).mean((1, 2, 3))}  # fmt: skip
    mask = batch['mask']
    return {name: ((value * mask).sum(), mask.sum()) for name, value in per_example.items()}

  def step_fn(params: PyTree) -> StepFn:
    def step(cache: PyTree, token: Array, position: Array) -> tuple[Array, PyTree]:
      out: Any = prior.apply({'params': params}, cache, token, position, method='decode_step')
      logits, cache = out
      return logits[:, :K], cache

    return step

  def sample(state: State, key: Key, n: int) -> Array:
    params, codes = settled(state)
    begin = jnp.full((n, 1), K, jnp.int32)
    # T codes follow the begin token; the last of them is never looked at, so the context of T holds them all.
    drawn = generate(step_fn(params['prior']), prior.init_cache(n), begin, T + 1, keys.stream(key, 'codes'),
                     config.sample.temperature, config.sample.top_k)[:, 1:]  # fmt: skip
    mean = decode(params['autoencoder'], codes[drawn.reshape(n, *grid)])
    return jnp.clip(mean, -1.0, 1.0)

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    params, codes = settled(state)
    x = to_signed(batch['image'])
    output = decode(params['autoencoder'], codes[quantise.nearest(codes, encode(params['autoencoder'], x))])
    pairs = jnp.stack([rows_of(a, spec.shape) for a in (x, jnp.clip(output, -1.0, 1.0))], axis=1)
    return pairs.reshape(-1, *spec.shape)

  measure = 'discretised_logistic likelihood, 256 levels as they are'
  return Method(init, train_step, eval_step, sample, views={'reconstructions': reconstructions}, measure=measure,
                leading=LEADING)  # fmt: skip
