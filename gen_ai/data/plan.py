"""Which example is read when: a pure function of (seed, step), so a resumed run needs the integer step and no more."""

import functools

import numpy as np

from gen_ai.data.source import Source


def train_plan(source: Source, seed: int, step: int, steps: int, batch_size: int) -> np.ndarray:
  """Indices int32 [steps, batch_size] of the batches of steps [step, step + steps).

  Row j of step k is position k * batch_size + j in the endless concatenation of the epochs' permutations; a batch may
  straddle epochs. The plan of a stretch is the concatenation of the plans of its parts.

  Args:
    source: the training split.
    seed: `data.seed`, not negative.
    step: updates completed so far.
    steps: rows wanted.
    batch_size: examples in one global batch.
  """
  n = len(source)
  position = np.arange(step * batch_size, (step + steps) * batch_size, dtype=np.int64)
  epoch, place = np.divmod(position, n)
  example = np.empty_like(position)
  for e in range(int(epoch[0]), int(epoch[-1]) + 1) if len(epoch) else ():
    now = epoch == e
    example[now] = _permutation(seed, e, n)[place[now]]
  return source.train_index(example, epoch, seed).reshape(steps, batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """int64 [n]. Sorts raw Philox words: NumPy keeps those fixed for ever, and may change `Generator.permutation`."""
  order = np.argsort(np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n), kind='stable')
  order.flags.writeable = False  # shared by all who ask
  return order


def eval_plan(source: Source, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """All examples once, in order, the ragged last batch filled up.

  Returns:
    index int32 [n_batches, batch_size], and mask float32 of the same shape: 1 for an example, 0 for filling (index 0).
  """
  n = len(source)
  n_batches = -(-n // batch_size)
  index = np.zeros(n_batches * batch_size, np.int32)
  index[:n] = source.eval_index(np.arange(n, dtype=np.int64))
  mask = np.arange(n_batches * batch_size) < n
  return index.reshape(n_batches, batch_size), mask.astype(np.float32).reshape(n_batches, batch_size)
