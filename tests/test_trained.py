"""What a trained run can do, by python -m gen_ai.generate and by gen_ai.load: tasks, inputs, settings, and mistakes."""

import json

import cli
import numpy as np
import pytest
import tiny

import gen_ai
from gen_ai.core.errors import DONE, UserError

NAMES = ('square', 'star', 'line', 'circle', 'ring', 'cross', 'arrow', 'heart', 'cloud', '3')  # of the ten classes
RULE = '\n' + '-' * 40 + '\n'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """{config: a finished run of it}. That of cgan has named classes; that of vae keeps no averages."""
  folder = tmp_path_factory.mktemp('trained')
  for name, overrides in {'cgan': {}, 'vae': {'optim__ema_decay': 0.0, 'eval__samples': 300}, 'lm': {}}.items():
    assert tiny.run(tiny.config(name, **overrides), folder / name)[0] == DONE
  file = folder / 'cgan' / 'run.json'
  about = json.loads(file.read_text())
  about['data']['class_names'] = list(NAMES)
  file.write_text(json.dumps(about))
  return {name: folder / name for name in ('cgan', 'vae', 'lm')}


def generate(run, out, *words):
  """What the command writes to `out`."""
  done = cli.command('gen_ai.generate', run, f'--out={out}', *words)
  assert done.returncode == DONE, done.stderr
  found = np.load(out)
  if out.suffix == '.npy':
    return found
  with found:
    return dict(found)


def same_but_for_rounding(a, b):
  """Levels of images that programs of unlike batches compute."""
  assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
  assert np.abs(a.astype(int) - b).max() <= 1


# By command.


def test_a_class_by_name_and_by_number(runs, tmp_path):
  by_name, by_number, mixed = (
    generate(runs['cgan'], tmp_path / f'{i}.npy', '--n=4', *(f'--label={label}' for label in labels))
    for i, labels in enumerate((['circle'], ['03'], ['circle', '0']))
  )
  assert by_name.shape == (4, 28, 28, 1)
  np.testing.assert_array_equal(by_name, by_number)
  same_but_for_rounding(mixed[::2], by_name[::2])  # sample i has the i-th label, and round again
  assert (np.abs(mixed[1::2].astype(int) - by_name[1::2]).max((1, 2, 3)) > 1).all()
  two = generate(runs['cgan'], tmp_path / 'x.npy', '--label=circle', '--label=0')
  same_but_for_rounding(two, mixed[:2])  # as many as there are labels


@pytest.mark.parametrize(
  ('name', 'words', 'says'),
  [
    ('cgan', ['--label=circel'], ["there is no class 'circel'. Did you mean 'circle'?", '10 classes: square, star']),
    ('cgan', ['--label=10'], ["there is no class '10'", '10 classes']),
    ('vae', ['--label=3'], ["the task 'generate' takes no input 'label'; it takes latent (latent)."]),
    ('vae', ['--input=latent'], ['--input=latent must be NAME=VALUE or NAME=FILE.npy']),
    ('vae', ['--input=latent=a,b'], ['--input=latent=a,b is neither a .npy file nor numbers']),
    ('vae', ['--input=latent=no.npy'], ['--input=latent=no.npy cannot be read']),
    ('vae', ['--input=latent=1,2,3'], ["the input 'latent' has the shape [3]; it must be [N, 4]"]),
    ('vae', ['--input=zoom=1'], ["takes no input 'zoom'"]),
    ('vae', ['--input=latent=1,2,3,4', '--latent=z.npy'], ["'latent' is given twice"]),
    ('vae', ['--task=paint'], ["has no task 'paint'. It can generate, reconstruct, encode"]),
    ('vae', ['--task=encode', '--out=z.png'], ['--out=z.png must end in .npz or .npy']),
    ('vae', ['--task=encode', '--latent=z.npy'], ["'encode' takes no input 'latent'; it takes image (example, "]),
    ('vae', ['--config.optim.lr=1.0'], ['config.optim.lr', 'fixed']),
    ('vae', ['--config.sample.n=3'], ['config.sample.n is for the grids of training', '--n=N']),
    ('lm', ['--config.sample.prompt=x'], ['config.sample.prompt', '--prompt=TEXT']),
    ('lm', ['--prompt=x', '--out=x.png'], ['must end in .txt, .npy or .npz']),
  ],
)
def test_what_a_task_does_not_take_is_refused(runs, name, words, says):
  before = cli.files(runs[name])
  cli.refused(cli.command('gen_ai.generate', runs[name], *words), *says)
  assert cli.files(runs[name]) == before


