"""Do sampled texts repeat the training text? Longest verbatim overlaps, against those of held-out text."""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.data.source import Source
from gen_ai.evaluate.metrics.memorisation import rank_z
from gen_ai.evaluate.metrics.metric import SAMPLES, Evidence, Figure, Found, Metric, Request

SHOWN = 5  # longest overlaps that are shown as text
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_CHUNK = 2**21  # corpus places looked at together
_DENSE = 2**24  # keys below this are looked up in a table
_NONE = -1

Best = tuple[np.ndarray, np.ndarray, np.ndarray]  # of every sequence: length, position, place in the corpus


class Lengths(NamedTuple):
  """Longest overlaps of some sequences, in tokens: mean, median, maximum and {quantile: length}."""

  mean: float
  median: float
  longest: int
  quantiles: dict[float, float]


class Overlap(NamedTuple):
  """One overlap: its text, length in tokens, the sample it is in, and where it stands in the sample and the corpus."""

  text: str
  length: int
  sample: int
  position: int
  corpus_position: int


class OverlapReport(NamedTuple):
  """Longest verbatim overlaps of samples and of held-out text with the training text.

  Attributes:
    samples, heldout: the distributions.
    p_value: one-sided Mann-Whitney, small if samples overlap more than held-out text does.
    threshold: the 99% quantile of held-out text, in tokens.
    share_above: of the samples, those with more than that; held-out text has at most 0.01.
    closest: the five longest of the samples.
  """

  samples: Lengths
  heldout: Lengths
  p_value: float
  threshold: float
  share_above: float
  closest: tuple[Overlap, ...]


def overlap_report(
  samples: np.ndarray, heldout: np.ndarray, corpus: np.ndarray, decode: Callable[[np.ndarray], str]
) -> OverlapReport:
  """Compares the longest overlaps of samples with those of held-out text cut to the same length.

  Args:
    samples: int [n, T], without prompts taken from the corpus.
    heldout: int [h, T].
    corpus: int [L], the training text.
    decode: text of int [t].

  Raises:
    UserError: sequences of unlike length, or what `longest_overlaps` raises.
  """
  from scipy.special import ndtr

  if samples.ndim != 2 or heldout.ndim != 2 or samples.shape[1] != heldout.shape[1]:
    raise UserError(
      f'samples are {list(samples.shape)} and held-out blocks {list(heldout.shape)}: longest overlaps compare [n, T] '
      'with [h, T] of one T, because longer sequences overlap more.'
    )
  n = len(samples)
  length, position, corpus_position = longest_overlaps(np.concatenate([samples, heldout]), corpus)
  own, fresh = length[:n], length[n:]
  threshold = float(np.quantile(fresh, 0.99))
  score = rank_z(fresh, own)
  closest = []
  for i in np.argsort(-own, kind='stable')[:SHOWN]:
    text = decode(samples[i, position[i] : position[i] + own[i]]) if own[i] else ''
    closest.append(Overlap(text, int(own[i]), int(i), int(position[i]), int(corpus_position[i])))
  return OverlapReport(
    samples=_lengths(own),
    heldout=_lengths(fresh),
    p_value=0.5 if score is None else float(ndtr(score)),
    threshold=threshold,
    share_above=float(np.mean(own > threshold)),
    closest=tuple(closest),
  )


def _lengths(length: np.ndarray) -> Lengths:
  quantiles = {q: float(np.quantile(length, q)) for q in _QUANTILES}
  return Lengths(float(length.mean()), float(np.median(length)), int(length.max()), quantiles)


