"""One protocol: figures are those of the state, whatever the devices, batches, lanes and cache; stamped and kept."""

import json
import shutil

import cli
import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.data import kinds
from gen_ai.evaluate import evaluator, metrics, references
from gen_ai.evaluate import protocol as protocol_lib
from gen_ai.evaluate.generation import Generation
from gen_ai.evaluate.metrics import features, quality
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program
from gen_ai.run import directory

NAMES = 'fd,kid,prdc,ms_ssim,memorisation'
N = 300  # more than the features of the random extractor have


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch):
  monkeypatch.setattr(quality, 'REPLICATES', 10)


def gan(**overrides):
  # All of the data, as figures need more images than features.
  return tiny.config('gan', **{'eval__samples': N, 'optim__ema_decay': 0.0, 'data__split': 'auto', **overrides})


def judged(config, names=NAMES, devices=1, lanes=(), layout=None):
  """(the judge of the initial states of `config`, those states)."""
  data = tiny.dataset(config)
  layout = layout or make_layout(config, jax.devices()[:devices])
  program = Program(config, config_lib.builder(config), data.spec, layout, lanes)
  asked = protocol_lib.protocol(config, data, 'test', metrics.parse(names, 'image'))
  return evaluator.Evaluator(program, config, data, asked), program.init()


def values(found):
  return {name: figure.value for name, figure in found.figures.items()}


@pytest.fixture(scope='module')
def alone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quality, 'REPLICATES', 10)
    one, state = judged(gan())
    return one.lanes(state)[0]


@pytest.mark.parametrize(
  ('devices', 'overrides', 'block'),
  [
    (8, {}, 256),
    (8, {'mesh__fsdp': 2, 'mesh__tensor': 2, 'mesh__min_shard': 16}, 256),
    (8, {'parallel': 'pmap'}, 256),
    (1, {'eval__batch_size': 24}, 40),
  ],
  ids=['8 devices', 'fsdp and tensor', 'pmap', 'other batches'],
)
def test_figures_do_not_depend_on_devices_or_batches(alone, devices, overrides, block, monkeypatch, tmp_path):
  monkeypatch.setattr(features, 'BLOCK', block)
  monkeypatch.setattr(references, 'data_folder', lambda data_dir: tmp_path)  # the reference is computed again, too
  other, state = judged(gan(**overrides), devices=devices)
  found = values(other.lanes(state)[0])
  assert found.keys() == values(alone).keys()
  assert found == pytest.approx(values(alone), rel=2e-3, abs=1e-4)


def test_every_figure_has_its_stamp_and_its_interval(alone):
  for name, figure in alone.figures.items():
    assert figure.stamp['samples'] == N
    assert figure.stamp['sample_seed'] == 0 and figure.stamp['pixels'] == 'uint8' and figure.stamp['ema'] is False
    if name == 'ms_ssim':
      assert not {'extractor', 'weights', 'reference_examples'} & figure.stamp.keys()
    else:
      assert (figure.stamp['extractor'], figure.stamp['reference_examples']) == ('random (weak)', 500)
      assert len(figure.stamp['weights']) == 64
    if name not in ('c_t', 'c_t_p'):
      assert figure.low <= figure.value <= figure.high, name
  picture, columns = alone.pictures['closest_pairs']
  assert (picture.shape, columns) == ((20, 28, 28, 1), 10)


@pytest.mark.parametrize(('value', 'n'), [(0.0, 20), (1.0, 20), (0.3, 40), (0.02, 100)])
def test_intervals_of_shares_are_those_of_scipy(value, n):
  from scipy.stats import binomtest

  figure = quality.share(value, n, {})
  expected = binomtest(round(value * n), n).proportion_ci(method='wilson')
  assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_lanes_are_judged_as_runs_alone_and_a_broken_one_stops_no_other():
  configs = [gan(run__seed=seed) for seed in (0, 5)]
  layout = LaneLayout(jax.devices()[:1])
  together, state = judged(configs[0], 'fd,prdc', lanes=configs, layout=layout)
  broken = jax.tree.map(lambda leaf: leaf.at[1].set(np.nan) if leaf.dtype == np.float32 else leaf, state)
  found = together.measured(broken, [0, 1])
  for lane in (0,):
    one, own = judged(configs[lane], 'fd,prdc')
    assert found[lane][0] == pytest.approx(values(one.lanes(own)[0]), rel=1e-3, abs=1e-4)
    assert found[lane][1] == ''
  assert found[1][0] == {} and 'NaN' in found[1][1]
  with pytest.raises(UserError, match='NaN'):
    together.lanes(broken, [1])


