"""Runs of unlike protocols are refused with the reason and the way out, or shown and marked with --force."""

import made_runs
import pandas as pd
import pytest
from cli import command, refused

from gen_ai.compare import load, protocol

UNLIKE = {
  'data_hash': {'data': {'fingerprint': 'ff' * 32}},
  'split_rule': {'data': {'split_rule': 'train[:80%]|train[80%:]|test'}},
  'data_spec': {'data': {'spec': {'kind': 'text', 'shape': [64], 'num_classes': 0, 'alphabet': 'abc'}}},
  'eval_split': {'evaluation': {'split': 'test'}},
  'eval_examples': {'evaluation': {'examples': 400}},
  'eval_seed': {'evaluation': {'seed': 1}},
  'ema': {'evaluation': {'averaged': True}},
  'observation': {'evaluation': {'observation': 'bernoulli likelihood, binarised (threshold)'}},
  'extractor': {'evaluation': {'extractor': 'inception 1.0'}},
  'eval_samples': {'evaluation': {'samples': 10000}},
  'steps': {},
  'arithmetic': {'about': {'environment': {'JAX_DEFAULT_MATMUL_PRECISION': 'bfloat16'}}},
}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.chdir(tmp_path)


def compare(*words):
  return command('gen_ai.compare', *words)


def unlike(field):
  """Three runs of which the last differs in `field`."""
  for name in 'ab':
    made_runs.make(f'runs/{name}', run__seed=ord(name))
  made_runs.make('runs/c', protocol=UNLIKE[field], **({'run__steps': 200} if field == 'steps' else {}))


def test_every_protocol_field_is_tried_here():
  assert set(UNLIKE) == set(protocol.PROTOCOL)


@pytest.mark.parametrize('field', UNLIKE)
def test_unlike_protocols_are_refused_with_reason_and_way_out(field):
  unlike(field)
  done = compare('runs')
  refused(done, f'{field} (', 'in runs/a, runs/b; ', 'in runs/c', '--force', 'keeps 2 runs')
  assert done.stdout == ''
  way = done.stderr.split("--where '")[1].split("'")[0]
  assert way.startswith(f'{field}=')
  kept = compare('runs', f'--where={way}')
  assert kept.returncode == 0 and '2 runs in' in kept.stdout, kept.stderr


@pytest.mark.parametrize('field', UNLIKE)
def test_force_stamps_every_output(field):
  unlike(field)
  done = compare('runs', '--force', '--csv=out.csv')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('FORCED: unlike protocols side by side:') and field in done.stdout.splitlines()[0]
  frame = pd.read_csv('out.csv')
  assert len(frame) == 3 and all(text.startswith('FORCED') and field in text for text in frame['forced'])


def test_force_on_like_runs_stamps_nothing():
  made_runs.make('runs/a')
  done = compare('runs', '--force', '--csv=out.csv')
  assert 'FORCED' not in done.stdout and 'forced' not in pd.read_csv('out.csv').columns


@pytest.mark.parametrize('flags', [('--csv=out.csv',), ('--html=out.html',), ('--runs',), ('--by=run.steps',)])
def test_no_output_is_written_of_unlike_runs(flags, tmp_path):
  unlike('steps')
  refused(compare('runs', *flags), 'steps (step budget): 100 in runs/a, runs/b; 200 in runs/c')
  assert [path.name for path in tmp_path.iterdir()] == ['runs']


def test_html_carries_the_stamp(monkeypatch):
  from gen_ai.compare import report

  unlike('ema')
  got = []
  monkeypatch.setattr(report, 'write', lambda *arguments: got.append(arguments))
  assert compare('runs', '--force', '--html=out.html', '--where', 'run.seed!=97').returncode == 0
  runs, path, metrics, warnings, _ = got[0]
  assert warnings[0].startswith('FORCED') and metrics == [('nll_bpd', 'min')] and str(path) == 'out.html'
  assert set(runs.metrics['run']) == set(runs.runs.index) == {'runs/b', 'runs/c'}


