"""The commands and the Python of docs/recipes.md run as they are written, made tiny."""

import re
import shlex

import cli
import numpy as np
import pytest
import tiny
from PIL import Image

from gen_ai.core.errors import DONE

BLOCK = re.compile(r'```(bash|python)\n(.*?)```', re.DOTALL)
TINY = ['--tiny', '--config.run.trackers=']


@pytest.fixture
def shapes(tmp_path, monkeypatch):
  """A folder of two classes, below the folder that all works in."""
  monkeypatch.chdir(tmp_path)
  noise = np.random.default_rng(0)
  for name in ('circle', 'square'):
    (tmp_path / 'shapes' / name).mkdir(parents=True)
    for number in range(40):
      pixels = noise.integers(0, 255, (28, 28, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'shapes' / name / f'{number}.png')


@pytest.fixture
def corpus(shapes, tmp_path):
  """A folder of documents beside it."""
  for number in range(300):
    (tmp_path / 'corpus' / str(number % 2)).mkdir(parents=True, exist_ok=True)
    (tmp_path / 'corpus' / str(number % 2) / f'{number}.txt').write_text(f'Document {number} of all documents.\n' * 4)


@pytest.fixture
def gpt2(tmp_path):
  """A folder of GPT-2's files, of a tiny model."""
  layout = {'gated': False, 'activation': 'gelu', 'norm': 'layer', 'positions': 'learned', 'bias': True}
  changes = {f'model__{name}': value for name, value in {**layout, 'qk_norm': False}.items()}
  assert tiny.run(tiny.config('lm', run__steps=4, **changes), tmp_path / 'trained')[0] == DONE
  assert cli.command('gen_ai.export', tmp_path / 'trained', f'--out={tmp_path}/gpt2').returncode == DONE


def test_recipes_run_as_written(corpus, gpt2, tmp_path):
  values = {}
  for language, text in BLOCK.findall((tiny.ROOT / 'docs' / 'recipes.md').read_text()):
    if language == 'python':
      exec(text, values)
      continue
    for line in text.strip().splitlines():
      words = shlex.split(line)[1:]
      started = words[0] == 'launch.py'
      done = cli.launch(*words[1:], *TINY) if started else cli.command(words[1], *words[2:])
      assert done.returncode == DONE, (line, done.stderr)
  assert values['images'].shape == (16, 28, 28, 3) and values['images'].dtype == np.uint8
  assert values['several'].shape == (2, 28, 28, 3) and values['path'].shape == (8, 28, 28, 3)
  np.testing.assert_array_equal(values['run'].generate(n=16, label=0, seed=1), values['images'])
  assert not np.array_equal(values['run'].generate(n=16, label='square', seed=1), values['images'])
  assert values['everything']['sample'].shape == (2, 28, 28, 3) and 'conv' in str(values['generator']).lower()
  for name in ('circles.png', 'guided.png', 'temperature.html', 'averaged.png', 'tuned/model.safetensors'):
    assert (tmp_path / name).is_file()
