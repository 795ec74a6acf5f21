"""Feature extractors: networks whose activations stand for images where samples are compared with data.

A figure means nothing without its extractor, so each says exactly what it is: name, hash of its weights, resize rule.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.averages import average_of, in_place, is_averaged
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, PyTree, Spec, State
from gen_ai.evaluate import restored
from gen_ai.evaluate.metrics import inception_weights
from gen_ai.maths.pixels import to_signed, to_unit
from gen_ai.nets import inception
from gen_ai.run import directory, info

FORMS = ('inception:FILE', 'classifier:RUN_DIR', 'random')
RANDOM_WIDTHS = (32, 64, 128)

Apply = Callable[[PyTree, Array], tuple[Array, Array | None]]


@dataclass(frozen=True, eq=False)
class Extractor:
  """A frozen network from images to features.

  Attributes:
    name: 'inception', 'classifier' or 'random'.
    params: float32 arrays on the host; `device_put` them, replicated, where `apply` is to run.
    apply: (params, image uint8 [B, H, W, C]) -> (features float32 [B, dim], logits float32 [B, classes] or None);
      pure, traceable, and the same for an image whatever the batch it is in.
    weights: sha256 (hex) of `params`: names, shapes and values, whatever file or device they came from.
    resize: what is done to the size of an image.
    dim: number of features.
    has_logits: whether `apply` gives logits.
    num_classes, class_names: as in `Spec`, of the data whose labels the logits stand for; 0 and none where they stand
      for none of ours.
    shape: the only (H, W, C) it takes; None: any.
    block: images that should be computed at once, for memory's sake.
    about: more of what a figure rests on, for the stamp.
  """

  name: str
  params: PyTree
  apply: Apply
  weights: str
  resize: str
  dim: int
  has_logits: bool
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  shape: tuple[int, int, int] | None = None
  block: int = 256
  about: Mapping[str, Any] = field(default_factory=dict)

  def describe(self) -> dict[str, Any]:
    """What the stamp of a figure holds: JSON types."""
    return {'extractor': self.name, 'weights': self.weights, 'resize': self.resize, 'features': self.dim, **self.about}


def make(text: str, spec: Spec) -> Extractor:
  """The extractor that `text` names, for images like those of `spec`.

  Args:
    text: one of `FORMS`.
    spec: what the images to be judged are like.

  Raises:
    UserError: an unknown form, weights or a run that do not fit (names what does not).
  """
  name, _, where = text.partition(':')
  if text == 'random':
    return _random(spec)
  if name == 'inception' and where:
    return _inception(Path(where), spec)
  if name == 'classifier' and where:
    return _classifier(where, spec)
  raise UserError(f"--extractor='{text}' is none of {', '.join(FORMS)}.")


def content_hash(tree: PyTree) -> str:
  """sha256 (hex) of the arrays of `tree`: their paths, types, shapes and values."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
    digest.update(f'\n{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _exact(apply: Apply) -> Apply:
  """`apply` with full float32 products: an accelerator's shortened ones would make another extractor of it."""

  def run(params: PyTree, image: Array) -> tuple[Array, Array | None]:
    with jax.default_matmul_precision('highest'):
      return apply(params, image)

  return run


# Inception.


def inception_input(image: Array) -> Array:
  """uint8 [B, H, W, 1 or 3] as pytorch-fid shows it to its network: float32 [B, 299, 299, 3] in [-1, 1]."""
  x = 2.0 * inception.resize(to_unit(image)) - 1.0
  return jnp.broadcast_to(x, (*x.shape[:3], 3))


def inception_features(params: PyTree, image: Array) -> tuple[Array, Array]:
  """Features [B, 2048] of the last pool and logits [B, 1008] of uint8 images [B, H, W, 1 or 3].

  The logits are without their bias, as in the code of the Inception score (arXiv 1606.03498).
  """
  outputs: Any = inception.Inception().apply({'params': params}, inception_input(image))
  features, logits = outputs
  return features, logits - params['fc']['bias']


def _inception(path: Path, spec: Spec) -> Extractor:
  H, W, C = spec.image_shape
  if C not in (1, 3):
    raise UserError(f'--extractor=inception takes images of 1 or 3 channels, but these are {H}x{W}x{C}.')
  params, source = inception_weights.read(path)
  side = inception.SIDE
  resize = f'bilinear to {side}x{side}, align_corners=False, no antialias'
  return Extractor(
    'inception',
    params,
    _exact(inception_features),
    content_hash(params),
    resize,
    inception.FEATURES,
    True,
    block=64,
    about={'converted_from': source},
  )


# A classifier of this project.


def _classifier(run_dir: str, spec: Spec) -> Extractor:
  config = restored.open_config(run_dir, {'precision': 'fp32'}, ('precision',))
  data, trained_on = info.trained_on(run_dir), restored.recorded_spec(run_dir)
  method = config_lib.builder(config)(config, trained_on)
  task = method.tasks.get('features')
  if task is None:
    raise UserError(
      f"--extractor=classifier:{run_dir}: config.experiment='{config.experiment}' has no features. Give "
      'a run of configs/classifier.py.'
    )
  if trained_on.shape != spec.shape:
    ours, theirs = ('x'.join(map(str, shape)) for shape in (trained_on.shape, spec.shape))
    raise UserError(
      f'--extractor=classifier:{run_dir} was trained on {ours} images of {data.name}, but those to be '
      f'judged are {theirs}. Train configs/classifier.py on images of that shape.'
    )
  status = directory.read_status(run_dir)['state']
  if status != 'done':
    raise UserError(
      f'--extractor=classifier:{run_dir} has not finished its training ({status}): let it, with '
      f'`{command_line.printed("launch.py", resume=run_dir)}`.'
    )
  _, state, step = restored.restore(run_dir, config, trained_on, 'latest')
  averaged = is_averaged(config)
  params = {'params': average_of(config, state.ema) if averaged else state.params, 'stats': state.stats}
  params = jax.tree.map(np.asarray, params)

  def apply(params: PyTree, image: Array) -> tuple[Array, Array]:
    weights = params['params']
    state = State(jnp.int32(0), weights, (), in_place(config, weights) if averaged else (), params['stats'])
    found = task.run(state, {'image': image}, jax.random.split(jax.random.key(0), image.shape[0]))
    return found['features'], found['logits']

  like = jax.ShapeDtypeStruct((1, *spec.shape), jnp.uint8)
  dim = jax.eval_shape(apply, params, like)[0].shape[1]
  about = {'trained_on': data.name, 'trained_on_content': data.fingerprint, 'step': step, 'averaged': averaged}
  return Extractor(
    'classifier',
    params,
    _exact(apply),
    content_hash(params),
    'none',
    dim,
    True,
    trained_on.num_classes,
    trained_on.class_names,
    spec.image_shape,
    about=about,
  )


# Random convolutions.


def _random_weights(channels: int) -> dict[str, np.ndarray]:
  """Kernels float32 [4, 4, C, F] of normal numbers with variance 2 / fan in (arXiv 1502.01852), always the same."""
  noise, kernels = np.random.default_rng(0), {}
  for number, width in enumerate(RANDOM_WIDTHS):
    kernel = noise.standard_normal((4, 4, channels, width)) * np.sqrt(2.0 / (16 * channels))
    kernels[f'kernel_{number}'], channels = kernel.astype(np.float32), width
  return kernels


def random_features(params: PyTree, image: Array) -> tuple[Array, None]:
  """Strided convolutions with ReLU; means and standard deviations over pixels, [B, 256] of uint8 [B, H, W, C]."""
  x = to_signed(image)
  for name in sorted(params):
    x = lax.conv_general_dilated(x, params[name], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    x = jax.nn.relu(x)
  return jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], -1), None


def _random(spec: Spec) -> Extractor:
  params = _random_weights(spec.image_shape[2])
  dim, about = 2 * RANDOM_WIDTHS[-1], {'extractor': 'random (weak)'}
  return Extractor('random', params, _exact(random_features), content_hash(params), 'none', dim, False, about=about)
