"""In which order an endless training reads examples: permutations, one an epoch, addressed by (seed, epoch)."""

import functools
from collections.abc import Callable

import numpy as np


def shuffled(position: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(example, epoch), int64 [N], at `position` int64 [N], rising, of the concatenation of permutations of `n`."""
  epoch, place = np.divmod(position, n)
  example = np.empty_like(position)
  for e in range(int(epoch[0]), int(epoch[-1]) + 1) if len(epoch) else ():
    now = epoch == e
    example[now] = _permutations(seed, n)(e)[place[now]]
  return example, epoch


# A mixture reads many sources in turns, each within an epoch of its own or at the border of two: each keeps two.
@functools.lru_cache(maxsize=64)
def _permutations(seed: int, n: int) -> Callable[[int], np.ndarray]:
  return functools.lru_cache(maxsize=2)(functools.partial(permutation, seed, n=n))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """int64 [n], int32 if that can hold it.

  Sorts raw Philox words: NumPy keeps those fixed for ever, and may change `Generator.permutation`.
  """
  order = np.argsort(np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n), kind='stable')
  order = order.astype(np.int32) if n <= np.iinfo(np.int32).max else order
  order.flags.writeable = False  # shared by all who ask
  return order


@functools.lru_cache(maxsize=256)
def offset(seed: int, epoch: int, block_size: int) -> int:
  """Where an epoch begins to cut a text into blocks, in [0, block_size)."""
  return int(np.random.Philox(np.random.SeedSequence([seed, epoch, 1])).random_raw()) % block_size
