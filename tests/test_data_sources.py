"""What each kind of source feeds, that both feeds agree, and the mistakes a user can make with data."""

import gzip
import hashlib
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cli
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.data import dataset, feed, images, mnist_5k, plan, store, text, tfds_source
from gen_ai.run import data_identity


def data_config(name, **changes):
  fields = {
    'name': name,
    'split': 'auto',
    'batch_size': 6,
    'seed': 0,
    'feed': 'auto',
    'data_dir': '',
    'manual_dir': '',
    'image_size': 0,
    'grey': 'auto',
    'background': 'white',
    'on_bad_image': 'refuse',
    'tokens': 'byte',
    'block_size': 16,
  }
  return ConfigDict(fields | changes)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def mnist(data_dir):
  return dataset.load(data_config('mnist_5k', data_dir=data_dir))


def save_image(path, size=(8, 8), value=None, mode='RGB'):
  from PIL import Image

  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 256, (*size[::-1], 3), np.uint8)
  picture = Image.fromarray(pixels if value is None else np.full_like(pixels, value))
  picture.convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
  for name in ('cat', 'dog'):
    for i in range(10):
      save_image(tmp_path / 'pictures' / name / f'{name}{i}.png')
  return tmp_path / 'pictures'


def all_sources(data_dir, folder):
  (folder.parent / 'a.txt').write_text('To be, or not to be: that is the question. ' * 40)
  return {
    'mnist_5k': dataset.load(data_config('mnist_5k', data_dir=data_dir)),
    'joined': dataset.load(
      data_config('mnist_5k', data_dir=data_dir, split='train[5:12]+test[3:]|validation|validation')
    ),
    'folder': dataset.load(data_config(f'folder:{folder}', data_dir=data_dir)),
    'char': dataset.load(data_config(f'text:{folder.parent}/*.txt', tokens='char')),
    'byte': dataset.load(data_config(f'text:{folder.parent}/*.txt')),
    'unlabelled': dataset.from_arrays('x', {'train': {'image': np.zeros((30, 4, 4, 1), np.uint8)}}),
  }


def streamed(data_dir, monkeypatch):
  monkeypatch.setattr(tfds_source, 'DECODE_BYTES', 0)
  return dataset.load(data_config('mnist_5k', data_dir=data_dir, split='train[5:12]+test[3:]|validation|validation'))


