"""Do the figures put sets of known quality in order? python -m benchmarks.sanity [--data=fashion_mnist]."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import machine, real_data, sanity_sets
from benchmarks.sanity_sets import Verdict
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.evaluate import external, metrics
from gen_ai.evaluate.metrics.metric import FEATURES
from gen_ai.evaluate.protocol import Protocol, protocol, shared_stamp

FLAGS = flags.FLAGS
flags.DEFINE_string('data', 'fashion_mnist', 'labelled images: a prepared data set')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the config says')
flags.DEFINE_string(
  'extractor',
  '',
  'of features: classifier:RUN_DIR or inception:FILE; empty: configs/classifier.py '
  'is trained on the data, or found trained, under --runs_dir',
)
flags.DEFINE_string('runs_dir', 'runs', 'where the run of the classifier goes')
flags.DEFINE_integer('samples', 10_000, 'images in a set', lower_bound=100)
flags.DEFINE_integer('seed', 0, 'of the choice of images, of noise, and of random subsets', lower_bound=0)
flags.DEFINE_string('out', '', 'also write the report here, as JSON; to a name that ends in .md the table')

COLUMNS = {  # figure: (title, format)
  'fd': ('FD', '.3f'),
  'fd_infinity': ('FD-inf', '.3f'),
  'kid': ('KID', '.5f'),
  'precision': ('prec.', '.3f'),
  'recall': ('recall', '.3f'),
  'density': ('dens.', '.3f'),
  'coverage': ('cover.', '.3f'),
  'inception_score': ('IS', '.2f'),
  'ms_ssim': ('MS-SSIM', '.3f'),
  'sliced_wasserstein': ('SW', '.4f'),
  'c_t': ('C_T', '.2f'),
  'c_t_p': ('p', '.2g'),
  'duplicates_share': ('copies', '.1%'),
  'repeated_share': ('again', '.1%'),
}


def judge(data: real_data.RealData, asked: Protocol, one: sanity_sets.ImageSet) -> dict[str, Any]:
  """A row of the report: the set under the protocol of `gen_ai.evaluate --samples_file`."""
  begun = time.perf_counter()
  images = one.make()
  own = asked._replace(
    metrics=tuple(metric for metric in asked.metrics if one.audited or not metric.train), samples=len(images)
  )
  found, content = external.evaluate(images, data.config, data.dataset, own)
  return {
    'set': one.name,
    'samples': len(images),
    'samples_sha256': content,
    'seconds': time.perf_counter() - begun,
    'figures': {name: figure.record() for name, figure in found.figures.items()},
    'notes': found.notes,
  }


def cells(row: Mapping[str, Any]) -> list[str]:
  """A row of the table: what was not measured is empty."""
  values = {name: figure['value'] for name, figure in row['figures'].items()}
  shown = {name: f'{values[name]:{form}}' if name in values else '' for name, (_, form) in COLUMNS.items()}
  if values.get('c_t_p') == 0.0:
    shown['c_t_p'] = '<1e-300'  # no float is as small
  return [row['set'], f'{row["samples"]:,}', *shown.values()]


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  """All rows, the header first."""
  return [['set', 'images', *(title for title, _ in COLUMNS.values())], *map(cells, rows)]


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """A table for the terminal."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  pad = [
    [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
    for line in lines
  ]
  return '\n'.join('  '.join(line).rstrip() for line in pad)


def markdown(lines: Sequence[Sequence[str]], verdicts: Sequence[Verdict]) -> str:
  """The table and what held, for a document."""
  head, *rest = ['| ' + ' | '.join(line) + ' |' for line in lines]
  said = [f'- {line}' for line in map(verdict_line, verdicts)]
  return '\n'.join([head, '|' + '---|' * len(lines[0]), *rest, '', *said]) + '\n'


def verdict_line(verdict: Verdict) -> str:
  """PASS or FAIL with the figures."""
  return f'{"PASS" if verdict.held else "FAIL"}: {verdict.what}: {verdict.figures}'


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table; 1 where an order did not hold."""
  if arguments:
    raise UserError(f"'{arguments[0]}' is no flag: did you mean --data={arguments[0]}?")
  request = real_data.Request(*(getattr(FLAGS, name) for name in real_data.Request._fields))
  about = machine.facts()
  begun = time.perf_counter()
  data = real_data.open_data(request, overrides)
  sets, rows = sanity_sets.image_sets(data, FLAGS.samples, FLAGS.seed), []
  # Of images alone: what a task tells beside them, such as the class that was asked for, these sets do not have.
  every = [metric for metric in metrics.of_kind('image').values() if metric.of == FEATURES and not metric.outputs]
  judged_by = protocol(data.config, data.dataset, 'test', every)
  for one in sets:
    rows.append(judge(data, judged_by, one))
    print(f'  {one.name}: {rows[-1]["seconds"]:.0f} s', file=sys.stderr, flush=True)
  found = {row['set']: {name: figure['value'] for name, figure in row['figures'].items()} for row in rows}
  verdicts, lines = sanity_sets.verdicts(found), table(rows)
  stamp = shared_stamp(data.dataset, 'test')
  minutes = (time.perf_counter() - begun) / 60
  print(machine.describe(about))
  print(
    f'against the test split of {stamp["data"]}, {stamp["examples"]:,} images; features of {data.extractor}; '
    f'seed {FLAGS.seed}; {minutes:.1f} minutes\n{aligned(lines)}'
  )
  print('\n'.join(map(verdict_line, verdicts)))
  held = sum(verdict.held for verdict in verdicts)
  print(f'{held} of {len(verdicts)} hold')
  if FLAGS.out.endswith('.md'):
    Path(FLAGS.out).write_text(markdown(lines, verdicts))
  elif FLAGS.out:
    report = {
      'machine': about,
      'settings': {**request._asdict(), 'extractor': data.extractor},
      'minutes': minutes,
      'stamp': stamp,
      'rows': rows,
      'verdicts': [verdict._asdict() for verdict in verdicts],
    }
    Path(FLAGS.out).write_text(json.dumps(report, indent=2) + '\n')
  return DONE if held == len(verdicts) else FAILED


if __name__ == '__main__':
  command_line.run(run)
