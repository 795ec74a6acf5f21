"""PNG files without an imaging library, read back by one."""

import io
import sys

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.data import pictures

Image = pytest.importorskip('PIL.Image')


def decode(png):
  image = Image.open(io.BytesIO(png))
  image.load()
  return image.mode, np.asarray(image)


@pytest.mark.parametrize(('shape', 'mode'), [((5, 7), 'L'), ((5, 7, 1), 'L'), ((5, 7, 3), 'RGB'), ((1, 1), 'L')])
def test_pillow_reads_what_is_encoded(shape, mode):
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  got_mode, got = decode(pictures.encode_png(image))
  assert got_mode == mode
  np.testing.assert_array_equal(got, image.squeeze(-1) if shape[2:] == (1,) else image)


@pytest.mark.parametrize('bad', [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_refused(bad):
  with pytest.raises(ValueError, match='a picture is uint8'):
    pictures.encode_png(bad)


def test_grid_is_in_reading_order_with_padding():
  images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
  sheet = pictures.grid(images, columns=3, pad=1, scale=1)[:, :, 0]
  np.testing.assert_array_equal(
    sheet,
    [
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      [0, 1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0],
      [0, 1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      [0, 4, 4, 4, 0, 5, 5, 5, 0, 0, 0, 0, 0],
      [0, 4, 4, 4, 0, 5, 5, 5, 0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
  )


def test_small_pictures_are_enlarged_and_large_ones_are_not():
  small = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
  sheet = pictures.grid(small)
  assert sheet.shape == (8 * 58 + 2, 8 * 58 + 2, 1)
  np.testing.assert_array_equal(sheet[2:58:2, 60:116:2], small[1])
  assert pictures.grid(np.zeros((2, 64, 64, 3), np.uint8)).shape == (68, 134, 3)


def test_rows_are_named_at_their_height():
  sheet = np.full((3 * 58 + 2, 100, 3), 7, np.uint8)
  names = ['cat', 'a class name that is much longer than the others', 'ネコ']
  named = pictures.named_rows(sheet, names)
  np.testing.assert_array_equal(named[:, -100:], sheet)
  margin = named[:, :-100]
  assert (margin == margin[..., :1]).all() and margin.shape[1] < 250
  ink = margin[..., 0] > 128
  heights = [np.flatnonzero(ink[58 * row : 58 * (row + 1)].any(1)) for row in range(3)]
  for height in heights:
    assert height.min() > 15 and height.max() < 45, 'in the middle of its row'
  assert ink.any(0).nonzero()[0].min() > 2, 'nothing is cut'
  class_2 = pictures.named_rows(sheet, ['cat', names[1], 'class 2'])
  np.testing.assert_array_equal(named, class_2)
  assert pictures.named_rows(sheet[..., :1], names).shape == (176, named.shape[1], 1)


def test_without_pillow_rows_have_no_names(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'PIL', None)
  images = np.full((4, 8, 8, 1), 200, np.uint8)
  sheet = pictures.save_grid(tmp_path / 'x.png', images, 2, ['one', 'two'])
  np.testing.assert_array_equal(sheet, pictures.grid(images, 2))


def test_save_grid_writes_a_whole_file_and_says_when_it_cannot(tmp_path):
  images = np.full((4, 28, 28, 3), 200, np.uint8)
  sheet = pictures.save_grid(tmp_path / 'samples' / 'step_1.png', images, columns=4)
  _, got = decode((tmp_path / 'samples' / 'step_1.png').read_bytes())
  np.testing.assert_array_equal(got, sheet)
  assert [path.name for path in (tmp_path / 'samples').iterdir()] == ['step_1.png']


def test_save_grid_on_a_full_disk_is_a_user_error(tmp_path, monkeypatch):
  def full(path, content):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pictures, 'write_atomic', full)
  with pytest.raises(UserError, match='is full'):
    pictures.save_grid(tmp_path / 'samples' / 'step_1.png', np.zeros((1, 2, 2, 1), np.uint8))
