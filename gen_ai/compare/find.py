"""Run directories and sweeps below folders and glob patterns."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gen_ai.core.errors import UserError
from gen_ai.core.installation import LAUNCH
from gen_ai.run.directory import CONFIG_FILE, is_run
from gen_ai.sweep import directory
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.trials import Trial

FOLDERS = 100_000  # looked into without a run in them, below one pattern, before it is refused; a few seconds on a disk


class Place(NamedTuple):
  """A run directory, or the place of a sweep's trial that has not started."""

  path: Path
  sweep: str = ''  # path of the sweep's directory; '' for a run of its own
  trial: Trial | None = None


class Found(NamedTuple):
  """What the patterns lead to."""

  places: list[Place]  # each once; trials of a sweep in their order
  root: Path  # folder that holds all of them
  left: list[str]  # sweeps that cannot be read, and why: their runs are taken for runs of their own


def find(patterns: Sequence[str | os.PathLike]) -> Found:
  """All runs in, below or matched by `patterns`, with the trials of the sweeps there that have not started.

  Raises:
    UserError: a folder that is not there, one that is far above any run, or no run at all, as where the only sweep.json
      is damaged.
  """
  left: list[str] = []
  places: dict[str, Place] = {}
  roots: list[str] = []
  sweeps: dict[Path, Sweep | None] = {}
  for pattern in [os.fspath(pattern) for pattern in patterns]:
    for match in _matches(pattern):
      for folder in _walk(match):
        for place in _places(folder, sweeps, left):
          places.setdefault(os.path.realpath(place.path), place)
    roots.append(_root(pattern))
  if left and not places:
    raise UserError(left[0])
  if not places:
    raise UserError(
      f'no run found in {", ".join(map(str, patterns))}: a run is a directory with a config.json, '
      f'such as `{LAUNCH} --config=configs/vae.py` writes below runs/.'
    )
  root = Path(os.path.commonpath([Path(root).resolve() for root in roots]))
  here = Path.cwd().resolve()
  root = root.relative_to(here) if root.is_relative_to(here) else root
  return Found(sorted(places.values(), key=_order), root, left)


def _order(place: Place) -> tuple[str, int, str]:
  number = place.trial.number if place.trial else -1
  return place.sweep or str(place.path), number, str(place.path)


def _matches(pattern: str) -> list[str]:
  """Folders that `pattern` names; files are left out, as a shell's `runs/*` names them too."""
  if not pattern:  # as a shell makes of a variable that is not set
    raise UserError("'' names no folder: name a run directory, a folder of runs or a quoted pattern.")
  plain = Path(pattern.removesuffix('/**') or '/')  # what is below is walked anyway
  start = _start(plain)
  if start != plain:
    matches = glob.glob(str(plain.relative_to(start)), root_dir=start, recursive=True)  # noqa: PTH207 (of Path: hidden ones too)
    return [str(start / path) for path in sorted(matches) if (start / path).is_dir()]
  if not plain.exists():
    raise UserError(f'there is no {plain}: name a run directory, a folder of runs or a quoted pattern.')
  return [str(plain)] if plain.is_dir() else []


def _start(pattern: Path) -> Path:
  """What comes before the first part that is a pattern; a part that is there by its own name, as `a[1]`, is none."""
  parts: list[str] = []
  for part in pattern.parts:
    if glob.has_magic(part) and not Path(*parts, part).exists():
      break
    parts.append(part)
  return Path(*parts)


def _root(pattern: str) -> str:
  """The folder a pattern starts from: what it matches changes as runs are added, this does not."""
  root = _start(Path(pattern))
  return str(root.parent if is_run(root) or not root.is_dir() else root)


def _walk(top: str) -> Iterator[Path]:
  """Run directories and sweep directories at and below `top`; the inside of a run is not looked at.

  A folder that links lead to again is looked at once: links may go round in a circle.
  """
  seen: set[tuple[int, int]] = set()
  empty = 0
  for folder, inner, files in os.walk(top, followlinks=True):
    itself = _identity(folder)
    if itself is None or itself in seen:
      inner.clear()
      continue
    seen.add(itself)
    if CONFIG_FILE in files:
      inner.clear()
    inner[:] = sorted(name for name in inner if not name.startswith('.'))
    if CONFIG_FILE in files or directory.FILE in files:
      yield Path(os.path.normpath(folder))
      continue
    empty += 1
    if empty > FOLDERS:
      raise UserError(f'{FOLDERS:,} folders below {top} hold no run: name a folder that is nearer to the runs.')


def _identity(folder: str) -> tuple[int, int] | None:
  """The same for all paths to one folder; None for one that is gone by now."""
  try:
    status = Path(folder).stat()
  except OSError:
    return None
  return status.st_dev, status.st_ino


def _places(folder: Path, sweeps: dict[Path, Sweep | None], left: list[str]) -> list[Place]:
  """The run in `folder`, or what has not started of the sweep there. `sweeps` and `left` keep what was read."""
  home = folder.parent if is_run(folder) else folder
  if home not in sweeps:
    try:
      sweeps[home] = Sweep.open(home) if directory.is_sweep(home) else None
    except UserError as error:
      sweeps[home] = None
      left.append(str(error))
  sweep = sweeps[home]
  if not is_run(folder):
    trials = sweep.trials if sweep else []
    return [Place(home / p.name, str(home), p) for p in trials if not is_run(home / p.name)]
  trial = next((p for p in sweep.trials if p.name == folder.name), None) if sweep else None
  return [Place(folder, str(home) if trial else '', trial)]
