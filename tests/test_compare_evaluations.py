"""Evaluation records in the comparison: newest figures, unlike stamps refused, intervals, directions."""

import csv
import json
import re

import made_runs
import numpy as np
import pytest
from cli import command, refused

from gen_ai.compare import EVALUATION_COLUMNS, evaluations, groups, load, protocol, statistics
from gen_ai.compare import format as fmt
from gen_ai.compare.select import Metric
from gen_ai.core.errors import UserError
from gen_ai.run import directory

FD = Metric('test/fd', 'min')


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.setenv('COLUMNS', '100')
  monkeypatch.chdir(tmp_path)


def compare(*words):
  return command('gen_ai.compare', *words)


def shown(*words):
  done = compare(*words)
  assert done.returncode == 0, done.stderr
  return done.stdout


def block(text, title):
  """The lines under the block that begins with `title`, split into cells."""
  lines = text.split(f'\n{title}')[1].split('\n\n')[0].splitlines()[1:]
  return [re.split(r'\s{2,}', line.strip()) for line in lines]


def evaluated(name, fd, own=None, stamp=None, **overrides):
  path = made_runs.make(f'runs/{name}', **overrides)
  made_runs.evaluate(path, {'fd': fd}, own=own, stamp=stamp)
  return path


@pytest.fixture
def two_groups():
  for seed in range(3):
    evaluated(f'good{seed}', (10.0 + seed, 9.0, 14.0), run__seed=seed, optim__lr=1e-3)
    evaluated(f'bad{seed}', (20.0 + 2 * seed, 19.0, 25.0), run__seed=seed, optim__lr=1e-2)


# The record.


def test_rows_are_read_as_they_were_written_and_a_line_cut_short_is_dropped():
  path = made_runs.make('runs/a')
  assert directory.read_evaluations(path) == []
  made_runs.evaluate(path, {'fd': np.float32(1.5), 'kid': float('nan')}, texts={'overlaps': ['nan', 'x']})
  with (path / 'evaluations.jsonl').open('a') as file:
    file.write('{"step": 100, "spl')
  assert len(directory.read_evaluations(path)) == 1
  made_runs.evaluate(path, {'fd': 2.0}, at=1)  # not appended to the half line
  first, second = directory.read_evaluations(path)
  assert first['figures']['fd']['value'] == 1.5 and np.isnan(first['figures']['kid']['value'])
  assert first['texts'] == {'overlaps': ['nan', 'x']} and second['figures']['fd']['value'] == 2.0


@pytest.mark.parametrize(
  'line',
  [
    '{"step": 1}',
    '{"time": "", "split": "test", "figures": {}}',
    '{"step": 1',
    '[]',
    '{"time": "", "step": 1, "split": "test", "figures": {"fd": 3.0}}',
  ],
)
def test_a_damaged_row_is_named(line):
  path = evaluated('a', 1.0)
  with (path / 'evaluations.jsonl').open('a') as file:
    file.write(f'{line}\n')
  with pytest.raises(UserError, match=r'evaluations\.jsonl line 2 '):
    load('runs')


# The frame.


def test_the_documented_columns_are_those_of_the_frame():
  before = set(load(made_runs.make('runs/a')).runs.columns)
  made_runs.evaluate('runs/a', {'fd': (3.0, 2.0, 5.0)}, notes=['few samples', 'and grey'])
  runs = load('runs')
  added = [column.replace('test/fd', 'split/m') for column in runs.runs.columns if column not in before]
  assert added == [*EVALUATION_COLUMNS]
  assert all(f'  {name} ' in load.__doc__ for name in EVALUATION_COLUMNS) and runs.names == ['nll_bpd', 'test/fd']
  row = runs.runs.iloc[0]
  assert [row[f'test/fd{end}'] for end in ('', '/low', '/high', '/step')] == [3.0, 2.0, 5.0, 100]
  assert np.isnan(row['test/fd/error']) and row['test/fd/notes'] == 'few samples | and grey'
  assert json.loads(row['test/fd/stamp']) == {**made_runs.STAMP, **made_runs.FEATURES}


