"""Command lines of the project run inside the test process, whole: argv in; exit code, stdout and stderr out."""

import contextlib
import io
import os
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import tiny
from absl import flags, logging


class Done(NamedTuple):
  """What subprocess.run would tell."""

  returncode: int
  stdout: str
  stderr: str


def command(target, *words, encoding=''):
  """Runs `python launch.py WORDS` (target 'launch.py') or `python -m MODULE WORDS` on the suite's fake devices.

  With an `encoding`, standard output is a file of the system that has it, else a buffer of text.
  """
  argv = [target, *map(str, words)]
  out: Any = io.StringIO()
  err = io.StringIO()
  if encoding:
    out = io.TextIOWrapper(io.BufferedRandom(io.FileIO(os.memfd_create('out'), 'r+')), encoding)
  before, verbosity, code = set(flags.FLAGS), logging.get_verbosity(), 0
  run = runpy.run_path if target.endswith('.py') else runpy.run_module
  path = str(tiny.ROOT / target) if target.endswith('.py') else target
  try:
    with (
      mock.patch.object(sys, 'argv', argv),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      warnings.catch_warnings(),
    ):
      # Of a module that a test has imported already, which no command line has.
      warnings.filterwarnings('ignore', "'gen_ai.* found in sys.modules", RuntimeWarning)
      run(path, run_name='__main__', **({} if target.endswith('.py') else {'alter_sys': True}))
  except SystemExit as end:
    code = int(end.code or 0)
  finally:
    for name in set(flags.FLAGS) - before:
      module = str(flags.FLAGS.find_module_defining_flag(name))
      if module.endswith('.py') or module.startswith('gen_ai.commands.'):  # the command's: not those of libraries
        delattr(flags.FLAGS, name)
    logging.set_verbosity(verbosity)
  with out:
    out.seek(0)
    return Done(code, out.read(), err.getvalue())


def launch(*words):
  """python launch.py WORDS, sharing the suite's compilation cache."""
  return command('launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *words)


def refused(done, *says):
  """Asserts that a command line ended with exit code 1 and one clear message that holds all of `says`.

  The message is one line; an indented line after it may hold a command to copy.
  """
  assert done.returncode == 1, (done.stdout, done.stderr)
  assert 'Traceback' not in done.stderr
  first, *commands = done.stderr.strip().splitlines()
  assert first.startswith('error: ')
  assert all(line.startswith('  ') for line in commands), done.stderr
  for text in says:
    assert text in done.stderr, done.stderr


def files(folder):
  """All paths below `folder`."""
  return sorted(Path(folder).rglob('*'))