def assert_same_batch(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_both_feeds_give_identical_batches(data_dir, folder, monkeypatch):
  sources = all_sources(data_dir, folder) | {'streamed': streamed(data_dir, monkeypatch)}
  for name, data in sources.items():
    source = data.splits['train']
    config = data_config(name)
    for rows in (None, slice(2, 5)):
      config.feed = 'device'
      device = feed.make_feed(source, config, 3, rows)
      config.feed = 'host'
      host = feed.make_feed(source, config, 3, rows)
      gather = jax.jit(device.gather)
      for step in (0, 3, 6, 40, 1):  # consecutive chunks, then jumps ahead and back
        plan_rows, batches = device.chunk(step, 3), host.chunk(step, 3)
        assert plan_rows.shape == (3, 6 if rows is None else 3)
        for k in range(3):
          row = {key: batch[k] for key, batch in batches.items()}
          assert_same_batch(jax.device_get(gather(device.resident, plan_rows[k])), host.gather(host.resident, row))
      assert host.resident == {}
      assert host.stall_seconds > 0
      host.close()
      device.close()


def test_streamed_and_decoded_arrays_are_the_same(data_dir, monkeypatch):
  rule = 'train[5:12]+test[3:]|validation|validation'
  decoded = dataset.load(data_config('mnist_5k', data_dir=data_dir, split=rule)).splits['train'].arrays()
  source = streamed(data_dir, monkeypatch).splits['train']
  assert source.nbytes == sum(array.nbytes for array in decoded.values())
  assert_same_batch(decoded, source.arrays())


def test_the_feed_is_chosen_by_size(mnist, monkeypatch):
  source, config = mnist.splits['train'], data_config('mnist_5k')
  assert isinstance(feed.make_feed(source, config, 3, None), feed.DeviceFeed)
  monkeypatch.setattr(feed, 'RESIDENT_BYTES', source.nbytes - 1)
  assert isinstance(feed.make_feed(source, config, 3, None), feed.HostFeed)
  config.feed = 'gpu'
  with pytest.raises(UserError, match="'gpu'"):
    feed.make_feed(source, config, 3, None)


def test_an_error_while_reading_ahead_reaches_the_user():
  class Broken:
    nbytes = 0

    def __len__(self):
      return 10

    def planned(self, position, seed):
      return position.astype(np.int32)

    def read(self, index):
      if 7 in index:
        raise UserError('image 7 is broken')
      return {'index': index}

  host = feed.make_feed(Broken(), data_config('x', feed='host'), 1, None)
  with pytest.raises(UserError, match='image 7'):
    host.chunk(0, 2)
  host.close()


def test_mnist_5k_is_the_real_digits_stratified(mnist):
  assert {name: len(source) for name, source in mnist.splits.items()} == {'train': 4000, 'validation': 500, 'test': 500}
  assert mnist.spec.shape == (28, 28, 1)
  assert mnist.spec.num_classes == 10
  everything = []
  for source in mnist.splits.values():
    arrays = source.arrays()
    assert np.bincount(arrays['label']).tolist() == [len(source) // 10] * 10
    assert len(set(arrays['label'][:50].tolist())) == 10, 'shuffled'
    everything += [(image.tobytes(), label) for image, label in zip(arrays['image'], arrays['label'], strict=True)]
  images, labels = mnist_5k.read()
  assert sorted(everything) == sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
  zeros, ones = (images[labels == digit].mean(0)[..., 0] for digit in (0, 1))
  assert zeros[14, 14] < 20 < 150 < ones[14, 14], 'a nought has a hole, a one a stroke'


def test_the_content_of_mnist_5k_is_the_one_of_all_recorded_runs(mnist):
  assert mnist.fingerprint == 'df48095246ec05e27b89801a131a6139086e574d0392d7274e4bff236ba82128'


def test_the_data_card_of_mnist_5k_says_what_its_file_holds():
  stored, card = mnist_5k.FILE.read_bytes(), mnist_5k.FILE.with_suffix('.md').read_text()
  images, labels = mnist_5k.read()
  for fact in (hashlib.sha256(stored).hexdigest(), f'{len(stored):,} bytes', mnist_5k.digest(images, labels)):
    assert fact in card
  assert all(word in card for word in ('Origin', 'Licence', 'How to make it again', 'gen_ai.data.make_mnist_5k'))


def test_mnist_5k_is_made_again_of_a_table(tmp_path):
  images, labels = mnist_5k.read()
  table = np.concatenate([images.reshape(5000, -1), labels[:, None]], 1)
  np.savetxt(tmp_path / 'digits.csv.gz', table, '%d', ',')
  words = ('gen_ai.data.make_mnist_5k', tmp_path / 'digits.csv.gz', tmp_path / 'made')
  done = cli.command(*words)
  assert done.returncode == 0 and mnist_5k.DIGEST in done.stdout, done.stderr
  for ours, theirs in zip(mnist_5k.read(tmp_path / 'made'), (images, labels), strict=True):
    assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
  np.savetxt(tmp_path / 'digits.csv.gz', table[:20], '%d', ',')
  cli.refused(cli.command(*words), 'digits.csv.gz holds other digits than mnist_5k')
  (tmp_path / 'digits.csv.gz').write_bytes(gzip.compress(b'1,2,300'))
  cli.refused(cli.command(*words), 'digits.csv.gz is no gzipped table')
  cli.refused(cli.command(*words[:2]), 'two files are needed')


def test_digits_that_are_gone_or_damaged_are_named(tmp_path):
  whole, file = bytearray(mnist_5k.FILE.read_bytes()), tmp_path / 'digits.npz'
  with pytest.raises(UserError, match=r'digits\.npz cannot be read.*install that again'):
    mnist_5k.read(file)
  for content in (whole[:1000], b'no archive', whole[:5000] + bytes(50) + whole[5050:]):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r'digits\.npz cannot be read'):
      mnist_5k.read(file)
  images, labels = mnist_5k.read()
  np.savez_compressed(file, image=images[::-1], label=labels)
  with pytest.raises(UserError, match=r'digits\.npz holds other digits'):
    mnist_5k.read(file)


def test_mnist_5k_first_used_by_several_processes(tmp_path):
  code = f'from pathlib import Path; from gen_ai.data import mnist_5k; print(mnist_5k.prepare(Path({str(tmp_path)!r})))'
  running = [subprocess.Popen([sys.executable, '-c', code], stdout=-1, text=True) for _ in range(2)]
  assert {p.communicate(timeout=60)[0].strip() for p in running} == {str(tmp_path / 'mnist_5k' / '1.0.0')}
  assert [p.name for p in tmp_path.iterdir()] == ['mnist_5k'], 'nothing left behind'
  assert len(dataset.load(data_config('mnist_5k', data_dir=str(tmp_path))).splits['train']) == 4000


def test_a_lost_race_keeps_the_first_copy(tmp_path):
  for name in ('first', 'second'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'dataset_info.json').write_text(name)
  mnist_5k._move(tmp_path / 'second', tmp_path / 'first')
  assert (tmp_path / 'first' / 'dataset_info.json').read_text() == 'first'


def test_a_data_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='mnist_5k.*cannot write under.*data.data_dir'):
    dataset.load(data_config('mnist_5k', data_dir=str(tmp_path / 'file')))


