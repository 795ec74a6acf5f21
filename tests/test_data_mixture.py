"""Mixtures: exact shares, each source in exact windows of its own, a pure function of (seed, position)."""

import jax
import numpy as np
import pytest
import tiny

from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.core.method import Field, Task
from gen_ai.data import dataset, mixture, plan, text, tokenize
from gen_ai.data.source import TextSource
from gen_ai.evaluate import metrics
from gen_ai.evaluate.evaluator import Evaluator
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.generation import SplitInputs
from gen_ai.evaluate.metrics.overlap import heldout_texts
from gen_ai.evaluate.protocol import protocol
from gen_ai.run import directory
from gen_ai.sweep import plan as sweep
from gen_ai.sweep.trials import resolve

SIZES = {'a': 83, 'b': 410, 'c': 30}
SHARES = [7000, 2500, 500]


@pytest.fixture
def mixed():
  """A mixture of three texts whose tokens tell them apart."""
  return mixture.TextMixture(sources(), SHARES)


def sources():
  starts = dict(zip(SIZES, (0, 1000, 2000), strict=True))
  return {name: TextSource(np.arange(n, dtype=np.uint16) + starts[name], 8, name) for name, n in SIZES.items()}


def test_every_block_holds_the_exact_shares_and_each_source_goes_through_its_epochs(mixed):
  index = plan.train_plan(mixed, 3, 0, 1, 2 * mixture.BLOCK).ravel()
  ends = np.cumsum(list(SIZES.values()))
  which = np.searchsorted(ends, index, side='right')
  for block in np.split(which, 2):
    assert np.bincount(block).tolist() == SHARES
  assert len(set(np.diff(np.flatnonzero(which == 2)))) > 20, 'in no fixed turns'
  for k, (source, share) in enumerate(zip(sources().values(), SHARES, strict=True)):
    own = index[which == k] - (ends[k] - source.size)
    n = len(source)
    epochs = own[: len(own) // n * n].reshape(-1, n)
    assert all(len(set(epoch)) == n for epoch in epochs), 'no window twice in an epoch'
    assert len(own) == 2 * share
  orders = plan.train_plan(mixture.TextMixture({'x': sources()['a'], 'y': sources()['a']}, [5000, 5000]), 0, 0, 1, 99)
  assert not np.array_equal(orders[orders < 83][:9], orders[orders >= 83][:9] - 83), 'two of one size differ'


def test_a_plan_is_the_concatenation_of_its_parts_and_of_the_seed_alone(mixed):
  start = mixture.BLOCK // 8 - 20  # in batches of 8: across the border of two blocks
  whole = plan.train_plan(mixed, 3, start, 40, 8)
  assert whole.dtype == np.int32
  parts = [plan.train_plan(mixed, 3, start, 13, 8), plan.train_plan(mixed, 3, start + 13, 27, 8)]
  np.testing.assert_array_equal(whole, np.concatenate(parts))
  mixture._drawn.cache_clear()
  np.testing.assert_array_equal(whole, plan.train_plan(mixture.TextMixture(sources(), SHARES), 3, start, 40, 8))
  np.testing.assert_array_equal(whole.ravel(), plan.train_plan(mixed, 3, start * 2, 80, 4).ravel())
  assert (whole != plan.train_plan(mixed, 4, start, 40, 8)).any()
  # Recorded once: a run must find its batches again after an upgrade of NumPy.
  assert plan.train_plan(mixed, 7, 0, 2, 5).tolist() == [[47, 15, 74, 338, 71], [63, 39, 23, 496, 31]]


def test_device_and_host_read_the_same_windows_which_lie_in_one_text(mixed):
  arrays = mixed.arrays()
  index = plan.train_plan(mixed, 0, 0, 50, 16).ravel()
  held = plan.eval_plan(mixed, 7)
  for some in (index, held[0].ravel()):
    read, gathered = mixed.read(some), jax.device_get(jax.jit(mixed.gather)(arrays, some))
    for name in ('tokens', 'index'):
      np.testing.assert_array_equal(read[name], gathered[name])
    known = np.where(read['tokens'] >= 0, read['tokens'], read['tokens'].max(1, keepdims=True))
    assert (known.max(1) - known.min(1) <= 8).all(), 'a window reaches into another text'
  assert (mixed.read(index)['tokens'] >= 0).all()


def test_an_evaluation_predicts_each_token_of_each_source_once(mixed):
  index, mask = plan.eval_plan(mixed, 7)
  rows = np.concatenate([mixed.read(row)['tokens'][m == 1] for row, m in zip(index, mask, strict=True)])
  assert len(rows) == mixed.evaluated
  for (name, source), examples in zip(sources().items(), mixed.parts.values(), strict=True):
    targets = rows[examples.start : examples.stop, 1:]
    np.testing.assert_array_equal(targets[targets >= 0], source.arrays()['tokens'][1:], name)


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('mix:0.7*tokens:/d/web+0.3*text:co+rp/**/*.txt', [('web', 7000), ('co_rp', 3000)]),
    ('mix:2*tokens:a+1*tokens:b+0*tiny_set:1.0.0', [('a', 6667), ('b', 3333), ('tiny_set', 0)]),
    ('mix:1e-3*tokens:x/web+.999*tokens:y/web', [('web_0', 10), ('web_1', 9990)]),
  ],
)
def test_a_mixture_is_read_from_its_name(name, expected):
  assert [(one.short, one.share) for one in mixture.parse(name)] == expected


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('mix:tokens:a', "must read 'mix:0.7.NAME.0.3.NAME'"),
    ('mix:', 'must read'),
    ('mix:0.5*a+b', r'unknown data set .a\+b.'),
    ('mix:0*tokens:a', 'a mixture needs a weight above 0'),
    ('mix:1*a+1*a', 'a stands there twice'),
    ('mix:1*a+1*mix:b', 'is a mixture itself'),
    ('mix:1*a+1e-6*b', 'b has less than 1/10,000 of the weight'),
    ('mix:0.5*python_stdlib+0.5*tokens:/no/such', 'of its source tokens:/no/such: .*there is no such folder'),
    ('mix:0.5*python_stdlib+0.5*text:/no/*.txt', r'of its source text:/no/\*.txt: .* no file matches'),
  ],
)
def test_bad_mixtures_are_refused_and_name_the_source(name, says):
  with pytest.raises(UserError, match=says):
    dataset.load(tiny.config('lm', data__name=name).data)


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
  """Two directories of tokens of one tokenizer, and a folder of text."""
  place = tmp_path_factory.mktemp('corpora')
  for name in ('code', 'prose'):
    (place / f'{name}.txt').write_text('<end>'.join(f'{name} number {i}, {i * i}\n' * 6 for i in range(120)))
    tokens = 'bpe:280' if name == 'code' else f'bpe:{place}/tokens_code'
    request = tokenize.Request(f'text:{place}/{name}.txt', f'{place}/tokens_{name}', tokens, '2:1:1', delimiter='<end>')
    tokenize.tokenize(request)
  return place


