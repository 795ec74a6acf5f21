"""Converts FID's weights: python -m gen_ai.convert_inception pt_inception-2015-12-05-6726825d.pth OUT.npz.

The file is published with the package pytorch-fid, at
https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
PyTorch is needed here and nowhere else.
"""

from pathlib import Path

from absl import flags

from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import inception_weights

_ANY_WEIGHTS = flags.DEFINE_boolean(
  'any_weights', False, 'convert other weights of this network, too; they stamp their figures'
)


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Converts and says what it found."""
  if len(arguments) != 2 or overrides:
    got = [*arguments, *overrides] or 'none'
    raise UserError(f'it takes two files: python -m gen_ai.convert_inception PUBLISHED.pth OUT.npz (got {got}).')
  published, out = map(Path, arguments)
  digest = inception_weights.convert(published, out, _ANY_WEIGHTS.value)
  known = digest == inception_weights.PUBLISHED
  print(f'{out}: {"the published weights" if known else f"other weights, sha256 {digest[:12]}"}')
  print(f'use them with --extractor=inception:{out}')
  return 0


if __name__ == '__main__':
  command_line.run(main)
