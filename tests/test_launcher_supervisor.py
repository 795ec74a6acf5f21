"""The loop of the local and the ray launcher, on a back end whose workers do at once what a test says."""

import os
import signal
import time

import pytest
import tiny

from gen_ai.core.errors import DIVERGED, DONE, FAILED, REQUEUE, UserError
from gen_ai.run import directory
from gen_ai.sweep import board as board_lib
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers import supervisor
from gen_ai.sweep.launchers.supervisor import GO_ON, HEADER, LEAVE, LOST, NOW, End, Supervisor
from gen_ai.sweep.trials import resolve

LEFT, GONE = End(REQUEUE), End(LOST, 'The node has died.')


class Worker:
  """A handle: one start of a trial."""

  def __init__(self, trial):
    self.trial = trial


class Fake:
  """A back end whose workers follow `script`, {number of a trial: what happens at each poll}.

  An `End` ends the worker and None does not; a function of the worker's run may do anything and returns one of them.
  What comes last is repeated, and the next start of a trial goes on where the one before it was.
  """

  def __init__(self, script, places=2):
    self.script, self.places = {number: list(steps) for number, steps in script.items()}, places
    self.sweep = None  # set by `launch`
    self.started, self.cancelled, self.working, self.most, self.polls = [], [], 0, 0, 0
    self.queued = set()  # numbers of trials that are nowhere yet

  def start(self, trial):
    self.started.append(trial.number)
    self.working += 1
    self.most = max(self.most, self.working)
    return Worker(trial)

  def poll(self, workers):
    self.polls += 1
    assert self.polls < 1000, 'round and round without an end'
    ended = {}
    for worker in workers:
      steps = self.script[worker.trial.number]
      step = steps.pop(0) if len(steps) > 1 else steps[0]
      end = step(directory.RunDir(self.sweep.run_dir(worker.trial))) if callable(step) else step
      if end is not None:
        ended[worker] = end
    self.working -= len(ended)
    return ended

  def cancel(self, workers, now):
    self.cancelled.append((now, sorted(worker.trial.number for worker in workers)))

  def where(self, worker):
    return '' if worker.trial.number in self.queued else f'place {worker.trial.number}'


class Screen:
  """A board that remembers what it is told."""

  def __init__(self, sweep):
    self.sweep, self.said, self.events = sweep, [], []

  def say(self, text):
    self.said.append(text)

  def started(self, trial, where):
    self.events.append(f'{trial.number} at {where}')

  def ended(self, trial):
    self.events.append(f'{trial.number} {self.sweep.status(trial).state}')

  def refresh(self):
    pass


@pytest.fixture
def launch(tmp_path):
  """launch(trials, fake): (sweep, screen, what was asked) after a sweep of so many trials."""

  def sweep(trials):
    base = tiny.config('gan')
    return Sweep.create(str(tmp_path), 'x', base, resolve(base, [{'run.seed': i} for i in range(trials)]), {})

  def run(trials, fake):
    fake.sweep = made = trials if isinstance(trials, Sweep) else sweep(trials)
    (made.path / 'logs').mkdir(exist_ok=True)
    screen = Screen(made)
    with made.lease():
      return made, screen, Supervisor(made, made.trials, fake, screen).run()

  run.sweep = sweep
  return run


def says(state, step, end=None):
  """A step of a script: the run records its state, and the worker ends with `end`."""

  def act(run):
    run.path.mkdir(exist_ok=True)
    run.status(state, step, 8, 'said by the run')
    return end

  return act


def states(sweep):
  return [sweep.status(trial).state for trial in sweep.trials]


# Starting.


def test_trials_start_in_order_as_places_become_free(launch):
  ends = {number: [None] * (3 - number % 3) + [says('done', 8, End(DONE))] for number in range(5)}
  fake = Fake(ends)
  sweep, screen, asked = launch(5, fake)
  assert (states(sweep), asked) == (['done'] * 5, GO_ON)
  assert fake.started == [0, 1, 2, 3, 4]
  assert fake.most == 2, 'never more at a time than there are places'
  for number in range(5):
    assert screen.events.index(f'{number} at place {number}') < screen.events.index(f'{number} done')
  assert len(screen.events) == 10, 'each is told once'


def test_a_trial_that_ends_in_the_moment_it_begins_is_told_of_twice(launch):
  fake = Fake({0: [lambda run: fake.queued.clear() or says('done', 8, End(DONE))(run)]})
  fake.queued = {0}
  _, screen, _ = launch(1, fake)
  assert screen.events == ['0 at place 0', '0 done']


def test_a_trial_that_is_asked_to_stop_while_it_waits_is_not_started(launch):
  sweep = launch.sweep(3)
  fake = Fake({0: [lambda run: sweep.request_stop([1]), says('done', 8, End(DONE))], 2: [End(DONE)]}, places=1)
  launch(sweep, fake)
  assert fake.started == [0, 2]
  assert states(sweep)[1] == 'waiting'


