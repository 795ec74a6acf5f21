"""Mixtures: one training stream out of several texts by weights, 'mix:0.7*tokens:A+0.3*text:B'.

Every `BLOCK` examples hold exactly the share of each source, in an order drawn by (seed, number of the block); each
source goes through its own epochs of exact windows. So the source and the example at any position are a function of
(seed, position) alone.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.files import dumps, sha256
from gen_ai.data import splits, text
from gen_ai.data.assemble import Dataset
from gen_ai.data.source import INDEX, TOKENS, Source, TextSource, check_numbered, folded, number_type, windows

PREFIX = 'mix'
BLOCK = 10_000  # examples in which shares are exact: weights count to four digits
_NUMBER = r'(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?'
_ENDS = 'ends'  # of the texts, in the row of all tokens


class Component(NamedTuple):
  """One source: its name among `config.data.name`s, a short one for figures, and its share of `BLOCK`."""

  name: str
  short: str
  share: int


def parse(name: str) -> list[Component]:
  """The components of 'mix:WEIGHT*NAME+WEIGHT*NAME...'. One of weight 0 is evaluated alone, and no part of training.

  Raises:
    UserError: it does not read so, or weights are too far apart.
  """
  parts = re.split(rf'\+(?={_NUMBER}\*)', name.partition(':')[2])
  found = [re.fullmatch(rf'({_NUMBER})\*(.+)', part) for part in parts]
  read = [(float(match[1]), match[2]) for match in found if match]
  if len(read) < len(parts):
    raise UserError(f"config.data.name={name} must read 'mix:0.7*NAME+0.3*NAME', weights before the names.")
  nested = [own for _, own in read if own.startswith(f'{PREFIX}:')]
  twice = [own for i, (_, own) in enumerate(read) if own in [other for _, other in read[:i]]]
  if nested or twice:
    what = 'is a mixture itself' if nested else 'stands there twice'
    raise UserError(f'config.data.name={name}: {(nested or twice)[0]} {what}: give every source one weight.')
  shares = _shares([weight for weight, _ in read])
  for (weight, own), share in zip(read, shares, strict=True):
    if weight and not share:
      raise UserError(f'config.data.name={name}: {own} has less than 1/{BLOCK:,} of the weight: give it more, or 0.')
  short = _short([own for _, own in read])
  return [Component(own, brief, share) for (_, own), brief, share in zip(read, short, shares, strict=True)]


def _shares(weights: list[float]) -> list[int]:
  """Whole numbers that sum to `BLOCK`, as near to the weights as can be: largest remainders are rounded up."""
  total = sum(weights)
  if not 0 < total < float('inf'):
    raise UserError('a mixture needs a weight above 0 (config.data.name).')
  exact = np.array(weights) / total * BLOCK
  shares = np.floor(exact + 1e-9).astype(int)
  for i in np.argsort(shares - exact, kind='stable')[: BLOCK - shares.sum()]:
    shares[i] += 1
  return [int(share) for share in shares]


def _short(names: list[str]) -> list[str]:
  """The last telling part of each name, with a number where two are alike."""
  short = []
  for name in names:
    parts = re.split(r'[/:]', re.sub(r'\*|\.\w+$', '', name))
    short.append(re.sub(r'[^\w-]+', '_', next((part for part in parts[::-1] if re.search(r'[^\W\d]', part)), 'text')))
  return [brief if short.count(brief) == 1 else f'{brief}_{i}' for i, brief in enumerate(short)]


class TextMixture(Source):
  """One split of a mixture of texts: all of them in one row of tokens, read in windows that lie in one text each.

  An evaluation is the windows of one text after the other; `parts` tells which are whose.

  Args:
    sources: {short name: the split of that source}, of one block size.
    shares: of each among `BLOCK` examples of training.
  """

  def __init__(self, sources: Mapping[str, TextSource], shares: list[int]):
    self._sources, self._shares = list(sources.values()), tuple(shares)
    self.block_size = self._sources[0].block_size
    self._ends = np.cumsum([source.size for source in self._sources], dtype=np.int64)
    self._starts = self._ends - [source.size for source in self._sources]
    self.nbytes = sum(source.nbytes for source in self._sources)
    self._stops = np.cumsum([source.evaluated for source in self._sources])  # of windows of an evaluation
    self._names = list(sources)

  def __len__(self) -> int:
    return sum(len(source) for source in self._sources)

  @property
  def evaluated(self) -> int:
    """Windows of all texts."""
    return int(self._stops[-1])

  @property
  def parts(self) -> Mapping[str, range]:
    """{short name: examples of an evaluation that are of that source}."""
    counts = [source.evaluated for source in self._sources]
    return {name: range(stop - n, stop) for name, n, stop in zip(self._names, counts, self._stops, strict=True)}

  def planned(self, position: np.ndarray, seed: int) -> np.ndarray:
    """As `Source.planned`: which source stands at a position, and how many examples of it came before, are drawn."""
    block, slot = np.divmod(position, BLOCK)
    which, count = np.empty_like(position), np.empty_like(position)
    for b in np.unique(block):
      now = block == b
      chosen, before = _drawn(seed, int(b), self._shares)
      which[now], count[now] = chosen[slot[now]], before[slot[now]]
    count += block * np.array(self._shares, np.int64)[which]
    index = np.empty(len(position), self._number_type())
    for k, source in enumerate(self._sources):
      index[which == k] = source.planned(count[which == k], _own_seed(seed, k)) + self._starts[k]
    return index

  def eval_index(self, example: np.ndarray) -> np.ndarray:
    """First tokens of the windows, of one source after the other."""
    example = np.asarray(example)
    which = np.searchsorted(self._stops, example, side='right')
    index = np.empty(example.shape, self._number_type())
    for k, source in enumerate(self._sources):
      first = self._stops[k] - source.evaluated
      index[which == k] = source.eval_index(example[which == k] - first) + self._starts[k]
    return index

  def arrays(self) -> dict[str, np.ndarray]:
    """{'tokens': those of all texts, 'ends': int32 [sources]}, in memory.

    Raises:
      UserError: more tokens than int32 can number.
    """
    check_numbered(int(self._ends[-1]), self.block_size, 'joined')
    tokens = np.concatenate([source.arrays()[TOKENS] for source in self._sources])
    return {TOKENS: tokens, _ENDS: self._ends.astype(np.int32)}

  def gather(self, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """As `TextSource.gather`."""
    which = (index[:, None] >= self._ends[None, :].astype(index.dtype)).sum(1)
    return windows(arrays[TOKENS], index, arrays[_ENDS][which][:, None], self.block_size)

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """What `gather` returns."""
    which = np.searchsorted(self._ends, index, side='right')
    tokens = np.empty((len(index), self.block_size + 1), np.int32)
    for k in np.unique(which):
      rows = which == k
      tokens[rows] = self._sources[k].read(np.asarray(index)[rows] - self._starts[k])[TOKENS]
    return {TOKENS: tokens, INDEX: folded(np.asarray(index))}

  def _number_type(self) -> type[np.signedinteger]:
    return number_type(int(self._ends[-1]), self.block_size)


@functools.lru_cache(maxsize=16)
def _drawn(seed: int, block: int, shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Of each place of a block: the number of its source, and how many places before it are of the same one."""
  words = np.random.Philox(np.random.SeedSequence([seed, block, 3, 1])).random_raw(BLOCK)
  which = np.repeat(np.arange(len(shares)), shares)[np.argsort(words, kind='stable')]
  before = np.empty(BLOCK, np.int64)
  for k, share in enumerate(shares):
    before[which == k] = np.arange(share)
  return which, before


