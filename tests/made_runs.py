"""Run directories written with the project's own writer, without training: what comparison is tested on."""

from pathlib import Path

from gen_ai import config as config_lib
from gen_ai.run import directory, provenance
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.directory import Sweep

ABOUT = {
  'git': {'commit': 'c0ffee' * 6, 'dirty': False},
  'versions': {'python': '3.11.7', 'jax': '0.10.2'},
  'devices': ['TFRT_CPU_0'],
  'host': {'name': 'box', 'platform': 'Linux', 'cpus': 2},
  'environment': {},
  'config_file': {'path': 'configs/vae.py', 'argument': '', 'sha256': 'ab' * 32, 'text': ''},
  'argv': ['launch.py'],
  'created': '2026-01-01T00:00:00+00:00',
  'examples_per_step': 64,
  'parameters': 1234,
  'lanes': 1,
}
DATA = {
  'name': 'mnist_5k',
  'version': '1.0.0',
  'split_rule': 'auto',
  'location': '',
  'fingerprint': 'da7a' * 16,
  'spec': {'kind': 'image', 'shape': [28, 28, 1], 'num_classes': 10, 'alphabet': ''},
}
EVALUATION = {
  'split': 'validation',
  'examples': 500,
  'data': DATA['fingerprint'],
  'split_rule': 'auto',
  'averaged': False,
  'seed': 0,
  'observation': '',
  'extractor': '',
  'samples': 0,
  'metrics': ['nll_bpd'],
}
COSTS = {
  'seconds': 12.5,
  'train_seconds': 12.0,
  'examples_per_second': 5333.0,
  'compile_seconds': 1.5,
  'flops_per_step': 2e9,
  'parameters': 1234,
  'peak_memory_bytes': 500_000_000,
  'best': {},
  'final': {},
  'compile': {},
}


def config(**overrides):
  """A config of a VAE whose own metric is nll_bpd; names of `overrides` have __ for the dot."""
  base = config_lib.load('configs/vae.py')
  flat = {path.replace('__', '.'): value for path, value in overrides.items()}
  return config_lib.override(base, {'run.steps': 100, 'eval.best': 'nll_bpd:min', **flat})


def start(path, configuration, about=None, data=None, evaluation=None):
  """A run directory that has been described; returns its writer."""
  run = directory.RunDir.make(path)
  tree = config_lib.to_json(configuration)
  hashes = {'config_hash': provenance.config_hash(tree), 'group_hash': provenance.group_hash(tree)}
  protocol = {'evaluation': {**EVALUATION, **(evaluation or {})}, 'data': {**DATA, **(data or {})}}
  run.write_run({**ABOUT, **hashes, **protocol, **(about or {})})
  run.write_config(tree)
  return run


def finish(run, state, step, total, message='', costs=None):
  """Status, summary and the end of the attempt."""
  run.status(state, step, total, message)
  if state not in ('running', 'waiting'):
    run.write_summary({**COSTS, 'step': step, **(costs or {})})
    run.end_attempt(0, step)


def make(
  path,
  nll=(3.0, 2.0, 1.0),
  state='done',
  message='',
  name='nll_bpd',
  costs=None,
  protocol=None,
  beside=None,
  **overrides,
):
  """A whole run: evaluations `nll` of the metric `name`, evenly over its steps, training rows beside them.

  Args:
    path: of the run directory.
    nll: values of the evaluations.
    state: 'done' reaches config.run.steps; others stop at its middle.
    message: of the status.
    name: of the metric.
    costs: instead of those in `COSTS`.
    protocol: `about`, `data` and `evaluation` of `start`.
    beside: {metric: value} of further metrics, the same at every evaluation.
    overrides: of the config.
  """
  configuration = config(**overrides)
  steps = configuration.run.steps
  run = start(path, configuration, **(protocol or {}))
  run.begin_attempt(0)
  last = steps if state == 'done' else steps // 2
  for i, value in enumerate(nll, 1):
    step = last * i // len(nll)
    run.append_metrics({'step': step, 'kind': 'train', 'loss_nats': 2.0 * value, 'examples_per_second': 5000.0})
    run.append_metrics({'step': step, 'kind': 'eval', name: value, **(beside or {})})
  finish(run, state, last, steps, message, costs)
  return Path(path)


def sweep(runs_dir, overrides, started=None, nll=lambda trial: (3.0, 1.0), **base):
  """A sweep directory over `overrides`, of which the first `started` trials are complete runs."""
  shared = config(**base)
  trials = trials_lib.resolve(shared, overrides)
  made = Sweep.create(str(runs_dir), 'lr', shared, trials, {'engine': 'local'})
  for trial in made.trials[:started]:
    names = {path.replace('.', '__'): value for path, value in trial.overrides.items()}
    make(made.run_dir(trial), nll(trial), **base, **names)
  return made


STAMP = {
  'data': 'mnist_5k',
  'data_hash': DATA['fingerprint'],
  'split': 'test',
  'split_rule': 'auto',
  'split_hash': '5b' * 32,
  'examples': 500,
  'versions': 'python 3.11.7, jax 0.10.2',
  'devices': '1 x cpu',
}
FEATURES = {
  'extractor': 'classifier',
  'extractor_weights': 'e1' * 32,
  'resize': 'none',
  'samples': 10000,
  'sample_seed': 0,
  'reference_examples': 500,
  'sampler.temperature': '1.0',
  'ema': False,
}


def evaluate(path, figures, split='test', step=100, at=0, stamp=None, own=None, **more):
  """Adds an evaluation to a run.

  Args:
    path: of the run directory.
    figures: {name: value, (value, low, high) or {'value': ..., 'error': ...}}.
    split: that was evaluated on.
    step: of the checkpoint.
    at: second of the day it happened.
    stamp: beside and instead of the fields of `STAMP`, which all figures share; None takes a field away.
    own: the same for `FEATURES`, those of one figure.
    more: `pictures`, `texts`, `notes`.
  """
  told = {}
  for name, value in figures.items():
    ends = dict(zip(('value', 'low', 'high'), value, strict=True)) if isinstance(value, tuple) else {'value': value}
    told[name] = {**(value if isinstance(value, dict) else ends), 'stamp': _fields({**FEATURES, **(own or {})})}
  directory.append_evaluation(
    path,
    {
      'time': f'2026-01-02T00:00:{at:02d}+00:00',
      'step': step,
      'split': split,
      'seconds': 12.3,
      'stamp': _fields({**STAMP, 'split': split, **(stamp or {})}),
      'figures': told,
      **more,
    },
  )


def _fields(stamp):
  return {name: value for name, value in stamp.items() if value is not None}
