"""The fields of the configs of experiments/diffusion.py: noise, what the network says of it, the loss, the sampler."""

from gen_ai.config.defaults import COMMON
from gen_ai.config.field import Field, Needs, one_of, size, weight

SOLVERS = ('ddpm', 'ddpm_large', 'ddim', 'euler', 'heun', 'dpmpp_2m', 'dpmpp_2m_sde', 'sde')
GRIDS = ('uniform', 'shifted', 'karras', 'log_snr')
_SQUARE: Needs = {'model.schedule': one_of('linear', 'cosine', 'zero_snr', 'edm', 'flow')}  # of 'vdm' it is the bound
_BOUND: Needs = {'model.schedule': one_of('vdm')}
_NORMAL: Needs = {**_SQUARE, 'loss.times': one_of('logit_normal', 'lognormal')}
_LABELS: Needs = {'model.conditional': ('true', bool)}
# The ends of 'vdm' are learned.
_GUIDED: Needs = {**_SQUARE, ('sample.guidance', 'sample.autoguidance'): ('above 0', bool)}
_CHURNED: Needs = {'sample.solver': one_of('euler', 'heun'), 'sample.churn': ('above 0', bool)}
_NOISY: Needs = {'sample.solver': one_of('ddim')}


def _patch(data: str) -> int:
  """Of 28 pixels 7: sixteen tokens, which learn more within minutes than 49 do."""
  return 7 if 'mnist' in data else 4


