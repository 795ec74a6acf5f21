"""The order of the data: pure, a permutation an epoch, every example evaluated once; and the rule that cuts splits."""

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.data import order, plan, splits
from gen_ai.data.source import ArrayExamples, ImageSource, Piece, TextSource


def image_source(n):
  images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
  return ImageSource([Piece(ArrayExamples(images, np.arange(n, dtype=np.int32)), 0, n)])


def text_source(n, block_size):
  return TextSource(np.arange(n, dtype=np.uint16), block_size, 'train')


@pytest.mark.parametrize('source', [image_source(23), text_source(101, 7)])
def test_a_plan_is_the_concatenation_of_its_parts(source):
  whole = plan.train_plan(source, 3, 5, 40, 8)
  parts = [plan.train_plan(source, 3, 5, 13, 8), plan.train_plan(source, 3, 18, 27, 8)]
  assert whole.dtype == np.int32
  assert whole.shape == (40, 8)
  np.testing.assert_array_equal(whole, np.concatenate(parts))
  order._permutations.cache_clear()
  np.testing.assert_array_equal(whole, plan.train_plan(source, 3, 5, 40, 8))
  assert plan.train_plan(source, 3, 5, 0, 8).shape == (0, 8)


def test_batches_straddle_epochs_and_each_epoch_is_another_permutation():
  flat = plan.train_plan(image_source(23), 0, 0, 23, 8).reshape(8, 23)  # 8 epochs of 23, in 23 batches of 8
  for epoch in flat:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in flat}) == 8


def test_the_batch_size_does_not_change_the_order():
  a = plan.train_plan(image_source(23), 0, 0, 30, 4)
  np.testing.assert_array_equal(a.ravel(), plan.train_plan(image_source(23), 0, 0, 10, 12).ravel())


def test_seeds_give_different_orders():
  a, b = (plan.train_plan(image_source(23), seed, 0, 3, 8) for seed in (0, 1))
  assert (a != b).any()


def test_a_batch_may_hold_several_epochs():
  row = plan.train_plan(image_source(3), 0, 0, 1, 10)[0]
  assert sorted(row[:3]) == sorted(row[3:6]) == [0, 1, 2]


def test_the_order_is_the_same_everywhere():
  """Recorded once: a run must find its batches again after an upgrade of NumPy."""
  assert plan.train_plan(image_source(10), 7, 0, 2, 5).tolist() == [[8, 4, 3, 6, 2], [1, 0, 5, 9, 7]]


def test_text_epochs_see_all_alignments_within_the_text():
  source = text_source(100, 8)
  n = len(source)
  epochs = plan.train_plan(source, 0, 0, 200, n)  # one batch an epoch
  assert (epochs >= 0).all()
  assert (epochs + 8 <= 99).all()
  full = [epoch[epoch < 99 - 8] for epoch in epochs]
  assert {int(e[0]) % 8 for e in full} == set(range(8))
  assert all(len(set(e % 8)) == 1 for e in full), 'one offset an epoch'
  assert all(len(set(e)) == n for e in epochs)


@pytest.mark.parametrize(('n', 'batch_size'), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_eval_covers_each_image_once(n, batch_size):
  index, mask = plan.eval_plan(image_source(n), batch_size)
  assert index.dtype == np.int32
  assert mask.dtype == np.float32
  assert index.shape == mask.shape == (-(-n // batch_size), batch_size)
  assert index[mask == 1].tolist() == list(range(n))
  assert (index[mask == 0] == 0).all()


@pytest.mark.parametrize('tail', [0, 5])
def test_eval_predicts_each_target_token_once(tail):
  source = text_source(8 * 11 + 1 + tail, 8)
  index, mask = plan.eval_plan(source, 4)
  targets = [source.read(row)['tokens'][:, 1:][m == 1] for row, m in zip(index, mask, strict=True)]
  found = np.concatenate(targets).ravel().tolist()
  assert found == [*range(1, 8 * 11 + 1 + tail), *[-1] * (8 - tail if tail else 0)]


SIZES = {'train': 100, 'test': 21}


def test_split_rules():
  parts = splits.cut('train[:90%]|train[90%:]|test', SIZES)
  assert parts == {'train': [('train', 0, 90)], 'validation': [('train', 90, 100)], 'test': [('test', 0, 21)]}
  parts = splits.cut('train[10:-20] | train[-20:]+test[:50%] | test[:50%]', SIZES)
  assert parts['train'] == [('train', 10, 80)]
  assert parts['validation'] == [('train', 80, 100), ('test', 0, 10)]  # 10.5 rounds to even, as TFDS rounds


@pytest.mark.parametrize(
  ('sizes', 'rule'),
  [
    (('train', 'validation', 'test'), 'train|validation|test'),
    (('train', 'test', 'extra'), 'train[:90%]|train[90%:]|test'),
    (('train',), 'train[:80%]|train[80%:90%]|train[90%:]'),
  ],
)
def test_auto_split_is_disjoint(sizes, rule):
  sizes = dict.fromkeys(sizes, 1000)
  assert splits.resolve('auto', sizes) == rule
  taken = [(r.name, i) for ranges in splits.cut(rule, sizes).values() for r in ranges for i in range(r.start, r.stop)]
  assert len(taken) == len(set(taken))
  fifth = splits.cut(splits.resolve('auto[:20%]', sizes), sizes)
  for part, (whole,) in splits.cut(rule, sizes).items():
    assert fifth[part] == [(whole.name, whole.start, whole.start + (whole.stop - whole.start) // 5)]
  assert splits.resolve('auto[:7]', sizes).startswith('train[0:7]|')
  assert sum(len(range(r.start, r.stop)) for rs in splits.cut(rule, sizes).values() for r in rs) == len(taken)


@pytest.mark.parametrize(
  ('rule', 'says'),
  [
    ('train|test', 'three parts'),
    ('train|train[90%:]|test', 'validation part shares'),
    ('train[:50%]|train[50%:]|test+train[:1]', 'test part shares'),
    ('train[:50%]+train[40%:50%]|test|test', 'twice'),
    ('train|valid|test', "no split 'valid'.*train, test"),
    ('train[50|test|test', 'cannot read'),
    ('train[:0]|test|test', 'empty'),
    ('[:20%]', 'three parts'),
    ('auto[:20%', 'three parts'),
    ('auto[:0]', 'leaves nothing of train'),
    ('train[200:]|test|test', 'empty'),
  ],
)
def test_bad_split_rules(rule, says):
  with pytest.raises(UserError, match=says):
    splits.cut(splits.resolve(rule, SIZES), SIZES)


def test_validation_may_overlap_test():
  splits.cut('train[:90%]|train[90%:]|train[90%:]', SIZES)