def test_training_needs_no_packages_for_data_in_memory():
  code = """
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'grain', 'PIL', 'pandas', 'matplotlib', 'torch'):
  sys.modules[name] = None
import numpy as np
from types import SimpleNamespace
from gen_ai.data import dataset, feed, images, mnist_5k, plan, prepare, source, splits, store, text, tfds_source
data = dataset.from_arrays('x', {'train': {'image': np.zeros((20, 2, 2, 1), np.uint8), 'label': np.arange(20) % 3}})
assert data.spec.num_classes == 3
config = SimpleNamespace(feed='auto', seed=0, batch_size=4)
assert feed.make_feed(data.splits['train'], config, 2, None).chunk(0, 2).shape == (2, 4)
dataset.from_text('x', {'train': 'abc' * 50}, 'char', 4)
"""
  subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


def changed(arrays):
  for name, i in (('image', (3, 0, 0, 0)), ('label', 3)):
    other = {key: array.copy() for key, array in arrays.items()}
    other[name][i] += 1
    yield other
  yield {'image': arrays['image'].reshape(20, 1, 4, 1), 'label': arrays['label']}
  yield {'image': arrays['image']}
  yield {key: array[::-1] for key, array in arrays.items()}


def test_fingerprint_is_stable_and_sensitive(data_dir, mnist):
  arrays = {'image': np.arange(80, dtype=np.uint8).reshape(20, 2, 2, 1), 'label': np.arange(20) % 3}

  def of(arrays, split='auto'):
    return dataset.from_arrays('x', {'train': arrays}, split, num_classes=5).fingerprint

  first = of(arrays)
  assert len(first) == 64
  assert first == of({key: array.copy() for key, array in arrays.items()})
  others = [of(other) for other in changed(arrays)] + [of(arrays, 'train[:70%]|train[70%:90%]|train[90%:]')]
  assert len({first, *others}) == 7
  assert mnist.fingerprint == dataset.load(data_config('mnist_5k', data_dir=data_dir)).fingerprint
  texts = [
    dataset.from_text('x', {'train': t * 50}, k, 4).fingerprint for t in ('abcd', 'abce') for k in ('byte', 'char')
  ]
  assert len(set(texts)) == 4


def test_fingerprint_of_a_streamed_data_set_follows_its_options(data_dir, monkeypatch):
  monkeypatch.setattr(tfds_source, 'DECODE_BYTES', 0)
  prints = [
    dataset.load(data_config('mnist_5k', data_dir=data_dir, **change)).fingerprint
    for change in ({}, {}, {'image_size': 14}, {'split': 'train|validation|validation'})
  ]
  assert prints[0] == prints[1]
  assert len(set(prints)) == 3


def test_folder_of_classes(folder, data_dir):
  data = dataset.load(data_config(f'folder:{folder}', data_dir=data_dir))
  assert data.spec.shape == (8, 8, 3)
  assert data.spec.num_classes == 2
  assert {name: len(source) for name, source in data.splits.items()} == {'train': 16, 'validation': 2, 'test': 2}
  labels = data.splits['train'].arrays()['label']
  assert set(labels[:8].tolist()) == {0, 1}, 'permuted before it is cut'
  from PIL import Image

  seen = {}
  for source in data.splits.values():
    arrays = source.arrays()
    seen |= {image.tobytes(): int(label) for image, label in zip(arrays['image'], arrays['label'], strict=True)}
  expected = {np.asarray(Image.open(path)).tobytes(): int(path.parent.name == 'dog') for path in folder.rglob('*.png')}
  assert seen == expected


