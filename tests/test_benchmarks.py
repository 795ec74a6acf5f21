import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from benchmarks import methods, sweep_sides
from gen_ai.compare.reproducibility import Tolerance
from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.maths import adversarial
from gen_ai.run import directory
from gen_ai.sweep import trials as trials_lib

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec('torch') is None,
  reason='PyTorch is not installed (pip install -r requirements/benchmark.txt)',
)
REFUSED = "import runpy, sys; sys.modules['torch'] = None; sys.argv = {}; runpy.run_module({!r}, run_name='__main__')"


def sides(method, tiny=True):
  """Both sides' model of one method: our Program, and the PyTorch method."""
  from benchmarks import ours, torch_side
  from gen_ai.parallel.layouts import make_layout

  config = methods.method_config(method, tiny)
  return ours.program(config, ours.dataset(config), make_layout(config, jax.devices()[:1])), torch_side.method(config)


def copy_dense(module, dense):
  """A Flax dense layer's parameters into a torch.nn.Linear."""
  import torch

  with torch.no_grad():
    module.weight.copy_(torch.from_numpy(np.array(dense['kernel'])).T)
    if module.bias is not None:
      module.bias.copy_(torch.from_numpy(np.array(dense['bias'])))


def copy_mlp(net, dense):
  linear = [module for module in net if hasattr(module, 'weight')]
  assert len(linear) == len(dense)
  for module, params in zip(linear, dense, strict=True):
    copy_dense(module, params)


def copy_gan(theirs, params):
  body, trunk = params['g']['body']['MLP_0'], params['d']['trunk']
  copy_mlp(theirs.generator, [body[f'Dense_{i}'] for i in range(len(body))])
  copy_mlp(theirs.critic, [*(trunk[f'Dense_{i}'] for i in range(len(trunk))), params['d']['score']])


def copy_transformer(net, params):
  import torch

  def put(target, value):
    assert target.shape == value.shape
    with torch.no_grad():
      target.copy_(torch.from_numpy(np.array(value)))

  put(net.token_embedding.weight, params['token_embedding'])
  put(net.position_embedding.weight, params['position_embedding'])
  put(net.final_norm.weight, params['final_norm']['scale'])
  for i, block in enumerate(net.blocks):
    ours = jax.tree.map(lambda p, i=i: np.asarray(p[i]), params['layers']['block_0'])
    width = ours['mlp_out']['kernel'].shape[-1]
    for name in ('attention_norm', 'mlp_norm'):
      put(getattr(block, name).weight, ours[name]['scale'])
    flat = {name: {'kernel': ours[name]['kernel'].reshape(-1, width)} for name in ('attention_out', 'mlp_out')}
    flat['mlp_in'] = {'kernel': ours['mlp_in']['kernel'].reshape(width, -1)}
    # Ours lie head by head, [D, heads, (query, key, value), H]; theirs are all queries, all keys, all values.
    flat['qkv'] = {'kernel': ours['qkv']['kernel'].swapaxes(1, 2).reshape(width, -1)}
    for name, dense in flat.items():
      copy_dense(getattr(block, name), dense)


@needs_torch
@pytest.mark.parametrize('method', [*methods.METHODS, methods.GPT2])
def test_both_sides_have_the_same_number_of_parameters(method):
  ours, theirs = sides(method, tiny=False)
  assert ours.parameter_count() == theirs.parameters


