"""The commands of gen_ai by name: what `gen-ai NAME` and `python -m gen_ai NAME` run. They lie in gen_ai/commands/."""

from typing import NamedTuple


class Command(NamedTuple):
  """One command. `target` is 'launch.py' or a module, run as `python TARGET` and `python -m TARGET` would run it."""

  target: str
  example: str  # of its arguments
  about: str  # what it does, in a line


COMMANDS = {
  'train': Command('launch.py', '--config=wgan --tiny', 'train a run, or a sweep of runs; --list shows the configs'),
  'sample': Command('gen_ai.sample', 'RUN --n=16 --out=grid.png', 'draw from a trained run'),
  'generate': Command(
    'gen_ai.generate', 'RUN --task=reconstruct', 'run any task of a trained run: --label, --prompt, ...'
  ),
  'complete': Command('gen_ai.complete', 'RUN --image=x.npy', 'fill the masked parts of images by a trained run'),
  'evaluate': Command('gen_ai.evaluate', 'RUN --metrics=fd,kid', 'measure figures of a run, or of samples in a file'),
  'compare': Command('gen_ai.compare', 'runs --html=report.html', 'show runs side by side, in a terminal or a page'),
  'reproduce': Command('gen_ai.reproduce', 'RUN', 'run a recorded run again and compare the two'),
  'convert': Command('gen_ai.convert', 'FOLDER', 'make a run of the weights of GPT-2 or Llama in a folder'),
  'export': Command('gen_ai.export', 'RUN --out=DIR', 'write a run as weights, card and programs that others read'),
  'prepare': Command('gen_ai.data.prepare', 'cifar10', 'prepare a data set'),
}
ALIASES = {'launch': 'train'}


def name_of(target: str) -> str:
  """The name of the command that runs `target`, '' where none does."""
  return next((name for name, command in COMMANDS.items() if command.target == target), '')
