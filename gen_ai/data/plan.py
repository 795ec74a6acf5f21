"""Which example is read when: a pure function of (seed, step), so a resumed run needs the integer step and no more."""

import numpy as np

from gen_ai.data.source import Source


def train_plan(source: Source, seed: int, step: int, steps: int, batch_size: int) -> np.ndarray:
  """Indices [steps, batch_size] of the batches of steps [step, step + steps), int32 or as the source numbers them.

  Row j of step k is position k * batch_size + j in the endless sequence of the source (`Source.planned`), such as the
  concatenation of the epochs' permutations; a batch may straddle epochs. The plan of a stretch is the concatenation of
  the plans of its parts.

  Args:
    source: the training split.
    seed: `data.seed`, not negative.
    step: updates completed so far.
    steps: rows wanted.
    batch_size: examples in one global batch.
  """
  position = np.arange(step * batch_size, (step + steps) * batch_size, dtype=np.int64)
  return source.planned(position, seed).reshape(steps, batch_size)


def eval_plan(source: Source, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """All examples once, in order, the ragged last batch filled up.

  Returns:
    index [n_batches, batch_size], int32 or as the source numbers examples, and mask float32 of the same shape: 1 for an
    example, 0 for filling (index 0).
  """
  n = source.evaluated
  n_batches = -(-n // batch_size)
  own = source.eval_index(np.arange(n, dtype=np.int64))
  index = np.zeros(n_batches * batch_size, own.dtype)
  index[:n] = own
  mask = np.arange(n_batches * batch_size) < n
  return index.reshape(n_batches, batch_size), mask.astype(np.float32).reshape(n_batches, batch_size)
