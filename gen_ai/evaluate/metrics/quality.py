"""Metrics of images against real images, by the names that users ask for, each with its interval and its stamp."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import frechet, inception_score, kernel, memorisation, modes, ms_ssim, prdc, sliced
from gen_ai.evaluate.metrics.features import Spread
from gen_ai.evaluate.metrics.metric import FEATURES, Evidence, Figure, Found, Metric, Request, share, with_error

NEIGHBOURS = 5  # k of precision, recall, density and coverage
REPLICATES = 100  # of the bootstrap
WIDE, FEW = 512, 20  # with more features than this an eigendecomposition takes seconds: so many replicates then
SPLITS = 10  # of the Inception score
PICTURES = 1000  # samples whose diversity is measured by MS-SSIM
KINDS = ('image',)


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


Compute = Callable[[Evidence, dict[str, Any]], dict[str, Figure]]


def _add(compute: Compute, e: Evidence, found: Found) -> None:
  """Adds the figures of one metric, with what they rest on."""
  found.figures.update(compute(e, {**e.extractor.describe(), **e.stamp, 'reference_examples': len(e.reference)}))


def _add_with_note(compute: Compute, e: Evidence, found: Found) -> None:
  """The same of distances, which are biased where samples are few."""
  _add(compute, e, found)
  note = frechet.note(min(len(e.samples), len(e.reference)), e.extractor.dim)
  found.notes.extend([note] if note and note not in found.notes else [])


def check(request: Request) -> None:
  """Refuses too few samples or images for the moments of features. Raises UserError."""
  assert request.extractor is not None
  for what, n in (('samples', request.samples), ('real images', request.reference)):
    frechet.check_counts(n, request.extractor.dim, what)


def _needs_logits(name: str, what: str, request: Request) -> None:
  assert request.extractor is not None
  if not request.extractor.has_logits:
    raise UserError(
      f"{what} needs class probabilities, and the extractor '{request.extractor.name}' has none: use "
      f"--extractor=classifier:RUN_DIR or inception:FILE, or leave '{name}' out."
    )
  check(request)


def _needs_neighbours(request: Request) -> None:
  check(request)
  for what, n in (('samples', request.samples), ('real images', request.reference)):
    if n <= NEIGHBOURS:
      raise UserError(
        f'precision and recall look at the {NEIGHBOURS}th nearest neighbour: {n} {what} are too few. '
        "Give more, or leave 'prdc' out."
      )


def _needs_fresh(request: Request) -> None:
  if request.split == 'train':
    raise UserError('memorisation compares samples with data that was not trained on: use --split=test or validation.')
  check(request)


def _memorisation(e: Evidence, found: Found) -> None:
  """Adds the audit of copies: the statistic C_T, shares of duplicates, and the closest pairs as a picture."""
  stamp: Mapping[str, Any] = {**e.extractor.describe(), **e.stamp, 'reference_examples': len(e.reference)}
  sets = {
    'samples': (e.read_samples, e.samples),
    'train': (e.read_train, e.train),
    'heldout': (e.read_reference, e.reference),
  }
  own = {name: memorisation.Examples(read(np.arange(len(part))), part.values) for name, (read, part) in sets.items()}
  audit = memorisation.audit(own['samples'], own['train'], own['heldout'], e.seed, mesh=Spread().mesh)
  stamp = {**stamp, 'train_examples': len(e.train), 'cells': audit.copying.cells}
  shares = {
    'duplicates_share': audit.exact_share,
    'near_duplicates_share': audit.near_share,
    'repeated_share': audit.repeated_share,
  }
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


METRICS = (
  Metric('fd', KINDS, {'fd': 'min'}, FEATURES, partial(_add_with_note, _fd), check=check),
  Metric('fd_infinity', KINDS, {'fd_infinity': 'min'}, FEATURES, partial(_add_with_note, _fd_infinity), check=check),
  Metric('kid', KINDS, {'kid': 'min'}, FEATURES, partial(_add, _kid), check=check),
  Metric(
    'prdc',
    KINDS,
    {'precision': 'max', 'recall': 'max', 'density': 'max', 'coverage': 'max'},
    FEATURES,
    partial(_add, _prdc),
    check=_needs_neighbours,
  ),
  Metric(
    'is',
    KINDS,
    {'inception_score': 'max'},
    FEATURES,
    partial(_add, _inception_score),
    check=partial(_needs_logits, 'is', 'the Inception score'),
  ),
  Metric(
    'modes',
    KINDS,
    {'modes_covered': 'max', 'modes_kl_nats': 'min'},
    FEATURES,
    partial(_add, _modes),
    check=partial(_needs_logits, 'modes', 'mode coverage'),
  ),
  Metric('ms_ssim', KINDS, {'ms_ssim': 'min'}, FEATURES, partial(_add, _ms_ssim), check=check),
  Metric('sliced_wasserstein', KINDS, {'sliced_wasserstein': 'min'}, FEATURES, partial(_add, _sliced), check=check),
  Metric(
    'memorisation',
    KINDS,
    # C_T is best near 0: below it samples copy, above it they stay away from the data.
    {'c_t': '', 'c_t_p': '', 'duplicates_share': 'min', 'near_duplicates_share': 'min', 'repeated_share': 'min'},
    FEATURES,
    _memorisation,
    train=True,
    check=_needs_fresh,
  ),
)


def measure(metrics: Sequence[Metric], evidence: Evidence) -> Found:
  """What `metrics` of samples give; each figure knows which way it is better."""
  found = Found({}, [], {}, {})
  for metric in metrics:
    before = set(found.figures)
    assert metric.compute is not None
    metric.compute(evidence, found)
    for name in found.figures.keys() - before:
      found.figures[name] = found.figures[name]._replace(better=metric.values.get(name))
  return found
