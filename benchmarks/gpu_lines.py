"""What the parts of benchmarks.gpu found, as lines for the terminal, and whether that meets the targets."""

from collections.abc import Mapping
from typing import Any

from gen_ai.core import text

Found = Mapping[str, Any]
Told = tuple[list[str], bool | None]  # lines; whether the targets are met, None: there are none
TARGET_NATS = 1.4697  # nanoGPT's README, its GPU setting on Tiny Shakespeare
TARGET_RATIO = 1.1  # to compiled PyTorch
TARGET_SHARE = 0.55  # of the measured rate of matrix products
LARGEST_ERROR = 0.05  # of bf16 attention, as a share of the largest number


def matmul(found: Found) -> Told:
  """The card and its rate."""
  sizes = ', '.join(f'{n} {rate / 1e12:.1f}' for n, rate in found['by_size'].items())
  best = found['flops_per_second'] / 1e12
  return [f'{found["device"]}: bf16 matrix products {best:.1f} TFLOP/s (by size: {sizes})'], None


def attention(found: Found) -> Told:
  """A line a case. The cases that our rule gives to cuDNN must be finite and right."""
  lines, verdicts = [], []
  for name, case in found['cases'].items():
    if 'refused' in case:
      told, good = f'not computed by cuDNN: {case["refused"]}', False
    elif case['not_finite']:
      told, good = f'NaN or infinite in {", ".join(case["not_finite"])}', False
    else:
      told, good = f'finite, largest error {case["error"]:.1e}', case['error'] <= LARGEST_ERROR
    lines.append(f'{name:<36} our rule: {case["rule"]:<6} cuDNN: {told}')
    if case['rule'] == 'cudnn' and 'mask' not in name:  # rows under a mask are always computed by XLA
      verdicts.append(good)
  if 'ran' in found:
    names = ', '.join(found['ran']) or 'XLA alone'
    lines.append(f'attention of the training below runs {names}')
    verdicts.append(not any('Bias' in name for name in found['ran']))
  return lines, all(verdicts) if verdicts and found['platform'] == 'gpu' else None


def training(found: Found) -> Told:
  """Tokens a second of both sides."""

  def side(name: str) -> str:
    figures = found[name]
    share = figures['share_of_matmul']
    told = 'not known' if share is None else f'{share:.1%}'
    return f'{figures["tokens_per_second"]:,.0f} tokens/s, {told} of the rate of matrix products'

  flops = found['flops_per_token'] / 1e6
  lines = [
    f'{found["parameters"]:,} parameters, {found["batch_size"]} blocks of {found["block_size"]:,} tokens, '
    f'{flops:,.0f} MFLOP a token: 6 N + 12 L H Q T',
    f'ours:    {side("ours")}',
  ]
  if 'theirs' not in found:
    return [*lines, found['theirs_error']], None
  low, high = found['ratio_range']
  lines += [
    f'PyTorch: {side("theirs")} ({", ".join(" ".join(pair) for pair in found["versions"].items())}, compiled)',
    f'ours / PyTorch: {found["ratio"]:.2f} ({low:.2f} to {high:.2f}), aim {TARGET_RATIO}; share aim {TARGET_SHARE:.0%}',
  ]
  share = found['ours']['share_of_matmul']
  return lines, found['ratio'] >= TARGET_RATIO and (share is None or share >= TARGET_SHARE)


def decode(found: Found) -> Told:
  """Tokens a second by number of rows."""
  rows = found['tokens_per_second'].items()
  return [
    f'{count} text{"s" if int(count) > 1 else ""} of {found["length"]:,} tokens: {rate:,.0f} tokens/s'
    for count, rate in rows
  ], None


def quality(found: Found) -> Told:
  """The lowest validation loss and when it was reached."""
  lines = [line for line in (found['note'], found['ended']) if line]
  if 'loss_nats' not in found:
    return [*lines, 'no evaluation was reached'], False
  wall, trained = text.duration(found['wall_seconds']), text.duration(found['train_seconds'])
  lines.append(
    f'lowest validation loss {found["loss_nats"]:.4f} nats a character at update {found["step"]:,}, after {trained} of '
    f'training; the command took {wall}'
  )
  if not found['comparable']:
    return lines, None
  passed = found['loss_nats'] <= TARGET_NATS
  return [*lines, f'{"PASS" if passed else "FAIL"}: target {TARGET_NATS} or lower (nanoGPT)'], passed
