"""Tokens that take long to make are kept in files and mapped: what a tokenizer learned, and what texts became."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from gen_ai.core.errors import UserError
from gen_ai.data import bpe


def learned(documents: Sequence[str], size: int, folder: Path | None) -> bpe.BpeVocab:
  """A BPE vocabulary of `size` tokens learned from `documents`, or what an earlier call learned from the same."""

  def write(path: Path) -> None:
    path.write_text(bpe.train(documents, size), encoding='utf-8')

  path = _made(folder, 'tokenizers', f'{size} {_digest(documents)}', '.json', write)
  return bpe.BpeVocab(bpe.train(documents, size) if path is None else path.read_text(encoding='utf-8'))


def encoded(vocab: bpe.BpeVocab, documents: Sequence[str], folder: Path | None) -> np.ndarray:
  """Tokens of documents, see `bpe.BpeVocab.encode_documents`, mapped from a file where they are kept."""

  def write(path: Path) -> None:
    with path.open('wb') as file:
      np.save(file, vocab.encode_documents(documents))

  path = _made(folder, 'tokens', f'{vocab.digest} {_digest(documents)}', '.npy', write)
  if path is None:
    return vocab.encode_documents(documents)
  try:
    found: np.ndarray = np.load(path, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(
      f'the kept tokens in {path} are damaged ({error}): remove that file, they will be made again.'
    ) from error
  return found


def _digest(documents: Sequence[str]) -> str:
  digest = hashlib.sha256()
  for document in documents:
    text = document.encode(errors='surrogatepass')
    digest.update(f'{len(text)} '.encode())
    digest.update(text)
  return digest.hexdigest()


def _made(folder: Path | None, kind: str, about: str, suffix: str, write: Callable[[Path], Any]) -> Path | None:
  """The file that `about` names, written unless it is there; None where nothing can be kept, which is told."""
  if folder is None:
    return None
  place = folder / kind / f'{hashlib.sha256(about.encode()).hexdigest()[:32]}{suffix}'
  if place.exists():
    return place
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.making-', dir=place.parent) as scratch:
      made = Path(scratch) / place.name
      write(made)
      made.replace(place)  # there whole or not at all
  except OSError as error:
    logging.warning('cannot keep %s under %s (%s): they will be made at every start', kind, folder, error)
    return None
  return place
