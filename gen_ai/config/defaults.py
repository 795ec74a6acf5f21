"""The fields that every run has, those of a family, and new configs of them."""

import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from gen_ai.config.field import NETWORK, Field, Needs, one_of, size, weight
from gen_ai.config.tree import flatten

LONGEST_AVERAGE = 0.288  # length of a power average: a little below 12^-0.5, that of the plain mean of all updates
LARGEST_SEED = 2**31 - 1  # beyond it JAX would take the low bits: another seed's
OPTIMISERS = ('adam', 'adamw', 'sgd', 'rmsprop', 'lion', 'muon')
SCHEDULES = ('constant', 'cosine', 'linear', 'wsd')
PLACES = ('data.name', 'data.data_dir', 'data.manual_dir')  # where data lies: its content hash says what it is

_FOLDER: Needs = {'data.name': ("'folder:PATH'", lambda name: name.startswith('folder:'))}
_TEXTS = ('text:', 'tokens:', 'mix:')
_IMAGES: Needs = {
  'data.name': ('that holds images', lambda name: not name.startswith(_TEXTS) and name != 'python_stdlib')
}
_TEXT: Needs = {'data.name': ('that holds text', lambda name: not name.startswith('folder:') and name != 'mnist_5k')}
# A directory of tokens was cut and has its tokenizer in it.
_MADE: Needs = {'data.name': ('that is no tokens:DIR', lambda name: not name.startswith('tokens:'))}
_PLAIN: Needs = {'data.name': ('that holds text which is no tokens yet', lambda name: _is_text(name))}
_FALLS: Needs = {'optim.schedule': one_of('cosine', 'linear', 'wsd')}
_MESH: Needs = {'parallel': one_of('jit')}