def longest_overlaps(sequences: np.ndarray, corpus: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The longest run of consecutive tokens of every sequence that occurs in the corpus, exactly.

  Of runs of equal length the first in the sequence, and of its places in the corpus the first. Runs are named as by
  Karp, Miller and Rosenberg (1972): equal runs of w tokens have equal numbers, and a run of w to 2w tokens is known by
  the numbers of its first and its last w. So numbers are compared, never hashes. Only runs of the sequences get a
  number, so that fewer and fewer places of the corpus are left as w doubles; when a sequence has no run of 2w, its
  longest is found by bisection between w and 2w.

  Takes about 30 bytes a corpus token and 60 a token of the sequences; some ten seconds for 30 million tokens.

  Args:
    sequences: int [n, T].
    corpus: int [L].

  Returns:
    (length int32 [n], position in the sequence int32 [n], position in the corpus int64 [n]); 0, -1, -1 for a sequence
    of which no token occurs.

  Raises:
    UserError: other shapes, nothing in them, or tokens that are not whole numbers.
  """
  sequences, corpus = np.asarray(sequences), np.asarray(corpus)
  for name, tokens, axes in (('sequences', sequences, 2), ('the corpus', corpus, 1)):
    if tokens.ndim != axes or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
      wanted = 'whole numbers [n, T]' if axes == 2 else 'whole numbers [L]'
      raise UserError(f'{name} must be {wanted} and not empty, not {tokens.dtype} {list(tokens.shape)}.')
  n, most = len(sequences), min(sequences.shape[1], len(corpus))
  best = (np.zeros(n, np.int32), np.full(n, _NONE, np.int32), np.full(n, _NONE, np.int64))
  runs, numbers = _tokens(sequences, corpus)
  _note(best, runs)
  while len(runs.rows):
    double = _longer(runs, numbers, np.arange(len(runs.rows)), 2 * runs.width) if 2 * runs.width <= most else None
    ended = np.arange(len(runs.rows))
    if double:
      _note(best, double)
      ended = np.flatnonzero(~np.isin(runs.rows, double.rows))
    _bisect(best, runs, numbers, ended, min(2 * runs.width - 1, most))
    if not double:
      break
    runs = double
    numbers.fill(_NONE)
    numbers[runs.places] = runs.numbers
  return best


class _Lookup:
  """Where keys stand in an ascending array of distinct ones."""

  def __init__(self, keys: np.ndarray):
    self.keys = keys
    self.table: np.ndarray | None = None
    if not len(keys) or (keys[0] >= 0 and keys[-1] < _DENSE):
      self.table = np.full(keys.max(initial=-1) + 1, _NONE, np.int32)
      self.table[keys] = np.arange(len(keys), dtype=np.int32)
    else:  # most keys that are asked for are not there, which a mark tells sooner than a search
      self.shift = np.uint64(64 - min(26, len(keys).bit_length() + 4))
      self.marks = np.zeros(1 << (64 - int(self.shift)), bool)
      self.marks[self._mark(keys)] = True

  def _mark(self, keys: np.ndarray) -> np.ndarray:
    return (keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self.shift

  def __call__(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of int64 [p] `keys` are there, their numbers int32)."""
    if self.table is not None:
      positions = np.flatnonzero((keys >= 0) & (keys < len(self.table)))
      numbers = self.table[keys[positions]]
      there = numbers != _NONE
      return positions[there], numbers[there]
    positions = np.flatnonzero(self.marks[self._mark(keys)])
    numbers = np.searchsorted(self.keys, keys[positions])
    there = self.keys[np.minimum(numbers, len(self.keys) - 1)] == keys[positions]
    return positions[there], numbers[there].astype(np.int32)


class _Runs(NamedTuple):
  """The runs of `width` tokens that some sequences share with the corpus; equal ones have equal numbers.

  rows: int [r], the sequences that share one. names: int32 [r, T - width + 1], the numbers of all their runs, or _NONE.
  places, numbers: int [p] ascending, where in the corpus such runs start, and int32 [p] theirs. first: int [kinds], the
  first place of every number.
  """

  width: int
  rows: np.ndarray
  names: np.ndarray
  places: np.ndarray
  numbers: np.ndarray
  first: np.ndarray


def _shared(
  keys: np.ndarray, rows: np.ndarray, width: int, chunks: Iterable[tuple[np.ndarray, np.ndarray]], size: int
) -> _Runs:
  """Runs by their keys.

  Args:
    keys: int64 [r, T - width + 1] of the sequences `rows`, below 0 for runs that occur nowhere.
    rows: int [r].
    width: of the runs.
    chunks: (places ascending, keys int64) of the corpus.
    size: of the corpus.
  """
  known = keys >= 0
  kinds, inverse = np.unique(keys[known], return_inverse=True)
  index = np.dtype(np.int64 if size >= 2**31 else np.int32)
  first = np.full(len(kinds), size, index)
  places, numbers = [np.empty(0, index)], [np.empty(0, np.int32)]
  lookup = _Lookup(kinds)
  for where, positions in chunks:
    there, found = lookup(positions)
    place = where[there].astype(index)
    new = first[found] == size
    first[found[new][::-1]] = place[new][::-1]  # backwards, so that the first place is the one that stays
    places.append(place)
    numbers.append(found)
  names = np.full(keys.shape, _NONE, np.int32)
  names[known] = np.where(first[inverse] < size, inverse, _NONE)
  shares = (names >= 0).any(1)
  return _Runs(width, rows[shares], names[shares], np.concatenate(places), np.concatenate(numbers), first)


def _tokens(sequences: np.ndarray, corpus: np.ndarray) -> tuple[_Runs, np.ndarray]:
  """(runs of one token, their numbers int32 [L] at every place of the corpus or _NONE)."""
  kinds, codes = np.unique(sequences, return_inverse=True)
  lookup, numbers = _Lookup(kinds.astype(np.int64)), np.full(len(corpus), _NONE, np.int32)
  for start in range(0, len(corpus), _CHUNK):
    there, found = lookup(corpus[start : start + _CHUNK].astype(np.int64))
    numbers[start + there] = found
  keys = codes.reshape(sequences.shape).astype(np.int64)
  chunks = (
    (np.arange(i, min(i + _CHUNK, len(corpus))), numbers[i : i + _CHUNK].astype(np.int64))
    for i in range(0, len(corpus), _CHUNK)
  )
  return _shared(keys, np.arange(len(sequences)), 1, chunks, len(corpus)), numbers


def _longer(
  runs: _Runs, numbers: np.ndarray, chosen: np.ndarray, width: int, places: np.ndarray | None = None
) -> _Runs:
  """Runs of `width`, at most twice that of `runs`, in its sequences `chosen`.

  `numbers` int32 [L] are those of `runs`; only `places` are looked at, by default all where a run starts.
  """
  offset, kinds = width - runs.width, len(runs.first)
  names = runs.names[chosen]
  start, end = names[:, : names.shape[1] - offset], names[:, offset:]
  keys = np.where((start >= 0) & (end >= 0), start.astype(np.int64) * kinds + end, _NONE)
  places = runs.places if places is None else places

  def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, len(places), _CHUNK):
      where = places[i : i + _CHUNK]
      where = where[where < len(numbers) - offset]
      end = numbers[where + offset]
      where, end = where[end >= 0], end[end >= 0]
      yield where, numbers[where].astype(np.int64) * kinds + end

  return _shared(keys, runs.rows[chosen], width, chunks(), len(numbers))


