"""Data sets made of images or of text: cut into train, validation and test, with the hash of what they hold."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data import splits, text
from gen_ai.data.source import ArrayExamples, ImageSource, Piece, Source

IMAGES, TEXT = 'image', 'text'  # names of kinds of data


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
    notes: what a person should know of how it was read, and how much was left out.
  """

  name: str
  version: str
  spec: Spec
  splits: dict[str, Source]
  split_rule: str
  fingerprint: str
  location: str
  notes: tuple[str, ...] = ()


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
  return from_examples(name, examples, split, classes)


def from_text(
  name: str,
  texts: Mapping[str, str | Sequence[str]],
  tokens: str,
  block_size: int,
  split: str = 'auto',
  version: str = '',
  location: str = 'memory',
  kept: Path | None = None,
) -> Dataset:
  """A data set of text in memory, see `text.make_sources`; a text alone is one document."""
  documents = {own: [text] if isinstance(text, str) else text for own, text in texts.items()}
  sources, rule, vocab = text.make_sources(documents, split, tokens, block_size, kept)
  spec = Spec(TEXT, (block_size,), vocab=vocab)
  return Dataset(name, version, spec, dict(sources), rule, fingerprint(sources, text.identity(vocab)), location)


def from_examples(
  name: str,
  examples: Mapping[str, Any],
  split: str,
  num_classes: int,
  stand_in: str = '',
  version: str = '',
  location: str = 'memory',
  class_names: Sequence[str] = (),
) -> Dataset:
  """A data set of images: {own split: Examples} cut by the rule `split`.

  Args:
    name: what the record calls it.
    examples: {own split: Examples}.
    split: a rule over the own splits, see `gen_ai.data.splits`.
    num_classes: of labelled images.
    stand_in: what is hashed in place of images that are not decoded yet.
    version: of the data.
    location: where it was read from.
    class_names: of labelled images, by label; empty where they have none.

  Raises:
    UserError: a bad rule, or images of different shapes.
  """
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
  classes = (num_classes, None, tuple(class_names)) if labelled else ()
  spec = Spec(IMAGES, sources['train'].shape, *classes)
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
