"""What a person sees while a run trains: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gen_ai.core import terminal
from gen_ai.core.text import duration, number

PLAIN_SECONDS = 10.0  # least time between two plain lines
_MOST = 4  # metrics in a line
SECONDARY = ('grad_norm', 'sigma')  # metrics that are shown where there is room left: diagnostics


def figures(metrics: Mapping[str, float]) -> str:
  """The first of `metrics` in a line, diagnostics where there is room left."""
  names = sorted(metrics, key=lambda name: name.startswith(SECONDARY))[:_MOST]
  return '  '.join(f'{name} {number(metrics[name])}' for name in names)


class Display:
  """Shows one run. Silent on all processes but the first."""

  def __init__(self, steps: int, quiet: bool = False):
    self.console = terminal.console(quiet=quiet, soft_wrap=True)
    self.steps = steps
    self._live = self.console.is_terminal and not quiet
    self._last_line = 0.0
    self._bar = Progress(
      TextColumn('[bold]training'),
      BarColumn(bar_width=24),
      MofNCompleteColumn(),
      TextColumn('{task.fields[metrics]}'),
      TextColumn('[cyan]{task.fields[speed]}'),
      TextColumn('[magenta]{task.fields[left]}'),
      console=self.console,
    )
    self._task = self._bar.add_task('train', total=steps, metrics='', speed='', left='compiling')

  def _look(self) -> None:
    """Goes on with plain lines once the terminal is lost."""
    if self._live and terminal.lost(self.console):
      terminal.abandon(self.console, self._bar)
      self.console, self._live = terminal.console(soft_wrap=True), False

  def say(self, text: str) -> None:
    """One line above the bar; rich's markup is not interpreted."""
    self._look()
    self.console.print(text, markup=False)

  def start(self, step: int) -> None:
    """Begins to draw."""
    self._bar.update(self._task, completed=step)
    if self._live:
      self._bar.start()

  def update(self, step: int, shown: str, examples_per_second: float, seconds_left: float) -> None:
    """New figures, as text, after update `step`."""
    speed, left = f'{examples_per_second:,.0f} examples/s', f'{duration(seconds_left)} left'
    self._look()
    if self._live:
      self._bar.update(self._task, completed=step, metrics=shown, speed=speed, left=left)
      return
    now = time.monotonic()
    if now - self._last_line >= PLAIN_SECONDS or step == self.steps:
      self._last_line = now
      self.say(f'step {step}/{self.steps}  {shown}  {speed}  {left}')

  def stop(self) -> None:
    """Ends the drawing; what was shown stays."""
    self._look()
    if self._live:
      self._bar.stop()
      self._live = False
