"""The dial of a language model: one number sets its sizes, its learning rate and its length of training."""

import re
from typing import Any

from gen_ai.core.errors import UserError

BASE_WIDTH = 256  # that of depth 4, which trains within minutes on a CPU: where learning rates are searched
STEPS = 500  # updates a layer


def by_depth(text: str, reference: str) -> dict[str, Any]:
  """What 'd6' stands for as the argument of a config file, for `override`.

  - model.depth = 6: 6 layers, 6 heads of 64 numbers, width 384, as nanochat's dial has them.
  - model.base_width = 256: optim.lr is the rate of depth 4 and holds at all depths, see `gen_ai.nets.scaling`.
  - run.steps = 3,000: in proportion to the depth. Parameters grow by its cube; this is what a CPU can do.

  Args:
    text: 'd' and the depth.
    reference: of the config, for the message.

  Raises:
    UserError: it is not such a text.
  """
  if not re.fullmatch('d[1-9][0-9]*', text):
    raise UserError(f"{reference}:{text} is no depth: 'd' and the number of layers, as in {reference}:d6.")
  depth = int(text[1:])
  return {'model.depth': depth, 'model.base_width': BASE_WIDTH, 'run.steps': STEPS * depth}
