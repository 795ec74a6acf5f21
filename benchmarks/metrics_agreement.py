"""Whether two sides of the benchmark of metrics found the same figures."""

from collections.abc import Mapping

FD_RELATIVE = 1e-3  # features differ in their last digits, and torchmetrics returns FD as float32
SHARES = 2e-3  # precision to coverage: pairs at the rim of a ball; ours counts the rim as inside
KID_ERRORS = 5.0  # each side draws its own subsets


def disagreements(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
  """A line for each figure that differs by more than rounding, or for KID by more than its subsets explain.

  Args:
    ours, theirs: figures by name. kid_error is ours of KID over new samples; theirs over new subsets of the same
      samples, which is what the two differ by.
  """
  bounds = {
    'fd': FD_RELATIVE * abs(ours['fd']) + 1e-6,
    'precision': SHARES,
    'recall': SHARES,
    'density': SHARES,
    'coverage': SHARES,
    'kid': KID_ERRORS * 2**0.5 * theirs['kid_error'],
  }
  return [
    f'NOT the same {name}: {ours[name]:.6g} and {theirs[name]:.6g}, more than {bound:.2g} apart'
    for name, bound in bounds.items()
    if not abs(ours[name] - theirs[name]) <= bound
  ]
