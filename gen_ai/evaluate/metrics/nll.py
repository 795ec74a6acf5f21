"""The metric 'nll': likelihoods of the examples of a split, by whatever a method offers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_ai.core.method import Array, Batch, Key, Method, State, SumCount
from gen_ai.evaluate.metrics import likelihood
from gen_ai.evaluate.metrics.metric import EXAMPLES, Figure, Metric

LOG_WEIGHTS = 'log_weights'  # the task


def _importance_weighted(method: Method, state: State, batch: Batch, key: Key, k: int) -> SumCount:
  """The importance-weighted bound of k latent draws of each example."""
  task = method.tasks[LOG_WEIGHTS]

  def weights(state: State, batch: Batch, key: Key, draws: Array) -> Array:
    return likelihood.log_weights(task, state, batch, key, draws)

  bound = likelihood.importance_weighted(weights, state, batch, key, k)
  (example,) = (name for name in task.inputs if task.inputs[name].what == 'example')
  return likelihood.bound_figures(bound, int(np.prod(batch[example].shape[1:])))


def of_eval_step(method: Method, state: State, batch: Batch, key: Key, k: int) -> SumCount:
  """What the method's eval_step gives: nats a token."""
  del k
  return likelihood.per_example(method.eval_step, state, batch, key)


def _perplexity(figures: Mapping[str, likelihood.Figure], stamp: Mapping[str, Any]) -> dict[str, Figure]:
  found = likelihood.perplexity(figures['loss_nats'])
  return {'perplexity': Figure(found.value, found.error, found.low, found.high, stamp)}


METRICS = (
  Metric(
    'nll',
    ('image',),
    {'iwae_nats': 'max', 'iwae_bpd': 'min', 'iwae_elbo_nats': 'max', 'iwae_effective_draws': ''},
    EXAMPLES,
    needs=(LOG_WEIGHTS,),
    per_example=_importance_weighted,
    draws=True,
  ),
  Metric(
    'nll',
    ('text',),
    {'loss_nats': 'min', 'bits_per_byte': 'min', 'perplexity': 'min'},
    EXAMPLES,
    per_example=of_eval_step,
    finish=_perplexity,
  ),
)
