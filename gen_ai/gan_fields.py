"""The fields that every config of experiments/gan.py has, at usual values; a config file sets its own."""

from ml_collections import ConfigDict

from gen_ai.config import Needs, common, one_of

_STYLE = {'model.network': one_of('stylegan2')}
_NORMED = {'model.network': one_of('dcgan', 'resnet')}
_ADA = {'augment.kind': one_of('ada')}
_PENALISED = {'loss.constraint': one_of('gradient_penalty', 'dragan', 'r1', 'r1_r2')}
USED_WITH: dict[str, Needs] = {  # what reads a field of `adversarial`; fields that are not named are always read
  'model.g_widths': {'model.network': one_of('mlp')},
  'model.d_widths': {'model.network': one_of('mlp')},
  'model.width': {'model.network': one_of('dcgan', 'resnet', 'stylegan2')},
  'model.max_width': _STYLE,
  'model.g_activation': {'model.network': one_of('mlp', 'dcgan', 'resnet')},
  'model.d_activation': {'model.network': one_of('mlp', 'dcgan', 'resnet')},
  'model.g_output': _STYLE,
  'model.g_norm': _NORMED,
  'model.d_norm': _NORMED,
  'model.g_spectral': {'model.network': one_of('resnet')},
  'model.d_spectral': {'model.network': one_of('mlp', 'dcgan', 'resnet')},
  'model.attention': {'model.network': one_of('resnet')},
  'model.weight_init': {'model.network': one_of('dcgan')},
  'model.style': _STYLE,
  'model.mapping_layers': _STYLE,
  'model.mapping_lr': _STYLE,
  'model.mixing': _STYLE,
  'model.group': _STYLE,
  'loss.penalty': _PENALISED,
  'loss.penalty_every': _PENALISED,
  'loss.clip': {'loss.constraint': one_of('clip')},
  'loss.auxiliary': {'model.condition': one_of('auxiliary')},
  'loss.path_every': {**_STYLE, 'loss.path_length': ('that is not 0', bool)},
  'augment.policy': {'augment.kind': one_of('diffaugment')},
  'augment.groups': _ADA,
  'augment.target': _ADA,
  'augment.speed': _ADA,
  'augment.interval': _ADA,
}


def adversarial(data: str) -> ConfigDict:
  """A config of experiment 'gan' on the images of `data`, not locked."""
  config = common('gan', data)

  config.model = ConfigDict()
  config.model.network = 'mlp'  # 'mlp' | 'dcgan' | 'resnet' | 'stylegan2'
  config.model.condition = 'none'  # labels: 'none' | 'concat' | 'projection' | 'auxiliary' (gen_ai.nets.players)
  config.model.latent = 100  # dimensions of z
  config.model.g_widths = (256, 512, 1024)  # mlp: hidden layers of the generator
  config.model.d_widths = (1024, 512, 256)  # mlp: hidden layers of the discriminator
  config.model.width = 32  # channels at half resolution (dcgan) or at full (resnet, stylegan2), doubled at each halving
  config.model.max_width = 512  # stylegan2: channels are doubled up to here
  config.model.g_activation = 'relu'  # not of stylegan2, which is leaky ReLU
  config.model.d_activation = 'relu'  # not of stylegan2, which is leaky ReLU
  config.model.g_output = 'tanh'  # what the generator's images end in: 'tanh' | 'linear' (stylegan2, as published)
  config.model.g_norm = 'none'  # dcgan, resnet: 'none' | 'batch' | 'group'
  config.model.d_norm = 'none'  # dcgan, resnet: 'none' | 'batch' | 'group'
  config.model.g_spectral = False  # resnet: spectral normalisation of the generator
  config.model.d_spectral = False  # mlp, dcgan, resnet: spectral normalisation of the discriminator
  config.model.attention = False  # resnet: self-attention at half resolution, in both networks
  config.model.weight_init = 'normal'  # dcgan: 'normal' (0.02, as published) | 'lecun'
  config.model.style = 64  # stylegan2: dimensions of w
  config.model.mapping_layers = 4  # stylegan2: dense layers from z to w
  config.model.mapping_lr = 0.01  # stylegan2: learning rate of these, as a factor
  config.model.mixing = 0.9  # stylegan2: share of training images whose styles come from two latents
  config.model.group = 4  # stylegan2: images among which the discriminator measures a deviation; 1: off

  config.loss = ConfigDict()
  config.loss.kind = 'non_saturating'  # minimax | non_saturating | least_squares | hinge | wasserstein | relativistic
  config.loss.constraint = 'none'  # of the discriminator: none | clip | gradient_penalty | dragan | r1 | r1_r2
  config.loss.penalty = 10.0  # weight of gradient_penalty, dragan, r1 or r1_r2
  config.loss.penalty_every = 1  # discriminator updates between two penalties, which then weigh as many times as much
  # wasserstein has no finite optimum without a constraint or d_spectral
  config.loss.clip = 0.01  # largest absolute weight (clip)
  config.loss.n_critic = 1  # discriminator updates in one step, each on a batch of its own
  config.loss.d_lr_factor = 1.0  # the discriminator's learning rate over the generator's
  config.loss.auxiliary = 1.0  # auxiliary: weight of the cross-entropy of classes, in both losses
  config.loss.path_length = 0.0  # stylegan2: weight of the path-length penalty; 0: off
  config.loss.path_every = 4  # stylegan2: generator updates between two such penalties, weighed likewise

  config.augment = ConfigDict()
  config.augment.kind = 'none'  # of what the discriminator sees: 'none' | 'diffaugment' | 'ada'
  config.augment.policy = 'color,translation,cutout'  # diffaugment: which of these
  config.augment.groups = 'blit,geometric,color'  # ada: which of these
  config.augment.target = 0.6  # ada: mean sign of real logits that its controller aims at
  config.augment.speed = 500_000  # ada: images in which the probability can go from 0 to 1
  config.augment.interval = 4  # ada: discriminator updates between two moves of the probability

  config.optim.ema_halflife = 0.0  # images in which the weight of old parameters halves, instead of ema_decay; 0: off
  config.sample.truncation = 1.0  # stylegan2: how far w may be from its mean; 1: as trained, lower: fewer, better kinds
  return config
