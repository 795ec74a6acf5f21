"""The one interface between methods and everything else, and the shape glossary of the repository.

Shapes:
  B batch   H W C image height, width, channels   T tokens   D width   V vocabulary   Z latent
  R runs    K steps in a chunk    N examples
Values:
  image  uint8 [B, H, W, C] in a batch; networks see float32 x in [-1, 1] (`gen_ai.maths.pixels`)
  index  int32 [B] number of each example in its split: the address of its noise
  mask   float32 [B] 1 for an example, 0 for padding (evaluation batches only)
  tokens int32 [B, T + 1], each a target of those before it; -1 after the end of a text (evaluation batches only)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax

from gen_ai.core.errors import UserError
from gen_ai.core.names import Part

Array = jax.Array
Key = jax.Array  # a typed key, jax.random.key
PyTree = Any
Batch = Mapping[str, Array]
Metrics = Mapping[str, Array]  # {name with unit: float32 scalar}
SumCount = Mapping[str, tuple[Array, Array]]  # {name with unit: (float32 sum, float32 count)}


CLASSES = 'classes'  # the visualization (see `Method`) that has a row a class, in the order of their labels


class State(NamedTuple):
  """Everything that training changes: arrays only. `step` counts completed updates.

  `ema` and `stats` are `()` where a method uses none. Of several averages (config.optim.ema_lengths) `ema` is a tuple.
  """

  step: Array  # int32 []
  params: PyTree
  opt_state: PyTree
  ema: PyTree = ()  # averaged parameters (and statistics) used to sample and evaluate
  stats: PyTree = ()  # batch-norm moments and other state of the networks


class Field(NamedTuple):
  """One named input or output of a task, as one example has it: without the batch axis.

  Attributes:
    what: EXAMPLE, LABEL, MASK, PROMPT, LATENT or NUMBER, which says how a command reads and shows it. A task may use
      a word of its own: such an input is read as numbers.
    shape: of one example; None for a length that a call chooses.
    required: whether a call must give it. What is left out a method draws by itself.
    encode: of a PROMPT, what makes tokens int32 [P] of text; None: the vocabulary of the data. Raises UserError for
      text that it does not know.
  """

  what: str
  shape: tuple[int | None, ...] = ()
  required: bool = False
  encode: Callable[[str], Any] | None = None


EXAMPLE = 'example'  # of the data: as an input in the form that batches have it, as an output in that of the networks
LABEL = 'label'  # int32 [], the number of a class
MASK = 'mask'  # float32 [H, W, 1], 1: hidden
PROMPT = 'prompt'  # int32 [P] tokens; of a shorter one the rest is -1
LATENT = 'latent'  # float32, standard normal where it is drawn
NUMBER = 'number'  # float32
WHOLE = (LABEL, PROMPT)  # whose values are whole numbers

TaskFn = Callable[[State, Mapping[str, Array], Key], Mapping[str, Array]]


class Stream(NamedTuple):
  """The work of a task in pieces, so that what is made is seen at once; all traceable.

  `outputs(advance(state, start(state, inputs, keys), keys, pieces))` is what `Task.run` returns once all rows are done,
  in however many calls of `advance`.

  Attributes:
    start: (state, inputs, keys [B]) -> carry, arrays.
    advance: (state, carry, keys [B], pieces int32 []) -> carry, in which every row has so many pieces (tokens of a
      text), counted from the start, or is done.
    outputs: carry -> outputs {name: [B, ...]}; what is not made yet is -1.
    done: carry -> bool [B].
  """

  start: Callable[[State, Mapping[str, Array], Key], PyTree]
  advance: Callable[[State, PyTree, Key, Array], PyTree]
  outputs: Callable[[PyTree], Mapping[str, Array]]
  done: Callable[[PyTree], Array]


class Extend(Protocol):
  """A language model that reads on."""

  def __call__(self, cache: PyTree, tokens: Array, positions: Array, pick: Array, fresh: bool) -> tuple[Array, PyTree]:
    """(logits after some of tokens [B, P], the cache with all of them in it).

    Args:
      cache: what was read before.
      tokens: int32 [B, P].
      positions: int32 [B, P]; what is at the context or beyond is not kept.
      pick: int32 [B] -> logits [B, V] after token number `pick`; int32 [B, Q] -> [B, Q, V].
      fresh: whether nothing was read before.
    """


class Reader(NamedTuple):
  """A language model as something that reads tokens: to draw from, or to draft for another."""

  extend: Extend
  cache: Callable[[int], PyTree]  # an empty one for B rows, of leaves [layers, B, ...]
  context: int  # tokens that a cache holds


class Help(NamedTuple):
  """One way, such as `DRAFT_BY`, in which another trained run may help with a task, which has it as well.

  Attributes:
    offers: state -> what this run is to a task that it helps, such as a `Reader`; traceable.
    taken: (what the other run offers, options) -> the task with its help.
    alike: what both runs must have the same: fields of the config, or names in `gen_ai.evaluate.companion.FACTS`.
    missing: what a person must do where the settings ask for help and no run is given; '' where they do not.
    idle: why help would do nothing under the settings; '' where it does something.
  """

  offers: Callable[[State], Any]
  taken: Callable[..., 'Task']
  alike: tuple[str, ...]
  missing: str = ''
  idle: str = ''


class Task(NamedTuple):
  """Something that a trained model can do: generate, complete, reconstruct, ...

  Attributes:
    run: (state, inputs {name: [B, ...]}, keys [B]) -> outputs {name: [B, ...]}; traceable. What an example gets depends
      on its own inputs and its own key alone, so any batching gives the same.
    inputs: what a call may give, and must give where a field is required.
    outputs: what it returns.
    settings: sections of the config that it may be run again under after training; evaluations record them.
    check: looks at the inputs of a call, NumPy arrays, before anything is computed; returns what a person should know
      of them, '' if nothing. Raises UserError for inputs that it cannot take.
    stream: the same work in pieces; None: it comes whole.
    helps: {way: Help} in which another run may help, and this one may help another: `DRAFT_BY` of what draws from a
      language model, `GUIDE_BY` of what draws by a denoiser.
    facts: config -> {name: value} of what it returns under the settings of a config, which evaluations record beside
      the settings: how often a network is applied to one example, what the figures are of.
  """

  run: TaskFn
  inputs: Mapping[str, Field] = MappingProxyType({})
  outputs: Mapping[str, Field] = MappingProxyType({})
  settings: tuple[str, ...] = ('sample',)
  check: Callable[[Mapping[str, Any]], str] = lambda inputs: ''
  stream: Stream | None = None
  helps: Mapping[str, Help] = MappingProxyType({})
  facts: Callable[[Any], Mapping[str, Any]] = lambda config: {}

  @property
  def draws(self) -> bool:
    """Whether its output 'sample' is an example of the data, which metrics of samples can judge."""
    return SAMPLE in self.outputs and self.outputs[SAMPLE].what == EXAMPLE


def drawing_task(tasks: Mapping[str, Task]) -> str:
  """The task whose samples are shown and measured where nobody names one: the first that draws; '' if none does."""
  return next((name for name, task in tasks.items() if task.draws), '')


SAMPLE = 'sample'  # the output of tasks that draw
ASKED = 'label'  # the output that tells which class a sample was asked to show; -1: none
GENERATE = 'generate'  # the task of drawing samples
# Ways in which another run may help with a task, named as the flags are. It drafts: it offers a `Reader`, and with the
# option `tokens`, that it drafts at once, outputs of the same distribution take fewer passes of the model, and `DRAFT`
# is among them. It guides: it offers labels int32 [B] or None -> a denoiser, from whose x samples are moved away.
DRAFT_BY, GUIDE_BY = 'draft', 'guide'
# Outputs int32 [B] of a task with a draft: drafted tokens that the model accepted and that it did not, its passes after
# the prompt, and the tokens that all this made.
DRAFT = ('accepted', 'rejected', 'passes', 'made')


class FileLayout(Protocol):
  """How the parameters of a model are named and laid out in files that others read."""

  @property
  def name(self) -> str:
    """Of the layout."""

  @property
  def config(self) -> Mapping[str, Any]:
    """What config.json holds."""

  def tensors(self, leaves: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, array) of each tensor, from our parameters {path with '/': array}, made one at a time."""


