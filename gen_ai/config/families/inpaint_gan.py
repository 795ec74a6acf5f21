"""The fields of the configs of experiments/inpaint_gan.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.families.gan import PLAIN_LOSSES
from gen_ai.config.field import Field, size

FIELDS: dict[str, Field] = {
  # 'box' (anywhere, a quarter to three quarters of each side) | 'half' | 'centre'
  'model.mask': Field('box', choices=('box', 'half', 'centre')),
  'model.latent': size(16, tiny=4),  # dimensions of z, so that completions may vary
  'model.width': size(24, tiny=4),  # channels at half resolution, doubled at each halving
  'model.activation': Field('silu'),  # of the generator
  'model.d_spectral': Field(True),  # spectral normalisation of the discriminator
  'loss.kind': Field('hinge', choices=PLAIN_LOSSES),
  'loss.adversarial': Field(0.1),  # weight of the generator's adversarial loss
  'loss.reconstruction': Field(10.0),  # weight of its mean absolute error
  'loss.penalty': Field(0.0),  # weight of R1 on the discriminator; 0: off
  'loss.d_lr_factor': Field(1.0),  # the discriminator's learning rate over the generator's
  'eval.best': COMMON['eval.best'].but('l1_hidden:min'),
}
