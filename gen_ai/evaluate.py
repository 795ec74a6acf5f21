"""Metrics of a trained run on a whole split: python -m gen_ai.evaluate RUN_DIR [--split=test] [--out=report.json]."""

from pathlib import Path

from absl import flags

from gen_ai import command, record, restored
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.errors import UserError
from gen_ai.evaluation import Evaluator

FLAGS = flags.FLAGS
flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'which split')
flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
flags.DEFINE_string('out', '', 'also write the report, with its protocol, to this JSON file')


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Evaluates and prints."""
  run_dir = restored.one_argument(arguments, 'gen_ai.evaluate')
  config = restored.open_config(run_dir, overrides, ('eval',))
  dataset = dataset_lib.load(config.data)
  identity.check(dataset, record.read_run(run_dir)['data']['fingerprint'], run_dir)
  program, state, step = restored.restore(run_dir, config, dataset.spec, FLAGS.step)
  source = dataset.splits[FLAGS.split]
  metrics = Evaluator(program, config, source)(state)
  report = {
    'run': str(run_dir), 'step': step, 'split': FLAGS.split, 'examples': len(source), 'data': dataset.name,
    'fingerprint': dataset.fingerprint, 'ema': config.optim.ema_decay > 0, 'seed': config.eval.seed, 'metrics': metrics,
  }  # fmt: skip
  if FLAGS.out:
    try:
      Path(FLAGS.out).write_text(record.dumps(report, indent=2) + '\n')
    except OSError as error:
      raise UserError(f'--out={FLAGS.out} cannot be written: {error.strerror}.') from error
  unit = 'images' if dataset.spec.kind == 'image' else f'blocks of {dataset.spec.shape[0]} tokens'
  print(f'{run_dir}, step {step}, {FLAGS.split} split of {dataset.name}: {len(source):,} {unit}')
  for name, value in metrics.items():
    print(f'  {name:24} {value:.6g}')
  return 0


if __name__ == '__main__':
  command.run(main)
