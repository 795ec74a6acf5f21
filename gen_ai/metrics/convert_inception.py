"""Converts FID's weights: python -m gen_ai.metrics.convert_inception pt_inception-2015-12-05-6726825d.pth OUT.npz.

The file is published with the package pytorch-fid, at
https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
PyTorch is needed here and nowhere else.
"""

from pathlib import Path

from absl import flags

from gen_ai import command
from gen_ai.errors import UserError
from gen_ai.metrics import inception_weights

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags: where this is the command, not where the metrics of this package are looked up."""
  flags.DEFINE_boolean('any_weights', False, 'convert other weights of this network, too; they stamp their figures')


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Converts and says what it found."""
  if len(arguments) != 2 or overrides:
    raise UserError('gen_ai.metrics.convert_inception takes two files: python -m gen_ai.metrics.convert_inception '
                    f'PUBLISHED.pth OUT.npz (got {[*arguments, *overrides] or "none"}).')  # fmt: skip
  published, out = map(Path, arguments)
  digest = inception_weights.convert(published, out, FLAGS.any_weights)
  known = digest == inception_weights.PUBLISHED
  print(f'{out}: {"the published weights" if known else f"other weights, sha256 {digest[:12]}"}')
  print(f'use them with --extractor=inception:{out}')
  return 0


if __name__ == '__main__':
  define_flags()
  command.run(main)
