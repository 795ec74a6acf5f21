"""Slurm: a job array that a user can read, submitted and left alone.

`array.sbatch` becomes SWEEP/slurm/array.sh, whose tasks start the worker of one trial each, hand warnings on to it and
ask Slurm to start it again after exit code 75. Where a trial stands is read from its run directory; Slurm is only
asked, by `squeue`, which trials it still has in hand.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gen_ai.config import SOURCE
from gen_ai.core import command_line, files
from gen_ai.core.errors import REQUEUE, UserError
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.launchers.slots import memory_share
from gen_ai.sweep.trials import Trial

TEMPLATE = Path(__file__).with_name('array.sbatch')
LEASE_WAIT = 180  # seconds: a holder on another host counts as dead after 120 without a heartbeat
WARNING = 90  # seconds before the time limit
_RESTARTS = 3  # in a row without a step of progress
_MAX_ARRAY_SIZE = 1001  # Slurm's own default
_PATIENCE = 120  # seconds that a Slurm command may take on a busy cluster
_OURS = {  # options that the script needs as they are
  'output': 'the log of trial 7 is SWEEP/logs/7.log',
  'error': 'the log of trial 7 is SWEEP/logs/7.log',
  'open-mode': 'logs grow',
  'wrap': 'the script is written here',
  'parsable': 'it is for the command line',
  'test-only': 'it is for the command line',
  'wait': 'it is for the command line',
}
_SEVERAL = ('ntasks', 'nodes', 'ntasks-per-node')  # options that make a run of several processes
_SHORT = {
  'n': 'ntasks',
  'N': 'nodes',
  'a': 'array',
  'o': 'output',
  'e': 'error',
  'W': 'wait',
  't': 'time',
  'J': 'job-name',
}


class Request(NamedTuple):
  """What the command line asks of Slurm; kept with the sweep, for --resume."""

  sbatch: tuple[str, ...] = ()  # further #SBATCH options
  per_device: int = 1  # trials that one task runs at a time, and so share its GPU
  max_jobs: int = 0  # tasks that run at a time; 0: no limit


class Array(NamedTuple):
  """One job array: its script and what lies beside it."""

  script: str  # name of its file
  text: str
  tasks: str  # a line a task, of its trials, for the file of that name in .txt; '' where a task is one trial
  indices: str  # of --array, such as '0-2,5'
  numbers: list[int]  # of its trials


class Slurm(Launcher):
  """--launcher=slurm: submits, and leaves the rest to Slurm."""

  waits = False
  takes_workers_along = False  # they are Slurm's

  def check(self, options: Options, dry_run: bool) -> None:
    """Raises UserError, before anything is made, for options that cannot be, or where Slurm is not."""
    _check(_request(options, Request()))
    for name in () if dry_run else ('sbatch', 'squeue', 'scontrol'):
      if not shutil.which(name):
        raise UserError(
          f'--launcher=slurm needs {name}, which is not on this machine: start it where Slurm is, or take '
          '--launcher=local here.'
        )

  def describe(self, sweep: Sweep, options: Options) -> list[str]:
    """What `--dry_run` shows: the script, as it would be submitted."""
    try:
      size = _max_array_size()
    except UserError:  # a dry run needs no Slurm
      size = _MAX_ARRAY_SIZE
    found = arrays(sweep, [trial.number for trial in sweep.trials], _request(options, Request()), options.cache, size)
    first, *others = found
    more = [f'and {len(others)} more like it, up to trial {others[-1].numbers[-1]}'] if others else []
    tasks = [f'{Path(first.script).stem}.txt, a line a task:', *first.tasks.splitlines()] if first.tasks else []
    return ['', f'{first.script}:', *first.text.splitlines(), *tasks, *more]

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Submits `trials`, but for those of which Slurm still has a task.

    Raises:
      UserError: no Slurm here, it refuses (in its own words), or an option that cannot be. What was submitted before
        that stays, and --resume goes on.
    """
    self.check(options, dry_run=False)
    here = sweep.path.resolve()
    request = _request(options, _remembered(here))
    _check(request)
    busy = live(sweep)
    held = [trial.number for trial in trials if trial.number in busy]
    if held:
      print(f'slurm      still has trial(s) {ranges(held)} in hand, which are not submitted again', flush=True)
    todo = [trial for trial in trials if trial.number not in busy]
    jobs: list[str] = []
    for array in arrays(sweep, [p.number for p in todo], request, options.cache, _max_array_size()) if todo else ():
      script = _write(sweep, array)
      for trial in todo:
        if trial.number in array.numbers:
          sweep.clear_failure(trial)
      after = [f'--dependency=afterany:{jobs[-1]}'] if jobs and request.max_jobs else []  # the limit is that of all
      try:
        jobs.append(_ask('sbatch', '--parsable', *after, str(script)).strip().partition(';')[0])
      except UserError as error:
        if not (here / 'slurm' / 'jobs.jsonl').exists():
          raise
        before = f'Submitted before that: job {", ".join(jobs)}. ' if jobs else ''
        way = command_line.printed('launch.py', resume=sweep.path)
        raise UserError(
          f'{error} {before}The sweep stays: `{way}` submits the rest, with other options where --sbatch names them '
          'anew.'
        ) from error
      _record(here, jobs[-1], script, array, request)
      print(f'slurm      job {jobs[-1]}: {len(array.numbers)} trial(s), --array={array.indices}, {script}', flush=True)
    _next_steps(sweep, jobs)

  def cancel(self, sweep: Sweep, numbers: Sequence[int]) -> None:
    """Takes tasks that have not begun out of the queue."""
    cancel_waiting(sweep, numbers)


