"""Run directories read into frames: the schema, killed and running runs, resumed runs, sweeps."""

import json
from pathlib import Path

import cli
import made_runs
import numpy as np
import pytest

from gen_ai.compare import COLUMNS, CURVE_COLUMNS, METRIC_COLUMNS, find, load
from gen_ai.core.errors import UserError


def test_the_documented_columns_are_those_of_the_frames(tmp_path):
  made_runs.make(tmp_path / 'a')
  runs = load(tmp_path)
  figures = [name.replace('/m', '/nll_bpd') for name in METRIC_COLUMNS]
  config = [name for name in runs.runs.columns if name.startswith('config.')]
  assert sorted(runs.runs.columns) == sorted([*COLUMNS, *figures, *config]) and len(config) > 40
  assert runs.runs.index.name == 'run'
  curves = ['eval/nll_bpd', 'train/loss_nats', 'train/examples_per_second']
  assert list(runs.metrics.columns) == [*CURVE_COLUMNS, *curves]
  for name in (*COLUMNS, *METRIC_COLUMNS, *CURVE_COLUMNS):
    assert f'  {name} ' in load.__doc__, name


def test_figures_and_costs_of_one_run(tmp_path):
  made_runs.make(tmp_path / 'a', (5.0, 1.0, 4.0, 2.0, 6.0, 3.0), optim__lr=3e-4, run__seed=7)
  row = load(tmp_path, last_k=2).runs.iloc[0]
  assert row['final/nll_bpd'] == 3.0 and row['last_k/nll_bpd'] == 4.5
  assert (row['best_min/nll_bpd'], row['best_min_step/nll_bpd']) == (1.0, 33)
  assert (row['best_max/nll_bpd'], row['best_max_step/nll_bpd']) == (6.0, 83)
  assert row['config.optim.lr'] == 3e-4 and row['seed'] == 7 and row['config.model.latents'] == (16,)
  assert row['flops'] == 2e9 * 100 and row['wall_seconds'] == 12.5 and row['devices'] == '1 x cpu'
  assert row['data_spec'] == 'image 28x28x1' and row['eval_examples'] == 500 and not row['ema']


def test_train_and_eval_rows_of_a_step_are_one_row(tmp_path):
  made_runs.make(tmp_path / 'a', (3.0, 2.0))
  metrics = load(tmp_path).metrics
  assert metrics['step'].tolist() == [50, 100]
  assert metrics['eval/nll_bpd'].tolist() == [3.0, 2.0] and metrics['train/loss_nats'].tolist() == [6.0, 4.0]
  assert metrics['examples'].tolist() == [50 * 64, 100 * 64] and metrics['flops'].tolist() == [1e11, 2e11]


def test_a_metric_that_was_called_otherwise_is_read_by_its_name(tmp_path):
  path = made_runs.make(tmp_path / 'a')
  rows = path / 'metrics.jsonl'
  rows.write_text(rows.read_text().replace('"loss_nats"', '"gradient_norm"'))
  metrics = load(tmp_path).metrics
  assert metrics['train/grad_norm'].tolist() == [6.0, 4.0, 2.0] and 'train/gradient_norm' not in metrics


def test_a_diverged_run_has_no_final_figure_but_a_best(tmp_path):
  made_runs.make(tmp_path / 'a', state='diverged', message='diverged at step 50')
  row = load(tmp_path).runs.iloc[0]
  assert np.isnan(row['final/nll_bpd']) and np.isnan(row['last_k/nll_bpd']) and row['best_min/nll_bpd'] == 1.0
  assert row['state'] == 'diverged' and row['message'] == 'diverged at step 50'


def test_rows_of_a_diverging_step_are_not_a_curve(tmp_path):
  run = made_runs.start(tmp_path / 'a', made_runs.config())
  run.begin_attempt(0)
  run.append_metrics({'step': 10, 'kind': 'train', 'loss_nats': 1.0})
  run.append_metrics({'step': 13, 'kind': 'diverged', 'loss_nats': float('nan'), 'kl_nats': 7.0})
  made_runs.finish(run, 'diverged', 10, 100)
  assert load(tmp_path).metrics['step'].tolist() == [10]


