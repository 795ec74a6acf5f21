"""Byte-level BPE: what it encodes it decodes, it is learned once and recorded whole, documents stay apart."""

import json
import random

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.data import bpe, dataset, kinds, token_files

tokenizers = pytest.importorskip('tokenizers', reason='needs the package tokenizers')

DOCUMENTS = ['how to say a thing twice\n' * 20, 'def twice(x):\n  return 2 * x\n' * 20, 'déjà vu ☃ 𝄞\n' * 20]


@pytest.fixture(scope='module')
def vocab():
  return bpe.BpeVocab(bpe.train(DOCUMENTS, 300))


@pytest.fixture
def texts(tmp_path):
  """The pattern of a data set of text files, in a folder where all that is kept goes too."""
  for i, document in enumerate(DOCUMENTS):
    (tmp_path / f'{i}.txt').write_text(document)
  return f'text:{tmp_path}/*.txt'


def opened(texts, tmp_path, **changes):
  flat = {'data.name': texts, 'data.tokens': 'bpe:300', 'data.split': 'auto', 'data.data_dir': str(tmp_path / 'kept')}
  return dataset.load(config_lib.override(tiny.config('lm'), flat | changes).data)


def test_what_is_encoded_is_decoded_whatever_it_is(vocab):
  draw = random.Random(0)
  points = [*range(0xD800), *range(0xE000, 0x110000)]  # all but surrogates
  drawn = [''.join(chr(draw.choice(points)) for _ in range(50)) for _ in range(50)]
  for text in [*drawn, ' <|endoftext|> \r\n\t', ' ']:
    tokens = vocab.encode(text)
    assert tokens.dtype == np.int32 and vocab.separator not in tokens, 'a text cannot end a document'
    assert vocab.decode(tokens) == text
    assert vocab.byte_counts()[tokens].sum() == len(text.encode())
  with pytest.raises(UserError, match="holds '.ud800' at character 2, which UTF-8 cannot hold"):
    vocab.encode('ab\ud800')
  assert vocab.decode(vocab.encode('☃')[:1]) == '�', 'a part of a character'


def test_common_strings_are_tokens_and_every_document_begins_with_a_separator(vocab):
  assert vocab.size == 300
  assert len(vocab.encode('how to say a thing twice')) < 10
  tokens = vocab.encode_documents(['ab', '', 'c'])
  assert tokens.dtype == np.uint16
  begins = np.flatnonzero(tokens == vocab.separator)
  assert [vocab.decode(part) for part in np.split(tokens, begins)[1:]] == ['ab', '', 'c']
  assert vocab.encode('').tolist() == [vocab.separator] and vocab.byte_counts()[vocab.separator] == 0


def test_the_same_text_gives_the_same_tokens_and_is_learned_once(texts, tmp_path, monkeypatch):
  assert bpe.train(DOCUMENTS, 300) == bpe.train(iter(DOCUMENTS), 300)
  first = opened(texts, tmp_path)
  monkeypatch.setattr(bpe, 'train', None)
  monkeypatch.setattr(bpe.BpeVocab, 'encode_documents', None)
  again = opened(texts, tmp_path)
  assert again.fingerprint == first.fingerprint
  assert isinstance(again.splits['train'].arrays()['tokens'], np.memmap)
  assert sorted(path.name for path in (tmp_path / 'kept').iterdir()) == ['tokenizers', 'tokens']


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_lost(texts, tmp_path, caplog):
  (tmp_path / 'kept').write_text('in the way')
  assert len(opened(texts, tmp_path).splits['train']) > 0
  assert f'cannot keep tokenizers under {tmp_path}/kept' in caplog.text


def test_parts_are_of_the_same_text_as_those_of_bytes(texts, tmp_path):
  by_bytes, by_bpe = opened(texts, tmp_path, **{'data.tokens': 'byte'}), opened(texts, tmp_path)
  for name in ('train', 'validation', 'test'):
    whole, parts = (data.splits[name].arrays()['tokens'] for data in (by_bytes, by_bpe))
    vocab = by_bpe.spec.vocab
    begins = np.flatnonzero(parts == vocab.separator)
    documents = [vocab.decode(part) for part in np.split(parts, begins)[1:]]
    expected = by_bytes.spec.vocab.decode(whole)
    assert '\n'.join(documents) == expected or '\n'.join(documents) == expected[:-1], name
  assert by_bytes.fingerprint != by_bpe.fingerprint


def test_the_record_of_a_run_holds_the_whole_tokenizer(vocab):
  spec = Spec('text', (16,), 0, vocab)
  tree = json.loads(json.dumps({'kind': 'text', 'shape': [16], 'num_classes': 0, **kinds.of(spec).facts(spec)}))
  found = kinds.of(spec).spec_of(tree).vocab
  assert found.digest == vocab.digest and found.encode('twice').tolist() == vocab.encode('twice').tolist()


def test_the_files_of_gpt2_are_read(vocab, tmp_path):
  tree = json.loads(vocab.text)['model']
  (tmp_path / 'vocab.json').write_text(json.dumps(tree['vocab']))
  (tmp_path / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(' '.join(pair) for pair in tree['merges']))
  found = bpe.read(str(tmp_path))
  assert found.separator == vocab.separator
  assert found.encode(DOCUMENTS[2]).tolist() == vocab.encode(DOCUMENTS[2]).tolist()
  (tmp_path / 'merges.txt').write_text('one two three\n')
  with pytest.raises(UserError, match='are no tokenizer of GPT-2'):
    bpe.read(str(tmp_path))