def arrays(sweep: Sweep, numbers: Sequence[int], request: Request, cache: str, size: int) -> list[Array]:
  """The job arrays of the trials `numbers`: where a task is one trial, its index is the end of the trial's number.

  Args:
    sweep: the sweep.
    numbers: of trials.
    request: how they are to run.
    cache: folder of compiled programs.
    size: most tasks of one array.
  """
  found: list[Array] = []
  if request.per_device == 1:
    length = _power_of_ten(size)
    for first, block in blocks(numbers, length).items():
      index = str(first) if length == 1 else f'{first // length}%{len(str(length)) - 1}a' if first else '%a'
      indices = ranges(number - first for number in block)
      fields = {
        'numbers': f'$(({first} + SLURM_ARRAY_TASK_ID))',
        'output': ('logs', index),
        'array': indices,
        'where': 'The log of trial 7 is logs/7.log; a task that starts again goes on in it.',
      }
      script = f'array-{first}.sh' if first else 'array.sh'
      found.append(Array(script, render(sweep, fields, request, cache), '', indices, block))
    return found
  order = sorted(numbers)
  tasks = [order[at : at + request.per_device] for at in range(0, len(order), request.per_device)]
  earlier = len(list((sweep.path / 'slurm').glob('shared-*.sh')))  # a task in the queue may still need its own
  for part, at in enumerate(range(0, len(tasks), size), earlier):
    own = tasks[at : at + size]
    table = f'"$sweep/slurm/shared-{part}.txt"'
    fields = {
      'numbers': f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {table})',
      'output': ('slurm', f'shared-{part}-%a'),
      'array': ranges(range(len(own))),
      'where': f'A task runs {request.per_device} trials side by side. The log of trial 7 is logs/7.log.',
    }
    text = ''.join(' '.join(map(str, task)) + '\n' for task in own)
    block = [number for task in own for number in task]
    found.append(
      Array(f'shared-{part}.sh', render(sweep, fields, request, cache), text, ranges(range(len(own))), block)
    )
  return found


def _write(sweep: Sweep, array: Array) -> Path:
  """Writes what the tasks of `array` need; returns the script."""
  here = sweep.path.resolve()
  script = here / 'slurm' / array.script
  with files.disk_errors(here / 'slurm', here):
    for folder in (here / 'slurm', here / 'logs'):  # Slurm makes no folder for a log: the task would fail
      folder.mkdir(exist_ok=True)
    rows = [f'{trial.number}\t{trial.name}\n' for trial in sweep.trials]
    files.write_atomic(here / 'slurm' / 'trials.txt', ''.join(rows))
    if array.tasks:
      files.write_atomic(script.with_suffix('.txt'), array.tasks)
    files.write_atomic(script, array.text)
  return script


