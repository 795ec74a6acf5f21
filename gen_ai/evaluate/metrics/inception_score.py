"""Inception score of class probabilities (arXiv 1606.03498, sec. 4), in float64 on the host."""

import numpy as np

from gen_ai.core.errors import UserError


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
  """exp of the mean of KL(p(class | image) || p(class)), p(class) the average over the images: 1 (worst) to K (best).

  As usual the set is cut into `splits` consecutive parts, each with an average of its own, so the order counts where
  samples are sorted (by class, for instance): shuffle such samples first.

  Args:
    logits: float [N, K]; log-probabilities do as well.
    splits: number of parts.

  Returns:
    (mean over the parts, standard deviation over them: not a standard error).

  Raises:
    UserError: fewer samples than parts, or logits that are not numbers.
  """
  N = len(logits)
  if splits < 1 or splits > N:
    raise UserError(f'An inception score over {splits} parts needs as many samples, there are {N}.')
  cuts = np.arange(splits + 1) * N // splits
  scores = [_score(np.asarray(logits[start:stop], np.float64)) for start, stop in zip(cuts, cuts[1:], strict=False)]
  return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray) -> float:
  """The score of one part [n, K]."""
  highest = logits.max(1, keepdims=True)
  # -inf is the log of a class that is ruled out; a row of nothing else has no probabilities.
  if not np.isfinite(highest).all():
    raise UserError('Some logits are NaN or infinite: look at the samples and the classifier.')
  shifted = logits - highest
  log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  probs = np.exp(log_probs)
  marginal = probs.mean(0)
  # p log p is 0 where p is 0; there the marginal may be 0 too.
  ratio = np.where(probs > 0, log_probs, 0.0) - np.log(np.where(marginal > 0, marginal, 1.0))
  return float(np.exp((probs * ratio).sum(1).mean()))
