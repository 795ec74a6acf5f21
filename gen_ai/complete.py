"""Examples completed by a trained run: a short name of gen_ai.generate --task=complete."""

from gen_ai import command, generate


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """See `gen_ai.generate`."""
  return generate.main(arguments, overrides, 'complete', module='gen_ai.complete')


if __name__ == '__main__':
  generate.define_flags()
  command.run(main)
