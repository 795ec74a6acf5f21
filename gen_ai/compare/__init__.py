"""Runs compared: read from their directories alone, so that any launcher, machine or day may have made them.

`load('runs/**')` gives tidy pandas frames; `python -m gen_ai.compare` shows tables, differences between two runs, SQL
and one offline HTML file.
"""

from gen_ai.compare.records import COLUMNS, CURVE_COLUMNS, EVALUATION_COLUMNS, METRIC_COLUMNS, Runs, load

__all__ = ['COLUMNS', 'CURVE_COLUMNS', 'EVALUATION_COLUMNS', 'METRIC_COLUMNS', 'Runs', 'load']
