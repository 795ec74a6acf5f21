r"""Fine-tuning by low-rank adapters (LoRA, arXiv 2106.09685): a few weights are trained beside those of another run.

Claim: the model begins as the other run is evaluated, bit for bit, and its weights stay; adapters of rank 8 in all
  matrices of blocks are 1.2 of GPT-2's 124 million parameters. A model of Python's source (configs/lm.py, 1.4 million
  parameters, of which 65,792 are trained) came to 2.814 bits a byte of Tiny Shakespeare, and to write plays, seed 0.
Command: python launch.py --config=configs/lm.py --run_dir=runs/base && \
  python launch.py --config=configs/lora.py:runs/base --init_from=runs/base
Cost: 4 minutes for that on 2 CPU cores that other programs kept busy.
"""

from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.run import older_runs


def get_config(run: str = ''):
  """Adapters for the model of the run directory `run`, on its data; for that of configs/lm.py if not given."""
  config = older_runs.read_config(run)[0] if run else config_lib.load('configs/lm.py')
  if config.experiment != 'lm':
    raise UserError(f"configs/lora.py:{run} is a run of the family '{config.experiment}'; adapters are for lm.")
  return config_lib.override(
    config,
    {
      'run.name': 'lora',
      'run.steps': 500,
      'run.log_every': 50,
      **{f'run.{name}_every': 250 for name in ('eval', 'sample', 'save')},
      'model.lora': 8,
      'optim.name': 'adamw',
      'optim.lr': 2e-3,
      'optim.schedule': 'cosine',
      'optim.warmup_steps': 20,
      'optim.end_factor': 0.1,
      'optim.decay_steps': 0,
      'optim.weight_decay': 0.0,
      'optim.clip_norm': 1.0,
      'optim.ema_decay': 0.0,
    },
  )
