"""Text: stored as tokens in blocks of T, shown as strings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gen_ai.core.command_line import printed
from gen_ai.core.errors import UserError
from gen_ai.core.files import disk_errors, write_atomic
from gen_ai.core.method import Spec
from gen_ai.data import bpe, mixture, store, text, tfds_source, token_directory
from gen_ai.data.assemble import TEXT, Dataset, from_text
from gen_ai.data.bpe import BpeVocab
from gen_ai.data.kinds.base import DataKind, check_count, read_array
from gen_ai.data.source import TOKENS, Source, TextSource
from gen_ai.data.text import AnyVocab, ByteVocab, CharVocab


class Documents(NamedTuple):
  """Texts before they are cut."""

  texts: Mapping[str, Sequence[str]]  # {own split: documents}
  version: str
  location: str


def documents(name: str, data_dir: str = '') -> Documents:
  """The documents of a text data set, see `config.data`.

  Raises:
    UserError: there is no such data set, it is not prepared, it does not hold text, or some of it is not UTF-8.
  """
  source, _, place = name.partition(':')
  if source == 'text':
    found = text.file_documents(place)
    return Documents({'train': [document['text'] for document in found]}, '', found[0]['path'])
  if name == 'python_stdlib':
    texts = {'train': [document['text'] for document in text.stdlib_documents()]}
    return Documents(texts, text.stdlib_version(), text.stdlib_location())
  return _of_tfds(tfds_source.open_text(name, data_dir))


def _find(name: str, data_dir: str) -> None:
  """Raises UserError as `documents` where there is no such text; reads none of it."""
  source, _, place = name.partition(':')
  if source == 'text':
    text.matching_files(place, name)
  elif name != 'python_stdlib':
    tfds_source.open_text(name, data_dir)


def _of_tfds(prepared: Any) -> Documents:
  return Documents(tfds_source.load_texts(prepared), prepared.version, prepared.location)


def _opened(data: Any, name: str = '') -> Dataset:
  """The data set `name` (data.name, if '') of text, as the other fields of `config.data` ask for it."""
  name = name or data.name
  if _is_tokens(name):
    return token_directory.load(name, name.partition(':')[2], data.block_size)
  return _cut(data, name, documents(name, data.data_dir))


def _names(data: Any) -> list[str]:
  """Names of the texts that `config.data` joins; one, if it is no mixture.

  Raises:
    UserError: a name that is none of a mixture, or one of several texts of which each would learn tokens of its own.
  """
  if not data.name.startswith(f'{mixture.PREFIX}:'):
    return [data.name]
  names = [component.name for component in mixture.parse(data.name)]
  if bpe.is_size(data.tokens) and len(names) > 1 and not all(map(_is_tokens, names)):
    made = next(filter(_is_tokens, names), None)
    if made:
      way_out = f'config.data.tokens=bpe:{made.partition(":")[2]} reads all by that of {made}'
    else:
      size = data.tokens.removeprefix(text.BPE)
      command = printed('gen_ai.data.tokenizer', names[0], size=size, out='tokenizer.json')
      way_out = f'learn one from one of them, `{command}`, and give config.data.tokens=bpe:tokenizer.json'
    raise UserError(
      f'config.data.name={data.name} needs one tokenizer, and config.data.tokens={data.tokens} would learn one of each '
      f'text: {way_out}.'
    )
  return names


def _is_tokens(name: str) -> bool:
  return name.startswith('tokens:')


def _mixed(data: Any) -> Dataset:
  _names(data)  # refuses before anything is read
  return mixture.load(data.name, lambda name: _opened(data, name))


def _cut(data: Any, name: str, found: Documents) -> Dataset:
  kept = store.data_folder(data.data_dir) if data.tokens.startswith(text.BPE) else None
  return from_text(name, found.texts, data.tokens, data.block_size, data.split, found.version, found.location, kept)


class _Text(DataKind):
  name = TEXT
  unit = 'texts'
  piece = 'tokens'
  example = TOKENS
  endings = ('.txt', '.npy')
  printed = True
  between = '\n' + '-' * 40 + '\n'
  metrics = 'memorisation'
  sources = MappingProxyType({'text': _opened, 'python_stdlib': _opened, 'tokens': _opened, mixture.PREFIX: _mixed})

  def from_tfds(self, config_data: Any, prepared: Any) -> Dataset:
    return _cut(config_data, config_data.name, _of_tfds(prepared))

  def made(self, config_data: Any) -> bool:
    """Tokens are learned, which takes minutes of a large text.

    Raises:
      UserError: see `_names`, or there is no such text.
    """
    names = _names(config_data)
    learned = bpe.is_size(config_data.tokens) and not any(map(_is_tokens, names))
    if learned:
      for name in names:
        _find(name, config_data.data_dir)
    return learned

  def foreseen(self, config_data: Any) -> tuple[Spec, Source] | None:
    """Bytes, a tokenizer's file and a number of tokens say how large the vocabulary is; characters do not.

    Nor does anything but the directory where the text is tokens already.
    """
    tokens, T = config_data.tokens, config_data.block_size
    if tokens == 'char' or any(map(_is_tokens, _names(config_data))):
      return None
    which = tokens.removeprefix(text.BPE)
    vocab: ByteVocab | BpeVocab | bpe.Unlearned = ByteVocab()
    if tokens.startswith(text.BPE):
      vocab = bpe.Unlearned(int(which)) if bpe.is_size(tokens) else bpe.read(which)
    return Spec(TEXT, (T,), vocab=vocab), TextSource(np.broadcast_to(np.int32(0), (T + 1,)), T, 'train')

  def counted(self, spec: Spec) -> str:
    return self.form(spec)

  def form(self, spec: Spec) -> str:
    return f'blocks of {spec.shape[0]} tokens'

  def facts(self, spec: Spec) -> dict[str, Any]:
    if isinstance(spec.vocab, BpeVocab):
      return {'alphabet': '', 'tokenizer': spec.vocab.packed(), 'tokens': spec.vocab.size}
    return {'alphabet': spec.vocab.decode(np.arange(spec.vocab.size)) if isinstance(spec.vocab, CharVocab) else ''}

  def spec_of(self, tree: Mapping[str, Any]) -> Spec:
    vocab: AnyVocab = CharVocab(tree['alphabet']) if tree['alphabet'] else ByteVocab()
    if 'tokenizer' in tree:
      vocab = bpe.unpacked(tree['tokenizer'])
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
    return self.between.join(spec.vocab.decode(row[row >= 0]) for row in np.asarray(samples))

  def settled(self, spec: Spec, sample: np.ndarray) -> str:
    # The bytes that a character is not yet whole of are decoded as one of these, and may become another.
    return self.shown(spec, sample[None]).removesuffix('\N{REPLACEMENT CHARACTER}')


KIND = _Text()
