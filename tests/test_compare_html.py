"""The HTML report in a real browser: headless Chromium, from file:// and without a network."""

import json
import re
import time

import browser
import numpy as np
import pytest
from browser import Page
from report_runs import EVERY, HOSTILE, LRS, METRICS, STEPS, make_run, make_sweep

from gen_ai import compare
from gen_ai.compare import budget, groups, report, report_samples, statistics
from gen_ai.compare.select import Metric


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
  """(runs, page) of 4 learning rates x 3 seeds with pictures; one run diverged."""
  root = tmp_path_factory.mktemp('compare')
  make_sweep(root / 'runs')
  runs = compare.load(root / 'runs')
  report.write(runs, root / 'report.html', METRICS, ['FORCED: these runs are not comparable'])
  return runs, root / 'report.html'


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  """The page of two language models."""
  root = tmp_path_factory.mktemp('texts')
  for seed in (0, 1):
    make_run(root / f'seed={seed}', 0.5, seed, name='lm', text=True)
  report.write(compare.load(root), root / 'report.html', METRICS[:1], [])
  return root / 'report.html'


@pytest.fixture(scope='module')
def chromium():
  """One browser for all tests of this file."""
  with browser.start() as driver:
    yield driver


@pytest.fixture
def page(chromium, sweep):
  opened = Page(chromium, sweep[1])
  yield opened
  assert not opened.errors()


def test_metrics_without_a_direction_are_shown_without_one(chromium, sweep, tmp_path):
  report.write(sweep[0], tmp_path / 'report.html', [('nll_bpd', None), ('accuracy', 'max')], [])
  opened = Page(chromium, tmp_path / 'report.html')
  assert 'compared by nll_bpd, accuracy (max)' in opened.texts('#what')[0]
  heads = opened.texts('#table th')
  assert 'nll_bpd' in heads and 'accuracy (higher is better)' in heads and heads.count('best') == 1
  assert not opened.errors()


def runs_mode(page):
  page.click('#mode [data-value=run]')


