"""Text is UTF-8: what is not is refused by its place, unless the user asks for replacement characters."""

from gen_ai.core.errors import UserError

MARK = b'\xef\xbb\xbf'  # of some editors, at the start of a file; no part of its text


def encoded(held: str | bytes) -> bytes:
  """Text as it was read, as bytes; half a pair of UTF-16, which a str can hold, becomes bytes that are no UTF-8."""
  return held if isinstance(held, bytes) else held.encode(errors='surrogatepass')


def decoded(data: bytes, where: str, offset: int = 0, replace: bool = False) -> tuple[str, bool]:
  """(the text, whether some of it was replaced).

  Args:
    data: all of a text, or a part that begins and ends at whole characters.
    where: it was read from.
    offset: of its first byte there.
    replace: puts U+FFFD for what is not UTF-8.

  Raises:
    UserError: it is not UTF-8 and `replace` is False: names the place and the byte.
  """
  try:
    return data.decode(), False
  except UnicodeDecodeError as error:
    if not replace:
      raise UserError(
        f'{where} is not UTF-8 at byte {offset + error.start:,}: convert it first, or make tokens of it by '
        '`python -m gen_ai.data.tokenize` with --invalid=replace, which puts the replacement character there.'
      ) from error
    return data.decode(errors='replace'), True
