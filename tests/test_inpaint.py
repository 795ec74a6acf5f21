"""Completion: masks by hand, known pixels kept, two updates that leave each other alone, and its evaluation."""

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import inpaint_gan
from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.evaluate import evaluator, metrics
from gen_ai.evaluate import protocol as protocol_lib
from gen_ai.evaluate.generation import Generation, SplitInputs
from gen_ai.evaluate.metrics import quality
from gen_ai.maths import masks
from gen_ai.maths.pixels import to_signed
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program

N = 300


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def built(**overrides):
  config = tiny.config('inpaint_gan', **overrides)
  method = inpaint_gan.build(config, tiny.dataset(config).spec)
  return config, method, jax.jit(method.init)(jax.random.key(0))


def examples(config, index, split='validation'):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits[split].read(np.asarray(index)))


def complete(method):
  """(state, batch, keys [B], what else the task takes) -> completions [B, H, W, C]."""
  run = method.tasks['complete'].run
  return jax.jit(lambda state, batch, own, **given: run(state, {'image': batch['image'], **given}, own)['sample'])


def numbered(key, batch):
  """Keys [B] by the numbers of the examples."""
  return inpaint_gan.random.per_example(key, batch['index'])


def test_boxes_are_boxes_of_a_quarter_to_three_quarters():
  found = np.asarray(masks.draw('box', keys(500), (12, 20)))
  assert found.shape == (500, 12, 20, 1) and set(np.unique(found)) == {0.0, 1.0}
  hidden = found[..., 0] > 0
  rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
  np.testing.assert_array_equal(hidden.sum((1, 2)), rows * columns)
  assert set(rows) == set(range(3, 10)) and set(columns) == set(range(5, 16))
  for axis, side in ((2, 12), (1, 20)):  # gapless, and every pixel is hidden by some
    band = hidden.any(axis)
    assert (np.abs(np.diff(band.astype(int), axis=1)).sum(1) <= 2).all() and band.any(0).all() and band.shape[1] == side


def test_halves_and_the_centre():
  found = np.unique(np.asarray(masks.draw('half', keys(100), (8, 6)))[..., 0], axis=0)
  assert len(found) == 4
  sides = {(half[:4].all(), half[4:].all(), half[:, :3].all(), half[:, 3:].all()) for half in found}
  assert {sum(side) for side in sides} == {1} and (found.sum((1, 2)) == 24).all()
  centre = np.asarray(masks.draw('centre', keys(3), (8, 12)))[..., 0]
  expected = np.zeros((8, 12))
  expected[2:6, 3:9] = 1
  np.testing.assert_array_equal(centre, expected[None].repeat(3, 0))


def test_a_mask_depends_on_its_example_alone():
  config, method, state = built()
  draw, key = complete(method), jax.random.key(3)
  whole, some = (
    draw(state, batch, numbered(key, batch)) for batch in (examples(config, [4, 9, 2, 7]), examples(config, [2, 9]))
  )
  np.testing.assert_allclose(some, whole[jnp.array([2, 1])], atol=1e-4)


def test_means_over_hidden_pixels_by_hand():
  values = jnp.asarray(np.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3), jnp.float32)
  mask = jnp.asarray([[[1, 0], [0, 1]], [[0, 0], [0, 0]]], jnp.float32)[..., None]
  np.testing.assert_allclose(masks.over_hidden(values, mask), [(0 + 1 + 2 + 9 + 10 + 11) / 6, 0.0])


def test_known_pixels_are_kept_exactly_and_hidden_ones_are_not_looked_at():
  config, method, state = built()
  batch = examples(config, np.arange(6))
  mask = masks.draw('box', keys(6), (28, 28))
  draw = complete(method)
  found = draw(state, batch, keys(6), mask=mask)
  known = np.asarray(mask[..., 0]) == 0
  x = np.asarray(to_signed(batch['image']))
  np.testing.assert_array_equal(np.asarray(found)[known], x[known])
  assert not np.array_equal(found, x)
  # What is hidden cannot leak: other hidden pixels, the same completion.
  other = jnp.where(mask > 0, 255 - batch['image'], batch['image'])
  np.testing.assert_array_equal(draw(state, {'image': other}, keys(6), mask=mask), found)
  assert not np.array_equal(draw(state, batch, keys(6, 1), mask=mask), found)


