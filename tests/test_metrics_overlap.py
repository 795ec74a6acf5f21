"""Longest verbatim overlaps against a search by hand, and the report on samples that copy or do not."""

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.data.text import ByteVocab
from gen_ai.evaluate.metrics import overlap
from gen_ai.evaluate.metrics.overlap import longest_overlaps, overlap_report


def search(sequence, corpus):
  """(length, position, place) of the longest run, first in the sequence and then in the corpus."""
  sequence, corpus = sequence.tolist(), corpus.tolist()
  for length in range(len(sequence), 0, -1):
    for i in range(len(sequence) - length + 1):
      for j in range(len(corpus) - length + 1):
        if sequence[i : i + length] == corpus[j : j + length]:
          return length, i, j
  return 0, -1, -1


def check(sequences, corpus):
  found = np.stack(longest_overlaps(sequences, corpus), 1)
  np.testing.assert_array_equal(found, [search(sequence, corpus) for sequence in sequences])
  return found


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('tokens', [1, 2, 4, 30])
def test_overlaps_are_those_of_a_search_by_hand(seed, tokens, monkeypatch):
  monkeypatch.setattr(overlap, '_CHUNK', 7 if seed % 2 else 2**21)
  monkeypatch.setattr(overlap, '_DENSE', 0 if seed % 3 == 0 else 2**24)  # by marks and by a table
  rng = np.random.default_rng(seed)
  T, L = rng.integers(1, 24), rng.integers(1, 90)
  corpus = rng.integers(0, tokens, L)
  sequences = rng.integers(0, tokens + (seed % 2), (6, T))
  for i in range(2):  # a copied piece of some length
    length = rng.integers(0, min(T, L) + 1)
    start, place = rng.integers(0, T - length + 1), rng.integers(0, L - length + 1)
    sequences[i, start : start + length] = corpus[place : place + length]
  check(sequences, corpus)


def tokens(text):
  return np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize(
  ('sequence', 'corpus', 'expected'),
  [
    ('xxabc', 'zzzzzabc', (3, 2, 5)),  # at the end of the corpus
    ('abcxx', 'abczzzzz', (3, 0, 0)),
    ('q', 'the quick', (1, 0, 4)),
    ('q', 'no such', (0, -1, -1)),
    ('abcdefg', 'abcdefg', (7, 0, 0)),
    ('abcdefg', 'abcdefghijk', (7, 0, 0)),  # the overlap goes on beyond the sequence
    ('bcdefgh', 'cde', (3, 1, 0)),  # a corpus shorter than the sequence
    ('aaaaaaaa', 'aaaaaaaaaaaaaaaa', (8, 0, 0)),
    ('aaaaaaaa', 'aaaaab', (5, 0, 0)),
    ('xabyabz', 'ab ab ab', (2, 1, 0)),  # the first of several, on both sides
    ('ababababa', 'babababa', (8, 1, 0)),
  ],
)
def test_overlaps_at_the_edges(sequence, corpus, expected):
  assert tuple(check(tokens(sequence)[None], tokens(corpus))[0]) == expected


