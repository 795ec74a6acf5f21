"""From what a user asks to the trials of a sweep: products, draws, refusals, groups, names; the sweep directory."""

import itertools
import json
import math
import re

import cli
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core import files
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.run import directory as directory_lib
from gen_ai.sweep import board, command, directory, space
from gen_ai.sweep import plan as plan_lib
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.launchers.registry import LAUNCHERS
from gen_ai.sweep.trials import axis, groups, resolve, signature

FILE = """
import numpy as np
from gen_ai.sweep import space as s
from configs.gan import get_config

def sweep_lr():
  for lr in (1e-4, 1e-3):
    yield {'optim.lr': lr}

def sweep_seed():
  return [{'run.seed': 0}, {'run.seed': 1}, {'run.seed': 2}]

def sweep_both(): yield {'optim.lr': 3e-4, 'run.seed': 7}
def sweep_numpy(): yield from ({'optim.lr': lr} for lr in np.logspace(-4, -2, 3))
def sweep_typo(): yield {'optim.lr': 1e-4}; yield {'optim.rl': 1e-4}
def sweep_none(): yield from ()
def sweep_nothing(): pass
def sweep_list(): yield ['optim.lr', 1e-4]
def sweep_type(): yield {'run.seed': 0.5}
def sweep_steps(): yield {'run.steps': 8}; yield {'run.steps': 7}
sweep_points = 3

def space():
  floats = {'optim.lr': s.log_uniform(1e-5, 1e-2), 'optim.b1': s.uniform(0.1, 0.9)}
  return {**floats, 'loss.kind': s.choice('hinge', 'minimax')}
"""


@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_every_config_has_sweeps_a_best_setting_and_a_space(name):
  reference = f'configs/{name}.py'
  declared = trials_lib.sweeps_of(config_lib.load_module(reference))
  assert {'best', 'seed', 'lr'} <= declared.keys()
  base = config_lib.load(reference)
  for sweep_name in declared:
    trials = resolve(base, trials_lib.declared(reference, sweep_name))
    assert len(trials) == (1 if sweep_name == 'best' else len(trials)) >= 1
  assert any(
    config_lib.flatten(trial.config) == config_lib.flatten(base)
    for trial in resolve(base, trials_lib.declared(reference, 'lr'))
  ), 'the own setting is among the learning rates'
  assert len(resolve(base, trials_lib.drawn(reference, 3, 0))) == 3


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(FILE)
  return str(path)


def request(reference, sweeps=(), axes=(), sample=0, sample_seed=0, halving='', overrides=None, **base):
  config = config_lib.override(config_lib.load(reference), {**config_lib.tiny(reference), **(overrides or {})})
  arguments = (sweeps, axes, sample, sample_seed, halving, 'auto', 'runs')
  return plan_lib.Request(reference, config, overrides or {}, *arguments)


def plan(*arguments, **options):
  return [trial.overrides for trial in plan_lib.plan(request(*arguments, **options))]


# Which trials there are.


def test_sweeps_and_axes_are_multiplied_in_the_order_given(file):
  lr, seed = ({'optim.lr': 1e-4}, {'optim.lr': 1e-3}), ({'run.seed': 0}, {'run.seed': 1}, {'run.seed': 2})
  assert plan(file, ['lr']) == list(lr)
  assert plan(file, ['lr', 'seed']) == [{**a, **b} for a, b in itertools.product(lr, seed)]
  assert plan(file, ['seed', 'lr']) == [{**a, **b} for a, b in itertools.product(seed, lr)]
  assert plan(file, ['lr'], ['run.seed=0:3']) == plan(file, ['lr', 'seed'])
  trials = plan_lib.plan(request(file, ['both'], ['loss.kind=hinge,minimax']))
  assert [trial.number for trial in trials] == [0, 1]
  assert [(p.config.optim.lr, p.config.run.seed, p.config.loss.kind) for p in trials] == [
    (3e-4, 7, 'hinge'),
    (3e-4, 7, 'minimax'),
  ]
  assert trials[0].config.run.steps == 8, 'the rest is the base config'


@pytest.mark.parametrize(
  ('text', 'values'),
  [
    ('run.seed=0:3', ['0', '1', '2']),
    ('run.seed=4:10:3', ['4', '7']),
    ('run.seed=-1:1', ['-1', '0']),
    ('optim.lr=1e-4, 1e-3', ['1e-4', '1e-3']),
    ('config.optim.lr=0.5', ['0.5']),
    ('model.g_widths=(8,8),(16,),[4,4]', ['(8,8)', '(16,)', '[4,4]']),
    ('run.trackers=,tensorboard', ['', 'tensorboard']),
  ],
)
def test_an_axis_is_a_list_or_a_range(text, values):
  path = text.removeprefix('config.').partition('=')[0]
  assert axis(text) == [{path: value} for value in values]


