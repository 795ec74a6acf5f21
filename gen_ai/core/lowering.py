"""What a function is traced for, where it must know: a platform, a run axis, parameters split over a mesh."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

_RUN_AXIS = ContextVar('run_axis', default=False)
_PLATFORM = ContextVar('platform', default='')


class MeshHooks(NamedTuple):
  """What a mesh does to arrays inside a step, each a function of a tree that gives a tree."""

  gather_params: Callable[[Any], Any]  # of a state
  gather_layer: Callable[[Any], Any]  # of the parameters of one layer of a scan, or of others with their names
  constrain_batch: Callable[[Any], Any]  # of activations [B, ...]
  constrain_features: Callable[[Any], Any]  # of activations [B, ..., D] made of parameters that are split by features
  apart: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]  # see `apart`
  together: Callable[[Any], Any]  # see `together`


_MESH: ContextVar[MeshHooks | None] = ContextVar('mesh', default=None)


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
  """While open, functions are traced as for `platform` ('gpu', 'tpu'), although another one will compile them."""
  token = _PLATFORM.set(platform)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def platform() -> str:
  """The platform for which programs are written: what is best there is chosen, and any platform can compile it."""
  return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def under_run_axis(batched: bool = True) -> Iterator[None]:
  """While open, functions are traced as lanes of a packed program, side by side if `batched`."""
  token = _RUN_AXIS.set(batched)
  try:
    yield
  finally:
    _RUN_AXIS.reset(token)


def has_run_axis() -> bool:
  """Whether lanes are being traced: products with a batch of kernels lower differently."""
  return _RUN_AXIS.get()


@contextlib.contextmanager
def under_mesh(hooks: MeshHooks) -> Iterator[None]:
  """While open, functions are traced for a mesh, with these hooks."""
  token = _MESH.set(hooks)
  try:
    yield
  finally:
    _MESH.reset(token)


def gather_params(state: Any) -> Any:
  """The state as an update uses it. A train_step that scans over updates calls this at the start of each.

  The trainer does so once a step. Inside a scan, the compiler may split the new parameters over fsdp again, and with
  them the activations by features; on a mesh with data, fsdp and tensor the result is wrong (jax 0.10 and 0.12).
  """
  hooks = _MESH.get()
  return hooks.gather_params(state) if hooks else state


def gather_layer(params: Any) -> Any:
  """Parameters whole over fsdp, whose gradients are split over it again: a tree with the names that a table knows.

  A network with a table of shardings calls this where it uses a parameter. One that scans over layers does so inside
  the scan: the parameters of one layer at a time are whole.
  """
  hooks = _MESH.get()
  return hooks.gather_layer(params) if hooks else params


def constrain_batch(x: Any) -> Any:
  """Activations [B, ...], split by examples over the mesh and by nothing else."""
  hooks = _MESH.get()
  return hooks.constrain_batch(x) if hooks else x


def constrain_features(x: Any) -> Any:
  """Activations [B, ..., D] that were looked up in a table split by features: split as it is, so that it stays so."""
  hooks = _MESH.get()
  return hooks.constrain_features(x) if hooks else x


def apart(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """`fn` of rows [B, ...], of the rows of every part of the axis data by themselves: what it gives is not reduced yet.

  `fn` must say of rows what it says of each of them, whichever others there are, as a sum or a mean does. The results
  have an axis of parts first, each of which stays on its devices, until `together` takes the mean over them.
  """
  hooks = _MESH.get()
  return hooks.apart(fn) if hooks else fn


def together(tree: Any) -> Any:
  """The mean over the parts of what `apart` gave: the one message between the devices of different parts."""
  hooks = _MESH.get()
  return hooks.together(tree) if hooks else tree