COMMON: dict[str, Field] = {
  'experiment': Field(''),  # module in experiments/
  'parallel': Field('jit', choices=('jit', 'pmap')),  # mesh of data, fsdp and tensor axes | data parallel
  # bf16: bf16 compute; parameters, losses, norms and averages stay fp32
  'precision': Field('fp32', choices=('fp32', 'bf16')),
  'run.name': Field(''),  # folder under --runs_dir
  'run.steps': size(1000, tiny=8),  # updates
  'run.seed': Field(0, max=LARGEST_SEED),  # initialisation and training noise
  'run.log_every': size(100, tiny=2),  # updates in one compiled dispatch, and in one row of metrics.jsonl
  'run.eval_every': Field(500, tiny=4),  # updates; a multiple of log_every; 0: only at the end
  'run.sample_every': Field(500, tiny=4),  # updates; a multiple of log_every; 0: only at the end
  'run.save_every': Field(500, tiny=4),  # updates; a multiple of log_every; 0: only at the end
  'run.keep': size(2),  # newest checkpoints kept, besides the best
  # snapshots of optim.ema_lengths that are kept, evenly spaced, from which averages of other lengths are made; 0: none
  'run.ema_snapshots': Field(16, used_with={'optim.ema_lengths': ('that names some', bool)}),
  'run.trackers': Field('tensorboard'),  # copies of the record: '' | 'tensorboard' | 'wandb' | 'tensorboard,wandb'
  # 'mnist_5k' | 'python_stdlib' | a TFDS name | 'folder:PATH' | 'text:GLOB' | 'tokens:DIR' (of gen_ai.data.tokenize) |
  # 'mix:0.7*NAME+0.3*NAME' (texts by weight)
  'data.name': Field(''),
  # 'auto' | 'auto[:20%]' (of each part) | 'TRAIN|VALIDATION|TEST' in TFDS slices: 'train[:90%]|train[90%:]|test'
  'data.split': Field('auto', tiny='auto[:20%]', used_with=_MADE),
  'data.batch_size': size(64, tiny=16),  # examples in one batch over all devices; n_critic batches make a step of a GAN
  'data.seed': Field(0, max=LARGEST_SEED),  # order of the examples
  # 'device' (whole set on the device) | 'host' (read ahead by Grain) | 'auto' (by size)
  'data.feed': Field('auto', choices=('auto', 'device', 'host')),
  'data.data_dir': Field(''),  # where prepared data sets live; '': $TFDS_DATA_DIR or ~/tensorflow_datasets
  'data.manual_dir': Field(''),  # source files that were downloaded by hand
  'data.image_size': Field(0, used_with=_IMAGES),  # pixels; resize and centre-crop to a square; 0: as they are
  # 'true' (one channel, luminance) | 'false' | 'auto' (a folder: if every image is grey)
  'data.grey': Field('auto', choices=('auto', 'true', 'false'), used_with=_IMAGES),
  # what shows through transparent pixels: 'white' | 'black' | '#RRGGBB' | 'none' (ignored)
  'data.background': Field('white', used_with=_IMAGES),
  'data.on_bad_image': Field('refuse', choices=('refuse', 'skip'), used_with=_FOLDER),  # that cannot be read
  'data.tokens': Field('byte', choices=('byte', 'char'), open=('bpe:SIZE', 'bpe:FILE'), used_with=_PLAIN),
  'data.block_size': size(64, used_with=_TEXT),  # tokens of context
  'optim.name': Field('adam', choices=OPTIMISERS),  # muon: on hidden kernels; adamw on the rest
  'optim.lr': weight(1e-3),  # peak learning rate
  'optim.b1': weight(0.9, below=1.0),  # decay of the first moment; momentum of sgd, rmsprop and muon
  # decay of the second moment (adam, adamw, lion; rmsprop's decay)
  'optim.b2': weight(0.999, below=1.0, used_with={'optim.name': one_of('adam', 'adamw', 'rmsprop', 'lion', 'muon')}),
  # added to the root of the second moment
  'optim.eps': weight(1e-8, used_with={'optim.name': one_of('adam', 'adamw', 'rmsprop', 'muon')}),
  'optim.weight_decay': weight(0.0),  # decoupled, on matrices and kernels only (adamw, lion, muon)
  'optim.schedule': Field('constant', choices=SCHEDULES),  # after the warm-up
  'optim.warmup_steps': Field(0, tiny=0),  # updates of linear warm-up
  'optim.decay_steps': Field(0, used_with=_FALLS),  # update at which the schedule reaches its end; 0: run.steps
  'optim.end_factor': weight(0.0, used_with=_FALLS),  # last learning rate as a fraction of lr
  # share of the updates in which wsd falls, at the end
  'optim.cooldown': Field(0.2, above=0.0, max=1.0, used_with={'optim.schedule': one_of('wsd')}),
  'optim.clip_norm': weight(0.0),  # largest global gradient norm; 0: no clipping
  'optim.accumulate': size(1),  # micro-batches in one update; the batch stays the same
  # Of the parameters used to sample and evaluate an average is kept by one of these three; all off: no averaging.
  'optim.ema_decay': weight(0.0, below=1.0),  # per update; 0: off
  'optim.ema_halflife': weight(0.0),  # examples in which the weight of old parameters halves; 0: off
  # the half-life is at most this share of the examples seen so far; 0: off
  'optim.ema_rampup': weight(0.0, used_with={'optim.ema_halflife': ('that is not 0', bool)}),
  # power averages by their lengths, relative deviations such as (0.05,0.1); evaluations use the first; (): off
  'optim.ema_lengths': Field((), above=0.0, max=LONGEST_AVERAGE),
  'mesh.data': Field(-1, min=-float('inf')),  # devices that split the batch; -1: all that are left
  'mesh.fsdp': size(1, used_with=_MESH),  # devices that split batch and parameters
  'mesh.expert': size(1, used_with=_MESH),  # devices that split the batch and, of a mixture, the experts
  'mesh.tensor': size(1, used_with=_MESH),  # devices that split matrices
  'mesh.min_shard': Field(4096, used_with=_MESH),  # elements below which an array stays whole on every device
  'eval.batch_size': size(256, tiny=64),  # examples
  # noise of evaluation and the fixed latents of all sample grids: never the run's seed
  'eval.seed': Field(0, max=LARGEST_SEED),
  # that draws the samples that are shown and measured; '': the first of the method's tasks that draws any
  'eval.task': Field(''),
  'eval.metrics': Field(''),  # figures of samples besides the method's own: 'fd,kid,prdc,...' (gen_ai.evaluate)
  # updates; a multiple of eval_every; 0: only at the end
  'eval.metrics_every': Field(0, used_with={'eval.metrics': ('that names figures', bool)}),
  'eval.samples': size(10_000),  # samples that these figures are measured on
  'eval.extractor': Field('random'),  # of their features: 'classifier:RUN_DIR' | 'inception:FILE' | 'random' (weak)
  'eval.importance_samples': size(5000),  # latent draws of an importance-weighted likelihood ('nll')
  'eval.best': Field(''),  # 'metric:min' or 'metric:max': the checkpoint with the best value is kept too
  'sweep.lanes': Field(0),  # trials that share one packed program; 0: as many as memory allows
  'sample.n': size(64, tiny=8),  # samples in a grid, or texts
}
SECTIONS = ('model', 'loss')  # what a method has besides; there, even if it is empty


