"""The fields of the configs of experiments/vae.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, one_of, size, weight


def _likelihood(data: str) -> str:
  """The digits of mnist_5k are modelled as binary pixels, other images as 256 levels."""
  return 'bernoulli' if 'mnist_5k' in data else 'discretised_logistic'


FIELDS: dict[str, Field] = {
  'model.network': Field('conv', choices=('mlp', 'conv', 'resnet')),
  'model.latents': size((16,), tiny=(4,)),  # dimensions of each stochastic layer, from the image upwards
  # hidden layers of the encoder; the decoder's are the same reversed
  'model.widths': size((512, 256), tiny=(8,), networks=('mlp',)),
  'model.width': size(32, tiny=4, networks=('conv', 'resnet')),  # channels at half resolution
  # hidden layers of the MLPs between stochastic layers
  'model.top_widths': size(
    (100, 100), tiny=(8,), used_with={'model.latents': ('of several layers', lambda latents: len(latents) > 1)}
  ),
  'model.activation': Field('silu'),
  'model.conditional': Field(False),  # encoder and decoder see the label
  'loss.likelihood': Field(_likelihood, choices=('bernoulli', 'gaussian', 'discretised_logistic')),
  # 'dynamic' (anew at every step) | 'static' (once)
  'loss.binarise': Field('dynamic', choices=('dynamic', 'static'), used_with={'loss.likelihood': one_of('bernoulli')}),
  'loss.bound': Field('elbo', choices=('elbo', 'iwae')),
  'loss.importance_samples': size(1),  # of latents an example; 'elbo' takes their mean
  # 'plain' | 'dreg' (doubly reparameterised)
  'loss.gradient': Field('plain', choices=('plain', 'dreg'), used_with={'loss.bound': one_of('iwae')}),
  'loss.kl_weight': weight(1.0),  # beta
  'loss.kl_warmup_steps': Field(0),  # updates in which beta grows linearly from 0
  'loss.free_bits': weight(0.0),  # nats a latent dimension below which its KL costs nothing; 0: off
  'eval.best': COMMON['eval.best'].but('elbo_nats:max'),
}
