"""A plan as a person reads it: memory, seconds, what bounds them, and the ways out where it does not fit.

As a program, `python -m gen_ai.train.plan_table`, it prints that of the config on standard input: see `plan_process`.
"""

import json
import sys
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from gen_ai.config import flatten, from_json
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED
from gen_ai.core.text import duration
from gen_ai.data import kinds
from gen_ai.parallel import roofline
from gen_ai.parallel.accelerators import Accelerator, named
from gen_ai.parallel.memory import DEVICE_SHARE
from gen_ai.train.plan import Plan, make

_PARTS = {'params': 'parameters', 'opt_state': 'optimiser', 'ema': 'averages', 'stats': 'statistics'}
_TILE = 8192  # tokens of the vocabulary whose logits are little
_REPLICATED = 1.1  # more work on a device than its even share this many times is told


def fits(plan: Plan, on: Accelerator) -> bool:
  """Whether the plan takes no more of the accelerator's memory than programs may take."""
  return plan.total <= on.memory * DEVICE_SHARE


def lines(plan: Plan, config: ConfigDict, on: Accelerator, title: str, command: str) -> list[str]:
  """The plan of the config `title` on an accelerator, and the command that trains."""
  return [
    *_head(plan, config, title),
    '',
    *_memory(plan, config, on),
    '',
    *_speed(plan, config, on),
    '',
    f'planned in {duration(plan.seconds)}; nothing was written. This trains it:',
    f'  {command}',
  ]


def _head(plan: Plan, config: ConfigDict, title: str) -> Iterator[str]:
  axes = ' x '.join(f'{axis} {size}' for axis, size in plan.mesh.items() if size > 1)
  laid = f', {axes}' if axes else ''
  yield f'plan       {title} on {plan.devices} device(s){laid}, layout {config.parallel}, {config.precision}'
  kind = kinds.of(plan.spec)
  vocabulary = f', vocabulary of {plan.spec.vocab.size:,}' if plan.spec.vocab else ''
  yield f'data       {config.data.name}: {kind.form(plan.spec)}{vocabulary}'
  if plan.data_note:
    yield f'           not opened ({plan.data_note}); batches are taken to come from the host'
  trained = f', of which {plan.trained:,} are trained' if plan.trained < plan.parameters else ''
  yield f'parameters {plan.parameters:,}{trained}'
  micro = f' in {config.optim.accumulate} micro-batches' if config.optim.accumulate > 1 else ''
  pieces = f': {plan.examples * kind.dims(plan.spec):,} {kind.piece}' if kind.piece else ''
  yield f'update     {plan.examples:,} {kind.counted(plan.spec)}{micro}{pieces}'


def _size(count: float) -> str:
  return f'{count / 1e9:,.2f} GB' if count >= 1e8 else f'{count / 1e6:,.2f} MB'


def _memory(plan: Plan, config: ConfigDict, on: Accelerator) -> Iterator[str]:
  yield 'memory a device'
  for part, name in _PARTS.items():
    if plan.state[part]:
      yield f'  {name:<12} {_size(plan.state[part]):>12}'
  if plan.data:
    yield f'  {"data":<12} {_size(plan.data):>12}'
  wide = ', bf16 widened' if config.precision == 'bf16' else ''
  yield (
    f'  {"temporaries":<12} {_size(plan.temporaries):>12}  estimate of a compilation for CPUs{wide}; at least '
    f'{_size(plan.gradients)} of gradients'
  )
  share = plan.total / on.memory
  verdict = 'fits' if fits(plan, on) else 'does not fit'
  yield f'  {"in all":<12} {_size(plan.total):>12}  {share:.0%} of {on.name}: it {verdict}'
  if not fits(plan, on):
    ways = ways_out(plan, config)
    yield f'  ways out: {", ".join(ways)}' if ways else '  ways out: more devices, or a smaller model'


def ways_out(plan: Plan, config: ConfigDict) -> list[str]:
  """Settings that take less memory and that this config has, those of what takes most of it first."""
  flat = flatten(config)
  state, step = [], []
  if plan.mesh and plan.mesh['data'] > 1:
    left = '' if config.mesh.data == -1 else ' with config.mesh.data=1'
    state.append(f'config.mesh.fsdp={plan.mesh["data"] * plan.mesh["fsdp"]}{left}')
  if flat.get('model.remat', 'full') != 'full':
    step.append('config.model.remat=full')
  if flat.get('loss.chunk', 1) == 0 and plan.spec.vocab and plan.spec.vocab.size > _TILE:
    step.append(f'config.loss.chunk={_TILE}')
  split = max(1, plan.devices // plan.mesh.get('tensor', 1))
  if config.data.batch_size % (2 * config.optim.accumulate * split) == 0:
    step.append(f'config.optim.accumulate={2 * config.optim.accumulate}')
  elif config.data.batch_size > split:
    step.append(f'a smaller config.data.batch_size than {config.data.batch_size}')
  if config.precision == 'fp32':
    step.append('config.precision=bf16')
  return [*state, *step] if plan.arguments > plan.temporaries else [*step, *state]


def _speed(plan: Plan, config: ConfigDict, on: Accelerator) -> Iterator[str]:
  own = plan.flops / plan.devices
  time = roofline.seconds(own, plan.traffic, plan.collectives, config.precision, on)
  again = f', {plan.recomputed / plan.flops:.0%} of them done again by remat' if plan.recomputed else ''
  yield f'seconds an update on {on.name}, at least'
  yield f'  compute    {time.compute:>10.3g}  {own / 1e12:,.3g} TFLOPs of products a device{again}'
  yield f'  memory     {time.memory:>10.3g}  {_size(plan.traffic)} moved: the state, and what products read and write'
  sent = sum(one.sent for one in plan.collectives)
  yield f'  network    {time.network:>10.3g}  {_size(sent)} sent by a device' + (':' if sent else '')
  for one in plan.collectives:
    where = 'over the network' if roofline.crosses(one, on.group) else 'over fast links'
    yield f'{"":23}  {_size(one.sent)} by {one.times:,.4g} {one.kind} among {one.groups.shape[1]}, {where}'
  if plan.loops:
    yield f'  {plan.loops} loop(s) turn until something holds: they count as one turn'
  if plan.compiled_flops > _REPLICATED * own:
    yield f'  a device does {plan.compiled_flops / own:.2g} times its even share: some products are not split'
  yield f'  by the {on.source}'
  kind = kinds.of(plan.spec)
  many, unit = (plan.examples * kind.dims(plan.spec), kind.piece) if kind.piece else (plan.examples, kind.unit)
  model = plan.flops - plan.recomputed
  peak = plan.devices * on.flops[config.precision]
  yield (
    f'bound by {time.bound}: at most {many / time.overlapped:,.0f} {unit}/s and {model / time.overlapped / peak:.0%} '
    f'MFU; {many / time.apart:,.0f} and {model / time.apart / peak:.0%} where messages overlap with nothing'
  )


def main(arguments: list[str], overrides: Mapping[str, str]) -> int:
  """Prints the plan that standard input asks for; returns the exit code: 0 where it fits."""
  del arguments, overrides
  asked = json.loads(sys.stdin.read())
  config, accelerator = from_json(asked['config']), named(asked['accelerator'])
  plan = make(config, accelerator.platform)
  print('\n'.join(lines(plan, config, accelerator, asked['title'], asked['command'])))
  return DONE if fits(plan, accelerator) else FAILED


if __name__ == '__main__':
  command_line.run(main)
