"""What a metric is: what it measures, of which kinds of data, what it needs, and which way is better."""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gen_ai.core.method import Batch, Key, Method, Spec, State, SumCount
from gen_ai.evaluate.metrics import likelihood
from gen_ai.evaluate.metrics.extractors import Extractor

FEATURES, SAMPLES, EXAMPLES = 'features', 'samples', 'examples'


class Figure(NamedTuple):
  """One number as evaluations.jsonl holds it.

  Attributes:
    value: in the unit that its name says.
    error: standard error.
    low, high: the 95 % interval.
    stamp: what else it rests on, besides what all figures of the evaluation share.
    better: 'min' or 'max', the way that is better; '' where neither is, None where that is not known.
  """

  value: float
  error: float | None = None
  low: float | None = None
  high: float | None = None
  stamp: Mapping[str, Any] = {}
  better: str | None = None

  def record(self) -> dict[str, Any]:
    """What is written: fields that are not known are left out."""
    numbers = {name: getattr(self, name) for name in ('value', 'error', 'low', 'high')}
    row: dict[str, Any] = {name: float(value) for name, value in numbers.items() if value is not None}
    row |= {} if self.better is None else {'better': self.better}
    return row | ({'stamp': dict(self.stamp)} if self.stamp else {})


class Evidence(NamedTuple):
  """What the metrics of one set of samples are computed from.

  Attributes:
    samples: `features.Features` of the samples; None where no metric needs any.
    reference: of the split that they are compared with.
    train: of the training split, where a metric asks for it.
    read_samples: int [n] numbers -> samples, as files hold them: images uint8 [n, H, W, C], tokens int32 [n, T].
    read_reference, read_train: the same of the splits.
    extractor: of the features.
    seed: of random subsets, blocks and projections.
    stamp: how the samples were made: their number and seed, the sampler's settings.
    intervals: whether intervals that take time (the bootstrap) are wanted: not while a run trains.
    outputs: of metrics of SAMPLES: everything that the task returned, {name: [n, ...]}, 'sample' as files hold it.
    dataset: `Dataset` that they are compared with, whole.
    split: of it.
  """

  samples: Any
  reference: Any
  train: Any
  read_samples: Callable[[np.ndarray], np.ndarray]
  read_reference: Callable[[np.ndarray], np.ndarray]
  read_train: Callable[[np.ndarray], np.ndarray]
  extractor: Any
  seed: int
  stamp: Mapping[str, Any]
  intervals: bool = True
  outputs: Mapping[str, np.ndarray] = MappingProxyType({})
  dataset: Any = None
  split: str = ''


class Found(NamedTuple):
  """Figures by name, what to say beside them, pictures (uint8 [N, H, W, C], columns), and texts."""

  figures: dict[str, Figure]
  notes: list[str]
  pictures: dict[str, tuple[np.ndarray, int]]
  texts: dict[str, list[str]]


class Request(NamedTuple):
  """What is about to be measured, for a metric to refuse before anything is drawn.

  Attributes:
    samples: how many.
    reference: examples of the split.
    split: its name.
    extractor: of the features; None where no metric needs any.
    spec: what the data is like.
  """

  samples: int
  reference: int
  split: str
  extractor: Extractor | None
  spec: Spec


class Metric(NamedTuple):
  """A metric that users ask for by name. Modules of `gen_ai.evaluate.metrics` hold theirs in METRICS.

  Attributes:
    name: what users write: 'fd'.
    kinds: names of the kinds of data that it measures.
    values: the figures that it gives, and which way each is better: {'fd': 'min'}; '' where neither is.
    of: FEATURES of samples, SAMPLES themselves, or EXAMPLES of a split.
    compute: of samples: adds its figures to those found.
    needs: names of tasks that a method must have, besides one that draws.
    outputs: what the task that draws must return, besides the samples.
    per_example: of EXAMPLES: (method, state, batch, key, latent draws) -> {name: (sums [B], counts [B])}; traceable.
    finish: of EXAMPLES: what more is told of the figures.
    train: whether it looks at the training split, too.
    check: refuses what cannot be computed; raises UserError naming the metric and the way out.
  """

  name: str
  kinds: tuple[str, ...]
  values: Mapping[str, str]
  of: str
  compute: Callable[[Evidence, Found], None] | None = None
  needs: tuple[str, ...] = ()
  outputs: tuple[str, ...] = ()
  per_example: Callable[[Method, State, Batch, Key, int], SumCount] | None = None
  finish: Callable[[Mapping[str, likelihood.Figure], Mapping[str, Any]], Mapping[str, Figure]] | None = None
  train: bool = False
  check: Callable[[Request], None] = lambda request: None
  draws: bool = False  # whether the number of latent draws matters


def with_error(value: float, error: float | None, stamp: Mapping[str, Any]) -> Figure:
  """A figure with the normal 95 % interval of its standard error."""
  centre, error, low, high = likelihood.interval(likelihood.Figure(value, error))
  return Figure(centre, error, low, high, stamp)


def share(value: float, n: int, stamp: Mapping[str, Any]) -> Figure:
  """A share of `n` with Wilson's 95 % score interval (1927), which stays in [0, 1] and is no point at 0."""
  z = NormalDist().inv_cdf(0.975)
  centre, spread = value + z * z / (2 * n), z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
  low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
  error = math.sqrt(value * (1 - value) / n)
  return Figure(value, error, min(max(low, 0.0), value), max(min(high, 1.0), value), stamp)