@pytest.mark.parametrize('temperature', [0, 1])
def test_each_text_goes_on_from_its_own_prompt(runs, tmp_path, temperature):
  prompts, words = ('ab', 'for x in '), (f'--config.sample.temperature={temperature}', '--config.sample.length=7')
  both = generate(runs['lm'], tmp_path / 'x.npy', *words, *(f'--prompt={prompt}' for prompt in prompts))
  assert (both.dtype, both.shape) == (np.int32, (2, 9 + 7))
  for i, prompt in enumerate(prompts):
    length = len(prompt) + 7
    assert bytes(both[i, : len(prompt)].astype(np.uint8)).decode() == prompt
    assert (both[i, :length] >= 0).all() and (both[i, length:] == -1).all()
    alone = generate(runs['lm'], tmp_path / 'y.npy', *words, f'--prompt={prompt}', '--n=2')  # of the same number
    np.testing.assert_array_equal(both[i, :length], alone[i])
  assert not np.array_equal(both[0, 2:9], both[1, 9:])
  told = cli.command('gen_ai.generate', runs['lm'], *words, *(f'--prompt={prompt}' for prompt in prompts), '--n=3')
  assert [text[: len(prompt)] for text, prompt in zip(told.stdout.split(RULE), (*prompts, 'ab'), strict=True)] == [
    *prompts,
    'ab',
  ]
  long = cli.command('gen_ai.generate', runs['lm'], '--prompt=ab', f'--prompt={"x" * 17}')
  assert long.returncode == DONE and long.stdout.partition(RULE)[2].startswith('x' * 17)
  assert 'the prompt has 17 tokens, too many for blocks of 16' in long.stderr


def test_latents_of_ones_own(runs, tmp_path):
  z = np.float32([[0, 0, 0, 0], [1, -1, 2, 0], [0, 0, 0, 0]])
  np.save(tmp_path / 'z.npy', z)
  images = generate(runs['vae'], tmp_path / 'x.npy', f'--latent={tmp_path}/z.npy')
  assert images.shape == (3, 28, 28, 1)
  np.testing.assert_array_equal(images[0], images[2])
  assert not np.array_equal(images[0], images[1])
  again = generate(runs['vae'], tmp_path / 'y.npy', f'--input=latent={tmp_path}/z.npy', '--seed=5')
  np.testing.assert_array_equal(images, again)
  one = generate(runs['vae'], tmp_path / 'one.npy', '--input=latent=1,-1,2,0', '--n=2')
  same_but_for_rounding(one, images[[1, 1]])


def test_codes_of_images_and_what_is_drawn_from_them(runs, tmp_path):
  codes = generate(runs['vae'], tmp_path / 'z.npz', '--task=encode', '--n=6')['latent']
  assert (codes.dtype, codes.shape) == (np.float32, (6, 4)) and codes.std(0).min() > 0
  whole = generate(runs['vae'], tmp_path / 'x.npz', '--task=reconstruct')
  assert list(whole) == ['sample'] and whole['sample'].shape == (16, 28, 28, 1)
  np.save(tmp_path / 'z.npy', codes)
  drawn = generate(runs['vae'], tmp_path / 'd.npy', f'--latent={tmp_path}/z.npy')
  same_but_for_rounding(drawn, whole['sample'][:6])
  source = tiny.dataset(tiny.config('vae')).splits['test']
  np.save(tmp_path / 'test.npy', source.read(source.eval_index(np.arange(6)))['image'])
  given = generate(runs['vae'], tmp_path / 'g.npy', '--task=encode', f'--image={tmp_path}/test.npy')
  np.testing.assert_allclose(given, codes, atol=1e-5)  # test images are what is taken where none are given
  few = generate(runs['vae'], tmp_path / 'f.npy', '--task=encode', f'--image={tmp_path}/test.npy', '--n=9')
  assert few.shape == (6, 4)


# What evaluations measure.


