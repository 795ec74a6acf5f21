"""How the Transformer's parameters are named and laid out in Hugging Face's files of GPT-2 and of Llama.

One table each way, from which reading and writing follow: what `written` makes of our arrays `read` takes back. Names
and layouts are those of the packages' own modules: GPT-2's Conv1D keeps kernels as [in, out], Llama's linear layers
as [out, in]; both rotate halves, as `gen_ai.nets.attention.rotated` does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.switch import is_off
from gen_ai.nets.transformer import Architecture, Transformer

GPT2, LLAMA = 'gpt2', 'llama'
_ACTIVATIONS = {'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'silu': 'silu', 'relu': 'relu'}


_COUNTS = ('vocab_size', 'context', 'layers', 'heads', 'width', 'kv_heads', 'head_width', 'mlp_width')


class Tensor(NamedTuple):
  """One tensor of a file and the part of our parameters that it is.

  Attributes:
    name: in the file.
    shape: there.
    path: of our leaf, with '/'.
    layer: number along the leaf's first axis; None: the leaf is not stacked.
    part: index of the rest of the leaf, which the tensor fills.
    ours: turns the tensor into that part.
    theirs: turns that part into the tensor.
  """

  name: str
  shape: tuple[int, ...]
  path: str
  layer: int | None
  part: tuple[Any, ...]
  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Layout:
  """How a model is written as GPT-2 or as Llama.

  Attributes:
    name: 'gpt2' or 'llama'.
    arch: of the model; its floats may be traced.
  """

  name: str
  arch: Architecture

  @property
  def config(self) -> dict[str, Any]:
    """What config.json holds."""
    return config_of(self.arch, self.name)

  def tensors(self, leaves: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, contiguous array) of each tensor of our parameters {path: array}, made one at a time."""
    return ((tensor.name, taken(leaves, tensor)) for tensor in tensors(self.arch, self.name))


def layout(arch: Architecture) -> Layout | None:
  """The layout that can hold the model; None where it is built like neither."""
  _, G, H, F = arch.sizes
  plain = arch.pattern == 'L' and not arch.experts and not arch.qk_norm and is_off(arch.softcap) and arch.growth == 1
  parts = arch.norm, arch.positions, arch.gated, arch.bias
  full = G == 1 and arch.heads * H == arch.width and 4 * arch.width == F and arch.tied
  kind = ''
  if plain and full and parts == ('layer', 'learned', False, True) and arch.activation == 'gelu':
    kind = GPT2
  elif plain and parts == ('rms', 'rope', True, False) and arch.activation == 'silu':
    kind = LLAMA
  return Layout(kind, arch) if kind else None


def tensors(arch: Architecture, kind: str) -> Iterator[Tensor]:
  """All tensors of a file of the model, in order."""
  return _gpt2(arch) if kind == GPT2 else _llama(arch)


def _same(x: np.ndarray) -> np.ndarray:
  return x


def _turned(x: np.ndarray) -> np.ndarray:
  return x.T


def _gpt2(arch: Architecture) -> Iterator[Tensor]:
  D, V, T = arch.width, arch.vocab_size, arch.context
  yield Tensor('transformer.wte.weight', (V, D), 'token_embedding', None, (), _same, _same)
  yield Tensor('transformer.wpe.weight', (T, D), 'position_embedding', None, (), _same, _same)
  for layer in range(arch.layers):
    for file, shape, path, ours, theirs in _gpt2_block(arch):
      yield Tensor(f'transformer.h.{layer}.{file}', shape, f'layers/block_0/{path}', layer, (), ours, theirs)
  yield Tensor('transformer.ln_f.weight', (D,), 'final_norm/scale', None, (), _same, _same)
  yield Tensor('transformer.ln_f.bias', (D,), 'final_norm/bias', None, (), _same, _same)


