"""One evaluation protocol for every method: which samples, against which data, under which features, and its stamp."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai.config import averages
from gen_ai.core import surroundings
from gen_ai.core.errors import UserError
from gen_ai.core.method import GENERATE, SAMPLE, State
from gen_ai.data import kinds
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import RESIDENT_BYTES
from gen_ai.data.store import data_folder
from gen_ai.evaluate import metrics as metrics_lib
from gen_ai.evaluate.examples import Evaluator, eval_step
from gen_ai.evaluate.generation import Generation, Inputs, SplitInputs
from gen_ai.evaluate.metrics import extractors, features, likelihood, nll
from gen_ai.evaluate.metrics.extractors import Extractor
from gen_ai.evaluate.metrics.metric import (
  EXAMPLES,
  FEATURES,
  SAMPLES,
  Asked,
  Evidence,
  Figure,
  Found,
  Metric,
  with_error,
)
from gen_ai.evaluate.metrics.quality import measure
from gen_ai.parallel.program import Program
from gen_ai.run import provenance

FEATURES_FOLDER = 'features'  # of kept features, in the data folder


class Protocol(NamedTuple):
  """What is measured, and how.

  Attributes:
    metrics: see `gen_ai.evaluate.metrics`.
    split: that samples are compared with and likelihoods are taken over.
    samples: how many are drawn.
    seed: of their noise, of evaluation noise, and of random subsets.
    extractor: of features; None where no metric needs one.
    nll_draws: latent draws of an importance-weighted likelihood.
    task: that draws the samples; '' takes the method's first that does.
  """

  metrics: tuple[Metric, ...]
  split: str
  samples: int
  seed: int
  extractor: Extractor | None
  nll_draws: int
  task: str = ''

  @property
  def figures(self) -> list[str]:
    """The names of the figures that it gives."""
    return metrics_lib.figures(self.metrics)

  def of(self, *what: str) -> tuple[Metric, ...]:
    """Those of its metrics that are of features, samples or examples."""
    return tuple(metric for metric in self.metrics if metric.of in what)


def protocol(config: ConfigDict, dataset: Dataset, split: str, metrics: Sequence[Metric]) -> Protocol:
  """The protocol of `config.eval` for `metrics` on `split`.

  Raises:
    UserError: what cannot be measured, or an extractor that does not fit; nothing has been drawn then.
  """
  extractor = None
  if any(metric.of == FEATURES for metric in metrics):
    extractor = extractors.make(config.eval.extractor, dataset.spec)
  asked = Asked(config.eval.samples, len(dataset.splits[split]), split, extractor)
  for metric in metrics:
    metric.check(asked)
  return Protocol(tuple(metrics), split, config.eval.samples, config.eval.seed, extractor, config.eval.nll_draws,
                  config.eval.task)  # fmt: skip


def training_protocol(config: ConfigDict, dataset: Dataset) -> Protocol | None:
  """What `config.eval.metrics` asks for while a run trains, on its validation split; None where it asks for nothing."""
  metrics = metrics_lib.parse(config.eval.metrics, dataset.spec.kind)
  return protocol(config, dataset, 'validation', metrics) if metrics else None


def describe(protocol: Protocol) -> dict[str, Any]:
  """What run.json holds of the figures that are measured in training."""
  extractor = protocol.extractor
  told = extractor.describe() if extractor else {}
  # Hashes are cut: the stamps of evaluations have them whole.
  settings = [f'{name} {value[:12] if len(str(value)) == 64 else value}' for name, value in told.items()]
  draws = [f'nll_draws {protocol.nll_draws}'] if any(metric.draws for metric in protocol.metrics) else []
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
  devices = jax.devices()
  unusual = surroundings.arithmetic(os.environ)
  return {
    **({'arithmetic': unusual} if unusual else {}),
    'data': dataset.name, 'data_hash': dataset.fingerprint, 'split': split, 'split_rule': dataset.split_rule,
    'split_hash': split_hash(dataset, split), 'examples': len(dataset.splits[split]),
    'form': kinds.of(dataset.spec).form(dataset.spec),
    'versions': ', '.join(f'{name} {version}' for name, version in provenance.versions().items()),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
  }  # fmt: skip


def sampler_stamp(config: ConfigDict, sections: Sequence[str] = ('sample',)) -> dict[str, Any]:
  """How samples are made: averaged parameters or not, and the settings of the task (temperature, truncation, ...).

  Args:
    config: of the run, with what this evaluation changes.
    sections: of the config, those that the task may be run again under.
  """
  settings = {
    f'{"sampler" if section == "sample" else section}.{name}': str(value)
    for section in sections
    for name, value in config[section].items()
    if (section, name) != ('sample', 'n')
  }
  return {'ema': averages(config)} | settings


class References:
  """Features of the splits of a data set under one extractor, computed once and kept in the data folder."""

  def __init__(self, dataset: Dataset, extractor: Extractor, data_dir: str):
    self._dataset, self._extractor = dataset, extractor
    self._folder = data_folder(data_dir) / FEATURES_FOLDER
    self._found: dict[str, features.Features] = {}

  def __getitem__(self, split: str) -> features.Features:
    """Features of all images of a split."""
    if split not in self._found:
      about = {'split': split_hash(self._dataset, split), 'extractor': self._extractor.describe()}
      self._found[split] = features.cached(self._folder, about, partial(self._make, split))
    return self._found[split]

  def _make(self, split: str) -> features.Features:
    n, spread = len(self._dataset.splits[split]), features.Spread()
    size = spread.block(features.block_size(self._extractor))
    blocks = features.blocks_of(reader(self._dataset, split), n, size)
    return features.of_blocks(blocks, self._extractor, n, spread)


def reader(dataset: Dataset, split: str) -> Callable[[np.ndarray], np.ndarray]:
  """int [n] numbers -> the examples of a split [n, ...], as files hold them."""
  source, name = dataset.splits[split], kinds.of(dataset.spec).example
  return lambda index: source.read(source.eval_index(np.asarray(index)))[name]


class _Gathered(NamedTuple):
  """What the device computed of one state, for all lanes at once; None where no metric needs it."""

  features: Callable[[int], features.Features] | None  # of a lane's samples
  outputs: list[dict[str, np.ndarray]] | None  # of the task, of each lane
  totals: dict[str, list[likelihood.Totals]]  # {metric: of each lane}


class Judge:
  """Figures of states of one program under one protocol.

  Args:
    program: alone or of lanes.
    config: its config.
    dataset: what it was trained on.
    protocol: what is measured.
    inputs: what the task is given for each sample; examples of the split if it needs any and none are given.

  Raises:
    UserError: the method cannot do what a metric needs.
  """

  def __init__(self, program: Program, config: ConfigDict, dataset: Dataset, protocol: Protocol,
               inputs: Inputs | None = None):  # fmt: skip
    self._program, self._config, self._dataset, self.protocol = program, config, dataset, protocol
    self.task = protocol.task or program.drawing_task()
    drawn = protocol.of(FEATURES, SAMPLES)
    if drawn and not (self.task and program.task(self.task).draws):
      names = ', '.join(metric.name for metric in drawn)
      whose = f"the task '{self.task}'" if self.task else f"config.experiment='{config.experiment}'"
      raise UserError(f'{whose} draws no samples, so {names} cannot be measured.')
    for metric in protocol.metrics:
      for need in metric.needs:
        if need not in program.tasks:
          raise UserError(f"config.experiment='{config.experiment}' has no '{need}': leave '{metric.name}' out of the "
                          'metrics.')  # fmt: skip
    self._conditioned = False
    if self.task and inputs is None and any(field.required for field in program.task(self.task).inputs.values()):
      inputs, self._conditioned = SplitInputs(config, dataset.splits[protocol.split], program.task(self.task)), True
    self.generation = Generation(program, protocol.seed, self.task, inputs) if self.task else None
    self._passes: dict[str, Evaluator] = {}  # over the examples, by metric
    self.figures = protocol.figures
    extractor = protocol.extractor
    self._references = References(dataset, extractor, config.data.data_dir) if extractor else None

  def lanes(self, state: State, lanes: Sequence[int] = (0,)) -> list[Found]:
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

  def own(self, state: State) -> dict[str, Figure]:
    """The figures of eval_step of a run alone, with their standard errors; those a metric gives anyway are left out."""
    if any(metric.per_example is nll.of_eval_step for metric in self.protocol.metrics):
      return {}
    (totals,) = self._totals('', eval_step, 0, state)
    return self._examples(totals, 0, {**self._program.leading})

  def _gather(self, state: State) -> _Gathered:
    protocol, drawn, outputs = self.protocol, None, None
    if protocol.extractor is not None:
      assert self.generation is not None
      drawn = self.generation.features(state, protocol.extractor, protocol.samples)
    if protocol.of(SAMPLES):
      assert self.generation is not None
      outputs = self.generation.outputs(state, np.arange(protocol.samples))
    totals = {
      metric.name: self._totals(metric.name, metric.per_example, protocol.nll_draws if metric.draws else 0, state)
      for metric in protocol.of(EXAMPLES)
    }
    return _Gathered(drawn, outputs, totals)

  def _totals(self, name: str, per_example: Any, draws: int, state: State) -> list[likelihood.Totals]:
    if name not in self._passes:
      source = self._dataset.splits[self.protocol.split]
      fn = (lambda *args: per_example(*args, draws)) if name else per_example
      self._passes[name] = Evaluator(self._program, self._config, source, name or 'eval', fn, at_once=not draws)
    return self._passes[name].totals(state)

  def _one(self, gathered: _Gathered, state: State, lane: int, intervals: bool) -> Found:
    """The figures of one lane."""
    protocol, found = self.protocol, Found({}, [], {}, {})
    drawn = protocol.of(FEATURES, SAMPLES)
    if drawn:
      assert self.generation is not None
      generation = self.generation

      def read(index: np.ndarray) -> np.ndarray:
        return generation.read(state, index)[lane]

      own = gathered.features(lane) if gathered.features is not None else None
      outputs = gathered.outputs[lane] if gathered.outputs is not None else {}
      evidence = self._evidence(own, outputs, read, intervals)
      found = measure(drawn, evidence)
    for metric in protocol.of(EXAMPLES):
      draws = protocol.nll_draws if metric.draws else 0
      found.figures.update(self._examples(gathered.totals[metric.name][lane], draws, metric.values, metric))
    return found

  def _evidence(self, own: Any, outputs: Mapping[str, np.ndarray], read: Callable[[np.ndarray], np.ndarray],
                intervals: bool) -> Evidence:  # fmt: skip
    protocol = self.protocol
    return evidence(self._dataset, protocol, own, outputs, read, self._references, self.stamp(), intervals)

  def stamp(self) -> dict[str, Any]:
    """How samples are made."""
    stamp = {'sample_seed': self.protocol.seed} | sampler_stamp(self._config, self._program.task(self.task).settings)
    stamp |= {} if self.task == GENERATE else {'task': self.task}
    if self._conditioned:  # never to be compared with samples that no example was given for
      stamp |= {'conditioned_on': self.protocol.split, 'measure': self._program.measure}
    return stamp

  def use(self, config: ConfigDict) -> None:
    """Goes on with a config that differs in settings of tasks; the program has been given its floats."""
    self._config = config

  def _examples(self, totals: likelihood.Totals, draws: int, better: Mapping[str, str],
                metric: Metric | None = None) -> dict[str, Figure]:  # fmt: skip
    """The figures of one pass over the examples."""
    stamp = {'measure': self._program.measure, 'eval_seed': self._config.eval.seed,
             'ema': averages(self._config)} | ({'nll_draws': draws} if draws else {})  # fmt: skip
    told = totals.finish()
    figures = {name: with_error(*figure, stamp) for name, figure in told.items()}
    if metric is not None and metric.finish is not None:
      figures.update(metric.finish(told, stamp))
    return {name: figure._replace(better=better.get(name)) for name, figure in figures.items()}


def evidence(dataset: Dataset, protocol: Protocol, own: Any, outputs: Mapping[str, np.ndarray],
             read: Callable[[np.ndarray], np.ndarray], references: References | None, stamp: Mapping[str, Any],
             intervals: bool = True) -> Evidence:  # fmt: skip
  """Samples beside the split that they are compared with.

  Args:
    dataset: that they are compared with.
    protocol: what is measured.
    own: features of the samples; None where no metric needs any.
    outputs: of the task that drew them, where a metric is of samples.
    read: int [n] numbers -> samples, as files hold them.
    references: of features.
    stamp: how the samples were made.
    intervals: whether intervals that take time are wanted.
  """
  reference = train = None
  if references is not None:
    reference = references[protocol.split]
    train = references['train'] if any(metric.train for metric in protocol.of(FEATURES)) else None
    stamp = {'samples': len(own), 'pixels': 'uint8', **stamp}
  return Evidence(own, reference, train, read, reader(dataset, protocol.split), reader(dataset, 'train'),
                  protocol.extractor, protocol.seed, stamp, intervals, outputs, dataset, protocol.split)  # fmt: skip


def judge_samples(samples: np.ndarray, config: ConfigDict, dataset: Dataset, protocol: Protocol) -> Found:
  """Figures of samples that are there already, as files hold them: uint8 [N, H, W, C], or int32 tokens [N, T].

  Their stamp does not say how they were made.

  Raises:
    UserError: a likelihood is asked for, which samples do not have.
  """
  for metric in protocol.of(EXAMPLES):
    raise UserError(f"samples alone have no likelihood: leave '{metric.name}' out of --metrics.")
  references, own = None, None
  if protocol.extractor is not None:
    references = References(dataset, protocol.extractor, config.data.data_dir)
    own = features.of_images(samples, protocol.extractor, features.Spread())
  read = samples.__getitem__
  return measure(protocol.metrics, evidence(dataset, protocol, own, {SAMPLE: samples}, read, references, {}))
