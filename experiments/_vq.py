"""What methods over VQ-VAE codes share (arXiv 1711.00937): images to grids of codes and back, beside a prior over them.

Two stages in one run. The autoencoder learns by the likelihood of an image given its codes, with straight-through
gradients and a commitment term, the codebook by moving averages with dead codes restarted. The prior learns the codes
in reading order; it trains at every update on what the codes are then, and after config.loss.autoencoder_steps updates
the autoencoder and the codebook stay as they are.

State: params and opt_state {'autoencoder': {encoder, decoder, log_scale}, 'prior'}; ema {'params', 'codebook'}, as
averaged weights need the codes that belong to them; stats is the `Codebook`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._views import rows_of
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Batch, Key, Metrics, PyTree, Reduce, Spec, State
from gen_ai.core.optim import Pace, Updater, gradients
from gen_ai.maths import densities, quantise
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import MATRICES
from gen_ai.nets.vqvae import GridDecoder, GridEncoder

OBSERVATION = 'discretised_logistic likelihood, 256 levels as they are'

# (parameters of the prior, rows, codes int32 [B, T]) -> -log p(codes) in nats [B]; rows are what a batch brings
PriorNats = Callable[[PyTree, Batch, Array], Array]


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data, or sizes together, that these families cannot train."""
  model = config.model
  h, w = grid_of(spec, model.downsamples)
  vectors = config.data.batch_size * h * w
  if model.codes > vectors:
    raise UserError(
      f'config.model.codes={model.codes} are more codes than data: an update sees {vectors} vectors '
      f'({config.data.batch_size} images of {h}x{w}), so that most codes would never be '
      'chosen. Take fewer codes or a larger config.data.batch_size.'
    )
  if model.prior_width % model.prior_heads:
    raise UserError(
      f'config.model.prior_width={model.prior_width} does not divide into {model.prior_heads} heads '
      '(config.model.prior_heads).'
    )


def grid_of(spec: Spec, downsamples: int, field: str = 'config.model.downsamples') -> tuple[int, int]:
  """Codes along each side of an image. Raises UserError, naming `field`, for sides that do not halve so often."""
  H, W, _ = spec.image_shape
  step = 2**downsamples
  if H % step or W % step:
    raise UserError(
      f'{field}={downsamples} needs sides that are multiples of {step}; the images are {H}x{W}. '
      'Halve less often, or resize by config.data.image_size.'
    )
  return H // step, W // step


def coders(model: ConfigDict, spec: Spec, dtype: Any) -> tuple[GridEncoder, GridDecoder]:
  """(encoder: x -> vectors [B, h, w, code_dim], decoder: vectors -> mean of x) of `model`, such as config.model."""
  shared = {
    'width': model.width,
    'downsamples': model.downsamples,
    'blocks': model.blocks,
    'activation': model.activation,
    'dtype': dtype,
  }
  return GridEncoder(model.code_dim, **shared), GridDecoder(spec.image_shape[-1], **shared)