def test_values_take_the_type_of_their_field(file):
  trials = plan(file, ['numpy'], ['model.g_widths=(8,8),(16,)', 'run.seed=3'])
  assert [trial['optim.lr'] for trial in trials] == [1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2]
  assert {type(trial['optim.lr']) for trial in trials} == {float}, 'NumPy scalars become numbers'
  assert [trial['model.g_widths'] for trial in trials[:2]] == [[8, 8], [16]]
  assert trials[0]['run.seed'] == 3
  files.dumps(trials)


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('optim.lr', 'must read --axis=FIELD=V1,V2'),
    ('=1,2', 'must read'),
    ('optim.lr=', 'has no value'),
    ('run.seed=5:5', 'has no value'),
    ('run.seed=5:0', 'has no value'),
    ('run.seed=0:5:0', 'has no value'),
  ],
)
def test_a_bad_axis_is_refused(text, says):
  with pytest.raises(UserError, match=re.escape(says)):
    axis(text)


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ({'sweeps': ['rl']}, ["has no sweep 'rl'", "Did you mean 'lr'?", 'both, list, lr', 'def sweep_rl()']),
    ({'sweeps': ['points']}, ["has no sweep 'points'"]),
    ({'sweeps': ['none']}, ['sweep_none() of', 'yields no trial']),
    ({'sweeps': ['nothing']}, ['sweep_nothing() of', 'yields no trial']),
    ({'sweeps': ['list']}, ["['optim.lr', 0.0001], which is no trial"]),
    ({'sweeps': ['lr', 'lr']}, ['--sweep names lr twice']),
    ({'sweeps': ['lr', 'both']}, ['--sweep=lr and --sweep=both both set optim.lr']),
    ({'sweeps': ['seed'], 'axes': ['run.seed=0:2']}, ['--sweep=seed and --axis=run.seed both set run.seed']),
    ({'axes': ['run.seed=0:2', 'run.seed=4']}, ['--axis=run.seed is given twice']),
    ({'axes': ['run.seed=0:2', 'config.run.seed=4']}, ['both set run.seed']),
    ({'sweeps': ['lr'], 'overrides': {'optim.lr': '1e-2'}}, ['--config.optim.lr and the sweep both set optim.lr']),
    ({'sweeps': ['typo']}, ['trial 1 (optim.rl=0.0001)', "no field 'optim.rl'", "mean 'optim.lr'?", 'Nothing was']),
    ({'axes': ['optim=1']}, ['config.optim is a section']),
    ({'axes': ['run.seed=1,x']}, ['trial 1 (run.seed=x)', 'not a whole number']),
    ({'axes': ['run.seed=0:2,7']}, ['run.seed=0:2', 'not a whole number']),
    ({'axes': ['optim.lr=1e-4,']}, ['trial 1', 'is not a number']),
    ({'axes': ['model.g_widths=(8,8']}, ['is not a list']),
    ({'sweeps': ['type']}, ['trial 0 (run.seed=0.5)', 'not of the type int']),
    ({'sweeps': ['steps']}, ['trial 1 (run.steps=7)', 'not a multiple of config.run.log_every=2']),
    ({'axes': ['optim.lr=-1']}, ['must be at least 0']),
    ({'axes': ['experiment=gan,vea']}, ['trial 1 (experiment=vea)', "Did you mean 'vae'?"]),
    ({'axes': ['optim.lr=1e-4,1e-3,0.0001']}, ['trials 0 and 2 are the same run (optim.lr=0.0001)']),
    ({'sample': -1}, ['--sample=-1 must be from 1 to 10,000']),
    ({'sample': 2, 'sample_seed': -1}, ['--sample_seed=-1 must not be negative']),
    ({'sweeps': ['lr'], 'sample': 2}, ['--sweep=lr and --sample=2 both set optim.lr']),
    ({'axes': ['run.seed=0:2'], 'halving': 'x'}, ['x']),
  ],
  ids=str,
)
def test_a_bad_sweep_is_refused_with_its_reason(file, arguments, says):
  with pytest.raises(UserError) as caught:
    plan(file, **arguments)
  for text in says:
    assert text in str(caught.value)


