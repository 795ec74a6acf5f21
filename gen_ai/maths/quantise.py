"""Vector quantisation by a codebook of moving averages (VQ-VAE, arXiv 1711.00937)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array

_SMOOTHING = 1e-5  # of cluster sizes: the authors' Laplace smoothing


class Codebook(NamedTuple):
  """A codebook and what its averages are made of, float32."""

  vectors: Array  # [N, D] the codes
  counts: Array  # [N] running mean of how many vectors chose each code, an update
  sums: Array  # [N, D] running sum of these vectors


class Usage(NamedTuple):
  """What a batch says of the codes: means over its vectors, so that micro-batches and devices average.

  So a candidate, too, is a mean of one vector a micro-batch, or a device under pmap.
  """

  share: Array  # [N] of the vectors that chose each code
  mean: Array  # [N, D] sum of these vectors over all vectors
  candidate: Array  # [N, D] a vector of the batch for each code, to start again from


def start(key: Array, num: int, dim: int) -> Codebook:
  """Codes N(0, 1): apart from each other, so that nearest neighbours are no matter of rounding."""
  vectors = jax.random.normal(key, (num, dim))
  # Copies: a state is donated, and one buffer cannot be given away twice.
  return Codebook(vectors, jnp.ones(num), jnp.copy(vectors))


def nearest(vectors: Array, z: Array) -> Array:
  """Number of the nearest code by Euclidean distance (eq. 1): [N, D], [..., D] -> int32 [...]."""
  distance = (vectors**2).sum(-1) - 2.0 * z @ vectors.T  # but for |z|^2, which is the same for all codes
  return jnp.argmin(distance, -1).astype(jnp.int32)


def straight_through(z: Array, code: Array) -> Array:
  """`code` forwards; backwards its gradient goes to z as it is (section 3.2). Both [..., D]."""
  return z + jax.lax.stop_gradient(code - z)


def commitment(z: Array, code: Array) -> Array:
  """Squared distance of z to its code, held constant, summed over D (eq. 3, third term without beta): [...]."""
  return ((z - jax.lax.stop_gradient(code)) ** 2).sum(-1)


def usage(index: Array, z: Array, noise: Array) -> Usage:
  """What vectors z [M, D] that chose codes `index` [M] say of a codebook of noise.shape[1] codes.

  Args:
    index: int32 [M]. z: [M, D].
    noise: [M, N] N(0, 1), addressed by vector: the candidate of a code is the vector with the largest of its column.
  """
  N = noise.shape[1]
  chosen = jax.nn.one_hot(index, N, dtype=jnp.float32)
  z = jax.lax.stop_gradient(z).astype(jnp.float32)
  return Usage(chosen.mean(0), chosen.T @ z / z.shape[0], z[jnp.argmax(noise, 0)])


def update(book: Codebook, seen: Usage, vectors: int, decay: float | Array, restart_below: float | Array) -> Codebook:
  """The codebook after an update (appendix A.1), its dead codes started again from vectors of the batch.

  Args:
    book: before. seen: of the update's batch.
    vectors: how many there were.
    decay: the share of the averages that survives.
    restart_below: running mean of vectors an update below which a code is dead.
  """
  counts = decay * book.counts + (1.0 - decay) * vectors * seen.share
  sums = decay * book.sums + (1.0 - decay) * vectors * seen.mean
  total = counts.sum()
  smooth = (counts + _SMOOTHING) / (total + counts.shape[0] * _SMOOTHING) * total
  codes = sums / smooth[:, None]
  dead = counts < restart_below
  row = dead[:, None]
  # A code that starts again counts as one vector an update, or it would be dead again at once.
  return Codebook(
    jnp.where(row, seen.candidate, codes), jnp.where(dead, 1.0, counts), jnp.where(row, seen.candidate, sums)
  )


def perplexity(share: Array) -> Array:
  """exp of the entropy of how codes are used: from 1 (one code) to N (all alike). [N] -> []."""
  return jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-12))).sum())
