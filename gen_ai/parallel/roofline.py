"""The least time that an update can take on an accelerator: its work, memory traffic and messages at full speed.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009: each is a lower bound, the
largest bounds what is left if all overlap, and their sum is the time if nothing does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gen_ai.parallel.accelerators import Accelerator
from gen_ai.parallel.hlo import Collective, Product

_FUSED = 2.0  # a product's largest array is not moved where it has more numbers than the two others this many times


class Roofline(NamedTuple):
  """Seconds of one update on one device, at the least."""

  compute: float
  memory: float
  network: float

  @property
  def bound(self) -> str:
    """What bounds it: 'compute', 'memory' or 'network'."""
    return max(self._fields, key=lambda name: getattr(self, name))

  @property
  def overlapped(self) -> float:
    """Where the three overlap entirely."""
    return max(self)

  @property
  def apart(self) -> float:
    """Where messages wait for computation and computation for messages."""
    return max(self.compute, self.memory) + self.network


def traffic(products: Sequence[Product], item_bytes: int) -> float:
  """Bytes that matrix products move at least: each reads both sides and writes its result.

  Attention's scores are larger than what they are made of, and a fused kernel never writes them: of products like that
  the largest array is left out. All other operations are taken to be fused into products.

  Args:
    products: of a compiled program.
    item_bytes: of a number in the type of the computation; compilers for CPUs widen bfloat16.
  """
  total = 0.0
  for product in products:
    small, middle, large = sorted(product.elements)
    moved = small + middle + (0 if large > _FUSED * (small + middle) else large)
    total += product.times * moved * item_bytes
  return total


def crosses(collective: Collective, group: int) -> bool:
  """Whether any of its groups of devices lies in several groups of fast links of `group` devices."""
  place = np.asarray(collective.groups) // group
  return bool((place != place[:, :1]).any())


def seconds(flops: float, moved: float, collectives: Sequence[Collective], precision: str, on: Accelerator) -> Roofline:
  """The least time of an update.

  Args:
    flops: of one device.
    moved: bytes of memory traffic of one device.
    collectives: of one update.
    precision: config.precision.
    on: the accelerator.
  """
  network = sum(one.sent / (on.network if crosses(one, on.group) else on.link) for one in collectives)
  return Roofline(flops / on.flops[precision], moved / on.bandwidth, network)