def test_runs_do_not_cross_from_one_sequence_into_the_next():
  length, _, _ = longest_overlaps(tokens('xxabcdxx').reshape(2, 4), tokens('..abcd..'))
  assert length.tolist() == [2, 2]


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int32, np.int64])
def test_token_types_do_not_matter(dtype):
  rng = np.random.default_rng(0)
  sequences, corpus = rng.integers(0, 5, (4, 20)), rng.integers(0, 5, 200)
  for one, other in zip(
    longest_overlaps(sequences, corpus.astype(dtype)), longest_overlaps(sequences.astype(dtype), corpus), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_a_long_copy_in_a_long_corpus():
  rng = np.random.default_rng(0)
  corpus, sequences = rng.integers(0, 80, 400_000), rng.integers(0, 80, (50, 256))
  sequences[7, 20:220] = corpus[123_456:123_656]
  sequences[8] = corpus[-256:]
  length, position, place = longest_overlaps(sequences, corpus)
  assert (length[7], position[7], place[7]) == (200, 20, 123_456)
  assert (length[8], position[8], place[8]) == (256, 0, 400_000 - 256)
  rest = np.delete(np.arange(50), [7, 8])
  assert length[rest].min() >= 3 and length[rest].max() <= 7
  for i in rest:
    run = sequences[i, position[i] : position[i] + length[i]]
    np.testing.assert_array_equal(run, corpus[place[i] : place[i] + length[i]])


def markov(seed, *shape):
  """Text of a chain in which every letter has four successors."""
  rng = np.random.default_rng(seed)
  steps, letters = rng.integers(0, 4, shape), np.zeros(shape, np.int64)
  for t in range(1, shape[-1]):
    letters[..., t] = (letters[..., t - 1] * 5 + steps[..., t] * 3 + 1) % 26
  return letters + ord('a')


def test_the_report_tells_copies_from_fresh_text():
  corpus = markov(0, 60_000)
  fresh, samples = markov(1, 100, 64), markov(2, 100, 64)
  clean = overlap_report(samples, fresh, corpus, ByteVocab().decode)
  assert clean.p_value > 0.01 and clean.share_above <= 0.05
  for i in range(30):
    samples[i, 10:50] = corpus[1000 * i : 1000 * i + 40]
  samples[5, 5:60] = corpus[777:832]
  copied = overlap_report(samples, fresh, corpus, ByteVocab().decode)
  assert copied.p_value < 1e-3 and copied.share_above >= 0.3
  assert copied.heldout == clean.heldout and copied.heldout.longest < 25
  top = copied.closest[0]
  assert (top.sample, top.position <= 5, top.corpus_position <= 777, top.length >= 55) == (5, True, True, True)
  assert top.text == ByteVocab().decode(corpus[top.corpus_position : top.corpus_position + top.length])
  assert [c.length for c in copied.closest] == sorted((c.length for c in copied.closest), reverse=True)
  assert len(copied.closest) == 5 and copied.samples.longest == top.length
  lengths = longest_overlaps(samples, corpus)[0]
  assert copied.samples.mean == lengths.mean() and copied.samples.median == np.median(lengths)
  assert copied.samples.quantiles[0.95] == np.quantile(lengths, 0.95)


def test_p_values_of_fresh_text_are_uniform():
  from scipy.stats import kstest

  corpus = markov(0, 5000)
  values = [overlap_report(markov(10 + i, 60, 32), markov(1000 + i, 60, 32), corpus, str).p_value for i in range(120)]
  assert kstest(values, 'uniform').pvalue > 0.01


def test_p_value_where_all_overlaps_are_equal():
  ones = np.ones((5, 4), np.int32)
  assert overlap_report(ones, ones, np.ones(9, np.int32), str).p_value == 0.5


def test_nothing_overlaps():
  report = overlap_report(np.ones((3, 4), np.int32), np.zeros((3, 4), np.int32), np.full(9, 2), str)
  assert report.samples.longest == 0 and report.closest[0] == overlap.Overlap('', 0, 0, -1, -1)


@pytest.mark.parametrize(
  ('sequences', 'corpus', 'says'),
  [
    (np.ones(3, np.int32), np.ones(4, np.int32), r'sequences must be whole numbers \[n, T\]'),
    (np.ones((3, 2)), np.ones(4, np.int32), 'not float64'),
    (np.ones((3, 2), np.int32), np.ones(0, np.int32), 'the corpus must be .* and not empty'),
  ],
)
def test_bad_input_is_refused(sequences, corpus, says):
  with pytest.raises(UserError, match=says):
    longest_overlaps(sequences, corpus)


def test_unlike_lengths_are_refused():
  with pytest.raises(UserError, match='of one T'):
    overlap_report(np.ones((3, 4), int), np.ones((3, 5), int), np.ones(9, int), str)
