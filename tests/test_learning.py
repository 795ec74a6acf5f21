"""Short trainings that must learn something: a wrong sign or a dead gradient passes every other test."""

import jax
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.data import spread
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.maths.pixels import to_signed

pytestmark = pytest.mark.slow


def learn(reference, **overrides):
  """(program, state, validation metrics) of a config at its own size but for `overrides`."""
  flat = {path.replace('__', '.'): value for path, value in overrides.items()}
  config = config_lib.override(config_lib.load(f'configs/{reference}.py'), {'run.log_every': 50, **flat})
  program, feed = tiny.program(config), tiny.feed(config, tiny.program(config))
  state, run = program.init(), None
  for step in range(0, config.run.steps, 50):
    rows = feed.chunk(step, 50)
    run = run or program.trainer(feed, state, rows)
    state, _ = run(state, rows)
  return program, state, ExamplePass(program, config, tiny.dataset(config).splits['validation'])(state)


def test_vae_explains_digits():
  _, _, metrics = learn(
    'vae',
    run__steps=300,
    model__network='mlp',
    model__widths=(256, 128),
    model__latents=(8,),
    optim__ema_decay=0.0,
    optim__schedule='constant',
  )
  assert metrics['elbo_nats'] > -160, metrics  # 543 nats at the start, about 206 for independent pixels
  assert metrics['kl_nats'] > 5, metrics


def test_lm_predicts_python():
  small = {'model__layers': 2, 'model__width': 64, 'data__block_size': 64, 'data__split': 'auto[:10%]'}
  small['data__tokens'] = 'byte'
  _, _, metrics = learn('lm', run__steps=100, **small)
  assert metrics['loss_nats'] < 2.6, metrics  # log 256 = 5.5 at the start, about 3.2 for the frequency of bytes
  assert metrics['bits_per_byte'] == pytest.approx(metrics['loss_nats'] / np.log(2), rel=1e-5)


# GANs that learn these digits as well as those of the configs' own widths, in a third of the time.
WIDTHS = {'model__g_widths': (128, 256), 'model__d_widths': (256, 128)}


def test_gan_draws_what_looks_like_the_data_on_average():
  program, state, _ = learn('wgan_gp', run__steps=300, loss__n_critic=2, optim__lr=5e-4, **WIDTHS)
  config = config_lib.load('configs/wgan_gp.py')
  real = to_signed(tiny.dataset(config).splits['train'].arrays()['image']).mean(0)
  fake, start = (to_signed(tiny.samples(program, each, 256)[0]).mean(0) for each in (state, program.init()))
  distance, before = (np.abs(x - real).mean() for x in (fake, start))
  assert distance < 0.15 * before, (distance, before)
  assert jax.numpy.corrcoef(real.ravel(), fake.ravel())[0, 1] > 0.9


def test_the_mlp_gan_draws_more_than_one_image():
  # The spread is 0.2 here, 0.39 in the digits; at the founding note's setting, which collapses, it is 0.06 by now.
  program, state, _ = learn('gan', run__steps=200, **WIDTHS)
  assert spread.of_images(tiny.samples(program, state, 256)[0]) > 0.15
