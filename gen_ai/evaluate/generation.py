"""What a trained model does, sample by sample: any task, with whatever inputs a call gives.

Every sample has a number, which is the address of its noise: the first 10,000 samples of a state are the same for any
batch size, any number of devices and any layout, and any of them can be drawn again alone. What is shown while a run
trains are the first of the samples that are measured.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import ASKED, GENERATE, SAMPLE, Key, Method, State, Task
from gen_ai.data import kinds
from gen_ai.data.feed import make_feed
from gen_ai.data.source import Source
from gen_ai.evaluate import companion as companion_lib
from gen_ai.evaluate.companion import Companion
from gen_ai.evaluate.metrics import features
from gen_ai.evaluate.metrics.extractors import Extractor
from gen_ai.parallel.program import Program

AT_ONCE = 64  # samples that are drawn together where their features are not wanted


class Inputs(Protocol):
  """What a task is given for each sample."""

  resident: dict[str, np.ndarray]  # arrays that the device holds

  def rows(self, numbers: np.ndarray) -> Any:
    """What `gather` makes the inputs of samples `numbers` [..., B] from."""

  def gather(self, resident: Any, row: Any) -> dict[str, Any]:
    """{name: [B, ...]}; traceable."""


class SplitInputs:
  """The examples of a split: sample i is drawn for example i, and round again.

  Args:
    config: of the run.
    source: the split that the samples are compared with.
    task: whose inputs are wanted.
  """

  def __init__(self, config: ConfigDict, source: Source, task: Task):
    self._source, self._feed, self._names = source, make_feed(source, config.data, 1), set(task.inputs)
    self.resident = self._feed.resident

  def rows(self, numbers: np.ndarray) -> Any:
    """See `Inputs`."""
    index = self._source.eval_index(numbers % self._source.evaluated)
    if self.resident:
      return index
    read = self._source.read(index.reshape(-1))
    return {name: value.reshape(*index.shape, *value.shape[1:]) for name, value in read.items()}

  def gather(self, resident: Any, row: Any) -> dict[str, Any]:
    """See `Inputs`."""
    batch = self._feed.gather(resident, row)
    return {name: batch[name] for name in batch if name in self._names}


class CallInputs:
  """Inputs that a call brings along: sample i has row i, and round again.

  Args:
    arrays: {name: [N, ...]}, each of a length of its own.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
    self.resident: dict[str, np.ndarray] = {}

  def rows(self, numbers: np.ndarray) -> Any:
    """See `Inputs`."""
    return {name: array[numbers % len(array)] for name, array in self._arrays.items()}

  def gather(self, resident: Any, row: Any) -> dict[str, Any]:
    """See `Inputs`."""
    del resident
    return dict(row)


def check_inputs(name: str, task: Task, given: Mapping[str, Any]) -> None:
  """Raises UserError where a call gives what the task `name` does not take, or leaves out what it needs."""
  described = {one: f'{field.what}{", required" if field.required else ""}' for one, field in task.inputs.items()}
  takes = ', '.join(f'{one} ({what})' for one, what in described.items())
  for one in given:
    if one not in task.inputs:
      raise UserError(f"the task '{name}' takes no input '{one}'; it takes {takes or 'none'}.")
  for one, field in task.inputs.items():
    if field.required and one not in given:
      raise UserError(f"the task '{name}' needs the input '{one}'; it takes {takes}.")


