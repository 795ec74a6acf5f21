"""A recorded run, run again and compared row by row: python -m gen_ai.reproduce RUN_DIR [--out=DIR] [--steps=N]."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from gen_ai import config as config_lib
from gen_ai.compare import reproducibility
from gen_ai.compare.reproducibility import DIFFERENT, IDENTICAL, WITHIN, Recorded, Tolerance
from gen_ai.core import command_line, files, places, surroundings
from gen_ai.core.errors import DONE, FAILED, REQUEUE, Diverged, UserError
from gen_ai.run import directory, older_runs
from gen_ai.run.info import Origin
from gen_ai.sweep.directory import is_sweep

FLAGS = flags.FLAGS
flags.DEFINE_string('out', '', 'the new run directory; by default a fresh one next to the others')
flags.DEFINE_integer('steps', 0, 'compare the first N updates only; 0: all that were recorded')
flags.DEFINE_string('report', '', 'also write the comparison, row by row, to this JSON file')
flags.DEFINE_float('rtol', 1e-3, 'relative part of the tolerance', lower_bound=0)
flags.DEFINE_float('atol', 1e-5, "absolute part of the tolerance, in the metric's unit", lower_bound=0)
flags.DEFINE_string('compilation_cache', places.COMPILED, "where compiled programs are kept; '' for nowhere")


def fresh_directory(recorded: Recorded) -> Path:
  """A new run directory next to the recorded one, and next to the sweep of one that belongs to a sweep."""
  folder, name = recorded.path.resolve().parent, recorded.config.run.name
  if is_sweep(folder):
    folder = folder.parent
  return directory.RunDir.create(folder.parent if folder.name == name else folder, name).path


def _last_step(recorded: Recorded, steps: int) -> int:
  """The update up to which is compared: --steps, or where the record ends."""
  first, last = recorded.rows[0]['step'], max(recorded.rows[-1]['step'], recorded.diverged)
  if steps < 0 or 0 < steps < first:
    raise UserError(f'--steps={steps} is before the first row of {recorded.path}, that of step {first}.')
  return min(steps or last, last)


def _run_again(recorded: Recorded, out: str, last: int) -> tuple[Path, int]:
  """Trains the recorded config up to update `last`; (run directory, exit code). A run in `out` is continued."""
  surroundings.load()
  from gen_ai.parallel import compilation_cache
  from gen_ai.run import data_identity
  from gen_ai.train import open_run, resume

  config = recorded.config
  if out and Path(out).resolve() == recorded.path.resolve():
    raise UserError(f'--out={out} is the run itself: name a new directory.')
  if directory.is_run(out):
    open_run.resume_config(out, config)  # refuses the run of another config
  config_lib.validate(config)
  data_identity.check(resume.load_data(recorded.path, config), recorded.run.data.fingerprint, recorded.path)
  path = Path(out) if out else fresh_directory(recorded)
  cache = compilation_cache.use_cache(FLAGS.compilation_cache)
  origin = Origin(sys.argv, recorded.run.config_file, recorded.run.overrides, cache, recorded.run.parent)
  limit = math.ceil(last / config.run.log_every) * config.run.log_every
  try:
    return path, open_run.work(config, str(path), '', origin, limit=limit if limit < config.run.steps else 0)
  except Diverged as error:
    print(f'diverged   {error}')
    return path, DONE


def _write_report(report: Mapping[str, Any]) -> None:
  try:
    Path(FLAGS.report).write_text(files.dumps(report, indent=2) + '\n')
  except OSError as error:
    raise UserError(f'--report={FLAGS.report} cannot be written: {error.strerror}.') from error


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Runs again, compares and prints; exit code 0 identical or within tolerance, 1 different."""
  for name in overrides:
    if name not in config_lib.PLACES:
      raise UserError(
        f'--config.{name} would make it another run: leave it out. Where its data moved, config.'
        f'{", config.".join(config_lib.PLACES)} say where it is.'
      )
  if len(arguments) != 1:
    raise UserError(
      f'gen_ai.reproduce takes one run directory: python -m gen_ai.reproduce RUN_DIR (got {arguments or "none"}).'
    )
  if FLAGS.report and not Path(FLAGS.report).parent.is_dir():
    raise UserError(f'--report={FLAGS.report} lies in no folder: make {Path(FLAGS.report).parent} first.')
  recorded = reproducibility.read(arguments[0])
  recorded = recorded._replace(config=config_lib.override(recorded.config, overrides))
  tolerance = Tolerance(FLAGS.rtol, FLAGS.atol)
  last = _last_step(recorded, FLAGS.steps)
  lanes = recorded.run.lanes
  if lanes > 1:
    print(f'note       it was one of {lanes} lanes of a packed sweep and runs alone now: expect {WITHIN}, not bits')
  if recorded.defaults:
    print(f'note       {older_runs.note(recorded.path, recorded.defaults)}')
  path, code = _run_again(recorded, FLAGS.out, last)
  reached = max((row['step'] for row in directory.read_metrics(path)), default=0)
  if code == REQUEUE and reached < last:
    print(f'interrupted at step {reached:,}. Go on with')
    more: dict[str, Any] = {'steps': last} if FLAGS.steps else {}
    more |= {f'config.{name}': value for name, value in overrides.items()}
    print(f'  {command_line.printed("gen_ai.reproduce", recorded.path, out=path, **more)}')
    return REQUEUE
  again = reproducibility.read(path)
  if again.run.data.fingerprint != recorded.run.data.fingerprint:
    raise UserError(f'{path} was trained on other data than {recorded.path}: name another --out.')
  for step in recorded.ends:
    print(f'note       it ended at step {step:,} before it was given more: the evaluation there is not compared')
  again = again._replace(ends=recorded.ends)
  return _conclude(recorded.until(last), again.until(last), tolerance)


def _conclude(recorded: Recorded, again: Recorded, tolerance: Tolerance) -> int:
  rows = reproducibility.compare_rows(recorded.rows, again.rows, tolerance)
  verdict, why = reproducibility.verdict_of(rows, (recorded.diverged, again.diverged))
  differences = reproducibility.origin_differences(recorded.run, again.run)
  print(f'recorded   {recorded.path} ({recorded.state})')
  print(f'again      {again.path}')
  for name, (there, here) in differences.items():
    print(f'differs    {name}: {there} there, {here} here')
  print(f'tolerance  {tolerance}')
  print('\n'.join(reproducibility.table(rows)))
  print(f'verdict    {verdict}: {why}')
  if FLAGS.report:
    changed, outside = (
      reproducibility.first_unlike(rows, IDENTICAL),
      reproducibility.first_unlike(rows, IDENTICAL, WITHIN),
    )
    _write_report(
      {
        'recorded': str(recorded.path),
        'again': str(again.path),
        'verdict': verdict,
        'why': why,
        'tolerance': tolerance._asdict(),
        'differences': differences,
        'defaults': recorded.defaults,
        'data': recorded.run.data.fingerprint,
        'diverged': {'recorded': recorded.diverged, 'again': again.diverged},
        'first_changed': changed and changed._asdict(),
        'first_different': outside and outside._asdict(),
        'rows': [row._asdict() for row in rows],
      }
    )
  return FAILED if verdict == DIFFERENT else DONE


if __name__ == '__main__':
  command_line.run(main)
