"""Kinds of data: found by existing, looked up by name, and whole: a spec, a file and a picture survive the way back."""

import json

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data import kinds
from gen_ai.data.text import ByteVocab, CharVocab

IMAGES = Spec('image', (4, 6, 3), 5)
BYTES, CHARACTERS = Spec('text', (8,), 0, ByteVocab()), Spec('text', (8,), 0, CharVocab('abc \n'))
ARRAYS = {
  'image': np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8),
  'text': np.array([[0, 1, 2], [2, 2, -1]], np.int32),
}


def test_kinds_are_found_by_existing():
  assert {kind.name for kind in kinds.every()} >= {'image', 'text'}
  assert kinds.of(IMAGES) is kinds.get('image')
  for kind in kinds.every():
    assert kind.name and kind.unit and kind.example and kind.endings and set(kind.quick.values()) <= {'min', 'max', ''}


def test_a_kind_that_nobody_registered_is_named():
  with pytest.raises(UserError, match="the kind 'table', which is none of image, text.*must be imported"):
    kinds.of(Spec('table', (3,)))


def test_a_registered_kind_is_looked_up_as_the_own_ones_and_replaces_one_of_its_name(monkeypatch):
  monkeypatch.setattr(kinds, '_registered', {})
  for unit in ('tables', 'rows'):

    class Table(kinds.DataKind):
      name = 'table'

    Table.unit = unit
    kinds.register(Table())
    assert kinds.of(Spec('table', (3,))).unit == unit
  assert [kind.name for kind in kinds.every()].count('table') == 1
  assert kinds.of(Spec('table', (3, 2))).form(Spec('table', (3, 2))) == 'rows 3x2'


@pytest.mark.parametrize('spec', [IMAGES, BYTES, CHARACTERS], ids=['image', 'bytes', 'characters'])
def test_a_spec_survives_the_record(spec):
  kind = kinds.of(spec)
  tree = {'kind': kind.name, 'shape': list(spec.shape), 'num_classes': spec.num_classes, **kind.facts(spec)}
  again = kind.spec_of(json.loads(json.dumps(tree)))
  assert again[:3] == spec[:3]
  if spec.vocab is not None:
    assert again.vocab.size == spec.vocab.size
    np.testing.assert_array_equal(again.vocab.encode('abc'), spec.vocab.encode('abc'))


@pytest.mark.parametrize('spec', [IMAGES, CHARACTERS], ids=['image', 'text'])
def test_what_is_saved_is_loaded(spec, tmp_path):
  kind, samples = kinds.of(spec), np.abs(ARRAYS[spec.kind])
  kind.save(tmp_path / 'x.npy', spec, samples)
  found = kind.load(f'{tmp_path}/x.npy', spec, None, 'samples_file')
  np.testing.assert_array_equal(found, samples)
  assert found.dtype == samples.dtype
  assert len(kind.load(f'{tmp_path}/x.npy', spec, 1, 'samples_file')) == 1
  with pytest.raises(UserError, match=f'--samples_file=.* holds {len(samples)} samples, fewer than --samples=9'):
    kind.load(f'{tmp_path}/x.npy', spec, 9, 'samples_file')
  with pytest.raises(UserError, match='--image=.*gone.npy cannot be read'):
    kind.load(f'{tmp_path}/gone.npy', spec, None, 'image')


def test_text_is_shown_and_written_without_what_follows_its_end(tmp_path):
  kind, rule = kinds.of(CHARACTERS), '\n' + '-' * 40 + '\n'
  shown = kind.shown(CHARACTERS, ARRAYS['text'])
  first, second = shown.split(rule)
  assert (len(first), len(second)) == (3, 2)
  kind.save(tmp_path / 'x.txt', CHARACTERS, ARRAYS['text'])
  assert (tmp_path / 'x.txt').read_text() == shown + '\n'
  assert kinds.of(IMAGES).shown(IMAGES, ARRAYS['image']) == ''
  np.save(tmp_path / 'x.npy', np.int32([[0, 5]]))  # of five characters
  with pytest.raises(UserError, match=r'tokens int \[N, T\] from 0 to 4; it holds int32 \[1, 2\] from 0 to 5'):
    kind.load(f'{tmp_path}/x.npy', CHARACTERS, None, 'samples_file')


def test_images_are_shown_in_lines_of_eight_of_each_kind():
  kind = kinds.of(IMAGES)
  given, drawn = np.repeat(np.arange(10, dtype=np.uint8), 72).reshape(10, 4, 6, 3), np.full((10, 4, 6, 3), 99, np.uint8)
  images, columns = kind.beside([given, drawn], IMAGES)
  assert (images.shape, columns) == ((32, 4, 6, 3), 8)
  assert images[:, 0, 0, 0].tolist() == [*range(8), *[99] * 8, 8, 9, *[0] * 6, 99, 99, *[0] * 6]
  mask = np.zeros((10, 4, 6, 1), np.float32)
  mask[:, :2] = 1
  hidden = kind.hidden(given, mask)
  assert (hidden[:, :2] == 128).all() and np.array_equal(hidden[:, 2:], given[:, 2:])


def test_what_a_network_draws_is_stored_as_levels():
  x = np.float32([-1, -0.5, 0, 1, 7]).reshape(5, 1, 1, 1)
  stored = np.asarray(kinds.get('image').stored(x)).ravel()
  assert stored.dtype == np.uint8 and stored[[0, 3, 4]].tolist() == [0, 255, 255]
  np.testing.assert_array_equal(kinds.get('text').stored(ARRAYS['text']), ARRAYS['text'])
