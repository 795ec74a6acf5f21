"""What a compiled program does, read from XLA's text of it: collectives and matrix products, loops times their turns.

XLA's own analysis counts a loop's body once. The text says of every loop how often it turns (`known_trip_count`), which
it knows of all that come from `lax.scan`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's64': 8, 'u64': 8, 'f64': 8}
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_CALLED = re.compile(r'(condition|body|calls|to_apply|\w+_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?)\))? *\{([^}]*)\}')
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}')
# Bytes that a device sends, as a multiple of (bytes of what it has, bytes of what it gets), in a ring of n devices.
_RING = {
  'all-gather': lambda n, given, made: made * (n - 1) / n,
  'reduce-scatter': lambda n, given, made: given * (n - 1) / n,
  'all-reduce': lambda n, given, made: 2 * made * (n - 1) / n,
  'all-to-all': lambda n, given, made: made * (n - 1) / n,
  'collective-permute': lambda n, given, made: made,
}


class Collective(NamedTuple):
  """Collectives of one kind among the same groups of devices.

  Attributes:
    kind: 'all-gather', 'all-reduce', ...
    groups: int [G, n], numbers of the devices that exchange among themselves.
    times: how often, in one call of the program.
    sent: bytes that a device sends in all, by a ring.
  """

  kind: str
  groups: np.ndarray
  times: float
  sent: float


class Product(NamedTuple):
  """Matrix products of one shape.

  Attributes:
    elements: numbers in (left side, right side, result) on one device.
    flops: of one of them.
    times: how often, in one call of the program.
  """

  elements: tuple[int, int, int]
  flops: float
  times: int


class _Instruction(NamedTuple):
  name: str
  made: str  # its type
  kind: str
  rest: str  # operands and attributes


class _Computation(NamedTuple):
  name: str
  entry: bool
  instructions: list[_Instruction]


def _computations(text: str) -> Iterator[_Computation]:
  """In the order of the text, in which what is called stands before its callers."""
  current: _Computation | None = None
  for line in text.splitlines():
    if line == '}' and current:
      yield current
      current = None
    elif current is None:
      if start := _COMPUTATION.match(line):
        current = _Computation(start[2], bool(start[1]), [])
    elif found := _INSTRUCTION.match(line):
      current.instructions.append(_Instruction(*found.groups()))


def _sizes(text: str) -> list[int]:
  """Numbers in each array of a type."""
  return [math.prod(map(int, filter(None, dims.split(',')))) for _, dims in _ARRAY.findall(text)]


def _bytes(text: str) -> int:
  return sum(
    math.prod(map(int, filter(None, dims.split(',')))) * _ITEM_BYTES.get(kind, 1 if kind.startswith('f8') else 4)
    for kind, dims in _ARRAY.findall(text)
  )


def _times(computations: list[_Computation]) -> Counter[str]:
  """How often each computation runs in one call of the program; every branch of a condition counts as taken."""
  times: Counter[str] = Counter()
  for computation in reversed(computations):
    if computation.entry:
      times[computation.name] = 1
    for instruction in computation.instructions:
      trips = _TRIPS.search(instruction.rest) if instruction.kind == 'while' else None
      turns = int(trips[1]) if trips else 1
      called = [name for _, name in _CALLED.findall(instruction.rest)]
      for names in _BRANCHES.findall(instruction.rest):
        called += [name.strip().lstrip('%') for name in names.split(',')]
      for name in called:
        times[name] += times[computation.name] * turns
  return times


def unknown_loops(text: str) -> int:
  """How many loops there are of which nobody knows how often they turn; they count as one turn."""
  loops = [one for part in _computations(text) for one in part.instructions if one.kind == 'while']
  return sum(not _TRIPS.search(loop.rest) for loop in loops)


def _groups(rest: str, devices: int) -> np.ndarray:
  """int [G, n] of a collective's attributes, in any of the three ways of writing them."""
  if found := _MESH.search(rest):
    return _axes_of(found[1], found[2] or '', found[3])
  if found := _IOTA.search(rest):
    shape, dims, order = ([int(n) for n in (part or '').split(',') if n] for part in found.groups())
    return _numbered(dims, order).reshape(-1, shape[-1])
  if found := _LISTED.search(rest):
    return np.array(json.loads(f'[{found[1].replace("{", "[").replace("}", "]")}]'))
  if 'replica_groups={}' in rest or 'replica_groups' not in rest:
    return np.arange(devices)[None]
  raise ValueError(f'the groups of a collective are written in a way that is not known: {rest}')


