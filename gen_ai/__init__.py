"""gen_ai trains, samples, evaluates and compares generative models with one JAX engine."""

from pathlib import Path
from typing import Any

__version__ = '0.1.0'

# Commands lie in a folder of their own and are typed without it: `python -m gen_ai.sample`.
__path__.append(str(Path(__file__).parent / 'commands'))


def load(run_dir: Any, step: Any = 'latest', ema: float | None = None, **settings: Any) -> Any:
  """A trained run, to be used in Python: see `gen_ai.evaluate.trained.Trained`.

  Args:
    run_dir: its directory.
    step: checkpoint: 'latest', 'best' or a number of updates.
    ema: length of the average of its parameters, of a run that tracked some by their lengths; None: the first of them.
    settings: of its tasks, with __ for the dot: sample__temperature=0.7.

  Raises:
    UserError: no run, no such checkpoint, a setting that none of its tasks has, or an average that cannot be had.
  """
  from gen_ai.evaluate.trained import Trained  # brings JAX, which `import gen_ai` does without

  return Trained(run_dir, step, {name.replace('__', '.'): value for name, value in settings.items()}, ema)
