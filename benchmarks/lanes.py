"""RunLogger-steps a second of lanes in one program, by convolution lowering and mapping: python -m benchmarks.lanes."""

import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import machine
from benchmarks.lane_sides import LOWERINGS, MAPPINGS, NONE, Side, Variant
from gen_ai import config as config_lib
from gen_ai.core import command_line, text
from gen_ai.core.errors import UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.nets import conv

FLAGS = flags.FLAGS
flags.DEFINE_list('configs', ['gan', 'vae', 'dcgan'], 'names of files in configs/')
flags.DEFINE_list('lanes', ['1', '4', '16'], 'numbers of lanes')
flags.DEFINE_list('lowerings', list(LOWERINGS), 'of convolutions')
flags.DEFINE_list('mappings', list(MAPPINGS), 'vmap: as packed sweeps do; map: one lane after the other (lax.map)')
flags.DEFINE_integer('chunk', 4, 'updates in one dispatch', lower_bound=1)
flags.DEFINE_integer('rounds', 3, 'timed slices of each variant; the variants take turns', lower_bound=1)
flags.DEFINE_float('seconds', 2.0, 'of one timed slice, at least; it ends with a whole dispatch', lower_bound=0.0)
flags.DEFINE_bool('tiny', False, "apply each config's tiny(): only to see that the benchmark works")
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = (
  f'{"config":<14}{"lanes":>6}  {"mapping":<9}{"lowering":<10}{"lane-steps/s":>13}{"/ alone":>9}{"range":>15}'
  f'{"compile s":>11}'
)


def measure(
  config: ConfigDict, lanes: Sequence[int], lowerings: Sequence[str], mappings: Sequence[str]
) -> Iterator[dict[str, Any]]:
  """Yields the rows of the report for one config: of the run alone, then of every number of lanes in turn.

  The variants of one number of lanes take turns with one another and with the run alone; only they are in memory.
  """
  dataset, default = dataset_lib.load(config.data), conv.resolve_lowering('auto')
  base = Side(config, dataset, Variant(1, 'alone', default), FLAGS.chunk)
  if not base.convolves:
    base.variant, lowerings = base.variant._replace(lowering=NONE), [NONE]
  others = [Variant(1, 'alone', lowering) for lowering in lowerings if lowering != base.variant.lowering]
  groups = [others, *([Variant(n, *pair) for pair in itertools.product(mappings, lowerings)] for n in lanes)]
  for i, variants in enumerate(groups):
    sides = [base, *(Side(config, dataset, variant, FLAGS.chunk) for variant in variants)]
    slices = [[side.run(FLAGS.seconds) for side in sides] for _ in range(FLAGS.rounds)]
    for at, side in list(enumerate(sides))[min(i, 1) :]:  # the run alone is shown once
      yield figures(side, [part[at] for part in slices], [part[0] for part in slices])
    del sides, side


def figures(side: Side, speeds: Sequence[float], alone: Sequence[float]) -> dict[str, Any]:
  """A row of the report from the slices of one side, and those of the run alone that were timed beside them."""
  ratios = [a / b for a, b in zip(speeds, alone, strict=True)]
  return {
    **side.variant._asdict(),
    'lane_steps_per_second': statistics.median(speeds),
    'ratio': statistics.median(ratios),
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
    'compile_seconds': side.compile_seconds,
    'slices': list(speeds),
  }


def show(config: str, row: Mapping[str, Any]) -> str:
  """A row of the table."""
  span = f'{row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}'
  return (
    f'{config:<14}{row["lanes"]:>6}  {row["mapping"]:<9}{row["lowering"]:<10}'
    f'{row["lane_steps_per_second"]:>13.2f}{row["ratio"]:>9.2f}{span:>15}'
    f'{row["compile_seconds"]:>11.1f}'
  )


def check(arguments: Sequence[str], overrides: Mapping[str, str]) -> list[int]:
  """The numbers of lanes; raises UserError for a command line that makes no sense."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: it runs the configs as they are.")
  for flag, known in (('lowerings', LOWERINGS), ('mappings', MAPPINGS)):
    for name in getattr(FLAGS, flag):
      if name not in known:
        raise UserError(f"--{flag}: '{name}' is none of {', '.join(known)}.{text.did_you_mean(name, known)}")
  wrong = [text for text in FLAGS.lanes if not text.isdigit() or int(text) < 1]
  if wrong:
    raise UserError(f"--lanes: '{wrong[0]}' is no number of lanes.")
  return [int(text) for text in FLAGS.lanes]


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  lanes = check(arguments, overrides)
  references = {name: f'configs/{name}.py' for name in FLAGS.configs}
  configs = {name: config_lib.load(reference) for name, reference in references.items()}
  about = machine.facts()
  print(f'{machine.describe(about)}\ndevice: {jax.devices()[0].device_kind}')
  print(
    f'medians of {FLAGS.rounds} slices of {FLAGS.seconds:g} s in turns, {FLAGS.chunk} updates a dispatch; '
    f'/ alone: over the run alone, as it is by itself (first row)\n{HEADER}'
  )
  rows = []
  for name, config in configs.items():
    if FLAGS.tiny:
      config = config_lib.override(config, config_lib.tiny(references[name]))
    for found in measure(config, lanes, FLAGS.lowerings, FLAGS.mappings):
      rows.append({'config': name, **found})
      print(show(name, found), flush=True)
  if FLAGS.out:
    settings = {name: getattr(FLAGS, name) for name in ('chunk', 'rounds', 'seconds', 'tiny')}
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'settings': settings, 'rows': rows}, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  command_line.run(run)