NETWORK: dict[str, Field] = {
  # a Transformer over patches | a residual U-Net with attention | an MLP
  'model.network': Field('dit', choices=('dit', 'unet', 'mlp')),
  'model.patch': size(_patch, tiny=7, networks=('dit',)),  # pixels along a side of a patch, which must divide the image
  'model.layers': size(4, tiny=1, networks=('dit',)),
  'model.heads': size(4, tiny=2, networks=('dit',)),
  'model.bottleneck': Field(0, networks=('dit',)),  # numbers through which a patch is embedded; 0: all at once
  'model.width': size(128, tiny=8),  # of tokens, of channels at full resolution (unet), of hidden layers (mlp)
  'model.remat': Field('none', choices=('none', 'dots', 'full'), networks=('dit',)),  # computed again going back
  'model.multipliers': size((1, 2, 2), tiny=(1, 2), networks=('unet',)),  # of the width at each halving of the image
  'model.blocks': size(2, tiny=1, networks=('unet', 'mlp')),  # of the mlp, or of the unet at each resolution
  'model.attention': Field((1,), networks=('unet',)),  # levels, from 0, the finest, that have attention
  # in training: between the convolutions of a block (unet), of hidden layers (mlp), of attention and branches (dit)
  'model.dropout': weight(0.0, below=1.0),
}
GUIDANCE: dict[str, Field] = {
  # w of D + w (D - D of the model without labels), D what lies behind noise; papers whose scale is 1 without guidance
  # call it 1 + w
  'sample.guidance': weight(0.0, used_with=_LABELS),
  # w of D + w (D - D of another run), which `generate` and `evaluate` name with --guide (arXiv 2406.02507)
  'sample.autoguidance': weight(0.0),
  'sample.guidance_low': weight(0.0, used_with=_GUIDED),  # sigma = s / a above which there is guidance of either kind
  'sample.guidance_high': weight(0.0, used_with=_GUIDED),  # sigma up to which there is; 0: of any
}
NOISE: dict[str, Field] = {
  # x | eps | v = a eps - s x (arXiv 2202.00512) | velocity = eps - x | F (EDM's, arXiv 2206.00364)
  'model.predicts': Field('x', choices=('x', 'eps', 'v', 'velocity', 'F')),
  # x_t = a x + s eps: linear | cosine | zero_snr (DDPM's tables) | vdm (learned ends; the loss is a bound) | edm | flow
  'model.schedule': Field('flow', choices=('linear', 'cosine', 'zero_snr', 'vdm', 'edm', 'flow')),
  'model.shift': Field(1.0, above=0.0, used_with={'model.schedule': one_of('flow')}),  # of times: above 1 more noise
  'model.data_std': weight(0.0),  # deviation of the data, which preconditions; 0: measured in the first updates
  'model.conditional': Field(False),  # the network sees the label
  'loss.space': Field('velocity', choices=('x', 'eps', 'v', 'velocity', 'F'), used_with=_SQUARE),  # of the error
  'loss.weight': Field('one', choices=('one', 'min_snr', 'bound'), used_with=_SQUARE),  # of the error there
  # largest weight of an error of x (arXiv 2303.09556)
  'loss.snr_gamma': Field(5.0, above=0.0, used_with={**_SQUARE, 'loss.weight': one_of('min_snr')}),
  # of training: uniform | logit_normal (sigmoid of a normal variable) | lognormal (of sigma, schedule edm)
  'loss.times': Field('logit_normal', choices=('uniform', 'logit_normal', 'lognormal'), used_with=_SQUARE),
  'loss.times_mean': Field(0.0, used_with=_NORMAL),  # of the normal variable
  'loss.times_deviation': Field(1.0, above=0.0, used_with=_NORMAL),  # of it
  'loss.learned_variance': Field(False, used_with=_SQUARE),  # loss / exp(u) + u, u(level) learned (arXiv 2312.02696)
  'loss.steps': Field(0, used_with=_BOUND),  # noise levels of the bound; 0: continuous
  'loss.drop_label': weight(0.1, below=1.0, used_with=_LABELS),  # share of examples that are trained on without it
}
SAMPLER: dict[str, Field] = {
  'sample.solver': Field('heun', choices=SOLVERS),
  'sample.steps': size(25, tiny=3),  # between two levels of the grid
  # of levels: even in t | in t, shifted | Karras' in sigma | even in log SNR
  'sample.grid': Field('uniform', choices=GRIDS),
  'sample.shift': Field(1.0, above=0.0, used_with={'sample.grid': one_of('shifted')}),  # above 1: dense near the noise
  'sample.rho': Field(7.0, above=0.0, used_with={'sample.grid': one_of('karras')}),  # above 1: dense near the data
  'sample.eta': weight(0.0, used_with=_NOISY),  # new noise a step, from none (0) to DDPM's (1)
  'sample.churn': weight(0.0, used_with={'sample.solver': one_of('euler', 'heun')}),  # EDM's S_churn
  'sample.churn_low': weight(0.0, used_with=_CHURNED),  # sigma from which there is churn, EDM's S_tmin
  'sample.churn_high': weight(0.0, used_with=_CHURNED),  # sigma up to which there is, S_tmax; 0: of any
  'sample.churn_noise': Field(1.0, above=0.0, used_with=_CHURNED),  # deviation of what is added, S_noise
  'sample.diffusion': weight(1.0, used_with={'sample.solver': one_of('sde')}),  # w(t) = diffusion t, of the SDE
  **GUIDANCE,
}

FIELDS: dict[str, Field] = {
  **NETWORK,
  **NOISE,
  # powers n of sin and cos(2^n pi x) beside x: (6, 7) tell the two lowest bits of 256 levels
  'model.fourier': Field(()),
  **SAMPLER,
  'sample.clip': Field(True),  # what the network says of x to the range of pixels
  # of the task 'edit': the time, 0 (data) to 1 (noise), from which all steps are run
  'sample.strength': Field(0.5, above=0.0, max=1.0),
  'sample.jump': size(2),  # of the task 'complete': steps that are gone back (RePaint, arXiv 2201.09865)
  'sample.resamplings': size(2),  # of it: how often they are walked
  'sample.ode_steps': Field(100, min=3, tiny=3),  # of the task 'log_prob'
  'sample.probes': size(4),  # of the task 'log_prob': directions by which a divergence is estimated
  'eval.best': COMMON['eval.best'].but('loss:min'),
}
