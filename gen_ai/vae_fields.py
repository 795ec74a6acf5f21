"""The fields that every config of experiments/vae.py has, at usual values; a config file sets its own."""

from ml_collections import ConfigDict

from gen_ai.config import Needs, common, one_of

USED_WITH: dict[str, Needs] = {  # what reads a field of `variational`; fields that are not named are always read
  'model.widths': {'model.network': one_of('mlp')},
  'model.width': {'model.network': one_of('conv', 'resnet')},
  'model.top_widths': {'model.latents': ('of several layers', lambda latents: len(latents) > 1)},
  'loss.binarise': {'loss.likelihood': one_of('bernoulli')},
  'loss.gradient': {'loss.bound': one_of('iwae')},
}


def variational(data: str) -> ConfigDict:
  """A config of experiment 'vae' on the images of `data`, not locked."""
  config = common('vae', data)

  config.model = ConfigDict()
  config.model.network = 'conv'  # 'mlp' | 'conv' | 'resnet'
  config.model.latents = (16,)  # dimensions of each stochastic layer, from the image upwards
  config.model.widths = (512, 256)  # hidden layers of the MLP encoder; the decoder's are the same reversed
  config.model.width = 32  # channels of the conv and residual networks at half resolution
  config.model.top_widths = (100, 100)  # hidden layers of the MLPs between stochastic layers
  config.model.activation = 'silu'
  config.model.conditional = False  # encoder and decoder see the label

  config.loss = ConfigDict()
  config.loss.likelihood = 'bernoulli' if 'mnist_5k' in data else 'discretised_logistic'  # or 'gaussian'
  config.loss.binarise = 'dynamic'  # bernoulli: 'dynamic' (anew at every step) | 'static' (once)
  config.loss.bound = 'elbo'  # 'elbo' | 'iwae'
  config.loss.draws = 1  # of latents an example; 'elbo' takes their mean
  config.loss.gradient = 'plain'  # of 'iwae': 'plain' | 'dreg' (doubly reparameterised)
  config.loss.kl_weight = 1.0  # beta
  config.loss.kl_warmup_steps = 0  # updates in which beta grows linearly from 0
  config.loss.free_bits = 0.0  # nats a latent dimension below which its KL costs nothing; 0: off
  config.eval.best = 'elbo_nats:max'
  return config
