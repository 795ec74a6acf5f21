"""Pictures as PNG files with zlib alone, so that training needs no imaging library.

Format: PNG specification, third edition (W3C, 2025), sections 5 (chunks), 9 (filtering) and 11 (IHDR, IDAT, IEND).
"""

import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from gen_ai.core.files import disk_errors, write_atomic

_LEGIBLE = 56  # pixels: a 28x28 digit is shown at twice its size
_LETTERS = 14  # pixels: size of the names of rows
_LONGEST = 24  # characters of such a name


def _chunk(kind: bytes, body: bytes) -> bytes:
  return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def encode_png(image: np.ndarray) -> bytes:
  """A PNG file's bytes.

  Args:
    image: uint8 [H, W] or [H, W, 1] (grey) or [H, W, 3] (RGB).

  Raises:
    ValueError: another type or shape.
  """
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[:, :, None]
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
    raise ValueError(f'a picture is uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} {list(image.shape)}')
  H, W, C = image.shape
  rows = np.zeros((H, 1 + W * C), np.uint8)  # every row starts with its filter type: 0, none
  rows[:, 1:] = image.reshape(H, W * C)
  header = struct.pack('>IIBBBBB', W, H, 8, 0 if C == 1 else 2, 0, 0, 0)
  chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows.tobytes(), 6)), (b'IEND', b''))
  return b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(kind, body) for kind, body in chunks)


def grid(images: np.ndarray, columns: int | None = None, pad: int = 2, scale: int | None = None) -> np.ndarray:
  """One picture of many, in reading order, on a black ground.

  Args:
    images: uint8 [N, H, W, C], C of 1 or 3.
    columns: pictures in a row; as near to a square as N allows by default.
    pad: black pixels around every picture.
    scale: whole factor by which every picture is enlarged (nearest neighbour); by default such that small pictures
      are at least 56 pixels on their longer side.

  Returns:
    uint8 [H', W', C].

  Raises:
    ValueError: another type or shape, or no picture.
  """
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
    raise ValueError(f'pictures are uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}')
  N, H, W, C = images.shape
  columns = columns or math.ceil(math.sqrt(N))
  scale = scale or math.ceil(_LEGIBLE / max(H, W))
  rows = math.ceil(N / columns)
  cells = np.zeros((rows * columns, H * scale + pad, W * scale + pad, C), np.uint8)
  cells[:N, pad:, pad:] = images.repeat(scale, axis=1).repeat(scale, axis=2)
  sheet = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2).reshape(rows * cells.shape[1], -1, C)
  return np.pad(sheet, ((0, pad), (0, pad), (0, 0)))


def named_rows(sheet: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """A grid with the names of its rows to their left.

  Pillow draws the letters; without it the grid stays as it is, and a warning says so once. A name that its own font
  cannot write (it has ASCII letters alone) is shown by number, as 'class 3'.

  Args:
    sheet: uint8 [H, W, C].
    names: of its rows, from the top; rows are equally high.

  Returns:
    uint8 [H, W', C].
  """
  try:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_LETTERS)
  except ImportError as error:
    logging.log_first_n(logging.WARNING, 'rows of pictures are not named: %s', 1, error)
    return sheet
  shown = [name if name.isascii() and name.isprintable() else f'class {number}' for number, name in enumerate(names)]
  shown = [name if len(name) <= _LONGEST else f'{name[: _LONGEST - 3]}...' for name in shown]
  width = math.ceil(max(font.getlength(name) for name in shown)) + _LETTERS
  margin = Image.new('L', (width, sheet.shape[0]))
  draw = ImageDraw.Draw(margin)
  for row, name in enumerate(shown):
    draw.text((width - _LETTERS // 2, (row + 0.5) * sheet.shape[0] / len(shown)), name, 255, font, anchor='rm')
  column = np.asarray(margin)[:, :, None].repeat(sheet.shape[2], axis=2)
  return np.concatenate([column, sheet], axis=1)


def save_grid(
  path: str | os.PathLike, images: np.ndarray, columns: int | None = None, rows: Sequence[str] = ()
) -> np.ndarray:
  """Writes `grid(images, columns)` as a PNG file, atomically, and returns what it shows.

  Args:
    path: the file; its folder is made where missing.
    images: uint8 [N, H, W, C].
    columns: pictures in a row.
    rows: names of the rows, drawn to their left; none by default.

  Raises:
    UserError: the disk is full or the place cannot be written.
  """
  path, sheet = Path(path), grid(images, columns)
  if rows:
    sheet = named_rows(sheet, rows)
  png = encode_png(sheet)
  with disk_errors(path, path.parent.parent, needed=len(png)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png)
  return sheet