def test_the_newest_figure_of_each_split_counts_and_others_are_kept():
  path = made_runs.make('runs/a')
  made_runs.evaluate(path, {'fd': 4.0}, step=100, at=5)
  made_runs.evaluate(path, {'fd': (9.0, 8.0, 10.0), 'kid': 0.5}, step=50, at=9)  # later, of an earlier step
  made_runs.evaluate(path, {'fd': 3.0}, step=100, at=7)
  made_runs.evaluate(path, {'fd': 2.0}, step=100, at=6)
  made_runs.evaluate(path, {'fd': 1.0}, step=100, split='validation')
  row = load('runs').runs.iloc[0]
  assert (row['test/fd'], row['test/kid'], row['validation/fd']) == (3.0, 0.5, 1.0)
  assert np.isnan(row['test/fd/low']) and row['test/kid/step'] == 50  # nothing of the row that was replaced
  assert json.loads(row['validation/fd/stamp'])['split'] == 'validation'


@pytest.mark.parametrize(
  ('name', 'mode'),
  [
    ('test/fd', 'min'),
    ('validation/fd_infinity', 'min'),
    ('kid', 'min'),
    ('sliced_wasserstein', 'min'),
    ('ms_ssim', 'min'),
    ('nll_bpd', 'min'),
    ('nll_nats', 'min'),
    ('bits_per_byte', 'min'),
    ('perplexity', 'min'),
    ('duplicates', 'min'),
    ('copied_fraction', 'min'),
    ('longest_overlap', 'min'),
    ('precision', 'max'),
    ('recall', 'max'),
    ('density', 'max'),
    ('coverage', 'max'),
    ('inception_score', 'max'),
    ('elbo_nats', 'max'),
    ('modes_covered', 'max'),
    ('modes_kl_nats', 'min'),
    ('accuracy', 'max'),
    ('repeated_share', 'min'),
    ('overlap_heldout_tokens', None),
    ('overlap_p', None),
    ('c_t', None),
    ('c_t_p', None),
    ('fdx', None),
    ('unknown', None),
  ],
)
def test_directions(name, mode):
  assert evaluations.by_name(name) == mode


# The table.


def test_figures_are_averaged_compared_and_ranked_as_other_metrics_are(two_groups):
  text = shown('runs', '--metric=test/fd:min')
  good, bad = [10.0, 11.0, 12.0], [20.0, 22.0, 24.0]
  assert block(text, 'test/fd  lower is better') == [
    ['lr', 'n', 'final'],
    ['A', '0.001', '3', fmt.interval(statistics.mean_interval(good))],
    ['B', '0.01', '3', fmt.interval(statistics.mean_interval(bad))],
  ]
  found = statistics.paired_difference(bad, good)
  p = statistics.probability_of_improvement(bad, good, 'min')
  assert block(text, 'final test/fd minus')[1] == ['B', '3', fmt.interval(found, signed=True), fmt.share(*p)]
  assert 'best*' not in text
  assert block(shown('runs', '--metric=test/fd:max'), 'test/fd  higher')[1][1] == '0.01'


def test_a_known_direction_need_not_be_given(two_groups):
  assert 'test/fd  lower is better' in shown('runs', '--metric=test/fd')
  made_runs.evaluate('runs/good0', {'c_t': 1.0})
  refused(compare('runs', '--metric=test/c_t'), 'does not say what is better', '--metric=test/c_t:min')
  refused(compare('runs', '--metric=fd'), "no run has the metric 'fd'. Did you mean test/fd?")


def test_one_run_shows_its_own_interval():
  evaluated('a', (10.0, 9.0, 14.0), optim__lr=1e-3)
  evaluated('b', {'value': 20.0, 'error': 1.0}, optim__lr=1e-2)
  evaluated('c', 30.0, optim__lr=1e-1)
  for flags, first in (((), ['A', '0.001', '1']), (('--runs',), ['1', '0.001', 'done', '100'])):
    text = shown('runs', '--metric=test/fd:min', *flags)
    rows = block(text, 'test/fd  lower')[1:]
    assert rows[0] == [*first, '10.0 [9.0, 14.0]'] and 'over its samples' in text
    assert rows[1][-1] == '20.0 [18.0, 22.0]' and rows[2][-1] == '30.00'  # 1.96 standard errors; none


