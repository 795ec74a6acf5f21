"""One run, one `ml_collections.ConfigDict`: load, override, validate, compare, and tell traced floats from structure.

A config is complete: every field is present, none is None (`''` and `0` mean "not set"), and it is read as
`config.section.field` only. Floats in the sections of `TRACED` reach the compiled program as arguments, so one program
serves every learning rate and loss weight; all else is structure. A float of exactly 0.0 is structure too: it switches
its term off at compile time.
"""

import ast
import copy
import difflib
import importlib
import importlib.util
import inspect
import json
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gen_ai.errors import UserError

SOURCE = Path(__file__).resolve().parent.parent  # the checkout: configs/ and experiments/ live here
TRACED = ('model', 'loss', 'optim', 'sample')
TINY = {  # what the tiny() of every config file begins with
  'run.steps': 8, 'run.log_every': 2, 'run.eval_every': 4, 'run.sample_every': 4, 'run.save_every': 4,
  'data.batch_size': 16, 'eval.batch_size': 64, 'sample.n': 8, 'optim.warmup_steps': 0,
}  # fmt: skip

# {another field: (which values of it, in words; whether a value is one of them)}, all of which must hold.
Needs = Mapping[str, tuple[str, Callable[[Any], bool]]]


def one_of(*values: Any) -> tuple[str, Callable[[Any], bool]]:
  """For `Needs`: one of these values."""
  return ' or '.join(map(repr, values)), lambda value: value in values


_FOLDER = ("'folder:PATH'", lambda name: name.startswith('folder:'))
_IMAGES = ('that holds images', lambda name: not name.startswith('text:') and name != 'python_stdlib')
_TEXT = ('that holds text', lambda name: not name.startswith('folder:') and name != 'mnist_5k')
USED_WITH: dict[str, Needs] = {  # of `common`: what reads the field; fields that are not named are always read
  'data.image_size': {'data.name': _IMAGES},
  'data.grey': {'data.name': _IMAGES},
  'data.background': {'data.name': _IMAGES},
  'data.on_bad_image': {'data.name': _FOLDER},
  'data.tokens': {'data.name': _TEXT},
  'data.block_size': {'data.name': _TEXT},
  'optim.b2': {'optim.name': one_of('adam', 'adamw', 'rmsprop', 'lion', 'muon')},
  'optim.eps': {'optim.name': one_of('adam', 'adamw', 'rmsprop', 'muon')},
  'optim.decay_steps': {'optim.schedule': one_of('cosine', 'linear')},
  'optim.end_factor': {'optim.schedule': one_of('cosine', 'linear')},
  'mesh.fsdp': {'parallel': one_of('jit')},
  'mesh.tensor': {'parallel': one_of('jit')},
  'mesh.min_shard': {'parallel': one_of('jit')},
  'eval.metrics_every': {'eval.metrics': ('that names figures', bool)},
}


