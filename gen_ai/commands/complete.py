"""Examples completed by a trained run: a short name of gen_ai.generate --task=complete."""

from gen_ai.commands import generate
from gen_ai.core import command_line


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """See `gen_ai.generate`."""
  return generate.main(arguments, overrides, 'complete', module='gen_ai.complete')


if __name__ == '__main__':
  generate.define_flags()
  command_line.run(main)
