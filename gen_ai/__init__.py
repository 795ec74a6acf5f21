"""gen_ai trains, samples, evaluates and compares generative models with one JAX engine."""

__version__ = '0.1.0'
