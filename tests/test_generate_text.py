"""Text of a trained run while it is made: --stream, --interactive, --draft, and the same in Python."""

import io
import json
import shutil
from unittest import mock

import cli
import numpy as np
import pytest
import tiny

import gen_ai
from gen_ai.core import terminal
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.data import kinds
from gen_ai.data.text import ByteVocab
from gen_ai.evaluate.generation import CallInputs, Generation
from gen_ai.evaluate.streaming import Streaming
from gen_ai.evaluate.trained import Trained

RULE = '\n' + '-' * 40 + '\n'
LENGTH = '--config.sample.length=30'  # beyond the context of 16


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """{name: run}: `large`, `small`, which is as large but by another seed, and `bytes`, which says it is of bytes.

  The first two have tokens of byte-level BPE, most of which are parts of characters.
  """
  folder = tmp_path_factory.mktemp('text')
  for number in range(8):
    (folder / f'{number}.txt').write_text('щука и ёж, 日本語のテキスト; ' * 40 + f'№ {number}\n')
  texts = {'data__name': f'text:{folder}/*.txt', 'data__split': 'auto', 'data__data_dir': str(folder / 'kept')}
  for seed, name in enumerate(('large', 'small')):  # of one structure, which is compiled once
    config = tiny.config('lm', **texts, data__tokens='bpe:280', run__seed=seed)
    assert tiny.run(config, folder / name)[0] == DONE
  shutil.copytree(folder / 'small', folder / 'bytes')
  file = folder / 'bytes' / 'run.json'
  about = json.loads(file.read_text())
  for fact in ('tokenizer', 'tokens'):
    del about['data']['spec'][fact]
  file.write_text(json.dumps(about))
  return {name: folder / name for name in ('large', 'small', 'bytes')}


def told(run, *words, lines=None):
  """The finished command; `lines` are its standard input."""
  with mock.patch('sys.stdin', io.StringIO(lines or '')):
    return cli.command('gen_ai.generate', run, *words, LENGTH)


def texts_of(run, *words):
  done = told(run, *words)
  assert done.returncode == DONE, done.stderr
  return done.stdout


PROMPTS = '--prompt=щука', '--prompt=日', '--prompt=и ёж, щука и ёж, щука и ёж'


def test_what_is_streamed_is_the_text_of_one_call(runs):
  words = *PROMPTS, '--n=4', '--seed=3'
  whole = texts_of(runs['large'], *words)
  assert texts_of(runs['large'], *words, '--stream') == whole and len(whole.split(RULE)) == 4
  assert '\N{REPLACEMENT CHARACTER}' in whole.removesuffix('\n'), 'no character was cut: the test shows nothing'
  run = gen_ai.load(runs['large'], sample__length=30)
  pieces = list(run.stream(prompt=['щука', '日'], number=1, seed=3))
  assert ''.join(pieces) == whole.split(RULE)[1] and len(pieces) > 2 and pieces[0].startswith('日')


@pytest.mark.parametrize('devices', [1, 2])
def test_every_device_of_pmap_streams_the_text(devices):
  config = tiny.config('lm', parallel='pmap', sample__length=20)
  program, given = tiny.program(config, devices), {'prompt': np.array([[3, 5]], np.int32)}
  state, task = program.init(), program.drawing_task()
  streaming = Streaming(program, task)
  pieces = list(streaming.text(state, 3, 1, given))
  (whole,) = Generation(program, 3, task, CallInputs(given)).outputs(state, np.array([1]))
  np.testing.assert_array_equal(streaming.outputs['sample'], whole['sample'])
  assert ''.join(pieces) == kinds.of(program.spec).shown(program.spec, whole['sample']) and len(pieces) > 1


def test_a_text_is_streamed_alone_where_nothing_says_how_many(runs):
  one = texts_of(runs['large'], PROMPTS[0], '--stream')
  with mock.patch.object(Trained, 'streaming', side_effect=AssertionError('streamed')):  # no terminal
    assert texts_of(runs['large'], PROMPTS[0], '--n=1') == one and RULE not in one
  with (
    mock.patch.object(terminal._Descriptor, 'isatty', lambda self: True, create=True),
    mock.patch.object(Trained, 'outputs', side_effect=AssertionError('not streamed')),
  ):
    done = cli.command('gen_ai.generate', runs['large'], PROMPTS[0], '--n=1', LENGTH, encoding='utf-8')
  assert (done.returncode, done.stdout) == (DONE, one)