class CodedImages:
  """The autoencoder and its codebook, and their training beside a prior.

  Args:
    config: of the run, which `check` has passed.
    spec: of its data.
    reduce: see `gen_ai.core.method.Reduce`.
    init_prior: key -> parameters of the prior.
    prior_nats: see `PriorNats`.

  Attributes:
    grid: codes along each side (h, w).
    T: codes of an image, h w. K: codes in the codebook. dims: numbers in an image.
  """

  def __init__(
    self,
    config: ConfigDict,
    spec: Spec,
    reduce: Reduce,
    init_prior: Callable[[Key], PyTree],
    prior_nats: PriorNats,
  ):
    model = config.model
    self._config, self._spec, self._reduce = config, spec, reduce
    self._init_prior, self.prior_nats = init_prior, prior_nats
    self.grid = grid_of(spec, model.downsamples)
    self.T, self.K, self.dims = math.prod(self.grid), model.codes, math.prod(spec.shape)
    self._encoder, self._decoder = coders(model, spec, compute_dtype(config.precision))
    self._updater = Updater(
      config,
      {'autoencoder': Pace(), 'prior': Pace(config.loss.prior_lr_factor)},
      average=lambda state: {'params': state.params, 'codebook': state.stats.vectors},
      matrices=MATRICES,
    )

  def init(self, key: Key) -> State:
    """The state before the first update."""
    dim = self._config.model.code_dim
    x, z = jnp.zeros((2, *self._spec.shape)), jnp.zeros((2, *self.grid, dim))
    params = {
      'autoencoder': {
        'encoder': self._encoder.init(random.stream(key, 'encoder'), x)['params'],
        'decoder': self._decoder.init(random.stream(key, 'decoder'), z)['params'],
        'log_scale': jnp.float32(-1.0),
      },
      'prior': self._init_prior(random.stream(key, 'prior')),
    }
    return self._updater.init(params, quantise.start(random.stream(key, 'codebook'), self.K, dim))

  def _encode(self, params: PyTree, x: Array) -> Array:
    z: Any = self._encoder.apply({'params': params['encoder']}, x)
    return z

  def decode(self, params: PyTree, vectors: Array) -> Array:
    """Mean of x [B, H, W, C] given vectors [B, h, w, code_dim], by parameters of the autoencoder."""
    mean: Any = self._decoder.apply({'params': params['decoder']}, vectors)
    return mean

  def log_prob(self, params: PyTree, mean: Array, x: Array) -> Array:
    """log p(x | codes) in nats [B]."""
    scale = jnp.maximum(params['log_scale'], densities.MIN_LOG_SCALE)
    return densities.discretised_logistic_log_prob(x, mean, scale)

  def eval_params(self, state: State) -> tuple[PyTree, Array]:
    """(parameters, codebook [K, code_dim]) that evaluations use."""
    own = self._updater.eval_params(state)
    return own['params'], own['codebook']

  def codes(self, state: State, image: Array) -> Array:
    """Codes int32 [B, h, w] of images, uint8 [B, H, W, C]."""
    params, codebook = self.eval_params(state)
    return quantise.nearest(codebook, self._encode(params['autoencoder'], to_signed(image)))

  def picture(self, state: State, codes: Array) -> Array:
    """What codes int32 [B, h, w], or in reading order [B, T], show: the mean image, in [-1, 1]."""
    params, codebook = self.eval_params(state)
    vectors = codebook[codes.reshape(-1, *self.grid)]
    return jnp.clip(self.decode(params['autoencoder'], vectors), -1.0, 1.0)

  def _loss(self, params: PyTree, stats: PyTree, batch: Batch, key: Key):
    """Both stages: no gradient of one reaches the other, as codes are whole numbers."""
    loss, x, own = self._config.loss, to_signed(batch['image']), params['autoencoder']
    z = self._encode(own, x)
    index = quantise.nearest(stats.vectors, jax.lax.stop_gradient(z))
    code = stats.vectors[index]
    reconstruction = self.log_prob(own, self.decode(own, quantise.straight_through(z, code)), x).mean()
    # The paper's terms are per vector; the likelihood is of a whole image.
    committed = quantise.commitment(z, code).sum((1, 2)).mean()
    codes = self.prior_nats(params['prior'], batch, index.reshape(-1, self.T)).mean()
    noise = jax.vmap(lambda k: jax.random.normal(k, (self.T, self.K)))(batch['noise'])
    seen = quantise.usage(index.reshape(-1), z.reshape(-1, z.shape[-1]), noise.reshape(-1, self.K))
    metrics = {
      'loss_nats': -reconstruction + loss.commitment * committed,
      'reconstruction_nats': reconstruction,
      'commitment': committed,
      'prior_nats': codes / self.T,
      'elbo_nats': reconstruction - codes,
      'seen': seen,
    }
    return metrics['loss_nats'] + codes, (metrics, stats)

  def train_step(self, state: State, rows: Batch, key: Key) -> tuple[State, Metrics]:
    """One update by rows {'image', and what else the prior reads}."""
    loss, B = self._config.loss, rows['image'].shape[0]
    rows = {**rows, 'noise': jax.random.split(random.stream(key, 'restart'), B)}
    grads, metrics, _ = gradients(
      self._loss, state.params, state.stats, rows, key, self._config.optim.accumulate, self._reduce
    )
    metrics = dict(metrics)
    seen = metrics.pop('seen')
    vectors = self._config.data.batch_size * self.T
    book = quantise.update(state.stats, seen, vectors, loss.codebook_decay, loss.restart_below)
    new = self._updater.update(state, grads)._replace(stats=book)
    if loss.autoencoder_steps:
      learns, kept = state.step < loss.autoencoder_steps, {'autoencoder': state.params['autoencoder']}
      old = new._replace(
        params=new.params | kept,
        opt_state=new.opt_state | {'autoencoder': state.opt_state['autoencoder']},
        stats=state.stats,
      )
      new = jax.tree.map(lambda n, o: jnp.where(learns, n, o), new, old)
    metrics |= {
      'nll_bpd': densities.nats_to_bpd(-metrics['elbo_nats'], self.dims),
      'codes_used': (seen.share > 0).mean(),
      'perplexity': quantise.perplexity(seen.share),
      'grad_norm_autoencoder': optax.tree.norm(grads['autoencoder']),
      'grad_norm_prior': optax.tree.norm(grads['prior']),
    }
    return self._updater.advance(new), metrics

  def bound(self, state: State, rows: Batch) -> dict[str, Array]:
    """The lower bound of log p(x) of each image of rows, see `train_step`, and its parts: {name: [B]}."""
    params, codebook = self.eval_params(state)
    own, x = params['autoencoder'], to_signed(rows['image'])
    index = quantise.nearest(codebook, self._encode(own, x))
    mean = self.decode(own, codebook[index])
    reconstruction = self.log_prob(own, mean, x)
    prior_cost = self.prior_nats(params['prior'], rows, index.reshape(-1, self.T))
    bound = reconstruction - prior_cost
    return {
      'elbo_nats': bound,
      'reconstruction_nats': reconstruction,
      'prior_nats': prior_cost / self.T,
      'nll_bpd': densities.nats_to_bpd(-bound, self.dims),
      # A mean beyond the range is how the likelihood says black or white.
      'pixel_mse': ((jnp.clip(mean, -1.0, 1.0) - x) ** 2).mean((1, 2, 3)),
    }

  def reconstructions(self, state: State, batch: Batch, key: Key) -> Array:
    """The visualization: inputs above outputs."""
    output = self.picture(state, self.codes(state, batch['image']))
    pairs = jnp.stack([rows_of(a, self._spec.shape) for a in (to_signed(batch['image']), output)], axis=1)
    return pairs.reshape(-1, *self._spec.shape)
