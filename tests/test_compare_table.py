"""python -m gen_ai.compare: what a person sees of groups and of single runs."""

import json
import re
from pathlib import Path

import made_runs
import numpy as np
import pytest
from cli import command, refused

from gen_ai.compare import format as fmt
from gen_ai.compare import groups, load, statistics
from gen_ai.compare.select import Metric
from gen_ai.compare.statistics import Interval

NLL = Metric('nll_bpd', 'min')


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
  """80 columns, and short paths."""
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.chdir(tmp_path)


def compare(*words):
  return command('gen_ai.compare', *words)


def shown(*words):
  done = compare(*words)
  assert done.returncode == 0, done.stderr
  return done.stdout


def row(text, name, block='nll_bpd'):
  """The cells of row `name` in the block that begins with `block`."""
  lines = text.split(f'\n{block}')[1].splitlines()
  line = next(line for line in lines if re.match(rf'\s*{name}\s', line))
  return re.split(r'\s{2,}', line.strip())


@pytest.fixture
def two_groups():
  """lr 1e-3 is better than 1e-2 by about 1 in every seed."""
  for seed in range(3):
    made_runs.make(f'runs/good{seed}', (3.0, 0.9, 1.0 + seed / 10), run__seed=seed, optim__lr=1e-3)
    made_runs.make(f'runs/bad{seed}', (3.0, 1.9, 2.0 + seed / 5), run__seed=seed, optim__lr=1e-2)


def test_groups_over_seeds_with_intervals(two_groups):
  text = shown('runs')
  assert text.startswith('6 runs in 2 groups')
  assert 'same in all: experiment vae' in text
  good = statistics.mean_interval(np.array([1.0, 1.1, 1.2]))
  last = statistics.mean_interval(np.array([4.9, 5.0, 5.1]) / 3)
  best = statistics.mean_interval(np.array([0.9, 0.9, 0.9]))
  assert row(text, 'A') == ['A', '0.001', '3', *map(fmt.interval, (good, last, best))]
  assert row(text, 'B')[:3] == ['B', '0.01', '3']
  assert "Student's t (n < 30)" in text and 'optimistic' in text


def test_only_fields_that_differ_are_columns(two_groups):
  header = shown('runs').split('\nnll_bpd')[1].splitlines()[1]
  assert header.split() == ['lr', 'n', 'final', 'last', '5', 'best*']


def test_paired_differences_against_the_best(two_groups):
  text = shown('runs')
  found = statistics.paired_difference([2.0, 2.2, 2.4], [1.0, 1.1, 1.2])
  p = statistics.probability_of_improvement([2.0, 2.2, 2.4], [1.0, 1.1, 1.2], 'min')
  block = 'final nll_bpd minus that of A (optim.lr 0.001)'
  assert row(text, 'B', block) == ['B', '3', fmt.interval(found, signed=True), fmt.share(*p)]
  assert '\nB is worse than A (n = 3)\n' in text and 'not told apart: the 95% interval' in text


@pytest.mark.parametrize(
  ('a', 'b', 'seed', 'says'),
  [
    ((1.0, 2.0, 3.0), (2.0, 2.5, 3.3), 0, 'A and B are not told apart (n = 3)'),  # 0.6 +- 0.9
    ((1.0, 2.0, 3.0), (1.2, 2.25, 3.3), 0, 'B is worse than A (n = 3)'),
    ((1.0,), (9.0,), 0, 'A and B are not told apart (n = 1)'),
    ((1.0, 2.0, 3.0), (7.0, 8.0, 9.0), 5, 'A and B are not told apart (no seed matches)'),
    ((1.0, 1.1, 1.2, 1.3, 1.4, 1.5), (7.0, 7.1, 7.2, 7.3, 7.4, 7.5), 50, 'B is worse than A (no seed matches)'),
  ],
)
def test_what_is_told_apart_is_said_in_words(a, b, seed, says):
  for i, (one, other) in enumerate(zip(a, b, strict=True)):
    made_runs.make(f'runs/a{i}', (one,), run__seed=i)
    made_runs.make(f'runs/b{i}', (other,), run__seed=i + seed, optim__lr=1.0)
  assert f'\n{says}\n' in shown('runs')
  best, other = groups.make(load('runs').runs, NLL)
  higher = groups.difference(other, best, Metric('nll_bpd', 'max'))
  assert groups.verdict(higher, 'B', 'A', Metric('nll_bpd', 'max')) == says.replace('worse', 'better')


