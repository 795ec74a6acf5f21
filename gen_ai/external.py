"""Samples made elsewhere, judged under the same protocol: any codebase's model can be put among the runs."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import provenance, record, surroundings
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.data.dataset import Dataset
from gen_ai.errors import UserError
from gen_ai.judge import Protocol, judge_samples
from gen_ai.maths.pixels import to_uint8
from gen_ai.metrics.quality import Found
from gen_ai.types import Spec

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
  config = ConfigDict({
    'experiment': EXPERIMENT, 'data': whole.data, 'eval': whole.eval,
    'run': {'name': EXPERIMENT, 'steps': 0, 'seed': 0}, 'optim': {'ema_decay': 0.0}, 'sample': {'n': whole.sample.n},
  })  # fmt: skip
  config = config_lib.override(config.lock(), overrides)
  return config, dataset_lib.load(config.data)


def read_samples(file: str, spec: Spec, n: int | None, flag: str = 'samples_file') -> np.ndarray:
  """The first `n` samples (all, if None) of a .npy file: uint8 [N, H, W, C], or int32 tokens [N, T].

  Images are uint8, or floats in [-1, 1], whose range shows that they are (some lie below 0); [N, H, W] is grey.

  Raises:
    UserError: no such file, another shape or range, or fewer samples than asked for.
  """
  try:
    with Path(file).open('rb') as start:
      archive = start.read(2) == b'PK'  # .npz, of which NumPy would leave a torn one open
    samples = None if archive else np.load(file, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f'--{flag}={file} cannot be read as a NumPy array (.npy): {error}') from error
  if not isinstance(samples, np.ndarray) or not samples.size:
    raise UserError(f'--{flag}={file} holds no samples: it must be one NumPy array, saved by np.save (.npy).')
  wanted = f'uint8 [N, {", ".join(map(str, spec.shape))}]' if spec.kind == 'image' else f'int32 [N, {spec.shape[0]}]'
  if spec.kind == 'image' and samples.ndim == 3 and spec.image_shape[2] == 1:
    samples = samples[..., None]
  if spec.kind == 'image' and samples.shape[1:] != spec.shape or samples.ndim < 2:
    way = _reshaped(samples.shape, spec, flag) if spec.kind == 'image' else 'Save one row of tokens a text.'
    raise UserError(f'--{flag}={file} holds {samples.dtype} {list(samples.shape)}; this data has '
                    f'samples {wanted}. {way}')  # fmt: skip
  if n is not None and len(samples) < n:
    raise UserError(f'--{flag}={file} holds {len(samples):,} samples, fewer than --samples={n:,}. Figures of '
                    'unlike numbers of samples do not compare: bring more, or ask for fewer on all sides.')  # fmt: skip
  samples = np.asarray(samples[:n])
  return _levels(f'--{flag}={file}', samples) if spec.kind == 'image' else _tokens(f'--{flag}={file}', samples, spec)


def _reshaped(shape: tuple[int, ...], spec: Spec, flag: str) -> str:
  """How to make samples x of `shape` what `spec` says, where that can be told."""
  H, W, C = spec.image_shape
  own = flag == 'samples_file'  # of which the data can be read to fit; a run has its own
  if shape[1:] == (C, H, W):
    return 'They are channels first: x.transpose(0, 2, 3, 1).'
  if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
    return 'They are channels first, x.transpose(0, 2, 3, 1), and of another size or number of channels.'
  if shape[1:] == (H, W, 3):
    return 'They are RGB and the data is grey: (x @ [0.299, 0.587, 0.114])[..., None], in the type of x.'
  if shape[1:] in ((H, W), (H, W, 1)):
    grey = ', or --config.data.grey=true makes the data grey' if own else ''
    return f'They are grey and the data has {C} channels: np.repeat(x.reshape(-1, {H}, {W}, 1), {C}, 3){grey}.'
  if shape[1:] == (H, W, 4):
    return 'They have an alpha channel: lay them over a background and save the colours alone.'
  if shape in ((H, W, C), (H, W), (H, W, C, 1)):
    return 'It is a single image: x[None].'
  size = ', or the data with --config.data.image_size' if own else ''
  return f'Resize them{size}.' if len(shape) == 4 and shape[3] == C else f'They must be {H}x{W}x{C} each.'


def _levels(given: str, samples: np.ndarray) -> np.ndarray:
  """Images as uint8 levels."""
  if samples.dtype == np.uint8:
    return samples
  whole = np.issubdtype(samples.dtype, np.integer)
  if not whole and not np.issubdtype(samples.dtype, np.floating):
    way = ': x.astype("uint8") * 255 if True is white' if samples.dtype == bool else ''
    raise UserError(f'{given} holds {samples.dtype}: images are uint8, or floats in [-1, 1]{way}.')
  bad = {'NaN': np.isnan(samples), 'infinite': np.isinf(samples)}
  found = {name: f'{flags.sum():,} {name}, first at {_place(flags)}' for name, flags in bad.items() if flags.any()}
  if found:
    raise UserError(f'{given} holds numbers that are none: {"; ".join(found.values())}. Mend these '
                    'images or leave them out.')  # fmt: skip
  low, high = (float(x) for x in (samples.min(), samples.max()))
  if whole:
    way = 'x.astype("uint8")' if low >= 0 and high <= 255 else 'scale them to [0, 255] first'
    raise UserError(f'{given} holds {samples.dtype} from {low:.0f} to {high:.0f}; images are uint8, or floats in '
                    f'[-1, 1]: {way}.')  # fmt: skip
  if not (-1.01 <= low < -0.01 and high <= 1.01):
    way = 'scale them to [0, 255] first'
    if low >= 0:
      way = '(x * 255).round().astype("uint8") for x in [0, 1]' if high <= 1 else 'x.round().astype("uint8")'
    raise UserError(f'{given} holds floats from {low:.3g} to {high:.3g}, which are not clearly in [-1, 1]: save uint8 '
                    f'levels, {way}.')  # fmt: skip
  return to_uint8(samples)


def _place(flags: np.ndarray) -> str:
  """Where the first of bool [...] is true: '[0,0,3,0]'."""
  return f'[{",".join(map(str, np.unravel_index(int(flags.argmax()), flags.shape)))}]'


def _tokens(given: str, samples: np.ndarray, spec: Spec) -> np.ndarray:
  assert spec.vocab is not None
  whole = np.issubdtype(samples.dtype, np.integer) and samples.ndim == 2
  if not whole or samples.min() < 0 or samples.max() >= spec.vocab.size:
    held = f' from {samples.min()} to {samples.max()}' if np.issubdtype(samples.dtype, np.integer) else ''
    raise UserError(f'{given} must hold tokens int [N, T] from 0 to {spec.vocab.size - 1}; it holds '
                    f'{samples.dtype} {list(samples.shape)}{held}.')  # fmt: skip
  return samples.astype(np.int32)


def judge(samples: np.ndarray, config: ConfigDict, dataset: Dataset, protocol: Protocol) -> tuple[Found, str]:
  """(figures, sha256 of the samples)."""
  digest = hashlib.sha256(np.ascontiguousarray(samples).view(np.uint8).reshape(-1).data).hexdigest()
  return judge_samples(samples, config, dataset, protocol), digest


def run_directory(path: str, config: ConfigDict, dataset: Dataset, file: str, content: str) -> Path:
  """The run directory of samples made elsewhere, made where it is new.

  Raises:
    UserError: it holds another run, or the evaluation of other samples.
  """
  given = Path(path)
  if (given / 'config.json').is_file():
    about = record.read_run(given)
    if about.get('samples_sha256') != content:
      what = 'other samples' if 'samples_sha256' in about else 'a run that was trained'
      raise UserError(f'{given} holds {what}. Name another directory with --run_dir=PATH.')
    return given
  run = record.RunDir.make(given, adopt=True)
  tree = config_lib.to_json(config)
  about = provenance.collect(
    argv=[], config_file={'path': '', 'argument': '', 'sha256': '', 'text': ''}, overrides={}, config=tree,
    data=identity.describe(dataset), devices=[str(device) for device in jax.devices()], run_dir=given,
  )  # fmt: skip
  # Its code is not ours, and what made the samples is not known here.
  about |= {'git': {}, 'samples_file': str(Path(file).absolute()), 'samples_sha256': content}
  run.write_run({**about, 'evaluation': {
    'split': '', 'examples': 0, 'split_rule': dataset.split_rule, 'data': dataset.fingerprint,
    'averaged': config.optim.ema_decay > 0, 'seed': config.eval.seed, 'measure': '', 'extractor': '',
    'samples': 0,
  }, 'examples_per_step': 0, 'parameters': 0, 'lanes': 1})  # fmt: skip
  run.write_config(tree)
  run.status('done', config.run.steps, config.run.steps)
  return given
