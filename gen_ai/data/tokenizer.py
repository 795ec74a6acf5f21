"""Learns a tokenizer from a text data set: python -m gen_ai.data.tokenizer DATA --size=4096 --out=tokenizer.json.

Training takes it as --config.data.tokens=bpe:tokenizer.json. It is learned from the training part alone.
"""

import sys
from pathlib import Path

from absl import app, flags

from gen_ai.core import terminal
from gen_ai.core.errors import FAILED, UserError
from gen_ai.core.files import disk_errors, write_atomic
from gen_ai.data import bpe, text
from gen_ai.data.kinds.text import documents as documents_of


def learn(name: str, size: int, out: str, split: str = 'auto', data_dir: str = '') -> str:
  """Writes tokenizer.json to `out` and returns a line about it.

  Args:
    name: of the data set, as in config.data.name.
    size: number of tokens.
    out: the file to write; it must not be there.
    split: the rule that says which part is trained on, as in config.data.split.
    data_dir: as in config.data.data_dir.

  Raises:
    UserError: no such data, a bad rule or size, or the file is there or cannot be written.
  """
  path = Path(out)
  if path.exists():
    raise UserError(f'--out={out} is there already: name another file.')
  texts = documents_of(name, data_dir).texts
  documents = text.pieces(texts, text.cut(texts, split)[1]['train'])
  vocab = bpe.BpeVocab(bpe.train(documents, size))
  with disk_errors(path, path.parent):
    write_atomic(path, vocab.text)
  tokens = len(vocab.encode_documents(documents))
  held = sum(len(document.encode()) for document in documents)
  return (
    f'{vocab.size:,} tokens, {held / tokens:.2f} bytes each on the {len(documents):,} documents they are of: {out}\n'
    f'  --config.data.tokens=bpe:{out}'
  )


def _main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('give the name of one text data set: python -m gen_ai.data.tokenizer DATA')
  values = flags.FLAGS
  try:
    print(learn(argv[1], values.size, values.out, values.split, values.data_dir))
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(FAILED)


if __name__ == '__main__':
  flags.DEFINE_integer('size', 4096, 'number of tokens, of which 257 are the bytes and the separator')
  flags.DEFINE_string('out', 'tokenizer.json', 'the file to write')
  flags.DEFINE_string('split', 'auto', 'as in config.data.split: tokens are learned from its first part')
  flags.DEFINE_string('data_dir', '', 'where prepared data lies; default $TFDS_DATA_DIR or ~/tensorflow_datasets')
  with terminal.guarded():
    app.run(_main)
