"""Data sets: what `config.data` names, cut into train, validation and test."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_ai.data import images, splits, text, tfds_source
from gen_ai.data.source import ArrayExamples, ImageSource, Piece, Source
from gen_ai.errors import UserError
from gen_ai.types import Spec


class Dataset(NamedTuple):
  """A data set ready to be fed.

  Attributes:
    name: as in `config.data.name`.
    version: of the data; '' where the source has none.
    spec: what a method may know of it.
    splits: {'train', 'validation', 'test': source}.
    split_rule: the rule that cut them, resolved.
    fingerprint: sha256 (hex) of the content fed: bytes and labels of all splits in order, their shapes and types. For
      a data set too large to decode at the start it is that of TFDS's record of the files.
    location: where it was read from.
    class_names: names of the classes by label; empty where they have none.
    notes: what a person should know of how it was read, and how much was left out.
  """

  name: str
  version: str
  spec: Spec
  splits: dict[str, Source]
  split_rule: str
  fingerprint: str
  location: str
  class_names: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


def load(config_data: Any) -> Dataset:
  """The data set of `config.data`. Never downloads: `python -m gen_ai.data.prepare NAME` does.

  Args:
    config_data: `config.data`; every field but batch_size, seed and feed is read.

  Raises:
    UserError: an unknown or unprepared data set, a bad split rule, a bad image, a text too short, ...
  """
  name = config_data.name
  if name.startswith('folder:'):
    return _load_folder(config_data)
  if name.startswith('text:') or name == 'python_stdlib':
    stdlib = name == 'python_stdlib'
    documents = text.stdlib_documents() if stdlib else text.file_documents(name.removeprefix('text:'))
    whole = '\n'.join(document['text'] for document in documents)
    location = text.stdlib_location() if stdlib else documents[0]['path']
    return from_text(
      name,
      {'train': whole},
      config_data.tokens,
      config_data.block_size,
      config_data.split,
      version=text.stdlib_version() if stdlib else '',
      location=location,
    )
  return _load_tfds(config_data)


def from_arrays(
  name: str, arrays: Mapping[str, Mapping[str, np.ndarray]], split: str = 'auto', num_classes: int = 0
) -> Dataset:
  """A data set of images in memory; needs no package but NumPy.

  Args:
    name: what the record calls it.
    arrays: {own split: {'image': uint8 [N, H, W, C], 'label': int [N], or no label}}.
    split: a rule over the own splits, see `gen_ai.data.splits`.
    num_classes: 0 takes the largest label + 1.

  Raises:
    UserError: arrays of another shape or type, or a bad rule.
  """
  examples, classes = {}, num_classes
  for own, part in arrays.items():
    image, label = np.asarray(part['image']), part.get('label')
    if image.ndim != 4 or image.dtype != np.uint8:
      raise UserError(f'data set {name!r}: {own} images are {image.dtype} {image.shape}, not uint8 [N, H, W, C].')
    if label is not None:
      label = np.asarray(label, np.int32)
      if label.shape != image.shape[:1]:
        raise UserError(f'data set {name!r}: {own} has {len(image)} images and labels of shape {label.shape}.')
      classes = max(classes, int(label.max(initial=-1)) + 1)
    examples[own] = ArrayExamples(image, label)
  return _from_examples(name, examples, split, classes)


def from_text(
  name: str,
  texts: Mapping[str, str],
  tokens: str,
  block_size: int,
  split: str = 'auto',
  version: str = '',
  location: str = 'memory',
) -> Dataset:
  """A data set of text in memory; needs no package but NumPy. Arguments and errors as `text.make_sources`."""
  sources, rule, vocab = text.make_sources(texts, split, tokens, block_size)
  spec = Spec(kind='text', shape=(block_size,), vocab=vocab)
  # The same tokens stand for other text under another vocabulary.
  alphabet = f'{tokens} {vocab.decode(np.arange(vocab.size)) if tokens == "char" else ""}'
  return Dataset(name, version, spec, dict(sources), rule, fingerprint(sources, alphabet), location)


def _load_folder(config_data: Any) -> Dataset:
  path = config_data.name.removeprefix('folder:')
  found = images.folder(
    path,
    config_data.image_size,
    config_data.grey,
    config_data.on_bad_image,
    config_data.data_dir,
    config_data.background,
  )
  whole = _from_examples(
    config_data.name, {'train': found.examples}, config_data.split, len(found.class_names), location=path
  )
  return whole._replace(class_names=found.class_names, notes=found.notes)


def _load_tfds(config_data: Any) -> Dataset:
  name, data_dir = config_data.name, config_data.data_dir
  prepared = tfds_source.open_prepared(name, data_dir, config_data.manual_dir)
  about = {'version': prepared.version, 'location': prepared.location}
  if prepared.kind == 'text':
    texts = tfds_source.load_texts(prepared)
    return from_text(name, texts, config_data.tokens, config_data.block_size, config_data.split, **about)
  size, grey, background = config_data.image_size, config_data.grey == 'true', config_data.background
  examples = tfds_source.load_images(prepared, size, grey, data_dir, background)
  ground = [] if background == 'none' else [background]  # without one it is the hash of runs that knew of none
  stand_in = repr([prepared.version, tfds_source.record(prepared), size, grey, *ground])
  classes = tfds_source.num_classes(prepared)
  whole = _from_examples(name, examples, config_data.split, classes, stand_in, **about)
  return whole._replace(class_names=tfds_source.class_names(prepared))


def _from_examples(
  name: str,
  examples: Mapping[str, Any],
  split: str,
  num_classes: int,
  stand_in: str = '',
  version: str = '',
  location: str = 'memory',
) -> Dataset:
  """Cuts {own split: Examples}; `stand_in` is hashed where images are not decoded yet."""
  sizes = {own: len(part) for own, part in examples.items()}
  rule = splits.resolve(split, sizes)
  parts = splits.cut(rule, sizes)
  sources = {
    part: ImageSource([Piece(examples[own], start, stop) for own, start, stop in ranges])
    for part, ranges in parts.items()
  }
  shapes = {source.shape for source in sources.values()}
  if len(shapes) > 1:
    raise UserError(f'data set {name!r}: the splits hold images of different shapes {sorted(shapes)}.')
  labelled = all(source.labelled for source in sources.values())
  spec = Spec(kind='image', shape=sources['train'].shape, num_classes=num_classes if labelled else 0)
  decoded = all(isinstance(part, ArrayExamples) for part in examples.values())
  content = fingerprint(sources) if decoded else hashlib.sha256(f'{rule} {stand_in}'.encode()).hexdigest()
  return Dataset(name, version, spec, dict(sources), rule, content, location)


def fingerprint(sources: Mapping[str, Source], alphabet: str = '') -> str:
  """sha256 (hex) of what the splits feed: names, shapes, types and bytes, in order, and the vocabulary of text."""
  digest = hashlib.sha256(alphabet.encode(errors='surrogatepass'))
  for split in splits.NAMES:
    for name, array in sorted(sources[split].arrays().items()):
      digest.update(f'\n{split} {name} {array.dtype} {array.shape}\n'.encode())
      digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()