def test_folder_options(folder, data_dir, tmp_path):
  data = dataset.load(data_config(f'folder:{folder}', data_dir=data_dir, image_size=4, grey='true'))
  assert data.spec.shape == (4, 4, 1)
  for i in range(10):  # without class folders; oblong, with bars that the centre crop cuts away
    save_image(tmp_path / 'flat' / f'{i}.png', (12, 6), 0)
    from PIL import Image

    with Image.open(tmp_path / 'flat' / f'{i}.png') as picture:
      picture.paste((200, 200, 200), (3, 0, 9, 6))
      picture.save(tmp_path / 'flat' / f'{i}.png')
  data = dataset.load(data_config(f'folder:{tmp_path}/flat', data_dir=data_dir, image_size=6))
  assert data.spec.num_classes == 0
  assert set(data.splits['train'].arrays()) == {'image'}
  assert (data.splits['train'].arrays()['image'] == 200).all()


@pytest.mark.parametrize('large', [False, True])
def test_broken_and_odd_images_are_named_and_refused_or_skipped(folder, tmp_path, monkeypatch, caplog, large):
  if large:
    monkeypatch.setattr(store, 'FILE_BYTES', 0)
  truncated = folder / 'cat' / 'cat3.png'
  truncated.write_bytes(truncated.read_bytes()[:80])
  (folder / 'dog' / 'empty.jpg').write_bytes(b'')
  save_image(folder / 'dog' / 'deep.png')
  from PIL import Image

  Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(folder / 'dog' / 'deep.png')
  save_image(folder / 'loose.png')
  config = data_config(f'folder:{folder}', data_dir=str(tmp_path / 'store'))
  names = ('cat3.png', 'empty.jpg', 'deep.png', 'loose.png')
  with pytest.raises(UserError) as e:
    dataset.load(config)
  assert all(name in str(e.value) for name in names)
  config.on_bad_image = 'skip'
  for _ in range(2):  # decoded, and then mapped
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      data = dataset.load(config)
    assert all(name in caplog.text for name in names)
    assert sum(len(source) for source in data.splits.values()) == 19
    assert all(source.arrays()['image'].any((1, 2, 3)).all() for source in data.splits.values())
  config.on_bad_image = 'drop'
  with pytest.raises(UserError, match="'drop'"):
    dataset.load(config)


def test_a_large_folder_is_decoded_once(folder, tmp_path, monkeypatch):
  config = data_config(f'folder:{folder}', data_dir=str(tmp_path / 'store'))
  in_memory = dataset.load(config)
  monkeypatch.setattr(store, 'FILE_BYTES', 0)
  first = dataset.load(config)
  monkeypatch.setattr(store, '_decode', None)  # a second decoding would fail
  second = dataset.load(config)
  assert in_memory.fingerprint == first.fingerprint == second.fingerprint
  monkeypatch.undo()
  monkeypatch.setattr(store, 'FILE_BYTES', 0)
  save_image(folder / 'cat' / 'cat0.png', value=7)
  assert dataset.load(config).fingerprint != first.fingerprint
  for file in (tmp_path / 'store').rglob('image.uint8'):
    file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(UserError, match='damaged'):
    dataset.load(config)


def test_decoded_images_stay_in_memory_where_nothing_can_be_written(folder, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(store, 'FILE_BYTES', 0)
  (tmp_path / 'file').write_text('')
  with caplog.at_level(logging.WARNING):
    data = dataset.load(data_config(f'folder:{folder}', data_dir=str(tmp_path / 'file')))
  assert len(data.splits['train']) == 16
  assert 'cannot keep decoded images' in caplog.text


def test_folder_mistakes(folder, tmp_path, data_dir):
  def load(path):
    return dataset.load(data_config(f'folder:{path}', data_dir=data_dir))

  with pytest.raises(UserError, match='missing is not there'):
    load(tmp_path / 'missing')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='no image file under'):
    load(tmp_path / 'empty')
  save_image(folder / 'dog' / 'wide.png', (9, 8))
  with pytest.raises(UserError, match=r'is 8x8, other images are 9x8|wide.png is 9x8.*data.image_size'):
    load(folder)
  (tmp_path / 'bad' / 'x.png').parent.mkdir()
  (tmp_path / 'bad' / 'x.png').write_bytes(b'no')
  with pytest.raises(UserError, match='none of the 1 image files'):
    load(tmp_path / 'bad')


