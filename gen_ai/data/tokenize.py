"""Turns texts too large for memory into files of tokens: python -m gen_ai.data.tokenize DATA --out=DIR.

DATA is text:GLOB, jsonl:GLOB, a prepared data set of TFDS, python_stdlib or raw:FILE (tokens of nanoGPT or llm.c).
Training takes the folder as --config.data.name=tokens:DIR, and its tokenizer as --config.data.tokens=bpe:DIR.

Documents come into parts whole, by the hash of their content: those that are alike into the same part, and the same
ones whatever else is there.

What is interrupted goes on by the same command: documents are read again up to where it was, but not tokenised again.
"""

import contextlib
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from absl import app, flags

from gen_ai.core import terminal
from gen_ai.core.errors import FAILED, UserError
from gen_ai.core.files import write_atomic
from gen_ai.data import bpe, corpus, document_parts, raw_tokens, splits, text, token_directory
from gen_ai.data.document_parts import Rule
from gen_ai.data.token_directory import PartFile, Unfinished

_BATCH_BYTES = 2**21  # of text that becomes tokens at once
_TOLD_SECONDS = 10.0
_KEPT_SECONDS = 30.0  # of work that is lost at most where it is killed


class Request(NamedTuple):
  """What is asked for; the flags of the same names tell more.

  Attributes:
    data: a data set.
    out: the folder to write.
    tokens: 'byte', 'bpe:SIZE' or 'bpe:FILE'.
    split, validation, test: how parts are cut.
    field, delimiter: what a document is.
    invalid: 'refuse' or 'replace'.
    learn_bytes: of the documents of training, drawn by their content, about how many 'bpe:SIZE' is learned from.
    data_dir: as in `config.data`.
  """

  data: str
  out: str
  tokens: str = 'byte'
  split: str = 'auto'
  validation: str = ''
  test: str = ''
  field: str = 'text'
  delimiter: str = ''
  invalid: str = 'refuse'
  learn_bytes: int = 2**30
  data_dir: str = ''


def tokenize(request: Request) -> str:
  """Writes the folder `request.out` and returns lines about it.

  Raises:
    UserError: no such data, a bad split, text that is not UTF-8, a part without documents, or what cannot be written.
  """
  _check(request)
  with token_directory.making(request.out) as unfinished, contextlib.ExitStack() as stack:
    if request.data.startswith(f'{raw_tokens.PREFIX}:'):
      index = _import_raw(request, unfinished, bpe.read(request.tokens.removeprefix(text.BPE)), stack)
    else:
      index = _encode(request, unfinished, stack)
  return _summary(request.out, index)


def _check(request: Request) -> None:
  """Refuses what contradicts itself."""
  learned = _learns(request)
  if request.tokens != 'byte' and not request.tokens.startswith(text.BPE):
    raise UserError(f"--tokens={request.tokens} is none of 'byte', 'bpe:SIZE' and 'bpe:FILE'.")
  if request.test and not request.validation:
    raise UserError('--test needs --validation beside it.')
  if request.validation and request.split != 'auto':
    raise UserError(f'--split={request.split} and --validation exclude each other: leave one out.')
  raw = f'{raw_tokens.PREFIX}:'
  if not request.data.startswith(raw):
    return
  if request.tokens == 'byte' or learned:
    raise UserError(f'{request.data} holds tokens already: name the tokenizer they are of by --tokens=bpe:FILE.')
  if not request.validation:
    raise UserError(f'{request.data} cannot be split by document: name other tokens by --validation={raw}FILE.')
  for name, given in (('validation', request.validation), ('test', request.test)):
    if given and not given.startswith(raw):
      raise UserError(f'--{name}={given} must be {raw}FILE as {request.data} is.')


def _learns(request: Request) -> bool:
  """Whether tokens are learned from the texts."""
  return request.tokens.removeprefix(text.BPE).isdecimal()


def _identity(request: Request, own: Mapping[str, corpus.Corpus], vocab: token_directory.FileVocab | None) -> Any:
  """What tells the work of one call from that of another: settings, texts, tokens that are not learned from them."""
  asked = {name: value for name, value in request._asdict().items() if name != 'out'}
  return {
    'format': [token_directory.FORMAT, corpus.PIECE_BYTES, _BATCH_BYTES],
    'request': asked,
    'texts': {name: one.version for name, one in own.items()},
    'tokens': text.identity(vocab) if vocab else '',
  }