def _gpt2_block(arch: Architecture) -> Iterator[tuple[str, tuple[int, ...], str, Any, Any]]:
  """(name, shape, our path, ours, theirs) of one layer."""
  D, (_, _, H, F), N = arch.width, arch.sizes, arch.heads
  for file, path in (('ln_1', 'attention_norm'), ('ln_2', 'mlp_norm')):
    yield f'{file}.weight', (D,), f'{path}/scale', _same, _same
    yield f'{file}.bias', (D,), f'{path}/bias', _same, _same
  yield (
    'attn.c_attn.weight',
    (D, 3 * D),
    'qkv/kernel',
    lambda x: x.reshape(D, 3, N, H).transpose(0, 2, 1, 3),
    lambda x: x.transpose(0, 2, 1, 3).reshape(D, 3 * D),
  )
  yield (
    'attn.c_attn.bias',
    (3 * D,),
    'qkv/bias',
    lambda x: x.reshape(3, N, H).transpose(1, 0, 2),
    lambda x: x.transpose(1, 0, 2).reshape(3 * D),
  )
  yield (
    'attn.c_proj.weight',
    (D, D),
    'attention_out/kernel',
    lambda x: x.reshape(N, 1, H, D),
    lambda x: x.reshape(D, D),
  )
  yield 'attn.c_proj.bias', (D,), 'attention_out/bias', _same, _same
  yield 'mlp.c_fc.weight', (D, F), 'mlp_in/kernel', lambda x: x[:, None], lambda x: x[:, 0]
  yield 'mlp.c_fc.bias', (F,), 'mlp_in/bias', lambda x: x[None], lambda x: x[0]
  yield 'mlp.c_proj.weight', (F, D), 'mlp_out/kernel', _same, _same
  yield 'mlp.c_proj.bias', (D,), 'mlp_out/bias', _same, _same


def _llama(arch: Architecture) -> Iterator[Tensor]:
  D, V = arch.width, arch.vocab_size
  yield Tensor('model.embed_tokens.weight', (V, D), 'token_embedding', None, (), _same, _same)
  for layer in range(arch.layers):
    for file, shape, path, part, ours, theirs in _llama_block(arch):
      name = f'model.layers.{layer}.{file}.weight'
      yield Tensor(name, shape, f'layers/block_0/{path}', layer, part, ours, theirs)
  yield Tensor('model.norm.weight', (D,), 'final_norm/scale', None, (), _same, _same)
  if not arch.tied:
    yield Tensor('lm_head.weight', (V, D), 'head/kernel', None, (), _turned, _turned)


def _llama_block(arch: Architecture) -> Iterator[tuple[str, tuple[int, ...], str, tuple[Any, ...], Any, Any]]:
  """(name, shape, our path, part of our leaf, ours, theirs) of one layer."""
  D, (K, G, H, F) = arch.width, arch.sizes
  every = slice(None)
  yield 'input_layernorm', (D,), 'attention_norm/scale', (), _same, _same
  yield (
    'self_attn.q_proj',
    (K * G * H, D),
    'qkv/kernel',
    (every, every, slice(0, G)),
    lambda x: x.T.reshape(D, K, G, H),
    lambda x: x.reshape(D, K * G * H).T,
  )
  for number, name in ((G, 'k'), (G + 1, 'v')):
    yield (
      f'self_attn.{name}_proj',
      (K * H, D),
      'qkv/kernel',
      (every, every, number),
      lambda x: x.T.reshape(D, K, H),
      lambda x: x.reshape(D, K * H).T,
    )
  yield (
    'self_attn.o_proj',
    (D, K * G * H),
    'attention_out/kernel',
    (),
    lambda x: x.T.reshape(K, G, H, D),
    lambda x: x.reshape(K * G * H, D).T,
  )
  yield 'post_attention_layernorm', (D,), 'mlp_norm/scale', (), _same, _same
  for number, name in ((0, 'gate'), (1, 'up')):
    yield f'mlp.{name}_proj', (F, D), 'mlp_in/kernel', (every, number), _turned, _turned
  yield 'mlp.down_proj', (D, F), 'mlp_out/kernel', (), _turned, _turned


def architecture_of(tree: Mapping[str, Any]) -> Architecture:
  """The model that a config.json describes.

  Raises:
    UserError: a model of another kind, or with parts that this Transformer has not.
  """
  kind = tree.get('model_type')
  if kind not in (GPT2, LLAMA):
    raise UserError(f"config.json is of a model of the kind '{kind}'; those that can be read are {GPT2} and {LLAMA}.")
  act = tree.get('activation_function' if kind == GPT2 else 'hidden_act', 'gelu_new' if kind == GPT2 else 'silu')
  if act not in _ACTIVATIONS:
    raise UserError(f"config.json has the activation '{act}', which is none of {', '.join(_ACTIVATIONS)}.")
  try:
    arch = (_gpt2_of if kind == GPT2 else _llama_of)(tree, _ACTIVATIONS[act])
    wrong = [name for name in _COUNTS if type(getattr(arch, name)) is not int]
    if wrong:
      raise TypeError(f'{wrong[0]} is {getattr(arch, wrong[0])!r}')
    return arch
  except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
    raise UserError(f'config.json of a {kind}: a field is missing, or not what it must be: {error!r}.') from error


