"""The fields of the configs of experiments/vqvae.py."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, size, weight

FIELDS: dict[str, Field] = {
  'model.codes': size(64, tiny=8),  # vectors in the codebook
  'model.code_dim': size(16, tiny=4),  # dimensions of each
  'model.width': size(16, tiny=4),  # channels at half resolution, doubled at each halving
  'model.downsamples': size(2),  # of the sides, from image to grid of codes: 28 -> 7
  'model.blocks': size(1),  # residual blocks of encoder and decoder
  'model.activation': Field('silu'),
  'model.prior_layers': size(3, tiny=1),  # of the Transformer over the codes
  'model.prior_width': size(64, tiny=8),  # its width
  'model.prior_heads': size(4, tiny=2),  # its attention heads
  # weight of the squared distance to the code; the paper's 0.25 is for a squared error of pixels
  'loss.commitment': weight(10.0),
  'loss.codebook_decay': weight(0.99, below=1.0),  # share of the codebook's averages that survives an update
  # vectors that choose a code, a running mean an update, below which it starts again
  'loss.restart_below': weight(0.5),
  # updates after which autoencoder and codes stay, whatever run.steps; 0: they never do
  'loss.autoencoder_steps': Field(1800, tiny=6),
  'loss.prior_lr_factor': weight(1.0),  # the prior's learning rate over the autoencoder's
  'eval.best': COMMON['eval.best'].but('elbo_nats:max'),
  'sample.temperature': weight(1.0),  # of the codes: lower is safer and less varied
  'sample.top_k': Field(0),  # draw among the likeliest codes only; 0: all
}
