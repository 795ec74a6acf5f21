"""Image files: one picture to a uint8 array, and a folder of them to examples."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from gen_ai.data import store
from gen_ai.data.source import ArrayExamples
from gen_ai.errors import UserError

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
_MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV')  # 8 bit


def fit(picture: Any, size: int, grey: bool) -> np.ndarray:
  """uint8 [H, W, C] of a PIL image: C is 1 if `grey`, else 3.

  Args:
    picture: a PIL image.
    size: 0 leaves it as it is; otherwise the shorter side is scaled to `size` (antialiased bicubic), the centre kept.
    grey: luminance (ITU-R 601) instead of colour.
  """
  from PIL import Image, ImageOps

  picture = picture.convert('L' if grey else 'RGB')
  if size and picture.size != (size, size):
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
  return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, -1)


def fit_array(image: np.ndarray, size: int, grey: bool) -> np.ndarray:
  """`fit` for an image uint8 [H, W, C] with C 1 or 3; a one-channel image stays one-channel."""
  from PIL import Image

  one = image.shape[-1] == 1
  if (not size or image.shape[:2] == (size, size)) and (one or not grey):
    return image
  return fit(Image.fromarray(image[..., 0] if one else image), size, grey or one)


def folder(path: str, image_size: int, grey: bool, on_bad_image: str, data_dir: str) -> tuple[ArrayExamples, int]:
  """The images under a folder, in a fixed permutation.

  Sub-folders are classes, labelled in the order of their names; without sub-folders the images carry no labels. A
  class folder is read with all folders below it.

  Args:
    path: the folder.
    image_size, grey: see `fit`.
    on_bad_image: 'refuse' or 'skip' images that are broken or odd: unreadable, truncated, not 8 bits a channel, or
      lying loose beside class folders. Skipped images are reported by path.
    data_dir: `data.data_dir`, where decoded images are kept.

  Returns:
    the examples, and the number of classes (0: no labels).

  Raises:
    UserError: no such folder, no images in it, images of different sizes without `image_size`, a bad image refused.
  """
  what = f'data set folder:{path}'
  if on_bad_image not in ('refuse', 'skip'):
    raise UserError(f"data.on_bad_image={on_bad_image!r} is neither 'refuse' nor 'skip'.")
  root = Path(path).expanduser()
  files, labels, num_classes, loose = _scan(root, what)
  shape = _shape(root, files, image_size, grey, what)
  stats = [(name, (root / name).stat()) for name in files]
  listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
  place = (
    store.data_folder(data_dir) / 'decoded' / f'folder-{store.key(str(root.resolve()), listing, image_size, grey)}'
  )
  read_rows = functools.partial(_read_rows, root, files, labels, shape, image_size, grey)
  to_file = len(files) * int(np.prod(shape)) >= store.FILE_BYTES
  examples, bad = store.decoded(read_rows, len(files), shape, place, to_file)
  bad = [f'{root / name} lies beside class folders' for name in loose] + bad
  if on_bad_image == 'refuse':
    store.refuse(what, bad)
  for message in bad:
    logging.warning('%s: skipped: %s', what, message)
  if not len(examples):
    raise UserError(f'{what}: no image is left after skipping {len(bad)} bad ones.')
  return (examples if num_classes else ArrayExamples(examples.image, None)), num_classes


def _scan(root: Path, what: str) -> tuple[list[str], np.ndarray, int, list[str]]:
  """File names relative to `root` in a fixed permutation, labels int32 [N], the number of classes, loose files."""
  if not root.is_dir():
    raise UserError(f'{what}: {root.absolute()} is {"not a folder" if root.exists() else "not there"}.')
  found = sorted(p.relative_to(root) for p in root.rglob('*') if p.suffix.lower() in _SUFFIXES and p.is_file())
  found = [p for p in found if not any(part.startswith('.') for part in p.parts)]
  if not found:
    raise UserError(f'{what}: no image file under {root.absolute()} (looked for {" ".join(_SUFFIXES)}).')
  classes = sorted({p.parts[0] for p in found if len(p.parts) > 1})
  loose = [p.as_posix() for p in found if len(p.parts) == 1] if classes else []
  kept = [p for p in found if len(p.parts) > 1] if classes else found
  labels = [classes.index(p.parts[0]) for p in kept] if classes else [-1] * len(kept)
  # Sorted files come class by class: cut as they are, the splits would hold different classes.
  order = np.argsort(np.random.Philox(np.random.SeedSequence(0)).random_raw(len(kept)), kind='stable')
  return [kept[i].as_posix() for i in order], np.array(labels, np.int32)[order], len(classes), loose


def _shape(root: Path, files: list[str], image_size: int, grey: bool, what: str) -> tuple[int, int, int]:
  """(H, W, C) that every image must have: of the first readable one where `image_size` does not say."""
  channels = 1 if grey else 3
  if image_size:
    return image_size, image_size, channels
  for name in files:
    image, _ = _read(root / name, 0, grey)
    if image is not None:
      return image.shape
  raise UserError(f'{what}: none of the {len(files)} image files under {root.absolute()} can be read.')


def _read(path: Path, image_size: int, grey: bool) -> tuple[np.ndarray | None, str]:
  """uint8 [H, W, C], or None and what is wrong."""
  from PIL import Image, ImageOps

  try:
    with Image.open(path) as picture:
      if picture.mode not in _MODES:
        return None, f'{path} has pixels of mode {picture.mode}, not 8 bits a channel'
      return fit(ImageOps.exif_transpose(picture), image_size, grey), ''
  except Exception as e:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more on broken files
    return None, f'{path} cannot be read ({e})'


def _read_rows(
  root: Path,
  files: list[str],
  labels: np.ndarray,
  shape: tuple[int, ...],
  image_size: int,
  grey: bool,
  index: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
  images, bad = np.zeros((len(index), *shape), np.uint8), {}
  for row, i in enumerate(index):
    image, wrong = _read(root / files[i], image_size, grey)
    if image is None:
      bad[row] = wrong
    elif image.shape != shape:
      (h, w), (h0, w0) = image.shape[:2], shape[:2]
      raise UserError(f'{root / files[i]} is {w}x{h}, other images are {w0}x{h0}: set data.image_size.')
    else:
      images[row] = image
  return images, labels[index], bad
