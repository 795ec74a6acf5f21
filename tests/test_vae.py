"""The choices of the VAE family."""

import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib


def test_static_images_are_binarised_once_and_dynamic_ones_anew():
  same = []
  for binarise in ('static', 'dynamic'):
    config = tiny.config('vae', loss__binarise=binarise)
    method = config_lib.experiment(config).build(config, tiny.dataset(config).spec)
    batch = tiny.dataset(config).splits['validation'].read(np.arange(8))
    state = method.init(jax.random.key(0))
    originals = [method.views['reconstructions'](state, batch, jax.random.key(seed))[:8] for seed in (1, 2)]
    assert set(np.unique(originals[0])) == {-1.0, 1.0}
    same.append(np.array_equal(*originals))
  assert same == [True, False]


@pytest.mark.parametrize('likelihood', ['bernoulli', 'gaussian', 'discretised_logistic'])
@pytest.mark.parametrize('network', ['mlp', 'conv'])
def test_every_likelihood_trains_with_every_network(likelihood, network):
  config = tiny.config('vae', loss__likelihood=likelihood, model__network=network, model__widths=(16, 8), run__steps=4)
  _, metrics = tiny.train(config)
  assert all(np.isfinite(value).all() for value in metrics.values())
  np.testing.assert_allclose(metrics['nll_bpd'], -metrics['elbo_nats'] / (784 * np.log(2)), rtol=1e-5)


def test_the_kl_weight_scales_the_kl_alone():
  _, half = tiny.train(tiny.config('vae', loss__kl_weight=0.5, optim__lr=1e-9, run__steps=2))
  _, one = tiny.train(tiny.config('vae', loss__kl_weight=1.0, optim__lr=1e-9, run__steps=2))
  np.testing.assert_allclose(half['elbo_nats'], one['elbo_nats'], rtol=1e-6)
  np.testing.assert_allclose(one['loss_nats'] - half['loss_nats'], 0.5 * one['kl_nats'], rtol=1e-2)
  np.testing.assert_allclose(one['loss_nats'], -one['elbo_nats'], rtol=1e-6)
  np.testing.assert_allclose(-half['elbo_nats'] - half['loss_nats'], 0.5 * half['kl_nats'], rtol=1e-2)


def test_samples_are_probabilities_of_pixels():
  config = tiny.config('vae')
  program = tiny.program(config)
  drawn = np.asarray(program.sampler(program.init(), 4)(program.init()))
  assert len(np.unique(drawn)) > 100
  assert jax.numpy.abs(drawn).max() <= 1.0