class Generation:
  """What one task of states of one program returns.

  Args:
    program: alone or of lanes.
    seed: of the noise.
    task: its name.
    inputs: what it is given; None: nothing.
    companion: another run that helps; None: none.

  Raises:
    UserError: the method has no such task, or its settings and the companion do not go together.
  """

  def __init__(
    self,
    program: Program,
    seed: int,
    task: str = GENERATE,
    inputs: Inputs | None = None,
    companion: Companion | None = None,
  ):
    self._program, self._inputs, self._companion, self._task = program, inputs, companion, program.task(task)
    companion_lib.check_use(self._task, companion)
    self._name, self._kind = task, kinds.of(program.spec)
    self._key = random.stream(random.root(seed), 'samples')
    self._compiled: dict[Any, Callable[..., Any]] = {}

  def features(self, state: State, extractor: Extractor, n: int) -> Callable[[int], features.Features]:
    """RunLogger -> features of its first `n` samples, drawn for all lanes at once. Images stay where they are drawn."""
    leaves, tree = jax.tree.flatten(extractor.params)

    def row(method: Method, state: State, resident: Mapping[str, Any], row: Any, key: Key):
      params = jax.tree.unflatten(tree, [resident[str(i)] for i in range(len(leaves))])
      drawn = self._run(method, state, resident, row, key)
      x = drawn[SAMPLE]
      values, logits = extractor.apply(params, self._kind.stored(x))
      finite = jnp.isfinite(x).reshape(x.shape[0], -1).all(1)
      values = jnp.where(finite[:, None], values, jnp.nan)  # as levels a NaN would pass for black
      asked = {ASKED: drawn[ASKED]} if ASKED in drawn else {}
      return {'values': values, **asked} | ({} if logits is None else {'logits': logits})

    resident = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    size = self._size(features.block_size(extractor))
    found = list(self._blocks(('features', extractor.weights), row, state, np.arange(n), size, resident))

    def of_lane(lane: int) -> features.Features:
      own = [block[lane] for block in found]
      parts = ((block['values'][0], block.get('logits', [None])[0]) for block in own)
      labels = np.concatenate([block[ASKED][0] for block in own])[:n] if ASKED in own[0] else None
      return features.collect(parts, n, features.Spread(), labels)

    return of_lane

  def read(self, state: State, index: np.ndarray) -> list[np.ndarray]:
    """The samples of the given numbers int [N], of every lane, as files hold them: images uint8 [N, H, W, C]."""
    return [outputs[SAMPLE] for outputs in self.outputs(state, index)]

  def outputs(self, state: State, index: np.ndarray) -> list[dict[str, np.ndarray]]:
    """All that the task returns for the given numbers int [N], of every lane: {name: [N, ...]}.

    What are examples of the data are as files hold them.
    """

    def row(method: Method, state: State, resident: Mapping[str, Any], row: Any, key: Key):
      found = self._run(method, state, resident, row, key)
      fields = self._task.outputs
      return {
        name: self._kind.stored(value) if name in fields and fields[name].what == 'example' else value
        for name, value in found.items()
      }

    size = self._size(min(AT_ONCE, max(len(index), 1)))
    blocks = list(self._blocks((self._name, size), row, state, np.asarray(index), size, {}))
    return [
      {name: np.concatenate([block[lane][name][0] for block in blocks])[: len(index)] for name in blocks[0][lane]}
      for lane in range(self._program.lanes)
    ]

  def _run(self, method: Method, state: State, resident: Any, row: Any, key: Key) -> Mapping[str, Any]:
    given = {} if self._inputs is None else self._inputs.gather(resident, row['inputs'])
    task = method.tasks[self._name]
    if self._companion is not None:
      task = self._companion.helping(task, self._name, resident)
    return task.run(state, given, random.per_example(key, row['number']))

  def _size(self, wanted: int) -> int:
    """The smallest batch from `wanted` on that divides over the devices."""
    parts = self._program.layout.batch_parts
    return -(-wanted // parts) * parts

  def _blocks(self, name: Any, row: Any, state: State, index: np.ndarray, size: int, resident: Any) -> Iterator[Any]:
    """What `row` gives for the numbers `index`, block by block, a list over lanes each."""
    local = self._program.layout.local_rows(size)
    if self._inputs is not None:
      resident = {**resident, **self._inputs.resident}
    if self._companion is not None:
      resident = {**resident, **self._companion.resident}
    for start in range(0, len(index), size):
      block = index[start : start + size].astype(np.int32)
      numbers = np.pad(block, (0, size - len(block)), mode='edge')[None, local]
      rows = {'number': numbers} | ({} if self._inputs is None else {'inputs': self._inputs.rows(numbers)})
      if name not in self._compiled:
        self._compiled[name] = self._program.over_rows(
          name[0], row, state, self._key, resident, rows, f'drawing {size:,} samples at once', 'ask for fewer'
        )
      yield self._program.layout.per_lane(self._compiled[name](state, rows))
