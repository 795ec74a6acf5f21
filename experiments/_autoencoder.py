"""Autoencoders of other families, trained before and fixed: images to latents and back.

Parameters are {'encoder', 'decoder'} and, of VQ-VAEs, 'codebook'. Latents are arrays [B, *shape] of any scale.
"""

import math
from typing import Any, Protocol

import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import _vq, vae
from gen_ai.core import random
from gen_ai.core.averages import is_averaged
from gen_ai.core.method import Array, Key, PyTree, Spec, State
from gen_ai.maths import quantise
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import compute_dtype


class Autoencoder(Protocol):
  """What latent methods need of one."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Of a latent."""

  def init(self, key: Key) -> PyTree:
    """Parameters, before those of a run take their place."""

  def of_run(self, config: ConfigDict, state: State) -> PyTree:
    """The parameters by which a run of `config` is evaluated, whose `state.ema` is the average for it."""

  def encode(self, params: PyTree, image: Array, keys: Key) -> Array:
    """Latents [B, *shape] of images uint8 [B, H, W, C] to train on; what is drawn is by keys [B]."""

  def mean(self, params: PyTree, image: Array, keys: Key) -> Array:
    """The same, without what a posterior spreads."""

  def decode(self, params: PyTree, latent: Array) -> Array:
    """Images in [-1, 1]."""


class Grid:
  """A VQ-VAE's: what its encoder says before it is quantised, [h, w, code_dim]; decoded by the nearest codes.

  So a flow has continuous numbers to draw, and what it gets wrong by less than half of the way to another code does no
  harm (arXiv 2112.10752, section 3.1: the quantisation is part of the decoder).

  Args:
    config: of the run.
    spec: of its images.

  Raises:
    UserError: sides that do not halve so often.
  """

  def __init__(self, config: ConfigDict, spec: Spec):
    own = config.autoencoder
    self._images, self._codes = spec.image_shape, own.codes
    self.shape = (*_vq.grid_of(spec, own.downsamples, 'config.autoencoder.downsamples'), own.code_dim)
    self._encoder, self._decoder = _vq.coders(own, spec, compute_dtype(config.precision))

  def init(self, key: Key) -> PyTree:
    """See `Autoencoder`."""
    x, z = jnp.zeros((2, *self._images)), jnp.zeros((2, *self.shape))
    return {
      'encoder': self._encoder.init(random.stream(key, 'encoder'), x)['params'],
      'decoder': self._decoder.init(random.stream(key, 'decoder'), z)['params'],
      'codebook': quantise.start(random.stream(key, 'codebook'), self._codes, self.shape[-1]).vectors,
    }

  def of_run(self, config: ConfigDict, state: State) -> PyTree:
    """See `Autoencoder`."""
    params, codebook = state.params, state.stats.vectors
    if is_averaged(config):
      params, codebook = state.ema['params'], state.ema['codebook']
    own = params['autoencoder']
    return {'encoder': own['encoder'], 'decoder': own['decoder'], 'codebook': codebook}

  def encode(self, params: PyTree, image: Array, keys: Key) -> Array:
    """See `Autoencoder`: nothing is drawn."""
    z: Any = self._encoder.apply({'params': params['encoder']}, to_signed(image))
    return z

  mean = encode

  def decode(self, params: PyTree, latent: Array) -> Array:
    """See `Autoencoder`."""
    vectors = params['codebook'][quantise.nearest(params['codebook'], latent)]
    mean: Any = self._decoder.apply({'params': params['decoder']}, vectors)
    return jnp.clip(mean, -1.0, 1.0)


class Vector:
  """A VAE's: draws from the posterior of its lowest layer, [Z], whose place in the chain the flow takes.

  Draws and not means: draws are what the decoder was trained on, and a unit that the VAE does not use is N(0, 1) among
  them. Its means are nearly constant, and would be divided by nearly nothing.

  Args:
    config: of the run.
    spec: of its images.
  """

  def __init__(self, config: ConfigDict, spec: Spec):
    own = config.autoencoder
    self._images, self.shape = spec.image_shape, tuple(own.latents[:1])
    self._likelihood = vae.Likelihood(own.likelihood, own.binarise, math.prod(spec.shape))
    self._encoder, self._decoder = vae.coders(own, spec, compute_dtype(config.precision))

  def init(self, key: Key) -> PyTree:
    """See `Autoencoder`."""
    x, z = jnp.zeros((2, *self._images)), jnp.zeros((2, *self.shape))
    return {
      'encoder': self._encoder.init(random.stream(key, 'encoder'), x)['params'],
      'decoder': self._decoder.init(random.stream(key, 'decoder'), z)['params'],
    }

  def of_run(self, config: ConfigDict, state: State) -> PyTree:
    """See `Autoencoder`."""
    own = state.ema if is_averaged(config) else state.params
    return {name: own[name] for name in ('encoder', 'decoder')}

  def _moments(self, params: PyTree, image: Array, keys: Key) -> tuple[Array, Array]:
    # The keys alone address the noise that a likelihood adds to images.
    batch = {'image': image, 'index': jnp.zeros(image.shape[:1], jnp.int32)}
    x = self._likelihood.inputs(self._likelihood.targets(batch, keys))
    found: Any = self._encoder.apply({'params': params['encoder']}, x)
    return found

  def encode(self, params: PyTree, image: Array, keys: Key) -> Array:
    """See `Autoencoder`."""
    mean, log_std = self._moments(params, image, keys)
    return mean + jnp.exp(log_std) * random.normal(random.stream(keys, 'posterior'), self.shape)

  def mean(self, params: PyTree, image: Array, keys: Key) -> Array:
    """See `Autoencoder`."""
    return self._moments(params, image, keys)[0]

  def decode(self, params: PyTree, latent: Array) -> Array:
    """See `Autoencoder`."""
    raw: Any = self._decoder.apply({'params': params['decoder']}, latent)
    return self._likelihood.picture(raw)


def autoencoder(config: ConfigDict, spec: Spec) -> Autoencoder:
  """The one that config.autoencoder describes."""
  return Grid(config, spec) if config.autoencoder.network == 'grid' else Vector(config, spec)
