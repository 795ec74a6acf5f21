"""Evaluation records in the HTML report: quality against cost, the stamp of every number, pictures of memorisation."""

import base64
import re

import browser
import made_runs
import numpy as np
import pytest
from browser import Page
from report_runs import LRS, STEPS, evaluate_sweep, make_run, make_sweep
from test_compare_html_data import data_of

from gen_ai import compare
from gen_ai.compare import report, report_samples, statistics

GIVEN = [('test/fd', 'min'), ('nll_bpd', 'min')]
SECONDS = {9.0: 30, 0.002: 10, 10.0: 20}  # as evaluate_sweep writes them


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
  """(runs, page) of a sweep of which every learning rate but 0.5 was evaluated."""
  root = tmp_path_factory.mktemp('evaluated')
  make_sweep(root / 'runs')
  evaluate_sweep(root / 'runs')
  runs = compare.load(root / 'runs')
  report.write(runs, root / 'report.html', GIVEN, [])
  return runs, root / 'report.html'


@pytest.fixture(scope='module')
def chromium():
  """One browser for all tests of this file."""
  with browser.start() as driver:
    yield driver


@pytest.fixture
def page(chromium, sweep):
  opened = Page(chromium, sweep[1])
  assert opened.each('#quality-price option', 'n.value') == ['flops', 'examples', 'wall_seconds']  # lanes share a clock
  opened.set('#quality-price', 'wall_seconds', 'change')
  yield opened
  assert not opened.errors()


def runs_mode(page):
  page.click('#mode [data-value=run]')
  page.until("return document.querySelector('#quality-plot').data.some((t) => /run/.test(t.uid) && t.error_y)")


def drawn(page, kind):
  """{index: trace} of the points of the plot; kind 'run' or 'group'."""
  traces = page.js("return document.querySelector('#quality-plot').data.map((t) => ({...t, marker: {...t.marker}}))")
  return {int(t['uid'].split('-')[1]): t for t in traces if t['uid'].startswith(kind) and 'customdata' in t}


def front(page):
  return page.js("return document.querySelector('#quality-plot').data.find((t) => t.uid === 'front')")


# What the page carries.


def test_figures_whose_stamps_agree_are_shown_and_others_are_named(sweep):
  data = data_of(sweep[1])
  assert {m['name']: (m['mode'], m['given'], m['evaluated'], m['copies']) for m in data['metrics']} == {
    'test/fd': ('min', True, True, False),
    'nll_bpd': ('min', True, False, False),
    'test/kid': ('min', False, True, False),
    'test/recall': ('max', False, True, False),
    'test/c_t': (None, False, True, True),
  }
  assert data['warnings'] == ['test/precision is left out: its stamps differ in sample_seed']


def test_every_number_has_its_stamp_each_stamp_is_carried_once(sweep):
  data = data_of(sweep[1])
  run = next(run for run in data['runs'] if run['label'] == 'lr=9 seed=0')
  told = dict(data['stamps'][run['stamps']['test/fd']])
  assert told['extractor'] == 'classifier' and told['data_hash'] == made_runs.STAMP['data_hash']
  assert told['step'] == str(STEPS) and told['evaluated'].startswith('2026-') and told['notes'].startswith('n < feat')
  assert set(told) == {*made_runs.STAMP, *made_runs.FEATURES, 'step', 'evaluated', 'notes'}
  trained, clock = (dict(data['stamps'][place]) for place in (run['stamps']['nll_bpd'], run['clock']))
  assert trained['split'] == 'validation' and trained['data hash'] == 'f' * 64 and clock['devices'] == '1 x cpu'
  assert len({str(stamp) for stamp in data['stamps']}) == len(data['stamps']) < 12
  bare = next(run for run in data['runs'] if run['label'] == 'lr=0.5 seed=0')
  assert bare['stamps']['test/fd'] is None and bare['metrics']['test/fd']['final'] is None


