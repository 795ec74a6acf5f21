"""GPT-2 as its authors laid it out, 124M to 1.5B parameters, half a million tokens an update.

Claim: `--plan` says of 8 H100s: 22.8 GB a device, at most 8.5M tokens/s; of `gpt2_124m.py:1.5b`, whose parameters are
  split, 10.4 GB and 620,000 tokens/s. Its loss has not been measured.
Command: python launch.py --config=configs/gpt2_124m.py --plan --devices=8
Cost: of the plan 13 CPU seconds, under a minute on 2 busy cores. Of training at least 21 minutes on 8 H100s, of `1.5b`
  4.7 hours: 20,000 times the least seconds of an update that the plan prints. No GPU has run it.
"""

from gen_ai.config import make_config
from gen_ai.core.errors import UserError
from gen_ai.sweep.space import log_uniform

# Layers, heads, width, peak learning rate (arXiv 2005.14165, table 2.1), and how the parameters lie over the devices.
SIZES = {
  '124m': (12, 12, 768, 6e-4, 1),
  '355m': (24, 16, 1024, 3e-4, 1),
  '774m': (36, 20, 1280, 2.5e-4, 8),
  '1.5b': (48, 25, 1600, 2e-4, 8),
}


def get_config(size: str = '124m'):
  """The run of a size, on text that stands for the user's: data.name=text:GLOB, data.tokens=bpe:FOLDER of GPT-2's."""
  if size not in SIZES:
    raise UserError(f'configs/gpt2_124m.py:{size} is none of its sizes: {", ".join(SIZES)}.')
  layers, heads, width, lr, fsdp = SIZES[size]
  gpt2 = dict(gated=False, activation='gelu', norm='layer', positions='learned', qk_norm=False, bias=True)
  return make_config(
    'lm',
    'python_stdlib',
    precision='bf16',
    run=dict(name=f'gpt2_{size}', steps=20_000, log_every=10),
    # 512 x 1,024 tokens; as many kinds of tokens as GPT-2's own tokenizer has, so that weights go to and fro.
    data=dict(batch_size=512, block_size=1024, tokens='bpe:50257'),
    model=gpt2 | dict(layers=layers, heads=heads, width=width, remat='full' if fsdp > 1 else 'none'),
    loss=dict(chunk=8192),
    mesh=dict(fsdp=fsdp),
    optim=dict(
      name='adamw',
      lr=lr,
      b2=0.95,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule='cosine',
      warmup_steps=700,
      end_factor=0.1,
      accumulate=8,
    ),
    sample=dict(n=8, length=200, top_k=200),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(1e-4, 3e-3), 'optim.weight_decay': log_uniform(1e-3, 1.0)}


def tiny():
  """What a run of seconds has besides: bytes in place of a tokenizer, any number of devices."""
  return {'data.tokens': 'byte', 'optim.accumulate': 2, 'mesh.fsdp': 1, 'precision': 'fp32', 'loss.chunk': 100}
