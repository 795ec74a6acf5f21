"""What all command lines share: config overrides among absl flags, and mistakes shown as one line with an exit code."""

import errno
import os
import resource
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from gen_ai.core import command_table, installation, terminal
from gen_ai.core.errors import DIVERGED, FAILED, Diverged, UserError

INTERRUPTED = 130  # what shells report of a command that Ctrl-C ended


def printed(target: str, *words: Any, **flags: Any) -> str:
  """A command line for a person to copy, quoted for a shell and good in the folder where this process works.

  Args:
    target: 'launch.py', or a module such as 'gen_ai.sample'.
    words: what follows, such as a directory.
    flags: {name: value} of --name=value, after the words.
  """
  source, given = installation.SOURCE, [*words, *(f'--{name}={value}' for name, value in flags.items())]
  if installation.PACKAGED and (name := command_table.name_of(target)):
    return shlex.join(['gen-ai', name, *map(str, given)])
  here = Path.cwd() == source
  if target.endswith('.py'):
    script = target if here else min(str(source / target), os.path.relpath(source / target), key=len)
    return shlex.join(['python', script, *map(str, given)])
  way = '' if here or installation.anywhere() else f'PYTHONPATH={shlex.quote(str(source))} '
  return way + shlex.join(['python', '-m', target, *map(str, given)])


def started(argv: Sequence[str]) -> str:
  """The command line behind `argv`, in which Python puts the path of a file where `-m MODULE` was typed."""
  script = Path(argv[0])
  if installation.PACKAGED and script == installation.SOURCE / 'launch.py':
    return shlex.join(['gen-ai', command_table.name_of('launch.py'), *argv[1:]])
  if script.name == 'launch.py' or 'gen_ai' not in script.parts:
    return shlex.join(['python', *argv])
  module = '.'.join(script.with_suffix('').parts[len(script.parts) - 1 - script.parts[::-1].index('gen_ai') :])
  typed = module.removesuffix('.__main__').replace('gen_ai.commands.', 'gen_ai.')
  return shlex.join(['python', '-m', typed, *argv[1:]])


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Takes --config.a.b=v and --config.a.b v out of argv, as absl reads flags; values stay text."""
  for word in argv:
    if any('\ud800' <= char <= '\udfff' for char in word):  # bytes that Python could not decode
      raise UserError(f'{word!r} is no UTF-8 text, which the record of a run is: rename the file or folder.')
  rest, overrides = [], {}
  words = iter(argv)
  for word in words:
    name, equals, value = word.partition('=')
    bare = name.lstrip('-')
    if not (name.startswith('-') and bare.startswith('config.')):
      rest.append(word)
      continue
    if not equals:
      following = next(words, None)
      if following is None:
        raise UserError(f'{word} needs a value: {word}=VALUE.')
      value = following
    overrides[bare.removeprefix('config.')] = value
  return rest, overrides


def refuse_idle(readers: Mapping[str, Sequence[str]], now: Collection[str], here: str) -> None:
  """Refuses flags that this command line gives and nothing would read.

  Args:
    readers: {flag: what reads it, in words a person knows}; a flag that is not named is always read.
    now: those of the words that this command line is about.
    here: what it is, for the message.

  Raises:
    UserError: names the first such flag and what it is for.
  """
  for name, words in readers.items():
    flag = flags.FLAGS[name]
    if flag.value != flag.default and not set(words) & set(now):
      raise UserError(f'--{name} is for {" or ".join(words)}, and this is {here}: leave --{name} out.')


def _of_files(error: OSError) -> str:
  if error.errno == errno.EMFILE:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f'more files are needed at once than the {limit} that may be open: raise the limit (`ulimit -n 4096`)'
  return f'{error.filename}: {error.strerror}' if error.filename else str(error)


def run(main: Callable[[list[str], dict[str, str]], int]) -> None:
  """Runs main(positional arguments, overrides) and exits with its code; a user's mistake prints one line.

  What becomes of what it prints: see `gen_ai.core.terminal`.
  """

  def start(words: list[str], overrides: dict[str, str]) -> None:
    if not flags.FLAGS['verbosity'].present:  # Orbax tells of every file at the level of INFO
      logging.set_verbosity(logging.WARNING)
    sys.exit(main(words[1:], overrides))

  with terminal.guarded():
    try:
      try:
        argv, overrides = split_overrides(sys.argv)
        app.run(lambda words: start(words, overrides), argv=argv)
      finally:
        sys.stdout.flush()  # here, where it may fail
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(FAILED)
    except Diverged as error:
      print(f'diverged: {error}', file=sys.stderr)
      sys.exit(DIVERGED)
    except MemoryError as error:
      print(f'error: the memory is not enough ({error}): ask for fewer or smaller things at once', file=sys.stderr)
      sys.exit(FAILED)
    except OSError as error:  # of a file that somebody named, or of this machine
      print(f'error: {_of_files(error)}', file=sys.stderr)
      sys.exit(FAILED)
    except KeyboardInterrupt:  # before training, which has its own way to stop
      print('interrupted', file=sys.stderr)
      sys.exit(INTERRUPTED)
