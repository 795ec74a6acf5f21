"""Masked diffusion (MDLM, LLaDA) of Tiny Shakespeare on the Transformer of `lm_shakespeare.py:modern`.

Claim: ?
Command: python -m gen_ai.data.prepare tiny_shakespeare && python launch.py --config=configs/masked_text.py
Cost: ?
"""

from gen_ai.config import make_config, override
from gen_ai.sweep.space import choice, log_uniform


def get_config(data: str = 'tiny_shakespeare'):
  """The run on the text of `data`; Tiny Shakespeare is cut as `lm_shakespeare.py` cuts it."""
  config = make_config(
    'masked_text',
    data,
    run=dict(steps=2000, eval_every=1000, sample_every=1000, save_every=1000),
    data=dict(batch_size=12, block_size=64, tokens='char'),
    optim=dict(
      name='muon',
      lr=3e-3,
      b2=0.99,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule='cosine',
      warmup_steps=100,
      end_factor=0.1,
    ),
    sample=dict(length=500),
  )
  return override(config, {'data.split': 'train|validation+test|test'} if data == 'tiny_shakespeare' else {})


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-3, 1e-2), 'loss.masks': choice('counted', 'independent')}


def tiny():
  """What a run of seconds has besides: text that needs no preparation."""
  return {'data.name': 'python_stdlib'}