class Method(NamedTuple):
  """A generative method: pure functions, all traceable.

  `visualizations` are pictures beyond plain samples (reconstructions, traversals): {name: (state, batch, key) ->
  images}, drawn in rows of 8 from the first validation examples whenever samples are. The rows of CLASSES are named.
  """

  init: Callable[[Key], State]
  train_step: Callable[[State, Batch, Key], tuple[State, Metrics]]
  eval_step: Callable[[State, Batch, Key], SumCount]
  tasks: Mapping[str, Task] = MappingProxyType({})  # what a trained model can do, the one that tells most first
  batches_per_step: int = 1  # batches of data that one train_step takes, joined to [batches_per_step * B, ...]
  observation: str = (
    ''  # what evaluations measure where a config can change it: figures of unlike ones are not compared
  )
  visualizations: Mapping[str, Callable[[State, Batch, Key], Array]] = MappingProxyType({})
  # The metrics of training and evaluation that tell most: {name: 'min' | 'max', the way that is better, or '' where
  # neither is}. Wherever metrics are shown these come first, in this order.
  leading: Mapping[str, str] = MappingProxyType({})
  # Metrics of eval_step that bound what they are named after, from the side that is worse: a comparison marks them.
  bounds: tuple[str, ...] = ()
  # How parameters lie over a mesh, {end of their name: what each axis is}, see gen_ai.parallel.mesh.SPLIT_BY. Every
  # parameter must match one row. Without a table their shapes decide.
  sharding: Mapping[str, tuple[str, ...]] = MappingProxyType({})
  files: FileLayout | None = None  # how others write such a model; None: parameters keep their own names
  notes: tuple[str, ...] = ()  # what a person should know of these settings, shown where training begins
  # The only parameters that training changes; None: all. The others come from another run (--init_from).
  trains: Part | None = None
  # (config, state of the run of --init_from, whose `ema` is the average by which it is evaluated) -> nested dict of the
  # parameters of this method that come from it. None: those of the same names.
  inherits: Callable[[Any, State], PyTree] | None = None
  # Parameters, or averages of them, as the same model without `trains` has them; see gen_ai.nets.lora.
  merged: Callable[[PyTree], PyTree] = lambda params: params


