"""Transformer language model of today's layout, on the Python standard library's own source, by byte-level BPE.

Claim: 1.3 million parameters write what looks like Python after 1,000 updates: 1.655 bits a byte of the validation text
  (3.900 nats a token, seed 0). `lm.py:d6` sets all sizes by the depth, `--config.data.tokens=byte` takes bytes.
Command: python launch.py --config=configs/lm.py
Cost: 10 minutes on 2 CPU cores that other programs kept busy, less on idle ones.
"""

import re

from gen_ai.config import by_depth, make_config, override
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'python_stdlib'):
  """The run on the text of `data`; or, for 'd6', of depth 6 on the default text, see `gen_ai.config.by_depth`."""
  dial = by_depth(data, 'configs/lm.py') if re.fullmatch('d[0-9]+', data) else {}
  config = make_config(
    'lm',
    'python_stdlib' if dial else data,
    run=dict(steps=1000),
    data=dict(batch_size=16, block_size=128, tokens='bpe:4096'),
    optim=dict(name='muon', lr=3e-3, b2=0.99, weight_decay=0.1, clip_norm=1.0, schedule='wsd', warmup_steps=50),
    sample=dict(prompt='def ', length=150),
  )
  return override(config, dial)


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-3, 1e-2), 'optim.weight_decay': log_uniform(1e-3, 1.0)}


def tiny():
  """What a run of seconds has besides: tokens that need not be learned."""
  return {'data.tokens': 'byte'}
