"""The fields of the configs of experiments/lm.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, size, weight

FIELDS: dict[str, Field] = {
  'data.block_size': COMMON['data.block_size'].but(64, tiny=16),
  'data.split': COMMON['data.split'].but('auto', tiny='train[:20000]|train[20000:22000]|train[22000:24000]'),
  'model.layers': size(4, tiny=1),
  'model.heads': size(4, tiny=2),
  'model.width': size(128, tiny=16),  # D
  'model.dropout': weight(0.0, below=1.0),
  'model.bias': Field(False),  # of the linear layers and norms
  'model.activation': Field('gelu'),
  'eval.batch_size': COMMON['eval.batch_size'].but(64),
  'eval.samples': COMMON['eval.samples'].but(256),
  'eval.best': COMMON['eval.best'].but('loss_nats:min'),
  'sample.n': COMMON['sample.n'].but(4, tiny=2),
  'sample.prompt': Field(''),  # what every sample starts with; '': a line break
  'sample.length': size(400, tiny=40),  # tokens after the prompt
  'sample.temperature': weight(0.8),  # 0: the likeliest token
  'sample.top_k': Field(0),  # draw among the k likeliest tokens; 0: among all
}
