"""Images completed by a trained run: python -m gen_ai.complete RUN_DIR --images=x.npy [--mask=m.npy] [--out=x.png]."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gen_ai import command, external, keys, pictures, record, restored
from gen_ai import config as config_lib
from gen_ai.config import LARGEST_SEED
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.errors import UserError
from gen_ai.maths import masks
from gen_ai.maths.pixels import to_uint8
from gen_ai.types import Spec

FLAGS = flags.FLAGS
flags.DEFINE_string('images', '', '.npy file of images to complete: uint8 [N, H, W, C], or floats in [-1, 1]; '
                    'test images of the data of the run if not given')  # fmt: skip
flags.DEFINE_string('mask', '', '.npy file, not 0 where a pixel is hidden: [H, W] for all images, or [N, H, W]; or '
                    'box, half or centre; masks as in training if not given')  # fmt: skip
flags.DEFINE_integer('n', 16, 'how many of the images, from the first on', lower_bound=1)
flags.DEFINE_string('out', 'completed.png', 'grid.png with rows hidden, completed, original; or completed.npy')
flags.DEFINE_integer('seed', 0, 'of what is drawn', lower_bound=0, upper_bound=LARGEST_SEED)
flags.DEFINE_string('step', 'latest', "checkpoint: 'latest', 'best' or a step")
ROW = 8  # images


def read_mask(given: str, spec: Spec, n: int) -> np.ndarray:
  """float32 [n, H, W, 1], 1 where a pixel is hidden. Raises UserError for a file that is no mask of these images."""
  H, W, _ = spec.image_shape
  try:
    with Path(given).open('rb') as file:  # NumPy would leave a torn archive open
      mask = np.load(file, allow_pickle=False)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f'--mask={given} is none of {", ".join(masks.KINDS)} and cannot be read as a NumPy array (.npy): '
                    f'{error}') from error  # fmt: skip
  if isinstance(mask, np.lib.npyio.NpzFile):
    mask.close()
  if not isinstance(mask, np.ndarray) or mask.ndim < 2:
    raise UserError(f'--mask={given} must be one NumPy array [{H}, {W}] or [{n}, {H}, {W}], saved by np.save (.npy).')
  shape = tuple(mask.shape)
  if shape == (H, W):
    mask = np.broadcast_to(mask, (n, H, W))
  elif shape in ((len(mask), H, W, 1), (len(mask), H, W)) and len(mask) >= n:
    mask = mask[:n].reshape(n, H, W)
  else:
    raise UserError(f'--mask={given} has the shape {list(shape)}: for {n} images of {H}x{W} it must be [{H}, {W}] or '
                    f'[{n}, {H}, {W}].')  # fmt: skip
  return (np.asarray(mask) != 0).astype(np.float32)[..., None]


def test_images(run_dir: str, config: ConfigDict, n: int) -> np.ndarray:
  """The first `n` test images of the data of the run, uint8 [n, H, W, C]. Raises UserError where it has changed."""
  dataset = dataset_lib.load(config.data)
  identity.check(dataset, record.read_run(run_dir)['data']['fingerprint'], run_dir)
  source = dataset.splits['test']
  return source.read(source.eval_index(np.arange(min(n, len(source)))))['image']


def rows(parts: tuple[np.ndarray, ...]) -> np.ndarray:
  """Images [N, ...] of several kinds as a grid of ROW columns in which the kinds lie above each other."""
  n = len(parts[0])
  columns = min(ROW, n)
  padded = [np.pad(part, ((0, -n % columns), (0, 0), (0, 0), (0, 0))) for part in parts]
  lines = np.stack([part.reshape(-1, columns, *part.shape[1:]) for part in padded], axis=1)
  return pictures.grid(lines.reshape(-1, *parts[0].shape[1:]), columns)


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Completes and writes."""
  run_dir = restored.one_argument(arguments, 'gen_ai.complete')
  config, spec = restored.open_config(run_dir, overrides, ()), restored.recorded_spec(run_dir)
  out = Path(FLAGS.out)
  if out.suffix not in ('.png', '.npy'):
    raise UserError(f'--out={out} must end in .png or .npy.')
  why = record.unwritable(out, parents=True)
  if why:
    raise UserError(f'--out={out} cannot be written: {why}.')
  method = config_lib.experiment(config).build(config, spec)
  if method.conditional is None:
    raise UserError(f"config.experiment='{config.experiment}' completes no images: train configs/inpaint_gan.py.")
  if FLAGS.images:
    images = external.read_samples(FLAGS.images, spec, None, 'images')[: FLAGS.n]
  else:
    images = test_images(run_dir, config, FLAGS.n)
  index = np.arange(len(images), dtype=np.int32)
  key = keys.stream(keys.root(FLAGS.seed), 'complete')
  if FLAGS.mask in masks.KINDS or not FLAGS.mask:
    own = keys.per_example(keys.stream(key, 'mask'), jnp.asarray(index))
    mask = np.asarray(masks.draw(FLAGS.mask or config.model.mask, own, spec.image_shape[:2]))
  else:
    mask = read_mask(FLAGS.mask, spec, len(images))
  _, state, step = restored.restore(run_dir, config, spec, FLAGS.step)
  drawn = jax.jit(method.conditional)(state, {'image': images, 'hole': mask, 'index': index}, key)
  completed = to_uint8(np.asarray(drawn))
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == '.npy':
      np.save(out, completed)
    else:
      hidden = np.where(mask > 0, np.uint8(128), images)
      out.write_bytes(pictures.encode_png(rows((hidden, completed, images))))
  except OSError as error:
    raise UserError(f'--out={out} cannot be written: {error.strerror}.') from error
  print(f'{len(images)} images completed by step {step}: {out}')
  return 0


if __name__ == '__main__':
  command.run(main)
