"""Bits a byte of a trained language model beside general compressors: python -m benchmarks.compression RUN_DIR."""

import importlib.util
import json
import sys
from pathlib import Path

from absl import flags

from benchmarks import compressors, machine
from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.evaluate import restored
from gen_ai.run import data_identity, info

FLAGS = flags.FLAGS
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the run says')
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = f'{"":<34}{"alone":>9}{"after the training text":>26}'


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table."""
  run_dir = Path(restored.one_argument(arguments, 'benchmarks.compression'))
  if overrides:
    raise UserError(f'--config.{next(iter(overrides))} is not for this command: it reads a run as it was trained.')
  if importlib.util.find_spec('zstandard') is None:
    raise UserError('zstd needs the package zstandard: pip install -r requirements.txt -r requirements/dev.txt')
  place = {'data.data_dir': FLAGS.data_dir} if FLAGS.data_dir else {}
  config = restored.open_config(str(run_dir), place, tuple(place))
  bits, step = compressors.of_model(run_dir)
  data_identity.check(dataset_lib.load(config.data), info.trained_on(run_dir).fingerprint, run_dir)
  train, validation = compressors.parts(config)
  print(machine.describe(machine.facts(), timed=False))
  print(
    f'bits a byte of the validation text of {config.data.name}: {len(validation):,} bytes; '
    f'the training text has {len(train):,}\n{HEADER}'
  )
  rows: dict[str, tuple[float, float]] = {}
  for name, size in compressors.COMPRESSORS.items():
    print(f'{name} ...', file=sys.stderr, flush=True)
    rows[name] = compressors.bits_per_byte(size, train, validation)
    print(f'{name:<34}{rows[name][0]:>9.3f}{rows[name][1]:>26.3f}')
  print(f'{f"the model after {step:,} updates":<34}{"":>9}{bits:>26.3f}   {run_dir}')
  if FLAGS.out:
    told = {name: {'alone': alone, 'after': after} for name, (alone, after) in rows.items()}
    sizes = {'train_bytes': len(train), 'validation_bytes': len(validation)}
    report = {'run': str(run_dir), 'step': step, 'model': bits, **sizes, 'compressors': told}
    Path(FLAGS.out).write_text(json.dumps(report, indent=1) + '\n')
  return 0


if __name__ == '__main__':
  command_line.run(run)
