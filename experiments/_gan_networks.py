"""The two players of experiments/gan.py as functions: built from a config, applied with their state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from gen_ai.errors import UserError
from gen_ai.nets import spectral
from gen_ai.nets.dcgan import DCGANGenerator
from gen_ai.nets.mlp import MLPFeatures, MLPGenerator
from gen_ai.nets.players import Critic, Generator, Scores
from gen_ai.nets.pyramid import Downsample
from gen_ai.nets.resnet_gan import ResNetGenerator, ResNetTrunk
from gen_ai.nets.stylegan2 import OUTPUTS, StyleDiscriminator, StyleGenerator
from gen_ai.types import Array, Batch, PyTree, Reduce, Spec, compute_dtype

NETWORKS = ('mlp', 'dcgan', 'resnet', 'stylegan2')


class Networks(NamedTuple):
  """The two players."""

  generator: nn.Module  # (z [B, Z], train, label, noise) -> x [B, H, W, C]
  discriminator: nn.Module  # (x, train, label) -> Scores


def networks(config: ConfigDict, spec: Spec, reduce: Reduce) -> Networks:
  """The networks that config.model describes. Raises UserError for an unknown one or an image size it cannot take."""
  if config.model.network not in NETWORKS:
    raise UserError(f"config.model.network='{config.model.network}' is none of {', '.join(NETWORKS)}.")
  if config.model.network == 'stylegan2' and config.model.g_output not in OUTPUTS:
    raise UserError(f"config.model.g_output='{config.model.g_output}' is none of {', '.join(OUTPUTS)}.")
  model, dtype, shape = config.model, compute_dtype(config.precision), spec.image_shape
  classes = spec.num_classes if model.condition != 'none' else 0
  says: dict[str, Any] = {'condition': model.condition, 'num_classes': classes, 'dtype': dtype}
  if model.network == 'stylegan2':
    return Networks(
      StyleGenerator(
        shape, latent=model.latent, width=model.style, channels=model.width, max_channels=model.max_width,
        mapping_layers=model.mapping_layers, mapping_lr=model.mapping_lr, mixing=model.mixing, num_classes=classes,
        truncation=config.sample.truncation, output=model.g_output, reduce=reduce, dtype=dtype,
      ),
      Critic(
        StyleDiscriminator(channels=model.width, max_channels=model.max_width, group=model.group, reduce=reduce,
                           dtype=dtype), equalised=True, **says,
      ),
    )  # fmt: skip
  if model.network == 'mlp':
    return Networks(
      Generator(MLPGenerator(shape, model.g_widths, activation=model.g_activation, dtype=dtype), classes),
      Critic(MLPFeatures(model.d_widths, model.d_activation, model.d_spectral, dtype), flat=True,
             spectral=model.d_spectral, **says),
    )  # fmt: skip
  shared: dict[str, Any] = {'reduce': reduce, 'dtype': dtype}
  g = {'norm': model.g_norm, 'activation': model.g_activation, **shared}
  d = {'norm': model.d_norm, 'activation': model.d_activation, 'spectral': model.d_spectral, **shared}
  if model.network == 'dcgan':
    return Networks(
      Generator(DCGANGenerator(shape, model.width, weight_init=model.weight_init, **g), classes),
      Critic(Downsample(model.width, weight_init=model.weight_init, **d), weight_init=model.weight_init,
             spectral=model.d_spectral, **says),
    )  # fmt: skip
  return Networks(
    Generator(ResNetGenerator(shape, model.width, attention=model.attention, spectral=model.g_spectral, **g), classes),
    Critic(ResNetTrunk(model.width, attention=model.attention, **d), spectral=model.d_spectral, **says),
  )


def _moving(stats: PyTree, train: bool) -> list[str]:
  """Collections that an application may change: spectral vectors move in `refresh` alone."""
  return [name for name in stats if name != spectral.COLLECTION] if train else []


def generate(net: nn.Module, params: PyTree, stats: PyTree, draws: Batch, train: bool) -> tuple[Array, PyTree]:
  """(images, new stats) of draws {'z', 'noise'} and, under conditions, {'label'}; without `train` stats stay."""
  x, changed = net.apply({'params': params, **stats}, draws['z'], train=train, label=draws.get('label'),
                         noise=draws['noise'], mutable=_moving(stats, train))  # fmt: skip
  return x, {**stats, **changed}


def discriminate(net: nn.Module, params: PyTree, stats: PyTree, x: Array, label: Array | None,
                 train: bool) -> tuple[Scores, PyTree]:  # fmt: skip
  """(scores, new stats) of images; without `train` stats stay."""
  scores, changed = net.apply({'params': params, **stats}, x, train=train, label=label, mutable=_moving(stats, train))
  return scores, {**stats, **changed}


def refresh(net: nn.Module, params: PyTree, stats: PyTree, shape: tuple[int, ...]) -> PyTree:
  """The stats with every spectral vector one power iteration on; `shape` is that of one input of the network."""
  if spectral.COLLECTION not in stats:
    return stats
  # Power iteration looks at weights alone: what goes through the network does not matter.
  _, changed = net.apply({'params': params, **stats}, jnp.zeros((1, *shape)), train=False,
                         label=jnp.zeros((1,), jnp.int32), mutable=[spectral.COLLECTION])  # fmt: skip
  return {**stats, **changed}


def singular_values(stats: PyTree) -> list[Array]:
  """The largest singular value of every normalised weight, float32 [] each; none without spectral normalisation."""
  leaves = jax.tree_util.tree_leaves_with_path(stats.get(spectral.COLLECTION, {}))
  return [leaf for path, leaf in leaves if jax.tree_util.keystr(path[-1:], simple=True) == 'sigma']


def pairs_won(real: Array, fake: Array) -> Array:
  """Share of pairs in which the real example has the higher logit: 0.5 where neither player is ahead, 1 where D is."""
  return (real > fake).astype(jnp.float32)
