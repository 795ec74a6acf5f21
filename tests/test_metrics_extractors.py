"""Extractors: what they are made from, what they say of themselves, and what they refuse."""

import sys
from unittest import mock

import cli
import jax
import numpy as np
import pytest
import tiny
from test_nets_inception import torch_weights

from gen_ai import config as config_lib
from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.evaluate.metrics import extractors, inception_weights
from gen_ai.run import data_identity, directory
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.run.info import RunInfo

GREY = Spec('image', (28, 28, 1), 10)
CONVERT = 'gen_ai.convert_inception'


def refuses(text, spec, *says):
  with pytest.raises(UserError) as refused:
    extractors.make(text, spec)
  assert all(part in str(refused.value) for part in says), refused.value


def images(n=6, shape=(28, 28, 1)):
  return np.random.default_rng(1).integers(0, 256, (n, *shape), np.uint8)


@pytest.mark.parametrize('text', ['', 'vgg', 'inception', 'inception:', 'classifier:', 'random:1', 'Random'])
def test_unknown_texts_are_refused_with_the_forms(text):
  refuses(text, GREY, f"--extractor='{text}'", 'inception:FILE, classifier:RUN_DIR, random')


def test_text_has_no_image_features():
  refuses('random', Spec('text', (64,)), 'not shaped as images are')


# Random.