def test_a_trial_that_another_process_runs_waits_for_it_and_stops_no_other(launch):
  sweep = launch.sweep(3)
  held, finished, free = (directory.RunDir(sweep.run_dir(trial)) for trial in sweep.trials)
  leases = []
  for run in (held, finished):
    run.path.mkdir()
    leases.append(run.lease(beat=0))
    leases[-1].acquire()

  def leave(run):
    finished.status('done', 8, 8)
    for lease in leases:
      lease.release()
    return End(DONE)

  fake = Fake({0: [says('done', 8, End(DONE))], 2: [None, None, leave]})
  _, screen, _ = launch(sweep, fake)
  assert fake.started == [2, 0], 'trial 1 ended meanwhile'
  told = [text for text in screen.said if 'is still run by another process' in text]
  assert len(told) == 2 and told[0].startswith('trial 0 '), 'once each'


# Ending.


def writes(text, code):
  """A step: the worker prints and ends."""

  def act(run):
    log = run.path.parent / 'logs' / '0.log'
    with log.open('a') as file:
      file.write(f'{HEADER}now  place 0  python launch.py\n{text}')
    return End(code)

  return act


@pytest.mark.parametrize(
  ('step', 'state', 'message'),
  [
    (says('done', 8, End(DONE)), 'done', 'said by the run'),
    (says('pruned', 4, End(DONE)), 'pruned', 'said by the run'),
    (says('diverged', 4, End(DIVERGED)), 'diverged', 'said by the run'),
    (says('failed', 2, End(FAILED)), 'failed', 'said by the run'),
    (writes('chatter\nerror: no such data\n', FAILED), 'failed', 'no such data'),
    (writes('', 3), 'failed', 'exit code 3, and no message'),
    (End(FAILED, 'node b does not see /c'), 'failed', 'node b does not see /c'),
    (says('running', 2, End(-signal.SIGKILL)), 'lost', 'killed by SIGKILL'),
    (End(-signal.SIGTERM), 'lost', 'killed by SIGTERM'),
    (End(-64), 'lost', 'killed by SIGRTMAX'),
    (End(-99), 'lost', 'killed by signal 99'),
  ],
)
def test_every_end_of_a_worker_is_recorded_and_none_is_started_again(launch, step, state, message):
  fake = Fake({0: [step]})
  sweep, screen, _ = launch(1, fake)
  found = sweep.status(sweep.trials[0])
  assert (found.state, found.message) == (state, message)
  assert fake.started == [0]
  assert screen.events[-1] == f'0 {state}'
  assert (sweep.path / 'failures').exists() == (message != 'said by the run'), 'no more is recorded than the run lacks'
  assert board_lib.exit_code([state]) == (DONE if state in ('done', 'pruned') else FAILED)


def test_a_failure_that_an_earlier_worker_recorded_is_not_taken_for_this_ones(launch):
  sweep = launch.sweep(1)
  run = directory.RunDir(sweep.run_dir(sweep.trials[0]))
  says('failed', 2)(run)
  os.utime(run.path / 'status.json', (0, 0))
  launch(sweep, Fake({0: [writes('error: another reason\n', FAILED)]}))
  assert sweep.status(sweep.trials[0]).message == 'another reason'


def test_what_a_launcher_said_of_an_earlier_worker_is_forgotten_at_the_start(launch):
  sweep = launch.sweep(1)
  sweep.record_failure(sweep.trials[0], 'failed', 'of old')
  launch(sweep, Fake({0: [lambda run: End(DONE) if states(sweep) == ['waiting'] else End(FAILED)]}))
  assert states(sweep) == ['waiting']


def test_one_trial_that_goes_wrong_stops_no_other(launch):
  fake = Fake({0: [End(-signal.SIGKILL)], 1: [End(FAILED)], 2: [None, None, None, says('done', 8, End(DONE))]})
  sweep, _, _ = launch(3, fake)
  assert states(sweep) == ['lost', 'failed', 'done']


@pytest.mark.parametrize('end', [LEFT, GONE], ids=['left', 'lost its node'])
def test_a_trial_that_left_unasked_is_started_again_while_it_gets_on(launch, end):
  steps = [says('stopped', step, end) for step in range(1, 8)]
  fake = Fake({0: [*steps, says('done', 8, End(DONE))], 1: [None, says('stopped', 0, end)]})
  sweep, screen, _ = launch(2, fake)
  assert states(sweep) == ['done', 'lost' if end is GONE else 'failed']
  assert [fake.started.count(number) for number in (0, 1)] == [8, 4]
  why = end.message or 'said by the run'
  assert sweep.status(sweep.trials[1]).message == f'left 4 times in a row without a step of progress: {why}'
  assert ('trial 1 is started again: The node has died.' in screen.said) == (end is GONE)


def test_a_trial_with_progress_between_is_given_all_its_starts_again(launch):
  steps = [LEFT] * 3 + [says('stopped', 1, LEFT)] + [LEFT] * 3 + [says('done', 8, End(DONE))]
  fake = Fake({0: steps})
  sweep, _, _ = launch(1, fake)
  assert states(sweep) == ['done'] and len(fake.started) == 8


