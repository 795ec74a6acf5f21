"""External samples, measured under the same protocol: any codebase's model can be put among the runs."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import surroundings
from gen_ai.core.errors import UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate.evaluator import evaluate_samples
from gen_ai.evaluate.metrics.metric import Found
from gen_ai.evaluate.protocol import Protocol
from gen_ai.run import data_identity, directory, info, provenance

EXPERIMENT = 'external'  # what their config calls the method


def open_data(name: str, overrides: Mapping[str, Any]) -> tuple[ConfigDict, Dataset]:
  """(config, data set) that samples are compared with.

  The config has what a comparison asks of a run: data, evaluation, and the training that the user says went into the
  samples: config.run.steps (0: unknown), config.run.seed, config.optim.ema_decay.

  Raises:
    UserError: an unknown field, or data that is not there.
  """
  surroundings.start()
  whole = config_lib.common(EXPERIMENT, name)
  config = ConfigDict(
    {
      'experiment': EXPERIMENT,
      'data': whole.data,
      'eval': whole.eval,
      'run': {'name': EXPERIMENT, 'steps': 0, 'seed': 0},
      'optim': {'ema_decay': 0.0},
      'sample': {'n': whole.sample.n},
    }
  )
  config = config_lib.override(config.lock(), overrides)
  return config, dataset_lib.load(config.data)


def evaluate(samples: np.ndarray, config: ConfigDict, dataset: Dataset, protocol: Protocol) -> tuple[Found, str]:
  """(figures, sha256 of the samples)."""
  digest = hashlib.sha256(np.ascontiguousarray(samples).view(np.uint8).reshape(-1).data).hexdigest()
  return evaluate_samples(samples, config, dataset, protocol), digest


def run_directory(path: str, config: ConfigDict, dataset: Dataset, file: str, content: str) -> Path:
  """The run directory of external samples, made where it is new.

  Raises:
    UserError: it holds another run, or the evaluation of other samples.
  """
  given = Path(path)
  if directory.is_run(given):
    before = info.read(given)
    if before.samples_sha256 != content:
      what = 'other samples' if before.samples_sha256 else 'a run that was trained'
      raise UserError(f'{given} holds {what}. Name another directory with --run_dir=PATH.')
    return given
  run = directory.RunDir.make(given, adopt=True)
  tree = config_lib.to_json(config)
  devices = [str(device) for device in jax.devices()]
  about = dataclasses.replace(
    provenance.collect(info.Origin(), tree, data_identity.describe(dataset), devices, given),
    git=info.GitState(),  # its code is not ours, and what made the samples is not known here
    samples_file=str(Path(file).absolute()),
    samples_sha256=content,
    evaluation=info.EvalProtocol(
      split_rule=dataset.split_rule,
      data=dataset.fingerprint,
      averaged=config.optim.ema_decay > 0,
      seed=config.eval.seed,
    ),
  )
  run.write_run(about.to_json())
  run.write_config(tree)
  run.status('done', config.run.steps, config.run.steps)
  return given