@pytest.mark.parametrize('baseline', ['B', 'b', 'optim.lr=1e-2'])
def test_a_baseline_of_choice(two_groups, baseline):
  text = shown('runs', f'--baseline={baseline}')
  assert row(text, 'A', 'final nll_bpd minus that of B (optim.lr 0.01)')[2].startswith('-1.1')


@pytest.mark.parametrize(('baseline', 'says'), [('Q', 'there are A to B'), ('run.steps=100', 'holds for 2 groups')])
def test_a_baseline_that_is_none(two_groups, baseline, says):
  refused(compare('runs', f'--baseline={baseline}'), says)


def test_seeds_that_do_not_match_are_told():
  for seed in range(2):
    made_runs.make(f'runs/a{seed}', run__seed=seed)
    made_runs.make(f'runs/b{seed}', (9.0,), run__seed=seed + 5, optim__lr=1.0)
  assert row(shown('runs'), 'B', 'final')[1:3] == ['0', 'no seed matches']


def test_what_did_not_end_is_shown_and_not_averaged(two_groups):
  made_runs.make('runs/x', (0.1,), state='diverged', message='loss_nats not finite', run__seed=3, optim__lr=1e-3)
  made_runs.make('runs/y', (0.1,), state='failed', message='disk full', run__seed=4, optim__lr=1e-3)
  made_runs.make('runs/z', (0.1,), state='pruned', message='rank 9 of 9', run__seed=5, optim__lr=1e-3)
  made_runs.make('runs/s', (0.1,), state='stopped', message='SIGTERM', run__seed=6, optim__lr=1e-3)
  made_runs.make('runs/w', (0.1,), state='running', run__seed=7, optim__lr=1e-3)
  text = shown('runs')
  assert row(text, 'A')[2:4] == ['3', fmt.interval(statistics.mean_interval(np.array([1.0, 1.1, 1.2])))]
  listed = text.split('\nnot counted')[1]
  for state, run, said in (
    ('diverged', 'runs/x', 'loss_nats not finite'),
    ('failed', 'runs/y', 'disk full'),
    ('pruned', 'runs/z', 'rank 9 of 9'),
    ('stopped', 'runs/s', 'SIGTERM'),
    ('lost', 'runs/w', '--resume=runs/w'),
  ):
    assert f'A  {state} at step 50 of 100\n   {run}\n' in listed and said in listed
    assert f'1 {state}' in text.split('\ncost')[0]


def test_a_group_of_diverged_runs_alone_has_a_row_without_figures(two_groups):
  made_runs.make('runs/x', (0.1,), state='diverged', optim__lr=1.0)
  assert row(shown('runs'), 'C')[:6] == ['C', '1', '0', '-', '-', '-']


def test_waiting_points_are_counted_in_their_group():
  made_runs.sweep('runs', [{'optim.lr': lr, 'run.seed': s} for lr in (1e-3, 1e-2) for s in (0, 1)], started=3)
  text = shown('runs')
  assert '1 waiting' in row(text, 'B')[-1] and 'B  1 waiting, not started, trial 3' in text


def test_a_run_that_is_repeated_counts_once(two_groups):
  later = {'about': {'created': '2026-02-01T00:00:00+00:00'}}
  made_runs.make('runs/again', (1.5,), run__seed=0, optim__lr=1e-3, protocol=later)
  text = shown('runs')
  assert row(text, 'A')[2:4] == ['3', fmt.interval(statistics.mean_interval(np.array([1.5, 1.1, 1.2])))]
  assert 'repeated at step 100 of 100\n   runs/good0\n' in text


def test_a_run_of_other_code_is_no_repetition(two_groups):
  made_runs.make('runs/again', (1.5,), run__seed=0, optim__lr=1e-3, protocol={'about': {'git': {'commit': 'beef'}}})
  text = shown('runs')
  assert row(text, 'A')[2] == '4' and 'code differ: c0ffeec0ffee (6 runs) and beef (1 run)' in text