@needs_torch
@pytest.mark.parametrize('method', ['gan', 'wgan_gp'])
def test_both_gans_have_the_same_losses_at_the_same_weights(method):
  import torch

  from experiments import gan

  ours, theirs = sides(method)
  config = methods.method_config(method, tiny=True)
  params = ours.init().params
  copy_gan(theirs, params)
  draw = np.random.default_rng(1)
  z = draw.normal(size=(config.data.batch_size, config.model.latent)).astype(np.float32)
  real = draw.uniform(-1, 1, (len(z), 28, 28, 1)).astype(np.float32)
  eps = draw.uniform(size=len(z)).astype(np.float32)

  nets = gan.networks(config, ours.spec, lambda tree: tree)
  fake = nets.generator.apply({'params': params['g']}, z, True)

  def critic(x):
    return nets.discriminator.apply({'params': params['d']}, x, True).logits

  d_loss = adversarial.discriminator_loss(config.loss.kind, critic(real), critic(fake))
  if config.loss.constraint == 'gradient_penalty':
    d_loss += config.loss.penalty * adversarial.gradient_penalty(critic, jnp.asarray(real), fake, jnp.asarray(eps))
  g_loss = adversarial.generator_loss(config.loss.kind, critic(fake))

  images = torch.from_numpy(real).flatten(1)
  penalised = torch.from_numpy(eps)[:, None] if theirs.penalised else None
  torch_fake = theirs.generator(torch.from_numpy(z)).detach()
  assert theirs.d_loss(images, torch_fake, penalised).item() == pytest.approx(float(d_loss), rel=1e-4)
  assert theirs.g_loss(torch.from_numpy(z)).item() == pytest.approx(float(g_loss), rel=1e-4)
  assert theirs.n_critic == config.loss.n_critic


@needs_torch
def test_both_language_models_have_the_same_loss_at_the_same_weights():
  import torch

  from benchmarks import ours as our_side
  from experiments import lm

  ours, theirs = sides('lm_shakespeare')
  config = methods.method_config('lm_shakespeare', tiny=True)
  state = ours.init()
  # Weights as small as the first ones give log V whatever the network computes.
  state = state._replace(params=jax.tree.map(lambda p: p * 8, state.params))
  copy_transformer(theirs.model, state.params)
  window = np.random.default_rng(1).integers(0, len(methods.ALPHABET), (4, config.data.block_size + 1)).astype(np.int32)
  data = our_side.dataset(config)
  method = lm.build(config, data.spec)
  batch = {'tokens': jnp.asarray(window), 'mask': jnp.ones(4)}
  total, count = method.eval_step(state, batch, jax.random.key(0))['loss_nats']
  assert theirs.loss(torch.from_numpy(window).long()).item() == pytest.approx(float(total / count), rel=1e-4)


@needs_torch
def test_both_language_models_have_the_same_learning_rate():
  from gen_ai.core.optim import schedule_shape

  _, theirs = sides('lm_shakespeare', tiny=False)
  optim = methods.method_config('lm_shakespeare').optim
  shape = schedule_shape(optim, theirs.steps)
  for theirs.count in (0, 50, 100, 1000, 1999, 3000):
    assert theirs.lr() == pytest.approx(float(optim.lr * shape(theirs.count)), rel=1e-5)


def test_our_side_counts_the_updates_it_made():
  from benchmarks.ours import Ours

  side = Ours(methods.method_config('gan', tiny=True))
  steps, seconds = side.run(0.05)
  assert steps > 0 and seconds >= 0.05
  assert steps == side.step == int(side.state.step)


def test_without_pytorch_the_comparison_says_what_to_install():
  done = tiny.command('-c', REFUSED.format(['throughput'], 'benchmarks.throughput'))
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith('error: PyTorch is not installed')
  assert 'requirements/benchmark.txt' in done.stderr and 'Traceback' not in done.stderr


@needs_torch
def test_an_unknown_method_is_named():
  done = tiny.command('-m', 'benchmarks.throughput', '--methods=wgan_pg')
  assert done.returncode == 1 and "Did you mean 'wgan_gp'?" in done.stderr and 'Traceback' not in done.stderr


