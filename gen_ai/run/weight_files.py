"""Folders of weights in Hugging Face's layout: config.json and one or several files .safetensors.

Tensors are read and written one at a time, so that a model larger than twice its memory still passes. The package
safetensors is imported where it is used.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.core import installation
from gen_ai.core.errors import UserError
from gen_ai.core.files import disk_errors, write_atomic

INDEX, SINGLE, CONFIG = 'model.safetensors.index.json', 'model.safetensors', 'config.json'


def _package() -> Any:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise UserError(f'weights in files .safetensors need the package safetensors: {installation.pip()}') from error
  return safetensors


def read_config(folder: Path) -> dict[str, Any]:
  """config.json of a folder. Raises UserError where there is none, or it is damaged."""
  file = folder / CONFIG
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except OSError as error:
    raise UserError(f'{folder} is no folder of weights: cannot read {file}: {error.strerror}.') from error
  except ValueError as error:
    raise UserError(f'{file} is damaged: {error}') from error
  if not isinstance(found, dict):
    raise UserError(f'{file} is damaged: it holds no fields.')
  return found


class Weights:
  """The tensors of a folder.

  Attributes:
    names: of all tensors.

  Raises:
    UserError: there are none, or a file is missing or damaged.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    if (folder / INDEX).exists():
      try:
        self._file_of = dict(json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map'])
      except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{folder / INDEX} is damaged: {error!r}') from error
    elif (folder / SINGLE).exists():
      with self._open(SINGLE) as file:
        self._file_of = dict.fromkeys(file.keys(), SINGLE)
    else:
      raise UserError(f'{folder} has neither {SINGLE} nor {INDEX}: there are no weights to read.')
    self.names = list(self._file_of)

  @contextlib.contextmanager
  def _open(self, name: str) -> Iterator[Any]:
    package = _package()
    try:
      with package.safe_open(self._folder / name, framework='np') as file:
        yield file
    except (OSError, package.SafetensorError) as error:
      raise UserError(f'{self._folder / name} cannot be read: {error}. Fetch it again.') from error

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor, which is not read for it."""
    with self._open(self._file_of[name]) as file:
      return tuple(file.get_slice(name).get_shape())

  def read(self, name: str) -> np.ndarray:
    """A tensor as float32."""
    with self._open(self._file_of[name]) as file:
      found: np.ndarray = np.asarray(file.get_tensor(name)).astype(np.float32)
    return found


def write(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], most_bytes: int) -> list[str]:
  """Writes (name, tensor) pairs into files of up to `most_bytes` each, and their index where there are several.

  Returns:
    the names of the files.

  Raises:
    UserError: the disk is full, or the folder cannot be written.
  """
  package, size = _package(), 0
  parts: list[tuple[Path, list[str]]] = []
  held: dict[str, np.ndarray] = {}
  with disk_errors(folder / SINGLE, folder):
    for name, tensor in tensors:
      if held and size + tensor.nbytes > most_bytes:
        parts.append((folder / f'.part-{len(parts)}', list(held)))
        package.numpy.save_file(held, parts[-1][0], {'format': 'pt'})
        held, size = {}, 0
      held[name] = tensor
      size += tensor.nbytes
    parts.append((folder / f'.part-{len(parts)}', list(held)))
    package.numpy.save_file(held, parts[-1][0], {'format': 'pt'})
    files = [f'model-{i + 1:05}-of-{len(parts):05}.safetensors' for i in range(len(parts))]
    files = [SINGLE] if len(parts) == 1 else files
    total = sum(part.stat().st_size for part, _ in parts)
    for file, (part, _) in zip(files, parts, strict=True):
      part.replace(folder / file)
    if len(files) > 1:
      where: Mapping[str, str] = {name: file for file, (_, names) in zip(files, parts, strict=True) for name in names}
      write_atomic(folder / INDEX, json.dumps({'metadata': {'total_size': total}, 'weight_map': where}, indent=1))
  return files
