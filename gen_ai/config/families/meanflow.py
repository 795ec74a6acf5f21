"""The fields of the configs of experiments/meanflow.py: the network, the times of training, guidance in its target."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.families.diffusion import NETWORK
from gen_ai.config.field import Field, Needs, size, weight

_LABELS: Needs = {'model.conditional': ('true', bool)}

FIELDS: dict[str, Field] = {
  **NETWORK,
  'model.conditional': Field(False),  # the network sees the label
  'loss.alike': weight(0.75, max=1.0),  # share of examples with r = t, whose loss is that of flow matching
  'loss.times_mean': Field(-0.4),  # of the normal variable whose sigmoid is a time
  'loss.times_deviation': Field(1.0, above=0.0),  # of it
  'loss.power': weight(1.0),  # p: an example weighs 1 / (its sum of squares + floor)^p; 0: 1
  'loss.floor': Field(0.01, above=0.0),
  # the target is omega v + kappa u(label) + (1 - omega - kappa) u(no label), guided by omega / (1 - kappa)
  'loss.guidance': weight(0.0, used_with=_LABELS),  # omega - 1; with a kappa of 0, 0 is none
  'loss.kappa': weight(0.0, below=1.0, used_with=_LABELS),
  'loss.drop_label': weight(0.1, below=1.0, used_with=_LABELS),  # share of examples that are trained on without it
  'sample.steps': size(1),  # of a sample, an evaluation of the network each
  'eval.best': COMMON['eval.best'].but('flow_mse:min'),
}
