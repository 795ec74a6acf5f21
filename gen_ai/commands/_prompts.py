"""The loop of `python -m gen_ai.generate RUN --interactive`: a prompt, its text while it is made, and again."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_ai.config import LARGEST_SEED
from gen_ai.core.errors import UserError
from gen_ai.core.method import PROMPT
from gen_ai.core.text import did_you_mean
from gen_ai.evaluate.trained import Trained

_ROOM = 64  # tokens: prompts of up to as many share what is compiled, and so do those of up to twice as many, and so on
HELP = """\
Write a prompt; a line that ends in \\ goes on in the next. Ctrl-C stops a text, Ctrl-D ends.
  :temperature 0.5   change a setting of sampling: {settings}
  :seed 7            begin again with the noise of another seed
  :settings          show them all
  :help              show this
  ::text             a prompt that begins with a colon"""


def ask(trained: Trained, task: str, seed: int, inputs: Mapping[str, Any]) -> int:
  """Reads prompts from standard input and prints a text for each, until the end of the input; returns 0.

  The texts are those of one call with all these prompts: prompt number i has the noise of sample i.

  Args:
    trained: the run.
    task: its name.
    seed: of the noise.
    inputs: of the task, besides the prompt.

  Raises:
    UserError: the task takes no prompt, or makes no text.
  """
  name = next((name for name, field in trained.tasks[task].inputs.items() if field.what == PROMPT), '')
  if not name:
    raise UserError(f"the task '{task}' takes no prompt that --interactive could ask for.")
  asks, number = sys.stdin.isatty(), 0
  if asks:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401  (gives `input` its editing and its history)
    print(f'{trained.path}, step {trained.step}. A prompt, or :help; Ctrl-D ends.')
  while True:
    try:
      line = _line('> ' if asks else '')
    except EOFError:
      print(end='\n' if asks else '')
      return 0
    except KeyboardInterrupt:
      print('\nCtrl-D ends.')
      continue
    try:
      if line.startswith(':') and not line.startswith('::'):
        seed, number = _command(trained, task, line[1:], seed, number)
        continue
      _answer(trained, task, seed, number, {**inputs, name: line.removeprefix(':') if line[:2] == '::' else line}, name)
      number += 1
    except UserError as error:
      print(f'error: {error}', file=sys.stderr, flush=True)


def _line(shown: str) -> str:
  """What a person writes, over as many lines as end in a backslash. Raises EOFError at the end of the input."""
  lines = [input(shown)]
  while lines[-1].endswith('\\'):
    lines[-1] = lines[-1][:-1]
    lines.append(input('. ' if shown else ''))
  return '\n'.join(lines)


def _answer(trained: Trained, task: str, seed: int, number: int, inputs: Mapping[str, Any], prompt: str) -> None:
  arrays = trained.inputs(task, None, seed, **inputs)
  if trained.note:
    print(f'note: {trained.note}.', file=sys.stderr, flush=True)
  given = arrays[prompt]
  room = _ROOM
  while room < given.shape[1]:
    room *= 2
  arrays[prompt] = np.pad(given, ((0, 0), (0, room - given.shape[1])), constant_values=-1)
  try:
    for text in trained.streaming(task).text(trained.state, seed, number, arrays):
      print(text, end='', flush=True)
  except KeyboardInterrupt:
    print(end=' [stopped]')
  print(flush=True)


def _command(trained: Trained, task: str, line: str, seed: int, number: int) -> tuple[int, int]:
  """Does what a line behind a colon says; returns the seed and the number of the next text."""
  word, _, value = (part.strip() for part in line.strip().partition(' '))
  paths = [
    f'{section}.{field}'
    for section in trained.tasks[task].settings
    for field in trained.config[section]
    if f'{section}.{field}' not in ('sample.n', 'sample.prompt')
  ]
  names = {path.partition('.')[2]: path for path in paths}
  if word == 'help':
    print(HELP.format(settings=', '.join(names)))
  elif word == 'settings':
    print('\n'.join(f'  {name} {trained.config[path]!r}' for name, path in names.items()) + f'\n  seed {seed}')
  elif word == 'seed':
    if not value.isdecimal() or int(value) > LARGEST_SEED:
      raise UserError(f':seed takes a whole number from 0 to {LARGEST_SEED}.')
    return int(value), 0
  elif word in names:
    if not value:
      raise UserError(f':{word} needs a value; it is {trained.config[names[word]]!r}.')
    trained.use({names[word]: value})
  else:
    near = did_you_mean(word, [*names, 'help', 'settings', 'seed'], cutoff=0.6)
    raise UserError(f"there is no ':{word}'.{near} :help shows what there is; '::' begins a prompt with a colon.")
  return seed, number
