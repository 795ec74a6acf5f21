"""The other side of the race: the WGAN-GP that most PyTorch users start from, on real images. Run by benchmarks.race.

python -m benchmarks.race_torch IMAGES.npy OUT_PREFIX SECONDS SEED SAMPLES trains until SECONDS after its start, imports
included, and writes what it draws to OUT_PREFIX-train.npy and -eval.npy (batch norm by the batch, as such scripts show
their samples, and by running moments), and its record to OUT_PREFIX.json.
"""

import json
import sys
import time
from pathlib import Path

BEGUN = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.machine import cores  # noqa: E402
from benchmarks.torch_gan import batches, gradient_penalty, mlp  # noqa: E402

LATENT, BATCH, N_CRITIC, PENALTY = 100, 64, 5, 10.0
ADAM = {'lr': 2e-4, 'betas': (0.5, 0.999)}
WIDTHS = (128, 256, 512, 1024)
BATCH_NORM_EPS = 0.8  # the recipe hands its 0.8 to BatchNorm1d as the second argument, which is eps
SLACK = 1.0  # seconds, for drawing


def generator(pixels: int) -> nn.Sequential:
  """100-128-256-512-1024-pixels, batch norm from the second layer on, leaky ReLU, tanh."""
  layers: list[nn.Module] = [nn.Linear(LATENT, WIDTHS[0]), nn.LeakyReLU(0.2, inplace=True)]
  for before, after in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
    layers += [nn.Linear(before, after), nn.BatchNorm1d(after, BATCH_NORM_EPS), nn.LeakyReLU(0.2, inplace=True)]
  return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], pixels), nn.Tanh())


def drawn(net: nn.Module, n: int, shape: tuple[int, ...]) -> np.ndarray:
  """uint8 [n, H, W, C] by batches of BATCH."""
  with torch.no_grad():
    parts = [net(torch.randn(BATCH, LATENT)) for _ in range(-(-n // BATCH))]
  x = torch.cat(parts)[:n].reshape(n, *shape)
  return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def train(images: np.ndarray, deadline: float) -> tuple[nn.Module, int]:
  """(the generator at the deadline, critic updates). The generator moves after every fifth critic update."""
  pixels = int(np.prod(images.shape[1:]))
  net, critic = generator(pixels), mlp((pixels, 512, 256, 1), 'leaky_relu')
  g_optim, d_optim = (torch.optim.Adam(own.parameters(), **ADAM, fused=True) for own in (net, critic))
  for number, real in enumerate(batches(images, BATCH)):
    if time.perf_counter() > deadline:
      return net, number
    z = torch.randn(BATCH, LATENT)
    with torch.no_grad():
      fake = net(z)
    loss: Tensor = critic(fake).mean() - critic(real).mean()
    loss = loss + PENALTY * gradient_penalty(critic, real, fake, torch.rand(BATCH, 1))
    d_optim.zero_grad()
    loss.backward()
    d_optim.step()
    if (number + 1) % N_CRITIC == 0:
      g_optim.zero_grad()
      (-critic(net(z)).mean()).backward(inputs=list(net.parameters()))
      g_optim.step()
  raise AssertionError('batches have no end')


def main() -> None:
  """Reads the words of the module's docstring."""
  source, prefix, seconds, seed, samples = sys.argv[1:]
  torch.set_num_threads(cores())
  torch.set_flush_denormal(True)  # as XLA does
  torch.manual_seed(int(seed))
  images = np.load(source)
  net, updates = train(images, BEGUN + float(seconds) - SLACK)
  took = time.perf_counter() - BEGUN
  for mode in ('train', 'eval'):
    net.train(mode == 'train')
    np.save(f'{prefix}-{mode}.npy', drawn(net, int(samples), images.shape[1:]))
  about = {'critic_updates': updates, 'seconds': took, 'torch': torch.__version__}
  Path(f'{prefix}.json').write_text(json.dumps(about))


if __name__ == '__main__':
  main()
