"""Figures of a trained run, or of samples made elsewhere, on a whole split, under one stated protocol.

python -m gen_ai.evaluate RUN_DIR [--metrics=fd,kid,prdc,nll,memorisation] [--split=test] [--samples=10000]
    [--extractor=classifier:RUN_DIR|inception:FILE|random] [--out=report.json]
python -m gen_ai.evaluate --samples_file=x.npy --data=fashion_mnist [--run_dir=runs/theirs] [--metrics=...]
"""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from gen_ai import command, external, older_runs, pictures, record, restored, spread
from gen_ai import config as config_lib
from gen_ai.data import identity
from gen_ai.data.dataset import Dataset
from gen_ai.errors import UserError
from gen_ai.judge import NLL, Judge, parse_names, protocol, sampler_stamp, shared_stamp
from gen_ai.metrics.quality import Figure, Found
from gen_ai.program import Program
from gen_ai.resume import load_data
from gen_ai.types import State

FLAGS = flags.FLAGS
BESIDE = 'data_spread'  # of a stamp
flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'which split')
flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
flags.DEFINE_string('out', '', 'also write the report, with its protocol, to this JSON file')
flags.DEFINE_string('metrics', None, 'figures besides the own ones of the method: fd, fd_infinity, kid, prdc, is, '
                    'modes, ms_ssim, sliced_wasserstein, nll, '
                    'memorisation; config.eval.metrics if not given')  # fmt: skip
flags.DEFINE_integer('samples', None, 'samples they are measured on; config.eval.samples if not given', lower_bound=2)
flags.DEFINE_string('extractor', None, 'of features: classifier:RUN_DIR, inception:FILE or random (weak); '
                    'config.eval.extractor if not given')  # fmt: skip
flags.DEFINE_string('samples_file', '', 'judge the samples in this .npy file instead of a run: uint8 [N, H, W, C]')
flags.DEFINE_string('data', '', 'with --samples_file: the data set they are compared with')
flags.DEFINE_string('run_dir', '', 'with --samples_file: the directory that makes them a run to compare')


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
  """Config overrides, those of the flags included."""
  named = {'eval.samples': FLAGS.samples, 'eval.extractor': FLAGS.extractor}
  return {**given, **{path: value for path, value in named.items() if value is not None}}


def _refuse_idle(names: Sequence[str], kind: str, given: Mapping[str, Any]) -> None:
  """Refuses what figures `names` of data of this kind would not read, and what is said twice."""
  drawn = [name for name in names if name != NLL]
  samples, features = 'figures of samples (--metrics)', 'figures of images (--metrics)'
  now = [*([samples] if drawn else []), *([features] if drawn and kind == 'image' else [])]
  here = f'an evaluation of {", ".join(names) or "the own figures of the method"}'
  command.refuse_idle({'samples': (samples,), 'extractor': (features,)}, now, here)
  for path in given:
    name = path.removeprefix('eval.')
    if name in ('metrics', 'samples', 'extractor') and FLAGS[name].value is not None:
      raise UserError(f'--{name} and config.{path} say the same thing twice: leave one of them out.')
    idle = {'metrics_every': 'training', 'nll_draws': '' if NLL in names else f"the figure '{NLL}'",
            'samples': '' if drawn else samples, 'extractor': '' if features in now else features,
            'best': '' if FLAGS.step == 'best' else '--step=best'}.get(name)  # fmt: skip
    if idle and path.startswith('eval.'):
      raise UserError(f'config.{path} would do nothing: it is for {idle}, and this is {here}. Leave it out.')


def row_of(found: Found, dataset: Dataset, split: str, step: int, seconds: float) -> dict[str, Any]:
  """The evaluation as a line of evaluations.jsonl."""
  return {
    'time': datetime.now(UTC).isoformat(timespec='seconds'), 'step': step, 'split': split, 'seconds': seconds,
    'stamp': shared_stamp(dataset, split),
    'figures': {name: figure.record() for name, figure in found.figures.items()},
    'pictures': {name: f'evaluations/step_{step:08d}_{split}_{name}.png' for name in found.pictures},
    'texts': {name: list(texts) for name, texts in found.texts.items()}, 'notes': found.notes,
  }  # fmt: skip


