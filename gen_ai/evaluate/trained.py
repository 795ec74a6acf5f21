"""A trained model in Python: run = gen_ai.load('runs/wgan/...'); run.generate(n=16, label='circle', seed=1)."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core import random
from gen_ai.core.averages import average_of, is_averaged
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  DRAFT_BY,
  EXAMPLE,
  GENERATE,
  GUIDE_BY,
  LABEL,
  LATENT,
  MASK,
  NUMBER,
  PROMPT,
  SAMPLE,
  Field,
  PyTree,
  Spec,
  Task,
)
from gen_ai.core.text import did_you_mean
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import kinds
from gen_ai.evaluate import averages, companion, restored
from gen_ai.evaluate.companion import Companion
from gen_ai.evaluate.generation import CallInputs, Generation, check_inputs
from gen_ai.evaluate.streaming import Streaming
from gen_ai.maths import masks
from gen_ai.parallel.program import Program
from gen_ai.run import data_identity, directory, info, provenance

N = 16  # samples that a call draws where nothing says how many


class Trained:
  """A checkpoint of a run, opened again.

  Args:
    run_dir: of the run.
    step: 'latest', 'best' (by config.eval.best) or a number of updates.
    settings: config fields that tasks may be run again under: {'sample.temperature': 0.7}.
    ema: length of the average that tasks run by, of a run that tracked some (config.optim.ema_lengths), see
      `gen_ai.evaluate.averages`; None: the first of those.

  Attributes:
    path: of the run directory.
    config: its config, with `settings`.
    spec: what its data was like.
    step: completed updates of the checkpoint.
    state: everything that training changed, a `State`; with `ema` its only average is the one of that length.
    ema: length of the average that tasks run by; None where the run tracked none by its length.
    tasks: {name: Task} of what it can do.
    class_names: names of the classes by number; empty where they have none.
    note: what a person should know of the inputs of the last call; '' for nothing.

  Raises:
    UserError: no run, no such checkpoint, a setting that no task has, or an average that cannot be had.
  """

  def __init__(
    self,
    run_dir: str | os.PathLike,
    step: str | int = 'latest',
    settings: Mapping[str, Any] | None = None,
    ema: float | None = None,
  ):
    self.path, settings = Path(run_dir), dict(settings or {})
    self.config = restored.open_config(str(run_dir), settings, restored.task_sections(str(run_dir)))
    spec = restored.recorded_spec(str(run_dir))
    self.spec, self._kind = spec, kinds.of(spec)
    self.class_names = spec.class_names
    self._program, self.state, self.step = restored.restore(str(run_dir), self.config, spec, str(step))
    self.ema = next(iter(self.config.optim.ema_lengths), None) if ema is None else ema
    if ema is not None:
      recipe = averages.recipe(run_dir, self.config, self.step, ema)
      self.state = averages.applied(recipe, self.config, self._program, self.state)
    self.tasks = self._program.tasks
    self.note = ''
    self._companion: Companion | None = None
    self._streams: dict[str, Streaming] = {}

  def __repr__(self) -> str:
    tasks = ', '.join(f'{name}({", ".join(task.inputs)})' for name, task in self.tasks.items())
    which = 'averaged parameters' if self.averaged else 'parameters as trained'
    which += f' of length {self.ema:g}' if self.ema else ''
    return f'<{self.path} after step {self.step}, {which}; tasks: {tasks or "none"}>'

  @property
  def averaged(self) -> bool:
    """Whether tasks run by averaged parameters."""
    return is_averaged(self.config)

  @property
  def params(self) -> PyTree:
    """The parameters that tasks run by: the averages where the run keeps any (`averaged` says so)."""
    return average_of(self.config, self.state.ema) if self.averaged else self.state.params

  def generate(self, n: int | None = None, label: Any = None, seed: int | None = None, **inputs: Any) -> np.ndarray:
    """Samples of the data, as files hold them: images uint8 [n, H, W, C], tokens int32 [n, T].

    Args:
      n: how many; as many as the longest input has rows, or 16.
      label: a class or a list of classes, by name or number, for models that have labels.
      seed: of the noise; by default that of the samples that the run showed and that evaluations measure.
      inputs: what else the task 'generate' takes, such as latent=float [N, Z]; sample i has row i.
    """
    given = inputs if label is None else {**inputs, 'label': label}
    return self.run(GENERATE, n, seed, **given)[SAMPLE]

  def run(self, task: str, n: int | None = None, seed: int | None = None, **inputs: Any) -> dict[str, np.ndarray]:
    """All that a task returns: {name: [n, ...]}.

    Args:
      task: its name, one of `tasks`.
      n: see `generate`.
      seed: see `generate`.
      inputs: by name. Examples as files hold them, labels by name or number, prompts as text, a mask as an array (not 0
        where a pixel is hidden) or one of 'box', 'half', 'centre', any other as numbers. One of them or a list.

    Raises:
      UserError: no such task, or inputs that it does not take.
    """
    seed = self.config.eval.seed if seed is None else seed
    arrays = self.inputs(task, n, seed, **inputs)
    return self.outputs(task, n or max([len(array) for array in arrays.values()], default=N), seed, arrays)

  def outputs(self, task: str, n: int, seed: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See `run`; of inputs that `inputs` has made arrays."""
    given = CallInputs(arrays) if arrays else None
    generation = Generation(self._program, seed, task, given, self._companion_of(task))
    return generation.outputs(self.state, np.arange(n))[0]

  def _companion_of(self, task: str) -> Companion | None:
    found = self._companion
    return found if found is not None and found.way in self._program.task(task).helps else None

  def stream(self, seed: int | None = None, task: str = GENERATE, number: int = 0, **inputs: Any) -> Iterator[str]:
    """The text of one sample while it is made, in pieces; the first begins with the prompt. All together are sample
    `number` of what `generate` gives as tokens.

    Args:
      seed: see `generate`.
      task: its name.
      number: of the sample, which says which noise it has, and which of the inputs.
      inputs: see `run`.

    Raises:
      UserError: no such task, inputs that it does not take, or what it makes is no text.
    """
    seed = self.config.eval.seed if seed is None else seed
    return self.streaming(task).text(self.state, seed, number, self.inputs(task, None, seed, **inputs))

  def streaming(self, task: str) -> Streaming:
    """What `stream` goes by: one for all calls, so that texts of like sizes share what is compiled."""
    if task not in self._streams:
      self._streams[task] = Streaming(self._program, task, self._companion_of(task))
    return self._streams[task]

  def drafted_by(self, small: 'Trained', tokens: int = 4) -> 'Trained':
    """This run with `small` to draft for it: the same distribution of texts, in fewer passes of the large model.

    Its tasks then return more: how many drafted tokens were `accepted` and `rejected`, and the `passes` of the model.

    Args:
      small: a run with the same tokens.
      tokens: that it drafts at once.

    Raises:
      UserError: no task of this run takes a draft, or `small` cannot draft for it.
    """
    if tokens < 1:
      raise UserError(f'a draft of {tokens} tokens is none: draft 1 or more.')
    return self._helped(small, DRAFT_BY, tokens=tokens)

  def guided_by(self, guide: 'Trained') -> 'Trained':
    """This run with its samples moved away from those of `guide` (autoguidance, arXiv 2406.02507).

    At any noise, where this run says that x lies behind it and the guide D_guide, x + w (x - D_guide) is taken, w being
    config.sample.autoguidance, in the interval of noise config.sample.guidance_low to guidance_high.

    Args:
      guide: a smaller run of the same kind, or one that was trained for less, such as an earlier checkpoint of this.

    Raises:
      UserError: no task of this run can be guided, or `guide` cannot guide it.
    """
    return self._helped(guide, GUIDE_BY)

  def _helped(self, by: 'Trained', way: str, **options: Any) -> 'Trained':
    """This run with another to help its tasks in a `way`, see `companion`."""
    companion.check(way, next((name for name, task in self.tasks.items() if way in task.helps), GENERATE), self, by)
    other = copy.copy(self)
    other._program = copy.copy(self._program)  # whose floats `use` changes
    other._companion, other._streams = by.as_companion(way, **options), {}
    return other

  def as_companion(self, way: str, **options: Any) -> Companion:
    """What this run is to another whose tasks it helps in a `way`, see `companion`."""
    about = provenance.group_hash(directory.read_config(self.path), info.read(self.path).parent)
    recipe = f'{about[:12]}@{self.step}' + (f' ema {self.ema:g}' if self.ema else '')
    return Companion(way, self._program, self.state, f'{self.path}@{self.step}', recipe, **options)

  def use(self, settings: Mapping[str, Any]) -> None:
    """From now on tasks run under these settings: {'sample.temperature': 0.7}.

    Raises:
      UserError: a setting that no task has, or a value that it cannot have.
    """
    sections = tuple(dict.fromkeys(section for task in self.tasks.values() for section in task.settings))
    restored.check_free(str(self.path), settings, sections)
    config = config_lib.override(self.config, settings)
    config_lib.validate(config)
    idle.refuse(config, settings)
    floats = config_lib.traced(config).keys() & config_lib.traced(self.config).keys()
    if config_lib.difference(self.config, config).keys() <= floats:
      self._program.use_floats(config)
    else:
      self._program = Program(config, config_lib.builder(config), self.spec, self._program.layout)
      self._streams = {}
    self.config, self.tasks = config, self._program.tasks

  def inputs(self, task: str, n: int | None, seed: int, **inputs: Any) -> dict[str, np.ndarray]:
    """The inputs of a call as arrays {name: [N, ...]}; see `run`. The name of a mask becomes as many masks."""
    found = self._program.task(task)
    check_inputs(task, found, inputs)
    arrays: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
      field = found.inputs[name]
      if field.what == LABEL:
        arrays[name] = np.asarray([self.label(one) for one in _listed(value)], np.int32)
      elif field.what == PROMPT:
        arrays[name] = self._prompts(field, value)
      elif not (field.what == MASK and isinstance(value, str)):
        arrays[name] = self._array(name, field, value)
    for name, value in inputs.items():
      if name not in arrays:
        count = n or max([len(array) for array in arrays.values()], default=N)
        arrays[name] = draw_masks(value, seed, count, self.spec)
    _check_rows(found, arrays)
    self.note = found.check(arrays)
    return arrays

  def label(self, given: Any) -> int:
    """The number of a class, given by name or number. Raises UserError where there is none such."""
    text, classes = str(given), self.spec.num_classes
    if text in self.class_names and not isinstance(given, int | np.integer):
      return self.class_names.index(text)
    if text.isdecimal() and int(text) < classes:
      return int(text)
    hint = did_you_mean(text, self.class_names, cutoff=0.6)
    names = f': {", ".join(self.class_names)}' if self.class_names else f', numbers 0 to {classes - 1}'
    raise UserError(f"there is no class '{text}'.{hint} {self.path} has {classes} classes{names if classes else ''}.")

  def examples(self, n: int) -> np.ndarray:
    """The first `n` test examples of the data of the run. Raises UserError where the data is gone or has changed."""
    dataset = dataset_lib.load(self.config.data)
    data_identity.check(dataset, info.trained_on(self.path).fingerprint, self.path)
    source = dataset.splits['test']
    return source.read(source.eval_index(np.arange(min(n, source.evaluated))))[self._kind.example]

  def _prompts(self, field: Field, given: Any) -> np.ndarray:
    """Tokens int32 [N, P] of texts, the rest of shorter ones -1."""
    encode = field.encode or self._tokens
    rows = [np.asarray(encode(text)) for text in _listed(given)]
    found = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for row, tokens in zip(found, rows, strict=True):
      row[: len(tokens)] = tokens
    return found

  def _tokens(self, text: str) -> np.ndarray:
    vocab = self.spec.vocab
    assert vocab is not None
    return np.asarray(vocab.encode(text or '\n'))

  def _array(self, name: str, field: Field, given: Any) -> np.ndarray:
    """[N, ...] of the shape of the field; one example alone is [...]."""
    try:
      array = np.asarray(given)
      if field.what != EXAMPLE:
        whole = field.what not in (MASK, LATENT, NUMBER) and np.issubdtype(array.dtype, np.integer)
        array = array.astype(np.int32 if whole else np.float32)
    except (TypeError, ValueError) as error:
      raise UserError(f"the input '{name}' is no array of numbers: {error}.") from error
    if field.what == MASK:
      array = (array != 0).astype(np.float32)
      array = array[..., None] if array.ndim in (2, 3) and array.shape[-1] != 1 else array
    if array.ndim == len(field.shape):
      array = array[None]
    fits = array.ndim == len(field.shape) + 1 and all(
      wanted in (None, size) for wanted, size in zip(field.shape, array.shape[1:], strict=True)
    )
    if not fits or not len(array):
      wanted = ', '.join(['N', *('any' if size is None else str(size) for size in field.shape)])
      raise UserError(f"the input '{name}' has the shape {list(np.shape(given))}; it must be [{wanted}].")
    if field.what != EXAMPLE and not np.isfinite(array).all():
      raise UserError(f"the input '{name}' holds {np.count_nonzero(~np.isfinite(array)):,} NaN or infinite numbers.")
    return self._kind.levels(f"the input '{name}'", array) if field.what == EXAMPLE else array


