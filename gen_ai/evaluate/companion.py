"""Another trained run that helps a task: it drafts tokens (`gen_ai.maths.speculative`) or guides samples."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.core.method import DRAFT_BY, GUIDE_BY, Spec, State, Task
from gen_ai.data import kinds
from gen_ai.evaluate.metrics.extractors import content_hash
from gen_ai.parallel.program import Program
from gen_ai.run import info


class Run(Protocol):
  """What must be known of a run to say whether it can help: a `Trained` knows it, and `restored.recorded`."""

  @property
  def path(self) -> Path:
    """Of the run directory."""

  @property
  def config(self) -> ConfigDict:
    """As it was trained."""

  @property
  def spec(self) -> Spec:
    """Of its data."""

  @property
  def tasks(self) -> Mapping[str, Task]:
    """What it can do."""


class Companion:
  """A checkpoint that helps the tasks of another run.

  Args:
    way: in which it does: one of the names in `Task.helps`.
    program: of its run.
    state: by which it helps.
    name: of it, for people.
    recipe: of its weights, without the seeds: figures with the help of companions of one recipe may stand side by side.
    options: of `Help.taken`, such as the tokens that a draft drafts at once.
  """

  def __init__(self, way: str, program: Program, state: State, name: str, recipe: str, **options: Any):
    self.way, self.name, self.recipe = way, name, recipe
    self._program, self._options = program, options
    self._state = state._replace(opt_state=())
    leaves, self._tree = jax.tree.flatten((program.floats, self._state))
    self.resident = {f'{way} {i}': np.asarray(leaf) for i, leaf in enumerate(leaves)}

  @functools.cached_property
  def weights(self) -> str:
    """sha256 (hex) of its parameters, their averages and the state of its networks."""
    return content_hash((self._state.params, self._state.ema, self._state.stats))

  def helping(self, task: Task, name: str, resident: Mapping[str, Any]) -> Task:
    """`task`, which has the same `name` among the tasks of both, with help; traceable.

    Args:
      task: of the other run.
      name: of it.
      resident: arrays, those of `Companion.resident` among them.
    """
    leaves = [resident[f'{self.way} {i}'] for i in range(len(self.resident))]
    floats, state = jax.tree.unflatten(self._tree, leaves)
    own = self._program.method(floats).tasks[name].helps[self.way]
    return task.helps[self.way].taken(own.offers(state), **self._options)


def require(*tasks: Task) -> None:
  """Raises UserError where the settings of one of `tasks` ask for the help of another run, and there is none."""
  for task in tasks:
    for help in task.helps.values():
      if help.missing:
        raise UserError(help.missing)


def check_use(task: Task, companion: Companion | None) -> None:
  """Raises UserError where the settings of `task` ask for help and there is none, or leave it nothing to do."""
  if companion is None:
    require(task)
  elif idle := task.helps[companion.way].idle:
    raise UserError(f'--{companion.way}={companion.name} would do nothing: {idle}.')


class _Fact(NamedTuple):
  """What of two runs must be the same.

  Attributes:
    of: a run -> what it has, in words.
    noun: what that is.
    way_out: how both get the same.
  """

  of: Callable[[Run], str]
  noun: str
  way_out: str


def _tokens(run: Run) -> str:
  spec = run.spec
  facts = files.dumps({'kind': spec.kind, **kinds.of(spec).facts(spec)})
  size = spec.vocab.size if spec.vocab is not None else 0
  return f'{size:,} tokens (sha256 {hashlib.sha256(facts.encode()).hexdigest()[:12]})'


def _examples(run: Run) -> str:
  return f'{kinds.of(run.spec).form(run.spec)} of {run.spec.num_classes} classes'


def _parent(run: Run) -> str:
  parent = info.read(run.path).parent
  return f'weights of {parent["config_hash"][:12]} at step {parent["step"]}' if parent else 'weights of no other run'


def _field(path: str) -> _Fact:
  """A field of the config."""
  name = f'config.{path}'
  return _Fact(lambda run: f'{name}={config_lib.flatten(run.config)[path]!r}', name, f'Train it with the same {name}')


FACTS = {
  'tokens': _Fact(_tokens, 'tokens', 'Train it on the same data with the same config.data.tokens'),
  'examples': _Fact(_examples, 'form of examples', 'Train it on the same data'),
  'parent': _Fact(_parent, 'parent', 'Train it with the same --init_from'),
}
_TAKES = {DRAFT_BY: 'it draws no text token by token', GUIDE_BY: 'it draws nothing by a denoiser'}
_GIVES = {DRAFT_BY: 'that reads tokens', GUIDE_BY: 'that draws by a denoiser'}


def check(way: str, name: str, run: Run, other: Run) -> None:
  """Raises UserError where `other` cannot help the task `name` of `run` in this `way`."""
  task, theirs = run.tasks[name], other.tasks.get(name)
  if way not in task.helps:
    raise UserError(f"the task '{name}' of {run.path} takes no {way}: {_TAKES[way]}.")
  if theirs is None or way not in theirs.helps:
    raise UserError(f"{other.path} cannot {way}: it has no task '{name}' {_GIVES[way]}.")
  for fact in task.helps[way].alike:
    of, noun, way_out = FACTS.get(fact) or _field(fact)
    if of(other) != of(run):
      raise UserError(
        f'{other.path} has {of(other)} and {run.path} has {of(run)}: a {way} must have the same {noun}. {way_out}.'
      )
