"""Writing and reading the plain files of a record: whole or not at all, with one clear line where the disk fails."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen_ai.core import command_line
from gen_ai.core.errors import UserError

NON_FINITE = {'nan': float('nan'), 'inf': float('inf'), '-inf': float('-inf')}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def plain(value: Any) -> Any:
  """`value` as JSON types: tuples as lists, array scalars as numbers, paths as strings, NaN and infinities as strings.

  float32 and bfloat16 scalars become the Python float of the same value, so nothing is rounded on the way.
  """
  if isinstance(value, Mapping):
    return {str(name): plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0:
    value = value.item()
  if isinstance(value, float) and (value != value or value in (float('inf'), float('-inf'))):
    return 'nan' if value != value else 'inf' if value > 0 else '-inf'
  return value


def from_plain(value: Any) -> Any:
  """`plain` undone where it can be: the strings of NaN and infinities become floats again."""
  if isinstance(value, dict):
    return {name: from_plain(item) for name, item in value.items()}
  if isinstance(value, list):
    return [from_plain(item) for item in value]
  return NON_FINITE.get(value, value) if isinstance(value, str) else value


def dumps(value: Any, indent: int | None = None) -> str:
  """Canonical JSON of `value`: sorted keys, so that equal configs give equal text and an equal hash."""
  return json.dumps(plain(value), sort_keys=True, allow_nan=False, ensure_ascii=False, indent=indent)


def sha256(content: str | bytes) -> str:
  """Hexadecimal SHA-256 of bytes, or of the UTF-8 bytes of a string."""
  return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def disk_full_message(path: str | os.PathLike, run: str | os.PathLike, needed: int | None = None) -> str:
  """What to tell a user when `path` cannot grow; `needed` is in bytes, `run` the directory to resume from."""
  try:
    free = f'{shutil.disk_usage(Path(path).parent).free:,} bytes are free'
  except OSError:
    free = 'its free space is unknown'
  wanted = f'{needed:,} bytes were needed, ' if needed is not None else ''
  return (
    f'the disk of {path} is full (or its quota is used up): {wanted}{free}. The last checkpoint is intact: '
    f'free some space, then resume with `{command_line.printed("launch.py", resume=run)}`'
  )


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike, run: str | os.PathLike, needed: int | None = None) -> Iterator[None]:
  """Turns a full disk, a used-up quota and a missing permission on `path` into a UserError; others pass.

  Args:
    path: the file being written.
    run: the run directory it belongs to, named in the way out.
    needed: bytes of the write, where known.
  """
  try:
    yield
  except OSError as error:
    if error.errno in _FULL:
      raise UserError(disk_full_message(path, run, needed)) from error
    if error.errno in _FORBIDDEN:
      raise UserError(
        f'no permission to write {path} ({error.strerror}): make it writable, or choose another place with --runs_dir'
      ) from error
    raise


def write_atomic(path: Path, content: str | bytes) -> None:
  """Writes `content` so that a reader sees the old file or the new one, never a part. Raises OSError."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp')
  try:
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def unwritable(file: str | os.PathLike, parents: bool = False) -> str:
  """Why `file` cannot be written or made, in the system's words; '' where it can. Nothing is left behind.

  Args:
    file: a file; its folder need not be there if `parents`.
    parents: whether missing folders would be made.
  """
  file = Path(file)
  try:
    if file.exists():
      os.close(os.open(file, os.O_WRONLY | os.O_APPEND))
      return ''
    folder = file.parent
    while parents and not os.path.lexists(folder):
      folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):  # asks the file system: permissions say nothing to root
      return ''
  except OSError as error:
    return error.strerror or str(error)


def append_line(path: Path, line: str, run: Path) -> None:
  """One `write` of one line: a killed process leaves at most one line cut short, a full disk leaves none."""
  data = (line + '\n').encode()
  with disk_errors(path, run, needed=len(data)):
    append(path, data)


def append(path: Path, data: bytes) -> None:
  """One `write` at the end of a file. Raises OSError where the disk is full; no part of `data` is left then."""
  fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
  try:
    before = os.fstat(fd).st_size
    if os.write(fd, data) < len(data):
      os.ftruncate(fd, before)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  finally:
    os.close(fd)


def repair(path: Path) -> None:
  """Drops a last line that a killed process left without its newline."""
  if not path.is_file():
    return
  data = path.read_bytes()
  if data and not data.endswith(b'\n'):
    os.truncate(path, data.rfind(b'\n') + 1)


def read_jsonl(path: Path, several_writers: bool = False) -> list[dict[str, Any]]:
  """The complete lines of `path`, none where there is no file; a last line cut short is left out.

  Args:
    path: of the file.
    several_writers: whether any line may be cut short, as where several processes append; such lines are left out.

  Raises:
    UserError: a line is damaged; names it.
  """
  if not path.is_file():  # a device has no end
    return []
  data = path.read_bytes()
  lines = data.split(b'\n')[:-1]
  if not any(word in data for word in (b'"nan"', b'"inf"', b'"-inf"')):
    with contextlib.suppress(ValueError):  # the lines one by one, then, to name the damaged one
      rows = json.loads(b'[' + b','.join(lines) + b']')  # three times as fast
      if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows):
        return rows
  if not several_writers:
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]
  whole = []
  for number, line in enumerate(lines, 1):
    with contextlib.suppress(UserError):
      whole.append(_row(path, number, line))
  return whole


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
  try:
    return {k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in json.loads(line).items()}
  except (ValueError, AttributeError) as error:
    raise UserError(f'{path} line {number} is damaged, it is not a JSON object: delete the line') from error
