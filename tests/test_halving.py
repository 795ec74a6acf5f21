"""Early stopping: the rule, its rungs, who goes on, what is read from the runs and what is written down."""

import math
import random
import subprocess
import sys

import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.run import directory
from gen_ai.sweep import halving
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.halving import Rule, parse, promotes, rungs, survivors
from gen_ai.sweep.trials import Trial

NAN = float('nan')


@pytest.mark.parametrize(
  ('text', 'rule'),
  [
    ('nll_bpd:min,first=500', Rule('nll_bpd', 'min', 3, 500, 0)),
    ('a:b:max, eta=4 ,first=20,last=90', Rule('a:b', 'max', 4, 20, 90)),
  ],
)
def test_a_rule_is_read_and_written_back(text, rule):
  assert parse(text) == rule
  assert parse(str(rule)) == rule


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('', 'not METRIC:min or METRIC:max'),
    ('nll_bpd,first=5', "'nll_bpd' is not METRIC"),
    (':min,first=5', "':min' is not METRIC"),
    ('nll_bpd:lower,first=5', "'nll_bpd:lower' is not METRIC"),
    ('nll_bpd:min', 'first= is missing'),
    ('nll_bpd:min,first=0', 'first= is missing'),
    ('nll_bpd:min,first=5k', 'first=5k is not a whole number'),
    ('nll_bpd:min,first=-5', 'first=-5 is not a whole number'),
    ('nll_bpd:min,first=5,eta=1', 'eta=1 must be at least 2'),
    ('nll_bpd:min,first=5,eta=2.5', 'eta=2.5 is not a whole number'),
    ('nll_bpd:min,first=5,fist=6', "'fist=6' is none of first=, eta= and last="),
    ('nll_bpd:min,first=5,first=6', "'first=6' is given twice"),
    ('nll_bpd:min,first=5,last=4', 'last=4 lies before first=5'),
    ('nll_bpd:min,first=5,', "'' is none of"),
  ],
)
def test_a_wrong_rule_is_refused_with_the_right_form(text, says):
  with pytest.raises(UserError) as refusal:
    parse(text)
  assert says in str(refusal.value)
  assert str(refusal.value).startswith(f"--halving='{text}'") and f'--halving={halving.FORM}' in str(refusal.value)


@pytest.mark.parametrize(
  ('eta', 'first', 'last', 'steps', 'every', 'want'),
  [
    (3, 500, 0, 10000, 500, [500, 1500, 4500]),
    (3, 500, 0, 4500, 500, [500, 1500]),  # at the end nothing is left to save
    (3, 500, 0, 4501, 500, [500, 1500, 4500]),
    (3, 500, 1500, 10000, 500, [500, 1500]),
    (3, 500, 1499, 10000, 500, [500]),
    (2, 100, 0, 1000, 250, [250, 500]),  # 100 and 200 round to 250, 400 to 500, 800 to the end
    (4, 90, 0, 2000, 100, [100, 400, 1500]),  # rounded one by one: 90, 360, 1440
  ],
)
def test_rungs_are_evaluations_at_powers_of_eta(eta, first, last, steps, every, want):
  assert rungs(Rule('x', 'min', eta, first, last), steps, every) == want


def test_rungs_that_cannot_be_are_refused():
  rule = parse('x:min,first=500')
  for arguments, says in [
    ((rule, 1000, 0), 'config.run.eval_every=0'),
    ((rule, 500, 100), 'first rung is step 500, not before the end, config.run.steps=500'),
    ((rule, 1000, 1000), 'first rung is step 1000'),
    ((parse('x:min,first=500,last=600'), 5000, 1000), 'first rung is step 1000, not before last=600'),
  ]:
    with pytest.raises(UserError, match=says):
      rungs(*arguments)


def test_the_best_share_survives_a_rung():
  values = {0: 0.5, 1: 0.1, 2: 0.9, 3: 0.3, 4: 0.7, 5: 0.2, 6: 0.8}
  assert survivors(values, 3, 'min') == {1, 5, 3}  # ceil(7 / 3)
  assert survivors(values, 3, 'max') == {2, 6, 4}
  assert survivors(values, 2, 'min') == {1, 5, 3, 0}
  assert survivors({}, 3, 'min') == set()
  assert survivors({4: 1.0}, 3, 'min') == {4}


def test_ties_go_to_the_lower_number_whatever_the_order():
  rng = random.Random(0)
  for _ in range(5):
    shuffled = dict.fromkeys(rng.sample(range(9), 9), 1.0)
    assert survivors(shuffled, 3, 'min') == survivors(shuffled, 3, 'max') == {0, 1, 2}


