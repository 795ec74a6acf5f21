"""Checkpoints: Orbax, asynchronous, with a fingerprint of every array so that damage never passes unseen.

A checkpoint holds the state and one JSON item, `leaves`: name, shape, dtype and fingerprint of every array, and the
metrics that rank it. Fingerprints are computed on the device by integer sums, which are exact in any order: they are
the same on one device and sharded over many, so a checkpoint is verified on whatever mesh it is restored to.
"""

import errno
import glob
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils.epath.gpath import PosixGPath
from jax.experimental import multihost_utils

from gen_ai.core.errors import UserError
from gen_ai.core.files import disk_full_message, dumps, sha256
from gen_ai.core.method import Array, PyTree
from gen_ai.run.directory import check_path, writer

_UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by bytes a value; 8 bytes become two words
# Beside a run's checkpoints: the folder of snapshots of its averages (config.run.ema_snapshots), a checkpoint each of
# `State.ema` alone.
AVERAGES = 'averages'
_DISK_FULL = ('no space left', 'enospc', 'disk quota exceeded', 'edquot')


class _Damaged(Exception):
  """This checkpoint cannot be trusted."""


def _mix(words: Array) -> Array:
  """A bijection of uint32 that spreads every bit (the finaliser of MurmurHash3, Appleby 2011)."""
  words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
  return words ^ (words >> 16)


@jax.jit  # traced once a shape: parameters, their average and their moments are alike
def _fingerprint(leaf: Array) -> Array:
  """uint32 [2] of one array's bits. Any change of one value changes both words; other damage passes with 2^-64.

  The first word is a sum of values times odd weights that depend on the position, the second a sum of mixed values.
  Addition mod 2^32 is associative, so neither depends on sharding.
  """
  bits = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
  bits = jax.lax.bitcast_convert_type(bits, _UINT[bits.dtype.itemsize]).astype(jnp.uint32)
  position = jnp.zeros(bits.shape, jnp.uint32)
  for axis in range(bits.ndim):
    stride = math.prod(bits.shape[axis + 1 :]) % 2**32
    position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride)
  weighted = jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)
  mixed = jnp.sum(_mix(bits ^ _mix(position + 1)), dtype=jnp.uint32)
  return jnp.stack([weighted, mixed])


@partial(jax.jit, static_argnums=1)
def _fingerprints(leaves: Sequence[Array], replicated: jax.sharding.NamedSharding | None) -> Array:
  """uint32 [leaves, 2], on every device, so that every process of several can read it."""
  words = jnp.stack([_fingerprint(leaf) for leaf in leaves])
  return words if replicated is None else jax.lax.with_sharding_constraint(words, replicated)


def fingerprints(state: PyTree) -> list[list[int]]:
  """Two words a leaf of `state`, in the order of `jax.tree.leaves`; waits for the state to be computed."""
  leaves = jax.tree.leaves(state)
  sharding = getattr(leaves[0], 'sharding', None)
  mesh = sharding.mesh if isinstance(sharding, jax.sharding.NamedSharding) else None
  replicated = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return np.asarray(_fingerprints(leaves, replicated)).tolist()


def _named_leaves(tree: PyTree) -> dict[str, Any]:
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _describe(state: PyTree, metrics: Mapping[str, float]) -> dict[str, Any]:
  """The JSON item of a checkpoint; its own digest tells damage to it from a config of another shape."""
  leaves = zip(_named_leaves(state).items(), fingerprints(state), strict=True)
  body = {
    'leaves': {name: [list(leaf.shape), str(leaf.dtype), words] for (name, leaf), words in leaves},
    'metrics': {name: str(float(value)) for name, value in metrics.items()},  # as text: JSON has no NaN
  }
  return {**body, 'digest': sha256(dumps(body))}


class _Literal(PosixGPath):
  """A folder that Orbax takes as it is written: `[1]`, `*` and `?` in it are no pattern, `/gs/x` is no bucket.

  Orbax finds the parts of a checkpoint by `glob`, and joins none of them where the folder's own name is read as a
  pattern: what was saved could then never be restored. All paths that it derives from this one are of this class.
  """

  _uri_scheme = None

  def glob(self, pattern: str) -> Iterator['_Literal']:
    """What `pattern` matches in this folder."""
    for found in glob.glob(pattern, root_dir=self):  # noqa: PTH207 (that of Path would call this one)
      yield self / found


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
  """Keeps the last `keep` checkpoints and the best one; all of them where `keep` is None."""

  def __init__(self, owner: 'Checkpoints', keep: int | None):
    self._owner, self._keep = owner, keep

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    """One answer a checkpoint (Orbax's protocol)."""
    steps = sorted(info.step for info in checkpoints)
    kept = {*(steps if self._keep is None else steps[-self._keep :]), self._owner.best_step()}
    return [info.step in kept for info in checkpoints]