def _next_steps(sweep: Sweep, jobs: Sequence[str]) -> None:
  if not jobs:
    return
  print(f'logs       {sweep.path}/logs/NUMBER.log')
  print('next')
  print(f'  squeue --jobs={",".join(jobs)}')
  print(f'  {command_line.printed("launch.py", status=sweep.path)}')
  print(f'  {command_line.printed("launch.py", stop=sweep.path)}      # saves; nothing is lost')
  resume = command_line.printed('launch.py', resume=sweep.path)
  print(f'  {resume}    # after a failure or a stop: submits what is unfinished', flush=True)


# What Slurm has in hand.


def live(sweep: Sweep) -> dict[int, tuple[str, str]]:
  """{number of a trial: (task such as '12_3', 'PENDING' | 'RUNNING' | 'COMPLETING' | ...)} of this user's tasks.

  Raises:
    UserError: Slurm does not answer.
  """
  folder = sweep.path.resolve() / 'slurm'
  found: dict[int, tuple[str, str]] = {}
  lines = _ask('squeue', '--array', '--noheader', f'--user={os.getuid()}', '--format=%F %K %T %o')
  for line in lines.splitlines():
    job, index, state, script = [*line.split(maxsplit=3), '', '', ''][:4]
    path = Path(script.strip())
    if path.parent == folder and index.isdigit():
      found |= dict.fromkeys(_numbers(path, int(index)), (f'{job}_{index}', state))
  return found


def _numbers(script: Path, index: int) -> list[int]:
  """The trials of the task `index` of an array; [] where the script is none of ours."""
  first = re.fullmatch(r'array(?:-(\d+))?\.sh', script.name)
  if first:
    return [int(first[1] or 0) + index]
  tasks = script.with_suffix('.txt')
  lines = tasks.read_text().splitlines() if script.name.startswith('shared-') and tasks.is_file() else []
  return [int(number) for number in lines[index].split()] if index < len(lines) else []


def cancel_waiting(sweep: Sweep, numbers: Iterable[int] = ()) -> None:
  """Takes the tasks of trials `numbers`, or of all, that have not begun out of Slurm's queue; says so if it cannot."""
  wanted = set(numbers)
  try:
    indices: dict[str, list[int]] = {}
    trials: dict[str, list[int]] = {}
    for number, (task, state) in live(sweep).items():
      if state == 'PENDING':
        trials.setdefault(task, []).append(number)
    for task, own in trials.items():
      if not wanted or wanted.issuperset(own):  # another trial of the task may go on
        job, _, index = task.partition('_')
        indices.setdefault(job, []).append(int(index))
    if indices:  # a task that begins meanwhile saves and leaves; --state=PENDING would take its whole array along
      _ask('scancel', *[f'{job}_[{ranges(found)}]' for job, found in indices.items()])
      print(f'slurm      took {sum(map(len, indices.values()))} waiting task(s) out of the queue')
  except UserError as error:
    print(f'slurm      {error} Waiting tasks will end as soon as they begin.')


def _ask(*words: str) -> str:
  """Standard output of a Slurm command. Raises UserError with its own words."""
  # From inside a job, the variables of that job must not leak into ours; SLURM_CONF says where the cluster is.
  env = {name: value for name, value in os.environ.items() if not name.startswith('SLURM_') or name == 'SLURM_CONF'}
  try:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=_PATIENCE)
  except FileNotFoundError as error:
    raise UserError(f'{words[0]} is not on this machine.') from error
  except subprocess.TimeoutExpired as error:
    raise UserError(f'{words[0]} has not answered for {_PATIENCE} s.') from error
  if done.returncode:
    message = ' '.join((done.stderr or done.stdout).split()) or f'exit code {done.returncode}'
    raise UserError(f'{words[0]} refused: {message}.')
  return done.stdout


