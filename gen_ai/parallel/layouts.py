"""How arrays lie over devices, and how a function is compiled for that: a mesh under jit, pmap, or lanes of a run axis.

Layouts compile functions of the form `fn(floats, state, key, resident, rows)` (see `gen_ai.parallel.program`),
whatever these compute.
"""

import jax
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.parallel.jit import JitLayout
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.pmap import PmapLayout

Layout = JitLayout | PmapLayout | LaneLayout


def make_layout(config: ConfigDict, devices: list[jax.Device] | None = None) -> Layout:
  """The layout that `config.parallel` and `config.mesh` describe, over all devices unless told."""
  devices = list(jax.devices() if devices is None else devices)
  return (PmapLayout if config.parallel == 'pmap' else JitLayout)(config, devices)


def check_batch(config: ConfigDict, parts: int) -> None:
  """Raises UserError where a batch does not divide over `parts` devices and the micro-batches."""
  accumulate = config.optim.accumulate
  for field, size, over in (
    ('data.batch_size', config.data.batch_size, parts * accumulate),
    ('eval.batch_size', config.eval.batch_size, parts),
  ):
    if size % over:
      micro = f' x {accumulate} micro-batches' if over != parts else ''
      raise UserError(
        f'config.{field}={size} does not divide over {parts} device(s){micro}: '
        f'make it a multiple of {over}, such as {max(1, round(size / over)) * over}.'
      )