def common(experiment: str, data: str) -> ConfigDict:
  """The fields that every run has, at usual values; a config file sets its own and adds `model` and `loss`."""
  config = ConfigDict()
  config.experiment = experiment  # module in experiments/
  config.parallel = 'jit'  # 'jit' (mesh of data, fsdp and tensor axes) | 'pmap' (data parallel)
  config.precision = 'fp32'  # 'fp32' | 'bf16' (bf16 compute; parameters, losses, norms and averages stay fp32)

  config.run = ConfigDict()
  config.run.name = experiment  # folder under --runs_dir
  config.run.steps = 1000  # updates
  config.run.seed = 0  # initialisation and training noise
  config.run.log_every = 100  # updates in one compiled dispatch, and in one row of metrics.jsonl
  config.run.eval_every = 500  # updates; a multiple of log_every; 0: only at the end
  config.run.sample_every = 500  # updates; a multiple of log_every; 0: only at the end
  config.run.save_every = 500  # updates; a multiple of log_every; 0: only at the end
  config.run.keep = 2  # newest checkpoints kept, besides the best
  config.run.writers = 'tensorboard'  # mirrors of the record: '' | 'tensorboard' | 'wandb' | 'tensorboard,wandb'

  config.data = ConfigDict()
  config.data.name = data  # 'mnist_5k' | 'python_stdlib' | a TFDS name | 'folder:PATH' | 'text:GLOB'
  config.data.split = 'auto'  # 'auto' | 'TRAIN|VALIDATION|TEST' in TFDS slices: 'train[:90%]|train[90%:]|test'
  config.data.batch_size = 64  # examples in one batch over all devices; n_critic batches make one step of a GAN
  config.data.seed = 0  # order of the examples
  config.data.feed = 'auto'  # 'device' (whole set on the device) | 'host' (read ahead by Grain) | 'auto' (by size)
  config.data.data_dir = ''  # where prepared data sets live; '': $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.manual_dir = ''  # source files that were downloaded by hand
  config.data.image_size = 0  # pixels; resize and centre-crop to a square; 0: as they are
  config.data.grey = 'auto'  # 'true' (one channel, luminance) | 'false' | 'auto' (a folder: if every image is grey)
  config.data.background = 'white'  # shows through transparent pixels: 'white' | 'black' | '#RRGGBB' | 'none' (ignored)
  config.data.on_bad_image = 'refuse'  # 'refuse' | 'skip' an image that cannot be read
  config.data.tokens = 'byte'  # text: 'byte' | 'char'
  config.data.block_size = 64  # text: tokens of context

  config.optim = ConfigDict()
  config.optim.name = 'adam'  # adam | adamw | sgd | rmsprop | lion | muon (hidden kernels; adamw on the rest)
  config.optim.lr = 1e-3  # peak learning rate
  config.optim.b1 = 0.9  # decay of the first moment; momentum of sgd, rmsprop and muon
  config.optim.b2 = 0.999  # decay of the second moment (adam, adamw, lion; rmsprop's decay)
  config.optim.eps = 1e-8  # added to the root of the second moment
  config.optim.weight_decay = 0.0  # decoupled, on matrices and kernels only (adamw, lion, muon)
  config.optim.schedule = 'constant'  # 'constant' | 'cosine' | 'linear', after the warm-up
  config.optim.warmup_steps = 0  # updates of linear warm-up
  config.optim.decay_steps = 0  # update at which cosine and linear reach their end; 0: run.steps
  config.optim.end_factor = 0.0  # last learning rate as a fraction of lr
  config.optim.clip_norm = 0.0  # largest global gradient norm; 0: no clipping
  config.optim.accumulate = 1  # micro-batches in one update; the batch stays the same
  config.optim.ema_decay = 0.0  # per update, of the parameters used to sample and evaluate; 0: no averaging

  config.mesh = ConfigDict()
  config.mesh.data = -1  # devices that split the batch; -1: all that are left
  config.mesh.fsdp = 1  # devices that split batch and parameters
  config.mesh.tensor = 1  # devices that split matrices
  config.mesh.min_shard = 4096  # elements below which an array stays whole on every device

  config.eval = ConfigDict()
  config.eval.batch_size = 256  # examples
  config.eval.seed = 0  # noise of evaluation and the fixed latents of all sample grids: never the run's seed
  config.eval.metrics = ''  # figures of samples besides the method's own: 'fd,kid,prdc,...' (gen_ai.evaluate)
  config.eval.metrics_every = 0  # updates; a multiple of eval_every; 0: only at the end
  config.eval.samples = 10_000  # samples that these figures are measured on
  config.eval.extractor = 'random'  # of their features: 'classifier:RUN_DIR' | 'inception:FILE' | 'random' (weak)
  config.eval.nll_draws = 5000  # latent draws of an importance-weighted likelihood ('nll')
  config.eval.best = ''  # 'metric:min' or 'metric:max': the checkpoint with the best value is kept too

  config.sweep = ConfigDict()
  config.sweep.lanes = 0  # points that share one packed program; 0: as many as memory allows

  config.sample = ConfigDict()
  config.sample.n = 64  # samples in a grid, or texts
  return config


def nearest(word: str, words: Iterator[str] | list[str]) -> str:
  """' Did you mean X?' for the closest of `words`, or an empty string."""
  match = difflib.get_close_matches(word, list(words), n=1, cutoff=0.4)
  return f" Did you mean '{match[0]}'?" if match else ''


def _nearest_files(path: str) -> str:
  """' Did you mean X or Y?': config files beside `path` and in configs/ whose names are like its own."""
  folders = {str(Path(path).parent): Path(path).parent, 'configs': SOURCE / 'configs'}
  files = {p.stem: f'{name}/{p.name}' for name, folder in folders.items() if name != '.' for p in folder.glob('*.py')}
  match = difflib.get_close_matches(Path(path).stem, [stem for stem in files if stem != '__init__'], n=2, cutoff=0.5)
  return f' Did you mean {" or ".join(files[stem] for stem in match)}?' if match else ''


def find_file(path: str) -> Path | None:
  """The config file at `path`, given relative to the current folder or to the checkout; None where there is none."""
  return next((file for file in (Path(path), SOURCE / path) if file.is_file()), None)


