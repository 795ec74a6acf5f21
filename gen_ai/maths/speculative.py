"""Speculative decoding: a small model drafts tokens, the model reads them all at once and keeps those that it may.

arXiv 2211.17192 (Leviathan et al.), algorithm 1. What is drawn has the distribution of the model alone, whatever the
draft is; a good draft makes it take fewer passes of the model.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core import random
from gen_ai.core.method import Array, Key, PyTree, Reader
from gen_ai.core.switch import is_off
from gen_ai.maths.sampling import (
  Rule,
  after,
  filtered,
  key_of,
  looks_back,
  penalised,
  read_back,
  read_prompt,
  rows_where,
  sample_token,
  tokens_held,
  with_room,
)


class Side(NamedTuple):
  """What one of the two models has read: its cache, and the position int32 [B] of each row's last token in it."""

  cache: PyTree
  last: Array


class Speculated(NamedTuple):
  """How far a `Speculation` is.

  Attributes:
    made: int32 [B], tokens of each row after its prompt.
    model, draft: what either has read. The last token is read again by the next pass.
    text: int32 [B, P + length]; what is not drawn is -1.
    given: int32 [B], tokens of the prompts.
    state: int32 [B], of the automaton of stops.
    done: bool [B].
    accepted, rejected: int32 [B], drafted tokens that the model looked at.
    passes: int32 [B], of the model after the prompt.
  """

  made: Array
  model: Side
  draft: Side
  text: Array
  given: Array
  state: Array
  done: Array
  accepted: Array
  rejected: Array
  passes: Array


def chances(logits: Array, rule: Rule, held: Array | None = None) -> Array:
  """float32 [B, V]: the probabilities that `rule` draws by; see `gen_ai.maths.sampling.filtered`."""
  if is_off(rule.temperature):
    likeliest = jnp.argmax(penalised(logits.astype(jnp.float32), rule, held), -1)
    return jax.nn.one_hot(likeliest, logits.shape[-1], dtype=jnp.float32)
  return jax.nn.softmax(filtered(logits, rule, held), -1)


