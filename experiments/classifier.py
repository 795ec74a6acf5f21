"""Classifier of labelled images by cross-entropy; its features judge samples of the other families.

Small grey images have no meaning for a network trained on photographs. The penultimate activations of one that was
trained on their own kind do: `--extractor=classifier:RUN_DIR` (`gen_ai.evaluate.metrics.extractors`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import (
  EXAMPLE,
  NUMBER,
  Array,
  Batch,
  Field,
  Key,
  Method,
  Metrics,
  PyTree,
  Reduce,
  Spec,
  State,
  SumCount,
  Task,
  identity,
)
from gen_ai.core.optim import Updater, gradients
from gen_ai.core.switch import is_off
from gen_ai.maths.masked import masked
from gen_ai.maths.pixels import to_signed
from gen_ai.nets.apply import compute_dtype
from gen_ai.nets.classifier import Classifier

KINDS = ('image',)  # of data
LEADING = {'xent_nats': 'min', 'accuracy': 'max'}


def check(config: ConfigDict, spec: Spec) -> None:
  """Raises UserError for data without labels."""
  if spec.num_classes < 2:
    found = 'no labels' if spec.num_classes == 0 else 'one class only'
    raise UserError(
      f"experiment 'classifier' needs labelled images, but config.data.name='{config.data.name}' has "
      f'{found}. Choose a labelled data set, such as mnist_5k or fashion_mnist.'
    )


def shifted(image: Array, key: Key, index: Array, most: int) -> Array:
  """Each image moved by up to `most` pixels along each side, its edge repeated; drawn by example.

  Args:
    image: [B, H, W, C]. key: of this update. index: int32 [B] example numbers.
    most: 0 returns the images as they are.
  """
  if most == 0:
    return image
  padded = jnp.pad(image, ((0, 0), (most, most), (most, most), (0, 0)), mode='edge')
  offset = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * most + 1))(random.per_example(key, index))
  window = image.shape[1:]
  return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), window))(padded, offset)


def cross_entropy(logits: Array, label: Array, smoothing: float | Array = 0.0) -> Array:
  """-sum_k q_k log p_k in nats [B], q = (1 - smoothing) onehot(label) + smoothing / K (arXiv 1512.00567, section 7)."""
  log_p = jax.nn.log_softmax(logits)
  nats = -jnp.take_along_axis(log_p, label[:, None], 1)[:, 0]
  return nats if is_off(smoothing) else (1.0 - smoothing) * nats - smoothing * log_p.mean(1)


def build(config: ConfigDict, spec: Spec, reduce: Reduce = identity) -> Method:
  """The classifier of `config`; see `gen_ai.core.method.Method`. It draws no samples; its task is 'features'."""
  check(config, spec)
  model, smoothing = config.model, config.loss.label_smoothing
  network = Classifier(
    spec.num_classes,
    model.features,
    model.width,
    model.blocks,
    model.activation,
    model.norm,
    dtype=compute_dtype(config.precision),
  )
  updater = Updater(config)

  def apply(params: PyTree, image: Array) -> tuple[Array, Array]:
    outputs: Any = network.apply({'params': params}, to_signed(image))
    return outputs

  def init(key: Key) -> State:
    return updater.init(network.init(random.stream(key, 'classifier'), jnp.zeros((2, *spec.shape)))['params'])

  def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
    image = shifted(batch['image'], random.stream(key, 'shift'), batch['index'], config.augment.shift)

    def loss_fn(params: PyTree, stats: PyTree, batch: Batch, key: Key):
      _, logits = apply(params, batch['image'])
      loss = cross_entropy(logits, batch['label'], smoothing).mean()
      metrics = {
        'loss_nats': loss,
        'xent_nats': cross_entropy(logits, batch['label']).mean(),
        'accuracy': (logits.argmax(1) == batch['label']).astype(jnp.float32).mean(),
      }
      return loss, (metrics, stats)

    examples = {'image': image, 'label': batch['label']}
    grads, metrics, _ = gradients(loss_fn, state.params, (), examples, key, config.optim.accumulate, reduce)
    return updater.advance(updater.update(state, grads)), metrics

  def features(state: State, inputs: Batch, own_keys: Key) -> Batch:
    values, logits = apply(updater.eval_params(state), inputs['image'])
    return {'features': values, 'logits': logits}

  def eval_step(state: State, batch: Batch, key: Key) -> SumCount:
    logits = features(state, batch, key)['logits']
    per_example = {
      'xent_nats': cross_entropy(logits, batch['label']),
      'accuracy': (logits.argmax(1) == batch['label']).astype(jnp.float32),
    }
    return masked(per_example, batch['mask'])

  outputs = {'features': Field(NUMBER, (model.features,)), 'logits': Field(NUMBER, (spec.num_classes,))}
  tasks = {'features': Task(features, {'image': Field(EXAMPLE, spec.shape, True)}, outputs, ())}
  return Method(init, train_step, eval_step, tasks, leading=LEADING)