def split_reference(reference: str) -> tuple[str, str | None]:
  """(path, argument) of 'configs/NAME.py:ARGUMENT', in which both may hold colons; the argument is None without one."""
  if find_file(reference):
    return reference, None
  heads = [reference[:i] for i, char in enumerate(reference) if char == ':']
  path = next((head for head in heads if find_file(head)), heads[0] if heads else reference)
  return path, reference[len(path) + 1 :] if heads else None


def call(path: str, name: str, fn: Callable[..., Any], *args: Any) -> Any:
  """fn(*args) of the config file at `path`. Raises UserError naming the file's line for whatever goes wrong in it."""
  try:
    return fn(*args)
  except UserError:
    raise
  except SyntaxError as error:
    raise UserError(f'{path} has a syntax error in line {error.lineno}: {error.msg}.') from error
  except Exception as error:  # the file is the user's code
    file = str(find_file(path))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f' in line {lines[-1]}' if lines else ''
    said = ' '.join(str(error).split())
    raise UserError(f'{path}: {name} fails{where} with {type(error).__name__}: {said}') from error


def load_module(path: str) -> ModuleType:
  """The config file at `path`, given relative to the current folder or to the checkout.

  Raises:
    UserError: no such file (names the nearest), one that fails to run, or one without get_config.
  """
  file = find_file(path)
  if file is None:
    raise UserError(f"No config file '{path}'.{_nearest_files(path)} `python launch.py --list` shows all.")
  loader = SourceFileLoader(f'config_{file.stem}', str(file))  # whatever its name ends in
  spec = importlib.util.spec_from_loader(loader.name, loader)
  assert spec is not None
  module = importlib.util.module_from_spec(spec)
  call(path, 'it', loader.exec_module, module)
  if not callable(getattr(module, 'get_config', None)):
    raise UserError(f'{path} defines no get_config(): is it a config file? `python launch.py --list` shows all.')
  return module


def load(reference: str) -> ConfigDict:
  """The locked config of 'configs/NAME.py' or 'configs/NAME.py:ARGUMENT'.

  Raises:
    UserError: no such file, one that fails to run, or one whose get_config() returns no whole config.
  """
  path, argument = split_reference(reference)
  module = load_module(path)
  if argument is not None and not inspect.signature(module.get_config).parameters:
    raise UserError(f"{path} takes no argument, yet ':{argument}' was given.")
  config = call(path, 'get_config()', module.get_config, *([] if argument is None else [argument]))
  if not isinstance(config, ConfigDict):
    raise UserError(f'{path}: get_config() returns {_kind(config)}, not a ConfigDict: begin with '
                    'gen_ai.config.common(), and return what it gives.')  # fmt: skip
  flat = flatten(config)
  for name, usual in flatten(common('', '')).items():
    if type(flat.get(name)) is not type(usual):
      has = f'{_kind(flat[name])} as config.{name}' if name in flat else f'no config.{name}'
      raise UserError(f'{path}: get_config() gives {has}, which every run has as {_kind(usual)}: begin with '
                      'gen_ai.config.common().')  # fmt: skip
  return config.lock()


def _kind(value: Any) -> str:
  """'an int', 'a str', 'None'."""
  name = type(value).__name__
  return 'None' if value is None else f'{"an" if name[0] in "aeiou" else "a"} {name}'


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'section.field': value}; tuples and lists become lists, as they do in JSON."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, (ConfigDict, Mapping)):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple | list) else value
  return flat


def parse(path: str, text: str, current: Any) -> Any:
  """`text` as a value of the type that field `path` has now; UserError where it is none."""
  kind = type(current)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind is int:
      return int(text)
    if kind is float:
      return float(text)
    if kind in (tuple, list):
      value = ast.literal_eval(text)
      return kind(value if isinstance(value, tuple | list) else (value,))
  except (ValueError, KeyError, SyntaxError):
    example = {bool: 'true or false', int: 'a whole number', float: 'a number'}.get(kind, 'a list, as in (1,2)')
    raise UserError(f'config.{path}={text} is not {example}; its value in the file is {current!r}.') from None
  return text


