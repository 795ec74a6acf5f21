"""The evaluation protocol: which samples, against which data, under which features; and the stamp that says so."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from gen_ai.core import surroundings
from gen_ai.core.averages import is_averaged
from gen_ai.data import kinds
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate import metrics as metrics_lib
from gen_ai.evaluate.examples import of_parts
from gen_ai.evaluate.metrics import extractors
from gen_ai.evaluate.metrics.extractors import Extractor
from gen_ai.evaluate.metrics.metric import (
  EXAMPLES,
  FEATURES,
  Metric,
  Request,
)
from gen_ai.evaluate.references import split_hash
from gen_ai.run import provenance


class Protocol(NamedTuple):
  """What is measured, and how.

  Attributes:
    metrics: see `gen_ai.evaluate.metrics`.
    split: that samples are compared with and likelihoods are taken over.
    samples: how many are drawn.
    seed: of their noise, of evaluation noise, and of random subsets.
    extractor: of features; None where no metric needs one.
    importance_samples: latent draws of an importance-weighted likelihood.
    task: that draws the samples; '' takes the method's first that does.
    parts: of the split, which figures of examples are told of as well.
  """

  metrics: tuple[Metric, ...]
  split: str
  samples: int
  seed: int
  extractor: Extractor | None
  importance_samples: int
  task: str = ''
  parts: tuple[str, ...] = ()

  @property
  def figures(self) -> list[str]:
    """The names of the figures that it gives."""
    return [*metrics_lib.figures(self.metrics), *of_parts(metrics_lib.figures(self.of(EXAMPLES)), self.parts)]

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
  source = dataset.splits[split]
  request = Request(config.eval.samples, len(source), split, extractor, dataset.spec)
  for metric in metrics:
    metric.check(request)
  own = config.eval
  return Protocol(
    tuple(metrics), split, own.samples, own.seed, extractor, own.importance_samples, own.task, tuple(source.parts)
  )


def training_protocol(config: ConfigDict, dataset: Dataset) -> Protocol | None:
  """What `config.eval.metrics` asks for while a run trains, on its validation split; None where it asks for nothing."""
  metrics = metrics_lib.parse(config.eval.metrics, dataset.spec.kind)
  return protocol(config, dataset, 'validation', metrics) if metrics else None


def describe(protocol: Protocol) -> dict[str, Any]:
  """What run.json holds of the figures that are measured in training."""
  extractor = protocol.extractor
  identity = extractor.describe() if extractor else {}
  # Hashes are cut: the stamps of evaluations have them whole.
  settings = [f'{name} {value[:12] if len(str(value)) == 64 else value}' for name, value in identity.items()]
  draws = (
    [f'importance_samples {protocol.importance_samples}'] if any(metric.draws for metric in protocol.metrics) else []
  )
  return {'samples': protocol.samples, 'extractor': ', '.join([*settings, *draws])}


def shared_stamp(dataset: Dataset, split: str) -> dict[str, Any]:
  """What every figure of one evaluation rests on."""
  devices = jax.devices()
  unusual = surroundings.arithmetic(os.environ)
  return {
    **({'arithmetic': unusual} if unusual else {}),
    'data': dataset.name,
    'data_hash': dataset.fingerprint,
    'split': split,
    'split_rule': dataset.split_rule,
    'split_hash': split_hash(dataset, split),
    'examples': dataset.splits[split].evaluated,
    'form': kinds.of(dataset.spec).form(dataset.spec),
    'versions': ', '.join(f'{name} {version}' for name, version in provenance.versions().items()),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
  }


def average_stamp(config: ConfigDict, length: float | None = None) -> dict[str, Any]:
  """Whether averaged parameters are evaluated, and of what length, where a run tracks averages of several.

  Args:
    config: of the run.
    length: that was chosen after training; None: the first of those that the run tracks.
  """
  lengths = config.optim.ema_lengths
  return {'ema': is_averaged(config)} | ({'ema_length': length or lengths[0]} if lengths else {})


def sampler_stamp(
  config: ConfigDict, sections: Sequence[str] = ('sample',), length: float | None = None
) -> dict[str, Any]:
  """How samples are made: averaged parameters or not, and the settings of the task (temperature, truncation, ...).

  Args:
    config: of the run, with what this evaluation changes.
    sections: of the config, those that the task may be run again under.
    length: see `average_stamp`.
  """
  settings = {
    f'{"sampler" if section == "sample" else section}.{name}': str(value)
    for section in sections
    for name, value in config[section].items()
    if (section, name) != ('sample', 'n')
  }
  return average_stamp(config, length) | settings
