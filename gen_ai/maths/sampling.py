"""Drawing tokens from a language model: which tokens may come, and a whole continuation as one program."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key, PyTree
from gen_ai.core.switch import is_off


class Rule(NamedTuple):
  """How a token is drawn from logits, in this order.

  Attributes:
    repetition: positive logits of tokens that the text holds are divided by it, others multiplied (arXiv 1909.05858,
      section 4.1); a Python 0 switches it off.
    temperature: divides logits; a Python 0 takes the likeliest token. May be traced, and is then positive.
    top_k: static; exactly this many tokens keep a chance (all, where V is smaller), 0 keeps all.
    top_p: the likeliest tokens that hold this share of the probability keep a chance (arXiv 1904.09751); Python 0: all.
    min_p: so do tokens of at least this share of the likeliest one's probability (arXiv 2407.01082); Python 0: all.
  """

  repetition: float | Array = 0.0
  temperature: float | Array = 1.0
  top_k: int = 0
  top_p: float | Array = 0.0
  min_p: float | Array = 0.0


def filtered(logits: Array, rule: Rule, seen: Array | None = None) -> Array:
  """float32 [B, V] logits of the distribution that `rule` draws from; -inf for tokens without a chance.

  Args:
    logits: float [B, V].
    rule: its temperature is not a Python 0.
    seen: bool [B, V], the tokens that the text holds; for a rule with a repetition penalty.

  Raises:
    UserError: a negative top_k.
  """
  if rule.top_k < 0:
    raise UserError(f'top_k is {rule.top_k}; give a positive number of tokens, or 0 for no limit')
  logits = penalised(logits.astype(jnp.float32), rule, seen) / rule.temperature
  V = logits.shape[-1]
  if rule.top_k and rule.top_k < V:
    values, tokens = jax.lax.top_k(logits, rule.top_k)
    row = jnp.arange(logits.shape[0])[:, None]
    logits = jnp.full_like(logits, -jnp.inf).at[row, tokens].set(values)
  if not is_off(rule.top_p):
    ordered = jnp.sort(logits, -1)[:, ::-1]
    before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)
    least = jnp.where(before < rule.top_p, ordered, jnp.inf).min(-1, keepdims=True)
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  if not is_off(rule.min_p):
    logits = jnp.where(logits >= logits.max(-1, keepdims=True) + jnp.log(rule.min_p), logits, -jnp.inf)
  return logits


def penalised(logits: Array, rule: Rule, seen: Array | None) -> Array:
  """Logits float32 [B, V] after the repetition penalty."""
  if is_off(rule.repetition) or seen is None:
    return logits
  less = jnp.where(logits > 0, logits / rule.repetition, logits * rule.repetition)
  return jnp.where(seen, less, logits)


def sample_token(key: Key, logits: Array, rule: Rule = Rule(), seen: Array | None = None) -> Array:  # noqa: B008
  """One token a row by `rule`.

  Args:
    key: keys [B], a row's own each.
    logits: float [B, V].
    rule: see `Rule`.
    seen: see `filtered`.

  Returns:
    int32 [B].

  Raises:
    UserError: a negative top_k.
  """
  if is_off(rule.temperature):
    return jnp.argmax(penalised(logits.astype(jnp.float32), rule, seen), -1).astype(jnp.int32)
  return jax.vmap(jax.random.categorical)(key, filtered(logits, rule, seen)).astype(jnp.int32)


class Extend(Protocol):
  """A language model that reads on."""

  def __call__(self, cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
    """(logits [B, V] after token number `pick` int32 [B] of tokens [B, P], the cache with all of them in it)."""


def looks_back(tokens: int, context: int) -> int:
  """How many of a text's last tokens a fresh cache begins with.

  All of them where room is left in the context of `context` tokens; otherwise as many as fill half of it, so that the
  other half is there for what follows.
  """
  return tokens if tokens < context else max(1, context - max(1, context // 2))


def generate(
  extend: Extend,
  cache: PyTree,
  prompt: Array,
  length: int,
  context: int,
  key: Key,
  rule: Rule = Rule(),  # noqa: B008
  stops: Sequence[Sequence[int]] = (),
) -> Array:
  """Continues every row of `prompt` by `length` tokens: the prompts are read at once, then one token at a time.

  A row's text depends on its own prompt and key alone, whatever stands beside it.

  Args:
    extend: see `Extend`.
    cache: an empty one, of leaves [layers, B, ...].
    prompt: int32 [B, P]; every row begins with its own, and a shorter one ends in -1.
    length: static number of tokens to draw.
    context: of the model; where a row has used it up, the end of its text starts a fresh cache, see `looks_back`.
    key: keys [B], a row's own each; its token number i after the prompt has noise of its own.
    rule: how tokens are drawn.
    stops: sequences of tokens after which a row ends.

  Returns:
    int32 [B, P + length]: each row's prompt and its continuation right after; what follows is -1.

  Raises:
    UserError: an empty prompt.
  """
  B, P = prompt.shape
  if P < 1:
    raise UserError('the prompt has no token; it needs at least 1')
  given, row, keep = (prompt >= 0).sum(1), jnp.arange(B), looks_back(context, context)
  text = jnp.concatenate([prompt, jnp.full((B, length), -1, prompt.dtype)], 1).astype(jnp.int32)

  def read(text: Array, end: Array, count: Array, most: int) -> tuple[Array, PyTree]:
    """(logits after, cache of) the last `count` [B] tokens of every row before column `end` [B], at most `most`."""
    columns = jnp.clip((end - count)[:, None] + jnp.arange(most), 0, text.shape[1] - 1)
    tokens = jnp.maximum(jnp.take_along_axis(text, columns, 1), 0)
    return extend(cache, tokens, jnp.broadcast_to(jnp.arange(most), (B, most)), count - 1, True)

  seen = jnp.where(given < context, given, keep)
  logits, filled = read(text, given, seen, P if context > P else max(keep, context - 1))

  def step(carry: tuple[Array, PyTree, Array, Array, Array, Array]):
    i, cache, logits, width, text, done = carry
    held = None
    if not is_off(rule.repetition):
      held = (
        jnp.zeros(logits.shape, bool)
        .at[row[:, None], jnp.where(text < 0, logits.shape[1], text)]
        .set(True, mode='drop')
      )
    own = jax.vmap(lambda one: jax.random.fold_in(one, i))(key)
    token = jnp.where(done, -1, sample_token(own, logits, rule, held))
    text = text.at[row, given + i].set(token)
    done = done | _ended(text, given + i, given, stops)
    logits, cache = extend(cache, jnp.maximum(token, 0)[:, None], width[:, None], jnp.zeros(B, jnp.int32), False)
    full, width = width >= context, width + 1

    def again(now: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
      anew = read(text, given + i + 1, jnp.full(B, keep), keep)

      def chosen(new: Array, old: Array, axis: int) -> Array:
        return jnp.where(full.reshape(-1, *[1] * (new.ndim - axis - 1)), new, old)

      rows = jax.tree.map(lambda new, old: chosen(new, old, 1), anew[1], now[1])
      return chosen(anew[0], now[0], 0), rows

    if P + length > context:
      needed = (full & ~done).any() & (i + 1 < length)
      logits, cache = jax.lax.cond(needed, again, lambda now: now, (logits, cache))
      width = jnp.where(full, keep, width)
    return i + 1, cache, logits, width, text, done

  def more(carry: tuple[Array, PyTree, Array, Array, Array, Array]) -> Array:
    return (carry[0] < length) & ~carry[5].all()

  start = (jnp.int32(0), filled, logits, seen, text, jnp.zeros(B, bool))
  result: Array = jax.lax.while_loop(more, step, start)[4]
  return result


def _ended(text: Array, column: Array, given: Array, stops: Sequence[Sequence[int]]) -> Array:
  """bool [B]: whether the drawn text up to `column` [B] ends in one of the sequences."""
  ended = jnp.zeros(text.shape[0], bool)
  for stop in stops:
    wanted = np.asarray(stop, np.int32)
    at = column[:, None] - len(wanted) + 1 + jnp.arange(len(wanted))
    found = jnp.take_along_axis(text, jnp.maximum(at, 0), 1) == wanted
    ended |= (found & (at >= given[:, None])).all(1)
  return ended
