"""Hooks of the training loop: what happens every so many updates, with the state on the device or beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gen_ai.core.errors import UserError
from gen_ai.core.method import State

PROFILE = 'profile'  # folder of traces in a run directory


class Hook(NamedTuple):
  """Something that the training loop does every so many updates.

  Attributes:
    name: in messages: 'evaluation'.
    every: updates; a multiple of config.run.log_every, as the host is asked between chunks only. 0: at no update but
      the last.
    with_state: (trainer, state) -> None. The loop waits for the device before and for the hook after, so that it sees
      the state after exactly that update and all metrics up to it on record.
    beside: (trainer) -> None, called while the device works on the updates that were given to it; it must not wait.
    at_end: whether it also acts after the last update.
    at: more updates after which it acts, multiples of config.run.log_every too.
  """

  name: str
  every: int
  with_state: Callable[[Any, State], None] | None = None
  beside: Callable[[Any], None] | None = None
  at_end: bool = True
  at: tuple[int, ...] = ()

  def due(self, step: int, total: int) -> bool:
    """Whether it acts after update `step` of `total`."""
    return (self.at_end and step == total) or step in self.at or bool(self.every and step % self.every == 0)


def profiler(text: str, chunk: int, folder: Path) -> Sequence[Hook]:
  """Hooks that trace `COUNT` updates after update `STEP`, whole chunks of them, for Perfetto and TensorBoard.

  Args:
    text: 'STEP:COUNT'.
    chunk: config.run.log_every.
    folder: of the run.

  Raises:
    UserError: `text` is no pair of whole numbers, or STEP is 0: the first chunk is for warming up.
  """
  first, colon, count = text.partition(':')
  if not colon or not first.isdigit() or not count.isdigit() or not int(first) or not int(count):
    raise UserError(
      f'--profile={text} must be STEP:COUNT, such as 100:50: trace 50 updates after update 100. Both are at least 1.'
    )
  start = -(-int(first) // chunk) * chunk
  end = start + -(-int(count) // chunk) * chunk
  running = False

  def act(trainer: Any, state: State) -> None:
    nonlocal running
    if trainer.step == start:
      jax.profiler.start_trace(str(folder / PROFILE), create_perfetto_trace=True)
      running = True
    elif running and trainer.step >= end:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      running = False
      trainer.display.say(
        f'profile    of updates {start + 1:,} to {trainer.step:,}: {folder / PROFILE} (TensorBoard; '
        'ui.perfetto.dev opens its perfetto_trace.json.gz)'
      )

  return [Hook('profile', 0, act, at=(start, end))]
