"""Image files: one picture to a uint8 array, and a folder of them to examples."""

import collections
import functools
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from gen_ai.core import places
from gen_ai.core.errors import UserError
from gen_ai.data import store
from gen_ai.data.source import ArrayExamples

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
_MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB', 'HSV')  # 8 bit


_GREY_MODES = ('1', 'L', 'LA', 'La')
_GREY_STEPS = {'L;2': 85, 'L;4': 17}  # raw modes of PNG: levels of 8 bits between two of its own
_TESTED_AT_ONCE = 256  # images
_LISTED = 8  # classes or endings in a note

Levels = tuple[int, int, int]  # of red, green and blue, from 0 to 255


class Folder(NamedTuple):
  """What was read of an image folder.

  Attributes:
    examples: the images, with labels where there are class folders.
    class_names: of the class folders, by label; empty without any.
    notes: what a person should know of how they were read and of what was left out.
  """

  examples: ArrayExamples
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


class _Scan(NamedTuple):
  """The files of a folder: names relative to it, labels int32 [N], classes, images beside class folders, counts."""

  files: list[str]
  labels: np.ndarray
  class_names: tuple[str, ...]
  loose: list[str]
  left_out: Mapping[str, int]  # {what: how many}


def levels(background: str) -> Levels | None:
  """Levels of the colour that `data.background` names; None for 'none', which keeps colours as they are stored.

  Raises:
    UserError: none of 'white', 'black', 'none' and '#RRGGBB'.
  """
  if background == 'none':
    return None
  digits = {'white': '#ffffff', 'black': '#000000'}.get(background, background)
  if not re.fullmatch('#[0-9a-fA-F]{6}', digits):
    raise UserError(f"data.background={background!r} is none of 'white', 'black', 'none' and '#RRGGBB'.")
  red, green, blue = bytes.fromhex(digits[1:])
  return red, green, blue


def lay_over(picture: Any, background: Levels | None) -> Any:
  """A PIL image laid over one colour; the image itself where all of it is opaque, or without a background."""
  if background is None or not picture.has_transparency_data:
    return picture
  from PIL import Image

  whole = picture.convert('LA') if picture.mode == 'La' else picture
  whole = whole.convert('RGBA')
  if whole.getchannel('A').getextrema()[0] == 255:
    return picture
  return Image.alpha_composite(Image.new('RGBA', whole.size, (*background, 255)), whole).convert('RGB')


def fit(picture: Any, size: int, grey: bool, background: Levels | None = None) -> np.ndarray:
  """uint8 [H, W, C] of a PIL image: C is 1 if `grey`, else 3.

  Args:
    picture: a PIL image.
    size: 0 leaves it as it is; otherwise the shorter side is scaled to `size` (antialiased bicubic), the centre kept.
    grey: luminance (ITU-R 601) instead of colour.
    background: what shows through where it is transparent; None: the colours stored there.
  """
  from PIL import Image, ImageOps

  picture = lay_over(picture, background)
  if 'transparency' in picture.info:  # opaque all the same, or to be ignored: Pillow would warn
    picture = picture.copy()
    del picture.info['transparency']
  picture = picture.convert('L' if grey else 'RGB')
  if size and picture.size != (size, size):
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
  return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, -1)


def fit_array(image: np.ndarray, size: int, grey: bool, background: Levels | None = None) -> np.ndarray:
  """`fit` for an image uint8 [H, W, C] with C 1, 3 or 4 (the last one alpha); a one-channel image stays one-channel."""
  from PIL import Image

  one = image.shape[-1] == 1
  if (not size or image.shape[:2] == (size, size)) and (one or (image.shape[-1] == 3 and not grey)):
    return image
  return fit(Image.fromarray(image[..., 0] if one else image), size, grey or one, background)


