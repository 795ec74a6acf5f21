"""Variational autoencoders on images: one or several stochastic layers, beta and free bits, importance weights, labels.

The bound of one layer is E_q[log p(x|z)] - KL(q(z|x) || N(0, I)) with the analytic KL (Kingma & Welling 2014, arXiv
1312.6114, appendix B). Several layers are a chain x -> h1 -> h2 ... upwards and back (IWAE, arXiv 1509.00519, section
5); all but the top KL are then estimated from the draws. With k draws the bound is their mean ELBO, or IWAE's.

State: params {'encoder', 'decoder'}, and for layer n > 1 'up_n' (q(h_n | h_(n-1))) and 'down_n' (p(h_(n-1) | h_n));
stats are the running moments of posterior means that tell active units.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments._views import COLUMNS, interpolate, rows_of
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  ASKED,
  CLASSES,
  EXAMPLE,
  GENERATE,
  LABEL,
  LATENT,
  NUMBER,
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
from gen_ai.maths import bounds, densities, latents
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed, to_unit
from gen_ai.nets.apply import Module, compute_dtype
from gen_ai.nets.vae import (
  ConvDecoder,
  ConvEncoder,
  MLPDecoder,
  MLPEncoder,
  MLPMoments,
  ResidualDecoder,
  ResidualEncoder,
)

KINDS = ('image',)  # of data
LEADING = {'elbo_nats': 'max', 'nll_bpd': 'min', 'kl_nats': '', 'spread': ''}
REACH = 3.0  # standard deviations that a traversal goes to either side


def coders(model: ConfigDict, spec: Spec, dtype: Any) -> tuple[Module, Module]:
  """(encoder: x, context -> mean and log_std [B, Z], decoder: z and context -> [B, H, W, C]) of `model`.

  `model` is config.model, or a section with the same fields.
  """
  first, shared = model.latents[0], {'activation': model.activation, 'dtype': dtype}
  if model.network == 'mlp':
    return (
      MLPEncoder(first, model.widths, **shared),
      MLPDecoder(spec.image_shape, widths=model.widths[::-1], **shared),
    )
  if model.network == 'conv':
    return ConvEncoder(first, model.width, **shared), ConvDecoder(spec.image_shape, width=model.width, **shared)
  assert model.network == 'resnet', f'a branch for {model.network}'  # the config knows no other
  return ResidualEncoder(first, model.width, **shared), ResidualDecoder(spec.image_shape, width=model.width, **shared)


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data, or settings together, that this family cannot train."""
  loss, model = config.loss, config.model
  if not model.latents:
    raise UserError(
      'config.model.latents=() leaves no latent: give a size a stochastic layer, as in (16,) or (100,50).'
    )
  if loss.gradient == 'dreg' and loss.bound != 'iwae':
    raise UserError(
      "config.loss.gradient='dreg' is an estimator for config.loss.bound='iwae'; here it is "
      f"'{loss.bound}': set config.loss.gradient=plain."
    )
  if not is_off(loss.free_bits) and loss.bound != 'elbo':
    raise UserError(
      'config.loss.free_bits is a floor of KL terms, of which config.loss.bound='
      f"'{loss.bound}' has none: set it to 0.0."
    )
  if not is_off(loss.free_bits) and config.parallel == 'pmap':
    raise UserError(
      "config.loss.free_bits is a floor of the mean KL of a whole batch, of which config.parallel='pmap' "
      'shows a device its own share only: set config.parallel=jit.'
    )
  if not is_off(loss.free_bits) and config.optim.accumulate > 1:
    raise UserError(
      f'config.loss.free_bits is a floor of the mean KL of a whole batch, which config.optim.accumulate='
      f'{config.optim.accumulate} never sees: set one of them off.'
    )
  if model.conditional and spec.num_classes < 2:
    raise UserError(
      f"config.model.conditional=true needs labels, but config.data.name='{config.data.name}' has none: "
      'choose a labelled data set, or config.model.conditional=false.'
    )


