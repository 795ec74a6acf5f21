"""Directories of tokens: written piece by piece, whole or not at all; read exactly, mapped; what is wrong is named."""

import gzip
import json
import re
import subprocess
import sys
import types
import zlib

import cli
import numpy as np
import pytest
import tiny

from gen_ai.core.errors import DONE, UserError
from gen_ai.data import (
  bpe,
  corpus,
  dataset,
  document_parts,
  feed,
  kinds,
  plan,
  source,
  tfds_source,
  token_directory,
  tokenize,
)
from gen_ai.evaluate.examples import ExamplePass

tokenizers = pytest.importorskip('tokenizers', reason='needs the package tokenizers')

PARTS = ('train', 'validation', 'test')
DOCUMENTS = {f'{i:02}': f'Dokument {i} ☃ says {i * i}.\n' * (1 + i % 3) for i in range(60)}


@pytest.fixture
def texts(tmp_path):
  """The data set of a folder of documents, from which all is read and to which all is written."""
  (tmp_path / 'corpus').mkdir()
  for name, document in DOCUMENTS.items():
    (tmp_path / 'corpus' / f'{name}.txt').write_text(document)
  return f'text:{tmp_path}/corpus/*.txt'


def made(tmp_path, data, name='out', **options):
  """Opens what the command writes; parts of some documents each unless `options` say otherwise."""
  options = {'split': '50:25:25', 'tokens': 'bpe:300', **options}
  tokenize.tokenize(tokenize.Request(data, str(tmp_path / name), **options))
  return token_directory.opened(str(tmp_path / name))


def documents(found, part):
  tokens = found.mapped(part)
  return [found.vocab.decode(one) for one in np.split(tokens, np.flatnonzero(tokens == found.vocab.separator))[1:]]


def data_config(name, **changes):
  flat = {'data__name': f'tokens:{name}', 'data__split': 'auto', 'data__block_size': 8}
  return tiny.config('lm', **(flat | changes))


def test_documents_come_whole_into_one_part_each_and_are_counted(texts, tmp_path):
  found = made(tmp_path, texts)
  parts = {part: documents(found, part) for part in PARTS}
  assert sorted(sum(parts.values(), [])) == sorted(DOCUMENTS.values()), 'all of it, once'
  for part, own in parts.items():
    about = found.about['parts'][part]
    assert own and about['documents'] == len(own) and about['tokens'] == len(found.mapped(part))
    assert about['bytes'] == sum(len(document.encode()) for document in own)
    assert found.vocab.byte_counts()[found.mapped(part)].sum() == about['bytes']
  assert found.mapped('train').dtype == np.uint16 and isinstance(found.mapped('train'), np.memmap)
  found.check()
  # The tokens are those of the documents of training: the same as were they learned in memory.
  own = [one.text for part, one in tokenize._placed(*placed(texts)) if part == 'train']
  assert found.vocab.text == bpe.train(own, 300)


def test_tokens_are_learned_from_some_of_the_documents_of_training(texts, tmp_path):
  found = made(tmp_path, texts, learn_bytes=600)
  own = [one.text for part, one in tokenize._placed(*placed(texts)) if part == 'train']
  share = 600 / sum(len(document.encode()) for document in DOCUMENTS.values())
  some = [document for document in own if zlib.crc32(document.encode()) < share * 2**32]
  assert 0 < len(some) < len(own) and found.vocab.text == bpe.train(some, 300)


def placed(texts):
  return corpus.opened(texts), document_parts.by_shares('50:25:25'), corpus.Seen(), False


def test_a_document_stays_in_its_part_whatever_else_is_there_and_its_copies_join_it(texts, tmp_path):
  found = made(tmp_path, texts)
  before = {one: part for part in PARTS for one in documents(found, part)}
  (tmp_path / 'corpus' / '000.txt').write_text('another one, read first')
  copied = [*DOCUMENTS.values()][:8]
  for i, document in enumerate(copied):
    (tmp_path / 'corpus' / f'copy{i}.txt').write_text(document)
  found = made(tmp_path, texts, 'again', tokens=f'bpe:{tmp_path}/out')
  after = {part: documents(found, part) for part in PARTS}
  for one, part in before.items():
    assert after[part].count(one) == 1 + (one in copied)


