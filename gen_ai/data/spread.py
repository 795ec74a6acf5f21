"""The spread of images: how much a pixel varies from image to image, which tells a collapsed generator at once.

It is the standard deviation of a pixel over the images (n - 1 in the denominator, so that few images are not low for
being few), averaged over pixels and channels, for values in [-1, 1]. 0: all images are one. A sound generator comes
near the spread of the data; one that draws means, as a VAE does, stays below.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from gen_ai.data.source import IMAGE, Source
from gen_ai.maths.pixels import to_signed

NAME = 'spread'  # of the metric
FEWEST = 2  # images that have one
_MOST = 4096  # images of a data set, evenly spaced: more hardly tell better
_BLOCK = 256  # images in float64 at once


def of_blocks(blocks: Iterable[np.ndarray]) -> float:
  """The spread of all images of blocks [n, H, W, C], uint8 levels or floats in [-1, 1]; of `FEWEST` or more images."""
  first: Any = None
  n, total, squares = 0, 0.0, 0.0  # the latter of differences from the first image: exactly 0 where all are one
  for block in blocks:
    x = (to_signed(block) if block.dtype == np.uint8 else block).astype(np.float64)
    first = x[0] if first is None else first
    n, total, squares = n + len(x), total + (x - first).sum(0), squares + ((x - first) ** 2).sum(0)
  variance = np.maximum(squares - np.square(total) / n, 0.0) / (n - 1)
  return float(np.sqrt(variance).mean())


def of_images(images: np.ndarray) -> float:
  """The spread of images [n, H, W, C], uint8 levels or floats in [-1, 1]."""
  return of_blocks(images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK))


@functools.lru_cache(maxsize=1)  # the lanes of a sweep share their data
def of_source(source: Source) -> float | None:
  """The spread of the images of a split; None for a single one."""
  n = min(len(source), _MOST)
  index = source.eval_index(np.arange(n) * len(source) // n)
  read = (source.read(index[start : start + _BLOCK])[IMAGE] for start in range(0, n, _BLOCK))
  return of_blocks(read) if n >= FEWEST else None