def evaluated(run, *words):
  """The rows that an evaluation added to the record of the run."""
  before = len(gen_ai_rows(run))
  done = cli.command('gen_ai.evaluate', run, *words)
  assert done.returncode == DONE, done.stderr
  return gen_ai_rows(run)[before:], done


def gen_ai_rows(run):
  file = run / 'evaluations.jsonl'
  return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_curve_over_a_setting_is_measured_by_one_program(runs, tmp_path, monkeypatch):
  from gen_ai.evaluate import restored

  real, restores = restored.restore, []

  def counted(*arguments):
    restores.append(arguments)
    return real(*arguments)

  monkeypatch.setattr(restored, 'restore', counted)
  words = ('--metrics=memorisation', '--samples=8')
  rows, done = evaluated(runs['lm'], *words, '--axis=sample.temperature=0.5,1.0', f'--out={tmp_path}/report.json')
  assert len(restores) == 1
  assert [row['axis'] for row in rows] == [{'sample.temperature': 0.5}, {'sample.temperature': 1.0}]
  stamps = [row['figures']['overlap_tokens']['stamp'] for row in rows]
  assert [stamp['sampler.temperature'] for stamp in stamps] == ['0.5', '1.0']
  for value in ('0.5', '1.0'):
    assert f'step 8, config.sample.temperature={value}, test split' in done.stdout
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['curve'] == rows and report['run'] == str(runs['lm'])
  # Each is what an evaluation under that setting alone measures.
  for row in rows:
    temperature = row['axis']['sample.temperature']
    [alone], _ = evaluated(runs['lm'], *words, f'--config.sample.temperature={temperature}')
    assert 'axis' not in alone and alone['figures'] == row['figures']
  assert rows[0]['figures']['overlap_tokens'] != rows[1]['figures']['overlap_tokens']


@pytest.mark.parametrize(
  ('name', 'words', 'says'),
  [
    ('lm', ['--axis=optim.lr=1,2'], ['--axis=optim.lr', 'config.sample.*', 'belongs to the training']),
    ('lm', ['--axis=sample.temprature=0.5,1'], ["'sample.temprature'", 'sample.temperature']),
    ('lm', ['--axis=sample.temperature=-1,1', '--metrics=memorisation'], ['sample.temperature=-1', 'at least 0']),
    ('vae', ['--task=generate'], ['--task is for figures of samples (--metrics)']),
    ('vae', ['--metrics=fd', '--task=paint'], ["has no task 'paint'. It can generate"]),
    ('vae', ['--metrics=fd', '--task=encode'], ["the task 'encode' draws no samples, so fd cannot be measured"]),
    ('vae', ['--metrics=fd', '--task=generate', '--config.eval.task=generate'], ['say the same thing twice']),
  ],
)
def test_what_an_evaluation_cannot_vary_or_draw_is_refused(runs, name, words, says):
  before = gen_ai_rows(runs[name])
  cli.refused(cli.command('gen_ai.evaluate', runs[name], *words), *says)
  assert gen_ai_rows(runs[name]) == before


def test_the_task_that_draws_is_chosen_and_stamped(runs):
  drawn, _ = evaluated(runs['vae'], '--metrics=fd')
  copied, _ = evaluated(runs['vae'], '--metrics=fd', '--task=reconstruct')
  plain, of_examples = (rows[0]['figures']['fd'] for rows in (drawn, copied))
  assert not {'task', 'conditioned_on'} & plain['stamp'].keys()
  assert (of_examples['stamp']['task'], of_examples['stamp']['conditioned_on']) == ('reconstruct', 'test')
  assert of_examples['value'] != plain['value']


# In Python.


