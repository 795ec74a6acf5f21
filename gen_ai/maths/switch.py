"""What is known before tracing: a weight of exactly 0 removes its term from the program."""


def is_off(weight: object) -> bool:
  """Whether `weight` is a Python number equal to 0, so that its term need not be compiled at all.

  A traced or array value is never off, whatever it holds: its term is computed and multiplied.
  """
  return isinstance(weight, int | float) and weight == 0
