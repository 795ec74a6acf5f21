"""Likelihood figures with standard errors: importance-weighted bounds, bits per dimension, perplexity, bits per byte.

Everything on the device is a pure function of one batch, {name with unit: (sums [B], counts [B])}. `Totals` joins the
batches of a split on the host, in float64, and gives each figure its standard error.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Batch, Key, State, SumCount, Task
from gen_ai.maths import densities

DRAWS = 5000  # the k of the literature's tables (arXiv 1509.00519, section 5)
CHUNK = 10  # draws decoded at once: a batch of 256 makes 2,560 decodings, which fill a device and fit in its memory

# (state, batch, key, draws int32 [k]) -> log p(x, z_j) - log q(z_j | x) in nats, float32 [k, B]
LogWeightsFn = Callable[[State, Batch, Key, Array], Array]
EvalStep = Callable[[State, Batch, Key], SumCount]  # Method.eval_step


class Bound(NamedTuple):
  """What k importance weights say of each example, float32 [B]."""

  log_likelihood: Array  # log (1/k) sum_j w_j, nats: a lower bound of log p(x) in expectation, tight as k grows
  elbo: Array  # (1/k) sum_j log w_j, nats, of the same draws
  effective: Array  # (sum w)^2 / sum w^2, 1 to k: draws that count; near 1 the bound hangs on a single draw


class _Running(NamedTuple):
  """Sums over the draws seen so far, [B]; those of weights are in units of exp(top)."""

  top: Array  # the largest log-weight
  weights: Array
  squares: Array
  mean: Array  # of the log-weights


def log_weights(task: Task, state: State, batch: Batch, key: Key, draws: Array) -> Array:
  """The task 'log_weights' of a method for latent draws int32 [k] of each example of a batch: nats, float32 [k, B].

  Noise is addressed by (key, draw, example), so the task is handed one and the same key for all examples.
  """
  B = batch['index'].shape[0]
  given = {name: batch[name] for name in task.inputs if name in batch}
  given['draw'] = jnp.broadcast_to(draws, (B, draws.shape[0]))
  return task.run(state, given, jnp.broadcast_to(key, (B,)))['log_weights'].T


def importance_weighted(
  log_weights_fn: LogWeightsFn, state: State, batch: Batch, key: Key, k: int = DRAWS, chunk: int = CHUNK
) -> Bound:
  """The importance-weighted bound of every example, in chunks of draws: memory is that of one chunk.

  "Importance Weighted Autoencoders", arXiv 1509.00519, eq. 8: L_k = E[log (1/k) sum_j p(x, z_j) / q(z_j | x)]. L_1 is
  the ELBO, L_k <= L_(k+1) <= log p(x). The log-sum-exp runs in float32, shifted by the largest log-weight so far.

  Args:
    log_weights_fn: such as `log_weights` of a task.
    state: of the method.
    batch: B examples.
    key: noise; draw j of an example has the same noise for every k, chunk and batch.
    k: draws an example; static.
    chunk: draws computed at once, B * chunk decodings; static.

  Raises:
    UserError: k or chunk is below 1.
  """
  if k < 1 or chunk < 1:
    raise UserError(f'an importance-weighted likelihood needs at least 1 draw at a time, not k={k}, chunk={chunk}.')
  chunk = min(k, chunk)

  def add(run: _Running, first: Array) -> tuple[_Running, None]:
    draws = first + jnp.arange(chunk, dtype=jnp.int32)
    kept = (draws < k)[:, None]  # the last chunk may reach beyond k
    log_w = log_weights_fn(state, batch, key, draws).astype(jnp.float32)
    top = jnp.maximum(run.top, jnp.where(kept, log_w, -jnp.inf).max(0))
    shift = jnp.where(jnp.isfinite(top), top, 0.0)  # inf - inf would turn a weight of zero into a NaN
    w, rescale = jnp.where(kept, jnp.exp(log_w - shift), 0.0), jnp.exp(run.top - shift)
    # A running mean of differences: a sum of 5,000 log-weights of -2,000 nats has steps of a whole nat in float32.
    count = kept.sum()
    mean = log_w[0] + jnp.where(kept, log_w - log_w[0], 0.0).sum(0) / count
    mean = run.mean + (mean - run.mean) * (count / (first + count))
    return _Running(top, run.weights * rescale + w.sum(0), run.squares * rescale**2 + (w**2).sum(0), mean), None

  zeros = jnp.zeros(batch['index'].shape, jnp.float32)
  start = _Running(jnp.full_like(zeros, -jnp.inf), zeros, zeros, zeros)
  run, _ = jax.lax.scan(add, start, jnp.arange(0, k, chunk, dtype=jnp.int32))
  shift = jnp.where(jnp.isfinite(run.top), run.top, 0.0)
  return Bound(shift + jnp.log(run.weights) - math.log(k), run.mean, run.weights**2 / run.squares)


def bound_figures(bound: Bound, dims: int) -> SumCount:
  """{name: (values [B], ones [B])} of a bound, for `Totals`.

  Args:
    bound: of B examples.
    dims: numbers in one example, H * W * C.

  Returns:
    'iwae_nats' log-likelihood in nats an example (higher is better), 'iwae_bpd' its negative in bits per dimension,
    'iwae_elbo_nats' the ELBO of the same draws, 'iwae_effective_draws'. Where a density models levels, an example is
    dequantised once for all its draws: k closes the gap of q, not that of the noise (arXiv 1511.01844, section 3.1).
  """
  values = {
    'iwae_nats': bound.log_likelihood,
    'iwae_bpd': densities.nats_to_bpd(-bound.log_likelihood, dims),
    'iwae_elbo_nats': bound.elbo,
    'iwae_effective_draws': bound.effective,
  }
  return {name: (value, jnp.ones_like(value)) for name, value in values.items()}


def per_example(eval_step: EvalStep, state: State, batch: Batch, key: Key) -> SumCount:
  """What `Method.eval_step` gives for each example alone: {name: (sums [B], counts [B])}.

  An evaluation is exact over any batching, so the sums over B are those of the whole batch.
  """

  def alone(example: Batch) -> SumCount:
    return eval_step(state, jax.tree.map(lambda leaf: leaf[None], example), key)

  return jax.vmap(alone)(batch)


class Figure(NamedTuple):
  """A value and its standard error over the drawing of the examples; None where one example tells of no spread."""

  value: float
  error: float | None


class Interval(NamedTuple):
  """A confidence interval, with the value and the standard error (None: unknown, and so are the bounds)."""

  value: float
  error: float | None
  low: float | None
  high: float | None


def ratio(sums: ArrayLike, counts: ArrayLike, name: str = 'the figure') -> Figure:
  """R = sum(sums) / sum(counts) with its standard error, in float64.

  The linearised variance of a ratio, N / (N - 1) * sum_i (s_i - R c_i)^2 / sum(c)^2 (Cochran 1977, "Sampling
  Techniques", chapter 6): the N examples are independent clusters of c_i units each. With counts of 1 it is the error
  of a mean. Blocks cut from one text resemble their neighbours, so for text the error is rather too small.

  Args:
    sums: [N].
    counts: [N] units in each example: 1, tokens, bytes.
    name: of the figure, for messages.

  Raises:
    UserError: there are no examples, no units, or some are not finite; the message says how many.
  """
  s, c = np.asarray(sums, np.float64).reshape(-1), np.asarray(counts, np.float64).reshape(-1)
  bad = ~(np.isfinite(s) & np.isfinite(c))
  if bad.any():
    raise UserError(
      f'{name} is not finite (NaN or infinite) for {bad.sum():,} of {len(s):,} examples, the first of them number '
      f'{bad.argmax():,}: the model gives them no probability, or its parameters diverged. Evaluate another checkpoint.'
    )
  units, n = c.sum(), len(s)
  if not units:
    raise UserError(f'{name} has nothing to be taken over: {n:,} examples with 0 units in all. Evaluate another split.')
  value = s.sum() / units
  error = float(np.sqrt(n / (n - 1) * np.square(s - value * c).sum()) / abs(units)) if n > 1 else None
  return Figure(float(value), error)


def interval(figure: Figure, level: float = 0.95) -> Interval:
  """The normal interval of confidence `level` around a figure, in its own unit."""
  if figure.error is None:
    return Interval(*figure, None, None)
  reach = NormalDist().inv_cdf((1 + level) / 2) * figure.error
  return Interval(*figure, figure.value - reach, figure.value + reach)


def perplexity(nats: Figure, level: float = 0.95) -> Interval:
  """exp of the nats a token: between how many tokens the model hesitates.

  The standard error is the delta method's, value * error. The interval has the exponentials of the ends in nats: it is
  lopsided, and never below 0.

  Args:
    nats: negative log-likelihood in nats a token ('loss_nats' of a language model).
    level: confidence.

  Raises:
    UserError: more nats than a float64 exponential holds.
  """
  value, error, low, high = interval(nats, level)
  try:
    centre = math.exp(value)
    if error is None or low is None or high is None:
      return Interval(centre, None, None, None)
    return Interval(centre, centre * error, math.exp(low), math.exp(high))
  except OverflowError as e:
    raise UserError(f'a loss of {value:.6g} nats a token has no finite perplexity: give the nats instead.') from e


class Totals:
  """The figures of a split, from the results of its batches; float64 on the host, exact for any batch size."""

  def __init__(self) -> None:
    self._sums: dict[str, list[np.ndarray]] = {}
    self._counts: dict[str, list[np.ndarray]] = {}

  def add(self, results: Mapping[str, tuple[Any, Any]], mask: ArrayLike) -> None:
    """Adds the next batch, or several at once.

    Args:
      results: {name: (sums, counts)}, each of the shape of `mask`: [B], or [n, B].
      mask: 1 for an example, 0 for padding, whose results are dropped.
    """
    real = np.asarray(mask) > 0
    for name, (sums, counts) in results.items():
      for parts, values in ((self._sums, sums), (self._counts, counts)):
        parts.setdefault(name, []).append(np.asarray(values)[real])

  def means(self) -> dict[str, float]:
    """{name with unit: sum over count}, whatever it is: a run that diverges is told of elsewhere."""
    with np.errstate(invalid='ignore', over='ignore'):
      counts = {name: np.concatenate(parts).sum(dtype=np.float64) for name, parts in self._counts.items()}
      sums = {name: np.concatenate(parts).sum(dtype=np.float64) for name, parts in self._sums.items()}
      return {name: float(total / counts[name]) for name, total in sums.items()}

  def of(self, examples: range) -> 'Totals':
    """The totals of some of the examples added, by their numbers."""
    some = Totals()
    for mine, parts in ((some._sums, self._sums), (some._counts, self._counts)):
      mine.update({name: [np.concatenate(values)[examples.start : examples.stop]] for name, values in parts.items()})
    return some

  def finish(self) -> dict[str, Figure]:
    """{name with unit: (value, standard error)} over all examples added; raises what `ratio` raises.

    What no example has a unit of is left out, where they have any of another.
    """
    counts = {name: np.concatenate(parts) for name, parts in self._counts.items()}
    empty = {name for name, count in counts.items() if not count.any()}
    left = counts.keys() - empty or empty
    return {
      name: ratio(np.concatenate(sums), counts[name], f"'{name}'") for name, sums in self._sums.items() if name in left
    }