class Vocab(Protocol):
  """Text to tokens and back."""

  size: int
  separator: int | None  # the token that begins every document, where there is one

  def encode(self, text: str) -> Any:
    """Tokens int32 [T] of `text`; raises UserError on a character outside the vocabulary."""

  def decode(self, tokens: Any) -> str:
    """Text of int [T] tokens."""

  def token_bytes(self) -> Sequence[bytes]:
    """The bytes of UTF-8 that each token stands for; none of a separator."""

  def byte_counts(self) -> Any:
    """float32 [V]: UTF-8 bytes that each token stands for."""


class Spec(NamedTuple):
  """What a method may know of its data before it sees any."""

  kind: str  # of data: the name of one in gen_ai.data.kinds
  shape: tuple[int, ...]  # of one example: (H, W, C) of images, (T,) of text
  num_classes: int = 0  # 0: no labels
  vocab: Vocab | None = None  # text only
  class_names: tuple[str, ...] = ()  # by label; empty where they have none

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of images. Raises UserError for data that is not shaped so."""
    if len(self.shape) != 3:
      raise UserError(f'data of the kind {self.kind}, {list(self.shape)}, is not shaped as images are, [H, W, C].')
    H, W, C = self.shape
    return H, W, C


# `identity` under jit, where arrays are global; `lax.pmean` over devices under pmap.
Reduce = Callable[[PyTree], PyTree]


def identity(tree: PyTree) -> PyTree:
  """The reduction of a program whose arrays are global already."""
  return tree
