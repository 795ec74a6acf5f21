"""Early stopping as the training loop asks for it: the rule of a sweep, applied to its runs while they train."""

import json
from collections.abc import Sequence

from gen_ai.parallel import processes
from gen_ai.sweep import halving
from gen_ai.sweep.directory import Sweep
from gen_ai.train import trainer
from gen_ai.train.run_logger import RunLogger


def pruner(sweep: Sweep) -> trainer.Prune | None:
  """Early stopping by the sweep's rule; None without one."""
  if not sweep.about['halving']:
    return None
  rule = halving.parse(sweep.about['halving'])

  def prune(lanes: Sequence[RunLogger], step: int) -> dict[int, str]:
    if step not in halving.rungs(rule, lanes[0].config.run.steps, lanes[0].config.run.eval_every):
      return {}
    numbers = [lane.number for lane in lanes]  # one process decides, for all of a run

    def decide() -> str:
      return json.dumps(sorted(set(numbers) - halving.decide(sweep, rule, step, numbers)))

    stopped = json.loads(processes.from_main(decide))
    why = f'by {rule} at step {step}: see {sweep.path / halving.FILE}'
    return dict.fromkeys(stopped, why)

  return prune
