"""Latent diffusion (arXiv 2112.10752): a flow or diffusion of the latents of an autoencoder that was trained before.

The autoencoder is that of a run of ours, a VQ-VAE or a VAE, named with --init_from; it stays as it is, bit for bit, and
checkpoints hold it, so that they need that run no more. Latents are shifted and scaled to mean 0 and deviation 1 in
every channel of a grid, or unit of a vector. Everything else is as in experiments/diffusion.py, of latents: schedules,
losses, solvers, guidance, and the normal noise that the task `encode` finds for an image, and `generate` takes.

State: params {'denoiser', 'autoencoder'}; ema is of the denoiser alone; stats are the moments of latents, measured in
the first updates.
"""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._autoencoder import autoencoder
from experiments._denoising import Denoising, Drawing, evaluations, nothing_measured
from experiments._views import rows_of
from gen_ai.core import random
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
from gen_ai.core.names import Part
from gen_ai.core.optim import Updater, gradients
from gen_ai.maths.diffusion import mean_square
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.transformer import MATRICES, SHARDING

KINDS = ('image',)  # of data
TRAINS = Part('denoiser/.*', "config.experiment='latent_flow'", 'a run of vae, vqvae or image_tokens')
# How what is beside the Transformer lies over a mesh: small, and so whole on every device.
OWN = {r'log_variance/(kernel|bias)': (), r'autoencoder/.*': (), r'stats/(mean|square)': ()}
LATENTS = {'observation': 'latents of deviation 1'}  # what an error of denoising is of
LEADING = {'loss': 'min', 'pixel_mse': 'min', 'spread': ''}


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The model of `config`; see `gen_ai.core.method.Method`.

  Evaluations tell the 'loss' of latents, and 'pixel_mse', how far images are from their reconstructions, which is the
  share of the autoencoder. Pictures: 'reconstructions', inputs above outputs; 'interpolations' between the noises of
  two images; 'classes' of a conditional model, a row a class by the same noise.
  """
  coder, normal = autoencoder(config, spec), jnp.float32(1.0)  # deviation of normalised latents
  model = Denoising(config, coder.shape, spec.num_classes)
  # Frozen weights need no average.
  updater = Updater(config, average=lambda state: state.params['denoiser'], matrices=MATRICES, trains=TRAINS)
  axes = tuple(range(len(coder.shape)))  # of latents [B, ...], all but the last

  def init(key: Key) -> State:
    params = {'denoiser': model.init(key), 'autoencoder': coder.init(random.stream(key, 'autoencoder'))}
    return updater.init(params, nothing_measured(coder.shape[-1:]))

  def normalised(state: State, latent: Array) -> Array:
    return (latent - state.stats.centre) / state.stats.deviation

  def pictured(state: State, x: Array) -> Array:
    """Images in [-1, 1] of normalised latents."""
    return coder.decode(state.params['autoencoder'], x * state.stats.deviation + state.stats.centre)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    keys = random.per_example(random.stream(key, 'encode'), jnp.arange(batch['image'].shape[0]))
    latent = coder.encode(state.params['autoencoder'], batch['image'], keys)
    state = state._replace(stats=state.stats.seen(latent, axes, reduce))
    rows = model.draws(normalised(state, latent), batch.get('label'), key)

    def loss_fn(trained: PyTree, stats: PyTree, rows: Batch, key: Key):
      losses = model.losses(trained['denoiser'], rows, normal, random.stream(key, 'dropout'))
      found = {name: value.mean() for name, value in losses.items()}
      return found['loss'], (found, stats)

    trained = updater.trained(state.params)
    grads, metrics, _ = gradients(loss_fn, trained, (), rows, key, config.optim.accumulate, reduce)
    metrics = {**metrics, 'grad_norm': optax.tree.norm(grads)}
    return updater.advance(updater.update(state, grads)), metrics

  def trained_on(state: State, image: Array, keys: Key) -> Array:
    return normalised(state, coder.encode(state.params['autoencoder'], image, keys))

  def reconstruction(state: State, image: Array, keys: Key) -> Array:
    params = state.params['autoencoder']
    return coder.decode(params, coder.mean(params, image, keys))

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    keys, image = random.per_example(key, batch['index']), batch['image']
    x = trained_on(state, image, keys)
    rows = model.draws_by_example(x, batch.get('label'), keys, batch['index'], key)
    found = model.losses(updater.eval_params(state), rows, normal)
    found['pixel_mse'] = mean_square(reconstruction(state, image, keys) - to_signed(image))
    return masked(found, batch['mask'])

  drawing = Drawing(model, lambda state: (updater.eval_params(state), normal), pictured, ('parent',))

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {SAMPLE: reconstruction(state, inputs['image'], own_keys)}

  def encoded(drawing: Drawing, state: State, inputs: Batch, own_keys: Key) -> Batch:
    x = normalised(state, coder.mean(state.params['autoencoder'], inputs['image'], own_keys))
    return {'latent': drawing.sampler(state, drawing.told(inputs, own_keys)).encode(x)}

  def denoised(state: State, inputs: Batch, own_keys: Key) -> Batch:
    params, x = updater.eval_params(state), trained_on(state, inputs['image'], own_keys)
    label = drawing.told(inputs, own_keys)
    return model.errors(params, x, inputs['log_snr'], label, normal, own_keys)

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    output = reconstruction(state, batch['image'], random.per_example(key, batch['index']))
    pairs = jnp.stack([rows_of(images, spec.shape) for images in (to_signed(batch['image']), output)], axis=1)
    return pairs.reshape(-1, *spec.shape)

  def interpolations(state: State, batch: Batch, key: Key) -> Array:
    noise = encoded(drawing, state, drawing.given(batch), random.per_example(key, batch['index']))['latent']
    return drawing.interpolations(state, batch, noise, key)

  visualizations = {'reconstructions': reconstructions}
  if config.sample.steps > 1:  # what finds the noise of an image takes two
    visualizations['interpolations'] = interpolations
  if model.classes:
    visualizations[CLASSES] = drawing.by_class
  image, sample = {'image': Field(EXAMPLE, spec.shape, True)}, {SAMPLE: Field(EXAMPLE, spec.shape)}
  errors = {name: Field(NUMBER, (None,)) for name in ('mse', 'trained')}
  latent, levels = Field(LATENT, coder.shape), Field(NUMBER, (None,), True)
  drawn = {**sample, **({ASKED: Field(LABEL)} if model.classes else {})}
  tasks = {
    GENERATE: drawing.task(Drawing.generated, {'latent': latent, **drawing.label}, drawn, evaluations),
    'reconstruct': Task(reconstructed, image, sample, settings=()),
    'encode': drawing.task(encoded, {**image, **drawing.label}, {'latent': latent}),
    'denoise': Task(denoised, {**image, 'log_snr': levels, **drawing.label}, errors, facts=lambda config: LATENTS),
  }
  return Method(
    init,
    train_step,
    eval_step,
    tasks,
    visualizations=visualizations,
    leading=LEADING,
    sharding=SHARDING | OWN if config.model.network == 'dit' else {},
    trains=TRAINS,
    inherits=lambda parent, state: {'autoencoder': coder.of_run(parent, state)},
  )
