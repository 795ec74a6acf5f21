"""One evaluation protocol for every method: which samples, against which data, under which features, and its stamp."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import provenance, surroundings
from gen_ai.config import averages
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import RESIDENT_BYTES
from gen_ai.data.store import data_folder
from gen_ai.draws import Given, Likelihoods, Samples
from gen_ai.errors import UserError
from gen_ai.metrics import extractors, features, likelihood, overlap, quality
from gen_ai.metrics.extractors import Extractor
from gen_ai.program import Program
from gen_ai.types import State

NLL, MEMORISATION = 'nll', 'memorisation'
FEATURES = 'features'  # folder of kept features in the data folder
NAMES = {'image': (*quality.FAMILIES, NLL, MEMORISATION), 'text': (NLL, MEMORISATION)}


class Protocol(NamedTuple):
  """What is measured, and how.

  Attributes:
    names: of figures, see NAMES.
    split: that samples are compared with and likelihoods are taken over.
    samples: how many are drawn.
    seed: of their noise, of evaluation noise, and of random subsets.
    extractor: of features; None where no figure needs one.
    nll_draws: latent draws of an importance-weighted likelihood.
  """

  names: tuple[str, ...]
  split: str
  samples: int
  seed: int
  extractor: Extractor | None
  nll_draws: int

  @property
  def figures(self) -> list[str]:
    """The figures of samples that it gives."""
    return [figure for name in self.names for figure in quality.FIGURES.get(name, ())]


def parse_names(text: str, kind: str) -> tuple[str, ...]:
  """The figures named in 'fd,kid'. Raises UserError for one that this kind of data does not have."""
  names = tuple(dict.fromkeys(name.strip() for name in text.split(',') if name.strip()))
  for name in names:
    if name not in NAMES[kind]:
      other = next((k for k in NAMES if name in NAMES[k]), '')
      why = f'is measured on {other}s, not on {kind}s' if other else 'is unknown'
      raise UserError(f"metric '{name}' {why}. For {kind}s there are {', '.join(NAMES[kind])}.")
  return names


def protocol(config: ConfigDict, dataset: Dataset, split: str, names: Sequence[str]) -> Protocol:
  """The protocol of `config.eval` for figures `names` on `split`.

  Raises:
    UserError: what cannot be measured, or an extractor that does not fit; nothing has been drawn then.
  """
  wanted = [name for name in names if name != NLL]
  if MEMORISATION in names and split == 'train':
    raise UserError('memorisation compares samples with data that was not trained on: use --split=test or validation.')
  extractor = None
  if wanted and dataset.spec.kind == 'image':
    extractor = extractors.make(config.eval.extractor, dataset.spec)
    quality.check(wanted, config.eval.samples, len(dataset.splits[split]), extractor)
  return Protocol(tuple(names), split, config.eval.samples, config.eval.seed, extractor, config.eval.nll_draws)


def training_protocol(config: ConfigDict, dataset: Dataset) -> Protocol | None:
  """What `config.eval.metrics` asks for while a run trains, on its validation split; None where it asks for nothing."""
  names = parse_names(config.eval.metrics, dataset.spec.kind)
  return protocol(config, dataset, 'validation', names) if names else None


def describe(protocol: Protocol) -> dict[str, Any]:
  """What run.json holds of the figures that are measured in training."""
  extractor = protocol.extractor
  told = extractor.describe() if extractor else {}
  # Hashes are cut: the stamps of evaluations have them whole.
  settings = [f'{name} {value[:12] if len(str(value)) == 64 else value}' for name, value in told.items()]
  draws = [f'nll_draws {protocol.nll_draws}'] if NLL in protocol.names else []
  return {'samples': protocol.samples, 'extractor': ', '.join([*settings, *draws])}


def split_hash(dataset: Dataset, split: str) -> str:
  """sha256 (hex) of what the split holds; of a set too large to be read, of its stand-in."""
  source = dataset.splits[split]
  if source.nbytes > RESIDENT_BYTES:
    return hashlib.sha256(f'{dataset.fingerprint} {split}'.encode()).hexdigest()
  digest = hashlib.sha256()
  for name, array in sorted(source.arrays().items()):
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def shared_stamp(dataset: Dataset, split: str) -> dict[str, Any]:
  """What every figure of one evaluation rests on."""
  devices, shape = jax.devices(), dataset.spec.shape
  image = dataset.spec.kind == 'image'
  unusual = surroundings.arithmetic(os.environ)
  return {
    **({'arithmetic': unusual} if unusual else {}),
    'data': dataset.name, 'data_hash': dataset.fingerprint, 'split': split, 'split_rule': dataset.split_rule,
    'split_hash': split_hash(dataset, split), 'examples': len(dataset.splits[split]),
    'form': f'images {"x".join(map(str, shape))}' if image else f'blocks of {shape[0]} tokens',
    'versions': ', '.join(f'{name} {version}' for name, version in provenance.versions().items()),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
  }  # fmt: skip


def sampler_stamp(config: ConfigDict) -> dict[str, Any]:
  """How samples are made: averaged parameters or not, and the sampler's settings (temperature, truncation, ...)."""
  settings = {f'sampler.{name}': str(value) for name, value in config.sample.items() if name != 'n'}
  return {'ema': averages(config)} | settings