def test_any_sample_can_be_drawn_again_by_its_number():
  one, state = judged(gan(), 'fd')
  drawn = Generation(one._program, 0)
  (whole,) = drawn.read(state, np.arange(70))
  (some,) = drawn.read(state, np.array([69, 3, 3]))
  np.testing.assert_array_equal(some, whole[[69, 3, 3]])
  assert not np.array_equal(whole, Generation(one._program, 1).read(state, np.arange(70))[0])


def test_features_of_the_data_are_computed_once(tmp_path, monkeypatch):
  config = gan()
  monkeypatch.setattr(references, 'data_folder', lambda data_dir: tmp_path)
  data = tiny.dataset(config)
  extractor = protocol_lib.protocol(config, data, 'test', metrics.parse('fd', 'image')).extractor
  first = references.References(data, extractor, '')['test']
  (file,) = (tmp_path / 'features').iterdir()

  def refuse(*arguments):
    raise AssertionError('computed again')

  with monkeypatch.context() as patch:
    patch.setattr(references.features, 'of_blocks', refuse)
    again = references.References(data, extractor, '')['test']
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.cov, again.cov)
    with pytest.raises(AssertionError, match='again'):  # another split is other content
      references.References(data, extractor, '')['validation']
  file.write_bytes(file.read_bytes()[:1000])
  np.testing.assert_array_equal(references.References(data, extractor, '')['test'].values, first.values)


def test_figures_in_training_are_those_of_the_checkpoint(tmp_path):
  run = tmp_path / 'run'
  words = [
    '--config=configs/gan.py',
    '--tiny',
    '--config.run.trackers=',
    '--config.eval.metrics=fd,kid',
    f'--config.eval.samples={N}',
    '--config.eval.best=fd:min',
    '--config.data.split=auto',
    f'--run_dir={run}',
  ]
  done = cli.launch(*words, '--config.eval.metrics_every=4')
  assert done.returncode == DONE
  rows = [row for row in directory.read_metrics(run) if row['kind'] == 'eval']
  assert [row['step'] for row in rows] == [4, 8] and all({'fd', 'kid'} <= row.keys() for row in rows)
  about = directory.read_run(run)['evaluation']
  assert about['samples'] == N and 'random (weak)' in about['extractor'] and about['observation'] == ''
  assert about['data_figures']['spread'] == pytest.approx(0.384, abs=5e-4)  # for the samples' own to be read beside
  assert 'spread     0.384 in the training data; evaluations tell that of 8 samples\n' in done.stdout
  assert directory.read_summary(run)['best']['value'] == min(row['fd'] for row in rows)
  # An evaluation afterwards, on the split that training is judged on, finds the same, and adds it to the record.
  done = cli.command('gen_ai.evaluate', run, '--split=validation', '--metrics=fd,kid', '--step=4')
  assert done.returncode == DONE, done
  (row,) = directory.read_evaluations(run)
  for name in ('fd', 'kid'):
    assert row['figures'][name]['value'] == pytest.approx(rows[0][name], rel=1e-4)
  assert row['step'] == 4 and row['stamp']['split'] == 'validation'
  assert 'kid' in done.stdout and '[' in done.stdout
  # Continued from its first checkpoint, as if it had been killed after that, the run has the same rows.
  before = tiny.rows(run)
  shutil.rmtree(run / 'checkpoints' / '8')
  status = json.loads((run / 'status.json').read_text()) | {'state': 'running'}
  (run / 'status.json').write_text(json.dumps(status))
  assert cli.launch(f'--resume={run}').returncode == DONE
  assert tiny.rows(run) == before
  assert [row['attempt'] for row in directory.read_metrics(run)] == [1, 1, 1, 2, 2, 2]


