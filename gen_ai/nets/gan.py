"""Generator and discriminator of a GAN around any network: how labels reach them, and what a discriminator says.

A body turns latents into images, a trunk turns images into features; neither knows of labels. Conditioning: `concat`
joins one-hot labels to the input of both (arXiv 1411.1784), `projection` adds the product of features and a class
vector to the score (arXiv 1802.05637, eq. 3 and figure 1d), `auxiliary` lets the discriminator tell the class too
(arXiv 1610.09585). Under the latter two the generator takes its label as under `concat`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.method import Array, PyTree
from gen_ai.nets.equalised import EqualisedDense
from gen_ai.nets.pyramid import kernel_init
from gen_ai.nets.spectral import Dense, Embed

CONDITIONS = ('none', 'concat', 'projection', 'auxiliary')


class Scores(NamedTuple):
  """What a discriminator says of images."""

  logits: Array  # float32 [B], unbounded: how real
  classes: PyTree = ()  # float32 [B, classes] logits of the classes, with `auxiliary`


class Generator(nn.Module):
  """Latents and labels to images, by a body (z [B, Z'], train) -> x."""

  body: nn.Module
  num_classes: int = 0  # 0: labels are not looked at

  @nn.compact
  def __call__(self, z: Array, train: bool, label: Array | None = None, noise: Any = None) -> Array:
    """[B, Z], int [B] -> float32 [B, H, W, C] in [-1, 1]. `noise`, keys a sample, is for bodies that draw noise."""
    del noise
    if self.num_classes:
      z = jnp.concatenate([z, jax.nn.one_hot(label, self.num_classes, dtype=z.dtype)], -1)
    return self.body(z, train)


def label_planes(x: Array, label: Array, num_classes: int) -> Array:
  """Images [B, H, W, C] with one constant plane a class beside their channels: [B, H, W, C + num_classes]."""
  planes = jax.nn.one_hot(label, num_classes, dtype=x.dtype)[:, None, None]
  return jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:-1], num_classes))], -1)


class Discriminator(nn.Module):
  """Images (and labels) to scores, by a trunk (x, train) -> features [B, ...]: the linear head is here."""

  trunk: nn.Module
  condition: str = 'none'  # one of CONDITIONS
  num_classes: int = 0
  flat: bool = False  # the trunk takes vectors: labels are joined to these, not as planes
  weight_init: str = 'lecun'  # of the head: see pyramid.kernel_init
  spectral: bool = False  # normalise the head, too
  equalised: bool = False  # heads with an equalised learning rate, as StyleGAN2's trunk has
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool, label: Any = None) -> Scores:
    """[B, H, W, C], int [B] -> scores of B images; raises UserError on sides that the trunk cannot take."""
    if self.flat:
      x = x.reshape(x.shape[0], -1)
    if self.condition == 'concat' and self.flat:
      x = jnp.concatenate([x, jax.nn.one_hot(label, self.num_classes, dtype=x.dtype)], -1)
    elif self.condition == 'concat':
      x = label_planes(x, label, self.num_classes)
    h = self.trunk(x, train)
    h = h.reshape(h.shape[0], -1)
    init = kernel_init(self.weight_init)

    def head(features: int, name: str) -> nn.Module:
      if self.equalised:
        return EqualisedDense(features, dtype=self.dtype, name=name)
      return Dense(features, self.spectral, kernel_init=init, dtype=self.dtype, name=name)

    logits = head(1, 'score')(h)[:, 0].astype(jnp.float32)
    if self.condition == 'projection':
      vector = Embed(self.num_classes, h.shape[-1], self.spectral, name='projection')(label)
      logits = logits + (vector * h.astype(jnp.float32)).sum(-1)
    if self.condition != 'auxiliary':
      return Scores(logits)
    return Scores(logits, head(self.num_classes, 'classes')(h).astype(jnp.float32))
