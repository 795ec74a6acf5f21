"""A compiled program, and what its compilation cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gen_ai.parallel import flops

Compiled = Callable[..., Any]
LANE_AXES = (0, 0, 0, None, None)  # of (floats, state, key, resident, rows), as vmap's in_axes; None: the same for all


class Staged(NamedTuple):
  """A program that is traced and lowered, and not compiled yet."""

  lowered: Any  # jax.stages.Lowered
  jaxpr: Callable[[], Any]  # gives the ClosedJaxpr of which `times` are the work of all devices
  times: int = 1

  @property
  def flops(self) -> float:
    """Of one call over all devices: matrix products and convolutions."""
    return flops.in_jaxpr(self.jaxpr()) * self.times

  @property
  def recomputed(self) -> float:
    """Those of them that rematerialisation does a second time."""
    return flops.recomputed(self.jaxpr()) * self.times


@dataclass(frozen=True)
class CompileStats:
  """What one compilation cost and what the program needs. Bytes per device; flops over all devices."""

  seconds: float
  flops: float  # of one call, matrix products and convolutions
  bytes_accessed: float  # XLA's estimate, a loop's body counted once
  peak_bytes: int  # arguments + outputs + temporaries - aliases
  new_bytes: int = 0  # outputs + temporaries - aliases: what a call takes beside what is there already


def stats(compiled: Any, seconds: float, flop_count: float) -> CompileStats:
  """What the compiler says of a program, with the seconds that it took and the operations that were counted."""
  costs = compiled.cost_analysis() or {}
  memory = compiled.memory_analysis()
  new = arguments = 0
  if memory is not None:
    new = memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes
    arguments = memory.argument_size_in_bytes
  return CompileStats(seconds, flop_count, float(costs.get('bytes accessed', 0.0)), arguments + new, new)
