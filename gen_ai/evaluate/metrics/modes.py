"""Mode coverage on labelled data: which classes samples fall to, by a classifier, in float64 on the host.

The count and the divergence of class histograms are the figures of VEEGAN and PacGAN (arXiv 1705.07761, 1712.04086),
here against the histogram of real images under the same classifier, so that its errors and uneven classes cancel.
"""

import math
from typing import NamedTuple

import numpy as np

from gen_ai.core.errors import UserError

COVERED_FROM = 0.1  # of the share that a class has among real images: fewer samples are as likely slips as a mode
PSEUDO_COUNT = 0.5  # of each class among real images, so that no divergence is infinite (Jeffreys' prior)


class Modes(NamedTuple):
  """Classes of samples against classes of real images.

  Attributes:
    covered: classes that have at least COVERED_FROM of their share among real images.
    classes: that real images have.
    kl_nats: KL(classes of samples || classes of real images), at least 0. Sampling noise alone makes it about
      (classes - 1) / (2 N).
    error: standard error of kl_nats over the samples.
  """

  covered: int
  classes: int
  kl_nats: float
  error: float


def modes(samples: np.ndarray, reference: np.ndarray) -> Modes:
  """Coverage of the classes of `reference` by `samples`.

  The standard error is that of the delta method to second order, as the first order vanishes where both agree; what
  sampling noise alone adds to the first order, (classes - 1) / N^2, is taken off it.

  Args:
    samples: logits float [N, K] of a classifier on the samples.
    reference: [M, K], on real images.

  Raises:
    UserError: logits that are not numbers.
  """
  for logits in (samples, reference):
    if not np.isfinite(np.max(logits, 1)).all():  # -inf alone is the log of a class that is ruled out
      raise UserError('Some logits are NaN or infinite: look at the samples and the classifier.')
  K, N = samples.shape[1], len(samples)
  drawn = np.bincount(np.argmax(samples, 1), minlength=K)
  real = np.bincount(np.argmax(reference, 1), minlength=K)
  there = real > 0
  p, q = drawn / N, (real + PSEUDO_COUNT) / (real.sum() + PSEUDO_COUNT * K)
  log_ratio = np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0))
  kl = float((p * log_ratio).sum())
  variance = max(float((p * log_ratio**2).sum()) - kl**2, 0.0)
  classes = int(there.sum())
  noise = max(classes - 1, 0) / N**2
  error = math.sqrt(max(variance / N - noise, 0.0) + noise / 2)
  covered = int((there & (p >= COVERED_FROM * real / real.sum())).sum())
  return Modes(covered, classes, max(kl, 0.0), error)
