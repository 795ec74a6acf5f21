"""Measures states of any method under one protocol: figures of samples, of features and of examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.core.method import GENERATE, SAMPLE, State
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate.companion import Companion
from gen_ai.evaluate.examples import ExamplePass, eval_step
from gen_ai.evaluate.generation import Generation, Inputs, SplitInputs
from gen_ai.evaluate.metrics import features, likelihood, nll
from gen_ai.evaluate.metrics.metric import (
  EXAMPLES,
  FEATURES,
  SAMPLES,
  Evidence,
  Figure,
  Found,
  Metric,
  with_error,
)
from gen_ai.evaluate.metrics.quality import measure
from gen_ai.evaluate.protocol import Protocol, average_stamp, sampler_stamp
from gen_ai.evaluate.references import References, reader
from gen_ai.parallel.program import Program


class _Gathered(NamedTuple):
  """What the device computed of one state, for all lanes at once; None where no metric needs it."""

  features: Callable[[int], features.Features] | None  # of a lane's samples
  outputs: list[dict[str, np.ndarray]] | None  # of the task, of each lane
  totals: dict[str, list[likelihood.Totals]]  # {metric: of each lane}


class Evaluator:
  """Figures of states of one program under one protocol.

  Args:
    program: alone or of lanes.
    config: its config.
    dataset: what it was trained on.
    protocol: what is measured.
    inputs: what the task is given for each sample; examples of the split if it needs any and none are given.
    length: of the averages in the states, where it was chosen after training (`gen_ai.evaluate.averages`).
    companion: another run that helps the task; None: none.

  Raises:
    UserError: the method cannot do what a metric needs.
  """

  def __init__(
    self,
    program: Program,
    config: ConfigDict,
    dataset: Dataset,
    protocol: Protocol,
    inputs: Inputs | None = None,
    length: float | None = None,
    companion: Companion | None = None,
  ):
    self._program, self._config, self._dataset, self.protocol = program, config, dataset, protocol
    self._length, self._companion = length, companion
    self.task = protocol.task or program.drawing_task()
    drawn = protocol.of(FEATURES, SAMPLES)
    if drawn and not (self.task and program.task(self.task).draws):
      names = ', '.join(metric.name for metric in drawn)
      whose = f"the task '{self.task}'" if self.task else f"config.experiment='{config.experiment}'"
      raise UserError(f'{whose} draws no samples, so {names} cannot be measured.')
    for metric in protocol.metrics:
      for need in metric.needs:
        if need not in program.tasks:
          raise UserError(
            f"config.experiment='{config.experiment}' has no '{need}': leave '{metric.name}' out of the metrics."
          )
      for output in metric.outputs:
        if output not in program.task(self.task).outputs:
          raise UserError(
            f"the task '{self.task}' does not tell the {output} of its samples: leave '{metric.name}' out of the "
            'metrics.'
          )
    self._conditioned = False
    if self.task and inputs is None and any(field.required for field in program.task(self.task).inputs.values()):
      inputs, self._conditioned = SplitInputs(config, dataset.splits[protocol.split], program.task(self.task)), True
    self.generation = Generation(program, protocol.seed, self.task, inputs, companion) if self.task else None
    self._passes: dict[str, ExamplePass] = {}  # over the examples, by metric
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
    better = {**self._program.leading}
    return self._examples(totals, 0, better)

  def _gather(self, state: State) -> _Gathered:
    protocol, drawn, outputs = self.protocol, None, None
    if protocol.extractor is not None:
      assert self.generation is not None
      drawn = self.generation.features(state, protocol.extractor, protocol.samples)
    if protocol.of(SAMPLES):
      assert self.generation is not None
      outputs = self.generation.outputs(state, np.arange(protocol.samples))
    totals = {
      metric.name: self._totals(
        metric.name, metric.per_example, protocol.importance_samples if metric.draws else 0, state
      )
      for metric in protocol.of(EXAMPLES)
    }
    return _Gathered(drawn, outputs, totals)

  def _totals(self, name: str, per_example: Any, draws: int, state: State) -> list[likelihood.Totals]:
    if name not in self._passes:
      source = self._dataset.splits[self.protocol.split]
      fn = (lambda *args: per_example(*args, draws)) if name else per_example
      self._passes[name] = ExamplePass(self._program, self._config, source, name or 'eval', fn, at_once=not draws)
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
      draws = protocol.importance_samples if metric.draws else 0
      found.figures.update(self._examples(gathered.totals[metric.name][lane], draws, metric.values, metric))
    return found

  def _evidence(
    self, own: Any, outputs: Mapping[str, np.ndarray], read: Callable[[np.ndarray], np.ndarray], intervals: bool
  ) -> Evidence:
    protocol = self.protocol
    return evidence(self._dataset, protocol, own, outputs, read, self._references, self.stamp(), intervals)

  def stamp(self) -> dict[str, Any]:
    """How samples are made."""
    task = self._program.task(self.task)
    stamp = {'sample_seed': self.protocol.seed} | sampler_stamp(self._config, task.settings, self._length)
    stamp |= task.facts(self._config)
    stamp |= {} if self.task == GENERATE else {'task': self.task}
    stamp |= {f'sampler.{self._companion.way}': self._companion.recipe} if self._companion else {}
    if self._conditioned:  # never to be compared with samples that no example was given for
      stamp |= {'conditioned_on': self.protocol.split, 'observation': self._program.observation}
    return stamp

  def use(self, config: ConfigDict, length: float | None = None) -> None:
    """Goes on with a config that differs in settings of tasks, whose floats the program has, or another average."""
    self._config, self._length = config, length

  def _examples(
    self, totals: likelihood.Totals, draws: int, better: Mapping[str, str], metric: Metric | None = None
  ) -> dict[str, Figure]:
    """The figures of one pass over the examples, and after them 'FIGURE.PART' of each part that the split tells of."""
    found = self._of(totals, draws, better, metric)
    for part, examples in self._dataset.splits[self.protocol.split].parts.items():
      own = self._of(totals.of(examples), draws, better, metric)
      found.update({f'{name}.{part}': figure for name, figure in own.items()})
    return found

  def _of(
    self, totals: likelihood.Totals, draws: int, better: Mapping[str, str], metric: Metric | None
  ) -> dict[str, Figure]:
    """The figures of some examples."""
    stamp = {
      'observation': self._program.observation,
      'eval_seed': self._config.eval.seed,
      **average_stamp(self._config, self._length),
    } | ({'importance_samples': draws} if draws else {})
    for name in metric.needs if metric is not None else ():
      stamp |= self._program.task(name).facts(self._config)
    results = totals.finish()
    figures = {name: with_error(*figure, stamp) for name, figure in results.items()}
    if metric is not None and metric.finish is not None:
      figures.update(metric.finish(results, stamp))
    return {name: figure._replace(better=better.get(name)) for name, figure in figures.items()}


def evidence(
  dataset: Dataset,
  protocol: Protocol,
  own: Any,
  outputs: Mapping[str, np.ndarray],
  read: Callable[[np.ndarray], np.ndarray],
  references: References | None,
  stamp: Mapping[str, Any],
  intervals: bool = True,
) -> Evidence:
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
  return Evidence(
    own,
    reference,
    train,
    read,
    reader(dataset, protocol.split),
    reader(dataset, 'train'),
    protocol.extractor,
    protocol.seed,
    stamp,
    intervals,
    outputs,
    dataset,
    protocol.split,
  )


def evaluate_samples(samples: np.ndarray, config: ConfigDict, dataset: Dataset, protocol: Protocol) -> Found:
  """Figures of samples that are there already, as files hold them: uint8 [N, H, W, C], or int32 tokens [N, T].

  Their stamp does not say how they were made.

  Raises:
    UserError: a likelihood is asked for, which samples do not have.
  """
  for metric in protocol.of(EXAMPLES):
    raise UserError(f"samples alone have no likelihood: leave '{metric.name}' out of --metrics.")
  for metric in protocol.metrics:
    for output in metric.outputs:
      raise UserError(f"samples alone do not tell their {output}: leave '{metric.name}' out of --metrics.")
  references, own = None, None
  if protocol.extractor is not None:
    references = References(dataset, protocol.extractor, config.data.data_dir)
    own = features.of_images(samples, protocol.extractor, features.Spread())
  read = samples.__getitem__
  return measure(protocol.metrics, evidence(dataset, protocol, own, {SAMPLE: samples}, read, references, {}))