def test_a_run_without_the_metric_is_named_and_has_no_figure(two_groups):
  made_runs.make('runs/other', (1.0,), name='fid', run__seed=3, optim__lr=1e-3)
  text = shown('runs')
  assert row(text, 'A')[2] == '3' and '1 without value' in row(text, 'A')[-1] and 'without nll_bpd: runs/other' in text
  lines = shown('runs', '--runs').split('\ncost')[0]
  assert re.search(r'\n7 .*done +100 +- +- +-', lines)


def test_a_final_value_that_is_not_finite_is_not_averaged(two_groups):
  made_runs.make('runs/nan', (1.0, float('nan')), run__seed=3, optim__lr=1e-3)
  assert row(shown('runs'), 'A')[2] == '3'


def test_costs_that_lanes_share_are_marked(two_groups):
  assert '†' not in shown('runs')
  made_runs.make('runs/lane', (9.0,), optim__lr=0.1, protocol={'about': {'lanes': 8}}, costs={'seconds': 75.0})
  text = shown('runs')
  cells = row(text, 'C', 'cost')
  assert cells == ['C', '1m 15s†', '1.5s†', '5.33 k†', '200 G', '500 MB†', '1.23 k']
  assert row(text, 'A', 'cost')[1] == '12.5s' and 'lanes of one program, 8 at a time' in text


@pytest.fixture
def undeclared(tmp_path):
  """Two groups of two runs whose configs name no metric in eval.best; their method calls two metrics leading."""
  leading = {'about': {'leading': ['pairs_won_d:', 'nll_bpd:min']}}
  for lr, won in ((1e-3, 0.9), (1e-2, 0.6)):
    for seed in (0, 1):
      beside = {'logit_real': 1.0, 'pairs_won_d': won}
      made_runs.make(
        f'runs/{lr}-{seed}',
        (3.0, 2.0 + seed),
        protocol=leading,
        beside=beside,
        eval__best='',
        optim__lr=lr,
        run__seed=seed,
      )


def test_without_a_declared_metric_all_final_ones_are_shown_the_leading_first(undeclared):
  text = shown('runs')
  assert row(text, 'lr', 'final') == ['lr', 'n', 'pairs_won_d', 'nll_bpd', 'logit_real']
  assert row(text, 'A', 'final') == ['A', '0.001', '2', '0.9000 ± 0.0000', '2.5 ± 6.4', '1.000 ± 0.000']
  assert '\nfinal  lower is better: nll_bpd\n' in text and 'minus that of' not in text and 'best*' not in text
  assert 'no config names a metric in eval.best, so all are shown: --metric=NAME:min' in text.replace('\n  ', ' ')
  assert row(text, 'B', 'cost')[1] == '12.5s'
  lines = shown('runs', '--runs')
  assert row(lines, 'lr', 'final') == ['lr', 'seed', 'state', 'step', 'pairs_won_d', 'nll_bpd', 'logit_real']
  assert row(lines, '2', 'final') == ['2', '0.001', '1', 'done', '100', '0.9000', '3.000', '1.000']


def test_metrics_that_nobody_chose_go_on_in_a_second_table_where_the_terminal_ends(undeclared, monkeypatch):
  monkeypatch.setenv('COLUMNS', '40')
  text = shown('runs').split('\nfinal')[1].split('\ncost')[0]
  assert max(map(len, text.splitlines())) <= 40
  assert [line.split() for line in text.splitlines() if 'n ' in line[:12]] == [
    ['lr', 'n', 'pairs_won_d', 'nll_bpd'],
    ['lr', 'n', 'logit_real'],
  ]


def test_configs_that_name_several_metrics_are_shown_with_all(undeclared):
  made_runs.make('runs/other', (1.0,), eval__best='logit_real:max', run__seed=2)
  made_runs.make('runs/third', (1.0,), run__seed=3)
  text = shown('runs').replace('\n  ', ' ')
  assert 'the configs name logit_real:max and nll_bpd:min in eval.best, so all are shown' in text


@pytest.mark.parametrize('flag', ['--budget', '--baseline=A'])
def test_what_needs_a_direction_asks_for_one_metric(undeclared, flag):
  refused(compare('runs', flag), f'{flag.partition("=")[0]} needs to know what is better', 'pairs_won_d')