def changed(vocab, **changes):
  return json.dumps({**json.loads(vocab.text), **changes})


def test_files_that_are_no_byte_level_bpe_are_refused(vocab, tmp_path):
  file = tmp_path / 't.json'
  cases = {
    '{': 'is no tokenizer.json',
    '[]': 'is no tokenizer.json',
    changed(vocab, model={'type': 'Unigram'}): 'is no byte-level BPE, .* its model is Unigram',
    changed(vocab, pre_tokenizer={'type': 'Whitespace'}): 'is no byte-level BPE',
    changed(vocab, normalizer={'type': 'Lowercase'}): 'changes the text',
    changed(
      vocab, model={'type': 'BPE', 'vocab': {'a': 0}, 'merges': []}, added_tokens=[]
    ): 'has no token for the byte 0',
  }
  for text, says in cases.items():
    file.write_text(text)
    with pytest.raises(UserError, match=f't.json {says}'):
      bpe.read(str(file))
  with pytest.raises(UserError, match=r'cannot read .*none.json: No such file.*gen_ai.data.tokenizer'):
    bpe.read(str(tmp_path / 'none.json'))
  with pytest.raises(UserError, match='256 tokens cannot hold the 256 bytes'):
    bpe.train(DOCUMENTS, 256)


def test_a_token_sees_its_own_document_alone(vocab):
  config = tiny.config('lm', model__documents='apart', model__layers=2)
  method = config_lib.builder(config)(config, Spec('text', (16,), 0, vocab))
  state = jax.jit(method.init)(jax.random.key(0))
  step = jax.jit(method.eval_step)

  def nats(*rows):
    batch = {'tokens': jnp.asarray(rows), 'mask': jnp.ones(len(rows))}
    return float(step(state, batch, jax.random.key(0))['loss_nats'][0])

  begin, first, second = vocab.separator, [65] * 7, list(range(70, 78))
  whole = [begin, *first, begin, *second]
  other = [begin, *reversed(range(80, 87)), begin, *second]
  pad = [begin] + [90] * 16
  assert len(whole) == 17
  # What the second document costs does not depend on the first: the two rows differ by their first halves alone.
  halves = [nats(whole[:9] + pad[:8]), nats(other[:9] + pad[:8])]
  assert nats(whole) - halves[0] == pytest.approx(nats(other) - halves[1], abs=1e-4)
  with pytest.raises(UserError, match="documents=apart needs tokens that begin every document; .*'byte' has none"):
    config_lib.builder(config)(config, tiny.dataset(tiny.config('lm')).spec)


def test_bits_per_byte_leave_separators_out(vocab):
  config = tiny.config('lm')
  method = config_lib.builder(config)(config, Spec('text', (16,), 0, vocab))
  state = jax.jit(method.init)(jax.random.key(0))
  state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))  # every token is as likely
  row = np.array([vocab.separator, *vocab.encode('how to say it')[:4], vocab.separator, *vocab.encode('déjà vu ')] * 4)
  row = row[:17]
  found = jax.jit(method.eval_step)(state, {'tokens': row[None], 'mask': jnp.ones(1)}, jax.random.key(0))
  targets = row[1:][row[1:] != vocab.separator]
  bits, count = map(float, found['bits_per_byte'])
  assert bits == pytest.approx(len(targets) * np.log2(vocab.size), rel=1e-5)
  assert count == len(b''.join(vocab._bytes[token] for token in targets))
  assert float(found['loss_nats'][0]) == pytest.approx(16 * np.log(vocab.size), rel=1e-5)


def test_a_tokenizer_of_ones_own_is_learned_trained_with_and_drawn_from(texts, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  done = cli.command('gen_ai.data.tokenizer', texts, '--size=280', '--out=t.json')
  assert done.returncode == DONE, done
  assert done.stdout.startswith('280 tokens, ') and '--config.data.tokens=bpe:t.json' in done.stdout
  cli.refused(cli.command('gen_ai.data.tokenizer', texts, '--size=280', '--out=t.json'), 'is there already')
  words = ['--config=configs/lm.py', '--tiny', f'--config.data.name={texts}', '--config.data.split=auto']
  done = cli.launch(*words, '--config.data.tokens=bpe:t.json', f'--run_dir={tmp_path}/run', '--config.run.trackers=')
  assert done.returncode == DONE, done
  (tmp_path / 't.json').unlink()
  done = cli.command('gen_ai.sample', tmp_path / 'run', '--n=2', '--prompt=how to ')
  assert done.returncode == DONE and done.stdout.count('how to ') == 2, done


def test_kept_tokens_are_those_of_their_text_and_tokenizer(vocab, tmp_path):
  one = token_files.encoded(vocab, ['ab', 'c'], tmp_path)
  two = token_files.encoded(vocab, ['a', 'bc'], tmp_path)
  assert one.tolist() != two.tolist()
  other = bpe.BpeVocab(bpe.train(DOCUMENTS, 290))
  token_files.encoded(other, ['ab', 'c'], tmp_path)
  assert len(list((tmp_path / 'tokens').iterdir())) == 3


def test_damaged_kept_tokens_are_named(vocab, tmp_path):
  token_files.encoded(vocab, ['ab', 'c'], tmp_path)
  [file] = (tmp_path / 'tokens').iterdir()
  file.write_bytes(file.read_bytes()[:20])
  with pytest.raises(UserError, match=rf'kept tokens in {file} are damaged .* remove that file'):
    token_files.encoded(vocab, ['ab', 'c'], tmp_path)
