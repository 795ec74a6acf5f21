"""Classifier of labelled images by cross-entropy; its features judge samples of the other families.

Small grey images have no meaning for a network trained on photographs. The penultimate activations of one that was
trained on their own kind do: `--extractor=classifier:RUN_DIR` (`gen_ai.metrics.extractors`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_ai import keys
from gen_ai.errors import UserError
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.switch import is_off
from gen_ai.nets.classifier import Classifier
from gen_ai.optim import ema_update, gradients, optimiser
from gen_ai.types import (
  Array,
  Batch,
  Key,
  Method,
  Metrics,
  PyTree,
  Reduce,
  Spec,
  State,
  SumCount,
  compute_dtype,
  identity,
)

LEADING = {'xent_nats': 'min', 'accuracy': 'max'}
NORMS = ('group', 'none')  # batch norm would make an image's features depend on training batches


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data without images or labels, an unknown norm, or a smoothing that is no probability."""
  if spec.kind != 'image':
    raise UserError(f"experiment 'classifier' takes images, but config.data.name='{config.data.name}' is text.")
  if spec.num_classes < 2:
    found = 'no labels' if spec.num_classes == 0 else 'one class only'
    raise UserError(f"experiment 'classifier' needs labelled images, but config.data.name='{config.data.name}' has "
                    f'{found}. Choose a labelled data set, such as mnist_5k or fashion_mnist.')  # fmt: skip
  if config.model.norm not in NORMS:
    raise UserError(f"config.model.norm='{config.model.norm}' is none of {', '.join(NORMS)}.")
  smoothing = config.loss.label_smoothing
  if not isinstance(smoothing, jax.core.Tracer) and not 0.0 <= smoothing < 1.0:
    raise UserError(f'config.loss.label_smoothing={smoothing} must be at least 0 and less than 1.')


def shifted(image: Array, key: Key, index: Array, most: int) -> Array:
  """Each image moved by up to `most` pixels along each side, its edge repeated; drawn by example.

  Args:
    image: [B, H, W, C]. key: of this update. index: int32 [B] example numbers.
    most: 0 returns the images as they are.
  """
  if most == 0:
    return image
  padded = jnp.pad(image, ((0, 0), (most, most), (most, most), (0, 0)), mode='edge')
  offset = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * most + 1))(keys.per_example(key, index))
  window = image.shape[1:]
  return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), window))(padded, offset)


def cross_entropy(logits: Array, label: Array, smoothing: float | Array = 0.0) -> Array:
  """-sum_k q_k log p_k in nats [B], q = (1 - smoothing) onehot(label) + smoothing / K (arXiv 1512.00567, section 7)."""
  log_p = jax.nn.log_softmax(logits)
  nats = -jnp.take_along_axis(log_p, label[:, None], 1)[:, 0]
  return nats if is_off(smoothing) else (1.0 - smoothing) * nats - smoothing * log_p.mean(1)


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The classifier of `config`; see `gen_ai.types.Method`. It draws no samples; it has `features`."""
  check(config, spec)
  model, smoothing = config.model, config.loss.label_smoothing
  network = Classifier(spec.num_classes, model.features, model.width, model.blocks, model.activation, model.norm,
                       dtype=compute_dtype(config.precision))  # fmt: skip
  rule = optimiser(config.optim, config.run.steps)
  averaged = not is_off(config.optim.ema_decay)

  def apply(params: PyTree, image: Array) -> tuple[Array, Array]:
    outputs: Any = network.apply({'params': params}, to_signed(image))
    return outputs

  def init(key: Key) -> State:
    params = network.init(keys.stream(key, 'classifier'), jnp.zeros((2, *spec.shape)))['params']
    # A copy: the programs donate the state, and one buffer cannot be given away twice.
    ema = jax.tree.map(jnp.copy, params) if averaged else ()
    return State(jnp.int32(0), params, rule.init(params), ema)

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    image = shifted(batch['image'], keys.stream(key, 'shift'), batch['index'], config.augment.shift)

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      _, logits = apply(params, batch['image'])
      loss = cross_entropy(logits, batch['label'], smoothing).mean()
      metrics = {'loss_nats': loss, 'xent_nats': cross_entropy(logits, batch['label']).mean(),
                 'accuracy': (logits.argmax(1) == batch['label']).astype(jnp.float32).mean()}  # fmt: skip
      return loss, (metrics, stats)

    examples = {'image': image, 'label': batch['label']}
    grads, metrics, _ = gradients(loss_fn, state.params, (), examples, key, config.optim.accumulate, reduce)
    change, opt_state = rule.update(grads, state.opt_state, state.params)
    params, step = jax.tree.map(jnp.add, state.params, change), state.step + 1
    ema = ema_update(state.ema, params, config.optim.ema_decay, step) if averaged else ()
    return State(step, params, opt_state, ema), metrics

  def features(state: State, image: Array) -> tuple[Array, Array]:
    return apply(state.ema if averaged else state.params, image)

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    _, logits = features(state, batch['image'])
    per_example = {'xent_nats': cross_entropy(logits, batch['label']),
                   'accuracy': (logits.argmax(1) == batch['label']).astype(jnp.float32)}  # fmt: skip
    mask = batch['mask']
    return {name: ((value * mask).sum(), mask.sum()) for name, value in per_example.items()}

  return Method(init, train_step, eval_step, None, features=features, leading=LEADING)