def test_opens_from_disk_without_an_error_or_a_request(page):
  messages = [json.loads(entry['message'])['message'] for entry in page.driver.get_log('performance')]
  urls = [m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent']
  assert urls and all(url.startswith(('file://', 'data:', 'blob:')) for url in urls), urls
  assert sum(url.startswith('file://') for url in urls) == 1
  assert page.texts('h1') == ['12 runs compared']
  assert page.texts('#warnings p') == ['FORCED: these runs are not comparable']
  assert page.texts('nav a') == [
    'Results',
    'Differences',
    'Quality against cost',
    'Curves',
    'Hyper-parameters',
    'Search budget',
    'Samples',
    'Provenance',
  ]
  policy = page.find('meta[http-equiv=Content-Security-Policy]').get_attribute('content')
  assert "default-src 'none'" in policy and 'http' not in policy


def test_text_of_a_run_stays_text(page):
  runs_mode(page)
  assert not page.js("return document.getElementById('hostile')")
  assert HOSTILE in ''.join(page.texts('#table td'))


def test_groups_show_the_intervals_of_the_statistics(page, sweep):
  runs = sweep[0].runs
  page.sort('config.optim.lr')
  finals = page.each('#table tbody tr', 'n.children[3].textContent')
  for cell, lr, few in zip(finals, sorted(LRS), ('', '', ' n=2', ' n=2'), strict=True):
    found = runs[(runs['config.optim.lr'] == lr) & (runs['state'] == 'done')]['final/nll_bpd']
    shown = re.fullmatch(r'([\d.]+)\[([\d.]+), ([\d.]+)\](.*)', cell)
    assert shown[4] == few
    np.testing.assert_allclose(list(map(float, shown.groups()[:3])), statistics.mean_interval(found)[:3], atol=0.006)
  states = page.each('#table tbody tr', 'n.children[1].textContent')
  assert states == ['3 done', '3 done', '2 done1 stopped', '2 done1 diverged']
  dots = page.each('.strip', "n.querySelectorAll('circle').length")
  assert dots == [3, 3, 2, 2]  # what is not complete enters no mean
  assert page.texts('#table thead tr:last-child th')[2:4] == ['optim.lr', 'final']  # no column of what is the same
  assert 'optim.b1' in page.texts('#same dt')


def test_groups_are_compared_with_the_best_as_on_the_terminal(page, sweep):
  found = groups.make(sweep[0].runs, Metric(*METRICS[0]))
  best, *others = found
  labels = {group.label: f'lr={group.fields["config.optim.lr"]:g}' for group in found}
  heads = page.texts('#difference-table thead th')
  assert heads[2:4] == [f'final nll_bpd minus that of {labels["A"]}', f'P(better than {labels["A"]})']
  rows = {
    cells[0]: cells[1:] for cells in page.each('#difference-table tbody tr', '[...n.children].map(c => c.textContent)')
  }
  assert set(rows) == {labels[group.label] for group in others}
  for group in others:
    one, name = groups.difference(group, best, Metric(*METRICS[0])), labels[group.label]
    matched, difference, share, says = rows[name]
    assert int(matched) == one.matched
    assert float(difference.partition('[')[0]) == pytest.approx(one.interval.mean, abs=0.005) and difference[0] == '+'
    assert float(share.partition('[')[0]) == pytest.approx(one.better[0], abs=0.005)
    assert says == groups.verdict(one, name, labels['A'], Metric(*METRICS[0]))
  page.set('#difference-metric', '1', 'change')
  assert page.texts('#difference-better') == ['higher is better']


def test_table_sorts_by_number_both_ways_and_what_is_missing_stays_last(page):
  runs_mode(page)
  page.sort('config.optim.lr')
  assert page.column('config.optim.lr') == [f'{lr:g}' for lr in sorted(LRS) for _ in range(3)]
  assert page.find('#table th[aria-sort=ascending]').text.startswith('optim.lr')
  page.sort('config.optim.lr')
  assert page.column('config.optim.lr') == [f'{lr:g}' for lr in sorted(LRS, reverse=True) for _ in range(3)]
  assert page.find('#table th[aria-sort=descending]').text.startswith('optim.lr')
  for way in (sorted, lambda values: sorted(values, reverse=True)):
    page.sort('final/nll_bpd')
    finals = page.column('final/nll_bpd')
    assert finals[-1] == '–' and '–' not in finals[:-1]
    assert [float(v) for v in finals[:-1]] == way(float(v) for v in finals[:-1])
  assert page.column('state')[-1] == 'diverged'


def test_filters_by_words_comparisons_and_states(page):
  runs_mode(page)
  for words, kept in (
    ('seed=1', 4),
    ('lr>=9', 6),
    ('lr>=9 seed=0', 2),
    ('optim.lr<1 diverged', 0),
    ('DIVERGED', 1),
    ('state!=done', 2),
    ('nll_bpd<0', 0),
    ('lr=0.002', 3),
  ):
    page.set('#filter', words)
    assert page.texts('#count') == [f'{kept} of 12 runs'], words
    assert len(page.texts('#table tbody th')) == kept
  page.until("return document.querySelectorAll('#tiles .tile').length === 3")  # the other sections follow
  page.set('#filter', '')
  page.click('#states input[value=diverged]')
  assert page.texts('#count') == ['11 of 12 runs'] and 'diverged' not in page.column('state')


def test_the_slider_moves_the_pictures_of_all_runs(page):
  last = page.each('#tiles img', 'n.src')
  assert len(set(last)) == 12 and page.texts('#step-out') == ['200 of 200']
  page.set('#sample-step', 0)
  first = page.each('#tiles img', 'n.src')
  assert page.texts('#step-out') == ['20 of 200'] and len(set(first)) == 12
  assert all(a != b for a, b in zip(first, last, strict=True))
  page.find('#sample-step').send_keys('\ue014')  # arrow to the right
  assert page.texts('#step-out') == ['40 of 200']
  page.set('#sample-view', 'reconstructions', 'change')
  assert page.texts('#step-out') == ['40 of 200'] and not set(page.each('#tiles img', 'n.src')) & {*first, *last}
  assert 'config.eval.seed = 0' in page.texts('#noise')[0]


def test_every_picture_is_the_file_of_its_run_and_step(page, sweep):
  page.set('#sample-step', 7)  # step 160
  for path, label in ((p, sweep[0].runs.loc[p]) for p in sweep[0].runs.index):
    step = min(160, label['step'])  # the diverged one has nothing later
    name = f'lr={label["config.optim.lr"]:g} seed={label["seed"]}'
    shown = page.js(
      """return [...document.querySelectorAll('#tiles figure')]
      .find((n) => n.querySelector('span').textContent === arguments[0]).querySelector('img').src""",
      name,
    )
    file = f'{path}/samples/step_{step:08d}.png'
    assert shown == report_samples._content(report.Path(file))


def test_two_runs_flip_in_place(page):
  picks = page.each('#tiles [data-pick]', 'n.dataset.pick')
  wanted = [page.find(f'[data-pick="{pick}"] img').get_attribute('src') for pick in (picks[1], picks[6])]
  assert not page.find('#flip').is_displayed()
  for pick in (picks[1], picks[6]):
    page.click(f'#tiles [data-pick="{pick}"]')
  shown, seen = (lambda: page.find('#flip img').get_attribute('src')), []
  for act in ('', 'click', 'space'):
    if act == 'click':
      page.click('.flip')
    elif act == 'space':
      page.driver.switch_to.active_element.send_keys(' ')
    seen.append(shown())
  assert seen == [wanted[0], wanted[1], wanted[0]]
  page.set('#sample-step', 0)
  assert shown() not in wanted
  page.click('#flip .quiet')
  assert not page.find('#flip').is_displayed()


def test_all_steps_show_runs_by_steps(page):
  page.click('#sample-mode [data-value=all]')
  rows = page.each('.frames:not(.heads)', "n.querySelectorAll('img').length")
  assert sorted(rows) == [6, 9] + [10] * 10  # two ended early
  assert page.texts('.heads .frame') == [str(step) for step in range(EVERY, STEPS + 1, EVERY)]


def test_texts_of_language_models_stand_side_by_side(chromium, texts):
  page = Page(chromium, texts)
  assert [text.count('step 200') for text in page.texts('#tiles pre')] == [2, 2]
  tops = page.each('#tiles pre', 'n.getBoundingClientRect().top')
  assert tops[0] == tops[1]
  page.set('#sample-step', 0)
  for seed, text in enumerate(page.texts('#tiles pre')):
    assert text == f'first lr 0.5 seed {seed} step 20second lr 0.5 seed {seed} step 20'
  for pick in (0, 1):
    page.click(f'[data-pick="{pick}"]')
  before = page.texts('#flip pre')
  page.click('.flip')
  assert 'seed 0' in before[0] and 'seed 1' in page.texts('#flip pre')[0]
  assert not page.errors()


def test_hovering_links_table_and_curves(page):
  from selenium.webdriver import ActionChains

  runs_mode(page)
  time.sleep(0.3)  # the plots are drawn anew, which highlights too
  page.js("document.querySelector('#table').scrollIntoView({behavior: 'instant'})")
  ActionChains(page.driver).move_to_element(page.find('#table tr[data-run="4"] td')).perform()
  hot = page.each('#panels .dimmed .trace.hot', 'n.className.baseVal')
  assert len(hot) == 2 and all('tracerun-4' in names for names in hot)  # in both plots
  x, y, run = page.js("""
    const plot = document.querySelector('#panels .plot');
    plot.scrollIntoView({block: 'center', behavior: 'instant'});
    const trace = plot.data.find((t) => t.uid === 'run-0');
    const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
    const [xa, ya] = [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
    return [box.left + xa.d2p(trace.x[5]), box.top + ya.d2p(trace.y[5]), 0];""")
  mouse = ActionChains(page.driver)
  mouse.w3c_actions.pointer_action.move_to_location(round(x), round(y))
  mouse.perform()
  page.until("return document.querySelector('#table tr.hot')")
  assert page.each('#table tr.hot', 'n.dataset.run') == [str(run)]
  assert len(page.texts('#legend .hot')) == 1


def test_curves_choose_axis_scale_and_smoothing(page, sweep):
  runs, metrics = sweep[0].runs, sweep[0].metrics
  plot = '#panels .plot'
  own = metrics[metrics['run'] == runs.index[0]]
  drawn = page.traces(plot, 'run-0')['run-0']
  np.testing.assert_allclose(drawn['y'], own['eval/nll_bpd'], rtol=1e-5)
  assert drawn['x'] == own['step'].tolist()
  for axis, column in (('examples', 'examples'), ('flops', 'flops'), ('seconds', 'seconds')):
    page.set('#curve-x', axis, 'change')
    np.testing.assert_allclose(page.traces(plot, 'run-0')['run-0']['x'], own[column], rtol=1e-5)
  assert page.js(f"return document.querySelector('{plot}').layout.yaxis.type") == 'linear'
  page.click('#curve-log')
  assert page.js(f"return document.querySelector('{plot}').layout.yaxis.type") == 'log'
  page.set('#curve-smooth', 0.5)
  smooth, weights = [], 0.5 ** np.arange(len(own))[::-1]
  for n in range(1, len(own) + 1):
    smooth.append(np.average(own['eval/nll_bpd'][:n], weights=weights[-n:]))
  np.testing.assert_allclose(page.traces(plot, 'run-0')['run-0']['y'], smooth, rtol=1e-5)
  page.set('.panel select', 'train/loss_nats', 'change')
  assert page.traces(plot, 'run-0')['run-0']['y'] != smooth
  page.click('#curve-add')
  assert len(page.texts('#panels figure')) == 3


def test_mean_and_band_are_those_of_the_statistics(page, sweep):
  runs, metrics = sweep[0].runs, sweep[0].metrics
  seeds = runs[runs['config.optim.lr'] == 0.5].index
  values = np.array([metrics[metrics['run'] == run]['eval/nll_bpd'] for run in seeds])
  expected = np.array([statistics.mean_interval(column)[:3] for column in values.T])
  group = page.texts('#legend button').index('lr=0.5')
  n = values.shape[1]
  mean = page.traces('#panels .plot', 'group-')[f'group-{group}']['y']
  band = page.traces('#panels .plot', 'band-')[f'band-{group}']['y']
  np.testing.assert_allclose(np.stack([mean, band[n:][::-1], band[:n]], 1), expected, rtol=1e-5)
  lost = page.texts('#legend button').index('lr=10')
  assert page.traces('#panels .plot', 'group-')[f'group-{lost}']['x'][-1] == 120  # as far as all seeds came


def test_hyper_parameters_are_drawn_and_brushed(page):
  from selenium.webdriver import ActionChains

  assert page.js("return document.querySelector('#parallel').data.filter((t) => t.uid.startsWith('run-')).length") == 12
  axes = page.each('#scatters .plot', 'n.layout.xaxis.type')
  assert axes == ['log', 'linear']  # the learning rate spans decades, the seed does not
  x, y = page.js("""
    const plot = document.querySelector('#parallel');
    plot.scrollIntoView({block: 'center', behavior: 'instant'});
    const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
    const [xa, ya] = [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
    return [box.left + xa.d2p(0), box.top + ya.d2p(0)];""")
  drag = ActionChains(page.driver, duration=20)
  pointer = drag.w3c_actions.pointer_action
  pointer.move_to_location(round(x) - 12, round(y) - 12)
  pointer.pointer_down()
  pointer.move_to_location(round(x), round(y))
  pointer.move_to_location(round(x) + 12, round(y) + 8)
  pointer.pointer_up()
  drag.perform()
  page.until("return document.getElementById('count').textContent === '3 of 12 runs'")  # the lowest learning rate
  time.sleep(0.4)  # drawing the plots anew must not take the brush away
  assert page.column('config.optim.lr') == ['0.002']
  page.click('#brush-clear')
  assert page.texts('#count') == ['12 runs']


def test_search_budget_curve_is_that_of_the_statistics(page, sweep):
  runs = sweep[0].runs
  done = runs[runs['state'] == 'done']
  results = [done[done['config.optim.lr'] == lr]['final/nll_bpd'].mean() for lr in LRS]
  drawn = page.js("return document.querySelector('#budget-plot').data.find((t) => t.uid === 'method-0')")
  assert drawn['x'] == [1, 2, 3, 4]
  np.testing.assert_allclose(drawn['y'], budget.expected_best(results, 'min').expected, rtol=1e-5)


def test_provenance_tells_how_to_reproduce_each_run(page, sweep):
  codes = page.texts('#origins details code')
  for path in sweep[0].runs.index:
    assert any(code.startswith('python -m gen_ai.reproduce ') and str(path) in code for code in codes)
  assert 'python launch.py --config=configs/vae.py --config.optim.lr=0.5' in codes
  assert 'a' * 10 in page.texts('#origins dd') and 'jax 0.10.2' in page.texts('#origins dd')
  assert '*' in ''.join(page.texts('#table sup')) and 'shared' in page.texts('#table-note')[0]


@pytest.mark.parametrize('kind', ['pictures', 'texts'])
def test_fits_a_telephone(chromium, sweep, texts, kind):
  page = Page(chromium, sweep[1] if kind == 'pictures' else texts)
  page.resize(420)
  page.until("return document.querySelector('#panels .main-svg').getBoundingClientRect().width < 420")
  for mode in page.each('.switch:not([hidden]) button', 'n.dataset.value'):
    page.click(f'.switch [data-value="{mode}"]')
    assert page.js('const d = document.documentElement; return d.scrollWidth - d.clientWidth') == 0, mode
  assert page.js("return document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth")


def test_follows_light_and_dark(page):
  colours = """const [page, plot] = [getComputedStyle(document.body), document.querySelector('#panels .plot')];
    return [page.backgroundColor, page.color, plot.layout.font.color, plot.data.at(-1).line.color]"""
  light = page.js(colours)
  page.scheme('dark')
  page.until("return matchMedia('(prefers-color-scheme: dark)').matches")
  dark = page.until(f"const c = (() => {{ {colours} }})(); return c[2] !== '{light[2]}' && c")
  assert all(a != b for a, b in zip(light, dark, strict=True))
  brightness = [sum(map(int, re.findall(r'\d+', colour)[:3])) for colour in (light[0], dark[0])]
  assert brightness[0] > 600 and brightness[1] < 120