def _bisect(best: Best, runs: _Runs, numbers: np.ndarray, chosen: np.ndarray, most: int) -> None:
  """Notes the longest runs of the sequences `chosen` of `runs`, known to be at most `most` long."""
  wanted = np.zeros(len(runs.first), bool)
  wanted[runs.names[chosen][runs.names[chosen] >= 0]] = True
  places = runs.places[wanted[numbers[runs.places]]]
  low, high = np.full(len(chosen), runs.width), np.full(len(chosen), most)
  while (low < high).any():
    middle = (low + high + 1) // 2
    for width in np.unique(middle[low < high]):
      at = np.flatnonzero((middle == width) & (low < high))
      longer = _longer(runs, numbers, chosen[at], int(width), places)
      _note(best, longer)
      has = np.isin(runs.rows[chosen[at]], longer.rows)
      low[at[has]], high[at[~has]] = width, width - 1


def _note(best: Best, runs: _Runs) -> None:
  """Writes the first runs of the sequences over what was known of them."""
  at = (runs.names >= 0).argmax(1)
  length, position, place = best
  length[runs.rows], position[runs.rows] = runs.width, at
  place[runs.rows] = runs.first[runs.names[np.arange(len(at)), at]]


def _needs_fresh(request: Request) -> None:
  if request.split == 'train':
    raise UserError('memorisation compares samples with data that was not trained on: use --split=test or validation.')


def heldout_texts(source: Source, T: int, n: int, names: Container[str] = ()) -> np.ndarray:
  """Texts of T tokens from a split, int [h, T], h at most `n`: by turns the next of each of its parts.

  Args:
    source: the split.
    T: tokens.
    n: texts wanted.
    names: of the parts that are taken, of a split that has any.
  """
  row = source.arrays()['tokens'].reshape(-1)
  starts = source.eval_index(np.array([part.start for part in source.parts.values()][1:], np.int64))
  parts = np.split(row, starts)
  if source.parts:
    parts = [part for name, part in zip(source.parts, parts, strict=True) if name in names]
  texts = [part[: min(len(part) // T, n) * T].reshape(-1, T) for part in parts]
  turn = np.concatenate([np.arange(len(own)) for own in texts])
  return np.concatenate(texts)[np.argsort(turn, kind='stable')[:n]]


def _of_texts(e: Evidence, found: Found) -> None:
  """Adds the longest verbatim overlaps of texts with the training text, beside those of held-out text.

  Raises:
    UserError: the split is shorter than one text.
  """
  tokens, vocab = e.outputs['sample'], e.dataset.spec.vocab
  tokens = tokens[:, int(e.outputs['given'][0]) if 'given' in e.outputs else 0 :]  # a prompt is not the model's
  T = tokens.shape[1]
  source = e.dataset.splits['train']
  train = source.arrays()['tokens'].reshape(-1)
  fresh = heldout_texts(e.dataset.splits[e.split], T, len(tokens), source.parts)
  if not len(fresh):
    raise UserError(f'the {e.split} text is shorter than one sample, {T} tokens: nothing to compare with.')
  report = overlap_report(tokens, fresh, train, vocab.decode)
  stamp = {**e.stamp, 'samples': len(tokens), 'tokens': T, 'heldout_texts': len(fresh)}
  own, held = report.samples, report.heldout
  values = {
    'overlap_tokens': own.mean,
    'overlap_heldout_tokens': held.mean,
    'overlap_longest_tokens': own.longest,
    'overlap_share': report.share_above,
    'overlap_p': report.p_value,
  }
  found.figures.update({name: Figure(value, stamp=stamp) for name, value in values.items()})
  found.notes.append(
    f'longest run of tokens found in the training text: {own.mean:.1f} on average, {own.longest} at most; in fresh '
    f'text of the same length {held.mean:.1f} and {held.longest}; one-sided p {report.p_value:.3g}'
  )
  found.texts['overlaps'] = [f'{one.length} tokens, sample {one.sample}: {one.text}' for one in report.closest]


METRICS = (
  Metric(
    'memorisation',
    ('text',),
    {
      'overlap_tokens': 'min',
      'overlap_heldout_tokens': '',  # what the others are held against
      'overlap_longest_tokens': 'min',
      'overlap_share': 'min',
      'overlap_p': '',
    },
    SAMPLES,
    _of_texts,
    train=True,
    check=_needs_fresh,
  ),
)