class Likelihood(NamedTuple):
  """What an image is to a model, by config.loss.likelihood."""

  kind: str
  binarise: str
  dims: int

  def targets(self, batch: Batch, key: Key) -> Array:
    """What the decoder is asked to explain: a binary image, or x in [-1, 1]."""
    x = to_signed(batch['image'])
    if self.kind == 'gaussian':  # a density needs continuous data
      return densities.dequantise(random.per_example(random.stream(key, 'dequantise'), batch['index']), x)
    if self.kind == 'discretised_logistic':
      return x
    # A static image is drawn once and for all: its noise depends on the example alone.
    source = random.root(0) if self.binarise == 'static' else key
    return densities.binarise(
      random.per_example(random.stream(source, 'binarise'), batch['index']), to_unit(batch['image'])
    )

  def inputs(self, target: Array) -> Array:
    """What the encoder sees, in [-1, 1]."""
    return 2.0 * target - 1.0 if self.kind == 'bernoulli' else target

  def log_prob(self, log_scale: Array | None, raw: Array, target: Array) -> Array:
    """log p(x|z) in nats [B], of raw decoder outputs."""
    if self.kind == 'bernoulli':
      return densities.bernoulli_log_prob(raw, target)
    assert log_scale is not None
    log_scale = jnp.maximum(log_scale, densities.MIN_LOG_SCALE)
    if self.kind == 'gaussian':
      return densities.density_to_level_log_prob(densities.normal_log_prob(target, raw, log_scale), self.dims)
    return densities.discretised_logistic_log_prob(target, raw, log_scale)

  def picture(self, raw: Array) -> Array:
    """Decoder outputs as x in [-1, 1]: the mean image."""
    return 2.0 * jax.nn.sigmoid(raw) - 1.0 if self.kind == 'bernoulli' else jnp.clip(raw, -1.0, 1.0)

  @property
  def observation(self) -> str:
    """What a figure in nats is of: unlike ones do not compare."""
    observed = {
      'bernoulli': f'binarised ({self.binarise})',
      'gaussian': 'uniformly dequantised',
      'discretised_logistic': '256 levels as they are',
    }
    return f'{self.kind} likelihood, {observed[self.kind]}'


class Terms(NamedTuple):
  """A bound's parts for k draws of each example, in nats [B, k]."""

  reconstruction: Array  # log p(x | h1)
  divergences: list[Array]  # a layer each: log q - log p of the draw, or the analytic KL
  analytic: Array | None  # KL of every unit of a single layer, [B, Z]

  @property
  def kl(self) -> Array:
    """Sum over layers, [B, k]."""
    return jnp.sum(jnp.stack(self.divergences), 0)


