"""VAE-GAN (Larsen et al. 2016, arXiv 1512.09300): a VAE that is told of its errors by a discriminator's features.

Three updates a step from one and the same state, as in algorithm 1: the encoder by KL and feature error, the decoder by
gamma times the feature error and the adversarial loss, the discriminator by the adversarial loss alone, with
reconstructions and draws from the prior as its fakes. The feature error is -log p(Dis_l(x) | z) of a unit normal, its
constant left out. Deviations: the decoder's adversarial loss is the non-saturating one by default ('minimax' is the
paper's), real images weigh as much as both kinds of fakes together (the paper: as each) and the decoder's adversarial
loss is the mean over both kinds (the paper: their sum, so that its gamma is half of ours), norms are group norms, the
encoder has none, and R1 on the discriminator is an option.

State: params and opt_state {'encoder', 'decoder', 'discriminator'}; with config.optim.ema_decay, ema of the first two.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.vae import interpolate, rows_of
from gen_ai import keys
from gen_ai.errors import UserError
from gen_ai.maths import adversarial, latents
from gen_ai.maths.densities import normal_kl
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.switch import is_off, is_outside
from gen_ai.nets.vae import ConvDecoder, ConvEncoder
from gen_ai.nets.vae_gan import FeatureDiscriminator
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

LEADING = {'pixel_mse': 'min', 'spread': '', 'loss_discriminator': '', 'loss_decoder': '', 'pairs_won_d': '',
           'logit_gap': '', 'kl_nats': ''}  # fmt: skip
PARTS = ('encoder', 'decoder', 'discriminator')
NORMS = ('group', 'none')


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
    return {name: net.init(keys.stream(key, name), z if name == 'decoder' else x)['params']
            for name, net in self.nets.items()}  # fmt: skip

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
  metrics = {'kl_nats': kl, 'feature_nats': features, 'loss_decoder': fooled, 'loss_discriminator': adversary,
             'pixel_mse': ((again - x) ** 2).mean(), 'logit_real': real.mean(), 'logit_fake': fake.mean(),
             'pairs_won_d': (jnp.concatenate([real, real]) > fake).astype(jnp.float32).mean()}  # fmt: skip
  if not is_off(loss.penalty):
    metrics['penalty'] = adversarial.r1_penalty(lambda x: nets.judge(own, x)[1], x)
    adversary = adversary + loss.penalty * metrics['penalty']
  return {'encoder': encoder, 'decoder': decoder, 'discriminator': adversary}, metrics


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for a loss, a norm or data that this family does not know."""
  if spec.kind != 'image':
    raise UserError(f"experiment 'vae_gan' draws images, but config.data.name='{config.data.name}' is text.")
  kinds = tuple(kind for kind in adversarial.KINDS if kind not in adversarial.RELATIVISTIC)
  if config.loss.kind not in kinds:
    raise UserError(f"config.loss.kind='{config.loss.kind}' is none of {', '.join(kinds)}.")
  for name in ('decoder_norm', 'd_norm'):
    if config.model[name] not in NORMS:
      raise UserError(f"config.model.{name}='{config.model[name]}' is none of {', '.join(NORMS)}.")
  for name in ('kl_weight', 'gamma', 'penalty', 'd_lr_factor'):
    if is_outside(config.loss[name], 0.0):
      raise UserError(f'config.loss.{name}={config.loss[name]} must not be negative.')


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The VAE-GAN of `config`; see `gen_ai.types.Method`. Views: reconstructions, and paths between two examples."""
  check(config, spec)
  nets, latent, optim = Networks(config, spec), config.model.latent, config.optim
  factors = {'encoder': 1.0, 'decoder': 1.0, 'discriminator': config.loss.d_lr_factor}
  rules = {part: optimiser(optim, config.run.steps, factors[part]) for part in PARTS}
  averaged = not is_off(optim.ema_decay)

  def autoencoder(params: PyTree) -> PyTree:
    return {part: params[part] for part in ('encoder', 'decoder')}

  def init(key: Key) -> State:
    params = nets.init(key)
    # Copies: the programs donate the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, autoencoder(params)) if averaged else ()
    return State(jnp.int32(0), params, {part: rules[part].init(params[part]) for part in PARTS}, ema)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    B = batch['image'].shape[0]
    draws = {'image': batch['image'], 'eps': jax.random.normal(keys.stream(key, 'eps'), (B, latent)),
             'z': jax.random.normal(keys.stream(key, 'z'), (B, latent))}  # fmt: skip

    def loss_fn(params: PyTree, stats: PyTree, draws: Batch, key: Key):
      each, metrics = losses(config, nets, params, draws)
      return each['encoder'] + each['decoder'] + each['discriminator'], (metrics, stats)

    grads, metrics, _ = gradients(loss_fn, state.params, (), draws, key, optim.accumulate, reduce)
    params, opt_state = {}, {}
    for part in PARTS:
      change, opt_state[part] = rules[part].update(grads[part], state.opt_state[part], state.params[part])
      params[part] = jax.tree.map(jnp.add, state.params[part], change)
    step = state.step + 1
    ema = ema_update(state.ema, autoencoder(params), optim.ema_decay, step) if averaged else ()
    norms = {f'grad_norm_{part}': optax.tree.norm(grads[part]) for part in PARTS}
    return State(step, params, opt_state, ema), {**metrics, **norms}

  def settled(state: State) -> PyTree:
    return {**state.params, **(state.ema if averaged else {})}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    params, x, mask = settled(state), to_signed(batch['image']), batch['mask']
    mean, log_std = nets.encode(params, x)
    again = nets.decode(params, mean)
    z = keys.normal_per_example(keys.stream(key, 'z'), batch['index'], (latent,))
    (seen, real), (seen_again, _) = nets.judge(params, x), nets.judge(params, again)
    fake = nets.judge(params, nets.decode(params, z))[1]
    per_example = {'kl_nats': normal_kl(mean, log_std), 'pixel_mse': ((again - x) ** 2).mean((1, 2, 3)),
                   'feature_nats': 0.5 * ((seen - seen_again) ** 2).sum(1), 'logit_gap': real - fake}  # fmt: skip
    return {name: ((value * mask).sum(), mask.sum()) for name, value in per_example.items()}

  def sample(state: State, key: Key, n: int) -> Array:
    return nets.decode(settled(state), jax.random.normal(key, (n, latent)))

  def reconstructions(state: State, batch: Batch, key: Key) -> Array:
    params, x = settled(state), to_signed(batch['image'])
    output = nets.decode(params, nets.encode(params, x)[0])
    return jnp.stack([rows_of(a, spec.shape) for a in (x, output)], axis=1).reshape(-1, *spec.shape)

  def interpolations(path):
    def view(state: State, batch: Batch, key: Key) -> Array:
      params = settled(state)
      z = interpolate(path, nets.encode(params, to_signed(batch['image']))[0])
      return nets.decode(params, z.reshape(-1, latent))

    return view

  views = {'reconstructions': reconstructions, 'interpolations_linear': interpolations(latents.lerp),
           'interpolations_spherical': interpolations(latents.slerp)}  # fmt: skip
  return Method(init, train_step, eval_step, sample, views=views, leading=LEADING)
