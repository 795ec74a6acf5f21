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
  extractor, spec = request.extractor, request.spec
  assert extractor is not None
  way_out = "use --extractor=classifier:RUN_DIR with a classifier of this data, or leave 'agreement' out."
  if not extractor.num_classes:
    raise UserError(
      f"agreement needs a classifier of the data, and the extractor '{extractor.name}' names no classes of it: "
      f'{way_out}'
    )
  unlike = extractor.class_names and spec.class_names and extractor.class_names != spec.class_names
  if extractor.num_classes != spec.num_classes or unlike:
    told, asked = (_listed(one.num_classes, one.class_names) for one in (extractor, spec))
    trained_on = extractor.about.get('trained_on', extractor.name)
    raise UserError(
      f'agreement needs a classifier of the data, which has {asked}, and that of {trained_on} tells {told} apart: '
      f'{way_out}'
    )


def _listed(number: int, names: Sequence[str]) -> str:
  """'10 classes (0, 1, 2, ...)'."""
  few = ', '.join([*names[:3], *(['...'] if len(names) > 3 else [])])
  return f'{number} classes' + (f' ({few})' if names else '')


METRICS = (
  Metric('agreement', ('image',), {'class_agreement': 'max'}, FEATURES, _compute, outputs=(ASKED,), check=_check),
)