def _gpt2_of(tree: Mapping[str, Any], activation: str) -> Architecture:
  _refuse(tree, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
  D = tree['n_embd']
  if tree.get('n_inner') not in (None, 4 * D):
    raise UserError(f'config.json has n_inner={tree["n_inner"]}; only 4 x n_embd = {4 * D} can be read.')
  return Architecture(
    vocab_size=tree['vocab_size'],
    context=tree['n_positions'],
    layers=tree['n_layer'],
    heads=tree['n_head'],
    width=D,
    activation=activation,
    norm_epsilon=tree.get('layer_norm_epsilon', 1e-5),
    tied=tree.get('tie_word_embeddings', True),
  )


def _llama_of(tree: Mapping[str, Any], activation: str) -> Architecture:
  _refuse(tree, attention_bias=False, mlp_bias=False)
  # The field of today, and that of transformers before 5.
  rope = {**(tree.get('rope_scaling') or {}), **(tree.get('rope_parameters') or {})}
  scaling = rope.get('rope_type', rope.get('type', 'default'))
  if scaling != 'default':
    raise UserError(
      f"config.json stretches RoPE's wavelengths (rope_type '{scaling}'), which this Transformer does not."
    )
  D, heads = tree['hidden_size'], tree['num_attention_heads']
  return Architecture(
    vocab_size=tree['vocab_size'],
    context=tree['max_position_embeddings'],
    layers=tree['num_hidden_layers'],
    heads=heads,
    width=D,
    kv_heads=tree.get('num_key_value_heads') or heads,
    head_width=tree.get('head_dim') or D // heads,
    mlp_width=tree['intermediate_size'],
    gated=True,
    activation=activation,
    norm='rms',
    norm_epsilon=tree.get('rms_norm_eps', 1e-6),
    positions='rope',
    rope_theta=float(rope.get('rope_theta', tree.get('rope_theta', 10_000.0))),
    bias=False,
    tied=tree.get('tie_word_embeddings', False),
  )


def _refuse(tree: Mapping[str, Any], **needed: Any) -> None:
  for name, value in needed.items():
    if tree.get(name, value) != value:
      raise UserError(f'config.json has {name}={tree[name]}; only {value} can be read.')


def config_of(arch: Architecture, kind: str) -> dict[str, Any]:
  """config.json of the model, as both today's transformers and those before version 5 read it."""
  if kind == GPT2:
    return {
      'model_type': GPT2,
      'architectures': ['GPT2LMHeadModel'],
      'vocab_size': arch.vocab_size,
      'n_positions': arch.context,
      'n_embd': arch.width,
      'n_layer': arch.layers,
      'n_head': arch.heads,
      'activation_function': 'gelu_new',
      'layer_norm_epsilon': float(arch.norm_epsilon),
      'tie_word_embeddings': True,
      'bos_token_id': None,
      'eos_token_id': None,
      'dtype': 'float32',
    }
  K, G, H, F = arch.sizes
  theta = float(arch.rope_theta)
  return {
    'model_type': LLAMA,
    'architectures': ['LlamaForCausalLM'],
    'vocab_size': arch.vocab_size,
    'max_position_embeddings': arch.context,
    'hidden_size': arch.width,
    'intermediate_size': F,
    'num_hidden_layers': arch.layers,
    'num_attention_heads': K * G,
    'num_key_value_heads': K,
    'head_dim': H,
    'hidden_act': 'silu',
    'rms_norm_eps': float(arch.norm_epsilon),
    'rope_theta': theta,  # what versions before 5 read; they would silently take 10,000 without it
    'rope_scaling': None,
    'rope_parameters': {'rope_theta': theta, 'rope_type': 'default'},
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': arch.tied,
    'bos_token_id': None,
    'eos_token_id': None,
    'dtype': 'float32',
  }


def empty(arch: Architecture) -> dict[str, np.ndarray]:
  """Our parameters {path: float32 array} of the model, to be filled."""
  shapes: Any = jax.eval_shape(
    lambda key: Transformer(arch).init({'params': key}, jnp.zeros((1, 2), jnp.int32), train=False)['params'],
    jax.random.key(0),
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.zeros(leaf.shape, np.float32)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }


def fill(leaves: Mapping[str, np.ndarray], tensor: Tensor, found: np.ndarray) -> None:
  """Writes a file's tensor into our arrays {path: array}, in place."""
  leaf = leaves[tensor.path]
  place = leaf if tensor.layer is None else leaf[tensor.layer]
  place[tensor.part if tensor.part else ...] = tensor.ours(found)


def taken(leaves: Mapping[str, Any], tensor: Tensor) -> np.ndarray:
  """The tensor of a file, contiguous, out of our arrays {path: array}."""
  leaf = leaves[tensor.path]
  place = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
  return np.ascontiguousarray(tensor.theirs(place[tensor.part if tensor.part else ...]))
