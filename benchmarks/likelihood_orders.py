"""What benchmarks.likelihood compares, and when an order has come out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_ai.compare.statistics import Interval, mean_interval


class Arm(NamedTuple):
  """A method: a config and what is changed in it."""

  config: str
  changes: Mapping[str, Any]


VAE = {'loss.bound': 'elbo', 'loss.importance_samples': 1, 'loss.gradient': 'plain'}
IWAE_5, IWAE_50 = ({'loss.bound': 'iwae', 'loss.importance_samples': k, 'loss.gradient': 'dreg'} for k in (5, 50))
# The second layer stands on the same first one: the paper's 100 and 50 units begin with other units as well.
TWO_LAYERS = {'model.latents': (50, 25)}
ARMS = {
  'VAE': Arm('iwae', VAE),
  'IWAE-5': Arm('iwae', IWAE_5),
  'IWAE-50': Arm('iwae', IWAE_50),
  'VAE-2-layers': Arm('hvae', VAE | TWO_LAYERS),
  'IWAE-5-2-layers': Arm('hvae', IWAE_5 | TWO_LAYERS),
  'IWAE-50-2-layers': Arm('hvae', IWAE_50 | TWO_LAYERS),
}
ORDERS = (  # (the lower, the higher) likelihood, arXiv 1509.00519, table 1
  ('VAE', 'IWAE-5'),
  ('IWAE-5', 'IWAE-50'),
  ('VAE-2-layers', 'IWAE-5-2-layers'),
  ('IWAE-5-2-layers', 'IWAE-50-2-layers'),
  ('VAE', 'VAE-2-layers'),
  ('IWAE-5', 'IWAE-5-2-layers'),
  ('IWAE-50', 'IWAE-50-2-layers'),
)


def difference(low: np.ndarray, high: np.ndarray) -> tuple[Interval, Interval]:
  """Of high - low [seeds, examples]: the mean with its interval over images (paired, seeds averaged) and over seeds."""
  gain = high - low
  return mean_interval(gain.mean(0)), mean_interval(gain.mean(1))


def held(over_images: Interval, over_seeds: Interval) -> bool:
  """Whether the whole interval over images is above 0, and that over seeds where there are several."""
  return over_images.low > 0 and (np.isnan(over_seeds.low) or over_seeds.low > 0)


def spread(found: Interval) -> str:
  """'mean [low, high]'."""
  return f'{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]'
