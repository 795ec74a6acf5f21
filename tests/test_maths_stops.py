"""Where texts end: strings found in tokens of several symbols, against a search in the text itself."""

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths.stops import ENDED, automaton

TOKENS = [b'a', b'b', b'ab', b'aab', b'ba', b'bbabc', b'c', b'', b'xyz']


@pytest.mark.parametrize('stops', [[b'abab'], [b'aa', b'bab'], [b'b'], [b'aabaab', b'ba', b'cx'], []], ids=str)
def test_a_text_ends_with_the_token_behind_which_it_holds_a_stop(stops):
  table = automaton(stops, TOKENS, last=[7])
  assert table.dtype == np.int32 and table.shape[1] == len(TOKENS)
  noise = np.random.default_rng(0)
  ends = 0
  for _ in range(300):
    state, text = 0, b''
    for token in noise.integers(0, len(TOKENS), 12):
      state, text = int(table[state, token]), text + TOKENS[token]
      assert (state == ENDED) == (token == 7 or any(stop in text for stop in stops)), (text, stops)
      if state == ENDED:
        ends += 1
        break
  assert ends > 100


def test_an_empty_stop_is_refused():
  with pytest.raises(UserError, match='an empty string'):
    automaton([b'a', b''], TOKENS)