def test_a_character_is_shown_once_it_is_whole():
  spec = Spec('text', (16,), 0, ByteVocab())
  settled = lambda text: kinds.of(spec).settled(spec, np.frombuffer(text, np.uint8).astype(np.int32))  # noqa: E731
  whole = 'é日🙂'.encode()
  assert [settled(whole[:n]) for n in range(10)] == ['', '', 'é', 'é', 'é', 'é日', 'é日', 'é日', 'é日', 'é日🙂']
  assert settled(b'a\xff\xffb') == 'a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b'
  assert settled(b'a\xff\xff') == 'a\N{REPLACEMENT CHARACTER}'


def test_prompts_one_after_the_other(runs):
  prompts = 'щука', 'a\nb', ':日'
  whole = texts_of(runs['large'], *(f'--prompt={prompt}' for prompt in prompts), '--seed=3').removesuffix('\n')
  done = told(runs['large'], '--interactive', '--seed=3', lines='щука\na\\\nb\n::日\n:seed 3\nщука\n')
  first, second, third = whole.split(RULE)
  assert (done.returncode, done.stdout) == (DONE, '\n'.join([first, second, third, first]) + '\n')


def test_settings_between_prompts(runs):
  lines = [
    'щука',
    *(':temperature 0.4', ':seed 4', 'щука'),
    *(':temprature 1', ':temperature -1', ':temperature', ':seed x', ':optim.lr 1', ':settings', ':help'),
    *(':temperature 0', ':top_k 3', ':seed 4', 'щука'),  # another program
  ]
  done = told(runs['large'], '--interactive', '--seed=4', lines='\n'.join(lines) + '\n')
  warm, cool, cold = (
    texts_of(runs['large'], '--prompt=щука', '--n=1', '--seed=4', *(f'--config.sample.{one}' for one in settings))
    for settings in ([], ['temperature=0.4'], ['temperature=0'])
  )
  assert done.stdout.startswith(warm + cool) and done.stdout.endswith(cold) and len({warm, cool, cold}) == 3
  assert 'length 30' in done.stdout and ':temperature 0.5' in done.stdout
  says = ["':temprature'. Did you mean 'temperature'?", 'sample.temperature=-1', 'needs a value; it is 0.4']
  for one, line in zip([*says, ':seed takes', "':optim.lr'"], done.stderr.splitlines(), strict=True):
    assert line.startswith('error: ') and one in line


def test_ctrl_c_stops_the_text_and_not_the_program(runs):
  real, stopped = Trained.streaming, []

  class Stopped:
    def text(self, *arguments):
      stopped.append(arguments)
      yield 'щу'
      raise KeyboardInterrupt

  def streaming(self, task):
    return real(self, task) if stopped else Stopped()

  with mock.patch.object(Trained, 'streaming', streaming):
    done = told(runs['large'], '--interactive', '--seed=3', lines='щука\n日\n')
  second = texts_of(runs['large'], '--prompt=щука', '--prompt=日', '--seed=3').split(RULE)[1]
  assert (done.returncode, done.stdout) == (DONE, f'щу [stopped]\n{second}')


# A draft.


def test_a_draft_leaves_greedy_text_as_it_is(runs):
  words = *PROMPTS, '--config.sample.temperature=0'
  plain = texts_of(runs['large'], *words)
  helped = f'--draft={runs["small"]}', '--draft_tokens=3'
  done = told(runs['large'], *words, *helped)
  assert (done.returncode, done.stdout) == (DONE, plain)
  [rate] = [line for line in done.stderr.splitlines() if line.startswith('draft: ')]
  assert rate.endswith('tokens a pass of the model.')
  streamed = told(runs['large'], *words, *helped, '--stream')
  assert (streamed.stdout, streamed.stderr) == (plain, done.stderr)


