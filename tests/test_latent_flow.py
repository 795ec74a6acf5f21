"""A flow of latents: the autoencoder of another run is taken as it is and stays, and latents are normalised."""

import math
import shutil

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

import gen_ai
from experiments import _autoencoder, _vq
from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.names import name_of
from gen_ai.parallel import mesh
from gen_ai.run import data_identity, directory, info, provenance
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.run.info import RunInfo
from gen_ai.train import warm_start

# {family: (overrides, size of its weights), so that neither its latents nor its images are all the same}.
PARENTS = {'vae': ({'model__network': 'mlp'}, 0.05), 'vqvae': ({}, 0.3)}
SMALL = (
  '--config.run.trackers=',
  '--config.run.eval_every=0',
  '--config.run.sample_every=0',
  '--config.optim.schedule=constant',
)


def filled(shapes, scale, seed):
  """Arrays of these shapes, none of them like another."""
  noise = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: scale * noise.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module', params=PARENTS)
def parent(request, tmp_path_factory):
  """(run directory, config, method, state) of an autoencoder that keeps averages."""
  overrides, scale = PARENTS[request.param]
  config = tiny.config(request.param, **overrides)
  dataset, path = tiny.dataset(config), tmp_path_factory.mktemp('parents') / request.param
  method = config_lib.builder(config)(config, dataset.spec)
  shapes = jax.eval_shape(method.init, jax.random.key(0))
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  state = state._replace(params=filled(shapes.params, scale, 1), ema=filled(shapes.ema, scale, 2))
  run, tree = directory.RunDir.make(path), config_lib.to_json(config)
  run.write_run(RunInfo(data=data_identity.describe(dataset), config_hash=provenance.config_hash(tree)).to_json())
  run.write_config(tree)
  checkpoints = Checkpoints(path / 'checkpoints')
  state = jax.tree.map(jnp.asarray, state)
  checkpoints.save(8, state)
  checkpoints.close()
  return path, config, method, state


def child(config, path):
  """The tiny config of a flow of its latents."""
  return config_lib.inherit(tiny.config('latent_flow'), config, str(path))


def begun(config, path):
  """(method, a state that begins from the run at `path`)."""
  program, spec = tiny.program(config), data_identity.describe(tiny.dataset(config)).spec
  # The program of the suite keeps what it has initialised: it is begun by hand.
  warm_start.begin_from(program, config, {'run_dir': str(path), 'step': 8}, spec)
  return program.method(), program.begin(program.init())


def evaluated(config, state):
  """The parameters by which the autoencoder of a run is evaluated."""
  if config.experiment == 'vae':
    return {name: state.ema[name] for name in ('encoder', 'decoder')}
  own = state.ema['params']['autoencoder']
  return {'encoder': own['encoder'], 'decoder': own['decoder'], 'codebook': state.ema['codebook']}


def decoded(config, method, state, latent):
  """What the other run makes of latents."""
  spec = tiny.dataset(config).spec
  if config.experiment == 'vae':
    return method.tasks['generate'].run(state, {'latent': latent}, jax.random.split(jax.random.key(0), len(latent)))
  coded = _vq.CodedImages(config, spec, lambda tree: tree, lambda key: {}, lambda *given: jnp.zeros(()))
  apart = ((latent[..., None, :] - state.ema['codebook']) ** 2).sum(-1)
  return {'sample': coded.picture(state, jnp.argmin(apart, -1))}


def test_the_autoencoder_is_that_of_the_other_run_stays_and_decodes_as_it_does_there(parent):
  path, parents_config, parents_method, parents_state = parent
  config = child(parents_config, path)
  method, before = begun(config, path)
  frozen = before.params['autoencoder']
  jax.tree.map(np.testing.assert_array_equal, frozen, evaluated(parents_config, parents_state))
  source = tiny.dataset(config).splits['train']
  batches = [{**source.read(np.arange(i, i + 16)), 'mask': np.ones(16, np.float32)} for i in (0, 16)]

  @jax.jit
  def trained(state):
    for step, batch in enumerate(batches):
      state, _ = method.train_step(state, batch, jax.random.key(step))
    return state

  after = trained(before)
  jax.tree.map(np.testing.assert_array_equal, after.params['autoencoder'], frozen)
  kernels = zip(*(jax.tree.leaves(s.params['denoiser']) for s in (before, after)), strict=True)
  assert any(not np.array_equal(a, b) for a, b in kernels)
  assert jax.tree.structure(after.ema) == jax.tree.structure(after.params['denoiser'])
  assert not any(
    'autoencoder' in name_of(p) for p, _ in jax.tree_util.tree_leaves_with_path((after.opt_state, after.ema))
  )

  keys = jax.random.split(jax.random.key(3), 16)

  @jax.jit
  def looked_at(state, noise):
    images = batches[0]['image']
    given = {'image': jnp.asarray(images)}
    drawn = method.tasks['generate'].run(state, {'latent': noise}, keys)['sample']
    own = method.tasks['reconstruct'].run(state, given, keys)['sample']
    theirs = parents_method.tasks['reconstruct'].run(parents_state, given, keys)['sample']
    latent = noise * state.stats.deviation + state.stats.centre
    return drawn, decoded(parents_config, parents_method, parents_state, latent)['sample'], own, theirs

  shape = method.tasks['generate'].inputs['latent'].shape
  # The denoiser as it began says no velocity at all: noise is what is drawn.
  still = after._replace(params=before.params, ema=before.params['denoiser'])
  drawn, same, own, theirs = looked_at(still, jax.random.normal(jax.random.key(4), (16, *shape)))
  np.testing.assert_allclose(drawn, same, atol=2e-5)
  np.testing.assert_allclose(own, theirs, atol=2e-6)
  assert np.std(drawn) > 0.01 and np.std(own) > 0.01