def png(depth, colour, row, *chunks):
  """A PNG of one row, packed by hand: Pillow writes neither 2 nor 4 bits of grey."""

  def chunk(kind, body):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

  width = len(row) * 8 // depth // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
  header = struct.pack('>IIBBBBB', width, 1, depth, colour, 0, 0, 0)
  body = chunk(b'IHDR', header) + b''.join(chunk(*c) for c in chunks) + chunk(b'IDAT', zlib.compress(b'\0' + row))
  return b'\x89PNG\r\n\x1a\n' + body + chunk(b'IEND', b'')


RED, BLUE = (255, 0, 0), (0, 0, 255)
TRANSPARENT = {  # a picture of one row -> its levels over white
  'rgba': (png(8, 6, bytes([255, 0, 0, 0, *BLUE, 255, 255, 0, 0, 128])), [(255,) * 3, BLUE, (255, 127, 127)]),
  'la': (png(8, 4, bytes([0, 0, 7, 255, 0, 128])), [(255,) * 3, (7,) * 3, (127,) * 3]),
  'palette': (
    png(8, 3, bytes([0, 1, 2]), (b'PLTE', bytes([*RED, *BLUE, *RED])), (b'tRNS', bytes([0, 255, 128]))),
    [(255,) * 3, BLUE, (255, 127, 127)],
  ),
  'palette, one entry': (
    png(8, 3, bytes([0, 1]), (b'PLTE', bytes([*RED, *BLUE])), (b'tRNS', b'\0')),
    [(255,) * 3, BLUE],
  ),
  'rgb with tRNS': (png(8, 2, bytes([*RED, *BLUE]), (b'tRNS', struct.pack('>3H', *RED))), [(255,) * 3, BLUE]),
  '8 bit grey with tRNS': (png(8, 0, bytes([9, 8]), (b'tRNS', b'\0\x09')), [(255,) * 3, (8,) * 3]),
  '4 bit grey with tRNS': (png(4, 0, b'\x12', (b'tRNS', b'\0\1')), [(255,) * 3, (34,) * 3]),
  '2 bit grey with tRNS': (png(2, 0, b'\x1b', (b'tRNS', b'\0\1')), [(0,) * 3, (255,) * 3, (170,) * 3, (255,) * 3]),
  '1 bit grey with tRNS': (png(1, 0, b'\x50', (b'tRNS', b'\0\0')), [(255,) * 3] * 8),
}


@pytest.mark.parametrize('kind', TRANSPARENT)
def test_transparent_pixels_show_the_background_and_not_what_is_stored_there(kind, tmp_path, data_dir):
  content, over_white = TRANSPARENT[kind]
  for i in range(10):
    (tmp_path / f'{i}.png').write_bytes(content)

  def load(**changes):
    data = dataset.load(data_config(f'folder:{tmp_path}', data_dir=data_dir, **{'grey': 'false', **changes}))
    return data.splits['train'].arrays()['image'][0, 0], data

  image, data = load()
  np.testing.assert_array_equal(image, over_white)
  assert data.notes == ('10 with transparency, laid over white',)
  image, data = load(background='#0A00ff')
  first = over_white.index((255, 255, 255)) if kind != '2 bit grey with tRNS' else 1
  assert image[first].tolist() == [10, 0, 255]
  assert data.notes == ('10 with transparency, laid over #0A00ff',)
  assert load(grey='true')[0][first].tolist() == [255]
  stored, data = load(background='none')
  assert stored[first].tolist() != [255] * 3 or kind == '1 bit grey with tRNS'
  assert not data.notes


def test_opaque_images_are_those_of_before_whatever_the_background():
  from PIL import Image, ImageOps

  noise = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
  noise[..., 3] = 255
  for mode in ('RGBA', 'LA', 'P', 'L', '1', 'RGB', 'CMYK'):
    picture = Image.fromarray(noise).convert(mode)
    shown = picture.copy()
    if mode == 'P':
      shown.info['transparency'] = bytes([255] * 256)
    for size, grey in ((0, False), (7, False), (0, True), (7, True)):
      before = ImageOps.fit(picture.convert('L' if grey else 'RGB'), (size or 16,) * 2, Image.Resampling.BICUBIC)
      for background in (None, (255, 255, 255), (1, 2, 3)):
        np.testing.assert_array_equal(images.fit(shown, size, grey, background).squeeze(), np.asarray(before))


