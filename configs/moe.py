"""Mixture of experts: a Transformer language model with 8 MLPs a block, of which a router gives each token 2.

Claim: 2.9 million parameters, of which a token takes as many as configs/lm.py has, reach 1.631 bits a byte of the
  validation text after the same 1,000 updates, and that 1.655 (seed 0 both).
Command: python launch.py --config=configs/moe.py
Cost: 19 minutes on 2 CPU cores that other programs kept busy: all experts are computed for all tokens.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'python_stdlib'):
  """The run on the text of `data`; two experts hold as many hidden units as the one MLP of configs/lm.py."""
  return make_config(
    'lm',
    data,
    run=dict(name='moe', steps=1000),
    data=dict(batch_size=16, block_size=128, tokens='bpe:4096'),
    model=dict(experts=8, mlp_width=172),
    optim=dict(name='muon', lr=3e-3, b2=0.99, weight_decay=0.1, clip_norm=1.0, schedule='wsd', warmup_steps=50),
    sample=dict(prompt='def ', length=150),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-3, 1e-2), 'loss.balance': log_uniform(1e-3, 1e-1)}


def tiny():
  """What a run of seconds has besides: tokens that need not be learned, few and small experts."""
  return {'data.tokens': 'byte', 'model.experts': 4, 'model.mlp_width': 8}
