"""Our side of the throughput benchmark: the compiled chunk with its feed, driven as gen_ai.train.trainer does."""

import time
from importlib import metadata

import numpy as np
from ml_collections import ConfigDict

from benchmarks import methods
from gen_ai import config as config_lib
from gen_ai.data import dataset as dataset_lib
from gen_ai.data.feed import make_feed
from gen_ai.parallel.layouts import Layout, make_layout
from gen_ai.parallel.program import Program


def dataset(config: ConfigDict) -> dataset_lib.Dataset:
  """Data in memory, of the kind that the config trains on."""
  if config.experiment != 'lm':
    return dataset_lib.from_arrays('noise', {'train': {'image': methods.images()}})
  text = ''.join(np.array(list(methods.alphabet(config)))[methods.tokens(config)])
  return dataset_lib.from_text('noise', {'train': text}, config.data.tokens, config.data.block_size)


def program(config: ConfigDict, data: dataset_lib.Dataset, layout: Layout | None = None) -> Program:
  """The config's program, on all devices unless told."""
  return Program(config, config_lib.builder(config), data.spec, layout or make_layout(config))


class Ours:
  """A method compiled and warm.

  Attributes: `parameters`, the number of trainable ones; `weighs`, whether its latent draws have importance weights,
  the task 'log_weights';
  `versions` of packages.
  """

  def __init__(self, config: ConfigDict, data: dataset_lib.Dataset | None = None):
    data = data or dataset(config)
    prog = program(config, data)
    self._layout = prog.layout
    self.chunk = config.run.log_every
    self.feed = make_feed(
      data.splits['train'], config.data, self.chunk, prog.layout.local_rows(prog.batch_size), prog.batches_per_step
    )
    self.state, self.step = prog.init(), 0
    self.train = prog.trainer(self.feed, self.state, self.feed.chunk(0, self.chunk))
    self.parameters, self.weighs = prog.parameter_count(), 'log_weights' in prog.tasks
    self.versions = {name: metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax')}

  def run(self, seconds: float) -> tuple[int, float]:
    """Trains whole chunks for at least `seconds`; returns (updates, seconds they took, all their metrics fetched)."""
    start, first = time.perf_counter(), self.step
    pending = None
    while pending is None or time.perf_counter() - start < seconds:
      rows = self.feed.chunk(self.step, self.chunk)
      self.state, metrics = self.train(self.state, rows)
      self.step += self.chunk
      if pending:
        self._layout.per_lane(pending)  # the chunk before, while the device works on this one
      pending = metrics
    (last,) = self._layout.per_lane(pending or {})
    took = time.perf_counter() - start
    if not all(np.isfinite(values).all() for values in last.values()):
      raise FloatingPointError(f'a metric is not finite by update {self.step}: this speed would mean nothing')
    return self.step - first, took
