"""VAE-GAN: three losses, each with gradients in its own network alone; features; updates; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import vae_gan
from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.maths.pixels import to_signed

PARTS = ('encoder', 'decoder', 'discriminator')


@pytest.fixture(scope='module')
def case():
  """(config, networks, parameters that are not those of the start, batch)."""
  config = tiny.config('vae_gan')
  data = tiny.dataset(config)
  nets = vae_gan.Networks(config, data.spec)
  params = jax.tree.map(lambda p: p + 0.02, jax.jit(nets.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  batch = {'image': jnp.asarray(data.splits['train'].read(np.arange(6))['image'])}
  batch |= {name: jnp.asarray(rng.normal(size=(6, config.model.latent)), jnp.float32) for name in ('eps', 'z')}
  return config, nets, params, batch


@pytest.mark.parametrize('part', PARTS)
def test_a_loss_has_gradients_in_its_own_network_alone(case, part):
  config, nets, params, batch = case
  grads = jax.jit(jax.grad(lambda p: vae_gan.losses(config, nets, p, batch)[0][part]))(params)
  for name in PARTS:
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads[name]))
    assert (largest > 1e-6) == (name == part), name
    if name != part:
      assert largest == 0.0


def test_losses_are_those_of_the_paper_by_hand(case):
  config, nets, params, batch = case
  each, metrics = jax.jit(lambda p: vae_gan.losses(config, nets, p, batch))(params)
  x = to_signed(batch['image'])
  mean, log_std = (np.asarray(a, np.float64) for a in nets.encode(params, x))
  again = nets.decode(params, jnp.asarray(mean + np.exp(log_std) * np.asarray(batch['eps']), jnp.float32))
  drawn = nets.decode(params, batch['z'])
  (seen, real), (seen_again, fooled), (_, fake) = (
    (np.asarray(a, np.float64) for a in nets.judge(params, image)) for image in (x, again, drawn)
  )
  kl = (0.5 * (np.exp(2 * log_std) + mean**2 - 1) - log_std).sum(1).mean()
  features = 0.5 * ((seen - seen_again) ** 2).sum(1).mean()
  assert float(metrics['kl_nats']) == pytest.approx(kl, rel=1e-4)
  assert float(metrics['feature_nats']) == pytest.approx(features, rel=1e-4)
  assert float(each['encoder']) == pytest.approx(config.loss.kl_weight * kl + features, rel=1e-4)
  both = np.concatenate([fooled, fake])
  softplus = lambda v: np.logaddexp(0.0, v)  # noqa: E731
  assert float(each['decoder']) == pytest.approx(config.loss.gamma * features + softplus(-both).mean(), rel=1e-4)
  adversary = softplus(-real).mean() + softplus(both).mean()
  penalty = float(metrics.get('penalty', 0.0)) * config.loss.penalty
  assert float(each['discriminator']) == pytest.approx(adversary + penalty, rel=1e-4)


def test_each_part_is_updated_by_its_own_loss(monkeypatch):
  # One loss switched off: its network stays bit for bit, the two others move as they would have.
  config = tiny.config('vae_gan', optim__ema_decay=0.0)
  spec = tiny.dataset(config).spec
  method = vae_gan.build(config, spec)
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, tiny.dataset(config).splits['train'].read(np.arange(16)))
  whole, _ = jax.jit(method.train_step)(state, batch, jax.random.key(1))
  real = vae_gan.losses
  for off in PARTS:

    def without(config, nets, params, batch, off=off):
      each, metrics = real(config, nets, params, batch)
      return {**each, off: 0.0 * each[off]}, metrics

    monkeypatch.setattr(vae_gan, 'losses', without)
    after, _ = jax.jit(vae_gan.build(config, spec).train_step)(state, batch, jax.random.key(1))
    for part in PARTS:
      for old, new, kept in zip(
        *(jax.tree.leaves(tree[part]) for tree in (state.params, whole.params, after.params)), strict=True
      ):
        if part == off:
          np.testing.assert_array_equal(kept, old)
        else:
          np.testing.assert_allclose(kept, new, rtol=1e-4, atol=1e-6)


def test_views_are_pairs_and_paths():
  config = tiny.config('vae_gan')
  data = tiny.dataset(config)
  method = vae_gan.build(config, data.spec)
  state = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, data.splits['validation'].read(np.arange(8)))
  drawn = {
    name: np.asarray(jax.jit(view)(state, batch, jax.random.key(0))) for name, view in method.visualizations.items()
  }
  assert set(drawn) == {'reconstructions', 'interpolations_linear', 'interpolations_spherical'}
  for images in drawn.values():
    assert images.shape[1:] == data.spec.shape and len(images) % 8 == 0
    assert np.abs(images).max() <= 1.0


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'loss.kind': 'relativistic'}, "kind='relativistic' is none of"),
    ({'model.d_norm': 'batch'}, "d_norm='batch' is none of group, none"),
    ({'model.decoder_norm': 'batch'}, "decoder_norm='batch' is none of group, none"),
    ({'data.image_size': 30}, '30x30 images.*multiples of 4'),
  ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message):
  config = config_lib.override(tiny.config('vae_gan'), overrides)
  size = config.data.image_size or 28
  spec = tiny.dataset(tiny.config('vae_gan')).spec._replace(shape=(size, size, 1))
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)
    jax.eval_shape(vae_gan.build(config, spec).init, jax.random.key(0))
