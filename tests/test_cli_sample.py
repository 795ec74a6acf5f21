"""python -m gen_ai.sample and python -m gen_ai.evaluate on finished runs: files, texts, seeds, steps, reports."""

import json
import shutil
from unittest import mock

import cli
import numpy as np
import pytest
import tiny
from PIL import Image

from gen_ai.core import files
from gen_ai.maths.pixels import to_signed
from gen_ai.run import directory


@pytest.fixture(scope='module')
def vae(tmp_path_factory):
  """A finished run of configs/vae.py, with a best checkpoint and an average of the parameters."""
  path = tmp_path_factory.mktemp('sample') / 'vae'
  tiny.run(tiny.config('vae'), path)
  return path


@pytest.fixture(scope='module')
def lm(tmp_path_factory):
  """A finished run of configs/lm.py."""
  path = tmp_path_factory.mktemp('sample') / 'lm'
  tiny.run(tiny.config('lm'), path)
  return path


def draw(run, out, *words):
  """Samples written to `out`."""
  done = cli.command('gen_ai.sample', run, f'--out={out}', *words)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith(str(out))
  return np.load(out) if out.suffix == '.npy' else out


def text(run, *words):
  done = cli.command('gen_ai.sample', run, *words)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_images_as_an_array_and_as_a_grid(vae, tmp_path):
  images = draw(vae, tmp_path / 'new' / 'x.npy', '--n=6')
  assert (images.dtype, images.shape) == (np.uint8, (6, 28, 28, 1))
  assert len(np.unique(images)) > 2
  with Image.open(draw(vae, tmp_path / 'my.grid.png', '--n=6')) as picture:
    sheet = np.asarray(picture)
    assert picture.mode == 'L'
  assert sheet.shape == (2 * (56 + 2) + 2, 3 * (56 + 2) + 2)  # 3 columns of doubled digits, 2 pixels between them
  np.testing.assert_array_equal(sheet[2:58:2, 60:116:2], images[1, :, :, 0])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['my.grid.png', 'new']