def test_unlike_circumstances_of_a_group_are_told_in_its_stamp(tmp_path):
  for seed in range(2):
    made_runs.make(tmp_path / str(seed), run__seed=seed)
    made_runs.evaluate(tmp_path / str(seed), {'fd': 1.0}, step=100 - seed, stamp={'devices': f'{seed + 1} x cpu'})
  report.write(compare.load(tmp_path), tmp_path / 'r.html', [('test/fd', 'min')], [])
  data = data_of(tmp_path / 'r.html')
  told = dict(data['stamps'][data['groups'][0]['stamps']['test/fd']])
  assert told['devices'] == 'differs: 1 x cpu | 2 x cpu' and told['step'] == 'differs: 100 | 99'
  assert data['groups'][0]['metrics']['test/fd']['final']['n'] == 2


def test_pictures_and_texts_of_evaluations_are_views_and_stay_in_the_run(tmp_path):
  from gen_ai.data import pictures

  for name in 'ab':
    make_run(tmp_path / name, 0.5, 0, text=name == 'a')
  pictures.save_grid(tmp_path / 'a' / 'near.png', np.zeros((2, 8, 8, 1), np.uint8))
  places = {'closest_pairs': 'near.png', 'lost': 'gone.png', 'out': '../b/samples/step_00000020.png', 'own': 'run.json'}
  made_runs.evaluate(tmp_path / 'a', {}, step=20, pictures=places, texts={'overlaps': ['one', 'two']})
  views = report_samples.collect([str(tmp_path / 'a'), str(tmp_path / 'b')])['views']
  assert list(views) == ['samples', 'samples (text)', 'reconstructions', 'closest_pairs, test', 'overlaps, test']
  near = base64.b64encode((tmp_path / 'a' / 'near.png').read_bytes()).decode()
  assert views['closest_pairs, test'] == {
    'kind': 'png',
    'steps': [20],
    'runs': {0: {20: f'data:image/png;base64,{near}'}},
  }
  assert views['overlaps, test']['kind'] == 'txt'
  assert re.split(r'\n-{40}\n', views['overlaps, test']['runs'][0][20]) == ['one', 'two']


# In the browser.


def test_evaluation_figures_stand_in_the_table_with_their_intervals(page, sweep):
  frame = sweep[0].runs
  tops = page.texts('#table .tops th')
  assert 'test/fd (lower is better)' in tops and 'other evaluations' in tops
  heads = page.texts('#table thead tr:last-child button')
  assert heads.count('final') == 2 and heads.count('last 5') == 1  # an evaluation has one figure
  assert {'test/kid (min)', 'test/recall (max)', 'test/c_t'} < set(heads)
  page.sort('final/test/fd')
  done = frame[(frame['config.optim.lr'] == 0.002) & (frame['state'] == 'done')]['test/fd']
  assert page.column('final/test/fd')[-1] == '–'
  group = page.texts('#table tbody th').index('lr=0.002')
  assert float(page.column('final/test/fd')[group]) == pytest.approx(statistics.mean_interval(done).mean, abs=0.05)
  runs_mode(page)
  page.set('#filter', 'lr=0.002 seed=1')
  cells = page.texts('#table td')
  fd = frame[(frame['config.optim.lr'] == 0.002) & (frame['seed'] == 1)]['test/fd'].iloc[0]
  assert f'{fd:.2f}[{fd - 0.5:.2f}, {fd + 0.7:.2f}]' in cells and '500.0[490.2, 509.8]' in cells


def test_the_front_of_groups_is_what_nothing_beats_in_cost_and_quality(page, sweep):
  frame = sweep[0].runs
  done = frame[(frame['state'] == 'done') & frame['test/fd'].notna()]
  means = {lr: statistics.mean_interval(rows['test/fd']) for lr, rows in done.groupby('config.optim.lr')}
  labels = page.texts('#legend button')
  points = drawn(page, 'group')
  assert {labels[i] for i in points} == {f'lr={lr:g}' for lr in LRS if lr != 0.5}
  for lr, found in means.items():
    point = points[labels.index(f'lr={lr:g}')]
    np.testing.assert_allclose([point['x'][0], point['y'][0]], [SECONDS[lr], found.mean], rtol=1e-5)
    bars = [point['y'][0] - point['error_y']['arrayminus'][0], point['y'][0] + point['error_y']['array'][0]]
    np.testing.assert_allclose(bars, found[1:3], rtol=1e-4)
    on = lr in (0.002, 10.0)  # 9.0 costs more than 10.0 and is worse
    look = point['marker']
    assert point['customdata'] == [on] and (look['size'] > 10) == on and bool(look['line']['width']) == on
  line = front(page)
  assert line['line']['shape'] == 'hv' and line['x'] == [10, 20, 30]
  np.testing.assert_allclose(line['y'], [means[0.002].mean, means[10.0].mean, means[10.0].mean], rtol=1e-5)
  assert page.each('#quality-front li span', 'n.textContent') == ['lr=0.002', 'lr=10']
  assert page.texts('#quality-without') == ['not drawn: 1 group without this figure or this cost']


