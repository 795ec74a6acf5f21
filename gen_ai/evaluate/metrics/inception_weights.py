"""Weights of the FID Inception network: converted from the published PyTorch file, kept in an .npz, and checked."""

import functools
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import PyTree
from gen_ai.nets import inception

PUBLISHED = '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'  # sha256 of pytorch-fid's file
_SOURCE = 'source_sha256'  # beside the arrays of an .npz: the hash of the file that they were converted from
_LEAVES = {
  'conv.weight': 'kernel',
  'bn.weight': 'scale',
  'bn.bias': 'bias',
  'bn.running_mean': 'mean',
  'bn.running_var': 'var',
  'fc.weight': 'fc/kernel',
  'fc.bias': 'fc/bias',
}


def from_torch(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """PyTorch's arrays under our names: kernels [kh, kw, C, F] and [C, F] of PyTorch's [F, C, kh, kw] and [F, C].

  Args:
    state: {'Mixed_5b.branch1x1.conv.weight': array, ...}; counts of batches are left out.
  """
  arrays = {}
  for name, value in state.items():
    *module, kind, leaf = name.rsplit('.', 2)
    if leaf == 'num_batches_tracked':
      continue
    array = np.asarray(value, np.float32)
    if array.ndim in (2, 4):
      array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
    ours = '.'.join([*module, _LEAVES.get(f'{kind}.{leaf}', f'{kind}.{leaf}')]).replace('.', '/')
    arrays[ours] = np.ascontiguousarray(array)
  return arrays


def parameters(arrays: Mapping[str, np.ndarray], where: object) -> PyTree:
  """{'Mixed_5b/branch1x1/kernel': float32, ...} as the parameters of `gen_ai.nets.inception.Inception`.

  Args:
    arrays: by name.
    where: the file that held them, for messages.

  Raises:
    UserError: the first name that is missing or too many, or the first array of another shape or not finite.
  """
  image = jax.ShapeDtypeStruct((1, inception.SIDE, inception.SIDE, 3), jnp.float32)
  wanted = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)['params']
  named = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  shapes = {named(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
  for name in {**shapes, **arrays}:
    problem = ''
    if name not in arrays:
      problem = f'there is no {name}'
    elif name not in shapes:
      problem = f'the network has no {name}'
    elif arrays[name].shape != shapes[name]:
      problem = f'{name} is {list(arrays[name].shape)} instead of {list(shapes[name])}'
    elif not np.isfinite(arrays[name]).all():
      problem = f'{name} holds a NaN or an infinity'
    if problem:
      raise UserError(f'{where} holds no weights of the FID Inception network: {problem}.')
  return jax.tree_util.tree_map_with_path(lambda path, _: np.asarray(arrays[named(path)], np.float32), wanted)


def read(path: Path) -> tuple[PyTree, str]:
  """(parameters, sha256 of the file they were converted from) of a file that `convert` wrote.

  Raises:
    UserError: no such file, another kind of file, or weights that do not fit the network.
  """
  way_out = 'Make it with `python -m gen_ai.convert_inception PUBLISHED.pth OUT.npz`.'
  if not path.is_file():
    raise UserError(f'{path}: there is no such file of Inception weights. {way_out}')
  try:
    with zipfile.ZipFile(path):  # an array alone would be read too, as something else
      pass
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
    source = str(arrays.pop(_SOURCE))
  except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f'{path} is no file of converted Inception weights. {way_out}') from error
  return parameters(arrays, path), source


def _read_torch(path: Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      'converting PyTorch weights needs PyTorch: `pip install torch --index-url '
      'https://download.pytorch.org/whl/cpu`. Nothing else does.'
    ) from error
  try:
    state = torch.load(path, map_location='cpu', weights_only=True)
    return {name: value.numpy() for name, value in state.items()}
  except Exception as error:  # pickle, zip or torch: what a foreign file makes it raise is not documented
    raise UserError(f'{path} cannot be read as a file of PyTorch weights ({type(error).__name__}).') from error


def convert(published: Path, out: Path, any_weights: bool = False) -> str:
  """Writes `out`.npz, whole or not at all; returns the sha256 (hex) of `published`.

  Args:
    published: pytorch-fid's file of PyTorch weights.
    out: ends in .npz.
    any_weights: take a file of another hash too.

  Raises:
    UserError: no such file, another hash without `any_weights`, no PyTorch, weights of another network, or a place
      that cannot be written.
  """
  if out.suffix != '.npz':
    raise UserError(f'{out} must end in .npz.')
  try:
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
  except OSError as error:
    raise UserError(f'{published} cannot be read: {error.strerror}.') from error
  if digest != PUBLISHED and not any_weights:
    raise UserError(
      f'{published} is not the published file: its SHA-256 is {digest}, not {PUBLISHED}. Download it '
      'again, or say --any_weights to use other weights.'
    )
  arrays: dict[str, Any] = from_torch(_read_torch(published))
  parameters(arrays, published)
  arrays[_SOURCE] = np.asarray(digest)
  partial = out.with_name(f'{out.name}.part')
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open('wb') as file:
      np.savez(file, **arrays)
    partial.replace(out)
  except OSError as error:
    partial.unlink(missing_ok=True)
    raise UserError(f'{out} cannot be written: {error.strerror}.') from error
  return digest