def test_a_report_of_metrics_without_a_direction(undeclared):
  assert 'written  report.html' in shown('runs', '--html=report.html')
  data = json.loads(re.search(r'id="data">(.*?)</script>', Path('report.html').read_text(), re.DOTALL)[1])
  assert [(metric['name'], metric['mode']) for metric in data['metrics']] == [
    ('pairs_won_d', None),
    ('nll_bpd', 'min'),
    ('logit_real', None),
  ]
  assert data['curves']['names'][:2] == ['eval/nll_bpd', 'eval/logit_real'] and not data['budget']
  assert data['runs'][0]['metrics']['pairs_won_d']['best'] is None
  assert any('so all are shown' in line for line in data['warnings'])


def test_one_line_a_run(two_groups):
  made_runs.make('runs/x', (0.1,), state='stopped', message='SIGTERM', run__seed=3, optim__lr=1e-3)
  text = shown('runs', '--runs')
  assert row(text, '1') == ['1', '0.001', '0', 'done', '100', '1.000', '1.633', '0.9000']
  assert row(text, '7') == ['7', '0.001', '3', 'stopped', '50', '(0.1000)', '(0.1000)', '(0.1000)']
  assert '\n7  runs/x\n   SIGTERM\n' in text and 'so far' in text


def test_everything_fits_80_columns_and_nothing_is_cut(two_groups):
  made_runs.make('runs/x', (123456.789, 0.0001234), state='diverged', message='word ' * 60, optim__lr=1e-5)
  for flags in ((), ('--runs',), ('--by=optim.lr',), ('--budget',)):
    text = shown('runs', *flags)
    assert max(map(len, text.splitlines())) <= 80, text
    assert '…' not in text and not any(line.endswith(' ') for line in text.splitlines())


def test_fields_that_do_not_fit_stand_above_the_table():
  for seed in range(2):
    mlp = {'run__seed': seed, 'model__network': 'mlp'}
    a = {'model__widths': (512, 256), 'optim__b1': 0.9, 'loss__binarise': 'dynamic'}
    b = {'model__widths': (64, 32), 'optim__b1': 0.5, 'loss__binarise': 'static', 'model__activation': 'relu'}
    made_runs.make(f'runs/a{seed}', **mlp, **a)
    made_runs.make(f'runs/b{seed}', (4.0 + seed,), **mlp, **b, optim__schedule='linear')
  text = shown('runs')
  assert max(map(len, text.splitlines())) <= 80
  assert '\nA  loss.binarise dynamic, model.activation silu, model.widths (512,256),\n   optim.b1 0.9' in text
  assert re.search(r'\n   n +final +last 5 +best\*\nA  2  1.0', text)


def test_a_maximised_metric_puts_the_highest_first(two_groups):
  text = shown('runs', '--metric=nll_bpd:max')
  assert row(text, 'A')[1] == '0.01' and 'higher is better' in text


def test_by_pools_over_the_rest_and_says_so(two_groups):
  for seed in range(3):
    made_runs.make(f'runs/w{seed}', (0.5,), run__seed=seed, optim__lr=1e-3, model__width=8)
  text = shown('runs', '--by=optim.lr')
  assert '9 runs in 2 groups (by optim.lr)' in text and 'pooled over: model.width' in text
  assert row(text, 'A')[:3] == ['A', '0.001', '6'] and row(text, 'B')[:3] == ['B', '0.01', '3']


def test_pooled_runs_are_matched_by_what_is_pooled_too():
  for lr, shift in ((1e-3, 0.0), (1e-2, 5.0)):
    for seed in range(2):
      made_runs.make(f'runs/a{lr}{seed}', (1.0 + shift,), run__seed=seed, optim__lr=lr, model__width=8)
      made_runs.make(f'runs/b{lr}{seed}', (1.5 + shift + seed / 10,), run__seed=seed, optim__lr=lr, model__width=16)
  frame = load('runs').runs
  a, b = groups.make(frame, NLL, ['model.width'])
  found = groups.difference(b, a, NLL)
  assert found.matched == 4 and found.interval.mean == pytest.approx(0.55)
  assert found.interval.high < 0.7  # unmatched, the learning rates would spread it over 5


def test_a_diverged_run_loses_in_the_probability_of_improvement(two_groups):
  made_runs.make('runs/x', (0.1,), state='diverged', run__seed=3, optim__lr=1e-3)
  good, bad = groups.make(load('runs').runs, NLL)
  assert groups.difference(good, bad, NLL).better[0] == pytest.approx(9 / 12)