def test_a_sample_is_reproducible_and_a_larger_one_begins_with_it(file):
  forty = plan(file, sample=40)
  assert plan(file, sample=40) == forty
  assert plan(file, sample=7) == forty[:7]
  assert plan(file, sample=7, sample_seed=1) != forty[:7]
  lrs = [trial['optim.lr'] for trial in forty]
  assert 1e-5 <= min(lrs) < 1e-4 < 1e-3 < max(lrs) <= 1e-2, 'uniform in the logarithm'
  assert all(float(f'{lr:.4g}') == lr for lr in lrs)
  assert {trial['loss.kind'] for trial in forty} == {'hinge', 'minimax'}
  assert all(0.1 <= trial['optim.b1'] <= 0.9 for trial in forty)
  assert len(plan(file, ['seed'], sample=4)) == 12


def test_draws_follow_their_distributions():
  draws = space.draw({'u': space.uniform(-1, 3), 'l': space.log_uniform(1e-4, 1)}, 4000, 0)
  assert sum(trial['u'] for trial in draws) / 4000 == pytest.approx(1, abs=0.06)
  assert sum(math.log10(trial['l']) for trial in draws) / 4000 == pytest.approx(-2, abs=0.06)


def test_a_small_space_gives_each_of_its_trials_once():
  small = {'loss.kind': space.choice('a', 'b', 'c'), 'n': space.choice(1, 2)}
  trials = space.draw(small, 6, 0)
  assert sorted(map(str, trials)) == sorted(str({'loss.kind': k, 'n': n}) for k in 'abc' for n in (1, 2))
  with pytest.raises(UserError, match='6 different trials only'):
    space.draw(small, 7, 0)


@pytest.mark.parametrize(
  ('make', 'says'),
  [
    (lambda: space.uniform(2, 1), 'is empty'),
    (lambda: space.log_uniform(0, 1), '0 < low'),
    (lambda: space.choice(), 'nothing to choose'),
    (lambda: space.draw({}, 1, 0), 'gives no field'),
    (lambda: space.draw({'optim.lr': 0.1}, 1, 0), "gives 'optim.lr' the value 0.1"),
  ],
)
def test_a_bad_space_is_refused(make, says):
  with pytest.raises(UserError, match=re.escape(says)):
    make()


def test_a_config_without_a_space_searches_the_learning_rate_around_the_files(tmp_path):
  path = tmp_path / 'bare.py'
  path.write_text('from configs.gan import get_config')
  lr = config_lib.load(str(path)).optim.lr
  trials = plan(str(path), sample=40)
  assert {*map(tuple, trials)} == {('optim.lr',)}
  rates = [trial['optim.lr'] for trial in trials]
  assert lr / 10 <= min(rates) < lr / 5 and 5 * lr < max(rates) <= 10 * lr


# What may share a program.


def points_of(*overrides, name='gan', **base):
  return resolve(tiny.config(name, **base), overrides)


def test_trials_that_differ_in_traced_floats_and_seeds_share_a_program():
  values = {'optim.lr': 1e-2, 'loss.penalty': 3.0, 'run.seed': 5, 'data.seed': 6}
  trials = points_of({}, *({path: value} for path, value in values.items()), values)
  assert [len(group) for group in groups(trials)] == [6]


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    ('optim.weight_decay', 0.1),
    ('optim.clip_norm', 1.0),
    ('optim.lr', 0.0),  # 0.0 switches a term off in the program
    ('model.latent', 4),
    ('loss.kind', 'hinge'),
    ('run.steps', 16),
    ('data.batch_size', 8),
    ('eval.seed', 1),
  ],
)
def test_structure_and_zero_against_non_zero_make_programs_of_their_own(path, value):
  assert config_lib.flatten(tiny.config('gan'))[path] != value
  trials = points_of({}, {path: value}, {path: value, 'run.seed': 3})
  assert [[trial.number for trial in group] for group in groups(trials)] == [[0], [1, 2]]
  assert signature(trials[0].config) != signature(trials[1].config)


def test_the_launcher_is_packed_only_where_two_trials_can_share():
  lanes, lone = points_of({'run.seed': 0}, {'run.seed': 1}), points_of({'model.latent': 4}, {'model.latent': 6})
  pmap = points_of({'run.seed': 0}, {'run.seed': 1}, parallel='pmap')
  split = points_of({'run.seed': 0}, {'run.seed': 1}, mesh__fsdp=2)
  assert [plan_lib.choose('auto', p) for p in (lanes, lone, pmap, split)] == ['packed', 'local', 'local', 'local']
  assert plan_lib.choose('local', lanes) == 'local'
  for trials, reason in ((pmap, "config.parallel='pmap'"), (split, 'fsdp=2')):
    with pytest.raises(UserError, match=f'trial 0: .*{re.escape(reason)}'):
      plan_lib.choose('packed', trials)
  with pytest.raises(UserError, match="--launcher=lokal is none of .* Did you mean 'local'?"):
    plan_lib.choose('lokal', lanes)