class References:
  """Features of the splits of a data set under one extractor, computed once and kept in the data folder."""

  def __init__(self, dataset: Dataset, extractor: Extractor, data_dir: str):
    self._dataset, self._extractor = dataset, extractor
    self._folder = data_folder(data_dir) / FEATURES
    self._found: dict[str, features.Features] = {}

  def read(self, split: str, index: np.ndarray) -> np.ndarray:
    """Images uint8 [n, H, W, C] of a split by their numbers."""
    source = self._dataset.splits[split]
    return source.read(source.eval_index(np.asarray(index)))['image']

  def __getitem__(self, split: str) -> features.Features:
    """Features of all images of a split."""
    if split not in self._found:
      about = {'split': split_hash(self._dataset, split), 'extractor': self._extractor.describe()}
      self._found[split] = features.cached(self._folder, about, partial(self._make, split))
    return self._found[split]

  def _make(self, split: str) -> features.Features:
    n, spread = len(self._dataset.splits[split]), features.Spread()
    size = spread.block(features.block_size(self._extractor))
    blocks = features.blocks_of(partial(self.read, split), n, size)
    return features.of_blocks(blocks, self._extractor, n, spread)

  def evidence(self, protocol: Protocol, samples: features.Features, read_samples: Callable[[np.ndarray], np.ndarray],
               stamp: Mapping[str, Any], intervals: bool = True) -> quality.Evidence:  # fmt: skip
    """`samples` beside the split that they are compared with."""
    return quality.Evidence(
      samples, self[protocol.split], self['train'] if MEMORISATION in protocol.names else None, read_samples,
      partial(self.read, protocol.split), partial(self.read, 'train'), self._extractor, protocol.seed,
      {'samples': len(samples), 'pixels': 'uint8', **stamp}, intervals,
    )  # fmt: skip


class _Gathered(NamedTuple):
  """What the device computed of one state, for all lanes at once; None where no figure needs it."""

  features: Callable[[int], features.Features] | None  # of a lane's samples
  texts: list[np.ndarray] | None  # tokens int32 [n, T] of each lane
  totals: list[likelihood.Totals] | None


class Judge:
  """Figures of states of one program under one protocol.

  Args:
    program: alone or of lanes.
    config: its config.
    dataset: what it was trained on.
    protocol: what is measured.
  """

  def __init__(self, program: Program, config: ConfigDict, dataset: Dataset, protocol: Protocol):
    self._program, self._config, self._dataset, self.protocol = program, config, dataset, protocol
    sampled = [name for name in protocol.names if name != NLL]
    if sampled and not (program.draws or program.conditional):
      raise UserError(f"config.experiment='{config.experiment}' draws no samples, so {', '.join(sampled)} cannot be "
                      'measured.')  # fmt: skip
    if NLL in protocol.names and dataset.spec.kind == 'image' and not program.weighs:
      raise UserError(f"config.experiment='{config.experiment}' has no likelihood: leave 'nll' out of the metrics.")
    self._nll_draws = protocol.nll_draws if program.weighs else 0
    given = Given(config, dataset.splits[protocol.split]) if program.conditional else None
    self._samples = Samples(program, protocol.seed, given)
    self._likelihoods: dict[int, Likelihoods] = {}  # by latent draws
    self.figures = protocol.figures
    extractor = protocol.extractor
    self._references = References(dataset, extractor, config.data.data_dir) if extractor else None

  def lanes(self, state: State, lanes: Sequence[int] = (0,)) -> list[quality.Found]:
    """Every figure asked for, of each of `lanes`. Raises UserError where one of them cannot be measured."""
    gathered = self._gather(state)
    return [self._one(gathered, state, lane, True) for lane in lanes]

  def measured(self, state: State, lanes: Sequence[int]) -> list[tuple[dict[str, float], str]]:
    """({figure: value}, '' or why there are none) of each of `lanes`: one that cannot be measured stops no other.

    The device is held while samples are drawn and their features computed; intervals are left to `gen_ai.evaluate`.
    """
    found, gathered = [], self._gather(state)
    for lane in lanes:
      try:
        figures = self._one(gathered, state, lane, False).figures
        found.append(({name: figure.value for name, figure in figures.items()}, ''))
      except UserError as error:
        found.append(({}, str(error)))
    return found

  def likelihoods(self, state: State) -> dict[str, quality.Figure]:
    """The figures of eval_step of a run alone, with their standard errors."""
    (totals,) = self._totals(state, 0)
    return self._likelihood(totals, 0)

  def _gather(self, state: State) -> _Gathered:
    protocol, drawn, texts, totals = self.protocol, None, None, None
    if protocol.extractor is not None:
      drawn = self._samples.features(state, protocol.extractor, protocol.samples)
    elif MEMORISATION in protocol.names:
      texts = self._samples.read(state, np.arange(protocol.samples))
    if NLL in protocol.names:
      totals = self._totals(state, self._nll_draws)
    return _Gathered(drawn, texts, totals)

  def _totals(self, state: State, draws: int) -> list[likelihood.Totals]:
    if draws not in self._likelihoods:
      source = self._dataset.splits[self.protocol.split]
      self._likelihoods[draws] = Likelihoods(self._program, self._config, source, draws)
    return self._likelihoods[draws](state)

  def _one(self, gathered: _Gathered, state: State, lane: int, intervals: bool) -> quality.Found:
    """The figures of one lane."""
    found, protocol = quality.Found({}, [], {}, {}), self.protocol
    stamp = {'sample_seed': protocol.seed} | sampler_stamp(self._config)
    if self._program.conditional:  # never to be compared with samples that no example was given for
      stamp |= {'conditioned_on': protocol.split, 'measure': self._program.measure}
    if gathered.features is not None:
      assert self._references is not None

      def read(index: np.ndarray) -> np.ndarray:
        return self._samples.read(state, index)[lane]

      own = gathered.features(lane)
      found = quality.measure(protocol.names, self._references.evidence(protocol, own, read, stamp, intervals))
    if gathered.texts is not None:
      vocab, prompt = self._dataset.spec.vocab, getattr(self._config.sample, 'prompt', '') or '\n'
      assert vocab is not None
      given = len(vocab.encode(prompt))  # the user's words, not the model's
      _overlaps(gathered.texts[lane][:, given:], self._dataset, protocol, stamp, found)
    if gathered.totals is not None:
      found.figures.update(self._likelihood(gathered.totals[lane], self._nll_draws))
    return found

  def _likelihood(self, totals: likelihood.Totals, draws: int) -> dict[str, quality.Figure]:
    stamp = {'measure': self._program.measure, 'eval_seed': self._config.eval.seed,
             'ema': averages(self._config)} | ({'nll_draws': draws} if draws else {})  # fmt: skip
    told = totals.finish()
    figures = {name: quality.with_error(*figure, stamp) for name, figure in told.items()}
    if self._dataset.spec.kind == 'text':
      figures['perplexity'] = quality.Figure(*likelihood.perplexity(told['loss_nats']), stamp)
    return figures