def test_the_plot_follows_metric_cost_and_filter(page):
  assert page.each('#quality-metric option', 'n.value') == ['test/fd', 'nll_bpd', 'test/kid', 'test/recall']  # not c_t
  first = front(page)
  page.set('#quality-metric', 'test/recall', 'change')
  recall = front(page)
  assert recall['x'] == [10, 20, 20 + 10] and recall['y'][1] > recall['y'][0]  # higher is better
  title = "return document.querySelector('#quality-plot').layout.yaxis.title.text"
  assert page.js(title) == 'test/recall, higher is better'
  page.set('#quality-price', 'flops', 'change')
  assert {t['x'][0] for t in drawn(page, 'group').values()} == {1e9 * STEPS}
  page.set('#quality-price', 'examples', 'change')
  assert {t['x'][0] for t in drawn(page, 'group').values()} == {32 * STEPS}
  page.set('#quality-price', 'wall_seconds', 'change')
  page.set('#quality-metric', 'test/fd', 'change')
  assert front(page) == first
  page.set('#filter', 'lr!=10')
  page.until("return document.querySelector('#quality-plot').data[0].x.join() === '10,30,30'")


def test_runs_have_whiskers_of_their_own_and_a_lost_one_is_on_no_front(page, sweep):
  runs_mode(page)
  points, frame = drawn(page, 'run'), sweep[0].runs
  assert len(points) == 9
  for index, point in points.items():
    row = frame.iloc[index]
    bars = point['error_y']
    got = (point['y'][0], bars['array'][0], bars['arrayminus'][0])
    np.testing.assert_allclose(got, (row['test/fd'], 0.7, 0.5), rtol=1e-3)
    assert (point['marker']['symbol'] == 'x') == (row['state'] == 'diverged')
  lost = next(i for i, run in enumerate(frame.index) if frame.loc[run, 'state'] == 'diverged')
  page.set('#filter', f'seed={frame.iloc[lost]["seed"]}')
  page.until("return document.querySelectorAll('#quality-plot .trace').length === 4")  # three runs and the front
  assert drawn(page, 'run')[lost]['customdata'] == [False]


def test_hovering_links_plot_front_and_table(page):
  from selenium.webdriver import ActionChains

  x, y, group = page.js("""
    const plot = document.querySelector('#quality-plot');
    plot.scrollIntoView({block: 'center', behavior: 'instant'});
    const trace = plot.data.find((t) => t.customdata?.[0]);
    const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
    const [xa, ya] = [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
    return [box.left + xa.d2p(trace.x[0]), box.top + ya.d2p(trace.y[0]), trace.meta.group];""")
  mouse = ActionChains(page.driver)
  mouse.w3c_actions.pointer_action.move_to_location(round(x), round(y))
  mouse.perform()
  page.until("return document.querySelector('#table tr.hot')")
  assert page.each('#table tr.hot', 'n.dataset.group') == [str(group)]
  assert page.each('#quality-front .hot', 'n.dataset.group') == [str(group)]
  ActionChains(page.driver).move_to_element(page.find('#quality-front li:last-child')).perform()
  hot = page.each('#quality-plot.dimmed .trace.hot', 'n.className.baseVal')
  other = page.find('#quality-front li:last-child').get_attribute('data-group')
  assert hot and any(f'tracegroup-{other}' in names for names in hot)