def test_every_pair_of_level_and_alpha_0_or_255_is_exact():
  from PIL import Image

  level = np.arange(256, dtype=np.uint8)
  for alpha in (0, 255):
    whole = np.stack([level, level[::-1], level, np.full(256, alpha, np.uint8)], -1)[None]
    whole[0, 0, 3] = 254  # one pixel that keeps the others from the short way
    laid = images.fit(Image.fromarray(whole), 0, False, (9, 8, 7))[0, 1:]
    np.testing.assert_array_equal(laid, whole[0, 1:, :3] if alpha else np.broadcast_to([9, 8, 7], (255, 3)))


def test_another_background_is_not_read_from_what_was_decoded_before(tmp_path, monkeypatch):
  monkeypatch.setattr(store, 'FILE_BYTES', 0)
  for i in range(10):
    (tmp_path / 'x' / f'{i}.png').parent.mkdir(exist_ok=True)
    (tmp_path / 'x' / f'{i}.png').write_bytes(TRANSPARENT['rgba'][0])
  config = data_config(f'folder:{tmp_path}/x', data_dir=str(tmp_path / 'store'))
  white = [dataset.load(config) for _ in range(2)]  # decoded, and then mapped
  assert white[0].notes == white[1].notes == ('10 with transparency, laid over white',)
  config.background = 'black'
  black = dataset.load(config)
  assert black.splits['train'].arrays()['image'][0, 0, 0].tolist() == [0, 0, 0]
  assert len({white[0].fingerprint, white[1].fingerprint, black.fingerprint}) == 2


def test_images_of_tfds_with_alpha_lie_over_the_background():
  image = np.array([[[255, 0, 0, 0], [0, 0, 255, 255]]], np.uint8)
  assert images.fit_array(image, 0, False, (255, 255, 255)).tolist() == [[[255] * 3, list(BLUE)]]


def test_a_folder_is_grey_when_every_image_is(tmp_path, data_dir):
  from PIL import Image

  for i, mode in enumerate(('L', 'LA', '1', 'RGB', 'P', 'RGBA', 'L', 'L', 'L', 'L')):
    picture = Image.fromarray(np.full((4, 5), 40 + i, np.uint8)).convert(mode if mode != 'P' else 'RGB')
    (picture.quantize(4) if mode == 'P' else picture).save(tmp_path / f'{i}.png')

  def load(**changes):
    return dataset.load(data_config(f'folder:{tmp_path}', data_dir=data_dir, **changes))

  data = load()
  assert data.spec.shape == (4, 5, 1)
  assert data.notes == ('grey, as every image is',)
  for grey, channels in (('true', 1), ('false', 3)):
    asked = load(grey=grey)
    assert (asked.spec.shape[2], asked.notes) == (channels, ())
    for split in data.splits:
      both = (x.splits[split].arrays()['image'] for x in (data, asked))
      np.testing.assert_array_equal(*np.broadcast_arrays(*both))
  Image.new('RGB', (5, 4), (9, 9, 10)).save(tmp_path / 'x.png')  # one pixel level is enough
  assert load().spec.shape == (4, 5, 3)
  (tmp_path / 'x.png').unlink()
  (tmp_path / 'broken.png').write_bytes(b'no')
  assert load(on_bad_image='skip').spec.shape == (4, 5, 1)


def test_a_grey_folder_over_a_coloured_background_is_coloured(tmp_path, data_dir):
  for i in range(10):
    (tmp_path / f'{i}.png').write_bytes(TRANSPARENT['la'][0])
  shapes = [
    dataset.load(data_config(f'folder:{tmp_path}', data_dir=data_dir, background=background)).spec.shape[2]
    for background in ('white', '#123456', 'none')
  ]
  assert shapes == [1, 3, 1]


