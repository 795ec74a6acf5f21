"""No launcher at all: the command of every trial is printed, for a person or another scheduler."""

from collections.abc import Sequence

from gen_ai.core import command_line
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.trials import Trial


class Commands(Launcher):
  """--launcher=print."""

  in_process = True
  speaks = False
  waits = False
  takes_workers_along = False

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Prints one command a trial."""
    del options
    for trial in trials:
      print(command_line.printed(*sweep.command(trial)))
