"""The packed launcher: trials that share a compiled program are its lanes, trained in this process (see `lanes`)."""

from collections.abc import Sequence

from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.trials import Trial


class Packed(Launcher):
  """--launcher=packed. What needs JAX is imported when something is to be trained: `--stop` does without."""

  in_process = True

  def describe(self, sweep: Sweep, options: Options) -> list[str]:
    """Programs, lanes and memory."""
    del options
    from gen_ai.sweep.launchers import lanes

    return lanes.describe(sweep)

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Trains `trials`, program after program.

    Raises:
      UserError: the disk is full, a run directory is in use, ...: what was saved stays, and --resume goes on.
    """
    from gen_ai.sweep.launchers import lanes

    lanes.launch(sweep, trials, options.cache)