# The directory.


def test_directories_are_named_after_overrides_cut_at_80_and_unique():
  long = 'folder:/' + 'a' * 90
  trials = points_of(
    {},
    {'optim.lr': 1e-4},
    {'optim.lr': 0.1 + 0.2},
    {'model.g_widths': (8, 4), 'run.seed': 1},
    {'data.name': long + '1'},
    {'data.name': long + '2'},
    {'data.name': 'a/b'},
    {'data.name': 'a:b'},
    {'data.name': 'folder:' + '語' * 60},
  )
  names = [trial.name for trial in trials]
  assert names[:4] == ['trial-0', 'optim.lr=0.0001', 'optim.lr=0.30000000000000004', 'model.g_widths=_8,_4_,run.seed=1']
  assert names[4] == f'data.name=folder__{"a" * 56}-00004'
  assert names[6:8] == ['data.name=a_b', 'data.name=a_b-00007']
  assert len(set(names)) == len(names)
  assert max(len(name.encode()) for name in names) <= 80
  assert all(re.fullmatch(r'[\w.+=,-]+', name) for name in names)


def made(tmp_path, *overrides):
  base = tiny.config('gan')
  return Sweep.create(str(tmp_path), 'lr', base, resolve(base, overrides), {'launcher': 'local'})


def test_a_sweep_directory_is_read_back_as_it_was_made(tmp_path):
  overrides = [{'optim.lr': 1e-4}, {'model.g_widths': (8, 8), 'run.seed': 2}]
  made_sweep = made(tmp_path, *overrides)
  assert re.fullmatch(r'\d{8}-\d{6}-lr-[0-9a-f]{4}', made_sweep.path.name)
  assert [path.name for path in made_sweep.path.iterdir()] == ['sweep.json']
  again = Sweep.open(made_sweep.path)
  assert [p.config for p in again.trials] == [p.config for p in resolve(tiny.config('gan'), overrides)]
  assert [again.status(trial).state for trial in again.trials] == ['waiting', 'waiting']
  found, trial = directory.owner(again.run_dir(again.trials[1]))
  assert (found.path, trial.number) == (again.path, 1)
  assert directory.owner(again.path / 'no_point') is None
  assert directory.owner(tmp_path) is None


def test_a_damaged_or_missing_sweep_is_named(tmp_path):
  with pytest.raises(UserError, match='is not a sweep directory: it has no sweep.json'):
    Sweep.open(tmp_path)
  for text in ('{"base":', '{}', '[]', '{"base": 3, "points": []}'):
    (tmp_path / 'sweep.json').write_text(text)
    with pytest.raises(UserError, match='sweep.json is damaged'):
      Sweep.open(tmp_path)


def write(run_dir, state, step, message=''):
  run_dir.mkdir(exist_ok=True)
  directory_lib.RunDir(run_dir).status(state, step, 8, message)


def test_the_status_of_a_trial_is_what_its_run_or_a_newer_word_of_its_launcher_says(tmp_path):
  found = made(tmp_path, *({'run.seed': i} for i in range(4)))
  first, second, third, fourth = found.trials
  write(found.run_dir(first), 'running', 4)
  assert found.status(first).state == 'lost', 'nobody holds its lease'
  with directory_lib.RunDir(found.run_dir(first)).lease():
    assert found.status(first).state == 'running'
    assert first not in found.unfinished()
    assert first in found.unfinished(running=True)
  found.record_failure(first, 'lost', 'killed by SIGKILL')
  assert found.status(first) == directory.TrialStatus('lost', 4, 8, 'killed by SIGKILL', found.status(first).host)
  found.record_failure(second, 'failed', 'no data')
  assert (found.status(second).state, found.status(second).message) == ('failed', 'no data')
  write(found.run_dir(second), 'stopped', 2)
  assert found.status(second).state == 'stopped', 'the run spoke later'
  found.record_failure(third, 'failed', 'x')
  found.clear_failure(third)
  assert found.status(third).state == 'waiting'
  write(found.run_dir(third), 'done', 8)
  found.record_failure(third, 'lost', 'killed after its end')
  assert found.status(third).state == 'done'
  found.record_failure(fourth, 'failed', 'x')
  assert found.unfinished() == [first, second]
  assert found.unfinished(retry_failed=True) == [first, second, fourth]


