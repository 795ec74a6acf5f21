"""GPT-2's network, trained as a PyTorch user writes it: the same computation as experiments/lm.py."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn


class Block(nn.Module):
  """Pre-norm attention and MLP: [B, T, D] -> [B, T, D]."""

  def __init__(self, width: int, heads: int, dropout: float, bias: bool):
    super().__init__()
    self.heads, self.dropout = heads, dropout
    self.attention_norm = nn.LayerNorm(width, bias=bias)
    self.qkv = nn.Linear(width, 3 * width, bias=bias)
    self.attention_out = nn.Linear(width, width, bias=bias)
    self.mlp_norm = nn.LayerNorm(width, bias=bias)
    self.mlp_in = nn.Linear(width, 4 * width, bias=bias)
    self.mlp_out = nn.Linear(4 * width, width, bias=bias)

  def forward(self, x: Tensor) -> Tensor:
    """Adds attention over earlier positions, then the MLP."""
    B, T, D = x.shape
    query, key, value = (
      part.view(B, T, self.heads, D // self.heads).transpose(1, 2)
      for part in self.qkv(self.attention_norm(x)).split(D, dim=2)
    )
    p = self.dropout if self.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, dropout_p=p, is_causal=True)
    x = x + F.dropout(self.attention_out(attended.transpose(1, 2).reshape(B, T, D)), p)
    return x + F.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))), p)


class Transformer(nn.Module):
  """GPT-2's network with tied embeddings: tokens int64 [B, T] -> logits [B, T, V]."""

  def __init__(self, vocab: int, context: int, config_model: ConfigDict):
    super().__init__()
    layers, heads, width, dropout, bias = (config_model[n] for n in ('layers', 'heads', 'width', 'dropout', 'bias'))
    self.token_embedding = nn.Embedding(vocab, width)
    self.position_embedding = nn.Embedding(context, width)
    self.blocks = nn.ModuleList(Block(width, heads, dropout, bias) for _ in range(layers))
    self.final_norm = nn.LayerNorm(width, bias=bias)
    self.dropout = dropout
    for name, parameter in self.named_parameters():
      if parameter.ndim == 2:
        into_residual = name.endswith(('attention_out.weight', 'mlp_out.weight'))
        nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if into_residual else 0.02)

  def forward(self, tokens: Tensor) -> Tensor:
    """Logits of each next token."""
    x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
    x = F.dropout(x, self.dropout, self.training)
    for block in self.blocks:
      x = block(x)
    return F.linear(self.final_norm(x), self.token_embedding.weight)


class LM:
  """Network, optimiser, schedule and data of a language-model config."""

  def __init__(self, config: ConfigDict, text: np.ndarray, vocab: int, compiled: bool = False, device: str = 'cpu'):
    optim = config.optim
    self.device, self.half = device, config.precision == 'bf16'
    self.optim_config, self.steps, self.count = optim, config.run.steps, 0
    self.tokens = torch.from_numpy(text).to(device)
    self.batch_size, self.context = config.data.batch_size, config.data.block_size
    self.model = Transformer(vocab, self.context, config.model).to(device)
    self.predict = torch.compile(self.model) if compiled else self.model
    weights = list(self.model.parameters())
    groups = [
      {'params': [p for p in weights if p.ndim >= 2], 'weight_decay': optim.weight_decay},
      {'params': [p for p in weights if p.ndim < 2], 'weight_decay': 0.0},
    ]
    self.optim = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.b1, optim.b2), eps=optim.eps, fused=True)

  @property
  def parameters(self) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in self.model.parameters())

  def lr(self) -> float:
    """Linear warm-up, then a cosine to the end factor."""
    optim = self.optim_config
    progress = min(max(self.count - optim.warmup_steps, 0) / max(self.steps - optim.warmup_steps, 1), 1.0)
    factor = optim.end_factor + (1 - optim.end_factor) * 0.5 * (1 + math.cos(math.pi * progress))
    return optim.lr * factor * min((self.count + 1) / (optim.warmup_steps + 1), 1.0)

  def loss(self, window: Tensor) -> Tensor:
    """Mean nats of the last T of T + 1 tokens int64 [B, T + 1]."""
    with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
      return F.cross_entropy(self.predict(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

  def step(self) -> Tensor:
    """One update on random windows of the text; returns its loss."""
    start = torch.randint(len(self.tokens) - self.context, (self.batch_size, 1), device=self.device)
    window = self.tokens[start + torch.arange(self.context + 1, device=self.device)].long()
    for group in self.optim.param_groups:
      group['lr'] = self.lr()
    self.optim.zero_grad()
    loss = self.loss(window)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), self.optim_config.clip_norm)
    self.optim.step()
    self.count += 1
    return loss.detach()
