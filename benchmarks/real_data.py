"""Real data and the classifier whose features judge it, for the benchmarks of metrics."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate import external, metrics
from gen_ai.evaluate.metrics.extractors import Extractor
from gen_ai.evaluate.protocol import protocol


class Request(NamedTuple):
  """What the flags of a benchmark say.

  Attributes:
    data: a prepared data set.
    data_dir: where it lies; '': as the config says.
    extractor: as `--extractor` of `gen_ai.evaluate`; '': a classifier that is trained on the data.
    runs_dir: where the run of the classifier goes.
    samples: images in a set.
    seed: of the choice of images, of noise, and of random subsets.
  """

  data: str
  data_dir: str
  extractor: str
  runs_dir: str
  samples: int
  seed: int


class RealData(NamedTuple):
  """What a benchmark of metrics works on.

  Attributes:
    config: as for external samples.
    dataset: the images.
    extractor: as `--extractor` names it.
  """

  config: ConfigDict
  dataset: Dataset
  extractor: str

  def images(self, split: str, index: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] of a split by their numbers."""
    source = self.dataset.splits[split]
    return source.read(source.eval_index(np.asarray(index)))['image']

  def labels(self, split: str) -> np.ndarray:
    """int32 [N]."""
    return np.asarray(self.dataset.splits[split].arrays()['label'])

  def load_extractor(self) -> Extractor:
    """The network. Raises UserError where it does not fit the data."""
    extractor = protocol(self.config, self.dataset, 'test', metrics.parse('fd', 'image')).extractor
    assert extractor is not None
    return extractor


def open_data(request: Request, overrides: Mapping[str, str]) -> RealData:
  """What the flags name; trains the classifier where there is none, its command's output shown.

  Args:
    request: the flags.
    overrides: of configs/classifier.py, for the training.

  Raises:
    UserError: data that is not there or has no labels, or a classifier that could not be trained.
  """
  given = {'eval.samples': request.samples, 'eval.seed': request.seed, 'data.data_dir': request.data_dir}
  config, dataset = external.open_data(request.data, given)
  if dataset.spec.num_classes < 2:
    raise UserError(f'--data={request.data} holds no labelled images: take fashion_mnist or mnist_5k.')
  if overrides and request.extractor:
    raise UserError(f'--config.{next(iter(overrides))} is for the training of a classifier: leave --extractor out.')
  extractor = request.extractor or f'classifier:{_classifier(request, overrides)}'
  config = config_lib.override(config, {'eval.extractor': extractor})
  return RealData(config, dataset, extractor)


def _classifier(request: Request, overrides: Mapping[str, str]) -> Path:
  """Run directory of configs/classifier.py on the data: launch.py leaves a run that is done as it is."""
  run_dir = Path(request.runs_dir).resolve() / 'classifier' / f'{request.data}-benchmark'
  if request.data_dir:
    overrides = {**overrides, 'data.data_dir': request.data_dir}
  words = [f'--config=configs/classifier.py:{request.data}', f'--run_dir={run_dir}']
  words += [f'--config.{path}={value}' for path, value in overrides.items()]
  code = subprocess.run([sys.executable, str(config_lib.SOURCE / 'launch.py'), *words], stdout=sys.stderr).returncode
  if code != DONE:
    raise UserError(f'the classifier was not trained (exit code {code}): see the message above.')
  return run_dir
