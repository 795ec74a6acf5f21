"""VAE-GAN (Larsen et al. 2016, arXiv 1512.09300): a VAE that is told of its errors by a discriminator's features.

Three updates a step from one and the same state, as in algorithm 1: the encoder by KL and feature error, the decoder by
gamma times the feature error and the adversarial loss, the discriminator by the adversarial loss alone, with
reconstructions and draws from the prior as its fakes. The feature error is -log p(Dis_l(x) | z) of a unit normal, its
constant left out. Deviations: the decoder's adversarial loss is the non-saturating one by default ('minimax' is the
paper's), real images weigh as much as both kinds of fakes together (the paper: as each) and the decoder's adversarial
loss is the mean over both kinds (the paper: their sum, so that its gamma is half of ours), norms are group norms, the
encoder has none, and R1 on the discriminator is an option.

State: params and opt_state {'encoder', 'decoder', 'discriminator'}; where an average is kept, ema of the first two.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments._views import interpolate, rows_of
from gen_ai.core import random
from gen_ai.core.method import (
  EXAMPLE,
  GENERATE,
  LATENT,
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
from gen_ai.core.switch import is_off
from gen_ai.maths import adversarial, latents
from gen_ai.maths.densities import normal_kl
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.vae import ConvDecoder, ConvEncoder
from gen_ai.nets.vae_gan import FeatureDiscriminator

KINDS = ('image',)  # of data
LEADING = {
  'pixel_mse': 'min',
  'spread': '',
  'loss_discriminator': '',
  'loss_decoder': '',
  'pairs_won_d': '',
  'logit_gap': '',
  'kl_nats': '',
}
PARTS = ('encoder', 'decoder', 'discriminator')


class Networks:
  """The three networks as functions of parameters."""

  def __init__(self, config: ConfigDict, spec: Spec):
    model, dtype = config.model, compute_dtype(config.precision)
    self.latent, self.shape = model.latent, spec.image_shape
    self.nets = {
      'encoder': ConvEncoder(model.latent, model.width, activation=model.activation, dtype=dtype),
      'decoder': ConvDecoder(
        spec.image_shape, width=model.width, activation=model.activation, norm=model.decoder_norm, dtype=dtype
      ),
      'discriminator': FeatureDiscriminator(model.width, model.hidden, norm=model.d_norm, dtype=dtype),
    }

  def init(self, key: Key) -> PyTree:
    """Parameters of all three."""
    x, z = jnp.zeros((2, *self.shape)), jnp.zeros((2, self.latent))
    return {
      name: net.init(random.stream(key, name), z if name == 'decoder' else x)['params']
      for name, net in self.nets.items()
    }

  def encode(self, params: PyTree, x: Array) -> tuple[Array, Array]:
    """(mean, log_std) [B, Z]."""
    found: Any = self.nets['encoder'].apply({'params': params['encoder']}, x)
    return found

  def decode(self, params: PyTree, z: Array) -> Array:
    """x [B, H, W, C] in [-1, 1]."""
    raw: Any = self.nets['decoder'].apply({'params': params['decoder']}, z)
    return jnp.tanh(raw)

  def judge(self, params: PyTree, x: Array) -> tuple[Array, Array]:
    """(features [B, F], logits [B])."""
    found: Any = self.nets['discriminator'].apply({'params': params['discriminator']}, x)
    return found


def losses(config: ConfigDict, nets: Networks, params: PyTree, batch: Batch) -> tuple[dict[str, Array], Metrics]:
  """({part: what it minimises}, metrics): each loss has a gradient in its own part's parameters alone.

  Args:
    config: of the run. nets: of it. params: of the three networks.
    batch: {'image', 'eps' [B, Z] of the posterior, 'z' [B, Z] of the prior}.
  """
  loss, x = config.loss, to_signed(batch['image'])

  def moving(part: str) -> PyTree:
    return {name: tree if name == part else jax.lax.stop_gradient(tree) for name, tree in params.items()}

  def images(own: PyTree) -> tuple[Array, Array, Array]:
    mean, log_std = nets.encode(own, x)
    return nets.decode(own, mean + jnp.exp(log_std) * batch['eps']), mean, log_std

  def feature_nats(own: PyTree, again: Array) -> Array:
    return 0.5 * ((nets.judge(own, again)[0] - nets.judge(own, x)[0]) ** 2).sum(1).mean()

  own = moving('encoder')
  again, mean, log_std = images(own)
  kl = normal_kl(mean, log_std).mean()
  features = feature_nats(own, again)
  encoder = loss.kl_weight * kl + features

  own = moving('decoder')
  again, _, _ = images(own)
  fakes = jnp.concatenate([again, nets.decode(own, batch['z'])])
  fooled = adversarial.generator_loss(loss.kind, nets.judge(own, fakes)[1])
  decoder = loss.gamma * feature_nats(own, again) + fooled

  own = moving('discriminator')
  real, fake = nets.judge(own, x)[1], nets.judge(own, jax.lax.stop_gradient(fakes))[1]
  adversary = adversarial.discriminator_loss(loss.kind, jnp.concatenate([real, real]), fake)
  metrics = {
    'kl_nats': kl,
    'feature_nats': features,
    'loss_decoder': fooled,
    'loss_discriminator': adversary,
    'pixel_mse': ((again - x) ** 2).mean(),
    'logit_real': real.mean(),
    'logit_fake': fake.mean(),
    'pairs_won_d': adversarial.pairs_won(jnp.concatenate([real, real]), fake).mean(),
  }
  if not is_off(loss.penalty):
    metrics['penalty'] = adversarial.r1_penalty(lambda x: nets.judge(own, x)[1], x)
    adversary = adversary + loss.penalty * metrics['penalty']
  return {'encoder': encoder, 'decoder': decoder, 'discriminator': adversary}, metrics


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VAE-GAN of `config`; see `gen_ai.core.method.Method`. Views: reconstructions, paths between examples."""
  nets, latent = Networks(config, spec), config.model.latent
  updater = Updater(
    config,
    {'encoder': Pace(), 'decoder': Pace(), 'discriminator': Pace(config.loss.d_lr_factor)},
    average=lambda state: {part: state.params[part] for part in ('encoder', 'decoder')},
  )

  def init(key: Key) -> State:
    return updater.init(nets.init(key))

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    B = batch['image'].shape[0]
    draws = {
      'image': batch['image'],
      'eps': jax.random.normal(random.stream(key, 'eps'), (B, latent)),
      'z': jax.random.normal(random.stream(key, 'z'), (B, latent)),
    }

    def loss_fn(params: PyTree, stats: PyTree, draws: Batch, key: Key):
      each, metrics = losses(config, nets, params, draws)
      return each['encoder'] + each['decoder'] + each['discriminator'], (metrics, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), draws, key, config.optim.accumulate, reduce)
    norms = {f'grad_norm_{part}': optax.tree.norm(grads[part]) for part in PARTS}
    return updater.advance(updater.update(state, grads)), {**metrics, **norms}

  def eval_params(state: State) -> PyTree:
    """Parameters of all three, those of the autoencoder averaged where there is an average."""
    return {**state.params, **updater.eval_params(state)}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    params, x = eval_params(state), to_signed(batch['image'])
    mean, log_std = nets.encode(params, x)
    again = nets.decode(params, mean)
    z = random.normal_per_example(random.stream(key, 'z'), batch['index'], (latent,))
    (seen, real), (seen_again, _) = nets.judge(params, x), nets.judge(params, again)
    fake = nets.judge(params, nets.decode(params, z))[1]
    per_example = {
      'kl_nats': normal_kl(mean, log_std),
      'pixel_mse': ((again - x) ** 2).mean((1, 2, 3)),
      'feature_nats': 0.5 * ((seen - seen_again) ** 2).sum(1),
      'logit_gap': real - fake,
    }
    return masked(per_example, batch['mask'])

  def generated(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {SAMPLE: nets.decode(eval_params(state), inputs.get('latent', random.normal(own_keys, (latent,))))}

  def encoded(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {'latent': nets.encode(eval_params(state), to_signed(inputs['image']))[0]}

  def reconstructed(state: State, inputs: Batch, own_keys: Key) -> Batch:
    return {SAMPLE: nets.decode(eval_params(state), encoded(state, inputs, own_keys)['latent'])}

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    params, x = eval_params(state), to_signed(batch['image'])
    output = nets.decode(params, nets.encode(params, x)[0])
    return jnp.stack([rows_of(a, spec.shape) for a in (x, output)], axis=1).reshape(-1, *spec.shape)

  def interpolations(path):
    def view(state: State, batch: Batch, key: Key) -> Array:
      params = eval_params(state)
      z = interpolate(path, nets.encode(params, to_signed(batch['image']))[0])
      return nets.decode(params, z.reshape(-1, latent))

    return view

  visualizations = {
    'reconstructions': reconstructions,
    'interpolations_linear': interpolations(latents.lerp),
    'interpolations_spherical': interpolations(latents.slerp),
  }
  z, image, given = {'latent': Field(LATENT, (latent,))}, Field(EXAMPLE, spec.shape), Field(EXAMPLE, spec.shape, True)
  tasks = {
    GENERATE: Task(generated, z, {SAMPLE: image}),
    'reconstruct': Task(reconstructed, {'image': given}, {SAMPLE: image}),
    'encode': Task(encoded, {'image': given}, z),
  }
  return Method(init, train_step, eval_step, tasks, visualizations=visualizations, leading=LEADING)
