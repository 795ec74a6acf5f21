"""Samples of runs, and what evaluations left of them, read from their directories and carried inside the HTML page."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen_ai.compare import evaluations
from gen_ai.run import info

STEPS = 16  # of one run and view
BYTES = 40_000_000  # of all pictures in one page
CHARACTERS = 20_000  # of one text file
_CLASSES = 'classes'  # the view that has a row a class
OF = ', '  # in the name of a view of evaluations, before the split
_FILE = re.compile(r'(?:(?P<view>.+)_)?step_(?P<step>\d+)\.(?P<kind>png|txt)')

_RULE = f'\n{"-" * 40}\n'  # between the texts of one content, as in the files of samples

_Files = dict[str, dict[int, Path | str]]  # view -> step -> file, or the text itself


def collect(runs: Sequence[str], steps: int = STEPS, room: int = BYTES) -> dict[str, Any]:
  """Pictures and texts of `runs`, evenly spaced over the steps, always with the first and the last of a run.

  Args:
    runs: run directories.
    steps: steps kept of each run and view.
    room: bytes of the files that are kept; fewer steps, then fewer runs are kept where they are more.

  Returns:
    views: {view: {kind: 'png' | 'txt', steps: [shown by the slider], runs: {index of the run: {step: content}}}},
      content being a data URI or text, the view of classes with rows: {index of the run: [name of each]} besides;
      note: what was left out, or ''.
  """
  found = [{**_files(Path(run) / 'samples'), **_evaluations(Path(run))} for run in runs]
  limit, chosen = steps, _choose(found, steps)
  while limit > 2 and _size(chosen) > room:
    limit -= 1
    chosen = _choose(found, limit)
  left_out = 0
  while _size(chosen) > room and any(chosen):
    last = max(i for i, files in enumerate(chosen) if files)
    chosen[last] = {}
    left_out += 1
  views = _views(chosen)
  if _CLASSES in views:
    names = {index: _class_names(Path(runs[index])) for index in views[_CLASSES]['runs']}
    views[_CLASSES]['rows'] = {index: own for index, own in names.items() if own}
  return {'views': views, 'note': _note(found, chosen, left_out)}


def _class_names(run: Path) -> list[str]:
  """Recorded names of the classes that a run was trained on; none of older runs."""
  about = info.read_if_any(run)
  return list(about.data.class_names) if about is not None else []


def _files(folder: Path) -> _Files:
  files: _Files = {}
  for path in sorted(folder.glob('*step_*')):
    match = _FILE.fullmatch(path.name)
    if match:
      name = match['view'] or 'samples'
      view = name if match['kind'] == 'png' else f'{name} (text)'
      files.setdefault(view, {})[int(match['step'])] = path
  return files


def _evaluations(run: Path) -> _Files:
  """Pictures and texts of evaluations, as the view 'closest_pairs, test'; no file outside of `run`."""
  files: _Files = {}
  for row in evaluations.left(run):
    for name, place in row.pictures.items():
      path = run / place
      if path.suffix == '.png' and path.is_file() and path.resolve().is_relative_to(run.resolve()):
        files.setdefault(f'{name}{OF}{row.split}', {})[row.step] = path
    for name, texts in row.texts.items():
      view = f'{name} (text)' if name in row.pictures else name
      files.setdefault(f'{view}{OF}{row.split}', {})[row.step] = _RULE.join(texts)
  return files


def _choose(found: Sequence[_Files], limit: int) -> list[_Files]:
  """At most about `limit` files a run and view: those in force at evenly spaced steps of all runs together."""
  chosen: list[_Files] = [{} for _ in found]
  for view in {view for files in found for view in files}:
    union = sorted({step for files in found for step in files.get(view, {})})
    places = np.unique(np.linspace(0, len(union) - 1, min(limit, len(union))).round().astype(int))
    for files, kept in zip(found, chosen, strict=True):
      steps = sorted(files.get(view, {}))
      if steps:
        wanted = {max((s for s in steps if s <= union[place]), default=steps[0]) for place in places}
        kept[view] = {step: files[view][step] for step in sorted(wanted)}
  return chosen


def _size(chosen: Sequence[_Files]) -> int:
  return sum(
    len(content) if isinstance(content, str) else content.stat().st_size
    for files in chosen
    for steps in files.values()
    for content in steps.values()
  )


def _views(chosen: Sequence[_Files]) -> dict[str, Any]:
  views: dict[str, Any] = {}
  names = {view for files in chosen for view in files}
  for view in sorted(names, key=lambda name: (not name.startswith('samples'), OF in name, name)):
    steps: set[int] = set()
    contents, kind = {}, 'txt'
    for index, files in enumerate(chosen):
      if view in files:
        contents[index] = {step: _content(content) for step, content in files[view].items()}
        kind = 'png' if all(map(_is_picture, files[view].values())) else 'txt'
        steps |= set(files[view])
    views[view] = {'kind': kind, 'steps': sorted(steps), 'runs': contents}
  return views


def _is_picture(content: Path | str) -> bool:
  return isinstance(content, Path) and content.suffix == '.png'


def _content(content: Path | str) -> str:
  """A data URI of a picture; a text or that of a text file, cut where it is long."""
  if isinstance(content, Path) and _is_picture(content):
    return f'data:image/png;base64,{base64.b64encode(content.read_bytes()).decode()}'
  text = content if isinstance(content, str) else content.read_text(encoding='utf-8', errors='replace')
  return text if len(text) <= CHARACTERS else f'{text[:CHARACTERS]}\n[cut here: the file is longer]'


def _note(found: Sequence[_Files], chosen: Sequence[_Files], left_out: int) -> str:
  def count(all_files: Sequence[_Files]) -> int:
    return sum(len(steps) for files in all_files for steps in files.values())

  if count(found) == count(chosen):
    return ''
  note = f'To keep this page small it carries {count(chosen):,} of {count(found):,} sample files, spread over the steps'
  return f'{note}, and none of the last {left_out} runs.' if left_out else f'{note}.'
