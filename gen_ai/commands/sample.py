"""Samples of a trained run: a short name of gen_ai.generate --task=generate (or of the first task that draws)."""

from gen_ai.commands import generate
from gen_ai.core import command_line


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """See `gen_ai.generate`."""
  return generate.main(arguments, overrides, drawing=True, module='gen_ai.sample')


if __name__ == '__main__':
  generate.define_flags()
  command_line.run(main)
