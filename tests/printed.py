"""Commands that the product prints, taken out of what it really said, and run as a person would who copies them."""

import contextlib
import os
import re
import shlex
from pathlib import Path

import cli

# To the end of its line, or of its backticks; an indented comment of a shell may follow.
_COMMAND = re.compile(r'(?:PYTHONPATH=\S+ )?python (?:-m gen_ai\.|\S*launch\.py)[^`\n]*')


def commands(text):
  """The commands in a text, each once, in order."""
  return list(dict.fromkeys(found.rstrip(' .') for found in _COMMAND.findall(text)))


def run(command, folder):
  """Runs a printed command in this process, what it writes beside itself in `folder`; returns what it said."""
  words = shlex.split(command, comments=True)
  words = words[1:] if words[0].startswith('PYTHONPATH=') else words
  assert words.pop(0) == 'python'
  cache = f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}'
  if words[0] != '-m':
    return cli.command(str(Path(words[0]).resolve()), cache, *words[1:])
  _, module, *rest = words
  with contextlib.chdir(folder):
    return cli.command(module, *([cache] if module == 'gen_ai.reproduce' else []), *rest)


def run_all(text, folder):
  """Runs every command in `text`; returns {command: what it said}. Fails where one fails or there is none."""
  done = {command: run(command, folder) for command in commands(text)}
  assert done, f'no command in {text}'
  for command, said in done.items():
    assert said.returncode == 0, (command, said.stdout, said.stderr)
  return done
