"""One file a family: FIELDS, what its configs have beside the fields of every run.

The file is named for the module in experiments/. It is found by existing, and light: no JAX.
"""
