"""Optimisers by name, learning-rate schedules, gradient accumulation, averages, and the update that uses them all."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from optax import contrib

from gen_ai.core import lowering
from gen_ai.core.averages import Averages
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Batch, Key, Metrics, PyTree, Reduce, State
from gen_ai.core.names import Part, decayed, groups, joined, name_of, row
from gen_ai.core.switch import is_off

OPTIMISERS = ('adam', 'adamw', 'sgd', 'rmsprop', 'lion', 'muon')
MUON_RMS = 0.2
SCHEDULES = ('constant', 'cosine', 'linear', 'wsd')


def schedule_shape(optim: ConfigDict, steps: int) -> Callable[[Array], Array]:
  """Learning rate as a fraction of its peak, at an update count.

  A unit shape, multiplied by `lr` afterwards, because Optax's own schedule constructors refuse a traced peak.
  Warm-up is linear and gives update `i` (from 0) the fraction (i + 1) / (warmup_steps + 1), as nanoGPT does.

  Args:
    optim: config.optim.
    steps: updates in the run, where `decay_steps` is 0.

  Raises:
    UserError: an unknown schedule, or a warm-up longer than the decay.
  """
  if optim.schedule not in SCHEDULES:
    raise UserError(f"config.optim.schedule='{optim.schedule}' is none of {', '.join(SCHEDULES)}.")
  warmup, end = optim.warmup_steps, optim.decay_steps or steps
  if optim.schedule != 'constant' and warmup >= end:
    raise UserError(f'config.optim.warmup_steps={warmup} leaves no update for the decay, which ends at update {end}.')

  def shape(count: Array) -> Array:
    progress = jnp.clip((count - warmup) / max(end - warmup, 1), 0.0, 1.0)
    if optim.schedule == 'cosine':
      factor = optim.end_factor + (1 - optim.end_factor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    elif optim.schedule == 'linear':
      factor = 1 + (optim.end_factor - 1) * progress
    elif optim.schedule == 'wsd':  # warm-up, stable, decay: arXiv 2404.06395, section 4
      share = optim.cooldown
      falls = jnp.clip((count - end * (1 - share)) / jnp.maximum(end * share, 1), 0.0, 1.0)
      factor = 1 + (optim.end_factor - 1) * falls
    else:
      factor = jnp.ones_like(progress)
    return jnp.minimum((count + 1) / (warmup + 1), 1.0) * factor

  return shape


def ends_with_run(optim: ConfigDict) -> bool:
  """Whether the schedule ends where the run does, so that a run of more steps has other learning rates all along."""
  return optim.schedule != 'constant' and not optim.decay_steps


# {end of a name: (axes in, axes out) of the matrices in a kernel, counted from its end}; other axes count matrices.
Matrices = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
Rates = Mapping[str, float]  # {end of a name: factor of its updates}; 1 without a row


def _matrix(path: tuple[Any, ...], leaf: Array, matrices: Matrices) -> contrib.MuonDimensionNumbers:
  """Which axes of a kernel are a matrix: as the table says, else one matrix [... * in, out] of [..., in, out]."""
  into, out = row(name_of(path), matrices, (tuple(range(-leaf.ndim, -1)), (-1,)))
  return contrib.MuonDimensionNumbers(tuple(leaf.ndim + i for i in into), tuple(leaf.ndim + i for i in out))


def _muon(
  optim: ConfigDict, lr: Callable[[Array], Array], matrices: Matrices, rates: Rates
) -> optax.GradientTransformation:
  """Muon on the kernels of hidden layers and AdamW on the rest, see `groups`.

  The update of a matrix has a root mean square of MUON_RMS, near that of Adam (arXiv 2502.16982), so that one learning
  rate serves both.
  """

  def numbers(updates: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, x: _matrix(path, x, matrices), updates)

  def scaled(path: tuple[Any, ...], x: Array) -> Array:
    into, out = (math.prod(x.shape[i] for i in axes) for axes in _matrix(path, x, matrices))
    return MUON_RMS * max(into, out) ** 0.5 * x

  def by_shape(updates: PyTree, params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(scaled, updates)

  kernels = optax.chain(
    contrib.scale_by_muon(beta=optim.b1, eps=optim.eps, weight_dimension_numbers=numbers),
    optax.stateless(by_shape),
    *_rates(rates),
    optax.add_decayed_weights(optim.weight_decay),
    optax.scale_by_learning_rate(lr),
  )
  rest = optax.chain(
    optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps),
    *_rates(rates),
    optax.add_decayed_weights(optim.weight_decay, decayed),
    optax.scale_by_learning_rate(lr),
  )
  return optax.partition({'muon': kernels, 'adam': rest}, groups)


def _scaled_by(rates: Rates) -> optax.GradientTransformation:
  """Multiplies the update of every parameter by the factor of its name."""

  def scale(updates: PyTree, params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, x: row(name_of(path), rates, 1.0) * x, updates)

  return optax.stateless(scale)


def _rates(rates: Rates) -> list[optax.GradientTransformation]:
  """What multiplies updates before weight decay joins them; nothing, not even a state, where there are no factors."""
  return [_scaled_by(rates)] if rates else []


def optimiser(
  optim: ConfigDict,
  steps: int,
  lr_factor: float | Array = 1.0,
  updates_per_step: int = 1,
  matrices: Matrices = MappingProxyType({}),
  rates: Rates = MappingProxyType({}),
) -> optax.GradientTransformation:
  """The Optax optimiser that `config.optim` describes, gradient clipping and schedule included.

  Args:
    optim: config.optim; its floats may be traced.
    steps: updates in the run.
    lr_factor: multiplies the learning rate, for a second network that learns at another pace.
    updates_per_step: updates this network makes in one step of the run, by which schedules count.
    matrices: of the kernels that are not one matrix each, for Muon.
    rates: factors of updates by name. Weight decay goes by the learning rate alone.

  Raises:
    UserError: an unknown name, or a weight decay that the optimiser has not.
  """
  if optim.name not in OPTIMISERS:
    raise UserError(f"config.optim.name='{optim.name}' is none of {', '.join(OPTIMISERS)}.")
  if optim.name in ('adam', 'sgd', 'rmsprop') and not is_off(optim.weight_decay):
    raise UserError(f'config.optim.weight_decay is set, but {optim.name} has none: use adamw, lion or muon.')
  shape = schedule_shape(optim, steps)

  def lr(count: Array) -> Array:
    return shape(count // updates_per_step) * optim.lr * lr_factor

  moments, decay = {'b1': optim.b1, 'b2': optim.b2}, []
  if optim.name in ('adamw', 'lion'):
    decay = [optax.add_decayed_weights(optim.weight_decay, decayed)]
  if optim.name in ('adam', 'adamw'):
    direction = optax.scale_by_adam(**moments, eps=optim.eps)
    rule = optax.chain(direction, *_rates(rates), *decay, optax.scale_by_learning_rate(lr))
  elif optim.name == 'lion':
    rule = optax.chain(optax.scale_by_lion(**moments), *_rates(rates), *decay, optax.scale_by_learning_rate(lr))
  elif optim.name == 'muon':
    rule = _muon(optim, lr, matrices, rates)
  else:
    momentum = None if is_off(optim.b1) else optim.b1
    if optim.name == 'sgd':
      rule = optax.sgd(lr, momentum=momentum)
    else:
      rule = optax.rmsprop(lr, decay=optim.b2, eps=optim.eps, eps_in_sqrt=False, momentum=momentum)
    rule = optax.chain(rule, *_rates(rates)) if rates else rule
  return rule if is_off(optim.clip_norm) else optax.chain(optax.clip_by_global_norm(optim.clip_norm), rule)


def split_batch(batch: Batch, parts: int) -> Batch:
  """Leaves [B, ...] as [parts, B // parts, ...].

  Part i takes rows i, i + parts, ...: every device keeps the rows it has, where a cut into halves would move them.
  """
  return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch)


class Weighted(NamedTuple):
  """A mean over parts that a batch may hold more or fewer of, such as the tokens that a mask leaves: total / parts."""

  total: Array
  parts: Array  # how many


Mean = Array | Weighted  # an array: a mean over examples that all count alike
# (params, stats, batch, key) -> (loss, ({metric: mean}, stats))
LossFn = Callable[[PyTree, PyTree, Batch, Key], tuple[Mean, tuple[Mapping[str, Mean], PyTree]]]


def gradients(
  loss_fn: LossFn,
  params: PyTree,
  stats: PyTree,
  batch: Batch,
  key: Key,
  accumulate: int,
  reduce: Reduce,
  rowwise: bool = False,
):
  """Gradient of the mean loss over `batch`, computed in `accumulate` micro-batches.

  A loss or a metric that is `Weighted` is the total over all micro-batches and devices, divided by the count of all: a
  token counts as much wherever it lies. A mean of their means would weigh the tokens of a short row more.

  Args:
    loss_fn: (params, stats, batch, key) -> (loss, (metrics, new stats)); see `LossFn`.
    params: differentiated.
    stats: state of the networks (batch-norm averages), handed from one micro-batch to the next.
    batch: leaves [B, ...], B a multiple of `accumulate`.
    key: noise of the loss.
    accumulate: number of micro-batches.
    reduce: mean over devices under pmap, identity under jit.
    rowwise: whether the loss and its metrics add up over rows, each by itself, with no noise of `key` and no `stats`.
      Devices of data parallel then sum up the gradients of their own rows, and exchange them once after the last
      micro-batch, not after each.

  Returns:
    (gradients like params, metrics averaged over the batch, stats).
  """

  def total(params: PyTree, stats: PyTree, batch: Batch, key: Key):
    loss, (metrics, stats) = loss_fn(params, stats, batch, key)
    whole, count = loss if isinstance(loss, Weighted) else (loss, None)
    return whole, (count, dict(metrics), stats)

  grad_fn = jax.grad(total, has_aux=True)
  if accumulate == 1:
    grads, (count, metrics, stats) = grad_fn(params, stats, batch, key)
    return *_means(*reduce((grads, count, metrics))), stats

  def body(stats: PyTree, part: tuple[Batch, Array]):
    micro, number = part
    if rowwise:
      grads, (count, metrics, _) = lowering.apart(lambda rows: grad_fn(params, stats, rows, key))(micro)
    else:
      grads, (count, metrics, stats) = grad_fn(params, stats, micro, jax.random.fold_in(key, number))
    return stats, (grads, count, metrics)

  # Sums run in the carry, not over stacked gradients: memory stays that of one micro-batch.
  def add(carry: PyTree, part: tuple[Batch, Array]):
    stats, sums = carry
    stats, result = body(stats, part)
    return (stats, jax.tree.map(jnp.add, sums, result)), None

  parts = (split_batch(batch, accumulate), jnp.arange(accumulate))
  shapes = jax.eval_shape(lambda s: body(s, jax.tree.map(lambda x: x[0], parts))[1], stats)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  (stats, sums), _ = jax.lax.scan(add, (stats, zeros), parts)
  sums = lowering.together(sums) if rowwise else sums
  return *_means(*reduce(jax.tree.map(lambda x: x / accumulate, sums))), stats


def _means(grads: PyTree, count: Array | None, metrics: Mapping[str, Mean]) -> tuple[PyTree, Metrics]:
  """Sums divided by their counts; what is a mean already stays. Nothing divided by nothing is 0."""

  def divided(whole: Array, count: Array) -> Array:
    return whole / jnp.where(count > 0, count, 1.0)

  if count is not None:
    grads = jax.tree.map(lambda g: divided(g, count).astype(g.dtype), grads)
  return grads, {name: divided(*mean) if isinstance(mean, Weighted) else mean for name, mean in metrics.items()}


class Pace(NamedTuple):
  """How fast one part of the parameters learns, where several have an optimiser each."""

  lr_factor: float | Array = 1.0  # its learning rate over config.optim.lr
  updates_per_step: int = 1  # by which schedules count


class Updater:
  """What a training step does with gradients: optimisers, averages, and the parameters that evaluations use.

  A step calls `update` once for every set of gradients and `advance` at its end.

  Args:
    config: of the run; its floats may be traced.
    parts: {name: pace} where `params` is a dict of parts with an optimiser each; empty: one optimiser for all.
    average: state -> the tree that is averaged, by default all of `params`.
    batches_per_step: batches of data in one step, by which a half-life in examples is counted.
    matrices: of the kernels that are not one matrix each, see `Matrices`.
    rates: factors of updates by name.
    trains: the only parameters that are trained; None: all. The others have no gradient and no state of an optimiser.

  Raises:
    UserError: see `optimiser`.
  """

  def __init__(
    self,
    config: ConfigDict,
    parts: Mapping[str, Pace] | None = None,
    average: Callable[[State], PyTree] = lambda state: state.params,
    batches_per_step: int = 1,
    matrices: Matrices = MappingProxyType({}),
    rates: Rates = MappingProxyType({}),
    trains: Part | None = None,
  ):
    optim, steps = config.optim, config.run.steps
    self._whole = optimiser(optim, steps, matrices=matrices, rates=rates) if not parts else None
    self._rules = {name: optimiser(optim, steps, *pace, matrices, rates) for name, pace in (parts or {}).items()}
    self._trains = trains
    self._average = average
    self._averages = Averages(config, batches_per_step)

  def init(self, params: PyTree, stats: PyTree = ()) -> State:
    """The state before the first update."""
    own, rules = self.trained(params), self._rules.items()
    opt_state = self._whole.init(own) if self._whole else {name: rule.init(own[name]) for name, rule in rules}
    state = State(jnp.int32(0), params, opt_state, (), stats)
    return state._replace(ema=self._averages.start(self._average(state)))

  def trained(self, params: PyTree) -> PyTree:
    """The parameters that are trained, which a loss is differentiated by: all, or those of `trains`."""
    return params if self._trains is None else self._trains.of(params)

  def whole(self, trained: PyTree, params: PyTree) -> PyTree:
    """All parameters: `trained`, and the others of `params`, which stay as they are."""
    return trained if self._trains is None else joined(trained, params)

  def update(self, state: State, grads: PyTree, part: str = '') -> State:
    """The state with `params` and `opt_state` one update on; its step stays.

    Args:
      state: before.
      grads: like `trained` of state.params, or like its [part].
      part: the only part that is updated; '': all.
    """
    trained = self.trained(state.params)
    if self._whole:
      change, opt_state = self._whole.update(grads, state.opt_state, trained)
      return state._replace(params=self.whole(optax.apply_updates(trained, change), state.params), opt_state=opt_state)
    params, states = dict(trained), dict(state.opt_state)
    for name, own in {part: grads}.items() if part else grads.items():
      change, states[name] = self._rules[name].update(own, states[name], params[name])
      params[name] = optax.apply_updates(params[name], change)
    return state._replace(params=self.whole(params, state.params), opt_state=states)

  def advance(self, state: State) -> State:
    """The state after a step whose updates are made: its count and its averages."""
    step = state.step + 1
    return state._replace(step=step, ema=self._averages.advance(state.ema, self._average(state), step))

  def eval_params(self, state: State) -> PyTree:
    """What samples and evaluations use of what `average` names: its average where one is kept, of several the first."""
    return self._averages.evaluated(state.ema, self._average(state))
