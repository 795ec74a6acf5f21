"""Generator and discriminator of experiments/gan.py, built from a config."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gen_ai.core.method import Reduce, Spec
from gen_ai.nets.apply import Module, compute_dtype
from gen_ai.nets.dcgan import DCGANGenerator
from gen_ai.nets.gan import Discriminator, Generator
from gen_ai.nets.mlp import MLPFeatures, MLPGenerator
from gen_ai.nets.pyramid import Downsample
from gen_ai.nets.resnet_gan import ResNetGenerator, ResNetTrunk
from gen_ai.nets.stylegan2 import StyleDiscriminator, StyleGenerator


class Networks(NamedTuple):
  """Generator and discriminator."""

  generator: Module  # (z [B, Z], train, label, noise) -> x [B, H, W, C]
  discriminator: Module  # (x, train, label) -> Scores


def networks(config: ConfigDict, spec: Spec, reduce: Reduce) -> Networks:
  """The networks that config.model describes. Raises UserError for an image size that they cannot take."""
  model, dtype, shape = config.model, compute_dtype(config.precision), spec.image_shape
  classes = spec.num_classes if model.condition != 'none' else 0
  says: dict[str, Any] = {'condition': model.condition, 'num_classes': classes, 'dtype': dtype}
  if model.network == 'stylegan2':
    return Networks(
      StyleGenerator(
        shape,
        latent=model.latent,
        width=model.style,
        channels=model.width,
        max_channels=model.max_width,
        mapping_layers=model.mapping_layers,
        mapping_lr=model.mapping_lr,
        mixing=model.mixing,
        num_classes=classes,
        truncation=config.sample.truncation,
        output=model.g_output,
        reduce=reduce,
        dtype=dtype,
      ),
      Discriminator(
        StyleDiscriminator(
          channels=model.width, max_channels=model.max_width, group=model.group, reduce=reduce, dtype=dtype
        ),
        equalised=True,
        **says,
      ),
    )
  if model.network == 'mlp':
    return Networks(
      Generator(MLPGenerator(shape, model.g_widths, activation=model.g_activation, dtype=dtype), classes),
      Discriminator(
        MLPFeatures(model.d_widths, model.d_activation, model.d_spectral, dtype),
        flat=True,
        spectral=model.d_spectral,
        **says,
      ),
    )
  shared: dict[str, Any] = {'reduce': reduce, 'dtype': dtype}
  g = {'norm': model.g_norm, 'activation': model.g_activation, **shared}
  d = {'norm': model.d_norm, 'activation': model.d_activation, 'spectral': model.d_spectral, **shared}
  if model.network == 'dcgan':
    return Networks(
      Generator(DCGANGenerator(shape, model.width, weight_init=model.weight_init, **g), classes),
      Discriminator(
        Downsample(model.width, weight_init=model.weight_init, **d),
        weight_init=model.weight_init,
        spectral=model.d_spectral,
        **says,
      ),
    )
  assert model.network == 'resnet', f'a branch for {model.network}'  # the config knows no other
  return Networks(
    Generator(ResNetGenerator(shape, model.width, attention=model.attention, spectral=model.g_spectral, **g), classes),
    Discriminator(ResNetTrunk(model.width, attention=model.attention, **d), spectral=model.d_spectral, **says),
  )