def assign(config: ConfigDict, path: str, value: Any) -> None:
  """Sets field `path` ('section.field') in place; a str is parsed to the field's type.

  Raises:
    UserError: no such field (names the nearest), a section instead of a field, or a value of another type.
  """
  flat = flatten(config)
  if path not in flat:
    if any(name.startswith(path + '.') for name in flat):
      raise UserError(
        f'config.{path} is a section: name one of its fields, such as config.'
        f'{next(n for n in flat if n.startswith(path + "."))}.'
      )
    raise UserError(f"The config has no field '{path}'.{nearest(path, list(flat))} `--print_config` shows all.")
  section_path, _, name = path.rpartition('.')
  section = config
  for part in section_path.split('.') if section_path else []:
    section = section[part]
  current = section[name]
  if isinstance(value, str):
    value = parse(path, value, current)
  if isinstance(current, float) and type(value) is int:
    value = float(value)
  if isinstance(current, tuple) and isinstance(value, list):
    value = tuple(value)
  kinds = {type(item) for item in current} if isinstance(current, tuple) else set()
  if type(value) is not type(current) or (kinds and not {type(item) for item in value} <= kinds):
    raise UserError(
      f'config.{path}={value!r} is not of the type {type(current).__name__} that the file gives it: {current!r}.'
    )
  section[name] = value


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """A locked copy of `config` with {'section.field': value} applied."""
  config = copy.deepcopy(config)
  for path, value in overrides.items():
    assign(config, path, value)
  return config.lock()


def _check(ok: bool, message: str) -> None:
  if not ok:
    raise UserError(message)


CHOICES = {
  'parallel': ('jit', 'pmap'),
  'precision': ('fp32', 'bf16'),
  'data.feed': ('auto', 'device', 'host'),
  'data.grey': ('auto', 'true', 'false'),
  'data.on_bad_image': ('refuse', 'skip'),
  'data.tokens': ('byte', 'char'),
}
POSITIVE = ('run.steps', 'run.log_every', 'run.keep', 'data.batch_size', 'data.block_size', 'optim.accumulate',
            'eval.batch_size', 'eval.samples', 'eval.nll_draws', 'sample.n', 'mesh.fsdp', 'mesh.tensor')  # fmt: skip
BELOW_ONE = ('optim.b1', 'optim.b2', 'optim.ema_decay')
PLACES = ('data.name', 'data.data_dir', 'data.manual_dir')  # where data lies: its content hash says what it is
LARGEST_SEED = 2**31 - 1  # beyond it JAX would take the low bits: another seed's


def _check_numbers(flat: Mapping[str, Any]) -> None:
  """Refuses numbers out of range. Whole numbers of `model` are sizes and counts: at least 1."""
  for path, value in flat.items():
    _check(not isinstance(value, float) or math.isfinite(value), f'config.{path}={value} is not a finite number.')
    whole = [item for item in (value if isinstance(value, list) else [value]) if type(item) is int]
    if path in POSITIVE or (path.startswith('model.') and whole):
      _check(min(whole) > 0, f'config.{path}={value} must be at least 1.')
    elif whole and path != 'mesh.data':  # -1 there: all that are left
      _check(min(whole) >= 0, f'config.{path}={value} must not be negative.')
    if path.startswith('optim.') and isinstance(value, float):
      _check(value >= 0, f'config.{path}={value} must not be negative.')
    if path in BELOW_ONE:
      _check(value < 1, f'config.{path}={value} must be less than 1.')
    if path.endswith('.seed'):
      _check(value <= LARGEST_SEED, f'config.{path}={value} must be at most {LARGEST_SEED}.')


def validate(config: ConfigDict) -> None:
  """Refuses what no run could mean. Raises UserError naming the field."""
  flat = flatten(config)
  for path, choices in CHOICES.items():
    _check(flat[path] in choices, f"config.{path}='{flat[path]}' is none of {', '.join(choices)}.")
  _check_numbers(flat)
  ground = flat['data.background']
  _check(ground in ('white', 'black', 'none') or bool(re.fullmatch('#[0-9a-fA-F]{6}', ground)),
         f"config.data.background='{ground}' is none of white, black, none and #RRGGBB.")  # fmt: skip
  run = config.run
  for name in ('steps', 'eval_every', 'sample_every', 'save_every'):
    value = run[name]
    _check(value % run.log_every == 0,
           f'config.run.{name}={value} is not a multiple of config.run.log_every={run.log_every}: the engine logs, '
           f'evaluates, samples and saves between compiled chunks of log_every updates. '
           f'Try {name}={max(1, round(value / run.log_every)) * run.log_every}.')  # fmt: skip
  every, evaluated = config.eval.metrics_every, run.eval_every
  _check(not every or (evaluated > 0 and every % evaluated == 0),
         f'config.eval.metrics_every={every} is not a multiple of config.run.eval_every={evaluated}: figures of '
         'samples are measured where the run is evaluated.')  # fmt: skip
  _check(config.data.batch_size % config.optim.accumulate == 0,
         f'config.data.batch_size={config.data.batch_size} does not divide into '
         f'config.optim.accumulate={config.optim.accumulate} micro-batches.')  # fmt: skip
  _check(bool(run.name) and '/' not in run.name, f"config.run.name='{run.name}' must be a plain folder name.")
  best = config.eval.best
  metric, _, mode = best.rpartition(':')
  _check(not best or (bool(metric) and mode in ('min', 'max')),
         f"config.eval.best='{best}' must read 'metric:min' or 'metric:max'.")  # fmt: skip