def folder(
  path: str, image_size: int, grey: str, on_bad_image: str, data_dir: str, background: str = 'white'
) -> Folder:
  """The images under a folder, in a fixed permutation.

  Sub-folders are classes, labelled in the order of their names; without sub-folders the images carry no labels. A
  class folder is read with all folders below it. Links are followed, but every folder is read once: what links lead
  back to is left out.

  Args:
    path: the folder.
    image_size: see `fit`.
    grey: 'auto' (one channel where all channels of every image are equal), 'true' or 'false' (three channels).
    on_bad_image: 'refuse' or 'skip' images that are broken or odd: unreadable, truncated, not 8 bits a channel, or
      lying loose beside class folders. Skipped images are reported by path.
    data_dir: `data.data_dir`, where decoded images are kept.
    background: of transparent pixels, see `levels`.

  Raises:
    UserError: no such folder, no images in it, images of different sizes without `image_size`, a bad image refused.
  """
  what = f'data set folder:{path}'
  if on_bad_image not in ('refuse', 'skip'):
    raise UserError(f"data.on_bad_image={on_bad_image!r} is neither 'refuse' nor 'skip'.")
  ground = levels(background)
  root = places.expand(path, 'config.data.name=folder')
  files, labels, class_names, loose, left_out = _scan(root, what)
  stats = [(name, (root / name).stat()) for name in files]
  listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
  content = store.key(str(root.resolve()), listing, image_size, grey, background)
  place = store.data_folder(data_dir) / 'decoded' / f'folder-{content}'
  found = store.kept(place)
  if found is None:
    one = grey == 'true' or (grey == 'auto' and _all_grey([root / name for name in files], ground))
    shape = _shape(root, files, image_size, one, ground, what)
    read_rows = functools.partial(_read_rows, root, files, labels, shape, image_size, one, ground)
    found = store.decoded(read_rows, len(files), shape, place, len(files) * int(np.prod(shape)) >= store.FILE_BYTES)
  bad = [f'{root / name} lies beside class folders' for name in loose] + found.bad
  if on_bad_image == 'refuse':
    store.refuse(what, bad)
  for message in bad:
    logging.warning('%s: skipped: %s', what, message)
  examples = found.examples
  if not len(examples):
    raise UserError(f'{what}: no image is left after skipping {len(bad)} bad ones.')
  notes = [f'{len(class_names)} classes: {_listed(class_names)}'] if class_names else []
  if grey == 'auto' and examples.shape[2] == 1:
    notes.append('grey, as every image is')
  if found.transparent:
    notes.append(f'{found.transparent:,} with transparency, laid over {background}')
  out = {**left_out, 'bad images': len(bad)}
  if any(out.values()):
    notes.append(f'left out: {", ".join(f"{name} {count:,}" for name, count in out.items() if count)}')
  return Folder(examples if class_names else ArrayExamples(examples.image, None), class_names, tuple(notes))


def _listed(names: tuple[str, ...] | list[str]) -> str:
  return f'{", ".join(names[:_LISTED])}{", ..." if len(names) > _LISTED else ""}'


def _scan(root: Path, what: str) -> _Scan:
  """The files of `root` in a fixed permutation."""
  if not root.is_dir():
    raise UserError(f'{what}: {root.absolute()} is {"not a folder" if root.exists() else "not there"}.')
  found, left_out = _walk(root)
  if not found:
    others = ''.join(f'; {name} {count:,}' for name, count in left_out.items() if count)
    raise UserError(f'{what}: no image file under {root.absolute()} (looked for {" ".join(_SUFFIXES)}{others}).')
  classes = sorted({p.parts[0] for p in found if len(p.parts) > 1})
  loose = [p.as_posix() for p in found if len(p.parts) == 1] if classes else []
  kept = [p for p in found if len(p.parts) > 1] if classes else found
  labels = [classes.index(p.parts[0]) for p in kept] if classes else [-1] * len(kept)
  # Sorted files come class by class: cut as they are, the splits would hold different classes.
  order = np.argsort(np.random.Philox(np.random.SeedSequence(0)).random_raw(len(kept)), kind='stable')
  files = [kept[i].as_posix() for i in order]
  names = tuple(_printable(name) for name in classes)
  return _Scan(files, np.array(labels, np.int32)[order], names, loose, left_out)


def _walk(root: Path) -> tuple[list[Path], dict[str, int]]:
  """Image files below `root`, relative and sorted, and how much of what was left out.

  Links to folders are followed after all folders that lie there themselves, so that a folder keeps its own name.
  """
  files: list[Path] = []
  endings: collections.Counter[str] = collections.Counter()
  out: collections.Counter[str] = collections.Counter()
  above = {_identity(folder) for folder in root.resolve().parents}
  seen = {_identity(root)}
  folders, links = collections.deque([Path()]), collections.deque[Path]()
  while folders or links:
    place = folders.popleft() if folders else links.popleft()
    try:
      if place.parts:
        itself = _identity(root / place)
        if itself in seen or itself in above:
          out['links to folders that are read already' if itself in seen else 'links that lead back up'] += 1
          continue
        seen.add(itself)
      entries = sorted(os.scandir(root / place), key=lambda entry: entry.name)
    except OSError:
      out['folders that cannot be read'] += 1
      continue
    for entry in entries:
      path = place / entry.name
      if entry.name.startswith('.'):
        out['hidden'] += 1
      elif entry.is_dir(follow_symlinks=False):
        folders.append(path)
      elif _leads_to(entry, 'is_dir'):
        links.append(path)
      elif path.suffix.lower() not in _SUFFIXES:
        endings[_printable(path.suffix.lower()) or 'none'] += 1
      elif _leads_to(entry, 'is_file'):
        files.append(path)
      else:
        out['broken links'] += 1
  others = {f'other endings ({_listed(sorted(endings))})': endings.total()} if endings else {}
  return sorted(files), {**others, **out}


