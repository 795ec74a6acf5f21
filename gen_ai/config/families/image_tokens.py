"""The fields of the configs of experiments/image_tokens.py: those of a VQ-VAE, and of the captions before its codes."""

from gen_ai.config.families.vqvae import FIELDS as VQVAE
from gen_ai.config.field import Field, size, weight

FIELDS: dict[str, Field] = {
  **VQVAE,
  'model.codes': size(128, tiny=8),  # vectors in the codebook
  'model.prior_width': size(96, tiny=8),  # of the Transformer over words and codes
  # what is said of an image, with the name of its class for {}; evaluations use the first
  'model.captions': Field(('a {}', 'a photo of a {}', 'a picture of a {}', '{}')),
  'loss.autoencoder_steps': VQVAE['loss.autoencoder_steps'].but(700),
  # share of images that are trained on without their caption, so that the model draws without one, too
  'loss.drop_caption': weight(0.1, below=1.0),
  # w of logits + w (logits - those without the caption): above 0, images show more clearly what was asked for
  'sample.guidance': weight(1.0, tiny=10.0, used_with={'loss.drop_caption': ('above 0', bool)}),
}