class Chain:
  """The stochastic layers between image and top latent, as functions of parameters.

  Args:
    config: of the run.
    spec: of the images.
  """

  def __init__(self, config: ConfigDict, spec: Spec):
    model, dtype = config.model, compute_dtype(config.precision)
    self.sizes, self.shape = tuple(model.latents), spec.shape
    self.classes = spec.num_classes if model.conditional else 0
    self.encoder, self.decoder = coders(model, spec, dtype)
    widths, activation = tuple(model.top_widths), model.activation
    self.up = {f'up_{n}': MLPMoments(self.sizes[n - 1], widths, activation, dtype) for n in self._upper}
    self.down = {f'down_{n}': MLPMoments(self.sizes[n - 2], widths, activation, dtype) for n in self._upper}
    self.likelihood = Likelihood(config.loss.likelihood, config.loss.binarise, math.prod(spec.shape))

  @property
  def _upper(self) -> range:
    """Numbers of the layers above the first."""
    return range(2, len(self.sizes) + 1)

  def init(self, key: Key) -> PyTree:
    """Parameters of all networks."""
    context = jnp.zeros((2, self.classes)) if self.classes else None
    params = {
      'encoder': self.encoder.init(random.stream(key, 'encoder'), jnp.zeros((2, *self.shape)), context)['params'],
      'decoder': self.decoder.init(random.stream(key, 'decoder'), jnp.zeros((2, self.sizes[0] + self.classes)))[
        'params'
      ],
    }
    for n in self._upper:
      for name, net, size in ((f'up_{n}', self.up, self.sizes[n - 2]), (f'down_{n}', self.down, self.sizes[n - 1])):
        params[name] = net[name].init(random.stream(key, name), jnp.zeros((2, size)))['params']
    if self.likelihood.kind != 'bernoulli':
      params['log_scale'] = jnp.float32(-1.0)
    return params

  def context(self, label: Array | None) -> Array | None:
    """One-hot labels [B, classes] of a conditional model."""
    return jax.nn.one_hot(label, self.classes) if self.classes else None

  def posterior(self, params: PyTree, x: Array, context: Array | None, eps: Sequence[Array]):
    """([h_l], [(mean, log_std)_l]) of draws by noise eps [B, k, Z_l] a layer; moments of layer 1 are [B, 1, Z]."""
    first: Any = self.encoder.apply({'params': params['encoder']}, x, context)
    moments = [tuple(m[:, None] for m in first)]
    h = [moments[0][0] + jnp.exp(moments[0][1]) * eps[0]]
    for n in self._upper:
      mean, log_std = self.posterior_above(params, n, h[-1])
      moments.append((mean, log_std))
      h.append(mean + jnp.exp(log_std) * eps[n - 1])
    return h, moments

  def posterior_above(self, params: PyTree, layer: int, below: Array) -> tuple[Array, Array]:
    """Moments of q(h_layer | h_(layer-1)), [..., Z]."""
    found: Any = self.up[f'up_{layer}'].apply({'params': params[f'up_{layer}']}, below)
    return found

  def prior_below(self, params: PyTree, layer: int, above: Array) -> tuple[Array, Array]:
    """Moments of p(h_(layer-1) | h_layer), [..., Z]."""
    found: Any = self.down[f'down_{layer}'].apply({'params': params[f'down_{layer}']}, above)
    return found

  def decode(self, params: PyTree, h: Array, context: Array | None) -> Array:
    """Raw decoder outputs [..., H, W, C] of h1 [..., Z]; leading axes are those of `context` and perhaps draws."""
    lead = h.shape[:-1]
    if context is not None:
      context = context.reshape(context.shape[0], *(1,) * (len(lead) - 1), -1)
      h = jnp.concatenate([h, jnp.broadcast_to(context, (*lead, context.shape[-1]))], -1)
    raw: Any = self.decoder.apply({'params': params['decoder']}, h.reshape(-1, h.shape[-1]))
    return raw.reshape(*lead, *raw.shape[1:])

  def descend(self, params: PyTree, top: Array, eps: Sequence[Array] | None = None) -> Array:
    """h1 [..., Z] of a top latent: by the means of the priors, or by draws with noise eps, a layer each."""
    h = top
    for n in reversed(self._upper):
      mean, log_std = self.prior_below(params, n, h)
      h = mean if eps is None else mean + jnp.exp(log_std) * eps[n - 2]
    return h

  def means(self, params: PyTree, target: Array, context: Array | None) -> list[Array]:
    """Posterior means of every layer [B, Z_l], each of the mean below it."""
    zeros = [jnp.zeros((target.shape[0], 1, size)) for size in self.sizes]
    h, _ = self.posterior(params, self.likelihood.inputs(target), context, zeros)
    return [each[:, 0] for each in h]

  def terms(
    self,
    params: PyTree,
    target: Array,
    context: Array | None,
    eps: Sequence[Array],
    analytic: bool,
    model: PyTree | None = None,
    density: PyTree | None = None,
    hold: bool = False,
  ) -> Terms:
    """The bound's parts.

    Args:
      params: of the posterior that draws.
      target: see `Likelihood.targets`. context: see `context`. eps: [B, k, Z_l] a layer.
      analytic: the KL of the top layer in closed form; with one layer that is the whole of it.
      model: parameters of decoder and priors; `params` by default.
      density: parameters of the posterior whose density is taken; `params` by default.
      hold: whether the draws are constants to a gradient.
    """
    model, density = params if model is None else model, params if density is None else density
    h, moments = self.posterior(params, self.likelihood.inputs(target), context, eps)
    if hold:
      h = jax.lax.stop_gradient(h)
    if density is not params or hold:  # the same moments, as functions of what the density may move
      first: Any = self.encoder.apply({'params': density['encoder']}, self.likelihood.inputs(target), context)
      moments = [tuple(m[:, None] for m in first)]
      moments += [self.posterior_above(density, n, h[n - 2]) for n in self._upper]
    raw, scale = self.decode(model, h[0], context), model.get('log_scale')
    reconstruction = jax.vmap(lambda raw: self.likelihood.log_prob(scale, raw, target), 1, 1)(raw)
    divergences, units = [], None
    for n in range(1, len(self.sizes) + 1):
      mean, log_std = moments[n - 1]
      top = n == len(self.sizes)
      if top and analytic:
        units = 0.5 * (mean**2 + jnp.expm1(2.0 * log_std) - 2.0 * log_std)
        divergence = jnp.broadcast_to(units.sum(-1), reconstruction.shape)
      else:
        prior = (jnp.zeros(()), jnp.zeros(())) if top else self.prior_below(model, n + 1, h[n])
        divergence = bounds.log_density(h[n - 1], mean, log_std) - bounds.log_density(h[n - 1], *prior)
      divergences.append(divergence)
    return Terms(reconstruction, divergences, units)