def test_latents_have_the_mean_and_the_deviation_of_those_of_the_first_updates(monkeypatch):
  config = tiny.config('latent_flow', autoencoder__network='mlp')
  z = np.random.default_rng(0).normal(3.0, [0.1, 1.0, 5.0, 20.0], (3, 16, 4)).astype(np.float32)
  monkeypatch.setattr(_autoencoder.Vector, 'encode', lambda self, params, image, keys: image)
  method = config_lib.builder(config)(config, tiny.dataset(config).spec)
  state, step, losses = jax.jit(method.init)(jax.random.key(0)), jax.jit(method.train_step), []
  for number, latent in enumerate(z):
    state, metrics = step(state, {'image': latent}, jax.random.key(number))
    losses.append(metrics['loss'])
  flat = z.reshape(-1, 4).astype(np.float64)
  np.testing.assert_allclose(state.stats.centre, flat.mean(0), rtol=1e-5)
  np.testing.assert_allclose(state.stats.deviation, flat.std(0), rtol=1e-4)
  # Of a network that says nothing yet: the mean square of eps - x, two numbers of mean 0 and deviation 1.
  assert losses[0] == pytest.approx(2.0, abs=0.5)


def test_a_posterior_is_drawn_from_to_train_and_told_by_its_mean_else():
  config = tiny.config('latent_flow', autoencoder__network='mlp')
  spec = tiny.dataset(config).spec
  coder = _autoencoder.autoencoder(config, spec)
  params = jax.jit(coder.init)(jax.random.key(0))
  image = np.repeat(tiny.dataset(config).splits['train'].read(np.arange(1))['image'], 2000, 0)
  z, mean = jax.jit(lambda p, x, keys: (coder.encode(p, x, keys), coder.mean(p, x, keys)))(
    params, image, jnp.repeat(jax.random.split(jax.random.key(1), 1000), 2)
  )
  np.testing.assert_array_equal(z[::2], z[1::2])  # of one image by one key
  apart = np.asarray(z - mean)[::2]
  (_, log_std) = jax.jit(coder._moments)(params, image[:1], jax.random.split(jax.random.key(1), 1))
  std = np.exp(np.asarray(log_std[0]))
  np.testing.assert_allclose(apart.mean(0), 0.0, atol=4.0 * std.max() / math.sqrt(1000))
  np.testing.assert_allclose(apart.std(0), std, rtol=0.15)


@pytest.mark.parametrize('parent', ['vae'], indirect=True)
def test_a_run_goes_on_when_its_parent_is_gone_and_tells_which_it_was(parent, tmp_path, monkeypatch):
  path, parents_config, _, parents_state = parent
  monkeypatch.chdir(tmp_path)
  there, own = shutil.copytree(path, tmp_path / 'parent'), tmp_path / 'own'
  config = f'--config={tiny.ROOT}/configs/latent_flow.py'
  done = cli.launch(config, '--tiny', '--init_from=parent', f'--run_dir={own}', *SMALL, '--config.run.steps=4')
  assert done.returncode == DONE, done.stderr
  about, config = info.read(own), config_lib.from_json(directory.read_config(own))
  assert (about.parent['config_hash'], about.parent['step']) == (info.read(path).config_hash, 8)
  assert all(name.startswith(('params/denoiser/', 'ema/net/', 'stats/')) for name in about.parent['new'])
  assert (config.autoencoder.network, config.autoencoder.widths) == ('mlp', parents_config.model.widths)
  shutil.rmtree(there)
  done = cli.launch(f'--resume={own}', '--config.run.steps=6')
  assert done.returncode == DONE, done.stderr
  assert info.read(own).parent == about.parent
  state = gen_ai.load(own).state
  assert state.step == 6
  jax.tree.map(np.testing.assert_array_equal, state.params['autoencoder'], evaluated(parents_config, parents_state))
  program, spec = tiny.program(config), data_identity.describe(tiny.dataset(config)).spec
  warm_start.begin_from(program, config, about.parent, spec, begun=True)
  with pytest.raises(UserError, match='parent'):  # where no checkpoint of its own can be read
    program.begin(program.init())


