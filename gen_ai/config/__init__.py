"""One run, one `ml_collections.ConfigDict`: declare its fields, load, override, check, compare; what of it is traced.

A config is complete: every field is present, none is None (`''` and `0` mean "not set"), and it is read as
`config.section.field` only. Floats in the sections of `TRACED` reach the compiled program as arguments, so one program
serves every learning rate and loss weight; all else is structure. A float of exactly 0.0 is structure too: it switches
its term off at compile time.
"""

from gen_ai.config.checks import validate
from gen_ai.config.defaults import COMMON, LARGEST_SEED, LONGEST_AVERAGE, PLACES, common, declared, settle, usual
from gen_ai.config.dial import by_depth
from gen_ai.config.field import NETWORK, Field, one_of, size, weight
from gen_ai.config.inherited import check_inherited, inherit
from gen_ai.config.load import (
  SOURCE,
  as_flags,
  assign,
  builder,
  call,
  experiment,
  find_file,
  load,
  load_module,
  make_config,
  override,
  parse,
  select,
  split_reference,
  tiny,
)
from gen_ai.config.traced import TRACED, substitute, traced
from gen_ai.config.tree import difference, flatten, from_json, to_json

__all__ = [
  'COMMON',
  'LARGEST_SEED',
  'LONGEST_AVERAGE',
  'NETWORK',
  'PLACES',
  'SOURCE',
  'TRACED',
  'Field',
  'as_flags',
  'assign',
  'builder',
  'by_depth',
  'call',
  'check_inherited',
  'common',
  'declared',
  'difference',
  'experiment',
  'find_file',
  'flatten',
  'from_json',
  'inherit',
  'load',
  'load_module',
  'make_config',
  'one_of',
  'override',
  'parse',
  'select',
  'settle',
  'size',
  'split_reference',
  'substitute',
  'tiny',
  'to_json',
  'traced',
  'usual',
  'validate',
  'weight',
]
