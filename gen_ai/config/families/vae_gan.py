"""The fields of the configs of experiments/vae_gan.py."""

from gen_ai.config.families.gan import PLAIN_LOSSES
from gen_ai.config.field import Field, size, weight

FIELDS: dict[str, Field] = {
  'model.latent': size(32, tiny=4),  # dimensions of z
  'model.width': size(16, tiny=4),  # channels at half resolution, doubled at each halving, in all three networks
  'model.hidden': size(128, tiny=8),  # units between the discriminator's features and its score
  'model.activation': Field('silu'),  # of encoder and decoder
  'model.decoder_norm': Field('group', choices=('group', 'none')),  # of the decoder
  'model.d_norm': Field('group', choices=('group', 'none')),  # of the discriminator
  'loss.kind': Field('non_saturating', choices=PLAIN_LOSSES),
  'loss.kl_weight': weight(5.0),  # of the prior term, in the encoder's loss
  'loss.gamma': weight(0.01),  # weight of the feature error in the decoder's loss
  'loss.penalty': weight(5.0),  # weight of R1 on the discriminator; 0: off
  'loss.d_lr_factor': weight(1.0),  # the discriminator's learning rate over that of the others
}
