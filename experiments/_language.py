"""What the families over text share: the Transformer that config.model describes, and where drawn texts end."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gen_ai.core.method import Vocab
from gen_ai.maths.stops import automaton
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.transformer import Architecture

HEAD_OF_DEPTH = 64  # numbers in a head where config.model.depth sets the sizes
LEADING = {'loss_nats': 'min', 'bits_per_byte': 'min'}  # of text, the same whichever model says what it costs


def architecture(config: ConfigDict, vocab_size: int, **options: Any) -> Architecture:
  """What config.model describes: its fields by their names. `options` are what no config chooses.

  Raises:
    UserError: sizes that do not fit together.
  """
  model, known = config.model, [field.name for field in dataclasses.fields(Architecture)]
  chosen = {name: model[name] for name in known if name in model}
  if model.depth:
    sizes = {'layers': model.depth, 'heads': model.depth, 'width': HEAD_OF_DEPTH * model.depth}
    chosen |= sizes | {'head_width': model.head_width or HEAD_OF_DEPTH}
  usual = {'vocab_size': vocab_size, 'context': config.data.block_size, 'dtype': compute_dtype(config.precision)}
  arch = Architecture(**{**usual, **chosen, **options})
  arch.check(lambda field: f'config.model.{field}')
  return arch


def beginning(vocab: Vocab, prompt: str = '') -> np.ndarray:
  """Tokens int32 [P] of `prompt`; of '' what every text may begin with: a separator, or a line break without one."""
  return np.asarray(vocab.encode(prompt or ('\n' if vocab.separator is None else '')), np.int32)


def stop_table(vocab: Vocab, texts: tuple[str, ...]) -> np.ndarray | None:
  """Where a drawn text ends: behind any of `texts`, however it is cut into tokens, or at a separator; None: nowhere.

  Raises:
    UserError: an empty text, or one that the vocabulary cannot hold.
  """
  if not texts and vocab.separator is None:
    return None
  for text in texts:
    vocab.encode(text)
  last = () if vocab.separator is None else (vocab.separator,)
  return automaton([text.encode() for text in texts], vocab.token_bytes(), last)
