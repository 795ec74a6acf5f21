"""Run directories with pictures or texts, as training leaves them, for the tests of the HTML report."""

import made_runs
import numpy as np

from gen_ai.data import pictures
from gen_ai.run import directory, provenance

LRS = (9.0, 0.002, 10.0, 0.5)  # neither in their order nor in that of their texts
STEPS, EVERY = 200, 20
METRICS = [('nll_bpd', 'min'), ('accuracy', 'max')]
HOSTILE = 'loss is NaN </script><b id="hostile">at step 120</b>'
ENDS = {(10.0, 2): ('diverged', 120, HOSTILE), (9.0, 1): ('stopped', 180, '')}


def make_run(path, lr, seed, state='done', name='vae', steps=STEPS, text=False, message=''):
  """A run directory as training leaves it, with curves that tell learning rate and seed apart."""
  config = {
    'experiment': 'lm' if text else 'vae',
    'optim': {'lr': lr, 'b1': 0.9},
    'data': {'seed': 0, 'name': 'digits'},
    'run': {'name': name, 'seed': seed, 'steps': STEPS},
    'eval': {'seed': 0, 'best': 'nll_bpd:min'},
  }
  run = directory.RunDir.make(path)
  run.write_config(config)
  run.write_run(
    {
      'argv': ['launch.py', '--config=configs/vae.py', f'--config.optim.lr={lr}'],
      'examples_per_step': 32,
      'lanes': 4,
      'config_hash': provenance.config_hash(config),
      'group_hash': provenance.group_hash(config),
      'parameters': 1000,
      'git': {'commit': 'a' * 40, 'dirty': False},
      'versions': {'jax': '0.10.2'},
      'devices': ['cpu:0'],
      'data': {'name': 'digits', 'version': '1.0.0', 'fingerprint': 'f' * 64, 'split_rule': 'train|validation'},
      'evaluation': {
        'split': 'validation',
        'examples': 500,
        'averaged': False,
        'seed': 0,
        'observation': '',
        'extractor': '',
        'samples': 0,
      },
    }
  )
  draw = np.random.default_rng([seed, int(lr * 1000)])
  with run.lease():
    run.begin_attempt(0)
    for step in range(EVERY, steps + 1, EVERY):
      loss = 1 + 1 / (step * lr) ** 0.1 + 0.01 * seed
      run.append_metrics({'step': step, 'kind': 'train', 'loss_nats': loss + draw.normal() * 0.1})
      run.append_metrics({'step': step, 'kind': 'eval', 'nll_bpd': loss, 'accuracy': 1 / loss})
      write_samples(run.samples, step, draw, text, f'lr {lr} seed {seed} step {step}')
    run.status(state, steps, STEPS, message)
    costs = {'seconds': 10.0, 'examples_per_second': 640.0, 'flops_per_step': 1e9, 'peak_memory_bytes': 2**30}
    run.write_summary(costs)
  return run.path


def write_samples(folder, step, draw, text, says):
  if text:
    (folder / f'step_{step:08d}.txt').write_text(f'first {says}\n{"-" * 40}\nsecond {says}\n')
    return
  for prefix in ('', 'reconstructions_'):
    pictures.save_grid(folder / f'{prefix}step_{step:08d}.png', draw.integers(0, 256, (4, 8, 8, 1)).astype(np.uint8))


def make_sweep(root):
  for lr in LRS:
    for seed in range(3):
      state, steps, message = ENDS.get((lr, seed), ('done', STEPS, ''))
      make_run(root / f'lr={lr},seed={seed}', lr, seed, state, steps=steps, message=message)


def evaluate_sweep(root):
  """An evaluation of every run of `make_sweep` but those with the learning rate 0.5: each group its own cost."""
  draw = np.random.default_rng(0)
  for lr in LRS:
    for seed in range(3):
      path = root / f'lr={lr},seed={seed}'
      if lr == 0.5:
        continue
      fd = 40 / lr**0.1 + seed
      (path / 'evaluations').mkdir()
      figures = {'fd': (fd, fd - 0.5, fd + 0.7), 'kid': {'value': 1 / lr, 'error': 0.01 / lr}, 'recall': 0.5 + lr / 50}
      made_runs.evaluate(
        path,
        {**figures, 'c_t': -0.3},
        step=STEPS,
        pictures={'closest_pairs': pairs(path, draw)},
        notes=['n < features: 500 < 512'],
      )
      made_runs.evaluate(path, {'precision': 0.9}, step=STEPS, own={'sample_seed': seed})  # stamps that do not agree
      directory.RunDir(path).write_summary(
        {**directory.read_summary(path), 'seconds': {9.0: 30, 0.002: 10, 10.0: 20}[lr]}
      )


def pairs(path, draw):
  """A picture of ten pairs, in the run directory; returns its path there."""
  name = f'evaluations/step_{STEPS:08d}_closest_pairs.png'
  pictures.save_grid(path / name, draw.integers(0, 256, (20, 28, 28, 1)).astype(np.uint8), columns=10)
  return name