class Checkpoints:
  """The checkpoints of one run. Every process of several makes the same calls.

  Args:
    path: their directory; made where missing.
    keep: how many of the latest are kept; None: all, as of snapshots of averages (`AVERAGES`).
    best: ('metric', 'min' | 'max'): the best by this metric is kept as well. Ties go to the earliest; NaN, infinities
      and checkpoints without the metric do not count.
    read_only: for readers of a run that may be training: nothing is written, cleaned up or moved.
  """

  def __init__(self, path: Path, keep: int | None = 3, best: tuple[str, str] | None = None, read_only: bool = False):
    if (keep is not None and keep < 1) or (best is not None and best[1] not in ('min', 'max')):
      raise ValueError(f"keep={keep} must be at least 1, best={best} ('metric', 'min' | 'max')")
    self.path = Path(path).absolute()
    self._best, self._read_only = best, read_only
    self._metrics: dict[int, dict[str, float]] = {}
    if read_only and not self.path.is_dir():
      raise UserError(f'there is no checkpoint directory {self.path}')
    real = self.path.resolve()  # Orbax takes `link/..` for nothing, whatever the link leads to
    check_path(real)
    self._manager = ocp.CheckpointManager(
      _Literal(real),
      options=ocp.CheckpointManagerOptions(  # its own `read_only` warns at every start
        create=not read_only,
        cleanup_tmp_directories=not read_only,  # what a killed process left half-written
        lightweight_initialize=True,  # damaged metadata of one checkpoint must not keep us from the others
        preservation_policy=_Keep(self, keep),
      ),
    )
    for step in self.steps():
      try:
        self._read_description(step)
      except _Damaged as damage:
        logging.vlog(1, 'checkpoint %d of %s: %s', step, self.path, damage)  # named when it is to be restored

  def steps(self) -> list[int]:
    """Steps with a complete checkpoint, in order."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """The step of the best checkpoint by the metric of `best`; None without one."""
    if self._best is None:
      return None
    name, mode = self._best
    sign = 1.0 if mode == 'min' else -1.0
    values = ((sign * metrics.get(name, math.nan), step) for step, metrics in self._metrics.items())
    return min((pair for pair in values if math.isfinite(pair[0])), default=(0.0, None))[1]

  def save(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None) -> bool:
    """Starts to save `state`; its buffers may be donated as soon as this returns.

    Args:
      step: completed updates.
      state: a pytree of arrays.
      metrics: figures of this step that may rank it.

    Returns:
      False when this step has a checkpoint already: nothing is written.

    Raises:
      UserError: the disk is full, now or in the save before this one.
    """
    if self._read_only:
      raise RuntimeError(f'{self.path} was opened read-only')
    if step in self.steps():
      return False
    try:
      description = _describe(state, metrics or {})
      self._metrics[step] = {name: float(value) for name, value in (metrics or {}).items()}
      items = ocp.args.Composite(state=ocp.args.StandardSave(state), leaves=ocp.args.JsonSave(description))
      self._manager.save(step, args=items, force=True)
    except Exception as error:
      self._raise_if_full(error, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
      raise
    return True

  def discard_after(self, step: int) -> None:
    """Deletes the checkpoints newer than `step`: the run goes back to it, and its record with it."""
    for newer in [found for found in self.steps() if found > step]:
      self._manager.delete(newer)
      self._metrics.pop(newer, None)

  def wait(self) -> None:
    """Waits until the last save is complete. Raises UserError when the disk is full."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._raise_if_full(error)
      raise

  def close(self) -> None:
    """Waits for the last save, then frees everything. Raises as `wait` does."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def restore(self, abstract_state: PyTree, step: int | None = None) -> tuple[int, PyTree]:
    """The newest checkpoint that is whole, or the one of `step`.

    A damaged checkpoint is named in a warning and the one before it is used; it is then renamed to `damaged-<step>`, so
    that training can save that step again.

    Args:
      abstract_state: `jax.ShapeDtypeStruct`s of the state, with the shardings it shall have (any number of devices,
        whatever it was saved from); leaves without one go to the first local device.
      step: which checkpoint; the newest by default.

    Returns:
      (step, state).

    Raises:
      UserError: no checkpoint, none that is whole, or one of another structure, shape or dtype (names the first
        leaf that differs).
    """
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      which = 'no checkpoint' if step is None else f'no checkpoint of step {step}'
      raise UserError(f'{self.path} has {which}; it has {steps or "none"}')
    damaged: dict[int, str] = {}
    for candidate in [step] if step is not None else reversed(steps):
      try:
        state = self._restore_verified(candidate, abstract_state)
      except _Damaged as damage:
        damaged[candidate] = str(damage)
        logging.warning('checkpoint %s is damaged and not used: %s', self.path / str(candidate), damage)
        continue
      self._set_aside(damaged)
      return candidate, state
    causes = '; '.join(f'step {number}: {cause}' for number, cause in damaged.items())
    raise UserError(f'every checkpoint asked of {self.path} is damaged ({causes}): put a copy back, or start a new run')

  def _read_description(self, step: int) -> dict[str, Any]:
    """The verified JSON item of a checkpoint; remembers its metrics. Raises _Damaged."""
    try:
      read = self._manager.restore(step, args=ocp.args.Composite(leaves=ocp.args.JsonRestore()))['leaves']
      body = {'leaves': read['leaves'], 'metrics': read['metrics']}
      whole = read['digest'] == sha256(dumps(body))
    except PermissionError as error:
      raise UserError(f'no permission to read checkpoint {self.path / str(step)}: {error}') from error
    except Exception as error:  # what a damaged file makes Orbax raise is not documented
      raise _Damaged(f'its list of leaves cannot be read ({_first_line(error)})') from error
    if not whole:
      raise _Damaged('its list of leaves was changed')
    self._metrics[step] = {name: float(value) for name, value in body['metrics'].items()}
    return body

  def _restore_verified(self, step: int, abstract_state: PyTree) -> PyTree:
    saved = self._read_description(step)['leaves']
    self._check_structure(step, saved, _named_leaves(abstract_state))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract_state
    )
    try:
      items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      state = self._manager.restore(step, args=items)['state']
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
      raise  # the machine's fault, not the checkpoint's
    except Exception as error:
      raise _Damaged(f'it cannot be read ({_first_line(error)})') from error
    for name, words in zip(_named_leaves(state), fingerprints(state), strict=True):
      if words != saved[name][2]:
        raise _Damaged(f'the values of {name} are not those that were saved')
    return state

  def _check_structure(self, step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError, naming the first leaf in which the checkpoint and the config differ."""
    for name in {**wanted, **saved}:
      in_config = f'{wanted[name].dtype} {list(wanted[name].shape)}' if name in wanted else 'no such leaf'
      in_checkpoint = f'{saved[name][1]} {saved[name][0]}' if name in saved else 'no such leaf'
      if in_config != in_checkpoint:
        raise UserError(
          f'checkpoint {self.path / str(step)} does not fit the config: {name} is {in_checkpoint} in the '
          f'checkpoint and {in_config} by the config. Go on with the config of the run and the version that recorded '
          f'it ({writer(self.path.parent)}), or start a new run'
        )

  def _set_aside(self, damaged: Mapping[int, str]) -> None:
    if self._read_only or not damaged:
      return
    for step in damaged:
      self._metrics.pop(step, None)
      if jax.process_index() == 0:
        aside = self.path / f'damaged-{step}'
        shutil.rmtree(aside, ignore_errors=True)
        (self.path / str(step)).rename(aside)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged checkpoints set aside')
    self._manager.reload()

  def _raise_if_full(self, error: BaseException, needed: int | None = None) -> None:
    """Raises UserError when a full disk is among the causes of `error`."""
    cause: BaseException | None = error
    while cause is not None:
      full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
      if full or any(words in str(cause).lower() for words in _DISK_FULL):
        intact = sorted(self._manager.all_steps(read=True))
        kept = f' Checkpoints on disk: {", ".join(map(str, intact)) or "none"}.'
        raise UserError(disk_full_message(self.path / 'new', self.path.parent, needed) + kept) from error
      cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
  text = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {text if len(text) <= 160 else text[:160] + "..."}'
