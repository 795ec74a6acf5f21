"""Floating-point operations of a traced function: matrix products and convolutions, times the length of every scan.

XLA's own cost analysis counts the body of a loop once, whatever its length, and differs between platforms; this count
depends on the mathematics alone, which is what a comparison of methods needs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

_AGAIN = 'rematted_computation'  # how JAX calls what a checkpointed function computes again for its gradient


def _inner(value: Any) -> Iterator[Any]:
  """The jaxprs inside one parameter of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for item in value:
      yield from _inner(item)


def _equation(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contract, _), _ = params['dimension_numbers']
    lhs = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[d] for d in contract)
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    out_features = kernel[params['dimension_numbers'].rhs_spec[0]]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_features
  inner = [_jaxpr(jaxpr) for value in params.values() for jaxpr in _inner(value)]
  if name == 'cond':  # one branch runs: count the dearest
    return max(inner)
  if name == 'scan':
    return sum(inner) * params['length']
  if name == 'shard_map':  # shapes inside are those of one shard
    return sum(inner) * params['mesh'].size
  return sum(inner)


def _jaxpr(jaxpr: Any) -> float:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _again(equation: Any) -> float:
  """FLOPs of what an equation does a second time."""
  if _AGAIN in str(equation.source_info.name_stack):
    return _equation(equation)
  params = equation.params
  again = sum(_again(inner) for value in params.values() for jaxpr in _inner(value) for inner in jaxpr.eqns)
  if equation.primitive.name == 'scan':
    return again * params['length']
  return again * (params['mesh'].size if equation.primitive.name == 'shard_map' else 1)


def in_jaxpr(closed: Any) -> float:
  """FLOPs over all devices of a ClosedJaxpr. While loops count one round."""
  return _jaxpr(closed.jaxpr)


def recomputed(closed: Any) -> float:
  """Those of them that `jax.checkpoint` does a second time, to save memory: model FLOPs are the rest."""
  return sum(map(_again, closed.jaxpr.eqns))


def of(traced: Any) -> float:
  """FLOPs over all devices of what `jax.jit(function).trace(...)` returned. While loops count one round."""
  return in_jaxpr(traced.jaxpr)


def count(function: Callable[..., Any], *args: Any) -> float:
  """FLOPs of `function(*args)`; arguments may be jax.ShapeDtypeStruct. While loops count one round."""
  return in_jaxpr(jax.make_jaxpr(function)(*args))
