"""Where things go that nobody named a place for, and what ~ means. Light: no JAX.

A user may have no home folder (a container with --user), or one that cannot be written. What can be made again then
lies below the folder of temporary files, or nowhere; what was asked for by name is refused instead.
"""

import functools
import os
import tempfile
from pathlib import Path

from absl import logging

from gen_ai.core.errors import UserError

COMPILED = '~/.cache/gen_ai/xla'  # programs; --compilation_cache
DATA = '~/tensorflow_datasets'  # as TFDS has it; config.data.data_dir


def expand(path: str, name: str) -> Path:
  """`path` with ~ read as the home folder. Raises UserError naming `name`, where it stands, without such a folder."""
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise UserError(f'{name}={path}: there is no home folder for ~ here: name the folder in full.') from error


@functools.cache
def default(path: str) -> Path | None:
  """Where `path`, a folder below home, can be: there, or below the folder of temporary files; None for nowhere.

  Another place than home is told once. Nothing is made at home; what lies there ready to be read stays in use.
  """
  try:
    home = Path(path).expanduser()
    if _can_hold(home):
      return home
    why = f'{home} cannot be written'
  except RuntimeError:
    why = 'there is no home folder'
  own = _own_temporary()
  place = own / Path(path).name if own else None
  logging.warning('%s: what is kept in %s by default goes to %s', why, path, place or 'no place at all')
  return place


def _can_hold(folder: Path) -> bool:
  """Whether `folder` can be written, or made, or holds something to be read."""
  try:
    if folder.is_dir():
      return os.access(folder, os.W_OK | os.X_OK) or (os.access(folder, os.R_OK) and any(folder.iterdir()))
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    return there.is_dir() and not folder.exists() and os.access(there, os.W_OK | os.X_OK)
  except OSError:  # may not even be looked at
    return False


def _own_temporary() -> Path | None:
  """This user's folder below that of temporary files, which nobody else may write; None where there can be none."""
  try:
    folder = Path(tempfile.gettempdir()) / f'gen_ai-{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    owned = folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if owned and os.access(folder, os.W_OK | os.X_OK) else None
  except OSError:
    return None
