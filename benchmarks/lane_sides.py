"""The ways to compute lanes that `benchmarks.lanes` compares, compiled: the training chunk without the trainer."""

import time
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import make_feed
from gen_ai.nets import conv
from gen_ai.parallel.jit import JitLayout
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.program import Program

LOWERINGS = tuple(name for name in conv.LOWERINGS if name != 'auto')
MAPPINGS = ('vmap', 'map')
NONE = '-'  # the lowering of a network without convolutions


class Variant(NamedTuple):
  """One way to compute lanes."""

  lanes: int
  mapping: str  # one of MAPPINGS, or 'alone': the run by itself, without a run axis
  lowering: str  # one of LOWERINGS, or NONE


class Side:
  """A variant, compiled and warm.

  Args:
    config: of the run alone; lanes differ from it in their seeds.
    dataset: what they train on.
    variant: how they are computed.
    chunk: updates in one dispatch.

  Attributes:
    convolves: whether there are convolutions.
    compile_seconds: what compiling the training took.
  """

  def __init__(self, config: ConfigDict, dataset: Dataset, variant: Variant, chunk: int):
    device, lanes = jax.devices()[:1], []
    if variant.mapping == 'alone':
      layout: JitLayout | LaneLayout = JitLayout(config, device)
    else:
      layout = LaneLayout(device, variant.mapping)
      lanes = [config_lib.override(config, {'run.seed': seed}) for seed in range(variant.lanes)]
    program = Program(config, config_lib.builder(config), dataset.spec, layout, lanes)
    self.variant, self._layout, self._chunk, self._step = variant, layout, chunk, 0
    self._feed = make_feed(dataset.splits['train'], config.data, self._chunk, None, program.batches_per_step)
    self._state = program.init()
    # 'auto' chooses at trace time by this function, which nothing but convolutions asks.
    with mock.patch.object(conv, 'resolve_lowering', return_value=variant.lowering) as asked:
      self._run = program.trainer(self._feed, self._state, self._feed.chunk(0, self._chunk))
    self.convolves, self.compile_seconds = asked.called, program.compile_stats['train'].seconds
    self.run(0.0)  # the first dispatch, not counted

  def run(self, seconds: float) -> float:
    """RunLogger-steps a second over one slice of whole dispatches that takes at least `seconds`."""
    start, first, pending = time.perf_counter(), self._step, None
    while pending is None or time.perf_counter() - start < seconds:
      self._state, metrics = self._run(self._state, self._feed.chunk(self._step, self._chunk))
      self._step += self._chunk
      if pending is not None:
        self._layout.per_lane(pending)  # the dispatch before, while the device works on this one
      pending = metrics
    last = self._layout.per_lane(pending)
    took = time.perf_counter() - start
    if not all(np.isfinite(values).all() for values in jax.tree.leaves(last)):
      raise FloatingPointError(f'a metric is not finite by update {self._step}: this speed would mean nothing')
    return (self._step - first) * self.variant.lanes / took
