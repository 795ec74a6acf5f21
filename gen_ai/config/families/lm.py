"""The fields of the configs of experiments/lm.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, Needs, one_of, size, weight

_BY_HAND: Needs = {'model.depth': ('0', lambda depth: depth == 0)}
_LORA: Needs = {'model.lora': ('more than 0', lambda rank: rank > 0)}
_EXPERTS: Needs = {'model.experts': ('more than 0', lambda count: count > 0)}

FIELDS: dict[str, Field] = {
  'data.block_size': COMMON['data.block_size'].but(64, tiny=16),
  'data.split': COMMON['data.split'].but('auto', tiny='train[:20000]|train[20000:22000]|train[22000:24000]'),
  # n: layers n, heads n of 64 numbers, width 64 n, as nanochat's dial; 0: the sizes below
  'model.depth': Field(0, tiny=0),
  'model.layers': size(4, tiny=1, used_with=_BY_HAND),
  'model.heads': size(4, tiny=2, used_with=_BY_HAND),
  'model.width': size(128, tiny=16, used_with=_BY_HAND),  # D
  # D at which optim.lr is known: initial weights, updates and scales then go by the width so that it holds here, too
  # (muP); 0: they do not. Heads are as many at all widths, unless head_width or depth gives their size
  'model.base_width': Field(0),
  'model.kv_heads': Field(0),  # heads of keys and values; 0: as many as of queries
  'model.head_width': Field(0),  # H; 0: D / heads
  'model.mlp_width': Field(0),  # hidden units; 0: 4 D, gated 8/3 D
  'model.experts': Field(0),  # MLPs of a block behind a router; 0: one
  'model.chosen': size(2, used_with=_EXPERTS),  # experts that a token takes
  'model.capacity': Field(125, used_with=_EXPERTS),  # places of one, % of its even share of a block; 0: for all
  'model.gated': Field(True),  # the MLP's hidden layer is multiplied by another: SwiGLU with silu
  'model.activation': Field('silu'),
  'model.norm': Field('rms', choices=('layer', 'rms')),
  'model.norm_epsilon': weight(1e-5),
  'model.positions': Field('rope', choices=('learned', 'rope')),
  'model.rope_theta': Field(10_000.0, above=0.0, used_with={'model.positions': one_of('rope')}),  # base of wavelengths
  'model.bias': Field(False),  # of the linear layers and layer norms
  'model.qk_norm': Field(True),  # queries and keys are divided by their RMS
  'model.pattern': Field('L'),  # of windows, repeated over the layers: L sees all tokens, S the last model.window
  'model.window': Field(0, used_with={'model.pattern': ('with an S', lambda pattern: 'S' in pattern)}),  # tokens
  # whether a token sees those of earlier documents in its block; 'apart' needs tokens with a separator (bpe)
  'model.documents': Field('joined', choices=('joined', 'apart')),
  'model.tied': Field(True),  # the head is the token embedding
  'model.softcap': weight(0.0),  # logits stay within +- this; 0: they need not
  'model.dropout': weight(0.0, below=1.0),
  # what the backward pass computes again, to save memory: nothing, all but matrix products, or all
  'model.remat': Field('none', choices=('none', 'dots', 'full')),
  # rank of adapters, which alone are trained, beside the weights of --init_from (LoRA); 0: all weights are trained
  'model.lora': Field(0),
  'model.lora_scale': Field(1.0, above=0.0, used_with=_LORA),  # of what they add: alpha / rank
  'model.lora_on': Field('all', choices=('attention', 'all'), used_with=_LORA),  # kernels of blocks that get them
  'loss.balance': weight(0.01, used_with=_EXPERTS),  # weight of the loss that spreads tokens over experts
  'loss.router_z': weight(1e-3, used_with=_EXPERTS),  # of the squared log of the router's sum
  'loss.z': weight(0.0),  # weight of the squared log of the softmax's sum
  'loss.chunk': Field(0),  # tokens of the vocabulary whose logits are in memory at once; 0: all
  'eval.batch_size': COMMON['eval.batch_size'].but(64),
  'eval.samples': COMMON['eval.samples'].but(256),
  'eval.best': COMMON['eval.best'].but('loss_nats:min'),
  'sample.n': COMMON['sample.n'].but(4, tiny=2),
  'sample.prompt': Field(''),  # what every sample starts with; '': a line break
  'sample.length': size(400, tiny=40),  # tokens after the prompt
  'sample.temperature': weight(0.8),  # 0: the likeliest token
  'sample.top_k': Field(0),  # draw among the k likeliest tokens; 0: among all
  'sample.top_p': weight(0.0, max=1.0),  # among the likeliest that hold this share of the probability; 0: all
  'sample.min_p': weight(0.0, below=1.0),  # among those with this share of the likeliest one's probability; 0: all
  'sample.repetition': weight(0.0),  # above 1: tokens that the text holds become less likely; 0: as they are
  'sample.stop': Field(()),  # strings after which a text ends; the token that one ends in is kept whole
}