def _encode(request: Request, unfinished: Unfinished, stack: contextlib.ExitStack) -> dict[str, Any]:
  own, kept_at = _corpora(request), time.monotonic()
  rule = document_parts.rule(request.split, tuple(own))
  named = None if _learns(request) else _named(request)
  begun = unfinished.resume(_identity(request, own, named))
  vocab, folder = named or _learned(request, own, rule, unfinished), unfinished.folder
  files = {
    name: stack.enter_context(PartFile(folder / f'{name}.bin', vocab.dtype, begun.get('parts', {}).get(name)))
    for name in splits.NAMES[: 2 if rule.shared else 3]
  }
  seen, progress = corpus.Seen(), _Progress(sum(one.nbytes for one in own.values()))
  done = begun.get('batches', 0)
  for number, batch in enumerate(_batches(_placed(own, rule, seen, request.invalid == 'replace'))):
    if number < done:
      continue
    for name, file in files.items():
      pieces = [piece for part, piece in batch if part == name]
      if pieces:
        _add(file, vocab, pieces)
    progress.tell(seen.nbytes, sum(file.tokens for file in files.values()))
    if time.monotonic() - kept_at >= _KEPT_SECONDS:
      unfinished.keep({'batches': number + 1, 'parts': {name: file.about() for name, file in files.items()}})
      kept_at = time.monotonic()
  for name, file in files.items():
    if not file.documents:
      raise UserError(
        f'none of the {seen.documents:,} documents of {request.data} came into the {name} part (split {rule.text}): '
        'give it a larger share by --split, name its texts by --validation and --test, or part files into documents by '
        '--delimiter.'
      )
  notes = [f'{seen.invalid:,} documents had bytes that are no UTF-8, replaced'] if seen.invalid else []
  notes += [f'{seen.empty:,} blank documents left out'] if seen.empty else []
  parts = {name: files[name if name in files else 'validation'] for name in splits.NAMES}
  notes += ['the test part is the validation part'] if rule.shared else []
  return token_directory.write_index(folder, vocab, parts, rule.text, [one.name for one in own.values()], notes)


def _corpora(request: Request) -> dict[str, corpus.Corpus]:
  """{own split: documents} of all that the request names."""

  def opened(name: str) -> dict[str, corpus.Corpus]:
    return corpus.opened(name, request.field, request.delimiter.replace('\\n', '\n'), request.data_dir)

  found = opened(request.data)
  for own, name in (('validation', request.validation), ('test', request.test)):
    if name:
      more = opened(name)
      if len(more) > 1 or (len(found) > 1 and own == 'validation'):
        raise UserError(f'--{own}={name}: a data set that has parts of its own ({", ".join(more)}) cannot be joined.')
      found[own] = next(iter(more.values()))
  return found


def _named(request: Request) -> token_directory.FileVocab:
  return text.ByteVocab() if request.tokens == 'byte' else bpe.read(request.tokens.removeprefix(text.BPE))


def _learned(
  request: Request, own: Mapping[str, corpus.Corpus], rule: Rule, unfinished: Unfinished
) -> token_directory.FileVocab:
  """The tokens of 'bpe:SIZE', which an earlier call may have learned already."""
  file = unfinished.folder / token_directory.TOKENIZER
  if file.exists():
    return bpe.read(str(file))
  whole = sum(one.nbytes for one in own.values())
  share = min(1.0, request.learn_bytes / whole) if whole else 1.0
  seen, progress = corpus.Seen(), _Progress(whole, 'learning tokens: ')

  def learned_from() -> Iterator[str]:
    for part, piece in _placed(own, rule, seen, request.invalid == 'replace'):
      progress.tell(seen.nbytes, 0)
      if part == 'train' and zlib.crc32(piece.text.encode()) < share * 2**32:
        yield piece.text

  vocab = bpe.BpeVocab(bpe.train(learned_from(), int(request.tokens.removeprefix(text.BPE))))
  write_atomic(file, vocab.text)
  return vocab


def _placed(
  own: Mapping[str, corpus.Corpus], rule: Rule, seen: corpus.Seen, replace: bool
) -> Iterator[tuple[str, corpus.Piece]]:
  """(part, piece) of all documents; those of own splits that no part takes are left out."""
  for name, one in own.items():
    for piece in one.pieces(seen, replace):
      part = rule.part(name, piece.place)
      if part:
        yield part, piece


def _batches(pieces: Iterator[tuple[str, corpus.Piece]]) -> Iterator[list[tuple[str, corpus.Piece]]]:
  batch: list[tuple[str, corpus.Piece]] = []
  held = 0
  for part, piece in pieces:
    batch.append((part, piece))
    held += piece.nbytes
    if held >= _BATCH_BYTES:
      yield batch
      batch, held = [], 0
  if batch:
    yield batch


