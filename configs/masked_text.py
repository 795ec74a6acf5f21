"""Masked diffusion (MDLM, LLaDA) of Tiny Shakespeare on the Transformer of `lm_shakespeare.py:modern`.

Claim: the bound of a model that writes in any order beside the exact figure of one that writes from left to right: same
  text, same tokens in the same windows, 800,128 parameters against 800,000, the same updates of the same batches.
  Seed 0, validation: at most 2.229 nats a character, 3.216 bits a byte, half way (1,000 of the 2,000 updates, learning
  rate still at half its peak); `lm_shakespeare.py:modern` ends at 1.560 nats. Few words are right yet, but speakers and
  lines are, `complete` fills holes, and `score` takes 71 bits for a line and 108 for it spelt backwards.
Command: python -m gen_ai.data.prepare tiny_shakespeare && python launch.py --config=configs/masked_text.py
Cost: 3.5 CPU minutes for these 1,000 updates, compilation and the evaluation included.
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
