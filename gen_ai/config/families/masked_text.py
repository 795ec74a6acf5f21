"""The fields of the configs of experiments/masked_text.py: a language model's, but for what is of causal attention."""

from gen_ai.config.families.lm import FIELDS as LM
from gen_ai.config.field import Field, size

_OF_LM = {
  *('experts', 'chosen', 'capacity', 'window', 'pattern', 'documents', 'lora', 'lora_scale', 'lora_on'),
  *('balance', 'router_z', 'z', 'repetition'),
}

FIELDS: dict[str, Field] = {
  **{path: field for path, field in LM.items() if path.partition('.')[2] not in _OF_LM},
  # how tokens are hidden in training, to the same expected loss: 'counted', a random number of them, each as likely, or
  # 'independent', each with a random probability
  'loss.masks': Field('counted', choices=('counted', 'independent')),
  'eval.masks': size(4, tiny=2),  # masks of each text over which the bound is a mean; more make its error smaller
  'sample.block': size(32, tiny=8),  # tokens that are filled in together, before those behind them are begun
  # evaluations of the model a block, or a text to complete; 0: one a token, which draws from the model's distribution
  'sample.steps': Field(0),
  # which tokens are filled in first: 'random' | 'confident' (those drawn with the highest probability)
  'sample.order': Field('random', choices=('random', 'confident')),
  'sample.masks': size(64, tiny=2),  # masks over which the task 'score' takes its mean
}