@needs_torch
@pytest.mark.slow
def test_the_sides_take_turns_and_the_report_holds_every_slice(tmp_path):
  out = tmp_path / 'report.json'
  done = tiny.command('-m', 'benchmarks.throughput', '--tiny', '--rounds=2', '--seconds=0.1', f'--out={out}')
  assert done.returncode == 0, done.stderr
  report = json.loads(out.read_text())
  assert [row['method'] for row in report['methods']] == list(methods.METHODS)
  for row in report['methods']:
    assert len(row['slices']) == 2 and all(speed > 0 for pair in row['slices'] for speed in pair)
    assert row['ratio'] == pytest.approx(row['ours_steps_per_second'] / row['torch_steps_per_second'])
    assert row['method'] in done.stdout
  assert report['machine']['cores'] > 0 and report['methods'][0]['versions'].keys() >= {'jax', 'torch'}


@pytest.mark.slow
def test_startup_times_a_cold_and_a_warm_start():
  done = tiny.command('-m', 'benchmarks.startup', '--configs=gan', '--repeats=1', '--tiny')
  assert done.returncode == 0, done.stderr
  name, *figures = done.stdout.splitlines()[-1].split()
  cold, cold_row, warm, warm_row = map(float, figures)
  assert name == 'gan' and 0 < warm <= warm_row and 0 < cold <= cold_row


def test_quality_passes_at_its_target_and_below():
  code = 'from benchmarks import quality; print([quality.judge(float(x), 1.92) for x in ("1", "1.92", "1.93", "nan")])'
  done = tiny.command('-c', code)  # in a process of its own, as its flags are launch.py's
  assert done.stdout == f'{[("PASS", 0)] * 2 + [("FAIL", 1)] * 2}\n', done.stderr


@pytest.mark.slow
def test_quality_judges_the_last_evaluation(tmp_path):
  from gen_ai import config as config_lib

  overrides = [f'--config.{path}={value}' for path, value in config_lib.tiny('configs/lm_shakespeare.py').items()]
  done = tiny.command('-m', 'benchmarks.quality', '--target=0.001', f'--runs_dir={tmp_path}', *overrides)
  assert done.returncode == 1, done.stderr
  (run_dir,) = (tmp_path / 'lm_shakespeare').iterdir()
  value = [row for row in directory.read_metrics(run_dir) if row['kind'] == 'eval'][-1]['loss_nats']
  assert done.stdout.splitlines()[-1].startswith(f'FAIL: configs/lm_shakespeare.py loss_nats {value:.4f} ')


def test_quality_says_how_to_prepare_missing_data(tmp_path):
  done = tiny.command('-m', 'benchmarks.quality', f'--runs_dir={tmp_path}', f'--data_dir={tmp_path / "none"}')
  assert done.returncode == 1 and str(tmp_path / 'none') in done.stderr
  assert 'python -m gen_ai.data.prepare tiny_shakespeare' in done.stderr and 'Traceback' not in done.stderr


JOB = sweep_sides.Job('configs/gan.py', {'run.steps': 8}, [2e-4, 1e-4], 2)


def test_every_side_of_the_sweep_benchmark_trains_the_same_points(tmp_path):
  base = tiny.config('gan')
  found = {}
  for side in ('packed', 'local'):
    (words,) = sweep_sides.commands(side, JOB, tmp_path, '')
    axes = {word: trials_lib.axis(word.removeprefix('--axis=')) for word in words if word.startswith('--axis=')}
    found[side] = trials_lib.product(axes)
  found['separate'] = [
    command_line.split_overrides(words)[1] for words in sweep_sides.commands('separate', JOB, tmp_path, '')
  ]
  for overrides in found['separate']:
    assert overrides.pop('run.steps') == '8'
  ((*_, task),) = sweep_sides.commands('loop', JOB, tmp_path, '')
  found['loop'] = json.loads(task)['trials']
  for side in sweep_sides.SIDES:
    trials = [trial.overrides for trial in trials_lib.resolve(base, found[side])]
    assert trials == JOB.trials and len(trials) == 4, side


def test_a_side_of_the_sweep_benchmark_that_left_points_out_is_refused(tmp_path):
  with pytest.raises(UserError, match='4 of 4 trials were not run'):
    sweep_sides.collect(tmp_path, JOB, 1.0)