def _is_text(name: str) -> bool:
  """Whether the data of that name holds text, all or some, that has yet to become tokens; may say so of others."""
  if name.startswith('mix:'):
    return bool(re.search(r'[\d.]\*(?!tokens:)', name))
  return not name.startswith(('folder:', 'tokens:')) and name != 'mnist_5k'


def has_family(experiment: str) -> bool:
  """Whether a file of gen_ai/config/families/ declares the fields of `experiment`."""
  return experiment.isidentifier() and (Path(__file__).parent / 'families' / f'{experiment}.py').is_file()


@functools.cache
def _family(experiment: str) -> dict[str, Field]:
  if not has_family(experiment):
    return {}
  fields: dict[str, Field] = importlib.import_module(f'gen_ai.config.families.{experiment}').FIELDS
  return fields


def declared(experiment: str) -> dict[str, Field]:
  """{'section.field': its declaration}: the fields of every run, and those of the family of `experiment`."""
  return {**COMMON, **_family(experiment)}


def _make(fields: Mapping[str, Field], experiment: str, data: str, sections: tuple[str, ...]) -> ConfigDict:
  config = ConfigDict({name: {} for name in sections})
  for path, field in fields.items():
    *section, name = path.split('.')
    if section and section[0] not in config:
      config[section[0]] = ConfigDict()
    (config[section[0]] if section else config)[name] = field.usual(data)
  config.experiment, config.run.name, config.data.name = experiment, experiment, data
  return config


def common(experiment: str, data: str) -> ConfigDict:
  """The fields that every run has, at usual values, not locked: for a family that declares no fields of its own."""
  return _make(COMMON, experiment, data, ())


def usual(experiment: str, data: str, network: str = '') -> ConfigDict:
  """The fields of a config of `experiment` at usual values, not locked; of `network` where the family has several."""
  fields = declared(experiment)
  network = network or (fields[NETWORK].default if NETWORK in fields else '')
  own = {path: field for path, field in fields.items() if not field.networks or network in field.networks}
  if NETWORK in fields:
    own[NETWORK] = fields[NETWORK].but(network)
  return _make(own, experiment, data, SECTIONS if has_family(experiment) else ())


def settle(config: ConfigDict) -> None:
  """Gives an unlocked `config` the fields that its network has, at usual values, and takes those of others away."""
  fields = declared(config.experiment)
  if NETWORK not in fields or NETWORK not in (flat := flatten(config)) or flat[NETWORK] not in fields[NETWORK].choices:
    return
  for path, field in fields.items():
    section, _, name = path.partition('.')
    if field.networks and flat[NETWORK] not in field.networks:
      if path in flat:
        del config[section][name]
    elif field.networks and path not in flat:
      config[section][name] = field.usual(config.data.name)