def _max_array_size() -> int:
  found = re.search(r'^MaxArraySize\s*=\s*(\d+)', _ask('scontrol', 'show', 'config'), re.MULTILINE)
  size = int(found[1]) if found else _MAX_ARRAY_SIZE
  if not size:
    raise UserError('This cluster allows no job arrays (MaxArraySize=0): --launcher=print prints a command a trial.')
  return size


# The script.


def blocks(numbers: Iterable[int], length: int) -> dict[int, list[int]]:
  """{first number of a block: numbers of trials in it}: what goes into one array each.

  Args:
    numbers: of trials.
    length: of a block, a power of ten: then an index is the last digits of its trial's number, and Slurm itself can
      name the log after the trial.
  """
  found: dict[int, list[int]] = {}
  for number in sorted(numbers):
    found.setdefault(number // length * length, []).append(number)
  return found


def _power_of_ten(size: int) -> int:
  """The largest one that is at most `size`."""
  return int('1' + '0' * (len(str(size)) - 1))


def ranges(numbers: Iterable[int]) -> str:
  """[0, 1, 2, 5] as '0-2,5'."""
  runs: list[list[int]] = []
  for number in sorted(numbers):
    if runs and number == runs[-1][1] + 1:
      runs[-1][1] = number
    else:
      runs.append([number, number])
  return ','.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)


def render(sweep: Sweep, fields: Mapping[str, Any], request: Request, cache: str) -> str:
  """Text of the script of one array.

  Args:
    sweep: the sweep.
    fields: `array` (the indices), `numbers` (shell: the trials of a task), `output` (folder and name of Slurm's own
      log, before .log) and `where` (the logs are).
    request: how the trials are to run.
    cache: folder of compiled programs.
  """
  here = sweep.path.resolve()
  folder, log = fields['output']
  resume = command_line.printed('launch.py', resume=here)
  throttle, lines = f'%{request.max_jobs}' if request.max_jobs else '', directives(request.sbatch)
  values = {
    'sweep': shlex.quote(str(here)),
    'name': _quote(here.name),
    'array': fields['array'] + throttle,
    'output': _quote(str(here / folder).replace('%', '%%') + f'/{log}.log'),
    'where': fields['where'],
    'warning': _warning(request.sbatch),
    'options': '\n'.join(['# From --sbatch:', *lines] if lines else []) or '#',
    'source': shlex.quote(str(SOURCE)),
    'python': shlex.quote(sys.executable),
    'numbers': fields['numbers'],
    'requeue': REQUEUE,
    'restarts': _RESTARTS,
    'lease_wait': LEASE_WAIT,
    'resume': resume,
    'resume_word': shlex.quote(resume),
    'share': _share(request.per_device),
    'cache': shlex.quote(cache if cache[:1] in ('', '~') else str(Path(cache).resolve())),
  }
  return re.sub(r'{{(\w+)}}', lambda found: str(values[found[1]]), TEMPLATE.read_text())


def _share(per_device: int) -> str:
  """Shell: what each of the trials of one task gets of its GPU's memory, or of its cores."""
  if per_device == 1:
    return '#'
  memory = ' '.join(f'{name}={value}' for name, value in memory_share(per_device).items())
  return '\n'.join(
    [
      f'# {per_device} trials share the GPU, or the cores, of the task.',
      '[ "$processes" -le 1 ] || { echo "a run of several processes shares no GPU: leave --per_device out"; exit 1; }',
      f'if [ -n "${{CUDA_VISIBLE_DEVICES:-}}" ]; then export {memory}; else',
      f'  cores=$(($(nproc) / {per_device}))',
      '  export NPROC=$((cores > 0 ? cores : 1)); export OMP_NUM_THREADS=$NPROC',
      'fi',
    ]
  )