def objective(config: ConfigDict, chain: Chain, params: PyTree, draws: Batch, beta: Array) -> tuple[Array, Metrics]:
  """(what training minimises, metrics with 'posterior_mean' and 'posterior_square' [Z] beside the scalars).

  Args:
    config: of the run. chain: of it. params: differentiated.
    draws: {'target', 'eps_l' [B, k, Z_l] a layer, and 'label' under conditions}.
    beta: weight of the KL, warm-up included.
  """
  loss, eps = config.loss, [draws[f'eps_{n + 1}'] for n in range(len(chain.sizes))]
  context = chain.context(draws.get('label'))
  iwae = loss.bound == 'iwae'
  terms = chain.terms(params, draws['target'], context, eps, analytic=not iwae)
  elbo = (terms.reconstruction - terms.kl).mean()
  # Of a unit's moments those of its mean given the image alone: draws of the layer below would add their own variance.
  means = jax.lax.stop_gradient(jnp.concatenate(chain.means(params, draws['target'], context), -1))
  metrics = {
    'elbo_nats': elbo,
    'kl_nats': terms.kl.mean(),
    'posterior_mean': means.mean(0),
    'posterior_square': (means**2).mean(0),
  }
  if not iwae:
    kl = terms.kl.mean()
    if not is_off(loss.free_bits):
      if len(chain.sizes) == 1 and terms.analytic is not None:
        kl = bounds.floor_of_bits(terms.analytic[:, 0], loss.free_bits)
      else:  # of a chain, a floor for each layer as a whole
        groups = jnp.stack([d.mean(1) for d in terms.divergences], -1)
        kl = bounds.floor_of_bits(groups, loss.free_bits * jnp.asarray(chain.sizes, jnp.float32))
    value = beta * kl - terms.reconstruction.mean()
    return value, {'loss_nats': value, **metrics}
  bound = bounds.importance_bound(terms.reconstruction - beta * terms.kl).mean()
  metrics |= {'loss_nats': -bound, 'iwae_nats': bounds.importance_bound(terms.reconstruction - terms.kl).mean()}
  if loss.gradient == 'plain':
    return -bound, metrics
  constant = jax.lax.stop_gradient(params)
  of_model = chain.terms(constant, draws['target'], context, eps, False, model=params, hold=True)
  of_posterior = chain.terms(params, draws['target'], context, eps, False, model=constant, density=constant)
  model, posterior = (t.reconstruction - beta * t.kl for t in (of_model, of_posterior))
  return -bounds.dreg_surrogate(model, posterior, beta).mean(), metrics


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VAE of `config`; see `gen_ai.core.method.Method`.

  Views: 'reconstructions' shows inputs above outputs; 'traversals' the first example with one unit of the top latent a
  row, the most active first, going from -3 to 3; 'interpolations_linear' and '..._spherical' paths between the
  posterior means of two examples, of a conditional model with the label of the first; 'classes' of a conditional model
  a row a class, with the same latents in every row.
  """
  check(config, spec)
  chain, k = Chain(config, spec), config.loss.importance_samples
  likelihood, sizes, top = chain.likelihood, chain.sizes, chain.sizes[-1]
  updater = Updater(config)

  def labels(batch: Batch) -> Array | None:
    return chain.context(batch['label']) if chain.classes else None

  def init(key: Key) -> State:
    return updater.init(chain.init(key), latents.no_moments(sum(sizes)))

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    draws = {'target': likelihood.targets(batch, key)}
    for n, size in enumerate(sizes, 1):
      name = 'eps' if n == 1 else f'eps_{n}'
      draws[f'eps_{n}'] = jax.random.normal(random.stream(key, name), (batch['image'].shape[0], k, size))
    if chain.classes:
      draws['label'] = batch['label']
    beta = config.loss.kl_weight * bounds.warm_up(state.step, config.loss.kl_warmup_steps)

    def loss_fn(params: PyTree, stats: PyTree, draws: Batch, key: Key):
      value, metrics = objective(config, chain, params, draws, beta)
      return value, (metrics, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), draws, key, config.optim.accumulate, reduce)
    metrics = dict(metrics)
    stats = latents.seen_moments(state.stats, metrics.pop('posterior_mean'), metrics.pop('posterior_square'))
    metrics |= {
      'nll_bpd': densities.nats_to_bpd(-metrics['elbo_nats'], likelihood.dims),
      'active_units': latents.active_units(stats),
    }
    return updater.advance(updater.update(state, grads)._replace(stats=stats)), metrics

  def noise(batch: Batch, key: Key, draws: Array) -> list[Array]:
    """[B, k, Z_n] a layer, addressed by example and draw. Examples lead: by them a mesh splits the work.

    Args:
      batch: its 'index' counts.
      key: one, or keys [B].
      draws: numbers of the draws, int32 [k], or [B, k].
    """

    def own(n: int, size: int) -> Array:
      name = 'eps' if n == 1 else f'eps_{n}'
      draw = lambda j: random.normal_per_example(random.stream(key, name, j), batch['index'], (size,))  # noqa: E731
      return jax.vmap(draw, draws.ndim - 1, 1)(draws)

    return [own(n, size) for n, size in enumerate(sizes, 1)]

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    eps = noise(batch, key, jnp.zeros(1, jnp.int32))  # draw 0 of the task 'log_weights'
    terms = chain.terms(updater.eval_params(state), likelihood.targets(batch, key), labels(batch), eps, analytic=True)
    reconstruction, kl = terms.reconstruction[:, 0], terms.kl[:, 0]
    per_example = {
      'elbo_nats': reconstruction - kl,
      'reconstruction_nats': reconstruction,
      'kl_nats': kl,
      'nll_bpd': densities.nats_to_bpd(kl - reconstruction, likelihood.dims),
      'active_units': jnp.broadcast_to(latents.active_units(state.stats), kl.shape),
    }
    if len(sizes) > 1:
      per_example |= {f'kl_{n}_nats': d[:, 0] for n, d in enumerate(terms.divergences, 1)}
    return masked(per_example, batch['mask'])

  def numbered(inputs: Batch) -> Batch:
    """Inputs of a call have no numbers in a split: their keys alone address their noise."""
    return {**inputs, 'index': jnp.zeros(inputs['image'].shape[0], jnp.int32)}

  def log_weights(state: State, inputs: Batch, own_keys: Key) -> Batch:
    target, eps = likelihood.targets(inputs, own_keys), noise(inputs, own_keys, inputs['draw'])
    terms = chain.terms(updater.eval_params(state), target, labels(inputs), eps, analytic=False)
    return {'log_weights': terms.reconstruction - terms.kl}

  def drawn(state: State, label: Array | None, z: Array, eps: list[Array]) -> Array:
    """Images of top latents z [n, Z], the layers below drawn by noise [n, Z_l] a layer."""
    params = updater.eval_params(state)
    return likelihood.picture(chain.decode(params, chain.descend(params, z, eps), chain.context(label)))

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    label = inputs.get('label', random.labels(own_keys, chain.classes)) if chain.classes else None
    eps = [random.normal(random.stream(own_keys, f'down_{n}'), (size,)) for n, size in enumerate(sizes[:-1], 1)]
    samples = drawn(state, label, inputs.get('latent', random.normal(own_keys, (top,))), eps)
    return {SAMPLE: samples} if label is None else {SAMPLE: samples, ASKED: label}

  def encoded(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {
      'latent': chain.means(updater.eval_params(state), likelihood.targets(numbered(inputs), own_keys), labels(inputs))[
        -1
      ]
    }

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, target = updater.eval_params(state), likelihood.targets(numbered(inputs), own_keys)
    means = chain.means(params, target, labels(inputs))
    return {SAMPLE: likelihood.picture(chain.decode(params, means[0], labels(inputs)))}

  def classes(state: State, batch: Batch, key: Key) -> Array:
    z = jnp.tile(jax.random.normal(random.stream(key, 'z'), (COLUMNS, top)), (chain.classes, 1))
    eps = [
      jnp.tile(jax.random.normal(random.stream(key, f'down_{n}'), (COLUMNS, size)), (chain.classes, 1))
      for n, size in enumerate(sizes[:-1], 1)
    ]
    return drawn(state, jnp.repeat(jnp.arange(chain.classes), COLUMNS), z, eps)

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    params, target = updater.eval_params(state), likelihood.targets(batch, key)
    output = likelihood.picture(chain.decode(params, chain.means(params, target, labels(batch))[0], labels(batch)))
    pairs = jnp.stack([rows_of(x, spec.shape) for x in (likelihood.inputs(target), output)], axis=1)
    return pairs.reshape(-1, *spec.shape)

  def shown(params: PyTree, z: Array, context: Array | None) -> Array:
    """Images of top latents [rows, COLUMNS, Z] with a row's context, the layers below at their means."""
    images = likelihood.picture(chain.decode(params, chain.descend(params, z), context))
    return images.reshape(-1, *spec.shape)

  def traversals(state: State, batch: Batch, key: Key) -> Array:
    params, context = updater.eval_params(state), labels(batch)
    base = chain.means(params, likelihood.targets(batch, key), context)[-1][0]
    units = jnp.argsort(-latents.variances(state.stats)[-top:])[: min(COLUMNS, top)]
    steps = jnp.linspace(-REACH, REACH, COLUMNS)
    z = jax.vmap(lambda unit: jax.vmap(lambda value: base.at[unit].set(value))(steps))(units)
    return shown(params, z, None if context is None else jnp.repeat(context[:1], len(units), 0))

  def interpolations(path):
    def view(state: State, batch: Batch, key: Key) -> Array:
      params, context = updater.eval_params(state), labels(batch)
      z = interpolate(path, chain.means(params, likelihood.targets(batch, key), context)[-1])
      return shown(params, z, None if context is None else context[: z.shape[0]])

    return view

  visualizations = {
    'reconstructions': reconstructions,
    'traversals': traversals,
    'interpolations_linear': interpolations(latents.lerp),
    'interpolations_spherical': interpolations(latents.slerp),
  }
  if chain.classes:
    visualizations[CLASSES] = classes
  conditions = {'label': Field(LABEL)} if chain.classes else {}
  examples = {'image': Field(EXAMPLE, spec.shape, True), **{name: Field(LABEL, (), True) for name in conditions}}
  numbers = {'index': Field('index', (), True), 'draw': Field('draw', (None,), True)}
  image, asked = {SAMPLE: Field(EXAMPLE, spec.shape)}, ({ASKED: Field(LABEL)} if conditions else {})
  tasks = {
    GENERATE: Task(generated, {'latent': Field(LATENT, (top,)), **conditions}, {**image, **asked}),
    'reconstruct': Task(reconstructed, examples, image),
    'encode': Task(encoded, examples, {'latent': Field(LATENT, (top,))}),
    'log_weights': Task(log_weights, {**examples, **numbers}, {'log_weights': Field(NUMBER, (None,))}, ()),
  }
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    visualizations=visualizations,
    observation=likelihood.observation,
    bounds=('nll_bpd',),
    leading=LEADING,
  )