@pytest.mark.parametrize('shape', [(6, 28, 28), (6, 14, 14, 1), (1, 28, 28, 1)])
def test_a_mask_of_the_wrong_shape_is_refused(shape):
  config, method, state = built()
  batch = examples(config, np.arange(6))
  with pytest.raises(UserError, match=r'mask of shape .* does not fit images of shape \[6, 28, 28, 1\].*must be'):
    complete(method)(state, batch, keys(6), mask=jnp.ones(shape))


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'model.mask': 'star'}, "mask='star' is none of box, half, centre"),
    ({'loss.kind': 'relativistic'}, "kind='relativistic' is none of"),
    ({'data.image_size': 30}, '30x30 images.*multiples of 4'),
  ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message):
  config = config_lib.override(tiny.config('inpaint_gan'), overrides)
  size = config.data.image_size or 28
  spec = tiny.dataset(tiny.config('inpaint_gan')).spec._replace(shape=(size, size, 1))
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)
    jax.eval_shape(inpaint_gan.build(config, spec).init, jax.random.key(0))


@pytest.mark.parametrize(('off', 'still', 'moves'), [('discriminator_loss', 'd', 'g'), ('generator_loss', 'g', 'd')])
def test_each_update_leaves_the_other_player_alone(off, still, moves, monkeypatch):
  config = tiny.config('inpaint_gan', loss__reconstruction=0.0, loss__penalty=0.0, optim__ema_decay=0.0)
  spec = tiny.dataset(config).spec
  state = jax.jit(inpaint_gan.build(config, spec).init)(jax.random.key(0))
  batch = examples(config, np.arange(16), 'train')
  monkeypatch.setattr(inpaint_gan.adversarial, off, lambda kind, *logits: 0.0 * logits[0].mean())
  after, _ = jax.jit(inpaint_gan.build(config, spec).train_step)(state, batch, jax.random.key(1))
  pairs = lambda name: zip(*(jax.tree.leaves(s.params[name]) for s in (state, after)), strict=True)  # noqa: E731
  assert all(np.array_equal(a, b) for a, b in pairs(still))
  assert not all(np.array_equal(a, b) for a, b in pairs(moves))


def test_the_reconstruction_error_by_hand():
  config, method, state = built(optim__ema_decay=0.0)
  batch, key = examples(config, np.arange(16), 'train'), jax.random.key(1)
  _, metrics = jax.jit(method.train_step)(state, batch, key)
  # The same holes and the same latents.
  mask = masks.draw(config.model.mask, numbered(inpaint_gan.random.stream(key, 'mask'), batch), (28, 28))
  z = inpaint_gan.random.normal(numbered(inpaint_gan.random.stream(key, 'z'), batch), (config.model.latent,))
  completed = np.asarray(complete(method)(state, batch, keys(16), mask=mask, latent=z))
  mask = np.asarray(mask)
  error = np.abs(completed - np.asarray(to_signed(batch['image'])))
  expected = ((error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()
  assert float(metrics['l1_hidden']) == pytest.approx(float(expected), rel=1e-4)


def test_the_spread_of_completions_by_hand():
  config, method, state = built(optim__ema_decay=0.0)
  batch, key = examples(config, np.arange(16), 'train'), jax.random.key(1)
  own = numbered(inpaint_gan.random.stream(key, 'mask'), batch)
  batch['hole'], batch['mask'] = masks.draw(config.model.mask, own, (28, 28)), np.ones(16, np.float32)
  total, count = jax.jit(method.eval_step)(state, batch, key)['spread_hidden']
  # Many completions of the same holes: few of them are not low for being few.
  draw = complete(method)
  drawn = np.stack([draw(state, batch, keys(16, seed), mask=batch['hole']) for seed in range(50)])
  pairs = zip(drawn[..., 0].std(0, ddof=1), np.asarray(batch['hole'][..., 0]) > 0.5, strict=True)
  expected = np.mean([std[hole].mean() for std, hole in pairs])
  assert float(total / count) == pytest.approx(expected, rel=0.1) and expected > 1e-4


def test_the_view_shows_hidden_completed_and_original_rows():
  config, method, state = built()
  drawn = np.asarray(
    jax.jit(method.visualizations['completions'])(state, examples(config, np.arange(8)), jax.random.key(0))
  )
  hidden, completed, original = drawn.reshape(-1, 3, 8, 28, 28, 1)[0]
  np.testing.assert_array_equal(original, to_signed(examples(config, np.arange(8))['image']))
  gone = np.abs(hidden - original) > 1e-5
  assert gone.any() and (hidden[gone] == 0).all()
  known = ~gone & (hidden != 0)
  np.testing.assert_allclose(completed[known], original[known], atol=1e-5)


# Its evaluation: completions of the split's own images.


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch):
  monkeypatch.setattr(quality, 'REPLICATES', 10)


def judged(names='fd,prdc,memorisation', devices=1, seeds=(), **overrides):
  config = tiny.config('inpaint_gan', **{'eval__samples': N, **overrides})
  data = tiny.dataset(config)
  lanes = [tiny.config('inpaint_gan', eval__samples=N, run__seed=seed) for seed in seeds]
  layout = LaneLayout(jax.devices()[:1]) if seeds else make_layout(config, jax.devices()[:devices])
  program = Program(config, config_lib.builder(config), data.spec, layout, lanes)
  asked = protocol_lib.protocol(config, data, 'test', metrics.parse(names, 'image'))
  return evaluator.Evaluator(program, config, data, asked), program.init()


def values(found):
  return {name: figure.value for name, figure in found.figures.items()}


@pytest.fixture(scope='module')
def alone():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quality, 'REPLICATES', 10)
    one, state = judged()
    return one.lanes(state)[0]


