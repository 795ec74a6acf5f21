"""Drawing tokens from a language model: temperature, top-k, and a whole sequence as one scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key, PyTree
from gen_ai.core.switch import is_off

StepFn = Callable[[PyTree, Array, Array], tuple[Array, PyTree]]


def sample_token(key: Key, logits: Array, temperature: float | Array = 1.0, top_k: int = 0) -> Array:
  """One token a row from softmax(logits / temperature), restricted to the `top_k` likeliest.

  Args:
    key: keys [B], a row's own each.
    logits: float [B, V].
    temperature: a Python 0 takes the likeliest token; may be traced, and is then positive.
    top_k: static; exactly this many tokens keep a chance (all, where V is smaller), 0 keeps all.

  Returns:
    int32 [B].

  Raises:
    UserError: negative top_k.
  """
  if top_k < 0:
    raise UserError(f'top_k is {top_k}; give a positive number of tokens, or 0 for no limit')
  logits = logits.astype(jnp.float32)
  if is_off(temperature):
    return jnp.argmax(logits, -1).astype(jnp.int32)
  if top_k == 0:
    return jax.vmap(jax.random.categorical)(key, logits / temperature).astype(jnp.int32)
  values, tokens = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
  choice = jax.vmap(jax.random.categorical)(key, values / temperature)
  return jnp.take_along_axis(tokens, choice[:, None], -1)[:, 0].astype(jnp.int32)


def looks_back(tokens: int, context: int) -> int:
  """How many of a text's last tokens a model continues it from.

  All of them where room is left in its context of `context` tokens; otherwise as many as fill half of it, so that the
  other half is there for what follows.
  """
  return tokens if tokens < context else max(1, context // 2)


def generate(
  step_fn: StepFn,
  cache: PyTree,
  prompt: Array,
  length: int,
  key: Key,
  temperature: float | Array = 1.0,
  top_k: int = 0,
) -> Array:
  """Continues `prompt` to `length` tokens, one step of the model a token, in one scan.

  Args:
    step_fn: (cache, token int32 [B], position int32 []) -> (logits [B, V] of the next token, cache).
    cache: what `step_fn` starts from.
    prompt: int32 [B, P], 1 <= P <= length; every row begins with its own. -1 stands for a token that is to be drawn:
      a shorter prompt ends in them.
    length: static number of tokens in the result; the caller keeps it within the model's context.
    key: keys [B], a row's own each; its token at position t has noise of its own whatever the length.
    temperature: see `sample_token`.
    top_k: see `sample_token`.

  Returns:
    int32 [B, length].

  Raises:
    UserError: an empty prompt, or one longer than `length`.
  """
  P = prompt.shape[1]
  if not 1 <= P <= length:
    raise UserError(f'the prompt has {P} tokens; it needs at least 1 and at most the {length} to be returned')
  given = jnp.pad(prompt, ((0, 0), (0, length - P)), constant_values=-1).astype(jnp.int32)

  def step(carry: tuple[PyTree, Array], position: Array) -> tuple[tuple[PyTree, Array], Array]:
    cache, token = carry
    logits, cache = step_fn(cache, token, position)
    own = jax.vmap(lambda one: jax.random.fold_in(one, position))(key)
    drawn = sample_token(own, logits, temperature, top_k)
    token = jnp.where(given[:, position + 1] >= 0, given[:, position + 1], drawn)
    return (cache, token), token

  _, tokens = jax.lax.scan(step, (cache, given[:, 0]), jnp.arange(length - 1))
  return jnp.concatenate([given[:, :1], tokens.T], 1)
