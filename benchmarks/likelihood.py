"""Do tighter bounds and more layers raise the likelihood, as published? python -m benchmarks.likelihood."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import machine
from benchmarks.likelihood_orders import ARMS, ORDERS, Arm, difference, held, spread
from gen_ai import config as config_lib
from gen_ai.core import command_line, text
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.evaluate import metrics, restored
from gen_ai.evaluate.examples import ExamplePass

FLAGS = flags.FLAGS
flags.DEFINE_string('data', 'fashion_mnist', 'images, binarised anew each time they are seen')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the configs say')
flags.DEFINE_list('arms', ['all'], 'to train, all or some of ' + ', '.join(ARMS))
flags.DEFINE_integer('steps', 1500, 'updates of every run', lower_bound=1)
flags.DEFINE_float('lr', 3e-3, 'learning rate, of every arm', lower_bound=0.0)
flags.DEFINE_float(
  'warmup', 0.5, 'share of the updates in which the weight of the KL grows from 0', lower_bound=0.0, upper_bound=1.0
)
flags.DEFINE_integer('seeds', 3, 'runs of every arm: seeds 0, 1, ...', lower_bound=1)
flags.DEFINE_integer('importance_samples', 500, 'latent draws an image', lower_bound=1)
flags.DEFINE_integer('examples', 1000, 'images of the test split, from its first on', lower_bound=2)
flags.DEFINE_string('runs_dir', 'runs/likelihood', 'where the runs go; those that are done are left as they are')
flags.DEFINE_bool('tiny', False, "apply the configs' tiny(): to see that all works")
flags.DEFINE_string('out', '', 'also write the report here, as JSON')


def train(run_dir: Path, arm: Arm, seed: int) -> None:
  """Runs launch.py, which leaves a run that is done as it is. Raises UserError where it fails."""
  reference, steps = f'configs/{arm.config}.py:{FLAGS.data}', FLAGS.steps
  tiny = config_lib.tiny(reference) if FLAGS.tiny else {}
  cadence = dict.fromkeys(('run.steps', 'run.eval_every', 'run.sample_every', 'run.save_every'), steps)
  place = {'data.data_dir': FLAGS.data_dir} if FLAGS.data_dir else {}
  train_as = {'optim.lr': FLAGS.lr, 'loss.kl_warmup_steps': int(FLAGS.warmup * steps)}
  given = {**tiny, **cadence, **train_as, **arm.changes, **place, 'run.seed': seed}
  words = [f'--config.{path}={value}' for path, value in given.items()]
  call = [sys.executable, str(config_lib.SOURCE / 'launch.py'), f'--config={reference}', *words, f'--run_dir={run_dir}']
  code = subprocess.run(call, stdout=sys.stderr).returncode
  if code != DONE:
    raise UserError(f'{run_dir} was not trained (exit code {code}): see the message above.')


def log_likelihoods(run_dir: Path) -> np.ndarray:
  """log p(x) by importance sampling, nats [examples]: all runs see the same binarised images and the same noise."""
  config = restored.open_config(str(run_dir), {}, ('eval',))
  dataset = dataset_lib.load(config.data)
  program, state, _ = restored.restore(str(run_dir), config, dataset.spec, 'latest')
  (nll,), parts, seen = metrics.parse('nll', dataset.spec.kind), [], 0
  one_pass = ExamplePass(
    program,
    config,
    dataset.splits['test'],
    nll.name,
    lambda *given: nll.per_example(*given, FLAGS.importance_samples),
    at_once=False,
  )
  for (found,), mask in one_pass.blocks(state):
    parts.append(np.asarray(found['iwae_nats'][0])[mask > 0])
    seen += len(parts[-1])
    if seen >= FLAGS.examples:
      break
  return np.concatenate(parts)[: FLAGS.examples].astype(np.float64)


def arms() -> dict[str, Arm]:
  """What --arms asks for. Raises UserError for an unknown name."""
  asked = list(ARMS) if list(FLAGS.arms) == ['all'] else FLAGS.arms
  for name in asked:
    if name not in ARMS:
      raise UserError(f"--arms: '{name}' is none of {', '.join(ARMS)}.{text.did_you_mean(name, list(ARMS))}")
  return {name: arm for name, arm in ARMS.items() if name in asked}


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to orders; 1 where one did not come out."""
  if arguments or overrides:
    word = next(iter([*arguments, *overrides]))
    raise UserError(f"'{word}' is not for this command: what it changes in the configs is part of it.")
  chosen, about, begun = arms(), machine.facts(), time.perf_counter()
  values: dict[str, np.ndarray] = {}
  for name, arm in chosen.items():
    rows = []
    for seed in range(FLAGS.seeds):
      run_dir = Path(FLAGS.runs_dir).resolve() / f'{name}-seed{seed}'
      train(run_dir, arm, seed)
      rows.append(log_likelihoods(run_dir))
    values[name] = np.stack(rows)
    minutes = (time.perf_counter() - begun) / 60
    print(f'  {name}: {values[name].mean():.3f} nats, {minutes:.1f} minutes', file=sys.stderr, flush=True)
  print(machine.describe(about, timed=False))  # runs are counted in updates
  print(
    f'{FLAGS.data}, {FLAGS.steps:,} updates, lr {FLAGS.lr:g}, KL warm-up {FLAGS.warmup:.0%}, {FLAGS.seeds} seeds; '
    f'log p(x) in nats of {FLAGS.examples:,} images, {FLAGS.importance_samples:,} draws;'
    f' {minutes:.1f} minutes'
  )
  for name, found in values.items():
    print(f'  {name:20} {found.mean():.3f}  by seed {", ".join(f"{row.mean():.3f}" for row in found)}')
  verdicts = []
  orders = [(low, high) for low, high in ORDERS if low in chosen and high in chosen]
  for low, high in orders:
    images, seeds = difference(values[low], values[high])
    verdicts.append(held(images, seeds))
    verdict = 'PASS' if verdicts[-1] else 'FAIL'
    print(f'{verdict}: {low} < {high}: {spread(images)} over images, {spread(seeds)} over seeds')
  if FLAGS.out:
    told = [{'low': low, 'high': high, 'held': ok} for (low, high), ok in zip(orders, verdicts, strict=True)]
    settings = {
      name: getattr(FLAGS, name) for name in ('data', 'steps', 'lr', 'warmup', 'examples', 'importance_samples')
    }
    report = {
      'machine': about,
      **settings,
      'nats': {name: found.mean(1).tolist() for name, found in values.items()},
      'orders': told,
    }
    Path(FLAGS.out).write_text(json.dumps(report, indent=1) + '\n')
  return DONE if all(verdicts) else FAILED


if __name__ == '__main__':
  command_line.run(run)