def judge_samples(samples: np.ndarray, config: ConfigDict, dataset: Dataset, protocol: Protocol) -> quality.Found:
  """Figures of samples that are there already: uint8 [N, H, W, C], or int32 tokens [N, T].

  Their stamp does not say how they were made.

  Raises:
    UserError: a likelihood is asked for, which samples do not have.
  """
  if NLL in protocol.names:
    raise UserError("samples alone have no likelihood: leave 'nll' out of --metrics.")
  if dataset.spec.kind == 'text':
    found = quality.Found({}, [], {}, {})
    _overlaps(samples, dataset, protocol, {}, found)
    return found
  assert protocol.extractor is not None
  references = References(dataset, protocol.extractor, config.data.data_dir)
  own = features.of_images(samples, protocol.extractor, features.Spread())
  return quality.measure(protocol.names, references.evidence(protocol, own, samples.__getitem__, {}))


def _overlaps(tokens: np.ndarray, dataset: Dataset, protocol: Protocol, stamp: Mapping[str, Any],
              found: quality.Found) -> None:  # fmt: skip
  """Adds the longest verbatim overlaps of texts int32 [n, T] with the training text, beside those of held-out text."""
  vocab, T = dataset.spec.vocab, tokens.shape[1]
  assert vocab is not None
  whole = {name: dataset.splits[name].arrays()['tokens'].reshape(-1) for name in ('train', protocol.split)}
  fresh = whole[protocol.split]
  fresh = fresh[: len(fresh) // T * T].reshape(-1, T)[: len(tokens)]
  if not len(fresh):
    raise UserError(f'the {protocol.split} text is shorter than one sample, {T} tokens: nothing to compare with.')
  report = overlap.overlap_report(tokens, fresh, whole['train'], vocab.decode)
  stamp = {**stamp, 'samples': len(tokens), 'tokens': T, 'heldout_texts': len(fresh)}
  own, held = report.samples, report.heldout
  values = {
    'overlap_tokens': own.mean, 'overlap_heldout_tokens': held.mean, 'overlap_longest_tokens': own.longest,
    'overlap_share': report.share_above, 'overlap_p': report.p_value,
  }  # fmt: skip
  found.figures.update({name: quality.Figure(value, stamp=stamp) for name, value in values.items()})
  found.notes.append(
    f'longest run of tokens found in the training text: {own.mean:.1f} on average, {own.longest} at most; in fresh '
    f'text of the same length {held.mean:.1f} and {held.longest}; one-sided p {report.p_value:.3g}'
  )
  found.texts['overlaps'] = [f'{one.length} tokens, sample {one.sample}: {one.text}' for one in report.closest]
