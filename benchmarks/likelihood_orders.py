"""What benchmarks.likelihood compares, and when an order has come out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_ai.compare.statistics import Interval, mean_interval


class Arm(NamedTuple):
  """A method: a config and what is changed in it."""

  config: str
  changes: Mapping[str, Any]


def _draws(k: int) -> dict[str, Any]:
  """The bound of k draws; the VAE's is that of one, as in arXiv 1509.00519.

  With the closed form of its KL, which several layers do not have, one layer would train with less noise than two.
  """
  return {'loss.bound': 'iwae', 'loss.draws': k, 'loss.gradient': 'plain' if k == 1 else 'dreg'}


ARMS = {
  'VAE': Arm('iwae', _draws(1)), 'IWAE-5': Arm('iwae', _draws(5)), 'IWAE-50': Arm('iwae', _draws(50)),
  'VAE-2-layers': Arm('hvae', _draws(1)), 'IWAE-5-2-layers': Arm('hvae', _draws(5)),
  'IWAE-50-2-layers': Arm('hvae', _draws(50)),
}  # fmt: skip
ORDERS = (  # (the lower, the higher) likelihood, arXiv 1509.00519, table 1
  ('VAE', 'IWAE-5'), ('IWAE-5', 'IWAE-50'), ('VAE-2-layers', 'IWAE-5-2-layers'),
  ('IWAE-5-2-layers', 'IWAE-50-2-layers'), ('VAE', 'VAE-2-layers'), ('IWAE-5', 'IWAE-5-2-layers'),
  ('IWAE-50', 'IWAE-50-2-layers'),
)  # fmt: skip


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