def test_a_killed_run_with_a_line_cut_short_is_read(tmp_path):
  path = made_runs.make(tmp_path / 'a', (3.0, 2.0), state='running')
  with (path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 60, "kind": "tr')
  with (path / 'attempts.jsonl').open('a') as file:
    file.write('{"event"')
  runs = load(tmp_path)
  assert runs.metrics['eval/nll_bpd'].tolist() == [3.0, 2.0]
  row = runs.runs.iloc[0]
  assert row['state'] == 'lost' and f'--resume={path}' in row['message']
  assert row['examples_per_second'] == 5000.0 and np.isnan(row['flops'])  # no summary yet


@pytest.mark.parametrize('strings', [False, True], ids=['at once', 'with NaN'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, strings):
  path = made_runs.make(tmp_path / 'a', (float('nan') if strings else 3.0, 2.0))
  lines = (path / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (path / 'metrics.jsonl').write_text(''.join([lines[0], '{"step": 1, "ki\n', *lines[2:]]))
  with pytest.raises(UserError, match=r'metrics\.jsonl line 2 is damaged'):
    load(tmp_path)


def test_an_object_torn_over_two_lines_is_damaged(tmp_path):
  path = made_runs.make(tmp_path / 'a', (3.0,))
  with (path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 1\n"kind": "eval"}\n')
  with pytest.raises(UserError, match='line 3 is damaged'):
    load(tmp_path)


def test_a_running_run_whose_process_lives_is_running(tmp_path):
  run = made_runs.start(tmp_path / 'a', made_runs.config())
  with run.lease():
    run.begin_attempt(0)
    run.status('running', 10, 100)
    assert load(tmp_path).runs['state'].tolist() == ['running']


def test_a_run_that_was_described_only_is_waiting(tmp_path):
  made_runs.start(tmp_path / 'a', made_runs.config())
  row = load(tmp_path).runs.iloc[0]
  assert row['state'] == 'waiting' and row['config.run.steps'] == 100 and np.isnan(row['wall_seconds'])


def test_rows_that_a_later_attempt_computed_again_are_left_out(tmp_path):
  run = made_runs.start(tmp_path / 'a', made_runs.config())
  run.begin_attempt(0)
  for step, value in ((25, 3.0), (50, 2.0), (75, -99.0)):
    run.append_metrics({'step': step, 'kind': 'eval', 'nll_bpd': value})
  run.begin_attempt(50)
  for step, value in ((75, 1.5), (100, 1.0)):
    run.append_metrics({'step': step, 'kind': 'eval', 'nll_bpd': value})
  made_runs.finish(run, 'done', 100, 100)
  runs = load(tmp_path)
  assert runs.metrics['eval/nll_bpd'].tolist() == [3.0, 2.0, 1.5, 1.0]
  assert runs.metrics['attempt'].tolist() == [1, 1, 2, 2]
  assert runs.runs['best_min/nll_bpd'].tolist() == [1.0] and runs.runs['attempts'].tolist() == [2]


def test_a_metric_that_some_runs_lack_is_missing_there(tmp_path):
  made_runs.make(tmp_path / 'a')
  made_runs.make(tmp_path / 'b', name='fid')
  runs = load(tmp_path)
  assert sorted(runs.names) == ['fid', 'nll_bpd']
  assert np.isnan(runs.runs['final/fid'].tolist()).tolist() == [True, False]


def test_a_config_field_that_a_run_lacks_is_none_and_numbers_stay_whole(tmp_path):
  made_runs.make(tmp_path / 'a')
  path = made_runs.make(tmp_path / 'b')
  tree = json.loads((path / 'config.json').read_text())
  del tree['model']['width']
  (path / 'config.json').write_text(json.dumps(tree))
  assert load(tmp_path).runs['config.model.width'].tolist() == [32, None]


def test_points_that_have_not_started_wait_in_their_group(tmp_path):
  axes = [{'optim.lr': lr, 'run.seed': seed} for lr in (1e-3, 1e-2) for seed in (0, 1)]
  sweep = made_runs.sweep(tmp_path, axes, started=3)
  runs = load(tmp_path)
  assert runs.runs['state'].tolist() == ['done'] * 3 + ['waiting']
  assert runs.runs['trial'].tolist() == [0, 1, 2, 3] and set(runs.runs['sweep']) == {str(sweep.path)}
  first, last = runs.runs.iloc[2], runs.runs.iloc[3]
  assert first['group'] == last['group'] and last['config.optim.lr'] == 1e-2 and last['seed'] == 1
  assert set(runs.metrics['run']) == set(runs.runs.index[:3])


def test_a_sweep_of_which_nothing_started_is_read(tmp_path):
  made_runs.sweep(tmp_path, [{'optim.lr': 1e-3}, {'optim.lr': 1e-2}], started=0)
  runs = load(tmp_path)
  assert runs.runs['state'].tolist() == ['waiting'] * 2 and len(runs.metrics) == 0


@pytest.mark.parametrize('pattern', ['runs', 'runs/**', 'runs/vae', 'runs/*', 'runs/v*/2026-*', 'runs/**/2026-*'])
def test_patterns_find_the_same_runs(tmp_path, monkeypatch, pattern):
  monkeypatch.chdir(tmp_path)
  for name in ('2026-a', '2026-b'):
    made_runs.make(f'runs/vae/{name}', (1.0,))
  (tmp_path / 'runs' / 'index.sqlite').touch()
  (tmp_path / 'runs' / 'vae' / '2026-a' / 'checkpoints' / 'config.json').touch()  # the inside of a run
  runs = load(pattern, 'runs/vae/2026-a')
  assert runs.runs.index.tolist() == ['runs/vae/2026-a', 'runs/vae/2026-b']


def test_one_run_directory_and_the_root_of_several(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  made_runs.make('runs/vae/a', (1.0,))
  made_runs.make('runs/gan/b', (1.0,))
  assert str(load('runs/vae/a').root) == 'runs/vae'
  assert str(load('runs/vae/a', 'runs/gan/*').root) == 'runs' == str(load('runs/**').root)


def test_nothing_found_says_so(tmp_path):
  with pytest.raises(UserError, match='no run found in'):
    load(tmp_path)
  with pytest.raises(UserError, match='there is no .*nowhere'):
    load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match="'' names no folder"):  # as of an empty shell variable; not the whole disk
    load('')


def test_links_in_circles_are_followed_once(tmp_path):
  """Followed as often as the system allows, the four of them are 4**40 folders."""
  made_runs.make(tmp_path / 'far' / 'run', (1.0,))
  folder = tmp_path / 'runs'
  for name in ('a', 'b', 'c', 'd'):
    (folder / name).mkdir(parents=True)
    (folder / name / 'up').symlink_to(folder)
  (folder / 'linked').symlink_to(tmp_path / 'far')
  assert load(folder).runs.index.tolist() == [str(folder / 'linked' / 'run')]


def test_a_folder_far_above_any_run_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(find, 'FOLDERS', 3)
  made_runs.make(tmp_path / 'z' / 'run', (1.0,))
  load(tmp_path)
  for name in 'abc':
    (tmp_path / name).mkdir()
  with pytest.raises(UserError, match='3 folders below .* hold no run: name a folder that is nearer'):
    load(tmp_path)


@pytest.mark.parametrize(
  ('file', 'text'),
  [
    ('config.json', '{"run": '),
    ('config.json', ''),
    ('config.json', '[]'),
    ('run.json', '\0\0'),
    ('status.json', '{'),
    ('metrics.jsonl', 'x\n'),
    ('summary.json', 'null'),
    ('evaluations.jsonl', '{}\n'),
    ('attempts.jsonl', '[]\n'),
  ],
)
def test_a_damaged_run_among_others_is_left_aside_by_name(tmp_path, file, text):
  made_runs.make(tmp_path / 'a')
  (made_runs.make(tmp_path / 'b') / file).write_text(text)
  runs = load(tmp_path)
  assert [path.name for path in map(Path, runs.runs.index)] == ['a']
  [said] = runs.left
  assert said.startswith(f'left aside: {tmp_path}/b/{file} ')


def test_a_damaged_sweep_is_left_aside_and_its_runs_are_shown(tmp_path):
  made = made_runs.sweep(tmp_path, [{'optim.lr': 0.1}, {'optim.lr': 0.2}], started=1)
  (made.path / 'sweep.json').write_text('{')
  runs = load(tmp_path)
  assert len(runs.runs) == 1 and not runs.runs['sweep'].iloc[0] and 'sweep.json is damaged' in runs.left[0]


def test_what_is_left_aside_is_told_with_every_output(tmp_path):
  for name in 'abc':
    made_runs.make(tmp_path / 'runs' / name)
  (tmp_path / 'runs' / 'b' / 'config.json').write_text('{')
  for words in ((), ('--runs',), ('--csv=-',), ('--sql=select run from runs',), ('--sql=select run from runs',)):
    done = cli.command('gen_ai.compare', tmp_path / 'runs', *words)
    assert done.returncode == 0, done.stderr
    said = done.stderr if words[:1] in (('--csv=-',), ('--sql=select run from runs',)) else done.stdout
    assert f'left aside: {tmp_path}/runs/b/config.json is' in said.replace('\n  ', ' '), words
  assert done.stdout.split() == ['run', f'{tmp_path}/runs/a', f'{tmp_path}/runs/c']
  assert cli.command('gen_ai.compare', tmp_path / 'runs', f'--html={tmp_path}/report.html').returncode == 0
  assert 'left aside: ' in (tmp_path / 'report.html').read_text()