def directives(given: Iterable[str]) -> list[str]:
  """The #SBATCH lines of what --sbatch adds.

  Raises:
    UserError: no option, or one that would take from the script what it needs.
  """
  lines = []
  for option in given:
    name, value = _parse(option)
    if name == 'array':
      raise UserError(f'--sbatch={option}: which trials run is up to the sweep. --max_jobs=4 lets 4 run at a time.')
    if name in _OURS:
      raise UserError(f'--sbatch={option} cannot be: {_OURS[name]}. Leave it out.')
    if name == 'signal' and not re.fullmatch(r'(B|BR|RB):(SIG)?(USR1|TERM)(@\d+)?', value):
      raise UserError(f'--sbatch={option} must read --signal=B:USR1@SECONDS: the script hands USR1 on to the run.')
    lines.append(f'#SBATCH {option[: len(option) - len(value)]}{_quote(value)}' if value else f'#SBATCH {option}')
  return lines


def _parse(option: str) -> tuple[str, str]:
  """'--time=60', '-t 60' and '-t60' as ('time', '60')."""
  found = re.fullmatch(r'--([a-z][\w-]*)(?:[= ](.*))?|-([A-Za-z])[ =]?(.*)', option)
  if not found:
    raise UserError(f"--sbatch='{option}' is no option of sbatch: write --sbatch='--partition=NAME', one option each.")
  return found[1] or _SHORT.get(found[3], found[3]), found[2] or found[4] or ''


def _quote(value: str) -> str:
  """`value` as an #SBATCH line takes it."""
  return value if re.fullmatch(r'[\w./:=,%@+*&|!()\[\]-]*', value) else '"' + re.sub(r'(["\\])', r'\\\1', value) + '"'


def _warning(given: Sequence[str]) -> int:
  """Seconds before the time limit; less where the limit is short, as the warning itself must not end every start."""
  limit = next((_seconds(value) for name, value in map(_parse, reversed(given)) if name == 'time'), 0)
  return min(WARNING, limit // 4) if limit else WARNING


def _seconds(text: str) -> int:
  """Slurm's 'minutes', 'minutes:seconds', 'hours:minutes:seconds', 'days-hours[:minutes[:seconds]]'; 0 for others."""
  found = re.fullmatch(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?', text)
  if not found:
    return 0
  days, *parts = [int(part or 0) for part in found.groups()]
  unit = 3600 if found[1] or found[4] else 60
  return days * 86400 + sum(part * unit // 60**i for i, part in enumerate(parts))


# What is kept beside the script.


def _check(request: Request) -> None:
  """Raises UserError for options that cannot be."""
  directives(request.sbatch)
  if request.per_device < 1 or request.max_jobs < 0:
    name = 'per_device' if request.per_device < 1 else 'max_jobs'
    raise UserError(f'--{name}={getattr(request, name)} must be at least 1.')
  several = [option for option in request.sbatch if _parse(option)[0] in _SEVERAL and _parse(option)[1] != '1']
  if request.per_device > 1 and several:
    raise UserError(
      f'--per_device={request.per_device} puts runs of one process each on one GPU, and --sbatch='
      f'{several[0]} makes a run of several: leave one of them out.'
    )


def _request(options: Options, before: Request) -> Request:
  """What the command line says, and where it says nothing, what was asked `before`."""
  return Request(
    options.sbatch or before.sbatch, options.per_device or before.per_device, options.max_jobs or before.max_jobs
  )


def _remembered(here: Path) -> Request:
  """What was asked when trials were last submitted."""
  rows = files.read_jsonl(here / 'slurm' / 'jobs.jsonl')
  row = rows[-1] if rows else {}
  return Request(tuple(row.get('sbatch', ())), row.get('per_device', 1), row.get('max_jobs', 0))


def _record(here: Path, job: str, script: Path, array: Array, request: Request) -> None:
  """A line of slurm/jobs.jsonl: what was submitted, when and how."""
  row = {
    'job': job,
    'time': datetime.now(UTC).isoformat(timespec='seconds'),
    'script': script,
    'array': array.indices,
    'trials': array.numbers,
    **request._asdict(),
  }
  file = here / 'slurm' / 'jobs.jsonl'
  with files.disk_errors(file, here), file.open('a') as out:
    out.write(files.dumps(row) + '\n')
