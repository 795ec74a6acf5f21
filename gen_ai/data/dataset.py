"""Data sets: what `config.data` names, of whichever kind it is."""

from typing import Any

from gen_ai.data import kinds, tfds_source
from gen_ai.data.assemble import Dataset as Dataset
from gen_ai.data.assemble import fingerprint as fingerprint
from gen_ai.data.assemble import from_arrays as from_arrays
from gen_ai.data.assemble import from_text as from_text


def load(config_data: Any) -> Dataset:
  """The data set of `config.data`. Never downloads: `python -m gen_ai.data.prepare NAME` does.

  A name like 'folder:PATH' is read by the kind of data that has a source of that name; any other name is one of TFDS.

  Args:
    config_data: `config.data`; every field but batch_size, seed and feed is read.

  Raises:
    UserError: an unknown or unprepared data set, a bad split rule, a bad image, a text too short, ...
  """
  name = config_data.name
  for kind in kinds.every():
    if name.partition(':')[0] in kind.sources:
      return kind.sources[name.partition(':')[0]](config_data)
  prepared = tfds_source.open_prepared(name, config_data.data_dir, config_data.manual_dir)
  return kinds.get(prepared.kind).from_tfds(config_data, prepared)