def test_a_run_without_the_figure_is_treated_as_one_without_a_metric(two_groups):
  made_runs.make('runs/bare', run__seed=3, optim__lr=1e-3)
  text = shown('runs', '--metric=test/fd:min')
  row = block(text, 'test/fd  lower')[1]
  assert row[2] == '3' and row[-1] == '1 without value' and 'without test/fd: runs/bare' in text
  assert '7 ' in shown('runs', '--runs', '--metric=test/fd:min')


def test_a_diverged_run_loses_and_is_not_averaged(two_groups):
  evaluated('x', 1.0, state='diverged', run__seed=3, optim__lr=1e-3)
  a, b = groups.make(load('runs').runs, FD)
  assert groups.summarise(a, FD).final.mean == 11.0
  assert groups.difference(b, a, FD).better[0] == pytest.approx(3 / 12)


def test_search_budget_of_a_figure(two_groups):
  rows = block(shown('runs', '--metric=test/fd:min', '--budget'), 'expected best test/fd of n configurations')
  assert rows[1][:2] == ['1', '16.50 [11.00, 22.00]']


def test_where_by_csv_and_sql(two_groups):
  assert '2 runs in' in shown('runs', '--metric=test/fd:min', '--where', 'test/fd<=11')
  assert '3 runs in' in shown('runs', '--metric=test/fd:min', '--where', 'test/fd/low>10')
  assert '6 runs in' in shown('runs', '--metric=test/fd:min', '--where', 'test/fd/stamp.extractor_weights=e1e1')
  assert '(by test/fd/stamp.samples)' in shown('runs', '--metric=test/fd:min', '--by=test/fd/stamp.samples')
  rows = list(csv.DictReader(shown('runs', '--csv=-').splitlines()))
  assert sorted(float(row['test/fd']) for row in rows) == [10, 11, 12, 20, 22, 24]
  assert json.loads(rows[0]['test/fd/stamp'])['extractor'] == 'classifier'
  query = "select [test/fd], json_extract([test/fd/stamp], '$.samples') from runs where [test/fd/high] > 20 limit 1"
  assert shown('runs', '--sql', query).splitlines()[1] == '20.0\t10000'
  made_runs.evaluate('runs/bad0', {'fd': 5.0}, at=9)
  assert shown('runs', '--sql', 'select min([test/fd]) from runs').splitlines()[1] == '5.0'  # the index is made anew


def test_an_unknown_field_of_a_stamp_lists_those_there_are(two_groups):
  refused(compare('runs', '--where', 'test/fd/stamp.extracter=x'), "'test/fd/stamp.extractor'", 'test/fd/stamp.samples')
  refused(compare('runs', '--where', 'test/fd/stamp.extractor=random'), 'test/fd/stamp.extractor is classifier')


# Stamps.

UNLIKE = {
  'extractor': 'random',
  'extractor_weights': 'ff' * 32,
  'samples': 5000,
  'ema': True,
  'sampler.temperature': '0.5',
  'guidance': 1 / 3,
  'resize': None,
  'data_hash': '00' * 32,
  'split_rule': 'train[:80%]',
}


@pytest.mark.parametrize('field', UNLIKE)
def test_unlike_stamps_are_refused_with_field_values_and_way_out(field):
  for name in 'ab':
    evaluated(name, 10.0, run__seed=ord(name))
  shared = field in made_runs.STAMP
  evaluated('c', 20.0, **{'stamp' if shared else 'own': {field: UNLIKE[field]}})
  done = compare('runs', '--metric=test/fd:min')
  refused(done, f'test/fd/stamp.{field} (stamp of test/fd): ', ' in runs/a, runs/b; ', ' in runs/c', '--force')
  assert done.stdout == ''
  value = made_runs.STAMP.get(field, made_runs.FEATURES.get(field, 'not recorded'))
  value = str(value).lower() if isinstance(value, bool) else str(value)
  assert f'{value[:12]} in runs/a' in done.stderr
  way = done.stderr.split("--where '")[1].split("'")[0]
  kept = compare('runs', '--metric=test/fd:min', f'--where={way}')
  assert kept.returncode == 0 and ('2 runs' if value != 'not recorded' else '1 run') in kept.stdout, kept.stderr
  forced = shown('runs', '--metric=test/fd:min', '--force', '--csv=out.csv')
  assert forced.startswith('FORCED: unlike') and f'test/fd/stamp.{field} ' in forced.split('\n\n')[0].replace('\n', ' ')
  with open('out.csv', newline='') as file:  # noqa: PTH123
    assert all(field in row['forced'] for row in csv.DictReader(file))


