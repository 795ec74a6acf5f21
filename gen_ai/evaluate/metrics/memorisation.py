"""Do samples copy the training set? Distances to it against those of held-out data, copies, and the statistic C_T."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import neighbours

PAIRS = 10  # closest pairs that are named and shown
_NEAR_QUANTILE = 0.001  # of held-out data: what counts as a near duplicate
_LEAST = 20  # samples and held-out examples that a cell needs (the paper's tau is 20 / N)
_PER_CELL, _MOST_CELLS = 200, 50  # the paper has 50 cells for 10,000 images
_KMEANS_ROWS, _KMEANS_STEPS = 20_000, 10  # a partition need not be a good clustering, only a fixed one


class Copying(NamedTuple):
  """The data-copying statistic.

  Attributes:
    c_t: mean of the cells' Z-scores weighted by held-out share; below 0: samples lie closer to the training set.
    z: c_t over its standard deviation under the null hypothesis, standard normal there.
    p_value: one-sided, small if samples lie closer to the training set than held-out data does.
    cells: of the partition.
    cells_used: with enough samples and held-out examples.
    heldout_share: of the held-out examples that lie in the cells used.
  """

  c_t: float
  z: float
  p_value: float
  cells: int
  cells_used: int
  heldout_share: float


class Audit(NamedTuple):
  """What was found out about N samples, a training set and H held-out examples.

  Attributes:
    copying: the statistic C_T.
    train_distance, train_index: float32 and int32 [N], the nearest training example of every sample, by features.
    heldout_distance, heldout_index: the nearest held-out example of every sample.
    exact, exact_share: samples with the very pixels of a training example.
    exact_heldout, exact_heldout_share: the same of held-out examples: duplicates in the data itself.
    near_distance: the 0.1% quantile of the distances from held-out examples to the training set.
    near, near_share: samples no further than that from the training set.
    near_heldout_share: the same of held-out examples.
    near_chance: the share expected of fresh data.
    repeated, repeated_share: samples with the very pixels of an earlier sample.
    pairs: int32 [10, 2], (sample, training example) of the closest pairs (fewer where there are fewer samples).
    pair_distances: float32 [10].
  """

  copying: Copying
  train_distance: np.ndarray
  train_index: np.ndarray
  heldout_distance: np.ndarray
  heldout_index: np.ndarray
  exact: int
  exact_share: float
  exact_heldout: int
  exact_heldout_share: float
  near_distance: float
  near: int
  near_share: float
  near_heldout_share: float
  near_chance: float
  repeated: int
  repeated_share: float
  pairs: np.ndarray
  pair_distances: np.ndarray


class Examples(NamedTuple):
  """Images uint8 [n, H, W, C] and their features float [n, D]."""

  images: np.ndarray
  features: np.ndarray


def audit(
  samples: Examples, train: Examples, heldout: Examples, seed: int, cells: int | None = None, mesh: Mesh | None = None
) -> Audit:
  """The memorisation audit of samples.

  Args:
    samples, train, heldout: images of one shape with features of one extractor.
    seed: of the partition for C_T.
    cells: of that partition; see `copying`.
    mesh: devices of this process to split the work over; one device by default.

  Raises:
    UserError: images of unlike shapes or not uint8, not as many as their features, or what `copying` raises.
  """
  _check_images(samples, train, heldout)
  distance, index = (column[:, 0] for column in neighbours.nearest(samples.features, train.features, 1, mesh=mesh))
  fresh = neighbours.nearest(heldout.features, train.features, 1, mesh=mesh)[0][:, 0]
  other, other_index = (c[:, 0] for c in neighbours.nearest(samples.features, heldout.features, 1, mesh=mesh))
  N, H = len(distance), len(fresh)
  near_distance = float(np.quantile(fresh, _NEAR_QUANTILE, method='lower'))
  near, near_heldout = int(np.sum(distance <= near_distance)), int(np.sum(fresh <= near_distance))
  exact, exact_heldout = _copies(samples.images, train.images), _copies(heldout.images, train.images)
  repeated = N - len(set(_digests(samples.images)))
  closest = np.lexsort((index, distance))[:PAIRS]
  return Audit(
    copying=_copying(samples.features, train.features, heldout.features, distance, fresh, seed, cells, mesh),
    train_distance=distance,
    train_index=index,
    heldout_distance=other,
    heldout_index=other_index,
    exact=exact,
    exact_share=exact / N,
    exact_heldout=exact_heldout,
    exact_heldout_share=exact_heldout / H,
    near_distance=near_distance,
    near=near,
    near_share=near / N,
    near_heldout_share=near_heldout / H,
    near_chance=near_heldout / (H + 1),  # a fresh example falls into each of the H + 1 gaps alike
    repeated=repeated,
    repeated_share=repeated / N,
    pairs=np.stack([closest, index[closest]], 1).astype(np.int32),
    pair_distances=distance[closest],
  )


def copying(
  samples: Any, train: Any, heldout: Any, seed: int, cells: int | None = None, mesh: Mesh | None = None
) -> Copying:
  """The statistic C_T of Meehan, Chaudhuri and Dasgupta (2020, arXiv 2004.05675, section 4) and its p-value.

  The space is cut into cells by k-means on training features. In every cell the distances of samples to their nearest
  training example are compared with those of held-out examples by a Mann-Whitney test. Deviations from the authors'
  code: the nearest training example of all, not of the cell; mid-ranks and tie correction; a cell also needs 20
  held-out examples, not only 20 samples. The p-value is ours: see `copying_statistic`.

  Args:
    samples: float [N, D], features.
    train: float [M, D].
    heldout: float [H, D], not used in training, from the same distribution.
    seed: of the partition.
    cells: of the partition; by default one for every 200 samples or held-out examples, whichever are fewer, at most 50.
    mesh: devices of this process to split the work over; one device by default.

  Raises:
    UserError: no cell has enough of both, more cells than training examples, or features that `nearest` refuses.
  """
  distance, fresh = (neighbours.nearest(x, train, 1, mesh=mesh)[0][:, 0] for x in (samples, heldout))
  return _copying(samples, train, heldout, distance, fresh, seed, cells, mesh)


def _copying(
  samples: Any,
  train: Any,
  heldout: Any,
  sample_distance: np.ndarray,
  heldout_distance: np.ndarray,
  seed: int,
  cells: int | None,
  mesh: Mesh | None,
) -> Copying:
  if cells is None:
    fewer = min(len(sample_distance), len(heldout_distance))
    cells = min(max(1, fewer // _PER_CELL), _MOST_CELLS, len(train))
  centres = _kmeans(neighbours.checked(train, 'features of the training set'), cells, seed, mesh)
  sample_cell, heldout_cell = (neighbours.nearest(x, centres, 1, mesh=mesh)[1][:, 0] for x in (samples, heldout))
  return copying_statistic(sample_distance, heldout_distance, sample_cell, heldout_cell, cells)


def copying_statistic(
  sample_distance: np.ndarray,
  heldout_distance: np.ndarray,
  sample_cell: np.ndarray,
  heldout_cell: np.ndarray,
  cells: int,
) -> Copying:
  """C_T of distances to the nearest training example.

  Given how many samples and held-out examples fall into each cell, the cells' Z are independent under the null
  hypothesis, each with mean 0 and variance 1; so the weighted mean is divided by the norm of its weights.

  Args:
    sample_distance, heldout_distance: [N] and [H].
    sample_cell, heldout_cell: int [N] and [H], from 0 to cells - 1.
    cells: of the partition.

  Raises:
    UserError: no cell has 20 samples and 20 held-out examples, or all distances are equal.
  """
  from scipy.special import ndtr

  scores, weights = [], []
  for cell in range(cells):
    here, fresh = sample_distance[sample_cell == cell], heldout_distance[heldout_cell == cell]
    enough = min(len(here), len(fresh)) >= _LEAST
    score = rank_z(here, fresh) if enough else None
    if score is not None:
      scores.append(score)
      weights.append(len(fresh))
  if not scores:
    raise UserError(
      f'the data-copying statistic needs a cell with {_LEAST} samples and {_LEAST} held-out examples at unlike '
      f'distances; none of {cells} has that with {len(sample_distance)} samples and {len(heldout_distance)} held-out '
      'examples: give more, or ask for fewer cells.'
    )
  share = np.array(weights) / sum(weights)
  c_t = float(share @ scores)
  z = c_t / float(np.linalg.norm(share))
  return Copying(c_t, z, float(ndtr(z)), cells, len(scores), sum(weights) / len(heldout_distance))


def rank_z(first: np.ndarray, second: np.ndarray) -> float | None:
  """Mann-Whitney's U of `first` against `second`, standardised, with mid-ranks and the correction for ties.

  Below 0: `first` tends to be smaller. None where all values are equal. No correction for continuity, so that it has
  mean 0 under the null hypothesis.

  Args:
    first, second: [m] and [n].
  """
  from scipy.stats import rankdata

  m, n = len(first), len(second)
  values = np.concatenate([first, second])
  _, ties = np.unique(values, return_counts=True)
  ties, total = ties.astype(np.float64), m + n
  variance = m * n / 12 * (total + 1 - np.sum(ties**3 - ties) / (total * (total - 1)))
  if len(ties) == 1:
    return None
  u = rankdata(values)[:m].sum() - m * (m + 1) / 2
  return float((u - m * n / 2) / np.sqrt(variance))


def _kmeans(x: np.ndarray, cells: int, seed: int, mesh: Mesh | None) -> np.ndarray:
  """Centres float32 [cells, D]: k-means++ seeding (Arthur and Vassilvitskii 2007) and a few of Lloyd's steps."""
  if not 1 <= cells <= len(x):
    raise UserError(f'{cells} cells were asked for with {len(x)} training examples: take from 1 to that many.')
  rng = np.random.default_rng(seed)
  if len(x) > _KMEANS_ROWS:
    x = x[np.sort(rng.choice(len(x), _KMEANS_ROWS, replace=False))]
  centres, squared = np.empty((cells, x.shape[1]), np.float32), np.full(len(x), 1.0)
  for i in range(cells):
    if not squared.any():  # fewer distinct examples than cells
      squared[:] = 1.0
    centres[i] = x[rng.choice(len(x), p=squared / squared.sum())]
    gap = neighbours.paired_distances(x, centres, np.arange(len(x)), np.full(len(x), i)) ** 2
    squared = np.minimum(squared, gap) if i else gap
  for _ in range(_KMEANS_STEPS):
    cell = neighbours.nearest(x, centres, 1, mesh=mesh)[1][:, 0]
    order = np.argsort(cell, kind='stable')
    filled, starts = np.unique(cell[order], return_index=True)
    sums = np.add.reduceat(x[order], starts, axis=0, dtype=np.float64)
    centres[filled] = sums / np.diff(np.append(starts, len(x)))[:, None]
  return centres


