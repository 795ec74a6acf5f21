"""The table of all methods: command, table and picture; the orders of likelihoods; the other side of the race."""

import importlib.util
import json

import cli
import numpy as np
import pytest
import tiny

from benchmarks import families_picture, families_table, likelihood_orders
from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, FAILED

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec('torch') is None,
  reason='PyTorch is not installed (pip install -r requirements/benchmark.txt)',
)


def row(method, seed, fd=None, **figures):
  """A run of a report; without figures one that failed."""
  base = {'method': method, 'family': 'GAN', 'seed': seed, 'command': f'python launch.py --seed={seed}', 'steps': 1000}
  if fd is None:
    return base | {'state': 'failed', 'exit_code': 65}
  told = {name: {'value': value, 'stamp': {'observation': 'bernoulli'}} for name, value in figures.items()}
  return base | {
    'state': 'done',
    'parameters': 12345,
    'train_seconds': 60.0,
    'seconds': 70.0,
    'run_dir': 'x',
    'figures': {'fd': {'value': fd, 'stamp': {}}, **told},
  }


def report(*rows):
  return {
    'machine': {'cores': 2, 'processor': 'x', 'load': 0.0, 'system': 's', 'python': '3', 'jax': '1', 'jaxlib': '1'},
    'settings': {
      'extractor': 'random',
      'data': 'made',
      'minutes': 1.0,
      'samples': 100,
      'importance_samples': 2,
      'metrics': 'fd',
      'tiny': False,
    },
    'plans': dict.fromkeys(one['method'] for one in rows),
    'runs': list(rows),
  }


def test_a_cell_is_the_mean_with_students_interval_and_losses_are_shown():
  made = report(row('a', 0, 3.0), row('a', 1, 4.0), row('a', 2, 5.0), row('b', 0, 7.0), row('b', 1), row('c', 0))
  table = families_table.lines(made, families_table.QUALITY)
  header, *rest = table
  cells = {line[0]: dict(zip(header, line, strict=True)) for line in rest}
  # Student's t of 2 degrees of freedom is 4.303; the standard error of 3, 4, 5 is 1 / sqrt 3.
  assert cells['a']['FD'] == '4.00 ± 2.48' and cells['a']['seeds'] == '3'
  assert cells['b']['FD'] == '7.00' and cells['b']['seeds'] == '1, 1 failed'
  assert cells['c']['FD'] == '' and cells['c']['seeds'] == '0, 1 failed'
  assert cells['a']['updates'] == '1,000' and cells['a']['KID'] == ''
  document = families_table.document(made)
  assert document.count('python launch.py --seed=') == 6 and '## Likelihoods' not in document


def test_likelihoods_say_what_they_are_of():
  made = report(row('a', 0, 3.0, nll_bpd=1.5, elbo_nats=-90.0), row('a', 1), row('b', 0, 3.0))
  header, line = families_table.likelihoods(made)
  assert dict(zip(header, line, strict=True))['seeds'] == '1, 1 failed'
  assert dict(zip(header, line, strict=True))['observation'] == 'bernoulli'
  assert line[0] == 'a' and '1.500' in line


def test_completions_are_marked():
  made = row('a', 0, 3.0)
  made['figures']['fd']['stamp'] = {'conditioned_on': 'test'}
  assert families_table.lines(report(made), families_table.QUALITY)[1][0] == 'a [1]'


def test_the_picture_has_a_row_a_method():
  black, white = np.zeros((12, 28, 28, 1), np.uint8), np.full((12, 28, 28, 3), 255, np.uint8)
  sheet = families_picture.tree([('VAE', 'one', black), ('GAN', 'two', white), ('GAN', 'three', black)], 'heading')
  right = sheet[:, families_picture.LABEL + 40].min(-1)  # within the first picture of every row
  runs = np.flatnonzero(np.diff((right == 0).astype(int)) == 1)
  assert len(runs) >= 3 and sheet.shape[1] > families_picture.LABEL + 12 * 56
  assert (sheet[:, : families_picture.LABEL].min((1, 2)) < 255).sum() > 60  # labels and branches