def test_what_is_no_parent_is_refused(parent, tmp_path, monkeypatch):
  path, parents_config, _, _ = parent
  monkeypatch.chdir(tmp_path)
  launch = f'--config={tiny.ROOT}/configs/latent_flow.py', '--tiny', '--config.run.trackers='
  cli.refused(cli.launch(*launch, '--init_from=runs/gone'), 'runs/gone')
  config, spec = child(parents_config, path), data_identity.describe(tiny.dataset(parents_config)).spec
  given = {'run_dir': str(path), 'step': 8}
  for changed, says in (
    ({'autoencoder.activation': 'relu'}, "config.autoencoder.activation is 'silu' there and 'relu' here"),
    ({'autoencoder.network': 'resnet'}, 'config.autoencoder.network is'),
  ):
    other = config_lib.override(config, changed)
    with pytest.raises(UserError, match=says):
      warm_start.begin_from(tiny.program(other), other, given, spec)
  with pytest.raises(UserError, match=f'{path} is another run than the one that was begun from'):
    warm_start.begin_from(tiny.program(config), config, {**given, 'config_hash': '0' * 64}, spec)
  if parents_config.experiment == 'vae':
    cli.refused(cli.launch(*launch), "config.experiment='latent_flow'", '--init_from=RUN_DIR', 'a run of vae, vqvae')
    wider = cli.launch(*launch, f'--init_from={path}', '--config.autoencoder.latents=(8,)')
    cli.refused(wider, str(path), 'config.autoencoder.latents is [4] there and [8] here')
  assert not (tmp_path / 'runs').exists()


def test_a_flow_is_guided_by_another_of_the_same_latents():
  sizes = {'autoencoder__network': 'mlp', 'sample__solver': 'euler', 'sample__steps': 2}
  plain, guided, small = (
    config_lib.builder(config)(config, tiny.dataset(config).spec)
    for config in (
      tiny.config('latent_flow', **sizes),
      tiny.config('latent_flow', **sizes, sample__autoguidance=1.0),
      tiny.config('latent_flow', **sizes, model__width=4),
    )
  )
  own, other = (filled(jax.eval_shape(one.init, jax.random.key(0)), 0.3, 1) for one in (guided, small))
  noise, keys = (
    {'latent': np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)},
    jax.random.split(jax.random.key(0), 3),
  )

  @jax.jit
  def drawn(own, other):
    helps = guided.tasks['generate'].helps['guide']
    by = [(guided, own), (small, other)]
    tasks = [helps.taken(one.tasks['generate'].helps['guide'].offers(state)) for one, state in by]
    return [task.run(own, noise, keys)['sample'] for task in (plain.tasks['generate'], *tasks)]

  alone, by_itself, by_other = drawn(own, other)
  np.testing.assert_allclose(by_itself, alone, atol=1e-6)
  assert np.abs(by_other - alone).max() > 1e-3
  with pytest.raises(UserError, match='--guide=RUN_DIR'):
    guided.tasks['generate'].run(own, noise, keys)


def test_settings_that_do_not_go_together_are_refused():
  config = tiny.config('latent_flow', autoencoder__network='mlp')
  for name, says in (('gan', "runs/p is a run of 'gan': take one of vae"), ('cvae', 'runs/p has config.model.condi')):
    with pytest.raises(UserError, match=says):
      config_lib.inherit(config, tiny.config(name), 'runs/p')
  with pytest.raises(UserError, match="config.model.schedule='vdm' is none of"):
    config_lib.validate(config_lib.override(config, {'model.schedule': 'vdm'}))
  spec = tiny.dataset(config).spec
  unet = config_lib.override(config, {'model.network': 'unet'})
  with pytest.raises(UserError, match='network=unet takes images, not vectors of 4 numbers'):
    config_lib.builder(unet)(unet, spec)
  odd = config_lib.override(config, {'autoencoder.network': 'grid', 'autoencoder.downsamples': 3})
  with pytest.raises(UserError, match='config.autoencoder.downsamples=3 needs sides that are multiples of 8'):
    config_lib.builder(odd)(odd, spec)


@pytest.mark.parametrize('network', ['grid', 'conv'])
def test_every_parameter_has_one_row_of_the_shardings(network):
  sizes = {'model__network': 'dit', 'model__patch': 1, 'loss__learned_variance': True}
  config = tiny.config('latent_flow', autoencoder__network=network, **sizes)
  method = config_lib.builder(config)(config, tiny.dataset(config).spec)
  state = jax.eval_shape(method.init, jax.random.key(0))
  over = mesh.make_mesh(ConfigDict({'data': 2, 'fsdp': 2, 'expert': 1, 'tensor': 2}), jax.devices()[:8])
  placed = mesh.state_shardings(state, over, 1, method.sharding)
  for part, whole in ((placed.params['autoencoder'], True), (placed.stats, True), (placed.params['denoiser'], False)):
    assert all(one.is_fully_replicated for one in jax.tree.leaves(part)) == whole
