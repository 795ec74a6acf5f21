"""What every launcher is asked: may it run, what would it do, start the trials, take back those that wait."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from gen_ai.core.errors import UserError
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.trials import Trial


@dataclass(frozen=True)
class Options:
  """What the command line tells the launchers."""

  cache: str = ''  # folder of compiled programs, shared by all trials
  # Accelerators by number, as CUDA_VISIBLE_DEVICES names them; (): all found.
  devices: tuple[str, ...] = field(default=(), metadata={'launchers': ('local',)})
  # Trials that share one device, under Slurm one task; 0: one an accelerator or task, one a core.
  per_device: int = field(default=0, metadata={'launchers': ('local', 'slurm')})
  # Tasks that run at a time; 0: as many as Slurm lets.
  max_jobs: int = field(default=0, metadata={'launchers': ('slurm',)})
  # Further #SBATCH options, such as '--time=60'.
  sbatch: tuple[str, ...] = field(default=(), metadata={'launchers': ('slurm',)})
  # Of the cluster; '': a local one.
  ray_address: str = field(default='', metadata={'launchers': ('ray',)})

  def refuse_idle(self, launcher: str) -> None:
    """Raises UserError for an option that `launcher` does not read."""
    for option in fields(self):
      launchers = option.metadata.get('launchers', (launcher,))
      if launcher not in launchers and getattr(self, option.name) != option.default:
        wanted = ' or '.join(f'--launcher={name}' for name in launchers)
        raise UserError(
          f'--{option.name} is for {wanted}, and this sweep runs with --launcher={launcher}: leave '
          f'--{option.name} out, or name the launcher.'
        )


class Launcher:
  """A way to run the trials of a sweep. State lies in the run directories: any launcher goes on from them."""

  in_process = False
  """Whether trials are trained in the launcher's process, which may then take an accelerator."""
  speaks = True
  """Whether it prints for people; standard output is else for another program."""
  waits = True
  """Whether `launch` returns after its workers have ended, so that it is time to show what became of them."""
  takes_workers_along = True
  """Whether workers notice that their launcher has died and leave. What still runs is then to be started again."""

  def check(self, options: Options, dry_run: bool) -> None:
    """Raises UserError, before anything is made, for options that cannot be, or where the launcher cannot run."""

  def describe(self, sweep: Sweep, options: Options) -> list[str]:
    """Lines that `--dry_run` adds to the table of trials."""
    del sweep, options
    return []

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Runs `trials`, each by `sweep.command`, or as if by it; `sweep` is held by this process (its lease).

    Raises:
      UserError: they cannot be run. If nothing was started, the sweep's directory is removed again.
    """
    raise NotImplementedError

  def cancel(self, sweep: Sweep, numbers: Sequence[int]) -> None:
    """Takes trials that wait outside this process, all if `numbers` is empty, back: a stop was asked of them."""