def _printable(name: str) -> str:
  """A name on disk as a text that any file can hold: names need not be UTF-8."""
  return os.fsencode(name).decode(errors='replace')


def _identity(folder: Path) -> tuple[int, int]:
  """What two paths to one folder share."""
  stat = folder.stat()
  return stat.st_dev, stat.st_ino


def _leads_to(entry: Any, kind: str) -> bool:
  try:
    return getattr(entry, kind)()
  except OSError:  # a link to itself, or through a folder that may not be entered
    return False


def _all_grey(paths: list[Path], background: Levels | None) -> bool:
  """Whether all channels of every image are equal. The first one in colour ends the search; bad images do not count."""
  with ThreadPoolExecutor() as pool:
    for start in range(0, len(paths), _TESTED_AT_ONCE):
      if not _is_grey(paths[start], background):
        return False
      if not all(pool.map(lambda path: _is_grey(path, background), paths[start : start + _TESTED_AT_ONCE])):
        return False
  return True


def _is_grey(path: Path, background: Levels | None) -> bool:
  from PIL import Image

  try:
    with Image.open(path) as picture:
      if picture.mode not in _MODES:
        return True
      if picture.mode in _GREY_MODES and (background is None or len(set(background)) == 1):
        return True  # told by the header
      pixels = fit(_opened(picture), 0, False, background)
  except Exception:  # as in `_read`, which names it
    return True
  return bool((pixels == pixels[..., :1]).all())


def _shape(
  root: Path, files: list[str], image_size: int, grey: bool, background: Levels | None, what: str
) -> tuple[int, int, int]:
  """(H, W, C) that every image must have: of the first readable one where `image_size` does not say."""
  channels = 1 if grey else 3
  if image_size:
    return image_size, image_size, channels
  for name in files:
    image, _, _ = _read(root / name, 0, grey, background)
    if image is not None:
      return image.shape
  raise UserError(f'{what}: none of the {len(files)} image files under {root.absolute()} can be read.')


def _opened(picture: Any) -> Any:
  """A PIL image as it was just opened, the right way up."""
  from PIL import ImageOps

  if picture.format == 'PNG' and picture.mode == 'L' and isinstance(picture.info.get('transparency'), int):
    # Of 2 and 4 bits Pillow widens the levels, but not the one that is transparent.
    picture.info['transparency'] *= _GREY_STEPS.get(picture.tile[0][3], 1)
  return ImageOps.exif_transpose(picture)


def _read(path: Path, image_size: int, grey: bool, background: Levels | None) -> tuple[np.ndarray | None, str, bool]:
  """(uint8 [H, W, C], '', whether any of it was transparent), or (None, what is wrong, False)."""
  from PIL import Image

  try:
    with Image.open(path) as picture:
      if picture.mode not in _MODES:
        return None, f'{path} has pixels of mode {picture.mode}, not 8 bits a channel', False
      opened = _opened(picture)
      whole = lay_over(opened, background)
      return fit(whole, image_size, grey), '', whole is not opened
  except Exception as e:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more on broken files
    return None, f'{path} cannot be read ({e})', False


def _read_rows(
  root: Path,
  files: list[str],
  labels: np.ndarray,
  shape: tuple[int, ...],
  image_size: int,
  grey: bool,
  background: Levels | None,
  index: np.ndarray,
) -> store.Rows:
  images, bad, transparent = np.zeros((len(index), *shape), np.uint8), {}, 0
  for row, i in enumerate(index):
    image, wrong, laid = _read(root / files[i], image_size, grey, background)
    if image is None:
      bad[row] = wrong
    elif image.shape != shape:
      (h, w), (h0, w0) = image.shape[:2], shape[:2]
      raise UserError(f'{root / files[i]} is {w}x{h}, other images are {w0}x{h0}: set data.image_size.')
    else:
      images[row] = image
      transparent += laid
  return store.Rows(images, labels[index], bad, transparent)
