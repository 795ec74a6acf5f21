"""What the HTML report carries, without a browser: pictures, curves, runs under way, mistakes."""

import json
import re

import numpy as np
import pytest
from report_runs import EVERY, METRICS, STEPS, make_run

from gen_ai import compare
from gen_ai.compare import curves, report, report_samples
from gen_ai.core.errors import UserError
from gen_ai.run import directory


def data_of(path):
  """The JSON inside a page."""
  return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_pictures_are_capped_with_first_and_last_and_the_page_says_so(tmp_path):
  for seed, steps in enumerate((STEPS, 120)):
    make_run(tmp_path / str(seed), 0.5, seed, steps=steps)
  runs = [str(tmp_path / '0'), str(tmp_path / '1')]
  everything = report_samples.collect(runs)
  assert everything['note'] == '' and len(everything['views']['samples']['steps']) == 10
  few = report_samples.collect(runs, steps=4)
  kept = [sorted(few['views']['samples']['runs'][run]) for run in (0, 1)]
  assert kept[0][0] == kept[1][0] == EVERY and kept[0][-1] == STEPS and kept[1][-1] == 120
  assert len(kept[0]) == 4 and set(kept[1]) - {120} <= set(kept[0])  # the same steps, so that they can be compared
  assert 'carries 14 of 32 sample files' in few['note']
  one = (tmp_path / '0' / 'samples' / 'step_00000020.png').stat().st_size
  tight = report_samples.collect(runs, room=5 * one)
  assert list(tight['views']['samples']['runs']) == [0] and 'none of the last 1 runs' in tight['note']


def test_pictures_and_texts_of_one_comparison_are_views_of_their_own(tmp_path):
  make_run(tmp_path / '0', 0.5, 0)
  make_run(tmp_path / '1', 0.5, 1, name='lm', text=True)
  views = report_samples.collect([str(tmp_path / '0'), str(tmp_path / '1')])['views']
  assert {name: (view['kind'], list(view['runs'])) for name, view in views.items()} == {
    'samples': ('png', [0]),
    'samples (text)': ('txt', [1]),
    'reconstructions': ('png', [0]),
  }


def test_rows_of_the_picture_of_classes_have_their_names(tmp_path):
  for seed in (0, 1):
    run = make_run(tmp_path / str(seed), 0.5, seed)
    (run / 'samples' / 'classes_step_00000020.png').write_bytes((run / 'samples' / 'step_00000020.png').read_bytes())
  about = directory.read_run(run)
  about['data']['class_names'] = ['cat', 'dog']
  (run / 'run.json').write_text(json.dumps(about))
  views = report_samples.collect([str(tmp_path / '0'), str(tmp_path / '1')])['views']
  assert list(views['classes']['runs']) == [0, 1]
  assert views['classes']['rows'] == {1: ['cat', 'dog']}  # the other one is of a time that recorded none
  assert 'rows' not in views['samples']


def test_long_curves_are_thinned_at_the_same_steps_and_keep_their_last_row():
  pandas = pytest.importorskip('pandas')
  rows = [
    {
      'run': run,
      'step': step,
      'seconds': step / 10,
      'train/loss': np.nan if step == 4000 else step,
      'eval/nll': step if step % 100 == 0 else np.nan,
    }
    for run, end in (('a', 4001), ('b', 1777))
    for step in range(1, end + 1)
  ]
  found = curves.thin(pandas.DataFrame(rows), pandas.Series({'a': 'g', 'b': 'g', 'waiting': 'g'}))
  first, second, third = found['runs']
  losses = [value for value in first['train/loss'] if value is not None]
  assert 400 < len(losses) <= 501 and losses[-1] == 4001 and second['step'][-1] == 1777 and third == {}
  assert set(second['step'][:-1]) <= set(first['step']) and found['thinned']
  assert [v for v in first['eval/nll'] if v is not None] == list(range(100, 4001, 100))  # few: all kept
  assert first['train/loss'][first['step'].index(4000)] is None  # NaN


def test_runs_that_are_under_way_or_have_not_started_are_shown(tmp_path):
  make_run(tmp_path / '0', 0.5, 0)
  make_run(tmp_path / '1', 0.5, 1, state='failed', steps=60)
  (tmp_path / '1' / 'summary.json').unlink()
  bare = directory.RunDir.make(tmp_path / '2')
  bare.write_config(directory.read_config(tmp_path / '0'))
  report.write(compare.load(tmp_path), tmp_path / 'r.html', METRICS, [])
  data = data_of(tmp_path / 'r.html')
  assert [run['state'] for run in data['runs']] == ['done', 'failed', 'waiting']
  assert data['runs'][2]['metrics']['nll_bpd']['final'] is None
  assert sum(group['metrics']['nll_bpd']['final']['n'] for group in data['groups']) == 1


def test_mistakes_are_told_in_one_message(tmp_path):
  make_run(tmp_path / 'runs' / '0', 0.5, 0)
  runs = compare.load(tmp_path / 'runs')
  with pytest.raises(UserError, match=r"'nll_bdp'.*accuracy, nll_bpd|'nll_bdp'.*nll_bpd, accuracy"):
    report.write(runs, tmp_path / 'r.html', [('nll_bdp', 'min')], [])
  with pytest.raises(UserError, match='--metric'):
    report.write(runs, tmp_path / 'r.html', [], [])
  (tmp_path / 'file').write_text('')
  for place in (tmp_path, tmp_path / 'file' / 'r.html'):
    with pytest.raises(UserError, match='cannot write --html='):
      report.write(runs, place, METRICS, [])