def place(run_dir: str) -> Path | None:
  """Where the evaluation is to be recorded; None where that cannot be written and --out shall hold it alone.

  Raises:
    UserError: neither can be written. Nothing has been computed then.
  """
  if FLAGS.out:
    _check_out()
  path = Path(run_dir)
  why = record.unwritable(path / 'evaluations.jsonl', parents=True)
  why = why or record.unwritable(path / 'evaluations' / 'picture.png', parents=True)
  if not why:
    return path
  if not FLAGS.out:
    raise UserError(f'{run_dir} cannot be written ({why}), and holds its evaluations: --out=FILE.json keeps this one '
                    'elsewhere.')  # fmt: skip
  print(f'note: {run_dir} cannot be written ({why}): --out={FLAGS.out} alone holds the evaluation', file=sys.stderr)
  return None


def keep(run_dir: str, row: dict[str, Any], found: Found, at: Path | None) -> dict[str, Any]:
  """Writes --out, then adds the evaluation with its pictures to the record `at`; without one they lie beside --out.

  What cannot be kept is shown all the same.
  """
  if at is None:
    out = Path(FLAGS.out)
    row['pictures'] = {name: str(out.with_name(f'{out.stem}_{name}.png')) for name in found.pictures}
  try:
    if FLAGS.out:
      write_report(FLAGS.out, {'run': run_dir, **row})
    for name, (images, columns) in found.pictures.items():
      pictures.save_grid((at or Path()) / row['pictures'][name], images, columns)
    if at is not None:
      record.append_evaluation(at, row)
  except UserError:
    show(f'{run_dir}, step {row["step"]}, not kept:', {**row, 'pictures': {}})
    raise
  return row


def show(title: str, row: Mapping[str, Any]) -> None:
  """Prints the figures with their intervals, the pictures, and what there is to say."""
  print(title)
  for name, figure in row['figures'].items():
    told = f'  [{figure["low"]:.6g}, {figure["high"]:.6g}]' if 'low' in figure else ''
    if BESIDE in figure.get('stamp', {}):
      told += f'  ({figure["stamp"][BESIDE]:.6g} in the training images)'
    print(f'  {name:24} {figure["value"]:<12.6g}{told}')
  if any('low' in figure for figure in row['figures'].values()):
    print('  in brackets: 95 % intervals over examples or samples; other seeds of training vary more')
  for note in row['notes']:
    print(f'  note: {note}')
  for name, path in row['pictures'].items():
    print(f'  {name}: {path}')


def _check_out() -> None:
  """Raises UserError where --out cannot be written, before anything is computed."""
  why = record.unwritable(FLAGS.out)
  if why:
    raise UserError(f'--out={FLAGS.out} cannot be written: {why}.')


def write_report(out: str, report: Mapping[str, Any]) -> None:
  """Writes --out. Raises UserError where that is not possible."""
  try:
    Path(out).write_text(record.dumps(report, indent=2) + '\n', encoding='utf-8')
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror}.') from error


def _spread(program: Program, state: State, config: ConfigDict, dataset: Dataset) -> dict[str, Figure]:
  """That of the samples of fixed latents, as in training; {} where they have none."""
  n = config.sample.n
  if not program.draws or dataset.spec.kind != 'image' or n < spread.FEWEST:
    return {}
  (images,) = program.layout.per_lane(program.sampler(state, n)(state))
  stamp = {'samples': n, 'sample_seed': config.eval.seed, **_beside(dataset)} | sampler_stamp(config)
  return {spread.NAME: Figure(spread.of_images(images), stamp=stamp)}