def test_metrics_of_a_packed_sweep_reach_every_run(tmp_path):
  words = [
    '--config=configs/vae.py',
    '--tiny',
    '--config.run.trackers=',
    '--config.eval.metrics=fd,nll',
    f'--config.eval.samples={N}',
    '--config.eval.importance_samples=3',
    f'--runs_dir={tmp_path}',
  ]
  done = cli.launch(*words, '--axis=run.seed=0:2', '--config.eval.best=fd:min')
  assert done.returncode == DONE, done
  (sweep,) = (tmp_path / 'vae').iterdir()
  for path in sorted(sweep.glob('run.seed=*')):
    last = [row for row in directory.read_metrics(path) if row['kind'] == 'eval'][-1]
    assert np.isfinite(last['fd'])
    assert last['iwae_nats'] > last['elbo_nats'] - 1


def test_texts_are_audited_for_verbatim_copies(tmp_path):
  run = tmp_path / 'lm'
  assert tiny.run(tiny.config('lm', eval__samples=8), run)[0] == DONE
  done = cli.command('gen_ai.evaluate', run, '--metrics=memorisation,nll')
  assert done.returncode == DONE, done
  (row,) = directory.read_evaluations(run)
  assert 0 < row['figures']['overlap_tokens']['value'] <= row['figures']['overlap_longest_tokens']['value']
  assert row['figures']['overlap_tokens']['stamp']['samples'] == 8
  assert len(row['texts']['overlaps']) == 5
  figure = row['figures']['loss_nats']
  assert figure['low'] < figure['value'] < figure['high']


def test_samples_made_elsewhere_are_judged_as_ours(tmp_path, alone):
  one, state = judged(gan(), 'fd,prdc')
  (images,) = Generation(one._program, 0).read(state, np.arange(N))
  np.save(tmp_path / 'x.npy', images[..., 0])
  words = [
    f'--samples_file={tmp_path}/x.npy',
    '--data=mnist_5k',
    f'--run_dir={tmp_path}/theirs',
    '--metrics=fd,fd_infinity,prdc,sliced_wasserstein',
    '--config.run.steps=8',
  ]
  done = cli.command('gen_ai.evaluate', *words, f'--out={tmp_path}/report.json')
  assert done.returncode == DONE, done
  (row,) = directory.read_evaluations(tmp_path / 'theirs')
  for name in ('fd', 'precision', 'coverage'):
    assert row['figures'][name]['value'] == pytest.approx(alone.figures[name].value, rel=1e-4)
  assert {'fd_infinity', 'sliced_wasserstein', 'recall', 'density'} < row['figures'].keys()
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['figures'] == row['figures'] and report['run'] == f'{tmp_path}/theirs'
  assert directory.read_status(tmp_path / 'theirs')['state'] == 'done'
  # Floats in [-1, 1] are the same images; the same directory takes another evaluation of them, not of others.
  np.save(tmp_path / 'float.npy', images.astype(np.float32) / 127.5 - 1)
  again = cli.command('gen_ai.evaluate', f'--samples_file={tmp_path}/float.npy', *words[1:])
  assert again.returncode == DONE and len(directory.read_evaluations(tmp_path / 'theirs')) == 2
  np.save(tmp_path / 'other.npy', images[::-1])
  cli.refused(cli.command('gen_ai.evaluate', f'--samples_file={tmp_path}/other.npy', *words[1:]), 'holds other samples')
  cli.refused(
    cli.command('gen_ai.evaluate', f'--samples_file={tmp_path}/x.npy', '--data=mnist_5k', '--samples=301'),
    'holds 300 samples',
    '--samples=301',
  )


