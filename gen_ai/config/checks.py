"""What no run could mean: values outside their declaration, and fields that do not fit each other."""

import re

from ml_collections import ConfigDict

from gen_ai.config.defaults import declared
from gen_ai.config.field import Field
from gen_ai.config.tree import flatten
from gen_ai.core.errors import UserError


def _check(ok: bool, message: str) -> None:
  if not ok:
    raise UserError(message)


def validate(config: ConfigDict) -> None:
  """Refuses what no run could mean. Raises UserError naming the field, its value and what is allowed."""
  flat, fields = flatten(config), declared(config.experiment)
  for path, value in flat.items():
    refusal = fields.get(path, Field(value)).refusal(value)
    shown = repr(value) if isinstance(value, str) else value
    _check(not refusal, f'config.{path}={shown} {refusal}.')
  ground = flat['data.background']
  _check(
    ground in ('white', 'black', 'none') or bool(re.fullmatch('#[0-9a-fA-F]{6}', ground)),
    f"config.data.background='{ground}' is none of white, black, none and #RRGGBB.",
  )
  run = config.run
  for name in ('steps', 'eval_every', 'sample_every', 'save_every'):
    value = run[name]
    _check(
      value % run.log_every == 0,
      f'config.run.{name}={value} is not a multiple of config.run.log_every={run.log_every}: the trainer logs, '
      f'evaluates, samples and saves between compiled chunks of log_every updates. '
      f'Try {name}={max(1, round(value / run.log_every)) * run.log_every}.',
    )
  every, evaluated = config.eval.metrics_every, run.eval_every
  _check(
    not every or (evaluated > 0 and every % evaluated == 0),
    f'config.eval.metrics_every={every} is not a multiple of config.run.eval_every={evaluated}: figures of '
    'samples are measured where the run is evaluated.',
  )
  _check(
    config.data.batch_size % config.optim.accumulate == 0,
    f'config.data.batch_size={config.data.batch_size} does not divide into '
    f'config.optim.accumulate={config.optim.accumulate} micro-batches.',
  )
  _check(bool(run.name) and '/' not in run.name, f"config.run.name='{run.name}' must be a plain folder name.")
  _check_averages(config.optim)
  best = config.eval.best
  metric, _, mode = best.rpartition(':')
  _check(
    not best or (bool(metric) and mode in ('min', 'max')),
    f"config.eval.best='{best}' must read 'metric:min' or 'metric:max'.",
  )


def _check_averages(optim: ConfigDict) -> None:
  """One kind of average at most, and lengths that are numbers, each once."""
  asked = [name for name in ('ema_decay', 'ema_halflife', 'ema_lengths') if optim[name]]
  _check(
    len(asked) < 2,
    f'{" and ".join(f"config.optim.{name}={optim[name]}" for name in asked)} each ask for an average of the '
    'parameters: leave one of them on, and set the other to 0.0 (ema_lengths to ()).',
  )
  lengths = optim.ema_lengths
  _check(
    all(isinstance(length, float) for length in lengths) and len(set(lengths)) == len(lengths),
    f'config.optim.ema_lengths={lengths} must be different numbers, as in (0.05,0.1).',
  )
