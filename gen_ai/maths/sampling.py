"""Drawing tokens from a language model: which tokens may come, and a whole continuation as one program."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Extend, Key, PyTree, Reader
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


def looks_back(tokens: int, context: int) -> int:
  """How many of a text's last tokens a fresh cache begins with.

  All of them where room is left in the context of `context` tokens; otherwise as many as fill half of it, so that the
  other half is there for what follows.
  """
  return tokens if tokens < context else max(1, context - max(1, context // 2))


def read_back(reader: Reader, text: Array, end: Array, count: Array, most: int) -> tuple[Array, PyTree]:
  """(logits [B, V] after, cache of) the last `count` [B] tokens of each row of `text` before column `end` [B].

  `most` is static, and at least every count.
  """
  B = text.shape[0]
  columns = jnp.clip((end - count)[:, None] + jnp.arange(most), 0, text.shape[1] - 1)
  tokens = jnp.maximum(jnp.take_along_axis(text, columns, 1), 0)
  return reader.extend(reader.cache(B), tokens, jnp.broadcast_to(jnp.arange(most), (B, most)), count - 1, True)


def read_prompt(reader: Reader, text: Array, given: Array, most: int) -> tuple[Array, PyTree, Array]:
  """(logits after, cache of, tokens in it [B]) the `given` [B] tokens, at most `most`, that each row begins with."""
  context, keep = reader.context, looks_back(reader.context, reader.context)
  seen = jnp.where(given < context, given, keep)
  logits, cache = read_back(reader, text, given, seen, most if context > most else max(keep, context - 1))
  return logits, cache, seen


def rows_where(chosen: Array, new: PyTree, old: PyTree, axis: int) -> PyTree:
  """Of the rows of arrays, which `axis` counts, those `chosen` bool [B] from `new`, the others from `old`."""

  def pick(new: Array, old: Array) -> Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - axis - 1)), new, old)

  return jax.tree.map(pick, new, old)


def tokens_held(text: Array, V: int) -> Array:
  """bool [B, V]: which tokens each row of `text` int32 [B, T], -1 where there is none, holds."""
  row = jnp.arange(text.shape[0])[:, None]
  return jnp.zeros((text.shape[0], V), bool).at[row, jnp.where(text < 0, V, text)].set(True, mode='drop')


def with_room(prompt: Array, length: int) -> tuple[Array, Array]:
  """(int32 [B, P + length] that begins with `prompt` [B, P], tokens of each prompt [B]). Raises UserError for P = 0."""
  B, P = prompt.shape
  if P < 1:
    raise UserError('the prompt has no token; it needs at least 1')
  room = jnp.full((B, length), -1, prompt.dtype)
  return jnp.concatenate([prompt, room], 1).astype(jnp.int32), (prompt >= 0).sum(1)


def after(state: Array, token: Array, stops: np.ndarray | None) -> Array:
  """The states [B] of the automaton of stops after one more token [B]; below 0 of a row that has ended."""
  return state if stops is None else jnp.asarray(stops)[state, token]


def key_of(key: Key, number: Array) -> Key:
  """Keys [B] of the tokens `number` [B] or [] after the prompts, of rows with keys [B]."""
  return jax.vmap(jax.random.fold_in)(key, jnp.broadcast_to(number, key.shape))


class Drawn(NamedTuple):
  """How far a `Decoding` is.

  Attributes:
    made: int32 [], tokens drawn for every row that has not ended.
    cache: of what was read.
    logits: float [B, V], of the next token.
    width: int32 [B], tokens in the cache.
    text: int32 [B, P + length]; what is not drawn is -1.
    given: int32 [B], tokens of the prompts.
    state: int32 [B], of the automaton of stops.
    done: bool [B].
  """

  made: Array
  cache: PyTree
  logits: Array
  width: Array
  text: Array
  given: Array
  state: Array
  done: Array


@dataclass(frozen=True)
class Decoding:
  """Continues prompts by `length` tokens: the prompts are read at once, then one token at a time.

  A row's text depends on its own prompt and key alone, whatever stands beside it. Where a row has used up the context,
  the end of its text starts a fresh cache, see `looks_back`.

  Attributes:
    reader: the model.
    length: static number of tokens to draw.
    key: keys [B], a row's own each; its token number i after the prompt has noise of its own.
    rule: how tokens are drawn.
    stops: int32 [S, V] of `gen_ai.maths.stops.automaton`, which says where a row ends; None: only at its length.
  """

  reader: Reader
  length: int
  key: Key
  rule: Rule = Rule()
  stops: np.ndarray | None = None

  def start(self, prompt: Array) -> Drawn:
    """Reads `prompt` int32 [B, P]; every row begins with its own, and a shorter one ends in -1.

    Raises:
      UserError: an empty prompt.
    """
    text, given = with_room(prompt, self.length)
    logits, cache, width = read_prompt(self.reader, text, given, prompt.shape[1])
    state = jnp.zeros_like(given)
    return Drawn(jnp.int32(0), cache, logits, width, text, given, state, state > 0)

  def advance(self, drawn: Drawn, count: int | Array) -> Drawn:
    """Until every row has `count` tokens after its prompt, or has ended."""

    def more(now: Drawn) -> Array:
      return (now.made < count) & ~now.done.all()

    result: Drawn = jax.lax.while_loop(more, self._step, drawn)
    return result

  def _step(self, now: Drawn) -> Drawn:
    context, text, row = self.reader.context, now.text, jnp.arange(len(now.text))
    column, keep = now.given + now.made, looks_back(context, context)
    held = None if is_off(self.rule.repetition) else tokens_held(text, now.logits.shape[1])
    token = jnp.where(now.done, -1, sample_token(key_of(self.key, now.made), now.logits, self.rule, held))
    text = text.at[row, column].set(token)
    tokens, first = jnp.maximum(token, 0)[:, None], jnp.zeros_like(now.given)
    state = after(now.state, tokens[:, 0], self.stops)
    done = now.done | (state < 0) | (now.made + 1 >= self.length)
    logits, cache = self.reader.extend(now.cache, tokens, now.width[:, None], first, False)
    full, width = now.width >= context, now.width + 1

    def again(now: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
      logits, cache = read_back(self.reader, text, column + 1, jnp.full_like(column, keep), keep)
      return rows_where(full, logits, now[0], 0), rows_where(full, cache, now[1], 1)

    if text.shape[1] > context:
      logits, cache = jax.lax.cond((full & ~done).any(), again, lambda now: now, (logits, cache))
      width = jnp.where(full, keep, width)
    return Drawn(now.made + 1, cache, logits, width, text, now.given, state, done)


def generate(
  extend: Extend,
  cache: PyTree,
  prompt: Array,
  length: int,
  context: int,
  key: Key,
  rule: Rule = Rule(),  # noqa: B008
  stops: np.ndarray | None = None,
) -> Array:
  """Continues every row of `prompt` by `length` tokens, see `Decoding`.

  Args:
    extend: see `Extend`.
    cache: an empty one, of leaves [layers, B, ...].
    prompt: int32 [B, P]; every row begins with its own, and a shorter one ends in -1.
    length: static number of tokens to draw.
    context: of the model.
    key: keys [B], a row's own each.
    rule: how tokens are drawn.
    stops: see `Decoding`.

  Returns:
    int32 [B, P + length]: each row's prompt and its continuation right after; what follows is -1.

  Raises:
    UserError: an empty prompt.
  """
  decoding = Decoding(Reader(extend, lambda B: cache, context), length, key, rule, stops)
  return decoding.advance(decoding.start(prompt), length).text