def test_without_a_file_name_the_step_makes_one(vae, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert text(vae, '--n=1') == '1 samples of step 8: samples_step_8.png\n'
  assert (tmp_path / 'samples_step_8.png').is_file()


def test_seed_and_step_choose_what_is_drawn(vae, tmp_path):
  fixed, again, seeded, same, early = (
    draw(vae, tmp_path / f'{i}.npy', '--n=8', *words)
    for i, words in enumerate([[], [], ['--seed=1'], ['--seed=1'], ['--step=4']])
  )
  np.testing.assert_array_equal(fixed, again)
  np.testing.assert_array_equal(seeded, same)
  assert not np.array_equal(fixed, seeded)
  assert not np.array_equal(fixed, early)
  with (
    Image.open(draw(vae, tmp_path / 'x.png', '--n=8')) as mine,
    Image.open(vae / 'samples' / 'step_00000008.png') as trained,
  ):
    np.testing.assert_array_equal(mine, trained, 'a run shows the first of its samples')


def test_best_is_the_checkpoint_with_the_best_metric(vae):
  rows = [row for row in directory.read_metrics(vae) if row['kind'] == 'eval']
  best = max(rows, key=lambda row: row['elbo_nats'])['step']
  done = cli.command('gen_ai.evaluate', vae, '--step=best', '--split=validation')
  assert f'{vae}, step {best}, validation split of mnist_5k: 100 images' in done.stdout


def test_text_is_printed_and_starts_with_the_prompt(lm):
  rule = '\n' + '-' * 40 + '\n'
  texts = text(lm, '--n=3', '--prompt=for x').split(rule)
  assert len(texts) == 3
  assert all(t.startswith('for x') for t in texts)
  assert len(set(texts)) == 3
  assert all(t.startswith('def ') for t in text(lm, '--n=2').split(rule)), "the config's own prompt"
  assert text(lm, '--n=3', '--prompt=for x', '--seed=5') != text(lm, '--n=3', '--prompt=for x')


def test_a_prompt_longer_than_the_block_is_printed_whole_and_the_cut_told(lm, tmp_path):
  for prompt, seen in (('for x in range(10)', 8), ('x' * 16, 8), ('x' * 15, 15)):  # blocks of 16 tokens
    done = cli.command('gen_ai.sample', lm, '--n=2', f'--prompt={prompt}', '--config.sample.length=20')
    assert done.returncode == 0, done.stderr
    for drawn in done.stdout.removesuffix('\n').split('\n' + '-' * 40 + '\n'):
      assert drawn.startswith(prompt)
    told = f'note: the prompt has {len(prompt)} tokens, too many for blocks of 16 (config.data.block_size)'
    assert (told in done.stderr and f'its last {seen} tokens' in done.stderr) if seen == 8 else not done.stderr
  tokens = draw(lm, tmp_path / 'x.npy', '--n=2', '--prompt=for x in range(10)', '--config.sample.length=20')
  assert tokens.shape == (2, 18 + 20)


def test_text_as_files_and_sampling_settings(lm, tmp_path):
  tokens = draw(lm, tmp_path / 'x.npy', '--n=2', '--config.sample.length=7', '--prompt=ab')
  assert (tokens.dtype, tokens.shape) == (np.int32, (2, 9))
  assert bytes(tokens[0, :2].astype(np.uint8)) == b'ab'
  cold = draw(lm, tmp_path / 'cold.npy', '--n=2', '--config.sample.length=7', '--config.sample.temperature=0')
  np.testing.assert_array_equal(cold[0], cold[1])
  written = draw(lm, tmp_path / 'x.txt', '--n=2').read_bytes()  # a byte of a text may be a carriage return
  assert written == text(lm, '--n=2').encode() == (lm / 'samples' / 'step_00000008.txt').read_bytes(), 'as in the run'
  cli.refused(cli.command('gen_ai.sample', lm, '--out=x.png'), 'must end in .txt, .npy or .npz')


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_evaluate_prints_and_writes_a_report_with_its_protocol(vae, split, tmp_path):
  out = tmp_path / 'report.json'
  done = cli.command('gen_ai.evaluate', vae, f'--split={split}', f'--out={out}')
  assert done.returncode == 0, done.stderr
  report, about = json.loads(out.read_text()), directory.read_run(vae)['data']
  expected = {'run': str(vae), 'step': 8, 'split': split}
  assert {name: report[name] for name in expected} == expected
  stamp = {
    'split': split,
    'examples': about['sizes'][split],
    'data': 'mnist_5k',
    'data_hash': about['fingerprint'],
    'split_rule': about['split_rule'],
    'form': 'images 28x28x1',
  }
  assert {name: report['stamp'][name] for name in stamp} == stamp
  own = report['figures'].pop('spread')  # of the samples of fixed latents, whatever the split
  images = to_signed(draw(vae, tmp_path / 'x.npy', '--n=8'))
  assert own['value'] == pytest.approx(images.std(0, ddof=1).mean(), rel=1e-5)
  assert (own['stamp']['samples'], own['stamp']['data_spread']) == (8, 0.3804)
  assert f'  {"spread":24} {own["value"]:<12.6g}  (0.3804 in the training data)\n' in done.stdout
  for name, figure in report['figures'].items():
    assert figure['stamp'] == {'ema': True, 'eval_seed': 0, 'observation': 'bernoulli likelihood, binarised (dynamic)'}
    if name == 'active_units':  # of the model, not an average over examples
      assert figure['low'] == figure['value'] == figure['high'] and 0 <= figure['value'] <= 4
    else:
      assert figure['low'] < figure['value'] < figure['high']
    assert f'  {name:24} {figure["value"]:<12.6g}  [{figure["low"]:.6g}, {figure["high"]:.6g}]\n' in done.stdout
  if split == 'validation':  # the same protocol as in training: the same figures
    [last] = [row for row in directory.read_metrics(vae) if row['kind'] == 'eval' and row['step'] == 8]
    values = {name: figure['value'] for name, figure in report['figures'].items()} | {'spread': own['value']}
    assert values == pytest.approx({name: last[name] for name in values}, rel=1e-5)


def test_the_noise_of_an_evaluation_is_its_seed(vae):
  plain, again, other = (
    cli.command('gen_ai.evaluate', vae, *words).stdout for words in ([], [], ['--config.eval.seed=1'])
  )
  assert plain == again
  assert plain.splitlines()[0] == other.splitlines()[0]
  assert plain != other


def test_text_is_evaluated_in_nats_and_bits(lm):
  done = cli.command('gen_ai.evaluate', lm)
  assert done.returncode == 0, done.stderr
  assert 'blocks of 16 tokens' in done.stdout and 'spread' not in done.stdout
  assert not any('spread' in row for row in directory.read_metrics(lm))
  values = dict(line.split()[:2] for line in done.stdout.splitlines() if line.startswith('  '))
  assert float(values['bits_per_byte']) == pytest.approx(float(values['loss_nats']) / np.log(2), rel=1e-4)


def test_commands_of_their_own_process_end_in_one_line(vae, tmp_path):
  cli.refused(tiny.command('-m', 'gen_ai.sample', tmp_path / 'gone'), f'{tmp_path}/gone is not a run directory')
  done = tiny.command('-m', 'gen_ai.evaluate', vae)
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  assert 'elbo_nats' in done.stdout


def test_a_run_that_cannot_be_written_is_told_before_anything_is_computed_or_evaluated_into_out(lm, tmp_path):
  run, out = shutil.copytree(lm, tmp_path / 'run'), tmp_path / 'report.json'
  (run / 'evaluations.jsonl').unlink(missing_ok=True)
  (run / 'evaluations.jsonl').mkdir()  # what no user may write, root included
  before = cli.files(run)
  with mock.patch('gen_ai.evaluate.restored.restore', side_effect=AssertionError('something was computed')):
    cli.refused(cli.command('gen_ai.evaluate', run), f'{run} cannot be written (Is a directory)', '--out=FILE.json')
    for words in ((), (f'--samples_file={tmp_path}/no.npy', '--data=mnist_5k', f'--run_dir={run}')):
      where = words or (run,)
      cli.refused(cli.command('gen_ai.evaluate', *where, f'--out={tmp_path}/no/x.json'), '--out=', 'cannot be written')
    for command in ('gen_ai.sample', 'gen_ai.evaluate'):
      done = cli.command(command, lm, f'--out={run}/config.json/x.txt')
      cli.refused(done, f'--out={run}/config.json/x.txt cannot be written: Not a directory')
  done = cli.command('gen_ai.evaluate', run, f'--out={out}')
  assert done.returncode == 0, done.stderr
  assert done.stderr == f'note: {run} cannot be written (Is a directory): --out={out} alone holds the evaluation\n'
  report = json.loads(out.read_text())
  assert f'  {"loss_nats":24} {report["figures"]["loss_nats"]["value"]:<12.6g}' in done.stdout
  assert cli.files(run) == before


def test_what_could_not_be_kept_is_shown_all_the_same(lm, tmp_path):
  run = shutil.copytree(lm, tmp_path / 'run')
  before = directory.read_evaluations(run)
  with mock.patch('gen_ai.core.files.append', side_effect=OSError(28, 'No space left on device')):
    done = cli.command('gen_ai.evaluate', run)
  cli.refused(done, f'{run}/evaluations.jsonl cannot be written (No space left on device)', '--out=FILE.json')
  assert f'{run}, step 8, not kept:\n' in done.stdout and f'  {"loss_nats":24} ' in done.stdout
  assert directory.read_evaluations(run) == before


def test_a_place_is_asked_whether_it_can_be_written_and_nothing_stays(tmp_path):
  (tmp_path / 'file').write_text('kept')
  (tmp_path / 'dangling').symlink_to(tmp_path / 'gone' / 'far')
  assert files.unwritable(tmp_path / 'new') == files.unwritable(tmp_path / 'file') == ''
  assert files.unwritable(tmp_path / 'a' / 'b' / 'new', parents=True) == ''
  assert files.unwritable(tmp_path / 'a' / 'new') == 'No such file or directory'
  assert files.unwritable(tmp_path / 'file' / 'new', parents=True) == 'Not a directory'
  assert files.unwritable('/proc/new') != ''  # where root may not write either
  assert (tmp_path / 'file').read_text() == 'kept'
  assert sorted(path.name for path in tmp_path.iterdir()) == ['dangling', 'file']