@pytest.mark.parametrize('mode', ['min', 'max'])
@pytest.mark.parametrize('bad', [NAN, math.inf, -math.inf])
def test_diverged_trials_come_last(mode, bad):
  values = {0: bad, 1: 5.0, 2: bad, 3: -5.0, 4: 1e30, 5: -1e30}
  assert survivors(values, 2, mode) < {1, 3, 4, 5}
  assert survivors({0: bad, 1: bad, 2: 3.0}, 2, mode) == {2, 0}
  assert not promotes(bad, [1.0, 2.0, 3.0], 2, mode)
  assert promotes(1.0, [bad, bad, bad], 2, mode)


def test_without_waiting_a_trial_is_judged_by_those_before_it():
  assert promotes(9.0, [], 3, 'min')
  assert promotes(9.0, [1.0], 3, 'min'), 'fewer than eta: nothing to go by'
  assert not promotes(9.0, [1.0, 2.0], 3, 'min')
  assert promotes(0.5, [1.0, 2.0], 3, 'min') and not promotes(0.5, [1.0, 2.0], 3, 'max')
  assert promotes(1.0, [1.0, 1.0], 3, 'min'), 'as good as the best'
  # Of six values the best two go on.
  assert promotes(1.5, [1.0, 2.0, 3.0, 4.0, 5.0], 3, 'min') and not promotes(2.5, [1.0, 2.0, 3.0, 4.0, 5.0], 3, 'min')
  # Of five, floor(5 / 3) = 1.
  assert not promotes(1.5, [1.0, 2.0, 3.0, 4.0], 3, 'min')


