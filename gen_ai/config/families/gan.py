"""The fields of the configs of experiments/gan.py."""

from gen_ai.config.field import Field, Needs, one_of, size, weight

_STYLE = ('stylegan2',)
_PLAIN = ('mlp', 'dcgan', 'resnet')
_NORMS = ('none', 'batch', 'group')
_ADA: Needs = {'augment.kind': one_of('ada')}
_PENALISED: Needs = {'loss.constraint': one_of('gradient_penalty', 'dragan', 'r1', 'r1_r2')}
# The losses of gen_ai.maths.adversarial, in its order; a relativistic one compares pairs of reals and fakes.
LOSSES = ('minimax', 'non_saturating', 'least_squares', 'hinge', 'wasserstein', 'relativistic')
RELATIVISTIC = ('relativistic',)
PLAIN_LOSSES = tuple(loss for loss in LOSSES if loss not in RELATIVISTIC)

FIELDS: dict[str, Field] = {
  'model.network': Field('mlp', choices=('mlp', 'dcgan', 'resnet', 'stylegan2')),
  # how labels are used (gen_ai.nets.gan)
  'model.condition': Field('none', choices=('none', 'concat', 'projection', 'auxiliary')),
  'model.latent': size(100, tiny=8),  # dimensions of z
  'model.g_widths': size((256, 512, 1024), tiny=(16, 16), networks=('mlp',)),  # hidden layers of the generator
  'model.d_widths': size((1024, 512, 256), tiny=(16, 16), networks=('mlp',)),  # hidden layers of the discriminator
  # channels at half resolution (dcgan) or at full (resnet, stylegan2), doubled at each halving
  'model.width': size(32, tiny=4, networks=('dcgan', 'resnet', 'stylegan2')),
  'model.max_width': size(512, tiny=4, networks=_STYLE),  # channels are doubled up to here
  'model.g_activation': Field('relu', networks=_PLAIN),  # stylegan2 has leaky ReLU
  'model.d_activation': Field('relu', networks=_PLAIN),  # stylegan2 has leaky ReLU
  # what the generator's images end in; as published: 'linear'
  'model.g_output': Field('tanh', choices=('linear', 'tanh'), networks=_STYLE),
  'model.g_norm': Field('none', choices=_NORMS, networks=('dcgan', 'resnet')),
  'model.d_norm': Field('none', choices=_NORMS, networks=('dcgan', 'resnet')),
  'model.g_spectral': Field(False, networks=('resnet',)),  # spectral normalisation of the generator
  'model.d_spectral': Field(False, networks=_PLAIN),  # spectral normalisation of the discriminator
  'model.attention': Field(False, networks=('resnet',)),  # self-attention at half resolution, in both networks
  # 'normal' (0.02, as published) | 'lecun'
  'model.weight_init': Field('normal', choices=('normal', 'lecun'), networks=('dcgan',)),
  'model.style': size(64, tiny=4, networks=_STYLE),  # dimensions of w
  'model.mapping_layers': size(4, tiny=1, networks=_STYLE),  # dense layers from z to w
  'model.mapping_lr': Field(0.01, above=0.0, networks=_STYLE),  # learning rate of these, as a factor
  'model.mixing': weight(0.9, max=1.0, networks=_STYLE),  # share of training images whose styles come from two latents
  'model.group': size(4, networks=_STYLE),  # images among which the discriminator measures a deviation; 1: off
  'loss.kind': Field('non_saturating', choices=LOSSES),
  # of the discriminator; wasserstein has no finite optimum without one or d_spectral
  'loss.constraint': Field('none', choices=('none', 'clip', 'gradient_penalty', 'dragan', 'r1', 'r1_r2')),
  'loss.penalty': weight(10.0, used_with=_PENALISED),  # weight of gradient_penalty, dragan, r1 or r1_r2
  # discriminator updates between two penalties, which then weigh as many times as much
  'loss.penalty_every': size(1, used_with=_PENALISED),
  'loss.clip': Field(0.01, used_with={'loss.constraint': one_of('clip')}),  # largest absolute weight
  'loss.n_critic': size(1),  # discriminator updates in one step, each on a batch of its own
  'loss.d_lr_factor': weight(1.0),  # the discriminator's learning rate over the generator's
  # weight of the cross-entropy of classes, in both losses
  'loss.auxiliary': weight(1.0, used_with={'model.condition': one_of('auxiliary')}),
  'loss.path_length': weight(0.0, networks=_STYLE),  # weight of the path-length penalty; 0: off
  # generator updates between two such penalties, weighed likewise
  'loss.path_every': size(4, networks=_STYLE, used_with={'loss.path_length': ('that is not 0', bool)}),
  'augment.kind': Field('none', choices=('none', 'diffaugment', 'ada')),  # of what the discriminator sees
  'augment.policy': Field(
    'color,translation,cutout',
    choices=('color', 'translation', 'cutout'),
    listed=True,
    used_with={'augment.kind': one_of('diffaugment')},
  ),
  'augment.groups': Field('blit,geometric,color', choices=('blit', 'geometric', 'color'), listed=True, used_with=_ADA),
  'augment.target': Field(0.6, used_with=_ADA),  # mean sign of real logits that its controller aims at
  'augment.speed': size(500_000, used_with=_ADA),  # images in which the probability can go from 0 to 1
  'augment.interval': size(4, used_with=_ADA),  # discriminator updates between two moves of the probability
  # how far w may be from its mean; 1: as trained, lower: fewer, better kinds
  'sample.truncation': Field(1.0, networks=_STYLE),
}
