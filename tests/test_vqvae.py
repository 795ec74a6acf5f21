"""The choices of the VQ-VAE: its bound, its two stages, its prior, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from experiments import vqvae
from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.maths import densities, quantise
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.transformer import Architecture, Transformer
from gen_ai.nets.vqvae import GridDecoder, GridEncoder


def built(**overrides):
  config = tiny.config('vqvae', **overrides)
  method = vqvae.build(config, tiny.dataset(config).spec)
  return config, method, jax.jit(method.init)(jax.random.key(0))


def validation(config, n=8):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


def tree_equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope='module')
def trained():
  """(config, states after every second update, metrics of all)."""
  config = tiny.config('vqvae')
  states = [tiny.train(config, steps=steps)[0] for steps in (4, 6, 8)]
  return config, states, tiny.train(config)[1]


def test_the_bound_is_likelihood_plus_prior_added_up_by_hand():
  config, method, state = built(optim__ema_decay=0.0)
  batch = validation(config, 5) | {'mask': jnp.ones(5)}
  found = jax.jit(method.eval_step)(state, batch, jax.random.key(0))
  model, own = config.model, state.params['autoencoder']
  x = to_signed(batch['image'])
  options = {
    'width': model.width,
    'downsamples': model.downsamples,
    'blocks': model.blocks,
    'activation': model.activation,
  }
  z = np.asarray(GridEncoder(model.code_dim, **options).apply({'params': own['encoder']}, x))
  codes = np.asarray(state.stats.vectors)
  index = ((z[..., None, :] - codes) ** 2).sum(-1).argmin(-1)
  mean = GridDecoder(1, **options).apply({'params': own['decoder']}, jnp.asarray(codes[index]))
  likelihood = densities.discretised_logistic_log_prob(x, mean, own['log_scale'])
  # The prior reads codes row by row after a first token that no image has; log-softmax over the codes alone.
  prior = Transformer(Architecture(vocab_size=model.codes + 1, context=49, layers=1, heads=2, width=8))
  row = index.reshape(5, 49)
  tokens = np.concatenate([np.full((5, 1), model.codes), row[:, :-1]], 1)
  logits = prior.apply({'params': state.params['prior']}, jnp.asarray(tokens), train=False)[..., : model.codes]
  log_probs = jax.nn.log_softmax(logits)
  prior_nats = -np.take_along_axis(np.asarray(log_probs), row[..., None], -1)[..., 0].sum(1)
  bound = np.asarray(likelihood) - prior_nats
  assert float(found['elbo_nats'][0]) == pytest.approx(float(bound.sum()), rel=1e-5)
  assert float(found['prior_nats'][0]) == pytest.approx(prior_nats.sum() / 49, rel=1e-5)
  assert float(found['nll_bpd'][0]) == pytest.approx(-bound.sum() / (784 * np.log(2)), rel=1e-5)
  assert float(found['elbo_nats'][1]) == 5.0


def test_the_second_stage_leaves_the_autoencoder_and_its_codes_as_they_are(trained):
  config, (before, turn, after), metrics = trained
  assert config.loss.autoencoder_steps == 6
  assert not tree_equal(before.params['autoencoder'], turn.params['autoencoder'])
  assert not tree_equal(before.stats, turn.stats)
  for name in ('params', 'opt_state'):
    assert tree_equal(getattr(turn, name)['autoencoder'], getattr(after, name)['autoencoder']), name
    assert not tree_equal(getattr(turn, name)['prior'], getattr(after, name)['prior']), name
  assert tree_equal(turn.stats, after.stats)
  assert (metrics['perplexity'] >= 1.0).all() and (metrics['perplexity'] <= config.model.codes).all()
  assert (metrics['codes_used'] > 0).all() and (metrics['codes_used'] <= 1).all()


def test_without_a_second_stage_everything_goes_on_learning():
  config = tiny.config('vqvae', loss__autoencoder_steps=0)
  turn, after = (tiny.train(config, steps=steps)[0] for steps in (6, 8))
  assert not tree_equal(turn.params['autoencoder'], after.params['autoencoder'])
  assert not tree_equal(turn.stats, after.stats)


def test_no_gradient_of_one_stage_reaches_the_other(monkeypatch):
  # The prior's share of the loss is taken away: the autoencoder's update must stay what it was.
  config, method, state = built(optim__name='sgd', optim__b1=0.0, optim__lr=1e-4)
  batch = validation(config, 16)
  step = lambda: jax.jit(vqvae.build(config, tiny.dataset(config).spec).train_step)(  # noqa: E731
    state, batch, jax.random.key(1)
  )
  both, _ = step()
  monkeypatch.setattr(optax, 'softmax_cross_entropy_with_integer_labels', lambda logits, labels: 0.0 * logits.sum(-1))
  alone, _ = step()
  old, new, same = (jax.tree.leaves(each.params['autoencoder']) for each in (state, both, alone))
  for before, a, b in zip(old, new, same, strict=True):
    np.testing.assert_allclose(a - before, b - before, rtol=1e-3, atol=1e-3 * np.abs(a - before).max())
  assert not tree_equal(both.params['prior'], alone.params['prior'])


def test_what_is_drawn_are_codes_and_never_the_first_token(monkeypatch):
  config, method, state = built()
  seen = []
  real = vqvae.generate

  def spy(step, cache, begin, *rest):
    tokens = real(step, cache, begin, *rest)
    seen.append(tokens)
    return tokens

  monkeypatch.setattr(vqvae, 'generate', spy)
  own = jax.random.split(jax.random.key(0), 6)
  x = method.tasks['generate'].run(state, {}, own)['sample']
  (tokens,) = seen
  assert tokens.shape == (6, 50) and (np.asarray(tokens[:, 0]) == config.model.codes).all()
  assert np.asarray(tokens[:, 1:]).max() < config.model.codes
  assert x.shape == (6, 28, 28, 1) and np.abs(x).max() <= 1.0


def test_the_prior_samples_what_it_has_learnt():
  # A prior whose next code is the last one plus one: samples count on, from a first code.
  config, method, state = built(optim__ema_decay=0.0, sample__temperature=0.0)
  codes = config.model.codes
  table = jnp.concatenate([30.0 * jnp.eye(codes)[(jnp.arange(codes) + 1) % codes], 30.0 * jnp.eye(codes)[:1]])

  class Counting:
    def __init__(self, arch):
      assert arch.context == 49

    def init(self, *_, **__):
      return {'params': {}}

    def init_cache(self, n):
      return jnp.zeros(n)

    def apply(self, variables, cache, tokens, positions, pick, fresh, method):
      token = jnp.take_along_axis(tokens, pick[:, None], 1)[:, 0]
      logits = jnp.pad(table[token], ((0, 0), (0, 1)), constant_values=100.0)  # the first token, likeliest of all
      return logits, cache

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vqvae, 'Transformer', Counting)
    counting = vqvae.build(config, tiny.dataset(config).spec)
    x = counting.tasks['generate'].run(state, {}, jax.random.split(jax.random.key(0), 2))['sample']
  grid = (np.arange(49) % codes).reshape(7, 7)
  model = config.model
  decoder = GridDecoder(
    1, width=model.width, downsamples=model.downsamples, blocks=model.blocks, activation=model.activation
  )
  expected = decoder.apply({'params': state.params['autoencoder']['decoder']}, state.stats.vectors[grid][None])
  np.testing.assert_allclose(x[1:], np.clip(expected, -1, 1), atol=1e-5)


def test_averaged_weights_come_with_the_codes_that_belong_to_them(trained):
  _, (_, _, after), _ = trained
  assert not tree_equal(after.ema['codebook'], after.stats.vectors)
  config = tiny.config('vqvae')
  spec = tiny.dataset(config).spec
  state = jax.tree.map(jnp.asarray, after)
  swapped = state._replace(params=state.ema['params'], stats=state.stats._replace(vectors=state.ema['codebook']))
  plain = vqvae.build(tiny.config('vqvae', optim__ema_decay=0.0), spec)
  pairs = ((vqvae.build(config, spec), state), (plain, swapped))
  drawn = [tiny.sample(method, one, jax.random.key(0), 4) for method, one in pairs]
  np.testing.assert_array_equal(*drawn)


def test_dead_codes_start_again_while_training(monkeypatch):
  counted = []
  real = quantise.update

  def spy(book, seen, vectors, decay, below):
    counted.append(below)
    return real(book, seen, vectors, decay, below)

  monkeypatch.setattr(quantise, 'update', spy)
  # With every code dead at once, all are vectors of the batch after one update.
  config = tiny.config('vqvae', loss__restart_below=1e9)
  method = vqvae.build(config, tiny.dataset(config).spec)
  state = jax.jit(method.init)(jax.random.key(0))
  batch = validation(config, 16)
  after, _ = jax.jit(method.train_step)(state, batch, jax.random.key(1))
  assert counted
  options = {'width': config.model.width, 'downsamples': 2, 'blocks': 1, 'activation': config.model.activation}
  z = GridEncoder(config.model.code_dim, **options).apply(
    {'params': state.params['autoencoder']['encoder']}, to_signed(batch['image'])
  )
  vectors = np.asarray(z).reshape(-1, config.model.code_dim)
  for code in np.asarray(after.stats.vectors):
    assert np.abs(vectors - code).max(1).min() < 1e-5


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'model.codes': 1000}, r'codes=1000 are more codes than data: an update sees 784 vectors \(16 images of 7x7\)'),
    ({'model.downsamples': 3}, 'multiples of 8; the images are 28x28'),
    ({'model.prior_width': 9}, 'prior_width=9 does not divide into 2 heads'),
    ({'sample.top_k': -1}, 'top_k=-1 must be at least 0'),
    ({'sample.temperature': -1.0}, 'temperature=-1.0 must be at least 0'),
    ({'loss.codebook_decay': 1.0}, 'codebook_decay=1.0 must be at least 0 and less than 1'),
  ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message):
  config = config_lib.override(tiny.config('vqvae'), overrides)
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)
    vqvae.build(config, tiny.dataset(tiny.config('vqvae')).spec)


def test_texts_are_refused():
  config, text = tiny.config('vqvae'), tiny.config('lm')
  with pytest.raises(UserError, match='models data of the kind image'):
    config_lib.builder(config)(config, tiny.dataset(text).spec)