@pytest.mark.slow
def test_the_command_trains_judges_and_goes_on(tmp_path):
  words = [
    '--tiny',
    '--data=mnist_5k',
    '--methods=inpaint_gan',
    '--seeds=1',
    '--samples=300',
    '--metrics=fd',
    '--extractor=random',
    f'--runs_dir={tmp_path}/runs',
    f'--out={tmp_path}/x.json',
    f'--table={tmp_path}/x.md',
    f'--picture={tmp_path}/x.png',
  ]
  done = tiny.command('-m', 'benchmarks.families', *words)
  assert done.returncode == DONE, done.stderr
  found = json.loads((tmp_path / 'x.json').read_text())
  (only,) = found['runs']
  assert only['state'] == 'done' and only['figures']['fd']['value'] > 0 and only['seed'] == 0
  assert only['figures']['fd']['stamp']['conditioned_on'] == 'test'
  assert (tmp_path / 'x.png').stat().st_size > 1000 and 'inpaint_gan [1]' in (tmp_path / 'x.md').read_text()
  trained = (tmp_path / 'runs' / 'inpaint_gan-seed0' / 'attempts.jsonl').read_text()
  again = cli.command('benchmarks.families', *words[:-1])
  assert again.returncode == DONE, again.stderr
  assert (tmp_path / 'runs' / 'inpaint_gan-seed0' / 'attempts.jsonl').read_text() == trained
  other = cli.command('benchmarks.families', *[word.replace('=300', '=200') for word in words])
  cli.refused(other, 'samples: 300 there, 200 here', 'another file')


def test_a_report_that_is_gone_on_with_keeps_families_together(tmp_path):
  made = {'settings': {}, 'plans': {'cgan': {}, 'cvae': {}, 'dcgan': {}}}
  (tmp_path / 'report.json').write_text(json.dumps(made))
  code = (
    'import sys; from benchmarks import families\n'
    'families.FLAGS(sys.argv); families.settings = lambda judge: {}\n'
    'print(*families.begin({}, {})["plans"])'
  )
  done = tiny.command('-c', code, f'--runs_dir={tmp_path}')
  assert done.stdout.split() == ['cvae', 'cgan', 'dcgan'], done.stderr


@pytest.mark.parametrize(
  ('command', 'words', 'says'),
  [
    ('families', ['--methods=vea'], "'vea' is none of"),
    ('families', ['--config.optim.lr=1'], 'compares the configs as they are'),
    ('likelihood', ['--arms=IWAE5'], "Did you mean 'IWAE-5'"),
    ('likelihood', ['--config.optim.lr=1'], 'is part of it'),
  ],
)
def test_bad_words_are_refused(command, words, says):
  cli.refused(cli.command(f'benchmarks.{command}', *words), says, says)


@pytest.mark.parametrize('name', likelihood_orders.ARMS)
def test_every_arm_is_a_config(name):
  arm = likelihood_orders.ARMS[name]
  config = config_lib.override(tiny.config(arm.config), arm.changes)
  assert (config.loss.bound == 'elbo') == name.startswith('VAE')
  assert (len(config.model.latents) == 2) == name.endswith('2-layers')
  assert config.loss.importance_samples == 1 or name.startswith(f'IWAE-{config.loss.importance_samples}')


def test_an_order_holds_where_both_intervals_do():
  rng = np.random.default_rng(0)
  hard = rng.normal(0, 50, 400)  # images differ far more than methods do: only pairs tell
  low, high = (hard + gain + rng.normal(0, 1, (3, 400)) for gain in (0.0, 0.5))
  images, seeds = likelihood_orders.difference(low, high)
  assert images.mean == pytest.approx(0.5, abs=0.1) and images.low > 0 and seeds.n == 3
  assert likelihood_orders.held(images, seeds)
  assert not likelihood_orders.held(*likelihood_orders.difference(high, low))
  lucky = np.stack([low[0] + 3.0, low[1] - 1.0, low[2] - 0.5])  # one seed alone is better
  images, seeds = likelihood_orders.difference(low, lucky)
  assert images.low > 0 and not likelihood_orders.held(images, seeds)
  assert likelihood_orders.held(*likelihood_orders.difference(low[:1], high[:1]))  # one seed: images alone


