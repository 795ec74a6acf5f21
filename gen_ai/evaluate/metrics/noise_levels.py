"""The metric 'noise_levels': how well a model denoises, by the strength of the noise: where to train more."""

import jax.numpy as jnp

from gen_ai.core import random
from gen_ai.core.method import Batch, Key, Method, State, SumCount
from gen_ai.evaluate.metrics.metric import EXAMPLES, Metric
from gen_ai.maths import diffusion

DENOISE = 'denoise'  # the task
BINS = 10
LOWEST, HIGHEST = -10.0, 10.0  # log SNR
WIDTH = (HIGHEST - LOWEST) / BINS
NAMES = [f'denoised_mse_log_snr_{LOWEST + WIDTH * (i + 0.5):+.0f}' for i in range(BINS)]  # by the middle of the bin


def _by_level(method: Method, state: State, batch: Batch, key: Key, draws: int) -> SumCount:
  """Mean square error of x0 of each example at a level of every bin, evenly apart over examples.

  Levels that the model was not trained at do not count; a bin without any other has no figure.
  """
  del draws
  task, index = method.tasks[DENOISE], batch['index']
  keys = random.per_example(key, index)
  offset = diffusion.quantiles_by_number(jnp.zeros(()), index)
  log_snr = LOWEST + WIDTH * (jnp.arange(BINS) + offset[:, None])
  given = {name: batch[name] for name in task.inputs if name in batch}
  found = task.run(state, {**given, 'log_snr': log_snr}, keys)
  errors, counts = found['mse'] * found['trained'], found['trained']
  return {name: (errors[:, i], counts[:, i]) for i, name in enumerate(NAMES)}


METRICS = (
  Metric('noise_levels', ('image',), dict.fromkeys(NAMES, 'min'), EXAMPLES, needs=(DENOISE,), per_example=_by_level),
)