def test_a_trial_that_left_goes_before_those_that_wait(launch):
  fake = Fake({0: [LEFT, End(DONE)], 1: [End(DONE)]}, places=1)
  launch(2, fake)
  assert fake.started == [0, 0, 1]


@pytest.mark.parametrize('code', [REQUEUE, -signal.SIGTERM])
def test_a_trial_that_was_asked_to_stop_stays_stopped(launch, code):
  sweep = launch.sweep(1)
  fake = Fake({0: [lambda run: sweep.request_stop([0]), says('stopped', 4, End(code))]})
  launch(sweep, fake)
  assert states(sweep) == ['stopped'] and fake.started == [0]


# Stopping.


def press(number):
  """A step: a signal comes."""
  return lambda run: signal.raise_signal(number)


@pytest.fixture
def handler(number):
  """The handler that signal `number` has before: under nohup, that a SIGHUP is ignored would hold for the loop too."""

  def before(number, frame):
    raise AssertionError('the loop does not listen')

  previous = signal.signal(number, before)
  yield before
  signal.signal(number, previous)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_makes_workers_save_and_leave_and_starts_no_other(launch, handler, number):
  fake = Fake({0: [press(number), None, None, says('stopped', 4, LEFT)], 1: [None, None, says('stopped', 3, LEFT)]})
  sweep, screen, asked = launch(3, fake)
  assert (asked, fake.cancelled) == (LEAVE, [(False, [0, 1])]), 'passed on once'
  assert (states(sweep), fake.started) == (['stopped', 'stopped', 'waiting'], [0, 1])
  assert screen.said == ['stopping: 2 trial(s) save and leave. Ctrl-C again kills them.']
  assert signal.getsignal(number) is handler, 'as it was'


def test_a_second_ctrl_c_kills_and_another_sigterm_does_not(launch):
  before = []
  steps = [
    press(signal.SIGINT),
    press(signal.SIGTERM),
    None,
    lambda run: before.extend(fake.cancelled),
    press(signal.SIGINT),
  ]
  fake = Fake({0: [*steps, says('running', 4, End(-signal.SIGKILL))], 1: [None] * 5 + [says('running', 4, LEFT)]})
  sweep, _, asked = launch(2, fake)
  assert before == [(False, [0, 1])]
  assert (asked, fake.cancelled) == (NOW, [(False, [0, 1]), (True, [0, 1])])
  assert states(sweep) == ['lost', 'lost']
  assert sweep.status(sweep.trials[0]).message == 'killed by SIGKILL'


def test_workers_that_survive_being_killed_are_not_awaited_for_ever(launch, monkeypatch):
  monkeypatch.setattr(supervisor, '_KILL_SECONDS', 0.01)
  fake = Fake({0: [press(signal.SIGINT), press(signal.SIGINT), None]})
  polled, deadline = fake.poll, time.monotonic() + 5

  def poll(workers):
    assert time.monotonic() < deadline
    fake.polls = 0  # it goes round without a pause
    return polled(workers)

  fake.poll = poll
  _, _, asked = launch(1, fake)
  assert asked == NOW


def test_what_is_nowhere_yet_does_not_count_among_those_that_save(launch):
  fake = Fake({0: [press(signal.SIGINT), None, says('stopped', 4, LEFT)], 1: [None, None, LEFT]})
  fake.queued = {1}
  sweep, screen, _ = launch(2, fake)
  assert screen.said == ['stopping: 1 trial(s) save and leave. Ctrl-C again kills them.']
  assert states(sweep) == ['stopped', 'waiting']


def test_an_error_of_the_launcher_leaves_no_worker_behind(launch):
  def broken(run):
    if not fake.cancelled:
      raise UserError('the disk is full')
    return LEFT if fake.polls > 4 else None

  fake = Fake({0: [None, broken], 1: [None, broken]})
  with pytest.raises(UserError, match='the disk is full'):
    launch(2, fake)
  assert fake.cancelled == [(False, [0, 1])]
  assert fake.working == 0, 'awaited'


def test_a_back_end_that_cannot_ask_workers_to_leave_hides_no_error(launch):
  def broken(workers, now):
    raise UserError('no file can be written')

  fake = Fake({0: [lambda run: fake.fail() if fake.polls == 1 else LEFT]})
  fake.cancel, fake.fail = broken, lambda: (_ for _ in ()).throw(UserError('the disk is full'))
  with pytest.raises(UserError, match='the disk is full'):
    launch(1, fake)


def test_while_workers_of_a_failed_launcher_are_awaited_ctrl_c_twice_kills_them(launch):
  def broken(run):
    if not fake.cancelled:
      raise UserError('the disk is full')
    signal.raise_signal(signal.SIGINT)

  fake = Fake({0: [broken]})
  with pytest.raises(UserError, match='the disk is full'):
    launch(1, fake)
  assert fake.cancelled == [(False, [0]), (True, [0])]
