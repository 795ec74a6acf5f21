"""Ways to run the points of a sweep, a module each, with `launch(sweep, points, options) -> exit code`."""

from dataclasses import dataclass, field, fields

from gen_ai.errors import UserError


@dataclass(frozen=True)
class Options:
  """What the command line tells the engines."""

  cache: str = ''  # folder of compiled programs, shared by all points
  # Accelerators by number, as CUDA_VISIBLE_DEVICES names them; (): all found.
  devices: tuple[str, ...] = field(default=(), metadata={'engines': ('local',)})
  # Points that share one device, under Slurm one task; 0: one an accelerator or task, one a core.
  per_device: int = field(default=0, metadata={'engines': ('local', 'slurm')})
  # Tasks that run at a time; 0: as many as Slurm lets.
  max_jobs: int = field(default=0, metadata={'engines': ('slurm',)})
  # Further #SBATCH options, such as '--time=60'.
  sbatch: tuple[str, ...] = field(default=(), metadata={'engines': ('slurm',)})
  # Of the cluster; '': a local one.
  ray_address: str = field(default='', metadata={'engines': ('ray',)})

  def refuse_idle(self, engine: str) -> None:
    """Raises UserError for an option that `engine` does not read."""
    for option in fields(self):
      engines = option.metadata.get('engines', (engine,))
      if engine not in engines and getattr(self, option.name) != option.default:
        wanted = ' or '.join(f'--engine={name}' for name in engines)
        raise UserError(f'--{option.name} is for {wanted}, and this sweep runs with --engine={engine}: leave '
                        f'--{option.name} out, or name the engine.')  # fmt: skip
