"""What training would need and how fast it could be, before it starts: `launch.py --plan`.

The training program is compiled for fake devices from shapes alone; no array is made. What is exact in it and what is
an estimate: `Plan`.
"""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import lowering
from gen_ai.core.errors import NotPrepared
from gen_ai.core.method import PyTree, Spec
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import kinds, store
from gen_ai.data.feed import HostFeed, make_feed
from gen_ai.data.source import Source
from gen_ai.parallel import hlo, roofline
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Feed, Program


@dataclass(frozen=True)
class Plan:
  """What one run needs. Bytes are those of one device.

  Attributes:
    spec: of the data.
    data_note: how it is known.
    devices: how many.
    mesh: {axis: devices}; {} under pmap.
    examples: in one update.
    parameters: over all networks.
    trained: those of them that training changes.
    state: bytes by part, as they lie on a device, exactly.
    data: bytes of the arrays that stay on a device, exactly.
    gradients: bytes of a gradient a trained parameter that lies as it does: a compiler needs at least these.
    temporaries: bytes that the compiled program takes beside its arguments, as a compilation for CPUs says: those for
      other platforms fuse other operations, and this one widens bfloat16. The gradients are among them.
    flops: of one update over all devices: matrix products and convolutions.
    recomputed: those of them that rematerialisation does again.
    compiled_flops: of one update on one device, in the products of the compiled program.
    collectives: of one update.
    traffic: bytes of one update that memory moves at least: the state is read and, but for parameters that are
      not trained, written; products read and write.
    loops: how many loops count as one turn, since nobody knows how often they turn.
    seconds: that this plan took.
  """

  spec: Spec
  data_note: str
  devices: int
  mesh: dict[str, int]
  examples: int
  parameters: int
  trained: int
  state: dict[str, int]
  data: int
  gradients: int
  temporaries: int
  flops: float
  recomputed: float
  compiled_flops: float
  collectives: list[hlo.Collective]
  traffic: float
  loops: int
  seconds: float

  @property
  def arguments(self) -> int:
    """Bytes of what is there between updates."""
    return sum(self.state.values()) + self.data

  @property
  def total(self) -> int:
    """Bytes at the most, between updates and in one."""
    return self.arguments + self.temporaries


def make(config: ConfigDict, platform: str) -> Plan:
  """The plan of `config` on the devices of this process, which are fake ones, as a program for `platform`.

  Raises:
    UserError: a config that cannot be built, or does not fit the devices.
  """
  start = time.perf_counter()
  build, layout = config_lib.builder(config), make_layout(config)
  with lowering.planned_for(platform), store.nothing_kept():
    spec, source, note = data(config)
    program = Program(config, build, spec, layout)
    staged, state, resident = program.stage(*feed(config, program, source, known=not note))
    compiled = staged.lowered.compile()
  text, memory = compiled.as_text(), compiled.memory_analysis()
  parts = {name: _bytes(part) for name, part in state._asdict().items()}
  gradients = _bytes(program.trains.of(state.params) if program.trains else state.params)
  products, per_update = hlo.products(text), 1 / config.run.log_every
  moved = roofline.traffic(products, 2 if config.precision == 'bf16' else 4)
  return Plan(
    spec=spec,
    data_note=note,
    devices=jax.device_count(),
    mesh={str(axis): size for axis, size in layout.mesh.shape.items()} if config.parallel == 'jit' else {},
    examples=program.batch_size,
    parameters=program.parameter_count(),
    trained=program.trained_count(),
    state=parts,
    data=_bytes(resident),
    gradients=gradients,
    temporaries=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    flops=staged.flops * per_update,
    recomputed=staged.recomputed * per_update,
    compiled_flops=sum(one.flops * one.times for one in products) * per_update,
    collectives=[
      one._replace(times=one.times * per_update, sent=one.sent * per_update)
      for one in hlo.collectives(text, jax.device_count())
    ],
    traffic=2 * sum(parts.values()) - (parts['params'] - gradients) + moved * per_update,
    loops=hlo.unknown_loops(text),
    seconds=time.perf_counter() - start,
  )


def data(config: ConfigDict) -> tuple[Spec, Source, str]:
  """(what the data is like, its training part, why that part is made of zeros or '' where it is real).

  Raises:
    UserError: as training does, but for a data set that is known and not prepared, if its kind foresees what it is.
  """
  families = [kinds.get(name) for name in config_lib.experiment(config).KINDS]
  foreseen = functools.partial(_foreseen, families, config.data)
  try:
    if any(kind.made(config.data) for kind in families) and (found := foreseen()):
      return *found, 'a run would prepare it first'
    dataset = dataset_lib.load(config.data)
    return dataset.spec, dataset.splits['train'], ''
  except NotPrepared as error:
    if found := foreseen():
      return *found, str(error).partition('. ')[0].splitlines()[0]
    raise


def _foreseen(families: Sequence[kinds.DataKind], config_data: Any) -> tuple[Spec, Source] | None:
  return next(filter(None, (kind.foreseen(config_data) for kind in families)), None)


def feed(config: ConfigDict, program: Program, source: Source, known: bool) -> tuple[Feed, PyTree]:
  """(the feed of a run, the shapes of its rows over all devices); where data is not known the host brings batches."""
  size, K = program.batch_size, config.run.log_every
  if known:
    found: Feed = make_feed(source, config.data, K, batches_per_step=program.batches_per_step)
  else:
    found = HostFeed(source, config.data.seed, size, K, slice(None))
  if isinstance(found, HostFeed):
    batch = source.read(source.eval_index(np.zeros(size, np.int64)))
    return found, {name: jax.ShapeDtypeStruct((K, *x.shape), x.dtype) for name, x in batch.items()}
  return found, jax.ShapeDtypeStruct((K, size), np.int32)


def _bytes(tree: PyTree) -> int:
  """Bytes of arrays on one device, by their shapes and shardings; pmap's have an axis of devices first."""

  def own(leaf: Any) -> int:
    where: Sharding | None = getattr(leaf, 'sharding', None)
    shape = where.shard_shape(leaf.shape) if where else leaf.shape[1:]
    return math.prod(shape) * leaf.dtype.itemsize

  return sum(map(own, jax.tree.leaves(tree)))