def test_bytes_are_joined_by_line_breaks_as_in_texts_that_are_read_whole(tmp_path, texts):
  found = made(tmp_path, texts, tokens='byte')
  whole = found.vocab.decode(found.mapped('train'))
  own = [one.text for part, one in tokenize._placed(*placed(texts)) if part == 'train']
  assert whole == '\n'.join(own) and found.mapped('train').dtype == np.uint8
  assert found.about['parts']['train']['bytes'] == len(whole.encode())


@pytest.mark.parametrize('tokens', ['byte', 'bpe:300'])
def test_long_documents_are_read_in_pieces_and_lose_nothing(tokens, texts, tmp_path, monkeypatch):
  monkeypatch.setattr(corpus, 'PIECE_BYTES', 11)
  monkeypatch.setattr(tokenize, '_BATCH_BYTES', 100)
  long = [one.text for one in corpus.opened(texts)['train'].pieces(corpus.Seen(), False)]
  assert ''.join(long) == ''.join(DOCUMENTS.values()) and max(len(one.encode()) for one in long) <= 11
  found = made(tmp_path, texts, tokens=tokens)
  held = ''.join(found.vocab.decode(found.mapped(part)) for part in PARTS)
  assert sorted(held.replace('\n', '')) == sorted(''.join(DOCUMENTS.values()).replace('\n', ''))
  assert sum(found.about['parts'][part]['documents'] for part in PARTS) == len(DOCUMENTS)


def pieces(name, replace=False, **options):
  seen = corpus.Seen()
  (own,) = corpus.opened(name, **options).values()
  return list(own.pieces(seen, replace)), seen


@pytest.mark.parametrize('size', [4, 5, 7, 2**20])
def test_documents_of_a_file_are_what_a_delimiter_ends(size, tmp_path, monkeypatch):
  monkeypatch.setattr(corpus, 'PIECE_BYTES', size)
  (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbf' + 'eins ☃<end>zwei\r\n drei<end> \n<end>vier'.encode())
  with gzip.open(tmp_path / 'b.txt.gz', 'wt') as file:
    file.write('fünf<end>\n')
  found, seen = pieces(f'text:{tmp_path}/*', delimiter='<end>')
  starts = [i for i, one in enumerate(found) if one.first]
  whole = [''.join(one.text for one in found[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=True)]
  assert whole == ['eins ☃', 'zwei\r\n drei', 'vier', 'fünf']
  assert (seen.documents, seen.empty) == (4, 2)
  assert all(one.nbytes == len(one.text.encode()) for one in found)


def test_json_lines_give_a_field(tmp_path):
  lines = [json.dumps({'text': 'ein\nText', 'body': 'b'}), '', json.dumps({'text': 'noch ☃ einer', 'body': 'c'})]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines) + '\n')
  name = f'jsonl:{tmp_path}/*.jsonl'
  assert [one.text for one in pieces(name)[0]] == ['ein\nText', 'noch ☃ einer']
  assert [one.text for one in pieces(name, field='body')[0]] == ['b', 'c']
  with pytest.raises(UserError, match=r"a.jsonl line 1 has no text in a field 'words' \(it has text, body\)"):
    pieces(name, field='words')
  (tmp_path / 'a.jsonl').write_text('{"text": "a"}\nnot json\n')
  with pytest.raises(UserError, match=r'a.jsonl line 2 is not JSON'):
    pieces(name)
  (tmp_path / 'a.jsonl').write_text('{"text": "a\\ud800"}\n')
  with pytest.raises(UserError, match=r'a.jsonl line 1 is not UTF-8 at byte 1'):
    pieces(name)


def test_bytes_that_are_no_utf8_are_named_or_replaced_and_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(corpus, 'PIECE_BYTES', 16)
  (tmp_path / 'a.txt').write_bytes(b'line one\n' * 5 + b'caf\xe9\xff\n' + b'more\n' * 9)
  with pytest.raises(UserError, match=r'a.txt is not UTF-8 at byte 48: .*--invalid=replace'):
    pieces(f'text:{tmp_path}/*.txt')
  found, seen = pieces(f'text:{tmp_path}/*.txt', replace=True)
  assert 'caf\ufffd\ufffd\n' in ''.join(one.text for one in found) and seen.invalid == 1
  assert all(one.nbytes == len(one.text.encode()) for one in found)
  (tmp_path / 'b.txt.gz').write_bytes(b'no gzip')
  with pytest.raises(UserError, match=r'cannot read .*b.txt.gz: Not a gzipped file'):
    pieces(f'text:{tmp_path}/*.gz')


