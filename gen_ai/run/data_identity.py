"""How a data set is written into a run's record, and recognised again."""

from typing import Any

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.data import kinds
from gen_ai.data.assemble import Dataset
from gen_ai.run.info import DataInfo


def describe(dataset: Dataset) -> DataInfo:
  """What run.json holds of a data set: what it is, how it was read and cut, the hash of its content, and its spec."""
  return DataInfo(
    name=dataset.name,
    version=dataset.version,
    split_rule=dataset.split_rule,
    location=dataset.location,
    fingerprint=dataset.fingerprint,
    sizes={name: len(source) for name, source in dataset.splits.items()},
    spec=_spec_to_json(dataset.spec),
    class_names=list(dataset.spec.class_names),
    notes=list(dataset.notes),
  )


def summary(dataset: Dataset) -> str:
  """How the line that describes a data set ends: its content hash, how it was read, what was left out."""
  return '; '.join([f'sha256 {dataset.fingerprint[:12]}', *dataset.notes])


def _spec_to_json(spec: Spec) -> dict[str, Any]:
  facts = kinds.of(spec).facts(spec)
  return {'kind': spec.kind, 'shape': list(spec.shape), 'num_classes': spec.num_classes, **facts}


def spec_of(about: DataInfo) -> Spec:
  """The spec that `describe` wrote, so that a run can be sampled without its data."""
  spec = kinds.get(about.spec['kind']).spec_of(about.spec)
  return spec._replace(class_names=tuple(about.class_names))


def check(dataset: Dataset, recorded: str, run: Any) -> None:
  """Raises UserError where `dataset` is not what `run` was trained on, going by the `recorded` content hash."""
  if dataset.fingerprint != recorded:
    raise UserError(
      f'{run} was trained on other data: {dataset.name} had the content hash {recorded[:12]} and has '
      f'{dataset.fingerprint[:12]} now. Put the old data back, or start a new run.'
    )
