"""The metric 'classification': how well a generative model tells classes, by its task 'classify'."""

import jax.numpy as jnp

from gen_ai.core.method import EXAMPLE, Batch, Key, Method, State, SumCount
from gen_ai.evaluate.metrics.metric import EXAMPLES, Metric

CLASSIFY = 'classify'  # the task


def _by_bayes(method: Method, state: State, batch: Batch, key: Key, draws: int) -> SumCount:
  """Of each example: whether its class is the likeliest, what the class costs, and the bound over all classes."""
  del draws
  task, label = method.tasks[CLASSIFY], batch['label']
  given = {name: batch[name] for name, field in task.inputs.items() if field.what == EXAMPLE}
  found = task.run(state, given, jnp.broadcast_to(key, label.shape))
  log_probs = found['log_probs']
  values = {
    'bayes_accuracy': (log_probs.argmax(1) == label).astype(jnp.float32),
    'bayes_xent_nats': -jnp.take_along_axis(log_probs, label[:, None], 1)[:, 0],
    'marginal_elbo_nats': found['elbo_nats'],
  }
  return {name: (value, jnp.ones_like(value)) for name, value in values.items()}


METRICS = (
  Metric(
    'classification',
    ('image',),
    {'bayes_accuracy': 'max', 'bayes_xent_nats': 'min', 'marginal_elbo_nats': 'max'},
    EXAMPLES,
    needs=(CLASSIFY,),
    per_example=_by_bayes,
  ),
)
