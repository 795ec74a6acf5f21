"""Where a text ends: strings that are looked for in what is drawn, whichever tokens they are drawn as."""

from collections.abc import Sequence

import numpy as np

from gen_ai.core.errors import UserError

ENDED = -1  # the state behind a stop


def automaton(stops: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]], last: Sequence[int] = ()) -> np.ndarray:
  """Finds strings of symbols in a text of tokens, each of which is some symbols (Aho and Corasick 1975).

  A text begins in state 0, and a token brings it from a state to another. A stop may begin and end within tokens.

  Args:
    stops: strings of symbols, such as bytes.
    tokens: the symbols of each token.
    last: tokens that end a text by themselves.

  Returns:
    int32 [S, V]: the state after each token in each state; `ENDED` where a stop lies behind.

  Raises:
    UserError: an empty stop, which every text holds.
  """
  if not all(stops):
    raise UserError("an empty string ('') stops every text before it begins: leave it out.")
  symbols = sorted({symbol for stop in stops for symbol in stop})
  number = {symbol: i for i, symbol in enumerate(symbols)}
  other = len(symbols)  # stands for all symbols that no stop holds
  steps = _steps([[number[symbol] for symbol in stop] for stop in stops], other + 1)
  table = np.repeat(np.arange(len(steps), dtype=np.int32)[:, None], len(tokens), 1)
  left = np.array([len(token) for token in tokens])
  for place in range(max(left, default=0) if stops else 0):
    longer = np.flatnonzero(left > place)
    read = np.array([number.get(tokens[token][place], other) for token in longer.tolist()])
    before = table[:, longer]
    table[:, longer] = np.where(before == ENDED, ENDED, steps[before, read])
  table[:, list(last)] = ENDED
  return table


def _steps(stops: Sequence[Sequence[int]], symbols: int) -> np.ndarray:
  """int32 [S, symbols]: the state after each symbol; a state is the longest start of a stop that the text ends in."""
  states: list[tuple[int, ...]] = [()]
  for stop in stops:
    states += [start for start in (tuple(stop[:length]) for length in range(1, len(stop))) if start not in states]
  ends = {tuple(stop) for stop in stops}
  steps = np.zeros((len(states), symbols), np.int32)
  for i, state in enumerate(states):
    for symbol in range(symbols):
      text = (*state, symbol)
      endings = [text[start:] for start in range(len(text) + 1)]
      found = any(ending in ends for ending in endings)
      steps[i, symbol] = ENDED if found else states.index(next(ending for ending in endings if ending in states))
  return steps
