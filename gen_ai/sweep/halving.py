"""Early stopping of hopeless trials by successive halving: pure functions of recorded metrics, for every launcher.

Where the lanes of a program reach a rung together, `survivors` is synchronous successive halving (Jamieson & Talwalkar
2016, arXiv 1502.07943). Where each trial is a process, `promotes` is the stopping rule of asynchronous successive
halving (ASHA: Li et al. 2020, arXiv 1810.05934): nobody waits, so who goes on depends on who came first. Every decision
is kept in decisions.jsonl of the sweep, with the values it was made from. No JAX here.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.run import directory, older_names
from gen_ai.sweep.directory import Sweep

FILE = 'decisions.jsonl'
FORM = 'METRIC:min|max,first=STEPS[,eta=3][,last=STEPS]'


class Rule(NamedTuple):
  """Which evaluation metric decides, and when."""

  metric: str
  mode: str  # 'min' | 'max'
  eta: int  # of eta trials about one goes on; and the ratio of two rungs
  first: int  # updates before the first rung
  last: int  # no rung after this many updates; 0: no such bound

  def __str__(self) -> str:
    """As `parse` reads it."""
    last = f',last={self.last}' if self.last else ''
    return f'{self.metric}:{self.mode},first={self.first},eta={self.eta}{last}'


def parse(text: str) -> Rule:
  """The rule of 'nll_bpd:min,eta=3,first=500'; eta is 3 unless given. Raises UserError naming the right form."""

  def wrong(why: str) -> UserError:
    return UserError(f"--halving='{text}': {why}. Write --halving={FORM}, such as nll_bpd:min,first=500.")

  declared, *words = text.split(',')
  metric, _, mode = declared.strip().rpartition(':')
  if not metric or mode not in ('min', 'max'):
    raise wrong(f"'{declared}' is not METRIC:min or METRIC:max")
  numbers = {'eta': 3, 'last': 0}
  given = set()
  for word in words:
    name, _, value = (part.strip() for part in word.partition('='))
    if name not in ('eta', 'first', 'last') or name in given:
      raise wrong(f"'{word}' is {'given twice' if name in given else 'none of first=, eta= and last='}")
    if not (value.isascii() and value.isdigit()):
      raise wrong(f'{name}={value} is not a whole number')
    numbers[name] = int(value)
    given.add(name)
  if numbers.get('first', 0) < 1:
    raise wrong('first= is missing: the updates that every trial is given before it can be stopped')
  if numbers['eta'] < 2:
    raise wrong(f'eta={numbers["eta"]} must be at least 2')
  if 'last' in given and numbers['last'] < numbers['first']:
    raise wrong(f'last={numbers["last"]} lies before first={numbers["first"]}')
  return Rule(metric, mode, **numbers)


def rungs(rule: Rule, steps: int, eval_every: int) -> list[int]:
  """Steps at which trials are judged: first * eta^k below `steps`, rounded up to a multiple of `eval_every`, ascending.

  Args:
    rule: from `parse`.
    steps: config.run.steps.
    eval_every: config.run.eval_every.

  Raises:
    UserError: there is no evaluation to judge by, or no rung before the end of the run.
  """
  if eval_every < 1:
    raise UserError(
      '--halving judges trials by their evaluations; config.run.eval_every=0 has one at the end only: '
      f'set --config.run.eval_every={rule.first}, say.'
    )
  bound = min(steps - 1, rule.last or steps)
  found, at = [], rule.first
  while (rung := math.ceil(at / eval_every) * eval_every) <= bound:
    if rung not in found:  # several powers may round to one evaluation
      found.append(rung)
    at *= rule.eta
  if not found:
    end = f'last={rule.last}' if rule.last and rule.last < steps else f'the end, config.run.steps={steps}'
    raise UserError(
      f'--halving={rule} would stop nothing: with config.run.eval_every={eval_every} its first rung is '
      f'step {rung}, not before {end}. Choose a smaller first= or eval_every.'
    )
  return found


def _losses(values: Iterable[float], mode: str) -> list[float]:
  """Smaller is better; what is not finite is the worst."""
  return [(v if mode == 'min' else -v) if math.isfinite(v) else math.inf for v in values]


def survivors(values: Mapping[int, float], eta: int, mode: str) -> set[int]:
  """Trials that go on after a rung which all of them reached: the best ceil(n / eta) of `values` {trial: value}.

  Diverged trials (NaN, infinite) come last, and of equals the lower number first: the same values, the same choice.
  """
  ranked = sorted(zip(_losses(values.values(), mode), values, strict=True))
  return {trial for _, trial in ranked[: math.ceil(len(values) / eta)]}


def promotes(value: float, others: Iterable[float], eta: int, mode: str) -> bool:
  """Whether a trial that reaches a rung goes on, going by what was recorded there so far.

  It does if it is among the best floor(n / eta) of the n values, its own included, or equals the last of them; and
  always while n < eta.

  Args:
    value: the trial's; NaN and infinities are the worst.
    others: values of the other trials that reached the rung.
    eta: of eta trials about one goes on.
    mode: 'min' or 'max', what is better.
  """
  own, *rest = _losses([value, *others], mode)
  n = 1 + len(rest)
  return n < eta or sum(loss < own for loss in rest) < n // eta


def rung_values(sweep: Sweep, rung: int, metric: str, since: int = 0) -> dict[int, float]:
  """{trial: evaluation after update `rung`} of the trials of a sweep that came so far.

  NaN: diverged on the way there from update `since`; who diverged before that was judged there.

  Raises:
    UserError: runs that do not evaluate `metric` (names what they do).
  """
  found = {trial.number: _value_at(sweep.run_dir(trial), rung, metric, since) for trial in sweep.trials}
  return {number: value for number, value in found.items() if value is not None}


def _value_at(run_dir: Path, rung: int, metric: str, since: int) -> float | None:
  """The metric after update `rung`; NaN where the run diverged up to there; None where it has not come so far."""
  for row in directory.read_metrics(run_dir):
    if row['kind'] == 'eval' and row['step'] == rung:
      if metric not in row:
        known = ', '.join(name for name in row if name not in ('step', 'kind', 'attempt', 'seconds'))
        raise UserError(f"{run_dir} evaluates no metric '{metric}' to judge by; it has {known}.")
      return row[metric]
    if row['kind'] == 'diverged' and since < row['step'] <= rung:
      return math.nan
  if (run_dir / 'status.json').is_file():  # a state that was not finite at a save leaves no row
    status = directory.read_status(run_dir)
    if status['state'] == 'diverged' and since < status['step'] <= rung:
      return math.nan
  return None


def decide(sweep: Sweep, rule: Rule, rung: int, trials: Sequence[int]) -> set[int]:
  """Which of `trials`, whose evaluations at `rung` are recorded, go on; the decisions are recorded.

  Trials that reach the rung together (the lanes of one program) are judged together: `survivors` of all that came so
  far. One that comes by itself is judged by `promotes`. A decision stands: a worker that was killed after it and
  computes the rung again is told the same.

  Raises:
    UserError: as `rung_values`, or the sweep directory cannot be written.
  """
  decided = {row['trial']: row['decision'] == 'continue' for row in read_decisions(sweep.path) if row['rung'] == rung}
  new = [trial for trial in trials if trial not in decided]
  earlier = [row['rung'] for row in read_decisions(sweep.path) if row['rung'] < rung]
  compared = rung_values(sweep, rung, rule.metric, max(earlier, default=0)) if new else {}
  if not set(new) <= set(compared):
    raise ValueError(f'trials {sorted(set(new) - set(compared))} have no evaluation at step {rung} in {sweep.path}')
  if len(new) == 1:
    others = [value for other, value in compared.items() if other != new[0]]
    kept = set(new) if promotes(compared[new[0]], others, rule.eta, rule.mode) else set()
  else:
    kept = survivors(compared, rule.eta, rule.mode)
  for trial in new:
    record_decision(sweep.path, rule, rung, trial, trial in kept, compared)
    decided[trial] = trial in kept
  return {trial for trial in trials if decided[trial]}


def record_decision(
  sweep_dir: str | os.PathLike, rule: Rule, rung: int, trial: int, goes_on: bool, compared: Mapping[int, float]
) -> None:
  """Adds one line to decisions.jsonl of the sweep.

  Args:
    sweep_dir: the sweep.
    rule: by which it was decided.
    rung: after which update.
    trial: who was judged; its value is in `compared`.
    goes_on: or stops here.
    compared: {trial: value} of all that were looked at.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  path = Path(sweep_dir) / FILE
  line = {
    'time': datetime.now(UTC).isoformat(timespec='milliseconds'),
    'rung': rung,
    'trial': trial,
    'value': compared[trial],
    'decision': 'continue' if goes_on else 'stop',
    'compared': compared,
    'rule': str(rule),
  }
  text = json.dumps(files.plain(line), allow_nan=False)
  # The rest of a line that a killed process cut short keeps its own line: other processes may be writing just now.
  files.append_line(path, text if _ends_whole(path) else '\n' + text, Path(sweep_dir))


def _ends_whole(path: Path) -> bool:
  try:
    with path.open('rb') as file:
      file.seek(-1, os.SEEK_END)
      return file.read() == b'\n'
  except OSError:  # no file, or an empty one
    return True


def read_decisions(sweep_dir: str | os.PathLike) -> list[dict[str, Any]]:
  """The decisions of a sweep in the order they were made; lines that a killed process cut short are left out.

  Each has time, rung, trial (its number), value, decision ('continue' | 'stop'), compared {trial: value} and
  rule.
  """
  found = []
  for row in files.read_jsonl(Path(sweep_dir) / FILE, several_writers=True):
    row = older_names.renamed(row, older_names.SWEEP)
    try:
      row['compared'] = {int(trial): float(value) for trial, value in row['compared'].items()}
      row['value'] = float(row['value'])  # 'nan' and 'inf' are strings in JSON
    except (ValueError, TypeError, KeyError):
      continue
    found.append(row)
  return found
