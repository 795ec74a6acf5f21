"""The metric 'ode': the likelihood of examples by the probability-flow ODE of a diffusion model, in nats and bits."""

import math

import jax.numpy as jnp
import numpy as np

from gen_ai.core import random
from gen_ai.core.method import EXAMPLE, Batch, Key, Method, State, SumCount
from gen_ai.evaluate.metrics.metric import EXAMPLES, Metric

LOG_PROB = 'log_prob'  # the task


def _by_ode(method: Method, state: State, batch: Batch, key: Key, draws: int) -> SumCount:
  """Of each example, with dequantisation noise and probes of its own."""
  del draws
  task = method.tasks[LOG_PROB]
  (example,) = (name for name, field in task.inputs.items() if field.what == EXAMPLE)
  keys = random.per_example(key, batch['index'])
  found = task.run(state, {name: batch[name] for name in task.inputs if name in batch}, keys)
  bits = math.log(2.0) * int(np.prod(batch[example].shape[1:]))
  values = {
    'ode_nats': found['log_prob_nats'],
    'ode_bpd': -found['log_prob_nats'] / bits,
    # Of one example's estimate; the mean over examples has its own error, of which this is a part.
    'ode_probe_error_bpd': found['probe_error_nats'] / bits,
  }
  return {name: (value, jnp.ones_like(value)) for name, value in values.items()}


METRICS = (
  Metric(
    'ode',
    ('image',),
    {'ode_nats': 'max', 'ode_bpd': 'min', 'ode_probe_error_bpd': ''},
    EXAMPLES,
    needs=(LOG_PROB,),
    per_example=_by_ode,
  ),
)