def test_links_to_folders_are_followed_once(folder, tmp_path, data_dir):
  elsewhere = tmp_path / 'elsewhere'
  for i in range(10):
    save_image(elsewhere / 'birds' / 'deep' / f'{i}.png')
  (folder / 'bird').symlink_to(elsewhere / 'birds')
  (folder / 'a_cat').symlink_to(folder / 'cat')  # sorts first, yet the folder itself keeps the name
  (folder / 'cat' / 'loop').symlink_to(folder)
  (folder / 'dog' / 'up').symlink_to(tmp_path)
  (elsewhere / 'birds' / 'loop').symlink_to(elsewhere / 'birds')
  (folder / 'cat' / 'self').symlink_to(folder / 'cat' / 'self')
  (folder / 'cat' / 'gone.png').symlink_to(tmp_path / 'gone.png')
  (folder / 'cat' / 'linked.png').symlink_to(elsewhere / 'birds' / 'deep' / '0.png')
  data = dataset.load(data_config(f'folder:{folder}', data_dir=data_dir))
  assert data.spec.class_names == ('bird', 'cat', 'dog')
  counts = np.bincount(np.concatenate([source.arrays()['label'] for source in data.splits.values()]))
  assert counts.tolist() == [10, 11, 10]
  assert data.notes == (
    '3 classes: bird, cat, dog',
    'left out: other endings (none) 1, broken links 1, links to folders that are read already 3, '
    'links that lead back up 1',
  )


def test_what_is_left_out_of_a_folder_is_counted(folder, tmp_path, data_dir, monkeypatch):
  for name in ('cat/a.txt', 'cat/b.TXT', 'dog/c.json', 'README', '.DS_Store', 'cat/.hidden.png', '.git/x.png'):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('x')
  (folder / 'locked').mkdir()
  (folder / 'loose.png').write_bytes((folder / 'cat' / 'cat0.png').read_bytes())
  scandir = os.scandir

  def refuse(path):
    if Path(path).name == 'locked':
      raise PermissionError(13, 'Permission denied')
    return scandir(path)

  monkeypatch.setattr(images.os, 'scandir', refuse)  # root may read everything
  data = dataset.load(data_config(f'folder:{folder}', data_dir=data_dir, on_bad_image='skip'))
  assert data.spec.class_names == ('cat', 'dog')
  assert data.notes[1] == (
    'left out: other endings (.json, .txt, none) 4, hidden 3, folders that cannot be read 1, bad images 1'
  )
  assert data_identity.summary(data).startswith(f'sha256 {data.fingerprint[:12]}; 2 classes: cat, dog; left out: other')
  described = data_identity.describe(data)
  assert described.class_names == ['cat', 'dog'] and described.notes == list(data.notes)
  assert data_identity.spec_of(described) == data.spec, 'the names are part of what a method knows'


def test_image_size_applies_to_tfds_images(data_dir):
  data = dataset.load(data_config('mnist_5k', data_dir=data_dir, image_size=14))
  assert data.spec.shape == (14, 14, 1)
  full = dataset.load(data_config('mnist_5k', data_dir=data_dir)).splits['test'].arrays()['image']
  small = data.splits['test'].arrays()['image']
  assert abs(float(full.mean()) - float(small.mean())) < 2


def test_text_windows_and_char_vocabulary(tmp_path):
  whole = 'aé日😀\r\nb' * 30
  (tmp_path / 'a.txt').write_bytes(whole.encode())
  data = dataset.load(data_config(f'text:{tmp_path}/*.txt', tokens='char', block_size=5))
  vocab, source = data.spec.vocab, data.splits['train']
  assert vocab.size == 7
  assert vocab.decode(vocab.encode(whole)) == whole
  assert vocab.decode(source.arrays()['tokens']) == whole[: round(0.8 * len(whole))]
  assert dict(zip(vocab.decode(np.arange(7)), vocab.byte_counts().tolist(), strict=True)) == {
    c: float(len(c.encode())) for c in set(whole)
  }
  batch = source.read(plan.train_plan(source, 0, 0, 1, 6)[0])
  assert batch['tokens'].shape == (6, 6)
  assert batch['tokens'].dtype == np.int32
  for start, tokens in zip(batch['index'], batch['tokens'], strict=True):
    assert vocab.decode(tokens) == whole[start : start + 6]
  with pytest.raises(UserError, match="'z'.*number 1"):
    vocab.encode('az')