@pytest.mark.parametrize(
  ('array', 'says'),
  [
    (np.zeros((300, 32, 32, 1), np.uint8), 'samples uint8 [N, 28, 28, 1]'),
    (np.zeros((300, 28, 28, 1), np.int64), 'images are uint8, or floats in [-1, 1]: x.astype("uint8")'),
    (np.linspace(0, 1, 300 * 784, dtype=np.float32).reshape(300, 28, 28, 1), 'not clearly in [-1, 1]'),
    (np.full((300, 28, 28, 1), np.nan, np.float32), '235,200 NaN, first at [0,0,0,0]'),
    (np.zeros(5, np.uint8), 'this data has'),
    (np.zeros((0, 28, 28, 1), np.float32), 'holds nothing'),
  ],
  ids=['size', 'integers', 'unit range', 'nan', 'flat', 'empty'],
)
def test_samples_of_the_wrong_shape_or_range_are_refused(array, says, tmp_path):
  np.save(tmp_path / 'x.npy', array)
  done = cli.command('gen_ai.evaluate', f'--samples_file={tmp_path}/x.npy', '--data=mnist_5k')
  cli.refused(done, 'x.npy', says)
  assert [p.name for p in tmp_path.iterdir()] == ['x.npy'], 'nothing else was written'


def floats(shape=(9, 4, 4, 1), **values):
  """Noise in [-1, 1], with values put into places named by their indices: at_3_0_0_0=nan."""
  x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
  for place, value in values.items():
    x[tuple(map(int, place.split('_')[1:]))] = value
  return x


GREY, COLOUR = Spec('image', (4, 4, 1)), Spec('image', (4, 4, 3))


@pytest.mark.parametrize(
  ('array', 'spec', 'says'),
  [
    (floats(at_0_0_0_0=np.nan), GREY, ['1 NaN, first at [0,0,0,0]']),
    (floats(at_3_2_1_0=np.nan, at_8_3_3_0=-np.inf), GREY, ['1 NaN, first at [3,2,1,0]', '1 infinite, first at [8,3']),
    (floats((9, 3, 4, 4)), COLOUR, ['[9, 3, 4, 4]', 'channels first: x.transpose(0, 2, 3, 1)']),
    (floats((9, 1, 4, 4)), GREY, ['channels first: x.transpose(0, 2, 3, 1)']),
    (
      floats((9, 3, 4, 4)),
      GREY,
      ['channels first, x.transpose(0, 2, 3, 1), and of another size or number of channels'],
    ),
    (floats((9, 4, 4, 3)), GREY, ['RGB and the data is grey: (x @ [0.299, 0.587, 0.114])[..., None]']),
    (floats((9, 4, 4)), COLOUR, ['grey and the data has 3 channels: np.repeat(', 'config.data.grey=true']),
    (floats((9, 4, 4, 1)), COLOUR, ['grey and the data has 3 channels: np.repeat(']),
    (floats((9, 4, 4, 4)), COLOUR, ['an alpha channel']),
    (floats((4, 4, 3)), COLOUR, ['a single image: x[None]']),
    (floats((4, 4, 1)), GREY, ['a single image: x[None]']),
    (floats((9, 8, 8, 1)), GREY, ['Resize them, or the data with --config.data.image_size']),
    (floats((9, 5, 6, 7)), GREY, ['They must be 4x4x1 each']),
    (floats() * 127 + 128, GREY, ['not clearly in [-1, 1]', 'x.round().astype("uint8")']),
    (floats() * 3, GREY, ['not clearly in [-1, 1]', 'scale them to [0, 255] first']),
    (floats() > 0, GREY, ['x.astype("uint8") * 255']),
    ((floats() * 300).astype(np.int16), GREY, ['holds int16 from -', 'scale them to [0, 255] first']),
  ],
)
def test_the_advice_fits_what_is_wrong_with_an_array(array, spec, says, tmp_path):
  np.save(tmp_path / 'x.npy', array)
  with pytest.raises(UserError) as error:
    kinds.of(spec).load(str(tmp_path / 'x.npy'), spec, None, 'samples_file')
  assert all(text in str(error.value) for text in says), error.value
  assert '\n' not in str(error.value)


