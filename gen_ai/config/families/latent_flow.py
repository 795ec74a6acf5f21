"""The fields of the configs of experiments/latent_flow.py: an autoencoder, and a flow of its latents.

Those of the autoencoder are those of the run that --init_from names, and come from its config.
"""

from typing import Any

from ml_collections import ConfigDict

from gen_ai.config.defaults import COMMON
from gen_ai.config.families import vae, vqvae
from gen_ai.config.families.diffusion import NETWORK, NOISE, SAMPLER
from gen_ai.config.field import Field, one_of
from gen_ai.config.tree import flatten
from gen_ai.core.errors import UserError

_VECTOR = vae.FIELDS['model.network'].choices  # networks of VAEs, whose latents are vectors
_SCHEDULES = tuple(name for name in NOISE['model.schedule'].choices if name != 'vdm')  # whose bound is one of pixels
_OTHERS = ('model.data_std', 'loss.steps')  # latents are normalised; of the bound


def _of(field: Field, *networks: str, **changes: Any) -> Field:
  """A field of another family, of an autoencoder of these networks."""
  needs = {'autoencoder.network': one_of(*networks), **changes.pop('used_with', {})}
  return field.but(field.default, networks=(), used_with=needs, **changes)


_BINARY = {'autoencoder.likelihood': one_of('bernoulli')}
AUTOENCODER: dict[str, Field] = {
  'autoencoder.network': vae.FIELDS['model.network'].but('conv', choices=(*_VECTOR, 'grid')),  # grid: a VQ-VAE's
  **{
    f'autoencoder.{name}': _of(vqvae.FIELDS[f'model.{name}'], 'grid')
    for name in ('codes', 'code_dim', 'downsamples', 'blocks')
  },
  'autoencoder.width': _of(vae.FIELDS['model.width'], 'conv', 'resnet', 'grid'),
  'autoencoder.widths': _of(vae.FIELDS['model.widths'], 'mlp'),
  'autoencoder.activation': vqvae.FIELDS['model.activation'],
  'autoencoder.latents': _of(vae.FIELDS['model.latents'], *_VECTOR),  # the first of them is drawn
  'autoencoder.likelihood': _of(vae.FIELDS['loss.likelihood'], *_VECTOR),  # what its encoder sees of an image
  'autoencoder.binarise': _of(vae.FIELDS['loss.binarise'], *_VECTOR, used_with=_BINARY),
}

FIELDS: dict[str, Field] = {
  **AUTOENCODER,
  **NETWORK,
  'model.network': NETWORK['model.network'].but('mlp'),  # of the denoiser: of vectors, and of small grids
  'model.patch': NETWORK['model.patch'].but(1),  # numbers of a vector, or places along a side of a grid
  **{path: field for path, field in NOISE.items() if path not in _OTHERS},
  'model.schedule': NOISE['model.schedule'].but('flow', choices=_SCHEDULES),
  'model.predicts': NOISE['model.predicts'].but('velocity'),
  **SAMPLER,
  'eval.best': COMMON['eval.best'].but('loss:min'),
}


def inherited(parent: ConfigDict) -> dict[str, Any]:
  """{'section.field': value} of a run of this family that begins from one of the config `parent`.

  Raises:
    UserError: that has no autoencoder which this family takes; the message goes on from the name of the run.
  """
  if parent.experiment not in ('vae', 'vqvae', 'image_tokens'):
    raise UserError(f"is a run of '{parent.experiment}': take one of vae, vqvae or image_tokens.")
  flat = flatten(parent)
  if parent.experiment == 'vae' and parent.model.conditional:
    raise UserError('has config.model.conditional=true: take a vae whose decoder needs no label.')
  taken = {'autoencoder.network': 'grid'} if parent.experiment != 'vae' else {}
  for path in AUTOENCODER:
    name = path.partition('.')[2]
    section = 'loss' if name in ('likelihood', 'binarise') else 'model'
    if (there := f'{section}.{name}') in flat:
      taken[path] = flat[there]
  return taken