def test_a_run_that_has_not_reached_its_budget_is_not_unlike():
  made_runs.make('runs/a')
  made_runs.make('runs/b', state='stopped', run__seed=1)
  assert compare('runs').returncode == 0


@pytest.mark.parametrize(
  'observation, extractor',
  [
    ('bernoulli likelihood, binarised (threshold)', ''),
    ('', 'extractor random (weak), weights 0123, resize none, features 24'),
    ('gaussian likelihood, uniformly dequantised', 'nll_draws 50'),
    ('', ''),
  ],
)
def test_a_run_from_before_the_observation_had_its_own_field_is_like_one_that_has_it(observation, extractor):
  field = '; '.join(filter(None, (observation, extractor)))
  old = {name: value for name, value in made_runs.EVALUATION.items() if name != 'observation'} | {'extractor': field}
  made_runs.make('runs/old', protocol={'about': {'evaluation': old}})
  extractor = extractor.replace('nll_draws', 'importance_samples')  # as it is called today
  now = {'observation': observation, 'extractor': extractor}
  made_runs.make('runs/new', run__seed=1, protocol={'evaluation': now})
  runs = load('runs').runs
  assert protocol.unlike(runs) == []
  assert set(runs['observation']) == {observation} and set(runs['extractor']) == {extractor}


def test_a_bound_stands_beside_an_exact_figure_and_is_marked():
  made_runs.make('runs/exact')
  made_runs.make('runs/bound', (0.5, 0.3), optim__lr=0.1, protocol={'evaluation': {'bounds': ['nll_bpd']}})
  note = 'bounds: nll_bpd of 1 run (vae) can only be better than shown'
  for words in ((), ('--runs',)):
    done = compare('runs', '--metric=nll_bpd:min', *words)
    assert done.returncode == 0 and note in ' '.join(done.stdout.split()), done.stdout + done.stderr
    assert done.stdout.count('≤ 0.3') == 1 and done.stdout.count('≤') == 2
  assert compare('runs/exact', '--metric=nll_bpd:min').stdout.count('≤') == 0


def test_points_that_have_not_started_are_not_unlike():
  made_runs.sweep('runs', [{'run.seed': 0}, {'run.seed': 1}], started=1)
  assert protocol.unlike(load('runs').runs) == []


def test_a_run_without_a_recorded_protocol_is_unlike_and_not_offered():
  made_runs.make('runs/a', protocol={'about': {'evaluation': {}}})
  made_runs.make('runs/b', run__seed=1)
  done = compare('runs')
  refused(done, 'ema (', 'not recorded in runs/a', "--where 'eval_split=validation'")
  assert "=not recorded'" not in done.stderr


def test_devices_and_versions_are_notes():
  made_runs.make('runs/a')
  made_runs.make(
    'runs/b',
    run__seed=1,
    protocol={'about': {'devices': ['cuda:0', 'cuda:1'], 'versions': {'python': '3.11.7', 'jax': '0.12.0'}}},
  )
  done = compare('runs')
  assert done.returncode == 0
  assert 'devices differ: 1 x cpu (1 run) and 2 x cuda (1 run)' in done.stdout
  assert 'versions differ: jax 0.10.2 (1 run) and jax 0.12.0 (1 run)' in done.stdout


def test_the_spread_of_samples_stands_beside_that_of_the_data():
  evaluation = {'evaluation': {'data_spread': 0.38399}}
  made_runs.make('runs/a', (0.5, 0.06), name='spread', protocol=evaluation)
  made_runs.make('runs/b', (0.5, 0.05), name='spread', run__seed=1, protocol=evaluation)
  done = compare('runs', '--metric=spread:max')
  assert done.returncode == 0, done.stderr
  assert 'spread of the data: 0.38399' in done.stdout
  made_runs.make('other/a')
  assert 'spread' not in compare('other').stdout
