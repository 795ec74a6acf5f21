"""Trackers, optional copies of the record: TensorBoard event files and Weights & Biases.

The run directory is the truth. A tracker that fails warns once, is switched off and never stops training.
"""

import html
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from absl import logging

from gen_ai.core.errors import UserError
from gen_ai.core.text import did_you_mean


class Tracker(Protocol):
  """One tracker. `step` counts completed updates; any method may raise."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes metrics by name."""

  def picture(self, step: int, name: str, png: Path) -> None:
    """Writes a PNG file that the run has written."""

  def text(self, step: int, name: str, text: str) -> None:
    """Writes one text."""

  def close(self) -> None:
    """Writes what is pending."""


class TensorBoard:
  """Event files under `<run>/tb`, by tensorboardX.

  Args:
    run_dir: the run directory.
    config: JSON, recorded as text.
    step: completed updates at the start of this attempt; TensorBoard drops what was written past it.
  """

  def __init__(self, run_dir: Path, config: str, step: int):
    import tensorboardX  # optional, and only needed here
    from tensorboardX.proto.summary_pb2 import Summary

    self._summary = Summary
    # Files are named by whole seconds: without the suffix a quick resume would write over the file before it.
    self._writer = tensorboardX.SummaryWriter(
      str(run_dir / 'tb'), purge_step=step + 1 if step else None, filename_suffix=f'.{step:09d}'
    )
    if not step:
      self.text(0, 'config', f'```json\n{config}\n```')

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes metrics by name."""
    for name, value in values.items():
      self._writer.add_scalar(name, float(value), step)
    self._writer.flush()

  def picture(self, step: int, name: str, png: Path) -> None:
    """Writes a PNG file as it is: tensorboardX's own way would need Pillow to encode it again."""
    content = png.read_bytes()
    width, height, _, colour = struct.unpack('>IIBB', content[16:26])  # IHDR
    image = self._summary.Image(
      height=height, width=width, colorspace=3 if colour == 2 else 1, encoded_image_string=content
    )
    summary = self._summary(value=[self._summary.Value(tag=name, image=image)])
    self._writer.file_writer.add_summary(summary, step)
    self._writer.flush()

  def text(self, step: int, name: str, text: str) -> None:
    """Writes one text (Markdown)."""
    self._writer.add_text(name, text, step)
    self._writer.flush()

  def close(self) -> None:
    """Writes what is pending."""
    self._writer.close()


class WandB:
  """One Weights & Biases run a run directory; a resumed run continues it.

  Args:
    run_dir: the run directory; its last two parts name the run.
    config: JSON, recorded as the run's config.
    step: completed updates at the start of this attempt.
  """

  def __init__(self, run_dir: Path, config: str, step: int):
    import wandb  # optional, and only needed here

    self._wandb = wandb
    name = re.sub(r'[/\\#?%:]', '_', '-'.join(run_dir.resolve().parts[-2:]))  # W&B refuses these in an id
    self._run = wandb.init(
      project='gen_ai', id=name, name=name, dir=str(run_dir), config=json.loads(config), resume='allow'
    )
    # W&B's own step only grows: without an axis of ours it drops the rows that a resumed run computes again.
    self._run.define_metric('*', step_metric='step')
    self._run.log({'step': step})

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes metrics by name."""
    self._run.log({'step': step, **values})

  def picture(self, step: int, name: str, png: Path) -> None:
    """Writes a PNG file."""
    self._run.log({'step': step, name: self._wandb.Image(str(png))})

  def text(self, step: int, name: str, text: str) -> None:
    """Writes one text."""
    self._run.log({'step': step, name: self._wandb.Html(f'<pre>{html.escape(text)}</pre>')})

  def close(self) -> None:
    """Writes what is pending."""
    self._run.finish()


_TRACKERS: dict[str, tuple[Callable[[Path, str, int], Tracker], str]] = {
  'tensorboard': (TensorBoard, 'tensorboardX'),
  'wandb': (WandB, 'wandb'),
}


class Trackers:
  """Several trackers as one; see `open_trackers`. No method raises."""

  def __init__(self, makers: Mapping[str, Callable[[], Tracker]]):
    self._trackers: dict[str, Tracker] = {}
    for name, make in makers.items():
      try:
        self._trackers[name] = make()
      except Exception as error:  # whatever ails a tracker, training goes on
        self._warn(name, error)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Mirrors metrics by name at `step`."""
    self._each(lambda tracker: tracker.scalars(step, values))

  def picture(self, step: int, name: str, path: Path) -> None:
    """Mirrors a sample file that the run has written: a PNG file as a picture, any other as UTF-8 text."""
    if path.suffix == '.png':
      self._each(lambda tracker: tracker.picture(step, name, path))
    else:
      self._each(lambda tracker: tracker.text(step, name, path.read_text(encoding='utf-8')))

  def close(self) -> None:
    """Writes what is pending."""
    self._each(lambda tracker: tracker.close())
    self._trackers.clear()

  def _each(self, call: Callable[[Tracker], None]) -> None:
    for name, writer in list(self._trackers.items()):
      try:
        call(writer)
      except Exception as error:
        del self._trackers[name]
        self._warn(name, error)

  def _warn(self, name: str, error: Exception) -> None:
    way_out = f': `pip install {_TRACKERS[name][1]}`' if isinstance(error, ImportError) else ''
    cause = f'{type(error).__name__}: {error}'
    logging.warning(
      'the %s tracker is off, training goes on and metrics.jsonl is complete (%s)%s', name, cause, way_out
    )


def parse_names(names: str) -> list[str]:
  """The names in 'tensorboard,wandb'; none in ''. Raises UserError for an unknown one."""
  wanted = [name.strip() for name in names.split(',') if name.strip()]
  for name in wanted:
    if name not in _TRACKERS:
      near = did_you_mean(name, _TRACKERS, cutoff=0.0)
      raise UserError(f"unknown tracker {name!r}.{near} There are {', '.join(_TRACKERS)}, and '' for none")
  return wanted


def open_trackers(names: str, run_dir: Path, config: str, step: int = 0) -> Trackers:
  """The writers that a config asks for.

  Args:
    names: `''`, `'tensorboard'`, `'wandb'` or several with commas.
    run_dir: the run directory.
    config: the resolved config, as JSON.
    step: completed updates at the start of this attempt.

  Raises:
    UserError: an unknown name.
  """
  wanted = parse_names(names)
  return Trackers({name: lambda make=_TRACKERS[name][0]: make(run_dir, config, step) for name in wanted})  # type: ignore[misc]
