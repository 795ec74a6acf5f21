"""The metric 'agreement': how often samples show the class that was asked for, as a classifier reads them."""

from collections.abc import Sequence

import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import ASKED
from gen_ai.evaluate.metrics.metric import FEATURES, Evidence, Found, Metric, Request, share


def agreement(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
  """(the share of samples that are read as what they were asked to be, the same of every class: [K], NaN without any).

  Args:
    logits: float [N, K] of a classifier.
    labels: int [N]; samples that were asked for no class, -1, do not count.

  Raises:
    UserError: no sample was asked for a class.
  """
  asked = labels >= 0
  if not asked.any():
    raise UserError("no sample was asked for a class: leave 'agreement' out of the metrics.")
  right = logits.argmax(1) == labels
  of_class = [right[labels == label].mean() if (labels == label).any() else np.nan for label in range(logits.shape[1])]
  return float(right[asked].mean()), np.asarray(of_class)


def _compute(e: Evidence, found: Found) -> None:
  assert e.samples.logits is not None and e.samples.labels is not None  # asked before
  value, of_class = agreement(e.samples.logits, e.samples.labels)
  stamp = {**e.extractor.describe(), **e.stamp}
  found.figures['class_agreement'] = share(value, int((e.samples.labels >= 0).sum()), stamp)
  found.notes.append(note(of_class, e.dataset.spec.class_names))


def note(of_class: np.ndarray, names: Sequence[str]) -> str:
  """What to say of the shares [K] of the classes: which are drawn least often as asked."""
  least = [int(label) for label in np.argsort(of_class, kind='stable') if not np.isnan(of_class[label])][:3]
  said = ', '.join(f'{names[label] if names else label} {of_class[label]:.0%}' for label in least)
  return f'classes that are drawn as asked least often: {said}'


def _check(request: Request) -> None:
  assert request.extractor is not None
  if not request.extractor.has_logits:
    raise UserError(
      f"agreement needs a classifier of the data, and the extractor '{request.extractor.name}' names no classes: use "
      "--extractor=classifier:RUN_DIR, or leave 'agreement' out."
    )


METRICS = (
  Metric('agreement', ('image',), {'class_agreement': 'max'}, FEATURES, _compute, outputs=(ASKED,), check=_check),
)
