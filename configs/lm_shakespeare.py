"""nanoGPT's CPU setting on Tiny Shakespeare characters: validation loss 1.92 nats or lower in 2,000 steps.

Claim: 4 layers x 128, context 64, batch 12, AdamW 1e-3 to 1e-4, no dropout, 90/10 split: nanoGPT itself measured 1.919
  nats per character there, and this gives 1.911 (seed 0). `lm_shakespeare.py:modern` has today's layout (RMS norm,
  rotary positions, gated MLP, normalised queries and keys) and Muon, with 800,000 parameters in place of 804,096 and
  the same tokens: 1.560, 1.563 and 1.557 (seeds 0, 1, 2). `lm_shakespeare.py:gpu` is nanoGPT's GPU setting (6 layers
  x 384, context 256, batch 64, 5,000 steps, dropout 0.2), for which nanoGPT prints 1.4697.
Command: python -m gen_ai.data.prepare tiny_shakespeare && python launch.py --config=configs/lm_shakespeare.py
Cost: 2 minutes on 2 CPU cores (`modern` ran on busy ones alone). The GPU setting needs 40 seconds of one A100 at
  least, by `--plan --devices=1 --accelerator=a100` of bytes in place of characters; nanoGPT's own took about 3 minutes.
"""

from gen_ai.config import make_config
from gen_ai.core.errors import UserError
from gen_ai.sweep.space import log_uniform


def get_config(setting: str = 'cpu'):
  """The run in nanoGPT's 'cpu' or 'gpu' setting, or in the 'modern' one of the same size as 'cpu'."""
  if setting not in ('cpu', 'modern', 'gpu'):
    raise UserError(f"configs/lm_shakespeare.py:{setting} is none of its settings: 'cpu', 'modern' or 'gpu'.")
  gpu = setting == 'gpu'
  layout = dict(gated=False, activation='gelu', norm='layer', positions='learned', qk_norm=False)
  if setting == 'modern':
    layout = dict(gated=True, activation='silu', norm='rms', positions='rope', qk_norm=True)
  size = dict(batch_size=64, block_size=256) if gpu else dict(batch_size=12, block_size=64)
  return make_config(
    'lm',
    'tiny_shakespeare',
    run=dict(name='lm_shakespeare', steps=5000 if gpu else 2000),
    data=size | dict(split='train|validation+test|test', tokens='char'),  # 90/10, as nanoGPT cuts it
    model=layout | (dict(layers=6, heads=6, width=384, dropout=0.2) if gpu else {}),
    optim=dict(
      name='muon' if setting == 'modern' else 'adamw',
      lr=3e-3 if setting == 'modern' else 1e-3,
      b2=0.99,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule='cosine',
      warmup_steps=100,
      end_factor=0.1,
    ),
    sample=dict(length=500, top_k=200),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'optim.weight_decay': log_uniform(1e-3, 1.0)}


def tiny():
  """What a run of seconds has besides: text that needs no preparation."""
  return {'data.name': 'python_stdlib'}