def plain_random_features(image):
  """Three strided convolutions in float64, tap by tap, with padding as XLA's 'SAME'."""
  x = image.astype(np.float64) / 127.5 - 1
  noise = np.random.default_rng(0)
  for width in (32, 64, 128):
    B, H, W, C = x.shape
    kernel = (noise.standard_normal((4, 4, C, width)) * np.sqrt(2 / (16 * C))).astype(np.float32)
    h, w = -(-H // 2), -(-W // 2)
    ph, pw = max(2 * (h - 1) + 4 - H, 0), max(2 * (w - 1) + 4 - W, 0)
    x = np.pad(x, ((0, 0), (ph // 2, ph - ph // 2), (pw // 2, pw - pw // 2), (0, 0)))
    y = sum(x[:, i : i + 2 * h : 2, j : j + 2 * w : 2][:, :h, :w] @ kernel[i, j] for i in range(4) for j in range(4))
    x = np.maximum(y, 0)
  return np.concatenate([x.mean((1, 2)), x.std((1, 2))], 1)


@pytest.mark.parametrize('shape', [(28, 28, 1), (13, 20, 3)])
def test_random_features_equal_plain_numpy(shape):
  extractor = extractors.make('random', Spec('image', shape))
  image = images(3, shape)
  features, logits = jax.jit(extractor.apply)(extractor.params, image)
  assert logits is None
  assert not extractor.has_logits
  assert features.shape == (3, extractor.dim)
  np.testing.assert_allclose(features, plain_random_features(image), rtol=1e-3, atol=1e-5)


def test_random_features_are_named_as_weak_and_always_the_same():
  one, two = (extractors.make('random', GREY) for _ in range(2))
  assert one.name == 'random'
  assert one.describe() == two.describe()
  assert one.describe() == {'extractor': 'random (weak)', 'weights': one.weights, 'resize': 'none', 'features': 256}
  assert one.weights != extractors.make('random', Spec('image', (28, 28, 3))).weights


def test_features_are_the_same_on_eight_devices_and_for_any_batch_size():
  extractor = extractors.make('random', GREY)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  rows, whole = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (('data',), ()))
  image, apply = images(16), jax.jit(extractor.apply)
  features, _ = apply(jax.device_put(extractor.params, whole), jax.device_put(image, rows))
  assert features.sharding.is_equivalent_to(rows, 2)
  np.testing.assert_allclose(features, apply(extractor.params, image)[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(features[:3], apply(extractor.params, image[:3])[0], rtol=1e-5, atol=1e-6)


def test_the_content_hash_is_of_names_shapes_types_and_values():
  tree = {'a': np.arange(6, dtype=np.float32), 'b': {'c': np.ones(2, np.float32)}}
  same = {'b': {'c': jax.numpy.ones(2)}, 'a': np.arange(12, dtype='>f4')[:6]}
  assert extractors.content_hash(same) == extractors.content_hash(tree)
  value = tree['a'].copy()
  value[5] = np.nextafter(value[5], 9)
  others = [
    {**tree, 'a': value},
    {**tree, 'a': tree['a'].reshape(2, 3)},
    {**tree, 'a': tree['a'].astype(np.float64)},
    {'a2': tree['a'], 'b': tree['b']},
    {'a': tree['a'], 'b': {'d': tree['b']['c']}},
  ]
  hashes = {extractors.content_hash(other) for other in others}
  assert len(hashes) == len(others)
  assert extractors.content_hash(tree) not in hashes


# Inception.


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A converted file of random Inception weights."""
  path = tmp_path_factory.mktemp('inception') / 'weights.npz'
  np.savez(path, **inception_weights.from_torch(torch_weights()), source_sha256=np.asarray('ab' * 32))
  return path


def test_inception_is_made_from_a_file_and_says_what_it_is(weights):
  extractor = extractors.make(f'inception:{weights}', GREY)
  params = inception_weights.parameters(inception_weights.from_torch(torch_weights()), 'x')
  assert extractor.describe() == {
    'extractor': 'inception',
    'weights': extractors.content_hash(params),
    'features': 2048,
    'resize': 'bilinear to 299x299, align_corners=False, no antialias',
    'converted_from': 'ab' * 32,
  }
  features, logits = jax.eval_shape(extractor.apply, extractor.params, images())
  assert (features.shape, logits.shape) == ((6, extractor.dim), (6, 1008))
  assert features.dtype == logits.dtype == np.float32
  assert extractor.has_logits
  assert extractor.shape is None


def test_logits_of_the_inception_score_have_no_bias(weights):
  extractor = extractors.make(f'inception:{weights}', GREY)
  network = mock.Mock()
  network.return_value.apply.return_value = (np.zeros((1, 2048)), extractor.params['fc']['bias'][None] + 1.0)
  with mock.patch.object(extractors.inception, 'Inception', network):
    _, logits = extractor.apply(extractor.params, images(1))
  np.testing.assert_allclose(logits, 1.0, atol=1e-6)


def broken(**changes):
  """Converted arrays with some replaced, or left out where the value is None."""
  arrays = inception_weights.from_torch(torch_weights()) | {n.replace('__', '/'): v for n, v in changes.items()}
  return {name: value for name, value in arrays.items() if value is not None}


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'Mixed_6c__branch7x7_2__kernel': None}, 'there is no Mixed_6c/branch7x7_2/kernel'),
    ({'AuxLogits__kernel': np.zeros(3)}, 'the network has no AuxLogits/kernel'),
    ({'fc__kernel': np.zeros((2048, 1000))}, 'fc/kernel is [2048, 1000] instead of [2048, 1008]'),
    ({'Mixed_5b__branch1x1__var': np.full(64, np.nan)}, 'Mixed_5b/branch1x1/var holds a NaN'),
  ],
)
def test_weights_that_do_not_match_name_the_first(changes, says):
  with pytest.raises(UserError) as refused:
    inception_weights.parameters(broken(**changes), 'mine.npz')
  assert 'mine.npz holds no weights of the FID Inception network' in str(refused.value)
  assert says in str(refused.value)


def test_files_that_are_no_weights_are_refused(tmp_path, weights):
  refuses(f'inception:{tmp_path}/gone.npz', GREY, 'gone.npz', 'no such file', 'convert_inception')
  (tmp_path / 'text.npz').write_text('hello')
  np.savez(tmp_path / 'plain.npz', a=np.zeros(3))
  np.save(tmp_path / 'array.npy', np.zeros(3))
  (tmp_path / 'half.npz').write_bytes(weights.read_bytes()[:1000])
  for name in ('text.npz', 'plain.npz', 'array.npy', 'half.npz'):
    refuses(f'inception:{tmp_path}/{name}', GREY, name, 'convert_inception')
  refuses(f'inception:{weights}', Spec('image', (8, 8, 4)), '8x8x4', '1 or 3 channels')


# Conversion.


def converted(published, out, *words):
  """The command on a file of which a stand-in for PyTorch reads the random weights."""
  torch = mock.Mock()
  torch.load.return_value = {name: mock.Mock(**{'numpy.return_value': v}) for name, v in torch_weights().items()}
  with mock.patch.dict(sys.modules, {'torch': torch}):
    done = cli.command(CONVERT, published, out, *words)
  assert all(call.kwargs['weights_only'] is True for call in torch.load.call_args_list)
  return done


def test_other_weights_are_converted_only_when_asked_and_stamped_by_their_own_hash(tmp_path, weights):
  published, out = tmp_path / 'w.pth', tmp_path / 'folder' / 'w.npz'
  published.write_bytes(b'weights')
  digest = files.sha256(b'weights')
  cli.refused(converted(published, out), f'{published} is not the published file', digest, '6726825d', '--any_weights')
  assert not out.exists()
  done = converted(published, out, '--any_weights')
  assert done.returncode == 0, done.stderr
  assert f'other weights, sha256 {digest[:12]}' in done.stdout
  extractor = extractors.make(f'inception:{out}', GREY)
  assert extractor.about == {'converted_from': digest}
  assert extractor.weights == extractors.make(f'inception:{weights}', GREY).weights
  assert [path.name for path in out.parent.iterdir()] == ['w.npz']


def test_the_published_file_is_known_by_its_hash(tmp_path, monkeypatch):
  published = tmp_path / 'w.pth'
  published.write_bytes(b'weights')
  monkeypatch.setattr(inception_weights, 'PUBLISHED', files.sha256(b'weights'))
  done = converted(published, tmp_path / 'w.npz')
  assert done.returncode == 0, done.stderr
  assert f'{tmp_path}/w.npz: the published weights' in done.stdout
  assert f'--extractor=inception:{tmp_path}/w.npz' in done.stdout


def test_what_the_conversion_refuses(tmp_path):
  published = tmp_path / 'w.pth'
  published.write_bytes(b'weights')
  cli.refused(cli.command(CONVERT, published), 'takes two files')
  cli.refused(cli.command(CONVERT, published, tmp_path / 'w.npy'), 'w.npy must end in .npz')
  cli.refused(cli.command(CONVERT, tmp_path / 'gone.pth', tmp_path / 'w.npz'), 'gone.pth cannot be read')
  with mock.patch.dict(sys.modules, {'torch': None}):
    done = cli.command(CONVERT, published, tmp_path / 'w.npz', '--any_weights')
  cli.refused(done, 'needs PyTorch', 'pip install torch')
  torch = mock.Mock()
  torch.load.side_effect = RuntimeError('bad magic')
  with mock.patch.dict(sys.modules, {'torch': torch}):
    done = cli.command(CONVERT, published, tmp_path / 'w.npz', '--any_weights')
  cli.refused(done, 'w.pth cannot be read as a file of PyTorch weights')
  torch.load.side_effect, torch.load.return_value = None, {'fc.bias': mock.Mock(**{'numpy.return_value': np.zeros(8)})}
  with mock.patch.dict(sys.modules, {'torch': torch}):
    done = cli.command(CONVERT, published, tmp_path / 'w.npz', '--any_weights')
  cli.refused(done, 'holds no weights of the FID Inception network')
  assert [path.name for path in tmp_path.iterdir()] == ['w.pth']


# Classifier.


def finished(path, **overrides):
  """A tiny run of configs/classifier.py as it lies on disk at its end, with an average unlike its parameters."""
  config = tiny.config('classifier', **overrides)
  run = directory.RunDir.make(path)
  run.write_config(config_lib.to_json(config))
  run.write_run(RunInfo(data=data_identity.describe(tiny.dataset(config))).to_json())
  run.status('done', 8, 8)
  state = tiny.program(config).init()
  state = state._replace(step=state.step + 8, ema=jax.tree.map(lambda x: 1.5 * x, state.ema))
  checkpoints = Checkpoints(path / 'checkpoints')
  checkpoints.save(8, state)
  checkpoints.close()
  return state


def features_of(state):
  """(features, logits) of `images()` by the tiny classifier in full precision, from the parameters it settled on."""
  config = tiny.config('classifier', optim__ema_decay=0.9 if state.ema else 0.0)
  task = config_lib.builder(config)(config, GREY).tasks['features']
  keys = jax.random.split(jax.random.key(0), len(images()))
  outputs = jax.jit(lambda state, image: task.run(state, {'image': image}, keys))(state, images())
  return outputs['features'], outputs['logits']


def close(got, want):
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_classifier_gives_the_features_of_its_averaged_weights(tmp_path):
  state = finished(tmp_path / 'run')
  extractor = extractors.make(f'classifier:{tmp_path}/run', GREY)
  got = jax.jit(extractor.apply)(extractor.params, images())
  close(got, features_of(state))
  plain = features_of(state._replace(ema=state.params))
  assert np.abs(plain[0] - got[0]).max() > 1e-3, 'the average is another network'
  assert extractor.weights == extractors.content_hash({'params': state.ema, 'stats': ()})
  fingerprint = directory.read_run(tmp_path / 'run')['data']['fingerprint']
  assert extractor.describe() == {
    'extractor': 'classifier',
    'weights': extractor.weights,
    'resize': 'none',
    'features': 16,
    'trained_on': 'mnist_5k',
    'trained_on_content': fingerprint,
    'step': 8,
    'averaged': True,
  }
  assert (extractor.dim, extractor.shape, extractor.has_logits) == (16, (28, 28, 1), True)
  assert (extractor.num_classes, extractor.class_names) == (10, tuple('0123456789'))
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(extractor.params))


def test_a_classifier_without_average_gives_its_parameters_in_full_precision(tmp_path):
  state = finished(tmp_path / 'run', optim__ema_decay=0.0, precision='bf16')
  extractor = extractors.make(f'classifier:{tmp_path}/run', GREY)
  assert extractor.about['averaged'] is False
  close(jax.jit(extractor.apply)(extractor.params, images()), features_of(state))


def test_a_run_that_is_no_finished_classifier_of_such_images_is_refused(tmp_path):
  finished(tmp_path / 'run')
  text = f'classifier:{tmp_path}/run'
  refuses(text, Spec('image', (32, 32, 3), 10), '28x28x1 images of mnist_5k', '32x32x3')
  refuses(f'classifier:{tmp_path}/gone', GREY, 'gone', 'no such directory')
  directory.RunDir(tmp_path / 'run').status('stopped', 4, 8)
  refuses(text, GREY, 'has not finished its training (stopped)', f'--resume={tmp_path}/run')
  vae = directory.RunDir.make(tmp_path / 'vae')
  vae.write_config(config_lib.to_json(tiny.config('vae')))
  vae.write_run(RunInfo(data=data_identity.describe(tiny.dataset(tiny.config('vae')))).to_json())
  refuses(f'classifier:{vae.path}', GREY, "config.experiment='vae' has no features", 'configs/classifier.py')