def test_a_set_of_tfds_keeps_its_own_parts(tmp_path, monkeypatch):
  class Records(list):
    def __getitems__(self, index):
      return [self[i] for i in index]

  held = {own: Records({'body': f'{own} ☃ {i}'.encode()} for i in range(300)) for own in ('train', 'test', 'extra')}
  splits = {own: types.SimpleNamespace(num_examples=300, num_bytes=3000, shard_lengths=[]) for own in held}
  builder = types.SimpleNamespace(
    info=types.SimpleNamespace(splits=splits, version='1.0.0'),
    data_path='/x',
    as_data_source=lambda split: held[split],
    name='x',
  )
  prepared = tfds_source.Prepared(builder, 'text', '', '', 'body')
  monkeypatch.setattr(tfds_source, 'open_prepared', lambda *args: prepared)
  found = made(tmp_path, 'some_set', split='auto')
  parts = {part: documents(found, part) for part in PARTS}
  assert parts['test'] == [f'test ☃ {i}' for i in range(300)]
  assert sorted(parts['train'] + parts['validation']) == sorted(f'train ☃ {i}' for i in range(300))
  assert found.about['split'] == 'train 99:1|test' and 0 < len(parts['validation']) < 15
  held['train'][3]['body'] = b'caf\xe9' * 30
  config = tiny.config('lm', data__name='x', data__split='train[:80%]|train[80%:]|test')
  for reads in (
    lambda: kinds.get('text').from_tfds(config.data, prepared),
    lambda: list(corpus.opened('some_set')['train'].pieces(corpus.Seen(), replace=False)),
  ):
    with pytest.raises(UserError, match=r'example 3 of \w+, train, is not UTF-8 at byte 3: .*--invalid=replace'):
      reads()
  monkeypatch.setattr(tfds_source, 'open_prepared', lambda *args: prepared._replace(kind='image', image='image'))
  with pytest.raises(UserError, match='some_set does not hold text'):
    corpus.opened('some_set')


def test_other_data_can_be_the_held_out_parts(texts, tmp_path):
  (tmp_path / 'held.txt').write_text('held out\n' * 9)
  found = made(tmp_path, texts, split='auto', validation=f'text:{tmp_path}/held.txt')
  assert len(documents(found, 'train')) == 60 and documents(found, 'validation') == ['held out\n' * 9]
  assert found.about['parts']['test'] == found.about['parts']['validation']
  assert found.about['notes'] == ['the test part is the validation part']


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    ({'tokens': 'char'}, "--tokens=char is none of 'byte', 'bpe:SIZE' and 'bpe:FILE'"),
    ({'split': '1:0:1'}, '--split=1:0:1 must be two or three positive shares'),
    ({'split': '98'}, '--split=98 must be two or three'),
    ({'validation': 'text:x'}, '--split=50:25:25 and --validation exclude each other'),
    ({'split': 'auto', 'test': 'text:x'}, '--test needs --validation'),
    ({'split': '100:0.0001:0.0001'}, 'none of the 60 documents .* came into the validation part .*--split'),
    ({'tokens': 'bpe:100'}, '100 tokens cannot hold the 256 bytes'),
    ({'tokens': 'bpe:none.json'}, r'cannot read none.json'),
  ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(options, says, texts, tmp_path):
  with pytest.raises(UserError, match=says):
    made(tmp_path, texts, **options)
  assert [path.name for path in tmp_path.iterdir()] == ['corpus']