def test_a_run_that_drafts_for_itself_gives_its_own_text(runs):
  words = '--prompt=щука', '--seed=5', '--config.sample.length=10'
  done = told(runs['large'], *words, f'--draft={runs["large"]}', '--n=2')
  assert done.stdout == texts_of(runs['large'], *words, '--n=2')
  run = gen_ai.load(runs['large'], sample__length=7)
  found = run.drafted_by(run, 3).run('generate', prompt='щ', n=2, seed=5)
  np.testing.assert_array_equal(found['sample'], run.generate(prompt='щ', n=2, seed=5))
  assert (
    found['rejected'].tolist() == [0, 0] and found['passes'].tolist() == [2, 2] and found['made'].tolist() == [7, 7]
  )


def test_another_draft_gives_other_texts_of_rows_each_alone(runs):
  run = gen_ai.load(runs['large'], sample__length=30)
  helped = run.drafted_by(gen_ai.load(runs['small']))
  both = helped.generate(prompt=['щука и', '日'], n=2)
  assert not np.array_equal(both, run.generate(prompt=['щука и', '日'], n=2)) and helped.note == ''
  assert ''.join(helped.stream(prompt='щука и')) == run.spec.vocab.decode(both[0][both[0] >= 0])
  helped.use({'sample.temperature': 0.1})
  assert run.config.sample.temperature != 0.1 and run.run('score', prompt='щука')['nats'].shape[0] == 1


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--draft=BYTES'], ['bytes has 256 tokens (sha256', 'large has 280 tokens (sha256', 'the same tokens']),
    (['--draft=nowhere'], ['nowhere']),
    (['--draft_tokens=3'], ['--draft_tokens is for --draft']),
    (['--draft=SMALL', '--task=score', '--prompt=a'], ["the task 'score'", 'takes no draft']),
    (['--stream', '--task=score', '--prompt=a'], ["what the task 'score' makes is no text"]),
    (['--stream', '--out=x.txt'], ['--stream shows texts', 'leave --out out']),
    (['--interactive', '--prompt=a'], ['--interactive shows texts', 'leave --prompt out']),
    (['--interactive', '--n=3'], ['leave --n out']),
    (["--config.sample.stop=('',)", '--prompt=a'], ["an empty string ('')"]),
  ],
)
def test_what_does_not_go_together_is_refused(runs, words, says):
  words = [word.replace('BYTES', str(runs['bytes'])).replace('SMALL', str(runs['small'])) for word in words]
  cli.refused(told(runs['large'], *words), *says)


def test_a_small_run_must_have_the_task_and_draft_something(runs):
  run = gen_ai.load(runs['large'])
  with pytest.raises(UserError, match='a draft of 0 tokens is none'):
    run.drafted_by(run, 0)


# Where texts end.


def test_a_stop_is_found_however_it_is_cut_into_tokens(runs):
  settings = {'sample__length': 30, 'sample__temperature': 1.5}
  run = gen_ai.load(runs['large'], **settings)
  rows, vocab = run.generate(prompt='щука', n=6, seed=2), run.spec.vocab
  whole = [vocab.decode(row[row >= 0]) for row in rows]

  def drawn_otherwise(row, text):
    usual = vocab.encode(text).tolist()
    return all(row[i : i + len(usual)].tolist() != usual for i in range(len(row)))

  pairs = [(row, text[i : i + 2]) for row, text in zip(rows, whole, strict=True) for i in range(5, len(text) - 2)]
  stop = next(pair for row, pair in pairs if '\N{REPLACEMENT CHARACTER}' not in pair and drawn_otherwise(row, pair))
  cut = gen_ai.load(runs['large'], **settings, sample__stop=(stop,)).generate(prompt='щука', n=6, seed=2)
  for row, before in zip(cut, whole, strict=True):
    after = vocab.decode(row[row >= 0])
    at = before.find(stop, len('щука'))
    assert before.startswith(after.removesuffix('\N{REPLACEMENT CHARACTER}'))
    assert after == before if at < 0 else after.find(stop, len('щука')) == at and len(after) <= at + 3