def experiment(config: ConfigDict) -> ModuleType:
  """The module of experiments/ that `config.experiment` names."""
  names = sorted(p.stem for p in (SOURCE / 'experiments').glob('*.py') if not p.stem.startswith('_'))
  if config.experiment not in names:
    raise UserError(f"No experiment '{config.experiment}'.{nearest(config.experiment, names)} "
                    f'There are {", ".join(names)}.')  # fmt: skip
  return importlib.import_module(f'experiments.{config.experiment}')


def averages(config: ConfigDict) -> bool:
  """Whether the run samples and evaluates by averaged parameters, however the average's pace is given."""
  return any(config.optim[name] != 0 for name in ('ema_decay', 'ema_halflife') if name in config.optim)


def traced(config: ConfigDict) -> dict[str, float]:
  """The floats that reach the compiled program as arguments: {'optim.lr': 1e-3, ...}."""
  return {
    path: value for path, value in flatten(config).items()
    if isinstance(value, float) and value != 0.0 and path.split('.')[0] in TRACED
  }  # fmt: skip


def as_flags(config: ConfigDict, reference: str) -> list[str]:
  """The words after `python launch.py` that stand for `config`, a config of the file 'configs/NAME.py[:ARGUMENT]'.

  One --config.x=y a field in which it differs from the file, or from the file's tiny() where that is nearer.

  Raises:
    UserError: the file is gone, or has become wrong.
  """
  base = load(reference)
  bases: dict[tuple[str, ...], ConfigDict] = {(): base}
  if hasattr(load_module(reference.partition(':')[0]), 'tiny'):
    bases['--tiny',] = override(base, tiny(reference))
  differing = {words: difference(base, config) for words, base in bases.items()}
  words = min(differing, key=lambda words: len(differing[words]))
  changed = {path: value for path, (there, value) in differing[words].items() if '(absent)' not in (there, value)}
  return [f'--config={reference}', *words, *(f'--config.{path}={_text(value)}' for path, value in changed.items())]


def _text(value: Any) -> str:
  """A value as `parse` reads it."""
  if isinstance(value, list):
    return f'({",".join(map(repr, value))})'
  return str(value).lower() if isinstance(value, bool) else str(value)


def substitute(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  """A copy of `config` that holds `values` (tracers, in a trace) in the named fields."""
  tree = config.to_dict()
  for path, value in values.items():
    *sections, name = path.split('.')
    node = tree
    for section in sections:
      node = node[section]
    node[name] = value
  return ConfigDict(tree)


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Plain nested dict, keys sorted, tuples as lists."""
  return json.loads(json.dumps(config.to_dict(), sort_keys=True))


def from_json(tree: Mapping[str, Any]) -> ConfigDict:
  """The locked config that `to_json` wrote; lists come back as tuples.

  Runs once recorded `data.grey` as a truth value, before it could be 'auto'.
  """

  def tuples(node: Any) -> Any:
    if isinstance(node, Mapping):
      return {name: tuples(value) for name, value in node.items()}
    return tuple(node) if isinstance(node, list) else node

  config = ConfigDict(tuples(tree))
  if 'data' in config and isinstance(config.data.get('grey'), bool):
    config.data = ConfigDict({**config.data, 'grey': str(config.data.grey).lower()})
  return config.lock()


def difference(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """{'section.field': (value in a, value in b)} where they differ; a field one lacks shows as '(absent)'."""
  flat_a, flat_b = flatten(a), flatten(b)
  paths = sorted(flat_a.keys() | flat_b.keys())
  pairs = {path: (flat_a.get(path, '(absent)'), flat_b.get(path, '(absent)')) for path in paths}
  return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def tiny(reference: str) -> dict[str, Any]:
  """The overrides of the config file's tiny(), which make a whole run take seconds. Raises UserError without one."""
  path, _ = split_reference(reference)
  module = load_module(path)
  if not hasattr(module, 'tiny'):
    raise UserError(f'{path} defines no tiny(): add one that returns {{"section.field": value}}.')
  overrides = call(path, 'tiny()', module.tiny)
  if not isinstance(overrides, Mapping):
    raise UserError(f'{path}: tiny() returns {_kind(overrides)}, not {{"section.field": value}}.')
  return dict(overrides)