def test_byte_vocabulary():
  vocab = text.ByteVocab()
  assert vocab.decode(vocab.encode('né')) == 'né'
  assert vocab.decode([0xFF, 65]) == '\ufffdA'
  assert vocab.encode('é').dtype == np.int32
  assert vocab.byte_counts().sum() == 256


def test_byte_counts_at_the_edges_of_utf8():
  edges = '\x7f\x80\u07ff\u0800\uffff\U00010000'
  assert text.CharVocab(edges).byte_counts().tolist() == [len(c.encode()) for c in edges]


def test_large_alphabets_take_wider_tokens():
  data = dataset.from_text('x', {'train': ''.join(map(chr, range(32, 1032)))}, 'char', 4)
  assert data.splits['train'].arrays()['tokens'].dtype == np.uint16


def test_text_mistakes(tmp_path):
  with pytest.raises(UserError, match='no file matches'):
    dataset.load(data_config(f'text:{tmp_path}/*.txt'))
  (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbf')
  with pytest.raises(UserError, match=r'a.txt is empty: there is nothing to train on'):
    dataset.load(data_config(f'text:{tmp_path}/*.txt', tokens='char'))
  (tmp_path / 'e.txt').write_text('')
  with pytest.raises(UserError, match='all 2 files are empty'):
    dataset.load(data_config(f'text:{tmp_path}/*.txt', split='train[:9]|train[9:10]|train[10:]'))
  (tmp_path / 'a.txt').write_text('short' * 5)
  with pytest.raises(UserError, match=r'is a folder: .*/\*\*/\*\.txt. reads'):
    dataset.load(data_config(f'text:{tmp_path}'))
  with pytest.raises(UserError, match='validation split holds 2 tokens.*block_size'):
    dataset.load(data_config(f'text:{tmp_path}/*.txt'))
  with pytest.raises(UserError, match="'word'"):
    dataset.load(data_config(f'text:{tmp_path}/*.txt', tokens='word'))
  (tmp_path / 'b.txt').write_bytes(b'caf\xe9')
  with pytest.raises(UserError, match='b.txt is not UTF-8 at byte 3: .*gen_ai.data.tokenize.*--invalid=replace'):
    dataset.load(data_config(f'text:{tmp_path}/*.txt'))


def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch):
  for name in ('d[1]/a.txt', 'd1/a.txt', 'd[1]/b*.txt', 'd[1]/bb.txt', 'e/[ab].txt', 'e/a.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)

  def names(pattern):
    return [document['text'] for document in text.file_documents(pattern)]

  monkeypatch.chdir(tmp_path)
  for start in ('', f'{tmp_path}/'):
    assert names(f'{start}d[1]/a.txt') == ['d[1]/a.txt']
    assert names(f'{start}d[1]/b*.txt') == ['d[1]/b*.txt']
    assert names(f'{start}d[1]/b?.txt') == ['d[1]/b*.txt', 'd[1]/bb.txt'], 'the folder exists, the rest is a pattern'
    assert names(f'{start}e/[ab].txt') == ['e/[ab].txt']
    assert names(f'{start}e/[ac].txt') == ['e/a.txt']
    assert names(f'{start}d[12]/a.txt') == ['d1/a.txt'], 'no such folder: a pattern'
    assert len(names(f'{start}**/*.txt')) == 6
  assert text.file_documents('d[1]/a.txt')[0]['path'] == 'd[1]/a.txt'


def test_python_stdlib():
  documents = text.stdlib_documents()
  paths = [document['path'] for document in documents]
  assert paths == sorted(paths)
  assert 'ast.py' in paths
  assert 'email/message.py' in paths
  assert not [path for path in paths if {'test', 'tests', 'site-packages'} & set(Path(path).parts)]
  data = dataset.load(data_config('python_stdlib', block_size=64))
  assert data.version == '.'.join(map(str, sys.version_info[:3]))
  assert len(data.splits['train']) > 8 * len(data.splits['test']) - 9
  assert data.splits['train'].nbytes > 1_000_000


def test_characters_are_those_of_all_texts_whatever_part_is_used():
  texts = {'train': 'abc' * 50 + 'z', 'test': 'abd' * 50}
  data = dataset.from_text('x', texts, 'char', 4, 'train[:50]|train[50:100]|test[:50]')
  assert data.spec.vocab.decode(np.arange(data.spec.vocab.size)) == 'abcdz'
