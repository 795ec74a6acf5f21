"""Whether two runs of one config agree: read from their directories and compared row by row. No JAX here."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.run import directory, older_runs
from gen_ai.run.info import RunInfo
from gen_ai.sweep.directory import is_sweep

IDENTICAL, WITHIN, DIFFERENT = ('identical', 'within tolerance', 'different')
ABSENT = '(absent)'
_LINES = 20  # of the table on the terminal; --report has all rows


class Recorded(NamedTuple):
  """What a run directory holds of a run, up to an update."""

  path: Path
  run: RunInfo
  config: ConfigDict
  defaults: dict[str, Any]  # fields of `config` that are newer than the run, {'section.field': value}
  state: str
  rows: list[dict[str, Any]]
  diverged: int  # update; 0: it did not, as far as this goes
  ends: tuple[int, ...]  # updates that were the last until a resume gave the run more

  def until(self, step: int) -> 'Recorded':
    """The same, without what came after update `step`, and without evaluations at `ends`, which no cadence asks for."""
    rows = [row for row in self.rows if row['step'] <= step and (row['kind'] != 'eval' or row['step'] not in self.ends)]
    return self._replace(rows=rows, diverged=self.diverged if self.diverged <= step else 0)


def read(run_dir: str | Path) -> Recorded:
  """The run at `run_dir`. Raises UserError where it is none, has no metrics, or is of another version of gen_ai."""
  if is_sweep(run_dir):
    raise UserError(f'{run_dir} is a sweep: name the directory of one of its runs.')
  path = directory.RunDir.open(run_dir).path
  tree, (config, defaults) = directory.read_run(path), older_runs.read_config(path)
  missing = [name for name in ('data', 'versions', 'git', 'devices', 'host', 'environment') if name not in tree]
  if missing:
    raise UserError(f'{path / "run.json"} says nothing of {", ".join(missing)}: another version of gen_ai wrote it.')
  rows = directory.read_metrics(path)
  if not rows:
    raise UserError(f'{path} has no metrics: there is nothing to compare with.')
  status = directory.read_status(path)
  steps = [row['step'] for row in rows if row['kind'] == 'diverged']
  if not steps and status['state'] == 'diverged':  # its metrics were finite, the state it was to save was not
    steps = [status['step']]
  changes = [row['changed'] for row in directory.read_attempts(path) if row['event'] == 'change']
  ends = sorted({fields['run.steps'][0] for fields in changes if 'run.steps' in fields} - {config.run.steps})
  return Recorded(
    path, RunInfo.from_json(tree), config, defaults, status['state'], rows, min(steps, default=0), tuple(ends)
  )


class Tolerance(NamedTuple):
  """|a - b| <= atol + rtol |a|, a being the recorded value; the same at all steps.

  The default is some 10,000 roundings of float32 (6e-8 each): what another order of sums grows to in a few hundred
  updates. Longer runs, and GANs sooner, leave it in the end, for training amplifies the last bit; so it is told from
  which step on a run is no longer identical, and from which no longer within.
  """

  rtol: float
  atol: float

  def excess(self, a: Any, b: Any) -> float:
    """Difference as a multiple of what is allowed: 0 identical (two NaNs are), up to 1 within, inf not comparable."""
    if a == b or (a != a and b != b):
      return 0.0
    if ABSENT in (a, b) or not (math.isfinite(a) and math.isfinite(b)):
      return math.inf
    allowed = self.atol + self.rtol * abs(a)
    return abs(a - b) / allowed if allowed else math.inf

  def __str__(self) -> str:
    return f'|a - b| <= {self.atol:g} + {self.rtol:g} |a|'


class Row(NamedTuple):
  """One row of metrics.jsonl against its counterpart; the metric is the one that differs most, '' if none does."""

  step: int
  kind: str
  verdict: str
  metric: str
  recorded: Any
  again: Any


def compare_rows(
  recorded: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]], tolerance: Tolerance
) -> list[Row]:
  """A `Row` for each step and kind, in order, up to the last that was recorded. What a clock measured is left out.

  A metric that was not recorded is not compared; one that is no longer measured, or a row that one side lacks, differs.
  """
  there, here = ({(row['step'], row['kind']): row for row in rows} for rows in (recorded, again))
  found = []
  order = sorted(there.keys() | here.keys(), key=lambda at: (at[0], at[1] != 'train'))
  end = max(order.index(at) for at in there)  # a run that was killed may have lost what came right after its last row
  for step, kind in order[: end + 1]:
    a, b = there.get((step, kind)), here.get((step, kind))
    if a is None or b is None:
      sides = (ABSENT if row is None else 'a row' for row in (a, b))
      found.append(Row(step, kind, DIFFERENT, 'the row', *sides))
      continue
    pairs = {name: (value, b.get(name, ABSENT)) for name, value in a.items() if name not in directory.CLOCKED}
    excess = {name: tolerance.excess(*pair) for name, pair in pairs.items()}
    worst = max(excess, key=lambda name: excess[name], default='')
    if not worst or not excess[worst]:
      found.append(Row(step, kind, IDENTICAL, '', None, None))
    else:
      found.append(Row(step, kind, WITHIN if excess[worst] <= 1 else DIFFERENT, worst, *pairs[worst]))
  return found


def origin_differences(recorded: RunInfo, again: RunInfo) -> dict[str, tuple[Any, Any]]:
  """{what: (there, here)} of versions, code, devices, machine and environment in which two run.json differ."""

  def facts(run: RunInfo) -> dict[str, Any]:
    git = run.git
    return {
      **{f'version of {name}': version for name, version in run.versions.items()},
      'commit': git.commit or ABSENT,
      'uncommitted changes': git.patch_sha256 or ('untracked files' if git.dirty else 'none'),
      'devices': ', '.join(run.devices),
      'lanes of its program': run.lanes,
      **{f'host {name}': value for name, value in dataclasses.asdict(run.host).items()},
      **{f'environment {name}': value for name, value in run.environment.items()},
    }

  a, b = facts(recorded), facts(again)
  names = dict.fromkeys([*a, *b])
  pairs = {name: (a.get(name, ABSENT), b.get(name, ABSENT)) for name in names}
  return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def table(rows: Sequence[Row]) -> list[str]:
  """Neighbouring rows of one verdict as one line: steps, rows, verdict, and the first difference there."""
  lines = []
  for verdict, group in groupby(rows, key=lambda row: row.verdict):
    some = list(group)
    first, last = some[0].step, some[-1].step
    steps = f'{first:,}' if first == last else f'{first:,} to {last:,}'
    difference = '' if verdict == IDENTICAL else _tell(some[0])
    lines.append(f'  {steps:20} {len(some):>6,}  {verdict:16}  {difference}'.rstrip())
  more = [f'  ... and {len(lines) - _LINES} more lines: --report=FILE has all rows'] if len(lines) > _LINES else []
  return [f'  {"steps":20} {"rows":>6}  {"verdict":16}  first difference', *lines[:_LINES], *more]


def _tell(row: Row) -> str:
  def text(value: Any) -> str:
    return f'{value:.9g}' if isinstance(value, float) else str(value)

  return f'{row.kind} {row.metric} at step {row.step:,}: {text(row.recorded)} there, {text(row.again)} here'


def first_unlike(rows: Sequence[Row], *verdicts: str) -> Row | None:
  """The first row with none of `verdicts`; None where there is none."""
  return next((row for row in rows if row.verdict not in verdicts), None)


def verdict_of(rows: Sequence[Row], diverged: tuple[int, int]) -> tuple[str, str]:
  """(verdict, the sentence that says why) for all rows and the updates at which the two runs diverged, 0 for never."""
  there, here = diverged
  changed, outside = first_unlike(rows, IDENTICAL), first_unlike(rows, IDENTICAL, WITHIN)
  until = f'all {len(rows)} rows up to step {rows[-1].step:,}'
  same = f'{until} are bit-identical'
  if changed:
    same = f'identical before step {changed.step:,}' if changed.step > rows[0].step else 'not identical from the start'
  if there != here:
    ends = [f'diverged at step {step:,}' if step else 'did not diverge' for step in diverged]
    return DIFFERENT, f'the recorded run {ends[0]}, this one {ends[1]}; {same}'
  both = f'; both diverged at step {there:,}' if there else ''
  if outside:
    return DIFFERENT, f'{same}; out of tolerance from {_tell(outside)}{both}'
  if changed:
    return WITHIN, f'{until} are within tolerance; {same}, then {_tell(changed)}{both}'
  return IDENTICAL, same + both