def test_what_is_interrupted_leaves_nothing_and_what_is_there_is_kept(texts, tmp_path, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(tokenize, '_add', interrupted)
    with pytest.raises(KeyboardInterrupt):
      made(tmp_path, texts)
  assert [path.name for path in tmp_path.iterdir()] == ['corpus']
  made(tmp_path, texts)
  with pytest.raises(UserError, match='out is there already'):
    made(tmp_path, texts)
  with pytest.raises(UserError, match=r'cannot write into .*nowhere: No such file'):
    made(tmp_path, texts, 'nowhere/out')


def held(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('tokens', ['byte', 'bpe:300'])
def test_a_killed_call_is_gone_on_with_and_gives_the_same_files(tokens, texts, tmp_path, monkeypatch):
  script = """
import os, sys
from gen_ai.data import corpus, tokenize
corpus.PIECE_BYTES, tokenize._BATCH_BYTES, tokenize._KEPT_SECONDS, keep, calls = 50, 300, 0, tokenize._add, [0]
def add(file, vocab, pieces):
  keep(file, vocab, pieces)
  calls[0] += 1
  if calls[0] == 9:
    file._file.flush()  # what was written after the last point that is kept
    os.kill(os.getpid(), 9)
tokenize._add = add
tokenize.tokenize(tokenize.Request(sys.argv[1], sys.argv[2], sys.argv[3], '50:25:25'))
"""
  killed = subprocess.run([sys.executable, '-c', script, texts, str(tmp_path / 'out'), tokens], check=False)
  assert killed.returncode == -9 and not (tmp_path / 'out').exists() and (tmp_path / '.out.unfinished').is_dir()
  monkeypatch.setattr(corpus, 'PIECE_BYTES', 50)
  monkeypatch.setattr(tokenize, '_BATCH_BYTES', 300)
  made(tmp_path, texts, 'whole', tokens=tokens)
  add, added = tokenize._add, []
  monkeypatch.setattr(tokenize, '_add', lambda file, vocab, pieces: (added.extend(pieces), add(file, vocab, pieces)))
  monkeypatch.setattr(bpe, 'train', lambda *args: pytest.fail('tokens were learned again'))
  made(tmp_path, texts, tokens=tokens).check()
  assert held(tmp_path / 'out') == held(tmp_path / 'whole') and not (tmp_path / '.out.unfinished').exists()
  assert 0 < sum(len(piece.text.encode()) for piece in added) < 0.8 * sum(len(d.encode()) for d in DOCUMENTS.values())


def test_what_was_begun_of_other_texts_or_by_other_settings_is_not_used(texts, tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(tokenize, '_BATCH_BYTES', 300)
  monkeypatch.setattr(tokenize, '_KEPT_SECONDS', 0.0)
  add, calls = tokenize._add, []

  def ninth_fails(*args):
    calls.append(0)
    if len(calls) == 9:
      raise KeyboardInterrupt
    add(*args)

  for options in ({'tokens': 'byte'}, {}, {}):
    calls.clear()
    with monkeypatch.context() as patched:
      patched.setattr(tokenize, '_add', ninth_fails)
      with pytest.raises(KeyboardInterrupt):
        made(tmp_path, texts, **options)
    assert 'the same command goes on from there' in capfd.readouterr().err
    if not options:
      (tmp_path / 'corpus' / '59.txt').write_text('changed ' * (9 + len(calls)))
  found = made(tmp_path, texts)
  assert 'it begins again' in capfd.readouterr().err
  assert held(tmp_path / 'out') == held(made(tmp_path, texts, 'whole').path)
  assert sum(part['documents'] for part in found.about['parts'].values()) == 60


def test_two_processes_do_not_make_one_folder(texts, tmp_path):
  with token_directory.making(str(tmp_path / 'out')), pytest.raises(UserError, match='made by another process'):
    made(tmp_path, texts)


def test_a_part_that_was_damaged_since_is_named(tmp_path):
  with token_directory.PartFile(tmp_path / 'train.bin', np.uint8) as file:
    file.add(np.arange(9), 1, 9)
    about = file.about()
  (tmp_path / 'train.bin').write_bytes(b'else' * 9)
  with pytest.raises(UserError, match=r'train.bin is damaged: remove'):
    token_directory.PartFile(tmp_path / 'train.bin', np.uint8, about)


def test_the_windows_of_both_feeds_are_those_of_the_text(texts, tmp_path):
  whole = made(tmp_path, texts)
  config = data_config(tmp_path / 'out')
  data = dataset.load(config.data)
  assert data.spec.vocab.digest == whole.vocab.digest and data.fingerprint == whole.fingerprint
  own, tokens = data.splits['train'], np.array(whole.mapped('train'))
  index = plan.train_plan(own, 0, 0, 3, len(own)).ravel()
  read = own.read(index)['tokens']
  np.testing.assert_array_equal(read, tokens[index[:, None] + np.arange(9)])
  arrays = own.arrays()
  assert isinstance(arrays['tokens'], np.memmap)
  np.testing.assert_array_equal(own.gather(arrays, index)['tokens'], read)


def test_each_token_of_a_held_out_text_is_predicted_once_up_to_the_last(texts, tmp_path):
  found = made(tmp_path, texts)
  own = dataset.load(data_config(tmp_path / 'out').data).splits['validation']
  tokens = np.array(found.mapped('validation'))
  assert (len(tokens) - 1) % 8, 'a tail that fills no window'
  index, mask = plan.eval_plan(own, 5)
  rows = np.concatenate([own.read(row)['tokens'][m == 1] for row, m in zip(index, mask, strict=True)])
  targets = rows[:, 1:][rows[:, 1:] >= 0]
  np.testing.assert_array_equal(targets, tokens[1:])


def test_bits_a_byte_are_over_the_whole_text_whatever_the_batch(texts, tmp_path):
  found = made(tmp_path, texts)
  figures = []
  for size in (3, 64):
    config = data_config(tmp_path / 'out', eval__batch_size=size)
    program = tiny.program(config)
    state = program.init()
    pass_ = ExamplePass(program, config, tiny.dataset(config).splits['validation'])
    (totals,) = pass_.totals(state)
    figures.append(totals.means())
  tokens = np.array(found.mapped('validation'))
  counts = {name: sum(np.sum(part) for part in parts) for name, parts in totals._counts.items()}
  assert counts == {'loss_nats': len(tokens) - 1, 'bits_per_byte': found.vocab.byte_counts()[tokens[1:]].sum()}
  assert figures[0] == pytest.approx(figures[1], rel=1e-6)


def test_texts_that_int32_cannot_number_are_read_by_the_host_alone(monkeypatch):
  tokens = (np.arange(500) % 251).astype(np.uint8)
  small = source.TextSource(tokens, 8, 'train')
  expected = plan.train_plan(small, 3, 0, 5, 16)
  monkeypatch.setattr(source, '_MOST_NUMBERED', 255)
  large = source.TextSource(tokens, 8, 'train')
  index = plan.train_plan(large, 3, 0, 5, 16)
  assert index.dtype == np.int64
  np.testing.assert_array_equal(index, expected)
  batch = large.read(index[0])
  np.testing.assert_array_equal(batch['tokens'], small.read(expected[0])['tokens'])
  assert batch['index'].dtype == np.int32 and (batch['index'] == index[0] % 256).all()
  assert plan.eval_plan(large, 4)[0].dtype == np.int64
  with pytest.raises(UserError, match=r'500 tokens, more than int32 can number on a device: .* by data.feed=host'):
    feed.make_feed(large, tiny.config('lm', data__feed='device').data, 1)


def test_a_last_window_that_reaches_beyond_int32_is_numbered_by_int64(monkeypatch):
  text = source.TextSource(np.arange(121, dtype=np.uint8), 8, 'train')
  monkeypatch.setattr(source, '_MOST_NUMBERED', 129)
  assert plan.eval_plan(text, 4)[0].dtype == np.int32 and text.arrays()
  monkeypatch.setattr(source, '_MOST_NUMBERED', 128)
  assert plan.eval_plan(text, 4)[0].dtype == plan.train_plan(text, 0, 0, 1, 4).dtype == np.int64
  with pytest.raises(UserError, match='more than int32 can number'):
    text.arrays()


def damaged(found, kind):
  """Damages a directory as `kind` says; returns what opening it must say."""
  file = found.path / 'train.bin'
  index = json.loads((found.path / 'index.json').read_text())
  if kind == 'truncated':
    file.write_bytes(file.read_bytes()[:-2])
    return r'train.bin holds [\d,]+ bytes, and index.json tells of .* tokens of uint16'
  if kind == 'missing':
    file.unlink()
    return r'train.bin is missing, and index.json tells'
  if kind == 'type':
    index['dtype'] = 'uint32'
  if kind == 'format':
    index['format'] = 2
  if kind == 'lacks':
    del index['parts']['test']
  (found.path / 'index.json').write_text(json.dumps(index))
  if kind == 'tokenizer':
    (found.path / 'tokenizer.json').write_text(bpe.train(['other text, other tokens'], 270))
    return r'tokenizer.json is not the tokenizer that the tokens beside it were made by \(sha256'
  if kind == 'vocabulary':
    tokens = np.array(found.mapped('train'))
    tokens[5] = 9999
    tokens.tofile(file)
    return r'train.bin holds token 9,999 at place 5, and its vocabulary has 300: it is damaged, or of another'
  if kind == 'index':
    (found.path / 'index.json').write_text('{"format": 1,')
    return r'is no directory of tokens \(index.json cannot be read: .*gen_ai.data.tokenize'
  return {
    'type': r'train.bin holds [\d,]+ bytes, and .* of uint32',
    'format': 'is of format 2, and this version reads 1',
    'lacks': 'index.json is damaged: it lacks',
  }[kind]


@pytest.mark.parametrize(
  'kind', ['truncated', 'missing', 'type', 'format', 'lacks', 'tokenizer', 'vocabulary', 'index']
)
def test_a_damaged_directory_is_named(kind, texts, tmp_path):
  says = damaged(made(tmp_path, texts), kind)
  with pytest.raises(UserError, match=says):
    dataset.load(data_config(tmp_path / 'out').data)


def test_damage_that_opening_does_not_look_at_is_found_where_it_is_read(texts, tmp_path, monkeypatch):
  found = made(tmp_path, texts)
  tokens = np.array(found.mapped('train'))
  middle = len(tokens) // 2
  monkeypatch.setattr(token_directory, '_LOOKED_AT', 4)
  tokens[middle] ^= 1
  tokens.tofile(found.path / 'train.bin')
  with pytest.raises(UserError, match=r'train.bin is damaged: it does not hold what was written'):
    token_directory.opened(str(found.path)).check()
  tokens[middle] = 4000
  tokens.tofile(found.path / 'train.bin')
  own = dataset.load(data_config(found.path).data).splits['train']
  says = f'holds token 4,000 at place {middle:,},'
  with pytest.raises(UserError, match=says):
    own.read(np.array([0, middle - 3]))
  with pytest.raises(UserError, match=says):
    own.arrays()
  with pytest.raises(UserError, match='there is no such folder'):
    token_directory.opened(str(tmp_path / 'none'))


def test_the_tokens_of_nanogpt_and_of_llm_c_are_taken_over(texts, tmp_path):
  first = made(tmp_path, texts)
  tokens = {part: np.array(first.mapped(part)) for part in PARTS}
  tokens['train'].tofile(tmp_path / 'train.bin')
  header = np.zeros(256, np.int32)
  header[:3] = 20240520, 1, len(tokens['validation'])
  (tmp_path / 'val.bin').write_bytes(header.tobytes() + tokens['validation'].tobytes())
  given = {'split': 'auto', 'tokens': f'bpe:{tmp_path}/out', 'validation': f'raw:{tmp_path}/val.bin'}
  found = made(tmp_path, f'raw:{tmp_path}/train.bin', 'taken', **given)
  for part in ('train', 'validation'):
    np.testing.assert_array_equal(found.mapped(part), tokens[part])
    assert found.about['parts'][part] == first.about['parts'][part]
  (tmp_path / 'val.bin').write_bytes(header.tobytes() + tokens['validation'][:-4].tobytes())
  with pytest.raises(UserError, match=r'val.bin holds .* and its header tells of .*: it is empty, cut short'):
    made(tmp_path, f'raw:{tmp_path}/train.bin', 'bad', **given)
  for changes, says in (
    ({'tokens': 'bpe:300'}, 'holds tokens already: name the tokenizer'),
    ({'validation': ''}, 'cannot be split by document'),
    ({'validation': texts}, 'must be raw:FILE'),
  ):
    with pytest.raises(UserError, match=says):
      made(tmp_path, f'raw:{tmp_path}/train.bin', 'bad', **(given | changes))
  np.array([7, 300], np.uint16).tofile(tmp_path / 'train.bin')
  with pytest.raises(UserError, match=r'train.bin holds token 300 at place 1, and its vocabulary has 300'):
    made(tmp_path, f'raw:{tmp_path}/train.bin', 'bad', **given)
  assert not (tmp_path / 'bad').exists()


def test_a_corpus_is_tokenised_once_and_trained_on(texts, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  done = cli.command('gen_ai.data.tokenize', texts, '--out=made', '--tokens=bpe:280', '--split=2:1:1')
  assert done.returncode == DONE, done
  assert re.search(r'train +[\d,]+ tokens, \d+ documents', done.stdout), done.stdout
  assert done.stdout.endswith('--config.data.name=tokens:made\n')
  assert cli.command('gen_ai.data.tokenize', '--check=made').stdout == 'made holds what was written\n'
  cli.refused(cli.command('gen_ai.data.tokenize', texts, '--out=made'), 'is there already')
  words = ['--config=configs/lm.py', '--tiny', '--config.data.name=tokens:made', '--config.run.trackers=']
  done = cli.launch(*words, '--config.model.documents=apart', f'--run_dir={tmp_path}/run')
  assert done.returncode == DONE, done
  assert 'tokens of training in' in done.stdout
  refused = cli.launch(*words, '--config.data.tokens=bpe:none.json')
  cli.refused(refused, 'config.data.tokens', 'would do nothing', 'tokens:made')
