"""A small trained model that drafts tokens for a larger one, see `gen_ai.maths.speculative`."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec, State, Task
from gen_ai.data import kinds
from gen_ai.parallel.program import Program


class Draft:
  """A checkpoint that drafts.

  Args:
    program: of its run.
    state: that it drafts by.
    tokens: that it drafts at once.
  """

  def __init__(self, program: Program, state: State, tokens: int):
    self._program, self._tokens = program, tokens
    leaves, self._tree = jax.tree.flatten((program.floats, state._replace(opt_state=())))
    self.resident = {f'draft {i}': np.asarray(leaf) for i, leaf in enumerate(leaves)}

  def helping(self, task: Task, name: str, resident: Mapping[str, Any]) -> Task:
    """`task`, which has the same `name` among the tasks of both, with the help of the draft; traceable.

    Args:
      task: of the model.
      name: of it.
      resident: arrays, those of `Draft.resident` among them.
    """
    leaves = [resident[f'draft {i}'] for i in range(len(self.resident))]
    floats, state = jax.tree.unflatten(self._tree, leaves)
    small = self._program.method(floats).tasks[name]
    assert task.drafted is not None
    assert small.reader is not None
    return task.drafted(small.reader(state), self._tokens)


def check(name: str, task: Task, spec: Spec, run: Any, small: Mapping[str, Task], small_spec: Spec, draft: Any) -> None:
  """Raises UserError where the run `draft` cannot draft for the task `name` of `run`."""
  if task.drafted is None:
    raise UserError(f"the task '{name}' of {run} takes no draft: it draws no text token by token.")
  if name not in small or small[name].reader is None:
    raise UserError(f"{draft} cannot draft: it has no task '{name}' that reads tokens.")
  ours, theirs = (_tokens(one) for one in (spec, small_spec))
  if ours != theirs:
    raise UserError(
      f'{draft} has {theirs} and {run} has {ours}: a draft must have the same tokens. Train it on the same data with '
      'the same config.data.tokens.'
    )


def _tokens(spec: Spec) -> str:
  facts = files.dumps({'kind': spec.kind, **kinds.of(spec).facts(spec)})
  size = spec.vocab.size if spec.vocab is not None else 0
  return f'{size:,} tokens (sha256 {hashlib.sha256(facts.encode()).hexdigest()[:12]})'
