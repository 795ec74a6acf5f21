"""Precision and recall (arXiv 1904.06991, eq. 1 and 2), density and coverage (arXiv 2002.09797, eq. 3 and 4).

The manifold of a set is the union of balls around its members, each of which reaches to the k-th nearest other member.
Balls are closed, as in the first paper; the second's code leaves the rim out, which matters only where distances tie.
"""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics import neighbours


def prdc(samples: Any, reference: Any, k: int = 5, mesh: Mesh | None = None) -> dict[str, tuple[float, float]]:
  """Precision, recall, density and coverage of N samples against M real examples.

  precision: share of samples within a ball of the real examples; density: how many such balls hold a sample, over k
  (1 on average for perfect samples, more where samples crowd); recall: share of real examples within a ball of the
  samples; coverage: share of real examples whose ball holds a sample.

  Standard errors take each of the N samples (precision, density) or M real examples (recall, coverage) as an
  independent draw with the balls given. They do not cover a new draw of the set that the balls come from.

  Args:
    samples: float [N, D], features.
    reference: float [M, D], features.
    k: the neighbour that a ball reaches to.
    mesh: devices of this process to split the work over; one device by default.

  Returns:
    {name: (value, standard error)}.

  Raises:
    UserError: N or M is not above k; arrays of unlike width or not finite.
  """
  samples = neighbours.checked(samples, 'features of the samples')
  reference = neighbours.checked(reference, 'features of the reference')
  for name, rows in (('samples', samples), ('reference examples', reference)):
    if k < 1 or len(rows) <= k:
      raise UserError(
        f'precision, recall, density and coverage with k = {k} need k of 1 or more and over {k} {name}; '
        f'there are {len(rows)}: give more or take a smaller k.'
      )
  real_radii = neighbours.nearest(reference, reference, k, exclude_self=True, mesh=mesh)[0][:, -1]
  sample_radii = neighbours.nearest(samples, samples, k, exclude_self=True, mesh=mesh)[0][:, -1]
  real_balls = neighbours.count_balls(samples, reference, real_radii, mesh)
  sample_balls = neighbours.count_balls(reference, samples, sample_radii, mesh)
  closest = neighbours.nearest(reference, samples, 1, mesh=mesh)[0][:, 0]
  return {
    'precision': _mean(real_balls > 0),
    'recall': _mean(sample_balls > 0),
    'density': _mean(real_balls / k),
    'coverage': _mean(closest <= real_radii),
  }


def _mean(values: np.ndarray) -> tuple[float, float]:
  """(mean, its standard error); of indicators, the binomial one."""
  values = values.astype(np.float64)
  return float(values.mean()), float(values.std() / np.sqrt(len(values)))
