"""What a denoising network is told beside the noisy example: a noise level, a second one, a label.

All of it is one vector, which shifts and scales the network's features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array

_FEATURES = 32  # pairs of sine and cosine
# Their slowest and fastest frequency in radians a unit. Numbers that stand for noise levels span about 3 units (log
# sigma / 4) or 1 (a flow's time). A derivative by time grows with the fastest one (arXiv 2410.11081, section 4.1).
_SLOWEST, _FASTEST = 0.25, 16.0


def fourier_features(c: Array) -> Array:
  """Sines and cosines of numbers [B] at frequencies evenly apart in their logarithm: float32 or wider [B, 64]."""
  c = c.astype(jnp.promote_types(jnp.float32, c.dtype))
  angle = c[:, None] * jnp.geomspace(_SLOWEST, _FASTEST, _FEATURES, dtype=c.dtype)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def modulated(x: Array, shift: Array, scale: Array) -> Array:
  """x [B, ..., F] times 1 + scale [B, F], plus shift [B, F] (FiLM, arXiv 1709.07871; DiT, arXiv 2212.09748)."""
  rows = (slice(None), *(None,) * (x.ndim - 2))
  return x * (1 + scale[rows]) + shift[rows]


class Conditioning(nn.Module):
  """A vector of the noise level, of the time to go and of the label: sums of their embeddings, through SiLU.

  Times go through sines, cosines and an MLP (arXiv 2006.11239, appendix B). Labels have a row each, and so has the null
  class, of number `num_classes`: 'no label' (arXiv 2207.12598, section 3.2). All of it is float32: a row an example.

  Attributes:
    width: E.
    num_classes: that there are, without the null class; 0: labels are not taken.
  """

  width: int
  num_classes: int = 0

  def _embedded(self, name: str, c: Array) -> Array:
    hidden = jax.nn.silu(nn.Dense(self.width, name=f'{name}_in')(fourier_features(c)))
    return nn.Dense(self.width, name=f'{name}_out')(hidden)

  @nn.compact
  def __call__(self, c: Array, label: Array | None = None, r: Array | None = None) -> Array:
    """[B, E], float32 or wider.

    Args:
      c: [B], what stands for the noise level, of order 1.
      label: int32 [B] up to `num_classes`; None: the null class for all.
      r: [B], the time up to which a network says the mean velocity, told as c - r (MeanFlow, arXiv 2505.13447, table
        1c); None: the network knows one time alone, and has no parameters for a second.

    Raises:
      UserError: a label for a network that knows no classes.
    """
    out = self._embedded('time', c)
    if r is not None:
      out = out + self._embedded('interval', c - r)
    if label is not None and not self.num_classes:
      raise UserError('labels were given to a network that was made without classes (num_classes=0)')
    if self.num_classes:
      init = nn.initializers.normal(0.02)
      table = self.param('label_embedding', init, (self.num_classes + 1, self.width), jnp.float32)
      out = out + (table[self.num_classes] if label is None else table[label])
    return jax.nn.silu(out)


class LogVariance(nn.Module):
  """How large a loss is at a noise level, its logarithm: linear in sines and cosines (arXiv 2312.02696, eq. 14)."""

  @nn.compact
  def __call__(self, c: Array) -> Array:
    """Noise levels [B] -> float32 [B], 0 at first."""
    return nn.Dense(1, kernel_init=nn.initializers.zeros, name='log_variance')(fourier_features(c))[:, 0]