def mixed_config(corpora, **changes):
  name = f'mix:0.7*tokens:{corpora}/tokens_code+0.3*tokens:{corpora}/tokens_prose'
  flat = {'data__name': name, 'data__split': 'auto', 'model__documents': 'apart', 'eval__best': ''}
  return tiny.exact('lm', **(flat | changes))


def test_the_tokens_of_all_sources_must_be_the_same(corpora):
  data = tiny.dataset(mixed_config(corpora))
  assert set(data.splits['validation'].parts) == {'tokens_code', 'tokens_prose'}
  assert any(note.startswith('0.7 of tokens_code: ') for note in data.notes)
  name = f'mix:0.5*tokens:{corpora}/tokens_code+0.5*text:{corpora}/prose.txt'
  with pytest.raises(UserError, match=r'prose.txt has other tokens \(byte\) than tokens:.* \(bpe [0-9a-f]{12}\)'):
    dataset.load(tiny.config('lm', data__name=name, data__split='auto').data)
  tokens = f'bpe:{corpora}/tokens_code'
  joined = dataset.load(tiny.config('lm', data__name=name, data__split='auto', data__tokens=tokens).data)
  assert text.identity(joined.spec.vocab) == text.identity(data.spec.vocab)
  weights = dataset.load(mixed_config(corpora).data).fingerprint, data.fingerprint
  other = mixed_config(corpora).data.name.replace('0.7*', '0.6*')
  assert weights[0] == weights[1] != dataset.load(mixed_config(corpora, data__name=other).data).fingerprint


@pytest.mark.parametrize('feed', ['device', 'host'])
def test_a_run_that_is_stopped_amid_an_epoch_with_documents_apart_goes_on_as_if_it_had_not(feed, corpora, tmp_path):
  config = mixed_config(corpora, data__feed=feed)
  source = tiny.dataset(config).splits['train']
  assert 3 * 2 * 16 % len(source), 'the stop is amid an epoch'
  whole, halved = tmp_path / 'whole', tmp_path / 'halved'
  assert tiny.run(config, whole)[0] == DONE
  assert tiny.run(config, halved, stop=tiny.StopAt(3))[0] == REQUEUE
  assert tiny.run(config, halved)[0] == DONE
  assert tiny.rows(whole) == tiny.rows(halved)
  names = {name for row in directory.read_metrics(whole) if row['kind'] == 'eval' for name in row}
  assert {'bits_per_byte', 'bits_per_byte.tokens_code', 'bits_per_byte.tokens_prose'} <= names