@dataclass(frozen=True)
class Speculation:
  """Continues prompts as `gen_ai.maths.sampling.Decoding` does, and in the same distribution, with the help of a draft.

  The noise of token number i of a row is addressed by i and the row's key: its draft, whether that is accepted, and
  what comes in its place. A draft is drawn by the noise that `Decoding` draws by, so that a model which drafts for
  itself gives the text of `Decoding`. Rows go on each at its own pace, and depend on nothing beside them.

  Attributes:
    model: whose distribution is drawn from.
    draft: of the same tokens.
    tokens: static number of tokens that are drafted at once.
    length, key, rule, stops: as of `Decoding`; the rule holds for both models.
  """

  model: Reader
  draft: Reader
  tokens: int
  length: int
  key: Key
  rule: Rule = Rule()
  stops: np.ndarray | None = None

  def start(self, prompt: Array) -> Speculated:
    """See `Decoding.start`."""
    text, given = with_room(prompt, self.length)

    def read(reader: Reader) -> Side:
      _, cache, seen = read_prompt(reader, text, given, prompt.shape[1])
      return Side(cache, seen - 1)

    zero = jnp.zeros_like(given)
    return Speculated(zero, read(self.model), read(self.draft), text, given, zero, zero > 0, zero, zero, zero)

  def advance(self, now: Speculated, count: int | Array) -> Speculated:
    """See `Decoding.advance`; a row may be some tokens ahead."""

    def more(now: Speculated) -> Array:
      return (~now.done & (now.made < count)).any()

    result: Speculated = jax.lax.while_loop(more, self._round, now)
    return result

  def _round(self, now: Speculated) -> Speculated:
    """One draft and one pass of the model: 1 to `tokens` + 1 more tokens for every row that has not ended."""
    context, row = self.model.context, jnp.arange(len(now.text))
    end = now.given + now.made
    model = self._room(self.model, now.model, now, 0)
    draft = self._room(self.draft, now.draft, now, self.tokens - 1)
    last, before = now.text[row, end - 1], now.text[row, jnp.maximum(end - 2, 0)]
    proposed, q, kept, draft_cache = self._drafted(now, draft, before, last)

    read = jnp.concatenate([last[:, None], proposed], 1)
    positions = model.last[:, None] + jnp.arange(self.tokens + 1)
    every = jnp.broadcast_to(jnp.arange(self.tokens + 1), read.shape)
    logits, cache = self.model.extend(model.cache, read, positions, every, False)
    p = jax.vmap(lambda logits, held: chances(logits, self.rule, held), 1, 1)(logits, kept)

    # A row takes no token from logits of a position beyond the context: there `_room` begins anew.
    most = jnp.minimum(self.tokens, context - 1 - model.last)
    numbers = now.made[:, None] + jnp.arange(self.tokens)
    lots = jax.vmap(lambda i: self._lots(i), 1, 1)(numbers)
    of = lambda chance: jnp.take_along_axis(chance, proposed[..., None], 2)[..., 0]  # noqa: E731
    allowed = (lots * of(q) < of(p[:, :-1])) & (jnp.arange(self.tokens) < most[:, None])
    accepted = jnp.cumprod(allowed, 1).sum(1)
    at = lambda every: every[row, accepted]  # noqa: E731
    next_key = key_of(self.key, now.made + accepted)
    own = sample_token(next_key, at(logits), self.rule, None if kept is None else at(kept))
    rest = jnp.maximum(at(p) - at(jnp.pad(q, ((0, 0), (0, 1), (0, 0)))), 0.0)
    rest = jnp.where(rest.sum(-1, keepdims=True) > 0, rest, at(p))  # nothing is left where q = p but for rounding
    other = jax.vmap(jax.random.categorical)(random.stream(next_key, 'rest'), jnp.log(rest))
    refused = accepted < most
    token = jnp.where(refused, other, own).astype(jnp.int32)

    # What is new: the accepted tokens and the one after, up to a stop or the length.
    j = jnp.arange(self.tokens + 1)
    new = jnp.where(j < accepted[:, None], jnp.pad(proposed, ((0, 0), (0, 1))), token[:, None])
    open_ = (j <= accepted[:, None]) & (now.made[:, None] + j < self.length) & ~now.done[:, None]
    states = [now.state]
    for number in range(self.tokens + 1):  # each a step of the automaton
      states.append(jnp.where(states[-1] < 0, states[-1], after(states[-1], new[:, number], self.stops)))
    stopped = jnp.stack(states, 1) < 0
    open_ &= ~stopped[:, :-1]
    count = open_.sum(1)
    columns = jnp.where(open_, end[:, None] + j, now.text.shape[1])
    text = now.text.at[row[:, None], columns].set(new, mode='drop')
    made = now.made + count
    return Speculated(
      made,
      Side(cache, model.last + count),
      Side(draft_cache, draft.last + count),
      text,
      now.given,
      jnp.stack(states, 1)[row, count],
      now.done | stopped[row, count] | (made >= self.length),
      now.accepted + jnp.minimum(count, accepted),
      now.rejected + (refused & (count > accepted)),
      now.passes + ~now.done,
    )

  def _lots(self, number: Array) -> Array:
    """float32 [B] in [0, 1), which say whether the drafts of tokens `number` [B] are accepted."""
    return jax.vmap(jax.random.uniform)(random.stream(key_of(self.key, number), 'accept'))

  def _room(self, reader: Reader, side: Side, now: Speculated, ahead: int) -> Side:
    """The side with room in its context for the last token and `ahead` more, from a fresh cache where it had none."""
    context, keep = reader.context, looks_back(reader.context, reader.context)
    if now.text.shape[1] + ahead <= context:
      return side
    full = (side.last + ahead >= context) & ~now.done

    def again(side: Side) -> Side:
      end = now.given + now.made
      count = jnp.minimum(end, keep)
      cache = read_back(reader, now.text, end, count, keep)[1]
      return Side(rows_where(full, cache, side.cache, 1), jnp.where(full, count - 1, side.last))

    result: Side = jax.lax.cond(full.any(), again, lambda side: side, side)
    return result

  def _drafted(self, now: Speculated, draft: Side, before: Array, last: Array) -> Any:
    """(tokens [B, G], chances [B, G, V] that they came from, what the text holds [B, G + 1, V] or None, the cache)."""
    made, row, none = now.made, jnp.arange(len(last)), jnp.zeros_like(last)

    def draw(number: Array, logits: Array, held: Array | None):
      token = sample_token(key_of(self.key, number), logits, self.rule, held)
      return token, chances(logits, self.rule, held), None if held is None else held.at[row, token].set(True)

    # The token before the last was drafted last, where all drafts were accepted, and is not read yet.
    positions = jnp.stack([jnp.where(draft.last > 0, draft.last - 1, self.draft.context), draft.last], 1)
    logits, cache = self.draft.extend(draft.cache, jnp.stack([before, last], 1), positions, none + 1, False)
    held = None if is_off(self.rule.repetition) else tokens_held(now.text, logits.shape[-1])
    first: Any = draw(made, logits, held)

    def step(carry: Any, i: Array) -> Any:
      cache, token, held = carry
      logits, cache = self.draft.extend(cache, token[:, None], (draft.last + i)[:, None], none, False)
      drawn = draw(made + i, logits, held)
      return (cache, drawn[0], drawn[2]), drawn

    start: Any = cache, first[0], first[2]
    (cache, *_), others = jax.lax.scan(step, start, jnp.arange(1, self.tokens))
    joined = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]).swapaxes(0, 1), first, others)
    proposed, q, kept = joined
    return proposed, q, None if held is None else jnp.concatenate([held[:, None], kept], 1), cache
