"""What a function is traced for, where it must know: a run axis, parameters that are split over a mesh."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_RUN_AXIS = ContextVar('run_axis', default=False)
_GATHER: ContextVar[Callable[[Any], Any] | None] = ContextVar('gather', default=None)


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
def under_mesh(gather: Callable[[Any], Any]) -> Iterator[None]:
  """While open, functions are traced for a mesh: `gather` gives a state as an update uses it."""
  token = _GATHER.set(gather)
  try:
    yield
  finally:
    _GATHER.reset(token)


def gather_params(state: Any) -> Any:
  """The state as an update uses it. A train_step that scans over updates calls this at the start of each.

  The trainer does so once a step. Inside a scan, the compiler may split the new parameters over fsdp again, and with
  them the activations by features; on a mesh with data, fsdp and tensor the result is wrong (jax 0.10 and 0.12).
  """
  gather = _GATHER.get()
  return gather(state) if gather else state
