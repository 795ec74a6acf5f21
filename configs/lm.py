"""Byte-level Transformer language model on the Python standard library's own source.

Claim: a small decoder-only Transformer learns the look of Python source on a CPU: the suite's short training must fall
  below 2.6 nats a byte (log 256 = 5.5 at the start). Its figure at this length has not been measured.
Command: python launch.py --config=configs/lm.py
Cost: minutes on 2 CPU cores; not measured.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'python_stdlib'):
  """The run, on the text of `data`."""
  return make_config(
    'lm',
    data,
    run=dict(steps=2000),
    data=dict(batch_size=16, block_size=128),
    optim=dict(
      name='adamw',
      lr=2e-3,
      b2=0.99,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule='cosine',
      warmup_steps=100,
      end_factor=0.1,
    ),
    sample=dict(prompt='def '),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 1e-2), 'optim.weight_decay': log_uniform(1e-3, 1.0)}