def test_figures_of_completions_say_what_they_were_given(alone):
  for name, figure in alone.figures.items():
    assert (figure.stamp['conditioned_on'], figure.stamp['task']) == ('test', 'complete'), name
    assert figure.stamp['observation'] == 'completion of masks of kind box'
  samples = tiny.config('gan', eval__samples=N)
  program = tiny.program(samples)
  data = tiny.dataset(samples)
  of_gan = evaluator.Evaluator(
    program, samples, data, protocol_lib.protocol(samples, data, 'test', metrics.parse('fd', 'image'))
  )
  (found,) = of_gan.lanes(program.init())
  assert not {'conditioned_on', 'task'} & found.figures['fd'].stamp.keys()  # so that the two are never compared unseen


@pytest.mark.parametrize(('devices', 'overrides'), [(8, {}), (1, {'eval__batch_size': 24})])  # as the evaluator's own
def test_figures_of_completions_do_not_depend_on_devices(alone, devices, overrides):
  other, state = judged(devices=devices, **overrides)
  assert values(other.lanes(state)[0]) == pytest.approx(values(alone), rel=2e-3, abs=1e-4)


def test_lanes_complete_as_runs_alone():
  together, state = judged('fd', seeds=(0, 3))
  found = together.measured(state, [0, 1])
  one, own = judged('fd')
  assert found[0][0] == pytest.approx(values(one.lanes(own)[0]), rel=1e-3)
  assert found[0][0] != pytest.approx(found[1][0], rel=1e-3)


def test_a_completion_is_of_the_example_of_its_number():
  config = tiny.config('inpaint_gan')
  program = tiny.program(config)
  source = tiny.dataset(config).splits['test']
  state = program.init()
  drawn = Generation(program, 0, 'complete', SplitInputs(config, source, program.task('complete')))
  numbers = np.array([0, 3, len(source) + 3])
  (found,) = drawn.read(state, numbers)
  images = source.read(source.eval_index(np.array([0, 3, 3])))['image']
  same = (found == images).mean((1, 2, 3))
  assert (same > 0.4).all() and (same < 1.0).all()  # all but the hole, which is no more than 3/4 of each side
  assert (found[1] == images[0]).mean() < same[1]
  assert not np.array_equal(found[1], found[2])  # another number, another hole
  (again,) = drawn.read(state, numbers[:1])
  np.testing.assert_array_equal(again[0], found[0])


# The command.


@pytest.fixture(scope='module')
def launched(tmp_path_factory):
  """(run directory, what the command that made it printed)."""
  path = tmp_path_factory.mktemp('completion') / 'run'
  done = cli.launch('--config=configs/inpaint_gan.py', '--tiny', '--config.run.trackers=', f'--run_dir={path}')
  assert done.returncode == DONE, done
  return path, done.stdout


@pytest.fixture
def run_dir(launched):
  return launched[0]