def _beside(dataset: Dataset) -> dict[str, float]:
  """What the spread of samples is read beside: that of the training images, to digits that no machine changes."""
  found = spread.of_source(dataset.splits['train'])
  return {} if found is None else {BESIDE: round(found, 4)}


def evaluate_run(run_dir: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
  """Evaluates a checkpoint, adds the evaluation to the run's record and returns it."""
  config = restored.open_config(run_dir, _overrides(overrides), ('eval', *config_lib.PLACES))
  at = place(run_dir)
  dataset = load_data(run_dir, config)
  identity.check(dataset, record.read_run(run_dir)['data']['fingerprint'], run_dir)
  names = parse_names(config.eval.metrics if FLAGS.metrics is None else FLAGS.metrics, dataset.spec.kind)
  _refuse_idle(names, dataset.spec.kind, overrides)
  asked = protocol(config, dataset, FLAGS.split, names)
  program, state, step = restored.restore(run_dir, config, dataset.spec, FLAGS.step)
  started = time.perf_counter()
  judge = Judge(program, config, dataset, asked)
  (found,) = judge.lanes(state)
  # Without latent draws 'nll' is what eval_step gives: not to be computed twice.
  own = {} if NLL in names and not program.weighs else judge.likelihoods(state)
  found = found._replace(figures={**own, **_spread(program, state, config, dataset), **found.figures})
  row = row_of(found, dataset, FLAGS.split, step, time.perf_counter() - started)
  added = older_runs.read_config(run_dir)[1]
  row['notes'] += [older_runs.note(run_dir, added)] if added else []
  return keep(run_dir, row, found, at)


def evaluate_file(overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
  """Judges samples made elsewhere; returns the run directory that holds the evaluation, and the evaluation."""
  started = time.perf_counter()
  run_dir = FLAGS.run_dir or f'runs/external/{Path(FLAGS.samples_file).stem}'
  at = place(run_dir)
  config, dataset = external.open_data(FLAGS.data, _overrides(overrides))
  names = parse_names('fd,kid,prdc' if FLAGS.metrics is None else FLAGS.metrics, dataset.spec.kind)
  _refuse_idle(names, dataset.spec.kind, overrides)
  images = external.read_samples(FLAGS.samples_file, dataset.spec, FLAGS.samples)
  config = config_lib.override(config, {'eval.samples': len(images)})
  found, content = external.judge(images, config, dataset, protocol(config, dataset, FLAGS.split, names))
  if dataset.spec.kind == 'image':
    stamp = {'samples': len(images), **_beside(dataset)}
    found = found._replace(figures={spread.NAME: Figure(spread.of_images(images), stamp=stamp), **found.figures})
  if at is not None:
    external.run_directory(run_dir, config, dataset, FLAGS.samples_file, content)
  row = row_of(found, dataset, FLAGS.split, config.run.steps, time.perf_counter() - started)
  return run_dir, keep(run_dir, row, found, at)


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Evaluates and prints."""
  command.refuse_idle(
    {'data': ('--samples_file',), 'run_dir': ('--samples_file',), 'step': ('a run',)},
    ['--samples_file' if FLAGS.samples_file else 'a run'],
    'samples of a file, which have no checkpoint' if FLAGS.samples_file else 'a run, which has its own data',
  )
  if FLAGS.samples_file:
    if arguments or not FLAGS.data:
      raise UserError('--samples_file=FILE.npy goes with --data=NAME, the data set to compare with, and with no run.')
    run_dir, row = evaluate_file(overrides)
    what = f'{FLAGS.samples_file}, as {run_dir}'
  else:
    run_dir = restored.one_argument(arguments, 'gen_ai.evaluate')
    row = evaluate_run(run_dir, overrides)
    what = f'{run_dir}, step {row["step"]}'
  stamp = row['stamp']
  show(f'{what}, {row["split"]} split of {stamp["data"]}: {stamp["examples"]:,} {stamp["form"]}', row)
  return 0


if __name__ == '__main__':
  command.run(main)
