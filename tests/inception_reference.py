"""What pytorch-fid's network makes of a few images under random weights: the fixture of tests/test_nets_inception.py.

Where torch, torchvision and pytorch-fid are installed, `python tests/inception_reference.py` writes it again.
"""

import zlib
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent / 'data' / 'inception_reference.npz'
SHAPES = ((28, 28, 1), (48, 33, 3), (301, 320, 3))  # grey, not square, larger than the network's own 299


def images():
  """uint8 [H, W, C] each: noise that is smooth enough to be told from grey by a convolution."""
  noise = np.random.default_rng(0)
  coarse = [noise.integers(0, 256, (-(-H // 4), -(-W // 4), C), np.uint8) for H, W, C in SHAPES]
  return [np.repeat(np.repeat(x, 4, 0), 4, 1)[:H, :W] for x, (H, W, _) in zip(coarse, SHAPES, strict=True)]


def random_weight(name, shape):
  """float32 values of PyTorch's array `name`, at scales that keep activations of order 1 through the network."""
  noise = np.random.default_rng(zlib.crc32(name.encode()))
  if len(shape) > 1:
    value = noise.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
  elif name.endswith(('bn.weight', 'running_var')):
    value = noise.uniform(0.7, 1.4, shape)
  else:
    value = 0.1 * noise.standard_normal(shape)
  return value.astype(np.float32)


def reference_features():
  """float32 [N, 2048]: pytorch-fid's own wrapper, resize included, with `random_weight`s instead of a download."""
  import torch
  from pytorch_fid import inception

  own = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None).state_dict()
  state = {
    name: torch.from_numpy(random_weight(name, tuple(value.shape))) if value.ndim else value
    for name, value in own.items()
  }
  inception.load_state_dict_from_url = lambda *args, **options: state
  model = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
  rows = []
  for image in images():
    unit = torch.from_numpy(np.broadcast_to(image, (*image.shape[:2], 3)).transpose(2, 0, 1) / np.float32(255))
    with torch.no_grad():
      rows.append(model(unit[None])[0].numpy().reshape(-1))
  return np.stack(rows)


if __name__ == '__main__':
  FIXTURE.parent.mkdir(exist_ok=True)
  np.savez_compressed(FIXTURE, features=reference_features())
  print(f'{FIXTURE} written')