def at_step(reference: str) -> Trained:
  """The run that 'RUN_DIR' or 'RUN_DIR@STEP' names, with its latest checkpoint or that of the step."""
  run_dir, step = directory.split_step(reference)
  return Trained(run_dir, step or 'latest')


def _check_rows(task: Task, arrays: Mapping[str, np.ndarray]) -> None:
  """Raises UserError where examples come with another input of which there are neither as many nor one."""
  for example in (name for name in arrays if task.inputs[name].what == EXAMPLE):
    for name, array in arrays.items():
      if len(array) not in (1, len(arrays[example])):
        raise UserError(
          f"the input '{name}' has {len(array):,} rows and '{example}' has {len(arrays[example]):,}: "
          'give one for all, or as many.'
        )


def draw_masks(kind: str, seed: int, n: int, spec: Spec) -> np.ndarray:
  """Masks float32 [n, H, W, 1] of a kind by name, by the noise of `seed`. Raises UserError for an unknown kind."""
  if kind not in masks.KINDS:
    raise UserError(f"the mask '{kind}' is none of {', '.join(masks.KINDS)}, and no array.")
  key = random.stream(random.stream(random.root(seed), 'samples'), 'given mask')
  return np.asarray(masks.draw(kind, random.per_example(key, jnp.arange(n)), spec.image_shape[:2]))


def _listed(value: Any) -> Sequence[Any]:
  return list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
