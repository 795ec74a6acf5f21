"""The figures of samples against real data, by the names that users ask for, each with its interval and its stamp."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from gen_ai.errors import UserError
from gen_ai.metrics import frechet, inception_score, kernel, likelihood, memorisation, modes, ms_ssim, prdc, sliced
from gen_ai.metrics.extractors import Extractor
from gen_ai.metrics.features import Features, Spread

NEIGHBOURS = 5  # k of precision, recall, density and coverage
REPLICATES = 100  # of the bootstrap
WIDE, FEW = 512, 20  # with more features than this an eigendecomposition takes seconds: so many replicates then
SPLITS = 10  # of the Inception score
PICTURES = 1000  # samples whose diversity is measured by MS-SSIM


class Figure(NamedTuple):
  """One number as evaluations.jsonl holds it.

  Attributes:
    value: in the unit that its name says.
    error: standard error.
    low, high: the 95 % interval.
    stamp: what else it rests on, besides what all figures of the evaluation share.
  """

  value: float
  error: float | None = None
  low: float | None = None
  high: float | None = None
  stamp: Mapping[str, Any] = {}

  def record(self) -> dict[str, Any]:
    """What is written: fields that are not known are left out."""
    numbers = {name: float(v) for name, v in self._asdict().items() if name != 'stamp' and v is not None}
    return numbers | ({'stamp': dict(self.stamp)} if self.stamp else {})


class Evidence(NamedTuple):
  """What the figures of one set of samples are computed from.

  Attributes:
    samples: features of the samples.
    reference: of the split that they are compared with.
    train: of the training split, where memorisation is asked for.
    read_samples: int [n] numbers -> samples uint8 [n, H, W, C].
    read_reference, read_train: the same of the splits.
    extractor: of the features.
    seed: of random subsets, blocks and projections.
    stamp: how the samples were made: their number and seed, the sampler's settings.
    intervals: whether intervals that take time (the bootstrap) are wanted: not while a run trains.
  """

  samples: Features
  reference: Features
  train: Features | None
  read_samples: Callable[[np.ndarray], np.ndarray]
  read_reference: Callable[[np.ndarray], np.ndarray]
  read_train: Callable[[np.ndarray], np.ndarray]
  extractor: Extractor
  seed: int
  stamp: Mapping[str, Any]
  intervals: bool = True


class Found(NamedTuple):
  """Figures by name, what to say beside them, pictures (uint8 [N, H, W, C], columns), and texts."""

  figures: dict[str, Figure]
  notes: list[str]
  pictures: dict[str, tuple[np.ndarray, int]]
  texts: dict[str, list[str]]


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


def _fd(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  reference = (e.reference.mean, e.reference.cov)
  value = frechet.distance(e.samples.mean, e.samples.cov, *reference)
  if not e.intervals:
    return {'fd': Figure(value, stamp=stamp)}
  replicates = REPLICATES if e.extractor.dim <= WIDE else min(FEW, REPLICATES)
  low, high = frechet.bootstrap(e.samples.values, reference, e.seed, replicates)
  return {'fd': Figure(value, None, low, high, stamp | {'fd_replicates': replicates})}


def _fd_infinity(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  found = frechet.infinity(e.samples.values, (e.reference.mean, e.reference.cov), e.seed)
  return {'fd_infinity': with_error(*found, stamp)}


def _kid(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  blocks, size = kernel.block_plan(len(e.samples), len(e.reference))
  found = kernel.kid(e.samples.values, e.reference.values, e.seed)
  return {'kid': with_error(*found, stamp | {'kid_blocks': f'{blocks} x {size}'})}


def _prdc(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  found = prdc.prdc(e.samples.values, e.reference.values, NEIGHBOURS, Spread().mesh)
  stamp = stamp | {'neighbours': NEIGHBOURS}
  of = {'precision': e.samples, 'recall': e.reference, 'coverage': e.reference}
  return {
    name: share(value, len(of[name]), stamp) if name in of else with_error(value, error, stamp)
    for name, (value, error) in found.items()
  }


def _inception_score(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  assert e.samples.logits is not None  # `check` asks before
  mean, spread = inception_score.inception_score(e.samples.logits, SPLITS)
  # Papers print the spread over splits; the standard error of their mean is smaller.
  return {'inception_score': with_error(mean, spread / math.sqrt(SPLITS), stamp | {'splits': SPLITS})}


def _modes(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  assert e.samples.logits is not None and e.reference.logits is not None  # `check` asks before
  found = modes.modes(e.samples.logits, e.reference.logits)
  stamp = stamp | {'modes': found.classes}
  kl = with_error(found.kl_nats, found.error, stamp)
  return {
    'modes_covered': Figure(found.covered, stamp=stamp | {'covered_from': modes.COVERED_FROM}),
    'modes_kl_nats': kl._replace(low=max(kl.low or 0.0, 0.0)),
  }


def _ms_ssim(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  del stamp
  images = e.read_samples(np.arange(min(PICTURES, len(e.samples))))
  found = ms_ssim.diversity(images, e.seed)
  scales = ms_ssim.scales(*images.shape[1:3])
  own = dict(e.stamp)  # neither an extractor nor real images have a part in it
  return {'ms_ssim': with_error(*found, own | {'ms_ssim_images': len(images), 'ms_ssim_scales': scales})}


def _sliced(e: Evidence, stamp: dict[str, Any]) -> dict[str, Figure]:
  found = sliced.sliced_wasserstein(e.samples.values, e.reference.values, e.seed)
  return {'sliced_wasserstein': with_error(*found, stamp)}


FAMILIES: dict[str, Callable[[Evidence, dict[str, Any]], dict[str, Figure]]] = {
  'fd': _fd, 'fd_infinity': _fd_infinity, 'kid': _kid, 'prdc': _prdc, 'is': _inception_score, 'modes': _modes,
  'ms_ssim': _ms_ssim, 'sliced_wasserstein': _sliced,
}  # fmt: skip
FIGURES = {  # what each adds
  'fd': ('fd',), 'fd_infinity': ('fd_infinity',), 'kid': ('kid',), 'is': ('inception_score',), 'ms_ssim': ('ms_ssim',),
  'modes': ('modes_covered', 'modes_kl_nats'), 'prdc': ('precision', 'recall', 'density', 'coverage'),
  'sliced_wasserstein': ('sliced_wasserstein',),
  'memorisation': ('c_t', 'c_t_p', 'duplicates_share', 'near_duplicates_share', 'repeated_share'),
}  # fmt: skip


def check(names: Sequence[str], samples: int, reference: int, extractor: Extractor) -> None:
  """Refuses what cannot be computed, before anything is drawn. Raises UserError naming the figure and the way out."""
  for name, what in (('is', 'the Inception score'), ('modes', 'mode coverage')):
    if name in names and not extractor.has_logits:
      raise UserError(f"{what} needs class probabilities, and the extractor '{extractor.name}' has none: use "
                      f"--extractor=classifier:RUN_DIR or inception:FILE, or leave '{name}' out.")  # fmt: skip
  for what, n in (('samples', samples), ('real images', reference)):
    frechet.check_counts(n, extractor.dim, what)
    if 'prdc' in names and n <= NEIGHBOURS:
      raise UserError(f'precision and recall look at the {NEIGHBOURS}th nearest neighbour: {n} {what} are too few. '
                      "Give more, or leave 'prdc' out.")  # fmt: skip


def _memorisation(e: Evidence, stamp: Mapping[str, Any], found: Found) -> None:
  """Adds the audit of copies: the statistic C_T, shares of duplicates, and the closest pairs as a picture."""
  assert e.train is not None
  sets = {'samples': (e.read_samples, e.samples), 'train': (e.read_train, e.train),
          'heldout': (e.read_reference, e.reference)}  # fmt: skip
  own = {name: memorisation.Examples(read(np.arange(len(part))), part.values) for name, (read, part) in sets.items()}
  audit = memorisation.audit(own['samples'], own['train'], own['heldout'], e.seed, mesh=Spread().mesh)
  stamp = {**stamp, 'train_examples': len(e.train), 'cells': audit.copying.cells}
  shares = {'duplicates_share': audit.exact_share, 'near_duplicates_share': audit.near_share,
            'repeated_share': audit.repeated_share}  # fmt: skip
  n = len(e.samples)
  c = audit.copying
  found.figures.update({'c_t': Figure(c.c_t, stamp=stamp), 'c_t_p': Figure(c.p_value, stamp=stamp)})
  found.figures.update({name: share(value, n, stamp) for name, value in shares.items()})
  found.notes.extend(
    [
      f'copying: C_T {c.c_t:.2f}, one-sided p {c.p_value:.3g}: samples '
      f'{"lie" if c.p_value < 0.01 else "do not lie"} closer to the training images than held-out images do '
      f'({c.cells_used} of {c.cells} cells, {c.heldout_share:.0%} of the held-out images)',
      f'duplicates: {audit.exact:,} of {n:,} samples are training images pixel by pixel ({audit.exact_heldout:,} of '
      f'{len(e.reference):,} held-out images are); {audit.near:,} ({audit.near_share:.2%}) lie as close as the nearest '
      f'{audit.near_chance:.2%} of held-out images; {audit.repeated:,} repeat an earlier sample',
    ]
  )
  picture = memorisation.pairs_picture(own['samples'].images, own['train'].images, audit.pairs)
  found.pictures['closest_pairs'] = (picture, len(audit.pairs))


def measure(names: Sequence[str], evidence: Evidence) -> Found:
  """The figures of `names`, of FAMILIES and 'memorisation'."""
  stamp = {**evidence.extractor.describe(), **evidence.stamp, 'reference_examples': len(evidence.reference)}
  found = Found({}, [], {}, {})
  for name in names:
    if name in FAMILIES:
      found.figures.update(FAMILIES[name](evidence, stamp))
  if {'fd', 'fd_infinity'} & set(names):
    note = frechet.note(min(len(evidence.samples), len(evidence.reference)), evidence.extractor.dim)
    found.notes.extend([note] if note else [])
  if 'memorisation' in names:
    _memorisation(evidence, stamp, found)
  return found
