"""Weights of GPT-2 or Llama become a run: python -m gen_ai.convert FOLDER [--data=python_stdlib] [--run_dir=DIR].

FOLDER has Hugging Face's layout: config.json, model.safetensors (or several with their index), tokenizer.json (or
GPT-2's vocab.json and merges.txt). The run has made no update yet: it can be drawn from, evaluated, resumed, exported,
and others begin from it with --init_from.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from gen_ai import config as config_lib
from gen_ai.core import command_line, surroundings
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import State
from gen_ai.data import dataset as dataset_lib
from gen_ai.nets import hugging_face
from gen_ai.nets.transformer import Architecture
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program
from gen_ai.run import directory, weight_files
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.run.info import Origin
from gen_ai.train import open_run

FLAGS = flags.FLAGS
# Not of the weights: buffers of older versions, and the head that is the embedding.
_IDLE = ('.attn.bias', '.attn.masked_bias', 'rotary_emb.inv_freq', 'lm_head.weight')

# Of config.model, named as the architecture's.
_FIELDS = (
  *('layers', 'heads', 'width', 'kv_heads', 'head_width', 'mlp_width', 'gated', 'activation', 'norm', 'norm_epsilon'),
  *('positions', 'rope_theta', 'bias', 'qk_norm', 'pattern', 'tied'),
)


def convert(folder: str, data: str, run_dir: str = '', runs_dir: str = 'runs', context: int = 0) -> Path:
  """Makes a run of the weights in `folder`; returns its directory.

  Args:
    folder: of the weights.
    data: text data set that the run is evaluated on, and trained on where it is resumed.
    run_dir: where it goes; '' makes a new directory under `runs_dir`.
    runs_dir: see `run_dir`.
    context: T, tokens of a block; 0: as many as the model can see.

  Raises:
    UserError: weights of another kind, a tensor that is missing or of another shape, a vocabulary that does not fit.
  """
  place = Path(folder)
  tree = weight_files.read_config(place)
  arch = hugging_face.architecture_of(tree)
  if context > arch.context:
    raise UserError(f'--context={context:,} is more than the {arch.context:,} tokens that the model can see.')
  weights = weight_files.Weights(place)
  config = _config(arch, place, data, context or arch.context)
  dataset = dataset_lib.load(config.data)
  vocab = dataset.spec.vocab
  if vocab is None or vocab.size != arch.vocab_size:
    held = 'no text' if vocab is None else f'{vocab.size:,} tokens'
    raise UserError(
      f'{folder} has weights for {arch.vocab_size:,} tokens, and {config.data.tokens} on {data} has {held}.'
    )
  leaves = read_leaves(arch, tree['model_type'], weights, folder)
  program = Program(config, config_lib.builder(config), dataset.spec, make_layout(config))
  state = placed(program.init(), leaves)
  run = directory.RunDir.make(run_dir) if run_dir else directory.RunDir.create(runs_dir, config.run.name)
  with run.lease():
    open_run.describe(run, config, dataset, program, Origin(argv=tuple(sys.argv)), {})
    checkpoints = Checkpoints(run.path / 'checkpoints', config.run.keep)
    checkpoints.save(0, state)
    checkpoints.close()
    run.status('stopped', 0, config.run.steps, f'converted from {folder}')
  return run.path


def _config(arch: Architecture, folder: Path, data: str, context: int) -> Any:
  """The config of a run of such a model."""
  model = {name: getattr(arch, name) for name in _FIELDS}
  known = any((folder / name).exists() for name in ('tokenizer.json', 'vocab.json'))
  if not known and arch.vocab_size != 256:
    raise UserError(
      f'{folder} has no tokenizer: put its tokenizer.json, or vocab.json and merges.txt, beside the weights.'
    )
  config = config_lib.make_config(
    'lm',
    data,
    run={'name': run_name(folder)},
    data={'tokens': f'bpe:{folder.resolve()}' if known else 'byte', 'block_size': context},
    model=model,
    optim={'name': 'adamw', 'lr': 1e-4, 'weight_decay': 0.1, 'clip_norm': 1.0, 'ema_decay': 0.0},
  )
  config_lib.validate(config)
  return config


def run_name(folder: Path) -> str:
  """A folder's name as a run may have it."""
  name = ''.join(letter if letter.isalnum() or letter in '._-' else '_' for letter in folder.resolve().name)
  return name.strip('._-') or 'converted'


def read_leaves(arch: Architecture, kind: str, weights: weight_files.Weights, folder: str) -> dict[str, np.ndarray]:
  """Our parameters {path: float32 array} of the tensors of a folder.

  Raises:
    UserError: a tensor is missing, of another shape, or is none of such a model.
  """
  table = list(hugging_face.tensors(arch, kind))
  prefix = 'transformer.' if kind == hugging_face.GPT2 else 'model.'
  bare = not any(name.startswith(prefix) for name in weights.names)  # as the first GPT-2 files are
  named = {tensor.name: tensor.name.removeprefix(prefix) if bare else tensor.name for tensor in table}
  left = [name for name in weights.names if name not in named.values() and not name.endswith(_IDLE)]
  if left:
    raise UserError(f'{folder}: the tensor {left[0]} is none of a {kind}: the model has parts that cannot be read.')
  for tensor in table:
    name = named[tensor.name]
    if name not in weights.names:
      raise UserError(f'{folder}: the tensor {name} is missing.')
    if weights.shape(name) != tensor.shape:
      raise UserError(
        f'{folder}: the tensor {name} has the shape {list(weights.shape(name))}, and {list(tensor.shape)} by '
        'config.json.'
      )
  leaves = hugging_face.empty(arch)
  for tensor in table:
    hugging_face.fill(leaves, tensor, weights.read(named[tensor.name]))
  return leaves


def placed(state: State, leaves: dict[str, np.ndarray]) -> State:
  """`state` with the parameters of `leaves`, laid out as its own are."""

  def place(path: Any, leaf: Any) -> Any:
    value = leaves[jax.tree_util.keystr(path, simple=True, separator='/')]
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index].astype(leaf.dtype))

  params = jax.tree_util.tree_map_with_path(place, state.params)
  return state._replace(params=params)


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """The command."""
  if len(arguments) != 1:
    raise UserError(f'gen_ai.convert takes one folder of weights (got {arguments or "none"}).')
  if overrides:
    raise UserError(f'gen_ai.convert reads the config from the weights: leave --config.{next(iter(overrides))} out.')
  surroundings.start()
  path = convert(arguments[0], FLAGS.data, FLAGS.run_dir, FLAGS.runs_dir, FLAGS.context)
  print(f'run        {path}')
  print(f'  {command_line.printed("gen_ai.sample", path, n=2)}')
  print(f'  {command_line.printed("gen_ai.evaluate", path, split="test")}')
  print(f'  {command_line.printed("launch.py", resume=path)}')
  return DONE


if __name__ == '__main__':
  flags.DEFINE_string('data', 'python_stdlib', 'text that the run is evaluated on, and trained on when resumed')
  flags.DEFINE_string('run_dir', '', 'where the run goes; a new directory under --runs_dir if not given')
  flags.DEFINE_string('runs_dir', 'runs', 'where new run directories go')
  flags.DEFINE_integer('context', 0, 'tokens of a block; 0: as many as the model can see', lower_bound=0)
  command_line.run(main)