def test_two_devices_train_as_one(corpora):
  config = mixed_config(corpora)
  (one, first), (two, second) = (tiny.train(config, devices) for devices in (1, 2))
  np.testing.assert_allclose(first['loss_nats'], second['loss_nats'], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_figures_of_the_sources_are_told_beside_those_of_all(corpora):
  config = mixed_config(corpora)
  data, program = tiny.dataset(config), tiny.program(config)
  pass_, state = ExamplePass(program, config, data.splits['validation']), program.init()
  found = pass_(state)
  evaluated = Evaluator(program, config, data, protocol(config, data, 'validation', [])).own(state)
  assert {name: figure.value for name, figure in evaluated.items()} == pytest.approx(found, rel=1e-6)
  assert set(found) == set(pass_.metric_names())
  counts = {}
  for name in ('code', 'prose'):
    tokens = np.concatenate([[0], dataset.load(data_config(corpora, name)).splits['validation'].arrays()['tokens'][1:]])
    counts[name] = data.spec.vocab.byte_counts()[tokens[1:]].sum()
  joined = sum(found[f'bits_per_byte.tokens_{name}'] * n for name, n in counts.items()) / sum(counts.values())
  assert found['bits_per_byte'] == pytest.approx(joined, rel=1e-6)
  assert found['bits_per_byte.tokens_code'] != found['bits_per_byte.tokens_prose']
  asked = Evaluator(program, config, data, protocol(config, data, 'validation', metrics.parse('nll', 'text')))
  figures = {**asked.own(state), **asked.lanes(state)[0].figures}
  assert {name: figures[name].value for name in found} == pytest.approx(found, rel=1e-6)
  assert figures.keys() == found.keys() | {f'perplexity{end}' for end in ('', '.tokens_code', '.tokens_prose')}
  assert set(asked.figures) == figures.keys()


def test_a_sweep_is_judged_by_what_its_runs_tell_of_a_source(corpora):
  def check(best, rule=''):
    config = mixed_config(corpora, eval__best=best, run__eval_every=2)
    sweep.check(resolve(config, [{'run.seed': 0}, {'run.seed': 1}]), rule, True)

  check('bits_per_byte.tokens_code:min', 'loss_nats.tokens_prose:min,first=2')
  with pytest.raises(UserError, match="'loss_nats.code'.* Evaluations give .*, loss_nats.tokens_code, "):
    check('loss_nats.code:min')


def test_a_source_of_weight_0_is_evaluated_and_no_part_of_training(corpora):
  both = mixed_config(corpora).data.name.replace('0.3*', '0*')
  alone, data = dataset.load(data_config(corpora, 'code')), tiny.dataset(mixed_config(corpora, data__name=both))
  own, found = alone.splits['train'], data.splits['train']
  np.testing.assert_array_equal(found.arrays()['tokens'], own.arrays()['tokens'])
  assert (len(found), found.nbytes, set(found.parts)) == (len(own), own.nbytes, {'tokens_code'})
  assert set(data.splits['validation'].parts) == {'tokens_code', 'tokens_prose'}
  (note,) = [note for note in data.notes if note.startswith('0 of tokens_prose')]
  assert ' train' not in note and ' validation' in note


def test_held_out_texts_are_of_each_source_by_turns(mixed):
  found = heldout_texts(mixed, 20, 8, mixed.parts)
  assert (found[:, 0] // 1000).tolist() == [0, 1, 2, 0, 1, 0, 1, 0] and (np.diff(found) == 1).all()
  assert (heldout_texts(mixed, 20, 8, {'b'})[:, 0] == 1000 + np.arange(0, 160, 20)).all()
  plain = sources()['a']
  np.testing.assert_array_equal(heldout_texts(plain, 20, 9), plain.arrays()['tokens'][:80].reshape(4, 20))


def test_examples_are_numbered_as_in_an_evaluation(mixed):
  inputs = SplitInputs(
    tiny.config('lm', data__feed='device'), mixed, Task(lambda *args: {}, {'tokens': Field('example')}, {})
  )
  n = mixed.evaluated
  assert n > len(mixed)
  np.testing.assert_array_equal(inputs.rows(np.array([n - 1, n])), mixed.eval_index(np.array([n - 1, 0])))


def data_config(corpora, name):
  return mixed_config(corpora, data__name=f'tokens:{corpora}/tokens_{name}').data
