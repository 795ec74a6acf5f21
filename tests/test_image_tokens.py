"""Images of words: captions, prompts, guidance, likelihoods that sum to one, and what is refused."""

import dataclasses
import itertools
import math

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import gen_ai
from experiments import image_tokens
from experiments._captions import BLANK, Captions
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.evaluate import metrics
from gen_ai.evaluate.metrics.agreement import agreement, note
from gen_ai.evaluate.metrics.extractors import Extractor
from gen_ai.evaluate.metrics.metric import Request

CLOTHES = Spec('image', (28, 28, 1), 3, None, ('T-shirt/top', 'Ankle boot', 'Bag'))
TEMPLATES = ('a {}', 'A photo of a {}.')
CAPTIONS = Captions(TEMPLATES, CLOTHES)


def built(**overrides):
  config = tiny.config('image_tokens', **overrides)
  method = image_tokens.build(config, tiny.dataset(config).spec)
  return config, method, jax.jit(method.init)(jax.random.key(0))


def validation(config, n=8):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


def louder(state):
  """The state with a Transformer that is sure of itself, whatever it has learnt: a fresh one tells nothing apart."""
  prior = jax.tree.map(lambda leaf: 20.0 * leaf, state.params['prior'])
  params = {**state.params, 'prior': prior}
  return state._replace(params=params, ema={**state.ema, 'params': params} if state.ema else ())


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished tiny run."""
  path = tmp_path_factory.mktemp('image_tokens') / 'run'
  assert tiny.run(tiny.config('image_tokens'), path)[0] == DONE
  return path


# Captions.


def test_the_words_are_those_of_all_captions_and_their_names_alone():
  assert CAPTIONS.words == ('a', 'an', 'ankle', 'bag', 'boot', 'of', 'photo', 't-shirt', 'top')
  assert CAPTIONS.length == 7 and CAPTIONS.size == 10  # 'a photo of an ankle boot' and a blank; 9 words and the blank
  words = dict(zip(CAPTIONS.words, itertools.count(1)))
  assert CAPTIONS.encode('A photo, of an ANKLE boot!').tolist() == [
    *(words[word] for word in ('a', 'photo', 'of', 'an', 'ankle', 'boot')),
    BLANK,
  ]
  assert CAPTIONS.encode(' ').tolist() == [BLANK] * 7


def test_every_caption_of_a_class_is_drawn_and_no_other():
  label, keys = jnp.asarray([0, 1, 2] * 200), jax.random.split(jax.random.key(0), 600)
  drawn = np.asarray(jax.jit(CAPTIONS.drawn)(keys, label))
  said = [['a t-shirt', 'a photo of a t-shirt', 'a top', 'a photo of a top'], ['an ankle boot'], ['a bag']]
  said = [own if len(own) > 1 else [own[0], f'a photo of {own[0]}'] for own in said]
  for each, own in enumerate(said):
    found = {tuple(row) for row in drawn[each::3]}
    assert found == {tuple(CAPTIONS.encode(text)) for text in own}
  assert np.asarray(CAPTIONS.label(drawn)).tolist() == label.tolist()
  others = np.stack([CAPTIONS.encode(text) for text in ('', 'boot', 'a photo of a boot')])
  assert np.asarray(CAPTIONS.label(jnp.asarray(others))).tolist() == [-1, -1, -1]
  one = np.asarray(CAPTIONS.drawn(keys[7:8], label[7:8]))
  np.testing.assert_array_equal(one[0], drawn[7])  # whatever stands beside it


@pytest.mark.parametrize(
  ('templates', 'spec', 'says'),
  [
    (('a thing',), CLOTHES, "captions has 'a thing', which needs one {}"),
    ((), CLOTHES, 'captions is empty'),
    (TEMPLATES, Spec('image', (4, 4, 1)), 'has no labels'),
    (TEMPLATES, CLOTHES._replace(class_names=('Bag', 'Cat', 'bag')), "classes 0 and 2 are both called 'a bag'"),
    (TEMPLATES, CLOTHES._replace(class_names=('Bag', '?', 'Cat')), r"class 1 is called '\?'"),
  ],
)
def test_captions_that_say_nothing_are_refused(templates, spec, says):
  with pytest.raises(UserError, match=says):
    Captions(templates, spec)


def test_classes_without_names_have_numbers():
  assert Captions(('a {}',), Spec('image', (4, 4, 1), 9)).words == (*'012345678', 'a', 'an')


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('a bga', "the prompt 'a bga' has the unknown word 'bga'. Did you mean 'bag'? Known are a, an, ankle, bag, boot"),
    ('a cat', "unknown word 'cat'. Known are a, an"),
    ('a a a a a a a', 'has 7 words; this model reads at most 6'),
  ],
)
def test_prompts_with_other_words_are_refused(text, says):
  with pytest.raises(UserError) as refused:
    CAPTIONS.encode(text)
  assert says in str(refused.value) and '\n' not in str(refused.value)


# Likelihood.


def test_the_likelihoods_of_all_codes_sum_to_one():
  config = tiny.config('image_tokens', model__codes=3)
  sequences = image_tokens.Sequences(config, CAPTIONS, 4)
  params = jax.tree.map(lambda leaf: 10.0 * leaf, sequences.init(jax.random.key(1)))
  every = jnp.asarray(list(itertools.product(range(3), repeat=4)))
  totals = []
  for text in ('a bag', 'an ankle boot', ''):
    caption = jnp.broadcast_to(jnp.asarray(CAPTIONS.encode(text)), (81, CAPTIONS.length))
    nats = jax.jit(sequences.nats)(params, caption, every).sum(1)
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1.0, rel=1e-4)
    totals.append(np.asarray(nats))
  assert np.abs(totals[0] - totals[1]).max() > 0.1, 'the words are not looked at'


def test_a_score_is_the_bound_and_its_parts_add_up():
  config, method, state = built()
  batch, state = validation(config), louder(state)
  score = jax.jit(lambda inputs: method.tasks['score'].run(state, inputs, jax.random.split(jax.random.key(0), 8)))
  found = score({'image': batch['image'], 'label': batch['label']})
  np.testing.assert_allclose(
    found['elbo_nats'], found['reconstruction_nats'] - found['code_nats'].sum(1), rtol=1e-5, atol=1e-2
  )
  np.testing.assert_allclose(found['bits'], -found['elbo_nats'] / math.log(2), rtol=1e-6)
  evaluated = jax.jit(method.eval_step)(state, {**batch, 'mask': jnp.ones(8)}, jax.random.key(0))
  assert float(evaluated['elbo_nats'][0]) == pytest.approx(float(found['elbo_nats'].sum()), rel=1e-5)
  # The first caption of a class is what its label means; another one, or none, costs something else.
  prompts = Captions(config.model.captions, tiny.dataset(config).spec)
  said = jnp.asarray(np.stack([prompts.encode(f'a {label}'.replace('a 8', 'an 8')) for label in batch['label']]))
  np.testing.assert_array_equal(score({'image': batch['image'], 'prompt': said})['elbo_nats'], found['elbo_nats'])
  assert not np.allclose(score({'image': batch['image']})['elbo_nats'], found['elbo_nats'], atol=1e-2)
  # Bayes' rule over the captions of all classes.
  bayes = jax.jit(
    lambda image: method.tasks['classify'].run(state, {'image': image}, jax.random.split(jax.random.key(0), 8))
  )
  each = np.stack(
    [score({'image': batch['image'], 'label': jnp.full(8, label)})['elbo_nats'] for label in range(10)], 1
  )
  log_probs = np.asarray(bayes(batch['image'])['log_probs'])
  np.testing.assert_allclose(log_probs, np.asarray(jax.nn.log_softmax(each)), atol=2e-2)
  marginal = np.asarray(jax.nn.logsumexp(each, 1)) - math.log(10)
  np.testing.assert_allclose(bayes(batch['image'])['elbo_nats'], marginal, rtol=1e-5)


@pytest.mark.parametrize(('drop', 'fewest', 'most'), [(0.0, 0, 0), (0.5, 16, 48), (0.999, 64, 64)])
def test_training_sees_random_captions_of_its_labels_and_leaves_some_out(monkeypatch, drop, fewest, most):
  monkeypatch.setattr(image_tokens.CodedImages, 'train_step', lambda self, state, rows, key: (state, rows))
  config, method, state = built(loss__drop_caption=drop)
  batch = validation(config, 64)
  step = jax.jit(lambda batch, key: method.train_step(state, batch, key)[1]['caption'])
  rows = np.asarray(step(batch, jax.random.key(3)))
  captions = Captions(config.model.captions, tiny.dataset(config).spec)
  empty = (rows == BLANK).all(1)
  assert fewest <= empty.sum() <= most
  assert (np.asarray(captions.label(rows))[~empty] == np.asarray(batch['label'])[~empty]).all()
  if not drop:
    of_one = rows[np.asarray(batch['label']) == int(batch['label'][0])]
    assert len({tuple(row) for row in of_one}) > 1
  # By example and update, whatever stands beside it.
  np.testing.assert_array_equal(step(jax.tree.map(lambda leaf: leaf[5:9], batch), jax.random.key(3)), rows[5:9])
  assert drop > 0.9 or (np.asarray(step(batch, jax.random.key(4))) != rows).any()


# Samples.


def test_guidance_is_of_the_logits_and_zero_is_none():
  config, method, state = built(model__codes=5)
  captions = Captions(config.model.captions, tiny.dataset(config).spec)
  sequences = image_tokens.Sequences(config, captions, 49)
  params = louder(state).params['prior']
  said = jnp.asarray(np.stack([captions.encode('a 3'), captions.encode(''), captions.encode('a photo of an 8')]))
  keys = jax.random.split(jax.random.key(0), 3)

  def draw(guidance, temperature=1.0, caption=said):
    rule = image_tokens.Rule(temperature=temperature)
    return np.asarray(jax.jit(lambda: sequences.draw(params, caption, guidance, rule, keys))())

  plain = draw(0.0)
  assert plain.shape == (3, 49) and plain.min() >= 0 and plain.max() < 5
  np.testing.assert_array_equal(draw(jnp.float32(0.0)), plain)  # computed, and without effect
  np.testing.assert_array_equal(draw(3.0)[1], plain[1])  # nothing was asked for
  assert (draw(3.0)[::2] != plain[::2]).any()
  # -1 takes the caption away again.
  np.testing.assert_array_equal(draw(-1.0), draw(0.0, caption=captions.blanks(3)))
  # The likeliest codes at guidance 2 are those of 3 c - 2 u, by whole sequences in place of the cache.
  drawn = draw(2.0, temperature=0.0)
  text = jnp.concatenate([said, drawn[:, :-1] + captions.size], 1)
  empty = jnp.concatenate([captions.blanks(3), drawn[:, :-1] + captions.size], 1)
  c, u = (
    sequences.net.apply({'params': params}, rows, train=False)[:, captions.length - 1 :, captions.size :]
    for rows in (text, empty)
  )
  guided = np.sort(np.asarray(3 * c - 2 * u), -1)
  clear = guided[..., -1] - guided[..., -2] > 1e-2
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(np.asarray((3 * c - 2 * u).argmax(-1))[clear], drawn[clear])


def test_prompts_beside_each_other_equal_each_alone(run):
  trained = gen_ai.load(run)
  prompts = ['a 3', 'a photo of an 8', '']
  together = trained.run('generate', n=6, prompt=prompts)
  assert together['label'].tolist() == [3, 8, -1, 3, 8, -1]
  for i, prompt in enumerate(prompts):
    alone = trained.run('generate', n=6, prompt=prompt)
    np.testing.assert_array_equal(together['sample'][i::3], alone['sample'][i::3])
  by_label = trained.run('generate', n=6, label=['3', '8'])
  assert by_label['label'].tolist() == [3, 8] * 3
  drawn = trained.run('generate', n=40)['label']
  assert set(drawn) <= set(range(10)) and len(set(drawn)) > 4


def test_the_command_draws_prompts_scores_images_and_names_its_words(run, tmp_path):
  words = ['--prompt=a 3', '--prompt=a picture of a 7', '--n=4', f'--out={tmp_path}/x.png']
  done = cli.command('gen_ai.generate', run, *words)
  assert done.returncode == DONE, done.stderr
  assert (tmp_path / 'x.png').is_file() and '4 samples of step 8' in done.stdout
  cli.refused(cli.command('gen_ai.generate', run, '--prompt=a sandal'), "the unknown word 'sandal'", 'Known are 0, 1,')
  both = cli.command('gen_ai.generate', run, '--prompt=a 3', '--label=3')
  cli.refused(both, 'give a label or a prompt')
  np.save(tmp_path / 'i.npy', np.zeros((2, 28, 28, 1), np.uint8))
  scored = [run, '--task=score', f'--image={tmp_path}/i.npy', '--prompt=a 3', f'--out={tmp_path}/s.npz']
  done = cli.command('gen_ai.generate', *scored)
  assert done.returncode == DONE, done.stderr
  with np.load(tmp_path / 's.npz') as found:
    assert found['bits'].shape == (2,) and found['code_nats'].shape == (2, 49) and (found['bits'] > 0).all()


def test_a_model_that_always_saw_captions_needs_one():
  _, method, _ = built(loss__drop_caption=0.0)
  blank = np.full((1, 6), BLANK)
  with pytest.raises(UserError, match='the prompt is empty, and this model saw no image without a caption'):
    method.tasks['generate'].check({'prompt': blank})
  with pytest.raises(UserError, match='a score needs a label or a prompt'):
    method.tasks['score'].check({'image': np.zeros(1)})
  assert built()[1].tasks['generate'].check({'prompt': blank}) == ''


def test_images_without_labels_are_refused():
  config = tiny.config('image_tokens')
  with pytest.raises(UserError, match='captions are made of the names of classes, and this data has no labels'):
    image_tokens.build(config, Spec('image', (28, 28, 1)))


# Figures.


def test_agreement_by_hand():
  logits = np.eye(3)[[0, 1, 1, 2]]
  share, of_class = agreement(logits, np.asarray([0, 1, 2, -1]))
  assert share == pytest.approx(2 / 3) and of_class[:2].tolist() == [1.0, 1.0] and of_class[2] == 0.0
  assert note(of_class, ('cat', 'dog', 'cow')).endswith('cow 0%, cat 100%, dog 100%')
  assert note(np.asarray([np.nan, 0.5]), ()).endswith('1 50%')
  with pytest.raises(UserError, match='no sample was asked for a class'):
    agreement(logits, np.full(4, -1))


def test_classes_that_are_asked_and_told_are_measured(run, tmp_path):
  judge = tmp_path / 'judge'
  assert tiny.run(tiny.config('classifier'), judge)[0] == DONE
  words = ['--metrics=agreement,classification', '--samples=100', f'--extractor=classifier:{judge}']
  done = cli.command('gen_ai.evaluate', run, *words)
  assert done.returncode == DONE, done.stderr
  for name in ('class_agreement', 'bayes_accuracy', 'bayes_xent_nats', 'marginal_elbo_nats', 'drawn as asked least'):
    assert name in done.stdout, done.stdout
  weak = cli.command('gen_ai.evaluate', run, '--metrics=agreement', '--samples=100', '--extractor=random')
  cli.refused(weak, "leave 'agreement' out")


@pytest.mark.parametrize(
  ('number', 'names', 'says'),
  [
    (0, (), "the extractor 'stranger' names no classes of it"),
    (4, (), r'has 3 classes \(T-shirt/top, Ankle boot, Bag\), and that of letters tells 4 classes apart'),
    (3, ('A', 'B', 'C'), r'that of letters tells 3 classes \(A, B, C\) apart'),
  ],
)
def test_agreement_is_read_by_a_classifier_of_the_same_classes(number, names, says):
  about = {'trained_on': 'letters'}
  other = Extractor('stranger', {}, None, '', 'none', 8, True, number, names, about=about)
  (metric,) = metrics.parse('agreement', 'image')
  request = Request(9, 9, 'test', other, CLOTHES)
  with pytest.raises(UserError, match=says):
    metric.check(request)
  for same in (CLOTHES.class_names, ()):  # a data set may have no names
    metric.check(request._replace(extractor=dataclasses.replace(other, num_classes=3, class_names=same)))


def test_methods_that_ask_for_no_class_have_no_agreement():
  (metric,) = (one for one in metrics.every() if one.name == 'agreement')
  assert metric.outputs == ('label',)
  assert 'label' in tiny.program(tiny.config('cvae')).tasks['generate'].outputs
  assert 'label' in tiny.program(tiny.config('cgan')).tasks['generate'].outputs
  assert 'label' not in tiny.program(tiny.config('vae')).tasks['generate'].outputs