def pairs_picture(samples: np.ndarray, train: np.ndarray, pairs: np.ndarray) -> np.ndarray:
  """Samples above the training examples they are closest to: for `pictures.save_grid(..., columns=len(pairs))`.

  Args:
    samples, train: uint8 [N, H, W, C] and [M, H, W, C].
    pairs: int [P, 2], as in `Audit`.

  Returns:
    uint8 [2 P, H, W, C].
  """
  return np.concatenate([samples[pairs[:, 0]], train[pairs[:, 1]]])


def _check_images(*sets: Examples) -> None:
  for name, examples in zip(('samples', 'training images', 'held-out images'), sets, strict=True):
    images, features = examples
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != sets[0].images.shape[1:]:
      raise UserError(
        f'the {name} are {images.dtype} {list(images.shape)}; the audit compares uint8 [number, H, W, C] of one shape.'
      )
    if len(images) != len(features):
      raise UserError(
        f'there are {len(images)} {name} but {len(features)} rows of features: one row an image is meant.'
      )


def _digests(images: np.ndarray) -> list[bytes]:
  return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def _copies(images: np.ndarray, train: np.ndarray) -> int:
  """How many images have the very pixels of a training image."""
  where = {digest: i for i, digest in enumerate(_digests(train))}
  found = [(i, where[digest]) for i, digest in enumerate(_digests(images)) if digest in where]
  return sum(bool(np.array_equal(images[i], train[j])) for i, j in found)
