"""The fields of the configs of experiments/classifier.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, size, weight

FIELDS: dict[str, Field] = {
  'run.sample_every': COMMON['run.sample_every'].but(0),  # it draws nothing
  'model.features': size(128, tiny=16),  # channels of the penultimate layer: the features by which samples are judged
  'model.width': size(32, tiny=4),  # channels at half resolution; they double as it halves
  'model.blocks': size(1),  # residual blocks at every resolution
  'model.activation': Field('silu'),
  # batch norm would make an image's features depend on training batches
  'model.norm': Field('group', choices=('group', 'none')),
  'loss.label_smoothing': weight(0.0, below=1.0),  # probability spread evenly over all classes; 0: off
  'augment.shift': Field(2),  # pixels by which a training image may be moved along each side; 0: none
  'eval.best': COMMON['eval.best'].but('xent_nats:min'),
}
