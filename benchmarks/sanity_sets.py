"""Sets of images of which it is known how good they are, and the order in which figures must put them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.real_data import RealData
from gen_ai.core.errors import UserError

NOISE = (16, 32, 64, 128)  # standard deviations, in grey levels of 255
BLUR = (0.5, 1.0, 2.0, 4.0)  # standard deviations, in pixels
FAINT = 2  # noise on copies: no pixel-by-pixel duplicates, and nothing to see
TIMES = 20  # how often an image is there in the set of duplicates
REMOVED = {'1 class removed': (1,), '5 classes removed': (1, 3, 5, 7, 9)}
ALPHA = 0.01  # the audit of copies fires below this p

BETTER_LOW = ('fd', 'fd_infinity', 'kid', 'sliced_wasserstein')
BETTER_HIGH = ('precision', 'recall', 'density', 'coverage', 'inception_score')

TRAIN, FRESH, UNIFORM = 'train', 'validation', 'uniform noise'
NOISY = tuple(f'test + noise {level}' for level in NOISE)
BLURRED = tuple(f'test, blur {level:g}' for level in BLUR)
REPEATED, HALF, FAINT_COPIES = f'train, each {TIMES} times', 'half train, half val.', f'train + noise {FAINT}'

Figures = Mapping[str, Mapping[str, float]]  # {set: {figure: value}}


class ImageSet(NamedTuple):
  """A set to be judged.

  Attributes:
    name: in the table.
    make: () -> uint8 [n, H, W, C].
    audited: whether it is compared with the training images too. Not where it is made of test images: these are the
      held-out data that the audit compares with. Nor uniform noise, which may miss every cell that held-out data is in.
  """

  name: str
  make: Callable[[], np.ndarray]
  audited: bool


class Verdict(NamedTuple):
  """Whether something that must hold did, with the figures that say so."""

  what: str
  held: bool
  figures: str


def noisy(images: np.ndarray, level: float, seed: int) -> np.ndarray:
  """`images` uint8 with Gaussian noise of `level` grey levels, rounded and clipped; one seed gives one pattern."""
  noise = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
  return (images + level * noise).round().clip(0, 255).astype(np.uint8)


def blurred(images: np.ndarray, level: float) -> np.ndarray:
  """`images` uint8 [n, H, W, C] under a Gaussian of `level` pixels, edges repeated."""
  from scipy.ndimage import gaussian_filter

  smooth = gaussian_filter(images.astype(np.float32), (0, level, level, 0), mode='nearest')
  return smooth.round().clip(0, 255).astype(np.uint8)


def image_sets(data: RealData, n: int, seed: int) -> list[ImageSet]:
  """The sets in the order of the table, `n` images each, or as many as the split has.

  Raises:
    UserError: too few training images for `n`.
  """
  sizes = {split: len(data.dataset.splits[split]) for split in ('train', FRESH, 'test')}
  order = np.random.default_rng(seed).permutation(sizes['train'])
  labels = data.labels('train')[order]
  fewest = min(sizes['train'], *(int((~np.isin(labels, gone)).sum()) for gone in REMOVED.values()))
  if n > fewest or n // 2 > sizes[FRESH]:
    raise UserError(
      f'--samples={n:,} are too many for {data.dataset.name}: without 5 classes {fewest:,} training '
      f'images are left, and half of the samples are of {sizes[FRESH]:,} validation images.'
    )

  def train(keep: np.ndarray | slice = slice(None), count: int = n) -> np.ndarray:
    return data.images('train', order[keep][:count])

  def test() -> np.ndarray:
    return data.images('test', np.arange(min(n, sizes['test'])))

  def noise(level: float) -> np.ndarray:
    return noisy(test(), level, seed)

  def blur(level: float) -> np.ndarray:
    return blurred(test(), level)

  def fresh(count: int = n) -> np.ndarray:
    return data.images(FRESH, np.arange(min(count, sizes[FRESH])))

  def half() -> np.ndarray:
    both = np.concatenate([train(count=n - n // 2), fresh(n // 2)])
    return np.random.default_rng(seed).permutation(both)

  def uniform() -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *data.dataset.spec.shape), np.uint8)

  return [
    ImageSet(TRAIN, train, True),
    ImageSet(FRESH, fresh, True),
    *(ImageSet(name, partial(noise, level), False) for name, level in zip(NOISY, NOISE, strict=True)),
    *(ImageSet(name, partial(blur, level), False) for name, level in zip(BLURRED, BLUR, strict=True)),
    *(ImageSet(name, partial(train, ~np.isin(labels, gone)), True) for name, gone in REMOVED.items()),
    ImageSet(REPEATED, lambda: np.tile(train(count=n // TIMES), (TIMES, 1, 1, 1)), True),
    ImageSet(HALF, half, True),
    ImageSet(FAINT_COPIES, lambda: noisy(train(), FAINT, seed), True),
    ImageSet(UNIFORM, uniform, False),
  ]


def in_order(found: Figures, what: str, names: Sequence[str], figure: str, rises: bool) -> Verdict:
  """Whether `figure` gets strictly larger (`rises`) or smaller from set to set; a share may stay at 0 or at 1."""
  values = [found[name][figure] for name in names]
  steps = list(zip(values, values[1:], strict=False))
  ends = (0.0, 1.0) if figure in ('precision', 'recall', 'coverage') else ()
  held = all(b > a if rises else b < a or a == b and a in ends for a, b in steps)
  return Verdict(f'{what}: {figure} {"rises" if rises else "falls"}', held, ' -> '.join(f'{v:.4g}' for v in values))


def verdicts(found: Figures) -> list[Verdict]:
  """Everything that must hold, and nothing that merely may.

  MS-SSIM is no quality: noise makes images unlike each other, blur alike, and a class may be more alike than others.
  Precision need not suffer from missing classes, nor C_T from being far off.
  """
  up, down = dict.fromkeys(BETTER_LOW, True), dict.fromkeys(BETTER_HIGH, False)
  smaller = {'recall': False, 'coverage': False}
  orders: tuple[tuple[str, Sequence[str], dict[str, bool]], ...] = (
    ('noise', NOISY, up | down),
    ('blur', BLURRED, up | down | {'ms_ssim': True}),
    ('classes removed', (TRAIN, *REMOVED), up | smaller | {'inception_score': False}),
    ('the same images again', (TRAIN, REPEATED), smaller),
  )
  result = [
    in_order(found, what, names, figure, rises) for what, names, figures in orders for figure, rises in figures.items()
  ]
  result += _floor(found)
  result += [_audit(found, name, True) for name in (TRAIN, REPEATED, HALF, FAINT_COPIES)]
  result.append(_audit(found, FRESH, False))
  shares = (
    (TRAIN, 'duplicates_share', 1.0),
    (HALF, 'duplicates_share', 0.5),
    (REPEATED, 'duplicates_share', 1.0),
    (REPEATED, 'repeated_share', 1 - 1 / TIMES),
  )
  for name, figure, least in shares:
    value = found[name][figure]
    result.append(Verdict(f'{name}: {figure} at least {least:g}', value >= least - 1e-9, f'{value:.4g}'))
  return result


def _floor(found: Figures) -> list[Verdict]:
  """Training images lie below everything that is neither as good (other real images) nor made of the test images."""
  others = (*NOISY[-2:], *BLURRED[-2:], *REMOVED, REPEATED, UNIFORM)
  result = []
  for figure in BETTER_LOW:
    least = min(others, key=lambda name: found[name][figure])
    value, other = found[TRAIN][figure], found[least][figure]
    figures = f'{value:.4g}, then {other:.4g} ({least})'
    result.append(Verdict(f'{figure}: training images are the floor', value < other, figures))
  return result


def _audit(found: Figures, name: str, fires: bool) -> Verdict:
  """Whether the audit fires on copies and is silent on fresh data."""
  p, c_t = found[name]['c_t_p'], found[name]['c_t']
  what = f'{name}: C_T {"tells copies" if fires else "stays silent"} at p = {ALPHA:g}'
  return Verdict(what, (p < ALPHA) == fires, f'C_T {c_t:.2f}, p {p:.3g}')
