"""What an evaluation adds up: sums over the examples of a batch that are no padding."""

from collections.abc import Mapping

from gen_ai.core.method import Array, SumCount


def masked(per_example: Mapping[str, Array], mask: Array) -> SumCount:
  """{name: (sum over the examples, their number)} of values [B]; `mask` [B] is 1 for an example, 0 for padding."""
  return {name: ((value * mask).sum(), mask.sum()) for name, value in per_example.items()}
