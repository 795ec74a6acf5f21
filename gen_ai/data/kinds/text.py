"""Text: stored as tokens in blocks of T, shown as strings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.files import disk_errors, write_atomic
from gen_ai.core.method import Spec
from gen_ai.data import text, tfds_source
from gen_ai.data.assemble import TEXT, Dataset, from_text
from gen_ai.data.kinds.base import DataKind, check_count, read_array
from gen_ai.data.source import TOKENS
from gen_ai.data.text import ByteVocab, CharVocab

RULE = '\n' + '-' * 40 + '\n'  # between texts


def _from_files(config_data: Any) -> Dataset:
  documents = text.file_documents(config_data.name.removeprefix('text:'))
  return _joined(config_data, documents, location=documents[0]['path'])


def _from_stdlib(config_data: Any) -> Dataset:
  about = {'version': text.stdlib_version(), 'location': text.stdlib_location()}
  return _joined(config_data, text.stdlib_documents(), **about)


def _joined(config_data: Any, documents: Sequence[Mapping[str, str]], **about: str) -> Dataset:
  whole = '\n'.join(document['text'] for document in documents)
  return _cut(config_data, {'train': whole}, **about)


def _cut(config_data: Any, texts: Mapping[str, str], **about: str) -> Dataset:
  return from_text(config_data.name, texts, config_data.tokens, config_data.block_size, config_data.split, **about)


class _Text(DataKind):
  name = TEXT
  unit = 'texts'
  example = TOKENS
  endings = ('.txt', '.npy')
  printed = True
  metrics = 'memorisation'
  sources = MappingProxyType({'text': _from_files, 'python_stdlib': _from_stdlib})

  def from_tfds(self, config_data: Any, prepared: Any) -> Dataset:
    texts = tfds_source.load_texts(prepared)
    return _cut(config_data, texts, version=prepared.version, location=prepared.location)

  def counted(self, spec: Spec) -> str:
    return self.form(spec)

  def form(self, spec: Spec) -> str:
    return f'blocks of {spec.shape[0]} tokens'

  def facts(self, spec: Spec) -> dict[str, Any]:
    return {'alphabet': spec.vocab.decode(np.arange(spec.vocab.size)) if isinstance(spec.vocab, CharVocab) else ''}

  def spec_of(self, tree: Mapping[str, Any]) -> Spec:
    vocab = CharVocab(tree['alphabet']) if tree['alphabet'] else ByteVocab()
    return Spec(self.name, tuple(tree['shape']), tree['num_classes'], vocab)

  def load(self, file: str, spec: Spec, n: int | None, flag: str) -> np.ndarray:
    """As `DataKind.load`: tokens int [N, T]."""
    found = read_array(file, flag)
    assert spec.vocab is not None
    if found.ndim < 2:
      raise UserError(
        f'--{flag}={file} holds {found.dtype} {list(found.shape)}; this data has samples int32 '
        f'[N, {spec.shape[0]}]. Save one row of tokens a text.'
      )
    check_count(file, flag, found, n)
    found = np.asarray(found[:n])
    whole = np.issubdtype(found.dtype, np.integer) and found.ndim == 2
    if not whole or found.min() < 0 or found.max() >= spec.vocab.size:
      held = f' from {found.min()} to {found.max()}' if np.issubdtype(found.dtype, np.integer) else ''
      raise UserError(
        f'--{flag}={file} must hold tokens int [N, T] from 0 to {spec.vocab.size - 1}; it holds '
        f'{found.dtype} {list(found.shape)}{held}.'
      )
    return found.astype(np.int32)

  def save(
    self, path: Path, spec: Spec, samples: np.ndarray, columns: int | None = None, rows: Sequence[str] = ()
  ) -> None:
    del columns, rows
    if path.suffix == '.npy':
      np.save(path, samples.astype(np.int32))
      return
    with disk_errors(path, path.parent.parent):
      write_atomic(path, self.shown(spec, samples) + '\n')

  def shown(self, spec: Spec, samples: np.ndarray) -> str:
    assert spec.vocab is not None
    return RULE.join(spec.vocab.decode(row[row >= 0]) for row in np.asarray(samples))


KIND = _Text()