def _add(file: PartFile, vocab: token_directory.FileVocab, pieces: list[corpus.Piece]) -> None:
  documents, nbytes = sum(piece.first for piece in pieces), sum(piece.nbytes for piece in pieces)
  if isinstance(vocab, bpe.BpeVocab):
    tokens = vocab.encode_pieces([piece.text for piece in pieces], [piece.first for piece in pieces])
    file.add(tokens, documents, nbytes)
    return
  # Without a separator a line break joins documents, as where texts are read whole.
  starts = [piece.first and (i > 0 or file.documents > 0) for i, piece in enumerate(pieces)]
  joined = ''.join('\n' * start + piece.text for start, piece in zip(starts, pieces, strict=True))
  file.add(vocab.encode_compact(joined), documents, nbytes + sum(starts))


def _import_raw(
  request: Request, unfinished: Unfinished, vocab: bpe.BpeVocab, stack: contextlib.ExitStack
) -> dict[str, Any]:
  folder = unfinished.folder
  named = {'train': request.data, 'validation': request.validation, 'test': request.test}
  files, progress = {}, _Progress(0)
  for name, given in named.items():
    if given:
      files[name] = stack.enter_context(PartFile(folder / f'{name}.bin', vocab.dtype))
      for tokens, documents, nbytes in raw_tokens.blocks(given, vocab):
        files[name].add(tokens, documents, nbytes)
        progress.tell(0, sum(file.tokens for file in files.values()))
  parts = {name: files[name if name in files else 'validation'] for name in splits.NAMES}
  notes = [] if request.test else ['the test part is the validation part']
  data = [given for given in named.values() if given]
  return token_directory.write_index(folder, vocab, parts, '|'.join(files), data, notes)


class _Progress:
  """A line every few seconds of how far it is."""

  def __init__(self, whole: int, what: str = ''):
    self._whole, self._what, self._started = whole, what, time.monotonic()
    self._told = self._started

  def tell(self, nbytes: int, tokens: int) -> None:
    now = time.monotonic()
    if now - self._told < _TOLD_SECONDS:
      return
    self._told, seconds = now, now - self._started
    share = f' of {self._whole / 1e6:,.0f}' if self._whole else ''
    read = f'{nbytes / 1e6:,.0f}{share} MB read, ' if nbytes else ''
    made = f'{tokens:,} tokens, {tokens / seconds:,.0f} a second' if tokens else f'{seconds:.0f} s'
    terminal.tell(f'{self._what}{read}{made}')


def _summary(out: str, index: Mapping[str, Any]) -> str:
  lines = [f'{out}: tokens of {index["tokenizer"]["kind"]}, {index["tokenizer"]["size"]:,} of them, {index["dtype"]}']
  for name, part in index['parts'].items():
    lines.append(
      f'  {name:<10} {part["tokens"]:,} tokens, {part["documents"]:,} documents, {part["bytes"]:,} bytes, '
      f'{part["bytes"] / part["tokens"]:.2f} bytes a token'
    )
  lines += [f'  {note}' for note in index['notes']]
  return '\n'.join([*lines, f'  --config.data.name=tokens:{out}'])


def _main(argv: list[str]) -> None:
  values = flags.FLAGS
  try:
    if values.check:
      if len(argv) > 1:
        raise app.UsageError('--check=DIR takes no DATA beside it')
      token_directory.opened(values.check).check()
      print(f'{values.check} holds what was written')
      return
    if len(argv) != 2 or not values.out:
      raise app.UsageError('give text and a folder: python -m gen_ai.data.tokenize DATA --out=DIR')
    given: dict[str, Any] = {name: values[name].value for name in Request._fields if name != 'data'}
    print(tokenize(Request(argv[1], **given)))
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(FAILED)


if __name__ == '__main__':
  flags.DEFINE_string('out', '', 'the folder to write')
  flags.DEFINE_string('tokens', 'byte', 'byte | bpe:SIZE, learned from documents of training | bpe:FILE')
  flags.DEFINE_string(
    'split', 'auto', 'shares of documents, TRAIN:VALIDATION:TEST; auto: own parts of the data set, or 98:1:1'
  )
  flags.DEFINE_string(
    'validation', '', 'another data set for validation; it is the test part too unless --test is given'
  )
  flags.DEFINE_string('test', '', 'another data set for the test part')
  flags.DEFINE_string('field', 'text', 'of jsonl: the field that holds the text')
  flags.DEFINE_string('delimiter', '', r"of text: what ends a document in a file, \n a line break; '': a file is one")
  flags.DEFINE_enum('invalid', 'refuse', ['refuse', 'replace'], 'what to do about bytes that are no UTF-8')
  flags.DEFINE_integer(
    'learn_bytes', 2**30, 'of bpe:SIZE: bytes of documents, drawn by their content, that tokens are learned from', 1
  )
  flags.DEFINE_string('data_dir', '', 'where prepared data lies; default $TFDS_DATA_DIR or ~/tensorflow_datasets')
  flags.DEFINE_string('check', '', 'a folder of tokens to read whole and compare with its hashes, instead')
  with terminal.guarded():
    app.run(_main)