def _own_seed(seed: int, k: int) -> int:
  """The seed of a source's own order: two of one size are not read alike."""
  return int(np.random.Philox(np.random.SeedSequence([seed, k, 2, 1])).random_raw())


def load(name: str, opened: Callable[[str], Dataset]) -> Dataset:
  """The data set 'mix:...'.

  Args:
    name: as in `config.data.name`.
    opened: opens one of its sources by name.

  Raises:
    UserError: what `parse` and `opened` raise, naming the source, or sources of different vocabularies.
  """
  components = parse(name)
  found = [_open(name, component, opened) for component in components]
  first = found[0]
  for component, dataset in zip(components, found, strict=True):
    own, other = (text.identity(cast(text.AnyVocab, data.spec.vocab)) for data in (dataset, first))
    if own != other:
      raise UserError(
        f'config.data.name={name}: {component.name} has other tokens ({_about(own)}) than {components[0].name} '
        f'({_about(other)}): make both by one tokenizer. config.data.tokens=bpe:DIR reads texts by that of tokens:DIR.'
      )
  sources = {part: _joined(part, components, found) for part in splits.NAMES}
  sizes = [
    f'{one.share / BLOCK:.4g} of {one.short}: '
    + ', '.join(f'{len(data.splits[part]):,} {part}' for part in splits.NAMES if _holds(part, one))
    + f' (sha256 {data.fingerprint[:12]})'
    for one, data in zip(components, found, strict=True)
  ]
  return Dataset(
    name,
    '+'.join(data.version for data in found).strip('+'),
    first.spec,
    dict(sources),
    ' + '.join(data.split_rule for data in found),
    sha256(dumps([[one.share, data.fingerprint] for one, data in zip(components, found, strict=True)])),
    ' + '.join(data.location for data in found),
    notes=(*sizes, *(note for data in found for note in data.notes)),
  )


def _joined(part: str, components: Sequence[Component], found: Sequence[Dataset]) -> TextMixture:
  own = [(one, data) for one, data in zip(components, found, strict=True) if _holds(part, one)]
  sources = {one.short: cast(TextSource, data.splits[part]) for one, data in own}
  return TextMixture(sources, [one.share for one, _ in own])


def _holds(part: str, component: Component) -> bool:
  return part != 'train' or component.share > 0


def _open(name: str, component: Component, opened: Callable[[str], Dataset]) -> Dataset:
  try:
    return opened(component.name)
  except UserError as error:
    raise type(error)(f'config.data.name={name}: of its source {component.name}: {error}') from error


def _about(identity: str) -> str:
  kind, _, held = identity.partition(' ')
  return f'{kind} {held[:12]}' if kind == 'bpe' else kind
