"""Every method that draws images, under one budget and one protocol: python -m benchmarks.families [--minutes=10]."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from benchmarks import families_picture, families_table, machine, ours, real_data
from gen_ai import config as config_lib
from gen_ai.core import command_line, files, text
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.data.dataset import Dataset
from gen_ai.evaluate import metrics
from gen_ai.evaluate.metrics.metric import FEATURES
from gen_ai.run import directory

FLAGS = flags.FLAGS
flags.DEFINE_string('data', 'fashion_mnist', 'labelled images: a prepared data set')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the configs say')
flags.DEFINE_list('methods', ['all'], 'names in configs/, or all')
flags.DEFINE_float(
  'minutes', 10.0, 'of training a run: its updates are what fits, by the speed measured before', lower_bound=0.0
)
flags.DEFINE_integer('seeds', 3, 'runs of a method: seeds 0, 1, ...', lower_bound=1)
flags.DEFINE_integer('samples', 10_000, 'that the figures of a run are measured on', lower_bound=100)
flags.DEFINE_integer(
  'importance_samples', 20, 'latent draws an image, for the likelihood of methods that have any', lower_bound=1
)
flags.DEFINE_string('metrics', 'fd,kid,prdc,modes,memorisation', 'of gen_ai.evaluate; nll is added where there is one')
flags.DEFINE_string(
  'extractor',
  '',
  'of features: classifier:RUN_DIR or inception:FILE; empty: configs/classifier.py '
  'is trained on the data, or found trained, under --runs_dir',
)
flags.DEFINE_string('runs_dir', 'runs/families', 'where the runs go; those that are done are left as they are')
flags.DEFINE_string(
  'out',
  '',
  'report as JSON, written after every run; one that is there is gone on with; empty: report.json under --runs_dir',
)
flags.DEFINE_string('table', '', 'also write the table to this Markdown file')
flags.DEFINE_string('picture', '', 'also write a PNG with a row of samples a method')
flags.DEFINE_bool('tiny', False, "apply the configs' tiny() instead of --minutes: to see that all works")

FAMILIES = {  # by experiment
  'VAE': ('vae', 'vqvae', 'image_tokens', 'vae_gan'),
  'GAN': ('gan', 'inpaint_gan'),
  'diffusion': ('diffusion', 'meanflow'),
}
WARM_SECONDS, SPEED_SECONDS = 5.0, 10.0  # before the speed is measured (an idle core is faster at first), and for it
SCHEDULES = ('loss.autoencoder_steps', 'loss.kl_warmup_steps', 'optim.warmup_steps')  # in updates: stretched likewise


def family(config: ConfigDict) -> str | None:
  """'VAE', 'GAN' or 'diffusion'; None for what does not draw images, or not without another run."""
  return next((name for name, experiments in FAMILIES.items() if config.experiment in experiments), None)


def methods(asked: Sequence[str]) -> dict[str, str]:
  """{name in configs/: family} of what --methods says, family by family. Raises UserError for an unknown name."""
  found = {
    path.stem: family(config_lib.load(f'configs/{path.name}'))
    for path in sorted((config_lib.SOURCE / 'configs').glob('[!_]*.py'))
  }
  known = {name: of for want in FAMILIES for name, of in found.items() if of == want}
  if list(asked) == ['all']:
    return known
  for name in asked:
    if name not in known:
      raise UserError(f"--methods: '{name}' is none of {', '.join(known)}.{text.did_you_mean(name, known)}")
  return {name: of for name, of in known.items() if name in asked}


def plan(name: str, dataset: Dataset) -> dict[str, Any]:
  """Overrides that make configs/NAME.py last --minutes, the speed that they rest on, and whether it has a likelihood.

  Updates are a multiple of what lies between two rows of the record; whatever the config schedules in updates is
  stretched with them.
  """
  reference = f'configs/{name}.py:{FLAGS.data}'
  config = config_lib.load(reference)
  if FLAGS.tiny:
    config = config_lib.override(config, config_lib.tiny(reference))
    return {
      'speed': None,
      'overrides': {**config_lib.tiny(reference)},
      'steps': config.run.steps,
      'weighs': 'log_weights' in ours.program(config, dataset).tasks,
    }
  own = ours.Ours(config, dataset)
  own.run(WARM_SECONDS)
  steps, seconds = own.run(SPEED_SECONDS)
  every = config.run.log_every
  total = max(int(FLAGS.minutes * 60 * steps / seconds) // every, 1) * every
  cadence = {f'run.{what}_every': total for what in ('eval', 'sample', 'save')}
  stretched = {}
  for path in SCHEDULES:
    section, field = path.split('.')
    if config[section].get(field):
      stretched[path] = max(round(config[section][field] * total / config.run.steps), 1)
  return {
    'speed': steps / seconds,
    'steps': total,
    'overrides': {'run.steps': total, **cadence, **stretched},
    'weighs': own.weighs,
  }


def launch(run_dir: Path, name: str, seed: int, overrides: Mapping[str, Any]) -> tuple[int, list[str]]:
  """(exit code, the words after `python launch.py` that anybody can repeat it by); its output is on stderr."""
  given = {**overrides, 'run.seed': seed} | ({'data.data_dir': FLAGS.data_dir} if FLAGS.data_dir else {})
  words = [f'--config=configs/{name}.py:{FLAGS.data}']
  words += [f'--config.{path}={value}' for path, value in given.items()]
  call = [sys.executable, str(config_lib.SOURCE / 'launch.py'), *words, f'--run_dir={run_dir}']
  return subprocess.run(call, stdout=sys.stderr).returncode, words


def evaluated(run_dir: Path, steps: int, judge: Mapping[str, Any]) -> dict[str, Any] | None:
  """The newest evaluation of the last checkpoint that was made as this command would make it."""
  figures = metrics.figures(metrics.parse(FLAGS.metrics, 'image'))
  for row in reversed(directory.read_evaluations(run_dir)):
    stamps = [row['figures'][name]['stamp'] for name in figures if name in row['figures']]
    same = len(stamps) == len(figures) and all(stamp['samples'] == FLAGS.samples for stamp in stamps)
    same = same and all(stamp.get(name, value) == value for stamp in stamps for name, value in judge.items())
    draws = row['figures'].get('iwae_nats', {'stamp': {}})['stamp'].get('importance_samples', FLAGS.importance_samples)
    if row['step'] == steps and row['split'] == 'test' and same and draws == FLAGS.importance_samples:
      return row
  return None


def evaluate(
  run_dir: Path, planned: Mapping[str, Any], extractor: str, judge: Mapping[str, Any]
) -> dict[str, Any] | None:
  """The evaluation of a run that is done, from its record if it is there; None where it fails."""
  row = evaluated(run_dir, planned['steps'], judge)
  if row is None:
    likelihood = ',nll' if planned['weighs'] else ''
    draws = [f'--config.eval.importance_samples={FLAGS.importance_samples}'] if planned['weighs'] else []
    words = [
      str(run_dir),
      f'--metrics={FLAGS.metrics}{likelihood}',
      f'--samples={FLAGS.samples}',
      f'--extractor={extractor}',
      *draws,
    ]
    call = [sys.executable, '-m', 'gen_ai.evaluate', *words]
    code = subprocess.run(call, stdout=sys.stderr, cwd=config_lib.SOURCE).returncode
    row = evaluated(run_dir, planned['steps'], judge) if code == DONE else None
  return row


def one_run(
  name: str, of: str, seed: int, planned: Mapping[str, Any], extractor: str, judge: Mapping[str, Any]
) -> dict[str, Any]:
  """Trains and evaluates: a row of the report. A run that fails is a row that says so."""
  run_dir = Path(FLAGS.runs_dir).resolve() / f'{name}-seed{seed}'
  code, words = launch(run_dir, name, seed, planned['overrides'])
  row: dict[str, Any] = {
    'method': name,
    'family': of,
    'seed': seed,
    'command': f'python launch.py {shlex.join(words)}',
    'steps': planned['steps'],
    'state': 'failed',
    'exit_code': code,
  }
  if code != DONE:
    return row
  told, evaluation = directory.read_summary(run_dir), evaluate(run_dir, planned, extractor, judge)
  if evaluation is None:
    return row | {'state': 'not evaluated'}
  return row | {
    'state': 'done',
    'parameters': told['parameters'],
    'train_seconds': told['train_seconds'],
    'seconds': told['seconds'],
    'evaluation_seconds': evaluation['seconds'],
    'run_dir': run_dir.name,
    'figures': evaluation['figures'],
    'stamp': evaluation['stamp'],
  }


def settings(judge: Mapping[str, Any]) -> dict[str, Any]:
  """What a report that is gone on with has to agree on; `judge` is what the extractor says of itself."""
  named = {
    name: getattr(FLAGS, name) for name in ('data', 'minutes', 'samples', 'importance_samples', 'metrics', 'tiny')
  }
  return named | dict(judge)


def begin(about: dict[str, Any], judge: Mapping[str, Any]) -> dict[str, Any]:
  """The report: that of --out if it was made in the same way. Raises UserError where it was not."""
  asked = settings(judge)
  new = {'machine': about, 'settings': asked, 'plans': {}, 'runs': []}
  if not report_file().is_file():
    return new
  report = json.loads(report_file().read_text())
  unlike = [
    f'{name}: {report["settings"].get(name)} there, {value} here'
    for name, value in asked.items()
    if value != report['settings'].get(name)
  ]
  if unlike:
    raise UserError(
      f'--out={report_file()} holds a report that was made in another way ({"; ".join(unlike)}): give '
      'the same flags, or another file.'
    )
  # Families stay together in table and picture; JSON has sorted them away.
  plans = report['plans']
  return report | {'plans': {name: plans[name] for name in methods(['all']) if name in plans}}


def report_file() -> Path:
  """--out, or a file beside the runs: without a report nothing would know how long they were to be."""
  return Path(FLAGS.out) if FLAGS.out else Path(FLAGS.runs_dir) / 'report.json'


def write(report: Mapping[str, Any]) -> None:
  """--out and --table as far as there are results."""
  files.write_atomic(report_file(), files.dumps(report, indent=1) + '\n')
  if FLAGS.table:
    files.write_atomic(Path(FLAGS.table), families_table.document(report))


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to report, table and picture; 1 where a run failed."""
  if arguments or overrides:
    word = next(iter([*arguments, *overrides]))
    raise UserError(f"'{word}' is not for this command: it compares the configs as they are.")
  for metric in metrics.parse(FLAGS.metrics, 'image'):
    if metric.of != FEATURES:
      raise UserError(f"--metrics: '{metric.name}' is not of samples; methods that have a likelihood get it anyway.")
  names, about, begun = methods(FLAGS.methods), machine.facts(), time.perf_counter()
  request = real_data.Request(FLAGS.data, FLAGS.data_dir, FLAGS.extractor, FLAGS.runs_dir, FLAGS.samples, 0)
  data = real_data.open_data(request, {})
  Path(FLAGS.runs_dir).mkdir(parents=True, exist_ok=True)
  judge = data.load_extractor().describe()
  report = begin(about, judge)
  for name in names:
    if name not in report['plans']:
      report['plans'][name] = plan(name, data.dataset)
      write(report)
  # Seed by seed, so that a broken-off command has compared all methods.
  for seed in range(FLAGS.seeds):
    for name, of in names.items():
      if any((row['method'], row['seed'], row['state']) == (name, seed, 'done') for row in report['runs']):
        continue
      report['runs'] = [row for row in report['runs'] if (row['method'], row['seed']) != (name, seed)]
      report['runs'].append(one_run(name, of, seed, report['plans'][name], data.extractor, judge))
      write(report)
      hours = (time.perf_counter() - begun) / 3600
      print(f'  {name}, seed {seed}: {report["runs"][-1]["state"]}, {hours:.2f} h', file=sys.stderr, flush=True)
  write(report)
  print(machine.describe(about))
  print(families_table.text(report))
  if FLAGS.picture:
    families_picture.draw(Path(FLAGS.picture), report, Path(FLAGS.runs_dir), data)
  failed = [row for row in report['runs'] if row['state'] != 'done']
  return FAILED if failed else DONE


if __name__ == '__main__':
  command_line.run(run)
