"""Which float fields of a config nothing depends on, found by tracing the method, and which metrics it evaluates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core.method import WHOLE, Field, PyTree, Spec, Task
from gen_ai.parallel.program import Build


def trace(config: ConfigDict, build: Build, spec: Spec, batch: Mapping[str, np.ndarray]) -> tuple[set[str], set[str]]:
  """(used fields, metrics): what a method depends on, and what its evaluation is made of.

  The used fields are those of `config.traced` that initialisation, two updates, an evaluation, a task or a
  visualization depends on. A sweep of any other field would compare a run with itself. The metrics are the names that
  an evaluation gives.

  Args:
    config: the run's config.
    build: build() of its experiment.
    spec: what the data is like.
    batch: one batch of data, for its shapes.
  """
  floats = {path: np.float32(value) for path, value in config_lib.traced(config).items()}

  def everything(floats: PyTree, batch: PyTree, mask: Any, key: Any):
    method = build(config_lib.substitute(config, floats), spec)
    state = method.init(key)
    step = jax.jit(method.train_step)  # traced once
    trained = step(state, batch, key)
    # Twice, as a schedule may begin at a value that does not depend on its end.
    trained = step(trained[0], batch, key)
    own = jax.random.split(key, 1)
    done = {name: task.run(state, _inputs(task, batch), own) for name, task in method.tasks.items()}
    views = {name: view(state, batch, key) for name, view in method.visualizations.items()}
    return state, trained, method.eval_step(state, {**batch, 'mask': mask}, key), (done, views)

  size = len(next(iter(batch.values())))
  arguments = (floats, dict(batch), np.ones(size, np.float32), jax.random.key(0))
  closed, (_, _, metrics, _) = jax.make_jaxpr(everything, return_shape=True)(*arguments)
  used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[1]
  fields = sorted(floats)  # as dicts are flattened, and the first argument comes first
  return {path for path, is_used in zip(fields, used, strict=False) if is_used}, set(metrics)


def _inputs(task: Task, batch: Mapping[str, Any]) -> dict[str, Any]:
  """What a task must be given for one example: of the batch where it has it, zeros otherwise."""

  def zeros(field: Field) -> Any:
    # Two of what a call chooses the number of: a text of one token has none to predict.
    shape = tuple(size or 2 for size in field.shape)
    return jnp.zeros((1, *shape), jnp.int32 if field.what in WHOLE or not shape else jnp.float32)

  needed = {name: field for name, field in task.inputs.items() if field.required}
  return {name: batch[name][:1] if name in batch else zeros(field) for name, field in needed.items()}