def test_three_lines_in_python(runs, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = gen_ai.load(runs['cgan'])
  images = run.generate(n=5, label='circle', seed=1)
  assert images.shape == (5, 28, 28, 1) and images.dtype == np.uint8
  same_but_for_rounding(generate(runs['cgan'], tmp_path / 'x.npy', '--label=circle', '--n=5', '--seed=1'), images)
  assert run.averaged and run.params is run.state.ema and 'averaged parameters' in repr(run)
  assert list(run.tasks) == ['generate'] and 'generate(latent, label)' in repr(run) and run.step == 8
  alone = gen_ai.load(runs['vae'])
  assert not alone.averaged and alone.params is alone.state.params and 'parameters as trained' in repr(alone)
  early = gen_ai.load(runs['vae'], step=4)
  assert early.step == 4 and not np.array_equal(early.generate(n=2), alone.generate(n=2))


def test_a_number_is_a_number_and_a_text_is_a_name_first(runs):
  run = gen_ai.load(runs['cgan'])
  assert [run.label(given) for given in ('3', 3, np.int32(3), 'circle', '4', '03')] == [9, 3, 3, 3, 4, 3]
  a, b = run.generate(n=2, label='3'), run.generate(n=2, label=3)
  assert not np.array_equal(a, b)
  np.testing.assert_array_equal(run.generate(label=['3', 'circle']), run.generate(label=np.array([9, 3])))
  assert len(run.generate()) == 16


def test_settings_of_tasks_are_given_when_a_run_is_opened(runs):
  cold = gen_ai.load(runs['lm'], sample__temperature=0.0, sample__length=5)
  texts = cold.generate(prompt='ab', n=2)
  assert texts.shape == (2, 7)
  np.testing.assert_array_equal(texts[0], texts[1])
  assert cold.run('generate', prompt=['ab', 'abc'])['given'].tolist() == [2, 3]
  with pytest.raises(UserError, match='config.optim.lr'):
    gen_ai.load(runs['lm'], optim__lr=1.0)
  with pytest.raises(UserError, match='is not a run directory|no such directory'):
    gen_ai.load(runs['lm'] / 'gone')
  with pytest.raises(UserError, match='no checkpoint of step 5'):
    gen_ai.load(runs['lm'], step=5)


@pytest.mark.parametrize(
  ('task', 'inputs', 'says'),
  [
    ('paint', {}, "has no task 'paint'. It can generate, reconstruct, encode"),
    ('generate', {'zoom': 1}, "the task 'generate' takes no input 'zoom'"),
    ('reconstruct', {}, "the task 'reconstruct' needs the input 'image'"),
    ('generate', {'latent': np.zeros((2, 3))}, r"'latent' has the shape \[2, 3\]; it must be \[N, 4\]"),
    ('generate', {'latent': 'x'}, "the input 'latent' is no array of numbers"),
    ('reconstruct', {'image': np.zeros((2, 28, 28), np.uint8)}, r'it must be \[N, 28, 28, 1\]'),
    ('reconstruct', {'image': np.ones((2, 28, 28, 1))}, r"the input 'image' .* not clearly in \[-1, 1\]"),
    ('reconstruct', {'image': np.zeros((2, 28, 28, 1), int)}, "the input 'image' holds int64"),
  ],
)
def test_wrong_inputs_are_named(runs, task, inputs, says):
  with pytest.raises(UserError, match=says):
    gen_ai.load(runs['vae']).run(task, **inputs)


def test_every_output_and_any_task_by_name(runs):
  run = gen_ai.load(runs['vae'])
  source = tiny.dataset(tiny.config('vae')).splits['test']
  images = source.read(np.arange(4))['image']
  codes = run.run('encode', image=images)
  assert {name: array.shape for name, array in codes.items()} == {'latent': (4, 4)}
  same_but_for_rounding(run.generate(latent=codes['latent']), run.run('reconstruct', image=images)['sample'])
  np.testing.assert_array_equal(run.run('encode', image=images / np.float32(127.5) - 1)['latent'], codes['latent'])
  weigh = lambda index: run.run('log_weights', image=images, index=index, draw=np.tile(np.arange(3), (4, 1)))  # noqa: E731
  weights, other = (weigh(start + np.arange(4))['log_weights'] for start in (2**24, 2**24 + 1))
  assert weights.shape == (4, 3) and np.isfinite(weights).all() and len(np.unique(weights)) == 12
  assert (weights != other).all(), 'whole numbers stay whole, however large'


def test_it_works_from_any_folder(runs, tmp_path):
  code = f'import gen_ai; print(gen_ai.load({str(runs["cgan"])!r}).generate(n=2, label="circle").shape)'
  done = tiny.command('-c', code, cwd=tmp_path, env={'PYTHONPATH': str(tiny.ROOT)})
  assert done.stdout == '(2, 28, 28, 1)\n', done.stderr
  assert not list(tmp_path.iterdir())
