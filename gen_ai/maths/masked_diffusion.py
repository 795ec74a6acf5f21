"""Masked diffusion of tokens: which are hidden, what the bound weighs them by, and how hidden ones are filled in.

"Simple and Effective Masked Diffusion Language Models" (MDLM, arXiv 2406.07524); "Large Language Diffusion Models"
(LLaDA, arXiv 2502.09992). By the log-linear schedule, alpha(t) = 1 - t, each token of x is hidden with probability t,
and x_t is what is left. The model tells each hidden token from x_t alone, whatever the time. The bound (MDLM, section
3.4; LLaDA, section 2.1),

  -log p(x) <= E_t [ (1 / t) sum of -log p(x_i | x_t) over the hidden i ],   t uniform in (0, 1),

is the mean over all orders of what it costs to tell x token by token in that order (arXiv 2110.02037, section 3). No
time is left in it: over all t, every number k = 1 to L of hidden tokens has the same weight. So exactly k of them, k
uniform and weighed by L / k, have the same mean with less variance (LLaDA, section 2.4).

Shapes: B texts, L tokens that may be hidden, V vocabulary, C tokens that the model sees at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core import random
from gen_ai.core.method import Array, Key
from gen_ai.maths.sampling import Rule, after, sample_token, with_room

MASKS = ('counted', 'independent')
ORDERS = ('random', 'confident')
_GOLDEN = 2654435769  # 2^32 / 1.618..., whose multiples lie evenly in [0, 2^32), however many there are


class Hidden(NamedTuple):
  """Which tokens of some texts are hidden, and what their cost is multiplied by."""

  where: Array  # bool [B, L]
  weight: Array  # float32 [B]


def hide(masks: str, t: Array, noise: Array, known: Array) -> Hidden:
  """Hides tokens at times `t`.

  Args:
    masks: 'independent', each with probability t, weighed by 1 / t; or 'counted', exactly ceil(t L) of L.
    t: float32 [B] in (0, 1].
    noise: float32 [B, L], uniform in [0, 1).
    known: bool [B, L], the tokens that there are; the others are behind the end of a text.
  """
  if masks == 'independent':
    return Hidden(known & (noise < t[:, None]), 1.0 / t)
  assert masks == 'counted', f'a branch for {masks}'  # the config knows no other
  total = known.sum(1)
  count = jnp.clip(jnp.ceil(t * total), 1, total).astype(jnp.int32)
  rank = _rank(jnp.where(known, noise, jnp.inf))
  return Hidden(known & (rank < count[:, None]), total / jnp.maximum(count, 1).astype(jnp.float32))


def _rank(x: Array) -> Array:
  """int32 [B, L]: how many of a row are smaller, or equal and before it."""
  return jnp.argsort(jnp.argsort(x, 1), 1)


def times(index: Array, first: Array, draws: int) -> Array:
  """float32 [B, draws] in (0, 1], evenly apart over the draws of an example and over examples (arXiv 2107.00630, I.1).

  Those of an example depend on its number alone: multiples of the golden ratio, in whole numbers that wrap around.

  Args:
    index: int32 [B] numbers of the examples.
    first: uint32 [] or [B], random: the time of a draw is uniform.
    draws: static.
  """
  start = index.astype(jnp.uint32) * np.uint32(_GOLDEN) + first
  step = (np.arange(draws) * (2**32 // draws)).astype(np.uint32)
  return 1.0 - ((start[:, None] + step) >> 8).astype(jnp.float32) / 2**24


# (tokens int32 [B, C], columns int32 [B, N]) -> logits float32 [B, N, V] of the tokens there. Hidden tokens have a
# number of their own, V, for which there is no logit: it is never drawn (MDLM, section 3.2.3, zero masking).
Denoise = Callable[[Array, Array], Array]


class Filled(NamedTuple):
  """Tokens without holes."""

  tokens: Array  # int32 [B, N]
  evaluations: Array  # int32 [B], of the model


def fill(
  logits_of: Callable[[Array, Array], Array],
  tokens: Array,
  hidden: Array,
  key: Key,
  rule: Rule = Rule(),  # noqa: B008
  steps: int = 0,
  order: str = 'random',
) -> Filled:
  """Fills in hidden tokens; the others stay as they are (MDLM, section 3.2.3, carry-over unmasking).

  One at a time in random order is the exact sampler of the model: the first-hitting sampler of arXiv 2409.02908 without
  its times, which no model of x_t alone asks for. With fewer steps, tokens of one step do not see one another.

  Args:
    logits_of: (tokens int32 [B, N], hidden bool [B, N]) -> logits float32 [B, N, V].
    tokens: int32 [B, N].
    hidden: bool [B, N].
    key: keys [B], a row's own each; columns have noise of their own, so that it does not matter how many there are.
    rule: how a token is drawn; without a penalty of repetition.
    steps: evaluations of a row, each of which tells as many tokens as the others; 0: one a token.
    order: 'random', or 'confident': the tokens that were drawn with the highest probability come first (LLaDA,
      section 2.4, low-confidence remasking).
  """
  N, holes = tokens.shape[1], hidden.sum(1)
  evaluations = jnp.minimum(holes, steps) if steps else holes
  by_column = jax.vmap(lambda own: jax.vmap(lambda column: jax.random.fold_in(own, column))(jnp.arange(N)))
  luck = jax.vmap(jax.vmap(jax.random.uniform))(by_column(random.stream(key, 'order')))

  def more(carry: tuple[Array, Array, Array]) -> Array:
    return carry[2].any()

  def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    number, tokens, hidden = carry
    logits = logits_of(tokens, hidden)
    own = by_column(random.stream(key, 'tokens', number)).reshape(-1)
    drawn = sample_token(own, logits.reshape(-1, logits.shape[-1]), rule).reshape(tokens.shape)
    first = luck
    if order == 'confident':
      first = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], -1)[..., 0]
    left = holes * jnp.maximum(evaluations - number - 1, 0) // jnp.maximum(evaluations, 1)
    now = hidden & (_rank(jnp.where(hidden, -first, jnp.inf)) < (hidden.sum(1) - left)[:, None])
    return number + 1, jnp.where(now, drawn, tokens), hidden & ~now

  _, tokens, _ = jax.lax.while_loop(more, step, (jnp.int32(0), tokens, hidden))
  return Filled(tokens, evaluations)


class Written(NamedTuple):
  """How far a `Writing` is.

  Attributes:
    made: int32 [], tokens of every row that has not ended, after its prompt.
    text: int32 [B, P + length]; what is not made is -1.
    given: int32 [B], tokens of the prompts.
    state: int32 [B], of the automaton of stops.
    done: bool [B].
    evaluations: int32 [B], of the model.
  """

  made: Array
  text: Array
  given: Array
  state: Array
  done: Array
  evaluations: Array


@dataclass(frozen=True)
class Writing:
  """Continues prompts by `length` tokens, block by block: the tokens of a block are filled in, in any order.

  What is behind a block is hidden, and so is the block at first. A row's text depends on its own prompt and key alone.

  Attributes:
    denoise: the model.
    mask: the number of a hidden token.
    context: C; of a longer text the model sees the end.
    length: static number of tokens to make.
    block: static, below C: tokens of a block.
    key: keys [B], a row's own each.
    rule, steps, order: see `fill`; the steps are those of a block.
    stops: int32 [S, V] of `gen_ai.maths.stops.automaton`, which says where a row ends; None: only at its length.
  """

  denoise: Denoise
  mask: int
  context: int
  length: int
  block: int
  key: Key
  rule: Rule = Rule()
  steps: int = 0
  order: str = 'random'
  stops: np.ndarray | None = None

  def start(self, prompt: Array) -> Written:
    """Before the first block of texts that begin with `prompt` int32 [B, P]; a shorter one ends in -1.

    Raises:
      UserError: an empty prompt.
    """
    text, given = with_room(prompt, self.length)
    state = jnp.zeros_like(given)
    return Written(jnp.int32(0), text, given, state, state > 0, state)

  def advance(self, written: Written, count: int | Array) -> Written:
    """Block by block, until every row has at least `count` tokens after its prompt, or has ended."""

    def more(now: Written) -> Array:
      return (now.made < jnp.minimum(count, self.length)) & ~now.done.all()

    result: Written = jax.lax.while_loop(more, self._block, written)
    return result

  def _block(self, now: Written) -> Written:
    N, C, row = self.block, self.context, jnp.arange(len(now.text))[:, None]
    column, known = jnp.arange(N), (now.given + now.made)[:, None]
    wanted = (column < self.length - now.made) & ~now.done[:, None]
    first = jnp.maximum(known + N - C, 0)
    seen = first + jnp.arange(C)
    read = jnp.take_along_axis(now.text, jnp.minimum(seen, now.text.shape[1] - 1), 1)
    canvas, places = jnp.where(seen < known, read, self.mask), known - first + column

    def logits_of(tokens: Array, hidden: Array) -> Array:
      return self.denoise(canvas.at[row, places].set(jnp.where(hidden, self.mask, tokens)), places)

    own = random.stream(self.key, 'block', now.made)
    blank = jnp.full(wanted.shape, self.mask, jnp.int32)
    filled = fill(logits_of, blank, wanted, own, self.rule, self.steps, self.order)
    state, kept = self._until_stop(now.state, filled.tokens, wanted)
    text = now.text.at[row, known + column].set(jnp.where(kept, filled.tokens, -1), mode='drop')
    made = jnp.minimum(now.made + N, self.length)
    done = now.done | (state < 0) | (made >= self.length)
    return Written(made, text, now.given, state, done, now.evaluations + filled.evaluations)

  def _until_stop(self, state: Array, tokens: Array, wanted: Array) -> tuple[Array, Array]:
    """(the states [B] after a block, bool [B, N]: the tokens of it that are wanted and do not follow a stop)."""

    def step(state: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
      token, wanted = column
      kept = wanted & (state >= 0)
      return jnp.where(kept, after(state, jnp.where(kept, token, 0), self.stops), state), kept

    state, kept = jax.lax.scan(step, state, (tokens.T, wanted.T))
    return state, kept.T