def test_a_run_tells_how_to_draw_more_and_the_command_completes_test_images(launched, tmp_path, monkeypatch):
  run_dir, printed = launched
  assert f'  python -m gen_ai.generate {run_dir} --task=complete --n=16 --out=grid.png\n' in printed
  monkeypatch.chdir(tmp_path)
  done = cli.command('gen_ai.sample', run_dir, '--n=3', '--out=x.npz')
  assert (done.returncode, done.stdout) == (DONE, '3 samples of step 8: x.npz\n'), done
  with np.load('x.npz') as found:
    completed, mask = found['sample'], found['mask'][..., 0]
  source = tiny.dataset(tiny.config('inpaint_gan')).splits['test']
  images = source.read(source.eval_index(np.arange(3)))['image']
  np.testing.assert_array_equal(completed[mask == 0], images[mask == 0])
  assert set(np.unique(mask)) == {0.0, 1.0} and not np.array_equal(completed, images)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Ten images and masks of one's own."""
  folder, config = tmp_path_factory.mktemp('files'), tiny.config('inpaint_gan')
  images = np.asarray(examples(config, np.arange(10))['image'])
  np.save(folder / 'x.npy', images[..., 0])
  mask = np.zeros((28, 28), bool)
  mask[5:20, 8:12] = True
  np.save(folder / 'm.npy', mask)
  np.save(folder / 'small.npy', mask[:14])
  np.save(folder / 'point.npy', np.float32(1.0))
  np.savez(folder / 'two.npz', a=mask, b=mask)
  (folder / 'torn.npz').write_bytes((folder / 'two.npz').read_bytes()[:100])
  np.save(folder / 'few.npy', np.ones((3, 28, 28)))
  return folder, images, mask


def test_images_of_ones_own_are_completed(run_dir, files):
  folder, images, mask = files
  words = [run_dir, f'--images={folder}/x.npy', f'--mask={folder}/m.npy']
  done = cli.command('gen_ai.complete', *words, '--n=9', f'--out={folder}/y.npy')
  assert done.returncode == DONE, done
  completed = np.load(folder / 'y.npy')
  assert completed.shape == (9, 28, 28, 1) and completed.dtype == np.uint8
  np.testing.assert_array_equal(completed[:, ~mask], images[:9][:, ~mask])
  assert not np.array_equal(completed, images[:9])
  done = cli.command('gen_ai.complete', *words, '--n=9', f'--out={folder}/y.png')
  assert done.stdout == f'9 samples of step 8: {folder}/y.png\n'
  from PIL import Image

  with Image.open(folder / 'y.png') as sheet:
    assert sheet.size == (8 * 58 + 2, 6 * 58 + 2)  # two lines of 8, three kinds each, every picture twice as large
  for kind in ('', 'half'):
    done = cli.command('gen_ai.complete', *words[:2], f'--mask={kind}', f'--out={folder}/z.npy')
    assert done.returncode == DONE and len(np.load(folder / 'z.npy')) == 10


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--mask={}/small.npy'], ['small.npy has the shape [14, 28]', 'for images of 28x28 it must be [28, 28]']),
    (['--mask={}/few.npy'], ["the input 'mask' has 3 rows and 'image' has 10", 'give one for all, or as many']),
    (['--mask={}/two.npz'], ['two.npz holds nothing', 'one NumPy array']),
    (['--mask={}/torn.npz'], ['torn.npz holds nothing', 'one NumPy array, saved by np.save']),
    (['--images={}/torn.npz'], ['torn.npz holds nothing', 'one NumPy array, saved by np.save']),
    (['--mask={}/point.npy'], ['point.npy has the shape []', '[28, 28]']),
    (['--mask=star'], ['--mask=star', 'It is none of box, half, centre either']),
    (['--images={}/m.npy'], ['--image=', 'm.npy holds bool [28, 28]']),
    (['--out=x.jpg'], ['must end in .png, .npy or .npz']),
  ],
)
def test_what_cannot_be_completed_is_refused(run_dir, files, words, says):
  folder = files[0]
  done = cli.command('gen_ai.complete', run_dir, f'--images={folder}/x.npy', *(word.format(folder) for word in words))
  cli.refused(done, *says)


def test_only_completing_methods_complete(tmp_path, files):
  assert tiny.run(tiny.config('vae'), tmp_path / 'vae')[0] == DONE
  done = cli.command('gen_ai.complete', tmp_path / 'vae', f'--images={files[0]}/x.npy')
  cli.refused(done, f"{tmp_path}/vae has no task 'complete'. It can generate, reconstruct, encode")