def test_a_run_has_its_own_data_so_the_advice_is_for_the_images_alone(tmp_path):
  for array in (floats((9, 8, 8, 3)), floats((9, 4, 4))):
    np.save(tmp_path / 'x.npy', array)
    with pytest.raises(UserError, match='--image=') as error:
      kinds.of(COLOUR).load(str(tmp_path / 'x.npy'), COLOUR, None, 'image')
    assert 'config.data' not in str(error.value)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp('judge') / 'gan'
  assert tiny.run(gan(), path)[0] == DONE
  return path


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--metrics=fid'], "metric 'fid' is unknown"),
    (['--metrics=nll'], "'gan' has no 'log_weights': leave 'nll' out of the metrics"),
    (['--metrics=is'], "extractor 'random' has none"),
    (['--metrics=modes'], "leave 'modes' out"),
    (['--metrics=prdc', '--samples=4'], '5th nearest neighbour: 4 samples are too few'),
    (['--metrics=memorisation', '--split=train'], 'not trained on'),
    (['--metrics=fd', '--extractor=resnet'], 'resnet'),
    (['--metrics=fd', '--extractor=inception:none.npz'], 'none.npz'),
    (['--metrics=fd', '--extractor=classifier:no_run'], 'no_run'),
    (['--data=mnist_5k'], '--data is for --samples_file'),
    (['--config.optim.lr=1.0'], 'belongs to the training'),
  ],
)
def test_what_cannot_be_measured_is_refused(run, words, says):
  cli.refused(cli.command('gen_ai.evaluate', run, *words), says)
  assert not (run / 'evaluations.jsonl').exists()


def test_other_families_and_samples_made_elsewhere_stand_side_by_side(run, tmp_path):
  vae = tmp_path / 'vae'
  config = tiny.config('vae', eval__samples=N, optim__ema_decay=0.0, data__split='auto')
  assert tiny.run(config, vae)[0] == DONE
  for path in (run, vae):
    assert cli.command('gen_ai.evaluate', path, '--metrics=fd').returncode == DONE
  np.save(tmp_path / 'x.npy', tiny.dataset(gan()).splits['train'].read(np.arange(N))['image'])
  words = (f'--samples_file={tmp_path}/x.npy', '--data=mnist_5k', f'--run_dir={tmp_path}/theirs', '--metrics=fd')
  assert cli.command('gen_ai.evaluate', *words, '--config.run.steps=8').returncode == DONE
  compare = ('gen_ai.compare', run, vae, tmp_path / 'theirs', '--metric=test/fd:min')
  done = cli.command(*compare)
  assert done.returncode == DONE, done
  assert 'test/fd' in done.stdout
  values = [directory.read_evaluations(path)[-1]['figures']['fd']['value'] for path in (run, vae, tmp_path / 'theirs')]
  assert min(values) == values[2], 'real images are the best samples'
  assert cli.command('gen_ai.evaluate', vae, '--metrics=fd', '--samples=299').returncode == DONE
  cli.refused(cli.command(*compare), 'test/fd', 'samples', '299', '--force')
  (run / 'evaluations.jsonl').unlink()


def test_fewer_samples_than_features_say_so(run, tmp_path):
  done = cli.command('gen_ai.evaluate', run, '--metrics=fd', '--samples=50', f'--out={tmp_path}/r.json')
  assert done.returncode == DONE and 'note: 50 samples of' in done.stdout
  (run / 'evaluations.jsonl').unlink()


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--config.eval.metrics=fid'], "metric 'fid' is unknown"),
    (['--config.eval.metrics=nll'], "'gan' has no 'log_weights': leave 'nll' out of the metrics"),
    (['--config.eval.metrics=fd', '--config.eval.metrics_every=3'], 'not a multiple of config.run.eval_every'),
    (['--config.eval.best=fd:min'], 'config.eval.metrics adds figures of samples'),
    (['--config.eval.metrics=fd', '--axis=run.seed=0:2', '--config.eval.extractor=what'], 'what'),
    (['--config.eval.metrics=fd', '--axis=run.seed=0:2', '--halving=fd:min,first=4'], 'metrics_every'),
  ],
)
def test_training_refuses_what_cannot_be_measured_before_it_starts(words, says, tmp_path):
  done = cli.launch(
    '--config=configs/gan.py', '--tiny', '--config.run.trackers=', *words, f'--runs_dir={tmp_path}/runs'
  )
  cli.refused(done, says)
  assert not list(tmp_path.rglob('metrics.jsonl'))