@needs_torch
def test_the_other_side_is_the_recipe():
  import time

  import torch

  from benchmarks import race_torch

  net = race_torch.generator(784)
  sizes = [(one.in_features, one.out_features) for one in net if isinstance(one, torch.nn.Linear)]
  assert sizes == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
  assert [one.eps for one in net if isinstance(one, torch.nn.BatchNorm1d)] == [0.8] * 3
  images = np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), np.uint8)
  trained, updates = race_torch.train(images, time.perf_counter() + 2.0)
  assert updates > 5
  drawn = race_torch.drawn(trained, 70, (28, 28, 1))
  assert drawn.shape == (70, 28, 28, 1) and drawn.dtype == np.uint8 and drawn.std() > 0


def test_the_race_says_what_it_needs_before_it_trains():
  if importlib.util.find_spec('torch') is None:
    done = cli.command('benchmarks.race')
    assert done.returncode == FAILED
    cli.refused(done, 'needs PyTorch', 'requirements/benchmark.txt')


FEW = """
import sys
from benchmarks import gpu_images
from gen_ai.core import command_line
gpu_images.JUDGED = {'gan': ('gan', {}), 'broken': ('gan', {'optim.lr': -1.0})}
gpu_images.COLOUR = {'colour_gan': ('gan', {})}
gpu_images.SHARES = dict.fromkeys(('classifier', *gpu_images.JUDGED, *gpu_images.COLOUR, 'sampling'), 1.0)
command_line.run(gpu_images.run)
"""


@pytest.mark.slow
def test_images_on_a_gpu_at_tiny_size_and_a_run_that_fails_is_a_line(tmp_path):
  words = ['--tiny', '--minutes=20', '--samples=100', f'--runs_dir={tmp_path}/runs', f'--out={tmp_path}/report.json']
  done = tiny.command('-c', FEW, *words)
  assert done.returncode == FAILED, done.stderr
  assert 'broken         ended with code 1 before its first updates' in done.stdout
  runs = json.loads((tmp_path / 'report.json').read_text())['runs']
  assert runs['gan']['fd'] > 0 and 'step' not in runs['broken']
  assert runs['colour_gan']['examples_per_second'] > 0 and 'fd' not in runs['colour_gan']
  assert (tmp_path / 'runs.html').stat().st_size > 0 and 'images/s' in done.stdout
  again = tiny.command('-c', FEW, *words)
  cli.refused(again, 'is not empty: name a new folder')
  assert 'finds no GPU here' in tiny.command('-m', 'benchmarks.gpu_images').stderr


STUBBORN = """
import subprocess, sys
from unittest import mock
from benchmarks import gpu_images
process = mock.Mock()
process.wait.side_effect = [*[subprocess.TimeoutExpired('launch.py', 1)] * 2, -9]
with mock.patch('subprocess.Popen', return_value=process):
  gpu_images.FLAGS(['gpu_images', f'--runs_dir={sys.argv[1]}'])
  found = gpu_images.trained('stubborn', 'configs/gan.py', {}, 1.0)
assert process.kill.called, 'it was left to run'
print(gpu_images.line('stubborn', found))
ends, failed = {}, {'exit_code': 1}
def train(name, config, given, seconds):
  ends[name] = 'run.steps' not in given
  return failed
with mock.patch.multiple(gpu_images, trained=train, platform=lambda: 'gpu'):
  gpu_images.run([], {})
print('they end:', *(name for name, end in ends.items() if end), 'of', *ends)
"""


def test_runs_are_ended_by_time_but_for_the_classifier_and_one_that_does_not_stop_is_a_line(tmp_path):
  done = tiny.command('-c', STUBBORN, str(tmp_path / 'runs'))
  assert 'stubborn       ended with code -9 before its first updates' in done.stdout, done.stderr
  assert 'they end: classifier of classifier gan vae diffusion' in done.stdout, done.stderr
