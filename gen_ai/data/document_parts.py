"""Which part, train, validation or test, a document of a large corpus comes into: whole, and always the same."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gen_ai.core.errors import UserError
from gen_ai.data import splits

AUTO = '98:1:1'  # percent of documents


class Rule(NamedTuple):
  """How documents come into parts.

  Attributes:
    text: tells it.
    part: (own split, place of the document in [0, 1)) -> its part; '' for one that is left out.
    shared: whether the test part is the validation part.
  """

  text: str
  part: Callable[[str, float], str]
  shared: bool


def rule(split: str, own: Sequence[str]) -> Rule:
  """The rule of `--split` for a corpus with these splits of its own.

  'auto' keeps its own parts: a test part alone leaves validation to be cut from train, a validation part alone is the
  test part too. What has no parts is cut by `AUTO`.

  Raises:
    UserError: `split` does not read TRAIN:VALIDATION[:TEST].
  """
  if split != 'auto':
    return by_shares(split)
  if 'train' in own and 'validation' in own:
    names = [name for name in splits.NAMES if name in own]
    return Rule('|'.join(names), lambda name, place: name if name in names else '', 'test' not in own)
  return Rule('train 99:1|test', _with_own_test, False) if {'train', 'test'} <= {*own} else by_shares(AUTO)


def by_shares(split: str) -> Rule:
  """The rule 'TRAIN:VALIDATION:TEST' of shares of all documents, or 'TRAIN:VALIDATION'. Raises UserError."""
  try:
    shares = [float(share) for share in split.split(':')]
  except ValueError:
    shares = []
  if len(shares) not in (2, 3) or min(shares) <= 0 or not sum(shares) < float('inf'):
    raise UserError(
      f"--split={split} must be two or three positive shares of documents, TRAIN:VALIDATION:TEST, e.g. '{AUTO}'."
    )
  first, second = shares[0] / sum(shares), (shares[0] + shares[1]) / sum(shares)

  def part(name: str, place: float) -> str:
    del name
    return 'train' if place < first else 'validation' if place < second or len(shares) == 2 else 'test'

  return Rule(f'{split} of documents, by hash', part, len(shares) == 2)


def _with_own_test(name: str, place: float) -> str:
  if name == 'train':
    return 'train' if place < 0.99 else 'validation'
  return name if name == 'test' else ''
