"""One sample of a task, shown while it is made: a task's `Stream`, compiled, and its text piece by piece."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import SAMPLE, Key, Method, Spec, State, Stream, Task
from gen_ai.data import kinds
from gen_ai.evaluate.companion import Companion
from gen_ai.parallel.program import Program

_PACE = 0.05  # seconds between two looks at what is made
_MOST = 64  # pieces between two looks


def check(name: str, task: Task, spec: Spec) -> None:
  """Raises UserError where what the task `name` makes is no text that comes piece by piece."""
  if task.stream is None or not kinds.of(spec).printed:
    raise UserError(f"what the task '{name}' makes is no text that comes piece by piece, to be streamed.")


class Streaming:
  """What one task of one run draws, while it is drawn: the same as `gen_ai.evaluate.generation.Generation` gives.

  Args:
    program: of the run.
    task: its name.
    companion: another run that helps; None: none.

  Raises:
    UserError: the method has no such task, or none whose work comes in pieces that are shown as text.
  """

  def __init__(self, program: Program, task: str, companion: Companion | None = None):
    self._program, self._name, self._companion, self._kind = program, task, companion, kinds.of(program.spec)
    check(task, program.task(task), program.spec)
    self._resident = program.layout.put_resident({} if companion is None else companion.resident)
    self._compiled: dict[Any, Callable[..., Any]] = {}
    self.outputs: dict[str, np.ndarray] = {}  # of the last text, {name: [1, ...]}, once it is complete

  def text(self, state: State, seed: int, number: int, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Sample `number` by the noise of `seed`, in pieces of text, the first of which begins with the prompt.

    Args:
      state: of the run.
      seed: of the noise.
      number: of the sample.
      arrays: inputs {name: [N, ...]}; the sample has its row, and round again.
    """
    key, put = random.stream(random.root(seed), 'samples'), self._program.layout.put_resident
    rows = {name: np.asarray(array)[[number % len(array)]] for name, array in arrays.items()}
    own = put({'number': np.array([number], np.int32)})

    def start(method: Method, state: State, given: Any, key: Key):
      return self._stream(method, given).start(state, given['inputs'], random.per_example(key, given['number'])), ()

    def advance(method: Method, state: State, given: Any, key: Key):
      stream, keys = self._stream(method, given), random.per_example(key, given['number'])
      carry = stream.advance(state, given['carry'], keys, given['upto'])
      return carry, (stream.outputs(carry), stream.done(carry).all())

    carry, _ = self._run('start', start, state, key, {**own, 'inputs': put(rows)})
    shown, upto, pieces, done = '', 0, 1, False
    while not done:
      upto += pieces
      began = time.perf_counter()
      given = {**own, 'carry': carry, **put({'upto': np.array(upto, np.int32)})}
      carry, (outputs, finished) = self._run('advance', advance, state, key, given)
      done, sample = bool(finished), np.asarray(outputs[SAMPLE])
      seconds = time.perf_counter() - began
      text = self._kind.shown(self._program.spec, sample) if done else self._kind.settled(self._program.spec, sample[0])
      if len(text) > len(shown):
        yield text[len(shown) :]
        shown = text
      pieces = int(np.clip(pieces * _PACE / seconds, 1, _MOST))
      if done:
        self.outputs = {name: np.asarray(value) for name, value in outputs.items()}

  def _stream(self, method: Method, given: Any) -> Stream:
    task = method.tasks[self._name]
    if self._companion is not None:
      task = self._companion.helping(task, self._name, given['companion'])
    assert task.stream is not None
    return task.stream

  def _run(self, name: str, fn: Any, state: State, key: Key, given: dict[str, Any]) -> tuple[Any, Any]:
    given = {**given, 'companion': self._resident}
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(given))
    if (name, shapes) not in self._compiled:
      doing = 'drawing a text piece by piece'
      self._compiled[name, shapes] = self._program.over_whole(f'stream {name}', fn, state, key, given, doing)
    return self._compiled[name, shapes](state, key, given)