def test_about_one_of_eta_goes_on_when_trials_come_in_any_order():
  rng, eta, n, orders = random.Random(0), 3, 90, 100
  going, kept = 0, 0
  for _ in range(orders):
    values = rng.sample(range(n), n)
    went = {value for i, value in enumerate(values) if promotes(value, values[:i], eta, 'min')}
    going, kept = going + len(went), kept + len(went & set(range(n // eta)))
  # The k-th to come is among the best floor(k / eta) of k with that probability, whatever came before.
  chances = [1.0 if k < eta else k // eta / k for k in range(1, n + 1)]
  error = math.sqrt(sum(p * (1 - p) for p in chances) / orders)
  assert going / orders == pytest.approx(sum(chances), abs=4 * error)
  assert kept / orders > 0.8 * n / eta, 'most of those that waiting would have kept'


def sweep(runs_dir, trials):
  """A sweep whose trials hold `trials`: {number: (state, [(step, kind, metrics)])}; None: not started."""
  base = config_lib.load('configs/gan.py')
  made = Sweep.create(str(runs_dir), 's', base, [Trial(n, {'optim.lr': n}, base, f'optim.lr={n}') for n in trials], {})
  path = made.path
  for number, content in trials.items():
    if content is None:
      continue
    run = directory.RunDir.make(path / f'optim.lr={number}')
    run.begin_attempt(0)
    state, rows = content
    for step, kind, metrics in rows:
      run.append_metrics({'step': step, 'kind': kind, **metrics})
    run.status(state, rows[-1][0] if rows else 0, 100)
  return made


def test_values_at_a_rung_are_read_from_the_runs(tmp_path):
  rows = [(20, 'train', {'loss': 9.0}), (20, 'eval', {'nll_bpd': 1.25}), (40, 'eval', {'nll_bpd': 7.0})]
  found = sweep(
    tmp_path,
    {
      0: ('running', rows),
      1: ('running', rows[:1]),  # has trained to the rung and not been evaluated yet
      2: None,
      3: ('running', [(15, 'diverged', {'loss': NAN})]),  # killed before its status said so
      4: ('diverged', [*rows, (55, 'diverged', {'loss': NAN})]),  # later: its value stands
      5: ('diverged', [(10, 'train', {'loss': 1.0})]),  # at a save: no row tells
      6: ('pruned', [(10, 'eval', {'nll_bpd': 3.0})]),
      7: ('done', [(20, 'eval', {'nll_bpd': math.inf})]),
      8: ('running', [(40, 'eval', {'nll_bpd': 4.0})]),  # evaluated less often
      9: ('diverged', [(40, 'train', {'loss': 1.0})]),
    },
  )
  values = halving.rung_values(found, 20, 'nll_bpd')
  assert values.keys() == {0, 3, 4, 5, 7}
  assert (values[0], values[4], values[7]) == (1.25, 1.25, math.inf)
  assert math.isnan(values[3]) and math.isnan(values[5])
  with pytest.raises(UserError, match=r"evaluates no metric 'nll'.*it has nll_bpd"):
    halving.rung_values(found, 20, 'nll')


def test_rows_that_a_resume_computed_again_do_not_count(tmp_path):
  found = sweep(tmp_path, {0: ('running', [(20, 'eval', {'nll_bpd': 5.0}), (25, 'diverged', {'loss': NAN})])})
  run = directory.RunDir(found.path / 'optim.lr=0')
  run.begin_attempt(10)
  assert halving.rung_values(found, 20, 'nll_bpd') == {}
  run.append_metrics({'step': 20, 'kind': 'eval', 'nll_bpd': 6.0})
  with (found.path / 'optim.lr=0' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 30, "kind": "ev')  # killed while it wrote
  assert halving.rung_values(found, 20, 'nll_bpd') == {0: 6.0}


def test_decisions_are_made_from_the_record_written_down_and_stand(tmp_path):
  values = {0: 3.0, 1: 2.0, 2: 5.0, 3: NAN}
  found = sweep(tmp_path, {n: ('running', [(20, 'eval', {'nll_bpd': v})]) for n, v in values.items()})
  rule = parse('nll_bpd:min,eta=2,first=20')
  assert [bool(halving.decide(found, rule, 20, [trial])) for trial in (1, 0, 2, 3)] == [True, True, False, False]
  made = halving.read_decisions(found.path)
  assert [(d['trial'], d['decision']) for d in made] == [(1, 'continue'), (0, 'continue'), (2, 'stop'), (3, 'stop')]
  assert made[0].keys() == {'time', 'rung', 'trial', 'value', 'decision', 'compared', 'rule'}
  assert (made[2]['rung'], made[2]['value'], parse(made[2]['rule'])) == (20, 5.0, rule)
  assert {n: v for n, v in made[2]['compared'].items() if n != 3} == {0: 3.0, 1: 2.0, 2: 5.0}
  assert math.isnan(made[2]['compared'][3]) and math.isnan(made[3]['value'])
  # A worker that was killed and comes to the rung again is told the same, though the others have changed.
  directory.RunDir(found.path / 'optim.lr=1').begin_attempt(0)
  assert not halving.decide(found, rule, 20, [2])
  assert len(halving.read_decisions(found.path)) == 4
  with pytest.raises(ValueError, match='no evaluation at step 20'):
    halving.decide(found, rule, 20, [9])


def test_trials_that_come_together_are_judged_together(tmp_path):
  values = {0: 3.0, 1: 2.0, 2: 5.0, 3: NAN, 4: 2.5}
  found = sweep(tmp_path, {n: ('running', [(20, 'eval', {'nll_bpd': v})]) for n, v in values.items()})
  rule = parse('nll_bpd:min,eta=2,first=20')
  assert halving.decide(found, rule, 20, [0, 1, 2, 3, 4]) == {0, 1, 4}, 'the best ceil(5 / 2)'
  assert {d['trial']: d['decision'] for d in halving.read_decisions(found.path)}[2] == 'stop'
  assert halving.decide(found, rule, 20, [2, 4]) == {4}
  assert len(halving.read_decisions(found.path)) == 5


def test_a_trial_is_not_compared_with_itself(tmp_path):
  found = sweep(tmp_path, {n: ('running', [(20, 'eval', {'nll_bpd': float(n)})]) for n in range(2)})
  assert halving.decide(found, parse('nll_bpd:min,eta=3,first=20'), 20, [1]), 'two are fewer than eta'


def test_a_line_cut_short_costs_no_other_decision(tmp_path):
  assert halving.read_decisions(tmp_path) == []
  rule = parse('nll_bpd:max,first=20')
  halving.record_decision(tmp_path, rule, 20, 0, True, {0: 1.0, 1: 2.0})
  with (tmp_path / halving.FILE).open('a') as file:
    file.write('{"time": "2026-01-01T00:00:00", "rung": 20, "po')
  assert [d['trial'] for d in halving.read_decisions(tmp_path)] == [0]
  halving.record_decision(tmp_path, rule, 20, 1, False, {0: 1.0, 1: 2.0})
  halving.record_decision(tmp_path, rule, 60, 0, False, {0: math.inf})
  assert [(d['trial'], d['rung'], d['value']) for d in halving.read_decisions(tmp_path)] == [
    (0, 20, 1.0),
    (1, 20, 2.0),
    (0, 60, math.inf),
  ]


WRITER = """
import sys
from gen_ai.sweep import halving
rule = halving.parse('nll_bpd:min,first=20')
for rung in range(60):
  halving.record_decision(sys.argv[1], rule, rung, int(sys.argv[2]), True, {n: float(n) for n in range(40)})
assert 'jax' not in sys.modules
"""


def test_processes_write_decisions_side_by_side(tmp_path):
  words = [sys.executable, '-c', WRITER, str(tmp_path)]
  writers = [subprocess.Popen([*words, str(number)], cwd=tiny.ROOT) for number in range(3)]
  assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
  made = halving.read_decisions(tmp_path)
  assert sorted((d['trial'], d['rung']) for d in made) == [(p, r) for p in range(3) for r in range(60)]
  assert all(len(d['compared']) == 40 for d in made)
