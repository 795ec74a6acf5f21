"""The sanity table and the benchmark of metrics: their sets, their verdicts, their sides."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from benchmarks import metrics_agreement, metrics_sides, real_data, sanity_sets
from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.evaluate import external, metrics
from gen_ai.evaluate.metrics import features, quality
from gen_ai.evaluate.metrics.metric import Evidence
from gen_ai.run import directory

missing = [name for name in ('torch', 'torchmetrics', 'prdc') if importlib.util.find_spec(name) is None]
needs_torch = pytest.mark.skipif(
  bool(missing), reason=f'not installed: {", ".join(missing)} (pip install -r requirements/benchmark.txt)'
)
LABELS, SHAPE = 10, (8, 8, 1)


@pytest.fixture(scope='module')
def data():
  """Random images whose first pixel is their split and whose second is their label."""
  noise, arrays = np.random.default_rng(0), {}
  for number, (split, n) in enumerate((('train', 400), ('validation', 60), ('test', 80))):
    label = np.arange(n) % LABELS
    image = noise.integers(50, 200, (n, *SHAPE), np.uint8)
    image[:, 0, 0, 0], image[:, 0, 1, 0] = number, label
    arrays[split] = {'image': image, 'label': label.astype(np.int32)}
  dataset = dataset_lib.from_arrays('made', arrays, 'train|validation|test')
  config, _ = external.open_data('mnist_5k', {'eval.extractor': 'random'})
  return real_data.RealData(config, dataset, 'random')


@pytest.fixture(scope='module')
def sets(data):
  return {one.name: one for one in sanity_sets.image_sets(data, 100, 0)}


def made(sets, name):
  return sets[name].make()


def keys(images):
  return [image.tobytes() for image in images]


def test_sets_are_of_the_split_and_the_classes_that_their_names_say(data, sets):
  train, fresh = made(sets, 'train'), made(sets, 'validation')
  assert train.shape == (100, *SHAPE) and fresh.shape == (60, *SHAPE)
  assert (train[:, 0, 0] == 0).all() and len(set(keys(train))) == 100
  assert (fresh[:, 0, 0] == 1).all()
  for name, gone in sanity_sets.REMOVED.items():
    images = made(sets, name)
    assert len(images) == 100 and (images[:, 0, 0] == 0).all()
    assert set(images[:, 0, 1, 0]) == set(range(LABELS)) - set(gone)
  assert len(sanity_sets.REMOVED['1 class removed']) == 1 and len(sanity_sets.REMOVED['5 classes removed']) == 5


def test_copies_are_as_many_as_their_names_say(data, sets):
  train = set(keys(data.images('train', np.arange(400))))
  repeated, half, faint = (
    made(sets, name) for name in (sanity_sets.REPEATED, sanity_sets.HALF, sanity_sets.FAINT_COPIES)
  )
  assert len(repeated) == 100 and len(set(keys(repeated))) == 5 and set(keys(repeated)) <= train
  assert sum(key in train for key in keys(half)) == 50 and sorted(set(half[:, 0, 0, 0])) == [0, 1]
  assert len(half) == 100 and 10 < (half[:50, 0, 0, 0] == 0).sum() < 40  # mixed: some figures look at the first images
  assert not set(keys(faint)) & train
  gap = faint.astype(int) - made(sets, 'train')
  assert np.std(gap) == pytest.approx(sanity_sets.FAINT, rel=0.1)


def test_only_sets_without_held_out_images_are_audited(sets):
  assert {name for name, one in sets.items() if not one.audited} == {
    *sanity_sets.NOISY,
    *sanity_sets.BLURRED,
    sanity_sets.UNIFORM,
  }


def test_levels_of_noise_and_blur_are_standard_deviations(data, sets):
  test = data.images('test', np.arange(80))
  grey = np.full((20, 28, 28, 1), 128, np.uint8)
  assert np.std(sanity_sets.noisy(grey, 16, 0).astype(float)) == pytest.approx(16, rel=0.03)
  np.testing.assert_array_equal(made(sets, 'test + noise 32'), sanity_sets.noisy(test, 32, 0))
  np.testing.assert_array_equal(made(sets, 'test, blur 2'), sanity_sets.blurred(test, 2.0))
  assert (sanity_sets.noisy(grey, 16, 1) != sanity_sets.noisy(grey, 16, 0)).any()
  dot = np.zeros((2, 31, 31, 2), np.uint8)
  dot[0, 15, 15, 1] = 255
  spread = sanity_sets.blurred(dot, 1.0)
  assert not spread[1].any() and not spread[0, ..., 0].any()  # neither into other images nor into other channels
  assert spread[0, 15, 15, 1] == round(255 / (2 * np.pi))
  bright = np.full((1, 4, 4, 1), 250, np.uint8)
  assert sanity_sets.noisy(bright, 64, 0).max() == 255 and (sanity_sets.noisy(bright, 64, 0) > 100).all()


def test_more_samples_than_there_are_is_refused(data):
  with pytest.raises(UserError, match='--samples=300 are too many for made: without 5 classes 200 training images'):
    sanity_sets.image_sets(data, 300, 0)
  with pytest.raises(UserError, match='are of 60 validation images'):
    sanity_sets.image_sets(data, 150, 0)


def perfect():
  """Figures of all sets in the order that they must have."""
  found = {}
  for number, name in enumerate(
    (
      sanity_sets.TRAIN,
      sanity_sets.FRESH,
      *sanity_sets.NOISY,
      *sanity_sets.BLURRED,
      *sanity_sets.REMOVED,
      sanity_sets.REPEATED,
      sanity_sets.HALF,
      sanity_sets.FAINT_COPIES,
      sanity_sets.UNIFORM,
    )
  ):
    worse = dict.fromkeys(('fd', 'fd_infinity', 'kid', 'sliced_wasserstein', 'ms_ssim'), number + 1.0)
    better = dict.fromkeys(('precision', 'recall', 'density', 'coverage', 'inception_score'), 0.9 - number / 100)
    copies = {'c_t': -9.0, 'c_t_p': 1e-9, 'duplicates_share': 1.0, 'repeated_share': 0.95}
    found[name] = worse | better | copies
  found[sanity_sets.FRESH] |= {'c_t': 0.1, 'c_t_p': 0.5}
  return found


def failed(found):
  return [verdict.what for verdict in sanity_sets.verdicts(found) if not verdict.held]


@pytest.mark.parametrize(
  ('name', 'figures', 'what'),
  [
    ('test + noise 64', {'fd': 1.5}, 'noise: fd rises'),
    ('test, blur 4', {'recall': 0.9}, 'blur: recall falls'),
    ('5 classes removed', {'coverage': 0.85}, 'classes removed: coverage falls'),
    ('train', {'c_t_p': 0.02}, 'train: C_T tells copies at p = 0.01'),
    ('validation', {'c_t_p': 0.005}, 'validation: C_T stays silent at p = 0.01'),
    ('uniform noise', {'kid': 0.5}, 'kid: training images are the floor'),
    ('half train, half val.', {'duplicates_share': 0.49}, 'half train, half val.: duplicates_share at least 0.5'),
    ('train, each 20 times', {'repeated_share': 0.9}, 'train, each 20 times: repeated_share at least 0.95'),
  ],
)
def test_a_figure_out_of_order_fails_and_no_other(name, figures, what):
  found = perfect()
  assert failed(found) == []
  found[name] |= figures
  assert failed(found) == [what]


def test_figures_may_stay_only_where_they_cannot_go_on():
  rows = {'a': {'recall': 0.0, 'fd': 1.0}, 'b': {'recall': 0.0, 'fd': 1.0}}
  assert sanity_sets.in_order(rows, 'x', 'ab', 'recall', False).held
  assert not sanity_sets.in_order(rows, 'x', 'ab', 'fd', True).held
  half = {'a': {'recall': 0.5}, 'b': {'recall': 0.5}}
  verdict = sanity_sets.in_order(half, 'x', 'ab', 'recall', False)
  assert not verdict.held and verdict.figures == '0.5 -> 0.5'


def test_sides_agree_only_within_what_rounding_and_subsets_explain():
  theirs = {'fd': 2.0, 'kid': 0.01, 'kid_error': 1e-4, 'precision': 0.8, 'recall': 0.7, 'density': 0.9, 'coverage': 0.6}
  assert metrics_agreement.disagreements(theirs, theirs) == []
  assert metrics_agreement.disagreements({**theirs, 'fd': 2.001, 'kid': 0.0105, 'recall': 0.701}, theirs) == []
  for name, value in (('fd', 2.01), ('kid', 0.011), ('recall', 0.71), ('density', 0.91), ('coverage', float('nan'))):
    (line,) = metrics_agreement.disagreements({**theirs, name: value}, theirs)
    assert line.startswith(f'NOT the same {name}: ')


def test_our_side_measures_what_users_get(data):
  extractor = data.load_extractor()
  samples, real = data.images('train', np.arange(60)), data.images('test', np.arange(60))
  figures, parts = metrics_sides.Ours(extractor, 3).measure(samples, real)
  own, others = (features.of_images(images, extractor, features.Spread()) for images in (samples, real))
  evidence = Evidence(own, others, None, None, None, None, extractor, 3, {}, intervals=False)
  expected = quality.measure(metrics.parse('fd,kid,prdc', 'image'), evidence).figures
  assert {name: figures[name] for name in expected} == {name: figure.value for name, figure in expected.items()}
  assert figures['kid_error'] == expected['kid'].error
  assert list(parts) == ['features', 'fd', 'kid', 'prdc'] and all(seconds > 0 for seconds in parts.values())


def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it():
  ballast = bytearray(300 * 2**20)
  code = 'from benchmarks.metrics_sides import peak; print(peak()); x = bytearray(200 * 2**20); print(peak())'
  done = subprocess.run([sys.executable, '-c', code], cwd=tiny.ROOT, capture_output=True, text=True, check=True)
  before, after = map(float, done.stdout.split())
  assert len(ballast) and 100 < after - before < 300


def classifier(width=8, blocks=2):
  """(extractor-like apply, parameters) of a small classifier, its weights far from those at the start."""
  config = config_lib.override(
    tiny.config('classifier'), {'model.width': width, 'model.blocks': blocks, 'model.features': 24}
  )
  method = config_lib.builder(config)(config, tiny.dataset(config).spec)
  state = method.init(jax.random.key(0))
  noise = np.random.default_rng(0)
  params = jax.tree.map(lambda p: np.asarray(p + 0.1 * noise.standard_normal(p.shape), np.float32), state.params)
  state = state._replace(params=params, ema=params if jax.tree.leaves(state.ema) else ())

  def apply(image):
    own = jax.random.split(jax.random.key(0), len(image))
    return method.tasks['features'].run(state, {'image': image}, own)['features']

  return config, apply, params


@needs_torch
@pytest.mark.parametrize('blocks', [1, 2])
def test_the_torch_side_has_the_same_features(blocks):
  from benchmarks.metrics_torch import Torch

  _, apply, params = classifier(blocks=blocks)
  images = np.random.default_rng(1).integers(0, 256, (5, 28, 28, 1), np.uint8)
  theirs = Torch(params, blocks, 0, 5)
  ours = np.asarray(apply(images))
  np.testing.assert_allclose(theirs.features(images).numpy(), ours, rtol=1e-4, atol=1e-5)
  assert theirs.network.num_features == ours.shape[1] == 24 and np.std(ours) > 0.01


@needs_torch
@pytest.mark.filterwarnings('ignore')  # of torchmetrics
def test_the_torch_side_has_the_same_figures(data):
  from benchmarks.metrics_torch import Torch

  _, apply, params = classifier()
  noise = np.random.default_rng(2)
  samples, real = (noise.integers(0, top, (300, 28, 28, 1), np.uint8) for top in (200, 256))
  theirs, parts = Torch(params, 2, 0, 5).measure(samples, real)
  extractor = data.load_extractor()
  extractor = type(extractor)('classifier', {}, lambda _, image: (apply(image), None), '', 'none', 24, False)
  ours, _ = metrics_sides.Ours(extractor, 0).measure(samples, real)
  assert metrics_agreement.disagreements(ours, theirs) == []
  assert ours.keys() == theirs.keys() and list(parts) == ['features', 'fd', 'kid', 'prdc'] and theirs['fd'] > 0


def test_the_torch_side_takes_no_other_network(tmp_path, data):
  with pytest.raises(UserError, match='--extractor=random: the PyTorch side has the classifier'):
    metrics_sides.write_job(tmp_path, data, 50, 0)
  with pytest.raises(UserError, match='made has 400 training and 80 test images'):
    metrics_sides.write_job(tmp_path, data, 90, 0)


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['benchmarks.sanity', 'mnist_5k'], 'did you mean --data=mnist_5k?'),
    (['benchmarks.sanity', '--data=tiny_shakespeare'], 'tiny_shakespeare'),
  ],
)
def test_the_sanity_table_names_what_is_wrong(words, said):
  done = tiny.command('-m', *words)
  assert done.returncode == 1 and said in done.stderr and 'Traceback' not in done.stderr


def test_without_pytorch_the_benchmark_of_metrics_says_what_to_install():
  code = (
    "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['metrics']; "
    "runpy.run_module('benchmarks.metrics', run_name='__main__')"
  )
  done = tiny.command('-c', code)
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert done.stderr.strip().splitlines()[-1].startswith('error: torch is not installed: pip install')


def test_a_table_leaves_out_what_was_not_measured_and_says_what_failed():
  code = '\n'.join(
    [
      'from benchmarks import sanity',
      'from benchmarks.sanity_sets import Verdict',
      'rows = [{"set": "a", "samples": 10000, "figures": {"fd": {"value": 1.23456}, "c_t_p": {"value": 0.0}}}]',
      'print(sanity.markdown(sanity.table(rows), [Verdict("x rises", False, "2 -> 1"), Verdict("y", True, "3")]))',
      'print(sanity.aligned(sanity.table(rows)))',
    ]
  )
  done = tiny.command('-c', code)
  head, rule, row, _, failed, passed, _, *plain = done.stdout.splitlines()
  cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in (head, rule, row)]
  assert len(cells[0]) == len(cells[1]) == len(cells[2]) == 16
  assert {name: cell for name, _, cell in zip(*cells, strict=True) if cell} == {
    'set': 'a',
    'images': '10,000',
    'FD': '1.235',
    'p': '<1e-300',
  }
  assert failed == '- FAIL: x rises: 2 -> 1' and passed == '- PASS: y: 3'
  assert plain[0].index('FD') + len('FD') == plain[1].index('1.235') + len('1.235')


@pytest.mark.slow
def test_the_sanity_table_trains_its_classifier_once_and_judges_every_set(tmp_path):
  small = {path: str(value) for path, value in config_lib.tiny('configs/classifier.py').items()}
  overrides = [f'--config.{path}={value}' for path, value in small.items()]
  out = tmp_path / 'report.json'
  done = tiny.command(
    '-m', 'benchmarks.sanity', '--data=mnist_5k', '--samples=100', f'--runs_dir={tmp_path}', f'--out={out}', *overrides
  )
  report = json.loads(out.read_text())
  held = sum(verdict['held'] for verdict in report['verdicts'])
  assert f'{held} of {len(report["verdicts"])} hold' in done.stdout
  assert done.returncode == (0 if held == len(report['verdicts']) else 1), done.stderr
  assert len(report['rows']) == 16 and report['stamp']['split'] == 'test'
  for row in report['rows']:
    assert row['set'] in done.stdout and row['figures']['fd']['stamp']['extractor'] == 'classifier'
    assert ('c_t' in row['figures']) == (not row['set'].startswith(('test', 'uniform')))
  (run_dir,) = (tmp_path / 'classifier').iterdir()
  attempts = directory.read_attempts(run_dir)
  again = real_data.open_data(real_data.Request('mnist_5k', '', '', str(tmp_path), 100, 0), small)
  assert again.extractor == f'classifier:{run_dir}' == report['settings']['extractor']
  assert directory.read_attempts(run_dir) == attempts and directory.read_status(run_dir)['step'] == 8
