"""Multi-scale structural similarity of images (Wang, Simoncelli & Bovik 2003), and the diversity of samples by it.

At each scale the images are compared under a Gaussian window, then halved by averaging 2 x 2 pixels. Choices that codes
differ in: windows stay inside the image; an odd side is continued by its last pixel before halving; negative means
count as 0; channels are compared one by one and averaged.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
WINDOW, SIGMA = 11, 1.5  # pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # keep quotients of dark or flat regions stable
MIDDLE = 127.5  # squares of values around 0 keep more digits
PAIRS = 1000
ROWS = 64  # pairs compared at once


def scales(H: int, W: int) -> int:
  """How many of the 5 scales an H x W image is compared at: those as large as the window, and always the first."""
  count, side = 1, min(H, W)
  while count < len(WEIGHTS) and (side := math.ceil(side / 2)) >= WINDOW:
    count += 1
  return count


@jax.jit
def ms_ssim(x: Array, y: Array) -> Array:
  """MS-SSIM of pairs: 1 for equal images, near 0 for unrelated ones.

  Images too small for 5 scales (sides below 161) use the first `scales(H, W)` weights, made to add up to 1. In images
  smaller than the window both it and its sigma shrink.

  Args:
    x, y: [B, H, W, C], uint8 or float in [0, 255].

  Returns:
    float32 [B].
  """
  _, H, W, _ = x.shape
  x, y = x.astype(jnp.float32) - MIDDLE, y.astype(jnp.float32) - MIDDLE
  weights = np.asarray(WEIGHTS[: scales(H, W)])
  weights = weights / weights.sum()
  product = jnp.ones((), jnp.float32)
  for scale, weight in enumerate(weights):
    luminance, contrast = _compare(x, y)
    last = scale == len(weights) - 1
    mean = jnp.mean(luminance * contrast if last else contrast, (1, 2))  # [B, C]
    product = product * jnp.maximum(mean, 0.0) ** weight
    if not last:
      x, y = _halve(x), _halve(y)
  return jnp.mean(product, -1)


def pair_plan(n: int, pairs: int = PAIRS) -> int:
  """How many pairs of `n` samples `diversity` compares: no sample is in two, so that pairs are independent.

  Raises:
    UserError: too few samples, or pairs, for a standard error.
  """
  if n < 4 or pairs < 2:
    raise UserError(f'The diversity of samples needs 2 pairs of 4 samples or more; got {pairs} pairs of {n} samples.')
  return min(pairs, n // 2)


def diversity(images: np.ndarray, seed: int, pairs: int = PAIRS) -> tuple[float, float]:
  """Mean MS-SSIM over random pairs of distinct samples (as in arXiv 1610.09585, sec. 4.2): low is diverse.

  Args:
    images: uint8 [N, H, W, C].
    seed: of the pairs.
    pairs: how many; at most N / 2 (`pair_plan`).

  Returns:
    (mean, standard error).

  Raises:
    UserError: images of another type or shape, too few of them.
  """
  if images.ndim != 4 or images.dtype != np.uint8:
    raise UserError(f'MS-SSIM compares images uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}.')
  pairs = pair_plan(len(images), pairs)
  left, right = np.random.default_rng(seed).permutation(len(images))[: 2 * pairs].reshape(2, pairs)
  values = np.asarray(_compare_pairs(images[left], images[right]), np.float64)
  return float(values.mean()), float(values.std(ddof=1) / np.sqrt(pairs))


@jax.jit
def _compare_pairs(x: Array, y: Array) -> Array:
  """`ms_ssim` of many pairs, ROWS at a time."""
  return jax.lax.map(lambda pair: ms_ssim(pair[0][None], pair[1][None])[0], (x, y), batch_size=ROWS)


def _compare(x: Array, y: Array) -> tuple[Array, Array]:
  """Luminance term and contrast-structure term (eq. 1 to 3, with C3 = C2 / 2), each [B, H', W', C]."""
  _, H, W, _ = x.shape
  size = min(WINDOW, H, W)
  rows, columns = _window_matrix(H, size), _window_matrix(W, size)

  def blur(image):  # two small matrix products: many times faster on a CPU than a convolution for each channel
    image = jnp.einsum('ih,bhwc->biwc', rows, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum('jw,biwc->bijc', columns, image, precision=jax.lax.Precision.HIGHEST)

  mx, my = blur(x), blur(y)
  vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
  mx, my = mx + MIDDLE, my + MIDDLE
  luminance = (2 * mx * my + C1) / (mx * mx + my * my + C1)
  return luminance, (2 * vxy + C2) / (vx + vy + C2)


def _window_matrix(side: int, size: int) -> np.ndarray:
  """float32 [side - size + 1, side]: row i is the window of `size` pixels that starts at pixel i."""
  at = np.arange(size) - (size - 1) / 2
  window = np.exp(-0.5 * (at / (SIGMA * size / WINDOW)) ** 2)
  matrix = np.zeros((side - size + 1, side), np.float32)
  for i, row in enumerate(matrix):
    row[i : i + size] = window / window.sum()
  return matrix


def _halve(image: Array) -> Array:
  """Means of 2 x 2 pixels: [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), C]."""
  B, H, W, C = image.shape
  image = jnp.pad(image, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)), mode='edge')
  return image.reshape(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C).mean((2, 4))
