"""Which launchers there are."""

from gen_ai.sweep.launchers.base import Launcher
from gen_ai.sweep.launchers.commands import Commands
from gen_ai.sweep.launchers.local import Local
from gen_ai.sweep.launchers.packed import Packed
from gen_ai.sweep.launchers.ray import Ray
from gen_ai.sweep.launchers.slurm import Slurm

LAUNCHERS: dict[str, Launcher] = {
  'packed': Packed(),
  'local': Local(),
  'slurm': Slurm(),
  'ray': Ray(),
  'print': Commands(),
}