def _numbered(dims: list[int], order: list[int]) -> np.ndarray:
  """Numbers of devices, laid out as `dims` and then transposed."""
  return np.arange(math.prod(dims)).reshape(dims).transpose(order or range(len(dims)))


def _axes_of(axes: str, numbers: str, chosen: str) -> np.ndarray:
  """int [G, n] of mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}; 'b':(2)2 is the part of an axis after 2."""
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
  parts: dict[str, list[tuple[int, int]]] = {name: [] for name in sizes}
  for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
    parts[name].append((int(before or 1), int(size or sizes[name])))
  shape, within = list[int](), list[int]()
  for name, size in sizes.items():
    done = 1
    for before, own in sorted(parts[name]):
      shape += [before // done, own]
      within.append(len(shape) - 1)
      done = before * own
    shape.append(size // done)
  dims, _, order = numbers.partition('T')
  ids = _numbered(*([int(n) for n in re.findall(r'\d+', text)] for text in (dims or f'{math.prod(shape)}', order)))
  return np.moveaxis(ids.reshape(shape), within, range(-len(within), 0)).reshape(
    -1, math.prod(shape[i] for i in within)
  )


def collectives(text: str, devices: int) -> list[Collective]:
  """The collectives of a compiled program on `devices`, those that send most first.

  An all-reduce of which every device keeps its own slice alone, as compilers for CPUs leave it, is the reduce-scatter
  that compilers for accelerators make of it.
  """
  parts = list(_computations(text))
  runs, found = _times(parts), dict[tuple[str, bytes], Collective]()
  for part in parts:
    types = {one.name: one.made for one in part.instructions}
    for one in part.instructions:
      kind = one.kind.removesuffix('-start')
      if kind not in _RING or not runs[part.name]:
        continue
      groups = _groups(one.rest, devices)
      n = groups.shape[1]
      if n == 1:
        continue
      operands = one.rest.partition(')')[0]
      given = sum(_bytes(types.get(name, '')) for name in re.findall(r'%?([\w.\-]+)', operands))
      made = _bytes(one.made)
      if kind == 'all-reduce' and _only_sliced(one.name, part, n, made):
        kind = 'reduce-scatter'
      before = found.get((kind, groups.tobytes()), Collective(kind, groups, 0, 0.0))
      sent = runs[part.name] * _RING[kind](n, given, made)
      found[kind, groups.tobytes()] = Collective(kind, groups, before.times + runs[part.name], before.sent + sent)
  return sorted(found.values(), key=lambda one: -one.sent)


def _only_sliced(name: str, part: _Computation, devices: int, made: int) -> bool:
  """Whether all that is read of an instruction is one part in `devices`."""
  mention = re.compile(rf'%?{re.escape(name)}(?![\w.\-])')
  users = [one for one in part.instructions if mention.search(one.rest.partition(')')[0])]
  slices = [one for one in users if one.kind in ('dynamic-slice', 'fusion') and _bytes(one.made) * devices == made]
  return bool(users) and len(slices) == len(users)


def products(text: str) -> list[Product]:
  """The matrix products of a compiled program, on one device."""
  parts = list(_computations(text))
  runs, found = _times(parts), Counter[tuple[tuple[int, int, int], float]]()
  for part in parts:
    types = {one.name: one.made for one in part.instructions}
    for one in part.instructions:
      if one.kind not in ('dot', 'convolution') or not runs[part.name]:
        continue
      left, right = re.findall(r'%?([\w.\-]+)(?:, |\))', one.rest)[:2]
      sides = [math.prod(_sizes(types[side])[:1]) for side in (left, right)]
      made = _sizes(one.made)[0]
      found[(sides[0], sides[1], made), _work(one, types[left], types[right], made)] += runs[part.name]
  return [Product(elements, flops, times) for (elements, flops), times in found.items()]


def _dims(text: str) -> list[int]:
  return [int(n) for n in _ARRAY.findall(text)[0][1].split(',') if n]


def _work(one: _Instruction, left: str, right: str, made: int) -> float:
  """FLOPs of a product or a convolution."""
  if one.kind == 'dot':
    contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', one.rest)
    return 2.0 * made * math.prod(_dims(left)[int(d)] for d in (contracted[1] if contracted else '').split(',') if d)
  labels = re.search(r'dim_labels=\w+_(\w+)->', one.rest)
  kernel = _dims(right)
  features = kernel[labels[1].index('o')] if labels else 1
  return 2.0 * made * math.prod(kernel) / features
