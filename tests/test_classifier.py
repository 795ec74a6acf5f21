"""The classifier family: its loss, its augmentation, its features, and what a method without samples may not do."""

from functools import partial

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import classifier
from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.data import dataset as dataset_lib
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.metrics import extractors
from gen_ai.run import directory


def test_cross_entropy_equals_the_formula():
  noise = np.random.default_rng(0)
  logits, label = noise.normal(size=(5, 4)).astype(np.float32), np.array([0, 3, 1, 1, 2])
  log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
  for smoothing in (0.0, 0.3):
    q = (1 - smoothing) * np.eye(4)[label] + smoothing / 4
    np.testing.assert_allclose(classifier.cross_entropy(logits, label, smoothing), -(q * log_p).sum(1), rtol=1e-5)
  assert np.isfinite(classifier.cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1]))).all()


def test_shifts_move_whole_images_by_whole_pixels_and_belong_to_the_example():
  image = np.random.default_rng(0).integers(0, 256, (64, 6, 7, 2), np.uint8)
  index, key = np.arange(64), jax.random.key(0)
  moved = np.asarray(classifier.shifted(jnp.asarray(image), key, index, 2))
  padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='edge')
  found = set()
  for before, after in zip(padded, moved, strict=True):
    [at] = [(i, j) for i in range(5) for j in range(5) if np.array_equal(before[i : i + 6, j : j + 7], after)]
    found.add(at)
  assert {i for i, _ in found} == {j for _, j in found} == set(range(5))
  half = classifier.shifted(jnp.asarray(image[10:20]), key, index[10:20], 2)
  np.testing.assert_array_equal(half, moved[10:20])
  assert not np.array_equal(moved, classifier.shifted(jnp.asarray(image), jax.random.key(1), index, 2))
  np.testing.assert_array_equal(classifier.shifted(jnp.asarray(image), key, index, 0), image)


def parts(**overrides):
  """(method, state, a validation batch) of the tiny classifier."""
  config = tiny.config('classifier', **overrides)
  method = config_lib.builder(config)(config, tiny.dataset(config).spec)
  batch = tiny.dataset(config).splits['validation'].read(np.arange(8))
  return method, jax.jit(method.init)(jax.random.key(0)), {**batch, 'mask': np.ones(8, np.float32)}


def features(method, state, image):
  """(features, logits) of uint8 images, by the task, which draws nothing."""
  found = method.tasks['features'].run(state, {'image': image}, jax.random.split(jax.random.key(0), len(image)))
  return found['features'], found['logits']


def test_the_evaluation_is_of_the_images_as_they_are_with_the_averaged_weights():
  method, state, batch = parts(loss__label_smoothing=0.2)
  state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
  values, logits = jax.jit(partial(features, method))(state, batch['image'])
  assert values.shape == (8, 16)
  assert values.dtype == logits.dtype == np.float32
  assert logits.shape == (8, 10)
  assert np.abs(logits).max() > 0, 'the average is used'
  got = jax.jit(method.eval_step)(state, batch, random.root(0))
  np.testing.assert_allclose(got['xent_nats'][0], classifier.cross_entropy(logits, batch['label']).sum(), rtol=1e-5)
  assert got['accuracy'] == (np.sum(np.argmax(logits, 1) == batch['label']), 8)


def test_features_of_an_image_do_not_depend_on_its_batch():
  method, state, batch = parts()
  apply = jax.jit(partial(features, method))
  whole, _ = apply(state, batch['image'])
  alone, _ = apply(state, batch['image'][3:4])
  np.testing.assert_allclose(whole[3:4], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(16, 16, 3), (9, 13, 1), (32, 32, 3)])
def test_it_takes_images_of_any_shape(shape):
  config = tiny.config('classifier')
  method = classifier.build(config, Spec('image', shape, 3))
  image = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
  shapes = jax.eval_shape(lambda key, image: features(method, method.init(key), image), jax.random.key(0), image)
  assert [leaf.shape for leaf in shapes] == [(2, 16), (2, 3)]


@pytest.mark.parametrize(
  ('spec', 'overrides', 'says'),
  [
    (Spec('text', (8,)), {}, ["config.data.name='mnist_5k' is of the kind text", 'of the kind image,']),
    (Spec('image', (28, 28, 1)), {}, ["config.data.name='mnist_5k' has no labels", 'fashion_mnist']),
    (Spec('image', (28, 28, 1), 1), {}, ['one class only']),
    (Spec('image', (28, 28, 1), 10), {'loss__label_smoothing': 1.0}, ['config.loss.label_smoothing=1.0']),
    (Spec('image', (28, 28, 1), 10), {'loss__label_smoothing': -0.1}, ['config.loss.label_smoothing=-0.1']),
    (Spec('image', (28, 28, 1), 10), {'model__norm': 'batch'}, ["config.model.norm='batch'", 'group, none']),
  ],
)
def test_what_it_cannot_do_is_named(spec, overrides, says):
  config = tiny.config('classifier', **overrides)
  with pytest.raises(UserError) as refused:
    config_lib.validate(config)
    config_lib.builder(config)(config, spec)
  assert all(text in str(refused.value) for text in says), refused.value


def test_unlabelled_data_has_no_labels_to_learn():
  image = np.zeros((40, 8, 8, 1), np.uint8)
  data = dataset_lib.from_arrays('mine', {'train': {'image': image}})
  with pytest.raises(UserError, match='no labels'):
    classifier.build(tiny.config('classifier', data__name='mine'), data.spec)


def test_a_run_has_no_samples_and_says_so_when_asked(tmp_path):
  run = tmp_path / 'run'
  done = cli.launch(
    '--config=configs/classifier.py',
    '--tiny',
    f'--run_dir={run}',
    '--config.run.trackers=',
    '--config.run.sample_every=4',
  )
  assert done.returncode == DONE, done.stderr
  assert not list((run / 'samples').iterdir())
  assert 'gen_ai.sample' not in done.stdout
  assert f'python -m gen_ai.evaluate {run} --split=test' in done.stdout
  assert {'xent_nats', 'accuracy'} <= directory.read_metrics(run)[-1].keys()
  cli.refused(cli.command('gen_ai.sample', run, '--out=x.png'), f'{run} draws no samples', 'it can features')
  extractor = extractors.make(f'classifier:{run}', Spec('image', (28, 28, 1)))
  fingerprint = directory.read_run(run)['data']['fingerprint']
  assert extractor.about == {
    'trained_on': 'mnist_5k',
    'trained_on_content': fingerprint,
    'step': 8,
    'averaged': True,
  }


@pytest.mark.slow
def test_it_reads_digits():
  config = config_lib.override(
    config_lib.load('configs/classifier.py'),
    {
      'run.steps': 120,
      'run.log_every': 40,
      'run.eval_every': 0,
      'run.save_every': 0,
      'model.width': 16,
      'optim.warmup_steps': 20,
    },
  )
  program, feed = tiny.program(config), tiny.feed(config, tiny.program(config))
  state, run = program.init(), None
  for step in range(0, config.run.steps, config.run.log_every):
    rows = feed.chunk(step, config.run.log_every)
    run = run or program.trainer(feed, state, rows)
    state, _ = run(state, rows)
  found = ExamplePass(program, config, tiny.dataset(config).splits['validation'])(state)
  assert found['accuracy'] > 0.8, found  # 0.1 by chance
  assert found['xent_nats'] < 0.7, found