def test_requests_to_stop_reach_the_trials_meant(tmp_path):
  found = made(tmp_path, {'run.seed': 0}, {'run.seed': 1})
  found.request_stop([1])
  assert [found.stop_requested(trial) for trial in found.trials] == [False, True]
  found.request_stop()
  assert [found.stop_requested(trial) for trial in found.trials] == [True, True]
  found.clear_stop()
  assert not any(found.stop_requested(trial) for trial in found.trials)


def test_exit_codes_and_the_next_command(tmp_path):
  assert [
    board.exit_code(states)
    for states in (
      ['done', 'pruned'],
      ['done', 'waiting'],
      ['stopped'],
      ['waiting', 'failed'],
      ['done', 'diverged'],
      ['lost'],
    )
  ] == [0, 75, 75, 1, 1, 1]
  found = made(tmp_path, {'run.seed': 0})
  way = f'go on with python launch.py --resume={found.path}'
  assert board.next_command(found, ['done', 'diverged']) == ''
  assert board.next_command(found, ['done', 'waiting']) == way
  assert board.next_command(found, ['failed', 'done']) == f'{way} --retry_failed'
  assert board.next_command(found, ['failed', 'lost']) == f'--retry_failed takes the failed ones too; {way}'


# The command line.

GAN = ('--config=configs/gan.py', '--tiny', '--config.run.trackers=')


def test_a_dry_run_shows_all_and_touches_no_disk(tmp_path):
  words = [*GAN, '--axis=optim.lr=1e-4,1e-3', '--axis=model.latent=4,6', f'--runs_dir={tmp_path}/runs', '--dry_run']
  done = cli.launch(*words, '--launcher=local')
  assert done.returncode == 0, done.stderr
  rows = [line.split() for line in done.stdout.splitlines()]
  assert rows[0] == ['#', 'latent', 'lr', 'steps', 'program']
  assert rows[2:6] == [
    ['0', '4', '0.0001', '8', '0'],
    ['1', '6', '0.0001', '8', '1'],
    ['2', '4', '0.001', '8', '0'],
    ['3', '6', '0.001', '8', '1'],
  ]
  assert '4 trials, 2 compiled program(s), launcher local. Nothing was started.' in done.stdout
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--sweep=lrr'], ["has no sweep 'lrr'"]),
    (['--axis=optim.rl=1'], ["Did you mean 'optim.lr'?"]),
    (['--axis=run.seed=0:2', '--launcher=locl'], ["Did you mean 'local'?"]),
    (['--axis=run.seed=0:2', '--run_dir=x'], ['leave --run_dir']),
    (['--axis=run.seed=0:1000000000000'], ['more than 100,000 trials']),
    (['--sample=999999999'], ['1 to 10,000']),
    (['--axis=run.seed=0:1000', '--axis=data.seed=0:1000'], ['--axis=run.seed and --axis=data.seed', '100,000']),
    (['--axis=loss.kind=hinge,hnge', '--launcher=local'], ['trial 1', 'hnge', 'Nothing was started']),
    (['--axis=loss.d_lr_factor=1.0,-1.0'], ['trial 1', 'd_lr_factor=-1.0 must be at least 0', 'Nothing was started']),
  ],
)
def test_a_bad_sweep_leaves_nothing_behind(tmp_path, words, says):
  done = cli.launch(*GAN, f'--runs_dir={tmp_path}/runs', *words)
  cli.refused(done, *says)
  assert not list(tmp_path.iterdir())


def test_a_resume_while_a_launcher_works_withdraws_no_request_to_stop(tmp_path):
  found = made(tmp_path, {'run.seed': 0})
  found.request_stop()
  with found.lease():
    cli.refused(cli.launch(f'--resume={found.path}'), 'is in use by process')
    assert found.stop_requested(found.trials[0])


