"""A Transformer of Llama 3's layout and size, 8B parameters, for hundreds of accelerators.

Claim: `--plan` says of 256 H100s: 33.5 GB a device, at most 3.8M tokens/s, bound by the network. It was not trained.
Command: python launch.py --config=configs/llama_8b.py --plan --devices=256
Cost: of the plan 13 CPU seconds, a minute on 2 busy cores, 0.6 GB of memory. Of training at least 6.1 hours on 256
  H100s: 20,000 times the least seconds of an update that the plan prints. No GPU has run it.
"""

from gen_ai.config import make_config
from gen_ai.sweep.space import log_uniform


def get_config(data: str = 'python_stdlib'):
  """The run on the text of `data`, such as text:GLOB, by data.tokens=bpe:FILE or by tokens learned from it."""
  return make_config(
    'lm',
    data,
    precision='bf16',
    run=dict(name='llama_8b', steps=20_000, log_every=10),
    # 4M tokens an update, in blocks of 4,096; as many kinds of tokens as Llama 3's tokenizer has.
    data=dict(batch_size=1024, block_size=4096, tokens='bpe:128256'),
    # arXiv 2407.21783, table 3
    model=dict(
      layers=32,
      width=4096,
      heads=32,
      kv_heads=8,
      mlp_width=14_336,
      rope_theta=500_000.0,
      qk_norm=False,
      tied=False,
      remat='full',
    ),
    loss=dict(chunk=8192),
    # Parameters are split over the 8 devices that fast links join; over all of them the network would bound the speed.
    mesh=dict(fsdp=8),
    optim=dict(
      name='adamw',
      lr=3e-4,
      b2=0.95,
      weight_decay=0.1,
      clip_norm=1.0,
      schedule='cosine',
      warmup_steps=2000,
      end_factor=0.1,
      accumulate=4,
    ),
    eval=dict(batch_size=256),
    sample=dict(n=8, length=200),
  )


def space():
  """Where a random search looks."""
  return {'optim.lr': log_uniform(3e-5, 3e-3), 'optim.weight_decay': log_uniform(1e-3, 1.0)}


def tiny():
  """What a run of seconds has besides: bytes in place of a tokenizer, any number of devices."""
  sizes = {'model.kv_heads': 1, 'model.mlp_width': 24, 'loss.chunk': 100}
  return sizes | {'data.tokens': 'byte', 'optim.accumulate': 2, 'mesh.fsdp': 1, 'precision': 'fp32'}