def test_many_runs_use_the_bootstrap():
  for seed in range(30):
    made_runs.make(f'runs/{seed}', (1.0 + seed / 30,), run__seed=seed)
  text = shown('runs')
  assert 'BCa bootstrap' in text and re.search(r'1\.48\d? \[1\.\d+, 1\.\d+\]', text)


def test_search_budget_of_two_methods():
  for i, value in enumerate((4.0, 3.0, 2.0, 1.0)):
    made_runs.make(f'runs/a{i}', (value,), optim__lr=10.0**-i)
    made_runs.make(
      f'runs/b{i}', (value,), state='diverged' if i == 3 else 'done', optim__lr=10.0**-i, model__network='mlp'
    )
  text = shown('runs', '--budget', '--by=model.network')
  block = 'expected best nll_bpd of n configurations'
  header = text.split(block)[1].splitlines()[1]
  assert re.split(r'\s{2,}', header) == ['n', 'model.network conv', 'model.network mlp']
  assert row(text, '1', block)[1].startswith('2.500') and row(text, '1', block)[2].startswith('3.250')
  assert row(text, '4', block)[0] == '4'
  assert 'model.network mlp: 1 configuration of 4' in text and 'worst result' in text


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    (['--metric=nll_bdp:min'], ["no run has the metric 'nll_bdp'", "Did you mean 'nll_bpd'"]),
    (['--metric=fid'], ["no run has the metric 'fid'", 'The metrics are nll_bpd']),
    (['--by=optim.lrr'], ["no run has a field 'optim.lrr'", "'optim.lr'"]),
    (['--config.optim.lr=1'], ['--where']),
    (['--last_k=0'], []),
  ],
)
def test_mistakes_on_the_command_line(two_groups, flags, says):
  if flags == ['--last_k=0']:
    assert compare('runs', *flags).returncode != 0
    return
  refused(compare('runs', *flags), *says)


def test_a_metric_that_no_config_declares_needs_a_direction():
  made_runs.make('runs/a', eval__best='')
  refused(compare('runs', '--metric=nll_bpd'), '--metric=nll_bpd:min or --metric=nll_bpd:max')
  assert row(shown('runs', '--metric=nll_bpd:min'), 'A')[2] == '1.000'


def test_several_metrics_each_have_their_tables(two_groups):
  made_runs.make('runs/other', (1.0,), name='fid', run__seed=3, optim__lr=1e-3)
  text = shown('runs', '--metric=nll_bpd,fid:min')
  assert row(text, 'A')[2] == '3' and row(text, 'A', 'fid')[2] == '1'


def test_nothing_named():
  refused(compare(), 'name folders, run directories or quoted patterns')


@pytest.mark.parametrize(
  ('interval', 'text'),
  [
    (Interval(1.23456, 1.2, 1.26912, 5, 't'), '1.235 ± 0.035'),
    (Interval(1234.5, 1000.0, 1469.0, 5, 't'), '1234 ± 234'),
    (Interval(1.5, 1.4, 1.7, 40, 'bootstrap'), '1.50 [1.40, 1.70]'),
    (Interval(2.0, 2.0, 2.0, 3, 't'), '2.000 ± 0.000'),
    (Interval(0.5, np.nan, np.nan, 1, 'single'), '0.5000'),
    (Interval(np.nan, np.nan, np.nan, 0, 'none'), '-'),
    (Interval(2e9, 1e9, 3e9, 3, 't'), '2e+09 ± 1e+09'),
    (Interval(-3e-9, -4e-9, -2e-9, 3, 't'), '-3e-09 ± 1e-09'),
  ],
)
def test_intervals_are_written_to_two_digits_of_their_width(interval, text):
  assert fmt.interval(interval) == text


def test_numbers_are_written_shortly():
  assert [fmt.number(v) for v in (0.5, 1234.56, 123456.0, 1e-6)] == ['0.5000', '1235', '123456', '1.000e-06']
  assert [fmt.short(v) for v in (0.0, 999.6, 1.23e12, 0.5, float('nan'))] == ['0.00', '1.00 k', '1.23 T', '0.50', '-']
  assert [fmt.duration(v) for v in (4.21, 75, 7300)] == ['4.2s', '1m 15s', '2h 01m']