@pytest.mark.parametrize(
  ('name', 'taken', 'code'),
  [
    ('packed', [0, 1], REQUEUE),
    ('local', [0, 1], REQUEUE),
    ('ray', [0, 1], REQUEUE),
    ('slurm', [1], DONE),
    ('print', [1], DONE),
  ],
)
def test_a_resume_takes_trials_that_workers_of_a_dead_launcher_still_run(tmp_path, monkeypatch, name, taken, code):
  """But for Slurm, whose workers need no launcher, and which does not wait for an end that it could tell of."""
  found, given = made(tmp_path, {'run.seed': 0}, {'run.seed': 1}), []
  monkeypatch.setattr(LAUNCHERS[name], 'launch', lambda sweep, trials, options: given.extend(trials))
  write(found.run_dir(found.trials[0]), 'running', 4)
  with directory_lib.RunDir(found.run_dir(found.trials[0])).lease():
    assert command.resume(str(found.path), name, False, Options(), {}) == code
  assert [trial.number for trial in given] == taken


def test_bad_stops_are_refused(tmp_path):
  found = made(tmp_path, {'run.seed': 0}, {'run.seed': 1})
  cli.refused(cli.launch(f'--stop={found.path}', '--trial=2'), 'has no trial 2', 'its trials are 0 to 1')
  cli.refused(cli.launch(f'--stop={found.path}', '--trial=x'), '--trial=x is no number')
  cli.refused(cli.launch(f'--stop={tmp_path}'), 'is not a sweep directory')
  cli.refused(cli.launch(f'--status={tmp_path}/none'), 'is not a sweep directory')
  assert not (found.path / 'stop').exists()
  done = cli.launch(f'--stop={found.path}', '--trial=1')
  assert done.returncode == 0
  assert f'asked trial(s) 1 of {found.path}' in done.stdout


def test_print_gives_one_command_a_trial_that_a_shell_can_run(tmp_path):
  folder = tmp_path / 'my runs'
  done = cli.launch(*GAN, f'--runs_dir={folder}', '--axis=run.seed=0:2', '--launcher=print')
  assert done.returncode == 0, done.stderr
  [path] = (folder / 'gan').iterdir()
  assert done.stdout.splitlines() == [f"python launch.py '--run_dir={path}/run.seed={i}'" for i in (0, 1)]
  assert json.loads((path / 'sweep.json').read_text())['launcher'] == 'print'


def test_a_sweep_of_an_older_version_is_gone_on_with_by_its_launcher(tmp_path):
  found = made(tmp_path, {'run.seed': 0}, {'run.seed': 1})
  about = json.loads((found.path / 'sweep.json').read_text())
  about['engine'] = about.pop('launcher').replace('local', 'print')  # as launchers were called
  (found.path / 'sweep.json').write_text(json.dumps(about))
  assert Sweep.open(found.path).launcher == 'print'
  done = cli.launch(f'--resume={found.path}')
  assert done.stdout.splitlines() == [f'python launch.py --run_dir={found.path}/run.seed={i}' for i in (0, 1)]
  assert cli.launch(f'--stop={found.path}').returncode == 0


def test_the_older_name_of_the_flag_is_understood(tmp_path):
  words = [*GAN, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:2', '--dry_run']
  assert 'launcher slurm' in cli.launch(*words, '--engine=slurm').stdout
  cli.refused(cli.launch(*words, '--engine=lokal'), '--launcher=lokal is none of', "Did you mean 'local'?")


def test_a_trial_whose_status_is_torn_fails_alone(tmp_path):
  found = made(tmp_path, {'run.seed': 0}, {'run.seed': 1})
  (found.path / 'run.seed=1').mkdir()
  (found.path / 'run.seed=1' / 'status.json').write_text('{"state": "ru')
  assert [found.status(trial).state for trial in found.trials] == ['waiting', 'failed']
  shown = cli.launch(f'--status={found.path}')
  assert shown.returncode == 0 and 'status.json is damaged' in shown.stdout


def test_a_sweep_of_which_nothing_was_started_leaves_nothing(tmp_path, monkeypatch):
  words = [*GAN, '--axis=run.seed=0:2', '--launcher=local', f'--runs_dir={tmp_path}/runs']
  cli.refused(cli.launch(*words, '--devices=7'), '--devices=7 is no accelerator')
  cli.refused(
    cli.launch(*words, '--launcher=ray', '--ray_address=127.0.0.1:1'), 'no Ray cluster answers at 127.0.0.1:1'
  )
  assert not cli.files(tmp_path / 'runs'), 'not even the folder of the sweep'

  def interrupted(sweep, trials, options):
    (sweep.run_dir(trials[0])).mkdir()
    raise UserError('the disk is full')

  monkeypatch.setattr(LAUNCHERS['local'], 'launch', interrupted)
  cli.refused(cli.launch(*words), 'the disk is full')
  assert len(list((tmp_path / 'runs' / 'gan').iterdir())) == 1, 'what was started stays'