def test_the_sweep_benchmark_finds_the_metric_that_differs_most():
  here = {(1e-4, seed): {'eval/a': 1.0, 'eval/b': 2.0} for seed in (0, 1)}
  there = here | {(1e-4, 1): {'eval/a': 1.001, 'eval/b': 2.1}}
  excess, where = sweep_sides.largest(here, there, Tolerance(0.01, 0.0))
  assert excess == pytest.approx(5.0) and where == 'eval/b at lr 0.0001, seed 1'
  assert sweep_sides.largest(here, here, Tolerance(0.01, 0.0))[0] == 0
  assert sweep_sides.largest(here, {p: {'eval/a': 1.0} for p in here}, Tolerance(0.01, 0.0))[0] == float('inf')


def test_lanes_one_after_the_other_are_lanes_side_by_side():
  from gen_ai import config as config_lib
  from gen_ai.parallel.lanes import LaneLayout
  from gen_ai.parallel.program import Program

  configs = [tiny.config('gan', run__seed=seed, optim__lr=lr) for seed, lr in ((0, 1e-3), (1, 1e-2))]
  data, metrics = tiny.dataset(configs[0]), []
  for layout in (LaneLayout(jax.devices()[:1], mapping) for mapping in ('map', 'vmap')):
    program = Program(configs[0], config_lib.builder(configs[0]), data.spec, layout, configs)
    feed, state = tiny.feed(configs[0], program), program.init()
    _, values = program.trainer(feed, state, feed.chunk(0, 4))(state, feed.chunk(0, 4))
    metrics.append(layout.per_lane(values))
  for one, other in zip(*metrics, strict=True):
    for name in one:
      np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)
  assert not np.allclose(metrics[0][0]['logit_real'], metrics[0][1]['logit_real'])


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['benchmarks.sweep', '--sides=paked'], "Did you mean 'packed'?"),
    (['benchmarks.sweep', '--steps=150'], 'is not a multiple of config.run.log_every=100'),
    (['benchmarks.lanes', '--lanes=0'], "'0' is no number of lanes"),
  ],
)
def test_lane_benchmarks_name_what_is_wrong(words, said):
  done = tiny.command('-m', *words)
  assert done.returncode == 1 and said in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_the_sweep_benchmark_runs_its_sides_and_finds_them_alike(tmp_path):
  out = tmp_path / 'report.json'
  done = tiny.command(
    '-m',
    'benchmarks.sweep',
    '--configs=gan',
    '--tiny',
    '--steps=8',
    '--rates=1',
    '--seeds=2',
    f'--out={out}',
    '--sides=packed,separate,loop',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  rows = {row['side']: row for row in json.loads(out.read_text())['rows']}
  assert {side: row['programs'] for side, row in rows.items()} == {'packed': 3, 'separate': 6, 'loop': 6}
  assert rows['packed']['ratio'] == 1 and all(row['seconds'] > 0 for row in rows.values())


@pytest.mark.slow
def test_the_lane_benchmark_measures_every_lowering_where_there_are_convolutions(tmp_path):
  out = tmp_path / 'report.json'
  done = tiny.command(
    '-m',
    'benchmarks.lanes',
    '--configs=vae',
    '--tiny',
    '--lanes=2',
    '--mappings=vmap',
    '--rounds=1',
    '--seconds=0',
    '--chunk=2',
    f'--out={out}',
  )
  assert done.returncode == 0, done.stdout + done.stderr
  rows = [(row['config'], row['lanes'], row['mapping'], row['lowering']) for row in json.loads(out.read_text())['rows']]
  assert rows == [
    ('vae', 1, 'alone', 'patches'),
    ('vae', 1, 'alone', 'direct'),
    ('vae', 2, 'vmap', 'direct'),
    ('vae', 2, 'vmap', 'patches'),
  ]