def test_the_stamp_of_a_number_shows_under_the_pointer_and_the_focus(page):
  from selenium.webdriver import ActionChains, Keys

  runs_mode(page)
  page.set('#filter', 'lr=9 seed=0')
  tip = page.find('#tip')
  assert not tip.is_displayed()
  row = page.find('#table tbody tr')
  page.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", row)
  ActionChains(page.driver).move_to_element(page.find('#table td[data-stamp]')).perform()
  page.until("return document.querySelector('#tip').textContent && !document.querySelector('#tip').hidden")
  for text in ('test/fd: 95% interval', 'extractor_weights', 'e1' * 32, 'sampler.temperature', 'n < features'):
    assert text in tip.text
  ActionChains(page.driver).move_to_element(page.find('h2')).perform()
  assert not tip.is_displayed()
  page.js('arguments[0].focus({preventScroll: true})', row)
  assert not tip.is_displayed()
  keys = ActionChains(page.driver)
  keys.send_keys(Keys.ARROW_RIGHT).perform()
  assert tip.is_displayed() and 'extractor_weights' in tip.text
  assert page.js("return document.activeElement.getAttribute('aria-describedby')") == 'tip'
  keys.send_keys(Keys.ARROW_RIGHT).perform()
  assert 'nll_bpd' in tip.text and 'noise seed' in tip.text and 'extractor_weights' not in tip.text
  keys.send_keys(Keys.ESCAPE).perform()
  assert not tip.is_displayed() and page.js('return document.activeElement.tagName') == 'TR'


def test_every_number_of_the_table_has_a_stamp(page):
  for mode in ('group', 'run'):
    page.click(f'#mode [data-value={mode}]')
    numbers = page.js("""
      const heads = [...document.querySelectorAll('#table thead tr:last-child th')];
      const given = (i) => heads[i].querySelector('button')?.dataset.key.startsWith('config.');
      return [...document.querySelectorAll('#table tbody tr')].flatMap((row) => [...row.children]
        .filter((cell, i) => cell.classList.contains('num') && !given(i) && cell.textContent !== '–')
        .map((cell) => [cell.textContent, Boolean(cell.dataset.stamp)]));""")
    assert len(numbers) > 30 and all(stamp for _, stamp in numbers), numbers


def test_closest_pairs_stand_beside_the_figures_of_copying(page, sweep):
  page.set('#sample-view', 'closest_pairs, test', 'change')
  assert len(page.texts('#tiles figure')) == 9 and set(page.texts('.copies')) == {'c_t -0.300'}
  runs = [run for run, lr in sweep[0].runs['config.optim.lr'].items() if lr != 0.5]
  files = [report.Path(run) / f'evaluations/step_{STEPS:08d}_closest_pairs.png' for run in runs]
  assert set(page.each('#tiles img', 'n.src')) == set(map(report_samples._content, files)) and len(files) == 9
  assert 'copy the training data' in page.texts('#noise')[0]
  page.set('#sample-view', 'samples', 'change')
  assert page.texts('.copies') == [] and 'same fixed noise' in page.texts('#noise')[0]


def test_overlap_texts_of_language_models(chromium, tmp_path):
  for seed in (0, 1):
    path = make_run(tmp_path / f'seed={seed}', 0.5, seed, name='lm', text=True)
    texts = {'overlaps': [f'<b>{seed}</b> copied', 'second']}
    made_runs.evaluate(path, {'longest_overlap': 30.0 + seed}, step=STEPS, texts=texts)
  report.write(compare.load(tmp_path), tmp_path / 'r.html', [('nll_bpd', 'min')], [])
  page = Page(chromium, tmp_path / 'r.html')
  page.set('#sample-view', 'overlaps, test', 'change')
  assert page.texts('#tiles pre') == ['<b>0</b> copiedsecond', '<b>1</b> copiedsecond']
  assert page.texts('.copies') == ['longest_overlap 30', 'longest_overlap 31']
  assert not page.errors()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_fits_a_telephone_in_both_colours(page, scheme):
  page.resize(420)
  page.scheme(scheme)
  page.until("return document.querySelector('#quality-plot .main-svg').getBoundingClientRect().width < 420")
  page.set('#sample-view', 'closest_pairs, test', 'change')
  wide = 'const d = document.documentElement; return d.scrollWidth - d.clientWidth'
  assert page.js(wide) == 0
  page.js("document.querySelector('#table td[data-stamp]').focus()")
  left, top, right, bottom = page.js(
    "const b = document.querySelector('#tip').getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]"
  )
  assert 0 <= left < right - 200 and right <= 420 and 0 <= top < bottom <= 900
  assert page.js(wide) == 0
