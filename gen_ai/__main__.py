"""All commands under one name: gen-ai COMMAND ..., or python -m gen_ai COMMAND ...

Nothing heavy is imported before the command runs, and it runs as if it had been started by itself.
"""

import runpy
import sys

import gen_ai
from gen_ai.core import installation
from gen_ai.core.command_table import ALIASES, COMMANDS
from gen_ai.core.errors import DONE, FAILED
from gen_ai.core.text import did_you_mean


def usage() -> str:
  """What --help shows: every command with an example, in one screen."""
  lines = [f'  gen-ai {name} {command.example}' for name, command in COMMANDS.items()]
  width = max(map(len, lines)) + 2
  shown = [f'{line:{width}}{command.about}' for line, command in zip(lines, COMMANDS.values(), strict=True)]
  return '\n'.join(
    [
      f'{gen_ai.__doc__}',
      '',
      *shown,
      '',
      'RUN is the directory that training names, below runs/. `gen-ai COMMAND --help` shows the flags of a command,',
      '`gen-ai --version` the version. Without an installation: `python -m gen_ai COMMAND`.',
    ]
  )


def main() -> None:
  """Runs the command that the first word names, with the rest of the command line."""
  name, *rest = sys.argv[1:] or ['']
  if name in ('-h', '--help', '--helpshort', '--helpfull', 'help'):
    print(usage())
    sys.exit(DONE)
  if name == '--version':
    print(f'gen_ai {gen_ai.__version__} in {installation.SOURCE}')
    sys.exit(DONE)
  command = COMMANDS.get(ALIASES.get(name, name))
  if command is None:
    message = f"'{name}' is no command.{did_you_mean(name, [*COMMANDS, *ALIASES])}" if name else 'no command is given.'
    print(f'error: {message} There are {", ".join(COMMANDS)}: `gen-ai --help`.', file=sys.stderr)
    sys.exit(FAILED)
  if command.target.endswith('.py'):
    script = str(installation.SOURCE / command.target)
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name='__main__')
  else:
    sys.argv = [command.target, *rest]  # the first becomes the module's file
    runpy.run_module(command.target, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