@pytest.mark.parametrize('flags', [('--csv=out.csv',), ('--html=out.html',), ('--runs',), ('--csv=-',)])
def test_no_output_is_written_of_unlike_stamps(flags, tmp_path):
  evaluated('a', 10.0)
  evaluated('b', 20.0, own={'samples': 5000}, run__seed=1)
  refused(compare('runs', '--metric=test/fd:min', *flags), 'test/fd/stamp.samples')
  assert [path.name for path in tmp_path.iterdir()] == ['runs']


def test_stamps_of_figures_that_are_not_shown_do_not_matter():
  evaluated('a', 10.0)
  evaluated('b', 20.0, own={'samples': 5000}, run__seed=1)
  made_runs.make('runs/c', run__seed=2)
  assert '3 runs in' in shown('runs')
  made_runs.evaluate('runs/c', {'kid': 1.0})  # another figure, with the stamp of the first
  refused(compare('runs', '--metric=test/kid:min,test/fd:min'), '10000 in runs/a', '5000 in runs/b')
  assert '3 runs in' in shown('runs', '--metric=test/kid:min')


def test_figures_that_differ_in_the_same_way_are_told_together():
  for name, samples in (('a', 10000), ('b', 5000)):
    path = made_runs.make(f'runs/{name}')
    made_runs.evaluate(path, {'fd': 1.0, 'kid': 1.0}, own={'samples': samples})
  frame = load('runs').runs
  found = protocol.unlike_stamps(frame, ['test/fd', 'test/kid'])
  assert [(one.field, one.what) for one in found] == [('test/fd/stamp.samples', 'stamp of test/fd, test/kid')]
  assert protocol.alike(frame)[0] == [] and 'samples' in protocol.alike(frame)[1]['test/kid']


def test_circumstances_are_noted_and_never_refused():
  evaluated('a', 10.0)
  path = made_runs.make('runs/b', run__seed=1)
  there = {'versions': 'python 3.11.7, jax 0.12.0', 'devices': '8 x cuda', 'seconds': 5.0}
  made_runs.evaluate(path, {'fd': 20.0}, step=50, stamp=there, notes=['n < features: 500 < 512'])
  text = shown('runs', '--metric=test/fd:min').replace('\n  ', ' ')
  for said in (
    'versions differ: jax 0.10.2 (1 run) and jax 0.12.0 (1 run)',
    'devices differ: 1 x cpu (1 run) and 8 x',
    'step differ: 100 (1 run) and 50 (1 run)',
    'evaluation: n < features: 500 < 512 (1 run)',
  ):
    assert said in text, text
  assert 'jax 0.12.0' not in shown('runs')


def test_notes_of_many_evaluations_are_told_once_and_not_all():
  for seed in range(8):
    path = made_runs.make(f'runs/{seed}', run__seed=seed)
    made_runs.evaluate(path, {'fd': 1.0, 'kid': 1.0}, notes=[f'{seed} duplicates', 'n < features'])
  text = shown('runs', '--metric=test/fd,test/kid')
  assert text.count('n < features (8 runs)') == 1 and text.count('duplicates (1 run)') == 3
  assert 'evaluation: 5 more notes' in text


def test_runs_with_nothing_but_evaluations_are_compared_and_reported():
  for name, fd in (('a', 3.0), ('b', 4.0)):  # external samples: no metrics.jsonl, no summary.json
    made_runs.start(f'runs/{name}', made_runs.config(optim__lr=fd)).status('done', 100, 100)
    made_runs.evaluate(f'runs/{name}', {'fd': fd})
  text = shown('runs', '--metric=test/fd', '--html=out.html')
  assert [row[2:4] for row in block(text, 'test/fd  lower')[1:]] == [['1', '3.000'], ['1', '4.000']]
