"""configs/gan.py at its sweep_note and configs/wgan_gp.py as a PyTorch user writes them: the same computation."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

ACTIVATIONS = {'relu': lambda: nn.ReLU(inplace=True), 'leaky_relu': lambda: nn.LeakyReLU(0.2, inplace=True)}


def mlp(widths: Sequence[int], activation: str, *last: nn.Module) -> nn.Sequential:
  """Linear layers with an activation between them, then `last`: [B, widths[0]] -> [B, widths[-1]]."""
  layers: list[nn.Module] = []
  for before, after in zip(widths[:-1], widths[1:], strict=True):
    layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
  return nn.Sequential(*layers[:-1], *last)


def batches(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
  """float32 [B, pixels] in [-1, 1] out of uint8 [N, H, W, C], a new order each epoch, without an end.

  The data set is one tensor in memory, which beats a DataLoader for data this small.
  """
  data = torch.from_numpy(images).flatten(1)
  while True:
    for index in torch.randperm(len(data)).split(batch_size):
      if len(index) == batch_size:
        yield data[index].float().div_(127.5).sub_(1.0)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
  """Mean of (||grad D(eps real + (1 - eps) fake)||_2 - 1)^2 (arXiv 1704.00028, eq. 3), for [B, pixels]; eps [B, 1]."""
  mixed = (eps * real + (1 - eps) * fake).requires_grad_()
  (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
  return (gradient.norm(2, dim=1) - 1).square().mean()


class GAN:
  """Networks, optimisers and data of a GAN config with MLPs."""

  def __init__(self, config: ConfigDict, images: np.ndarray, compiled: bool = False):
    model, optim, loss = config.model, config.optim, config.loss
    pixels = math.prod(images.shape[1:])
    self.kind, self.weight, self.n_critic = loss.kind, loss.penalty, loss.n_critic
    self.penalised = loss.constraint == 'gradient_penalty'
    self.shape = (config.data.batch_size, model.latent)
    self.generator = mlp((model.latent, *model.g_widths, pixels), model.g_activation, nn.Tanh())
    self.critic = mlp((pixels, *model.d_widths, 1), model.d_activation)
    rule = {'lr': optim.lr, 'betas': (optim.b1, optim.b2), 'eps': optim.eps, 'fused': True}
    self.g_optim = torch.optim.Adam(self.generator.parameters(), **rule)
    self.d_optim = torch.optim.Adam(self.critic.parameters(), **rule)
    self.batches = batches(images, config.data.batch_size)
    # The penalty differentiates twice, which torch.compile does not support: it takes the plain critic.
    self.draw = torch.compile(self.generator) if compiled else self.generator
    self.score = torch.compile(self.critic) if compiled else self.critic

  @property
  def parameters(self) -> int:
    """Trainable parameters of both networks."""
    return sum(p.numel() for net in (self.generator, self.critic) for p in net.parameters())

  def d_loss(self, real: Tensor, fake: Tensor, eps: Tensor | None = None) -> Tensor:
    """What the discriminator minimises on images [B, pixels]; eps [B, 1] where there is a penalty."""
    real_logits, fake_logits = self.score(real), self.score(fake)
    if self.kind == 'wasserstein':
      loss = fake_logits.mean() - real_logits.mean()
    else:
      loss = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
      loss = loss + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return loss if eps is None else loss + self.weight * gradient_penalty(self.critic, real, fake, eps)

  def g_loss(self, z: Tensor) -> Tensor:
    """What the generator minimises on latents [B, Z]."""
    logits = self.score(self.draw(z))
    if self.kind == 'wasserstein':
      return -logits.mean()
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

  def step(self) -> Tensor:
    """n_critic discriminator updates, each on a batch of its own, and one generator update; returns its loss."""
    for _ in range(self.n_critic):
      real = next(self.batches)
      with torch.no_grad():
        fake = self.draw(torch.randn(self.shape))
      self.d_optim.zero_grad()
      self.d_loss(real, fake, torch.rand(len(real), 1) if self.penalised else None).backward()
      self.d_optim.step()
    self.g_optim.zero_grad()
    loss = self.g_loss(torch.randn(self.shape))
    loss.backward(inputs=list(self.generator.parameters()))  # no gradients of the critic's weights
    self.g_optim.step()
    return loss.detach()
