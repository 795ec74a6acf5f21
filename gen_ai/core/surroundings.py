"""What a process finds around it that changes its numbers: refused by name, or told and recorded. Light: no JAX.

A run is what its config says. Variables that would make another experiment of it (other types, other noise, nothing
compiled) are refused before anything starts. Those that set how products are rounded may stay: the header tells them,
run.json keeps them, and runs that differ in them are compared as the protocol says (`gen_ai.compare.protocol`).
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from gen_ai.core.errors import UserError

_TRUE, _FALSE = ('y', 'yes', 't', 'true', 'on', '1'), ('n', 'no', 'f', 'false', 'off', '0')
# {variable: (values it may have, why it may have no other)}
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
  'JAX_ENABLE_X64': (_FALSE, 'it makes float64 of what config.precision says is float32 or less'),
  'JAX_DISABLE_JIT': (_FALSE, 'without compilation nothing here runs'),
  'JAX_NO_TRACING': (_FALSE, 'without tracing nothing here runs'),
  'JAX_NO_EXECUTION': (_FALSE, 'without execution nothing here runs'),
  'JAX_DEBUG_NANS': (_FALSE, 'it computes step by step what is compiled as a whole; a run finds its NaN itself'),
  'JAX_DEBUG_INFS': (_FALSE, 'it computes step by step what is compiled as a whole; a run finds its NaN itself'),
  'JAX_DEBUG_KEY_REUSE': (_FALSE, 'it refuses programs that are sound'),
  'JAX_DEFAULT_PRNG_IMPL': (('threefry2x32',), 'it draws other noise from the same seed'),
  'JAX_THREEFRY_PARTITIONABLE': (_TRUE, 'it draws other noise from the same seed'),
  'JAX_HIGH_DYNAMIC_RANGE_GUMBEL': (_FALSE, 'it draws other noise from the same seed'),
  'JAX_RANDOM_SEED_OFFSET': (('0',), 'it turns config.run.seed into another seed'),
  'JAX_NUMPY_DTYPE_PROMOTION': (('standard',), 'it changes the types that operations give'),
  'JAX_NUMPY_RANK_PROMOTION': (('allow', 'warn'), 'it refuses programs that are sound'),
}
# XLA would compute as if there were no NaN, and a run that diverges could not tell.
_REFUSED_FLAGS = ('xla_cpu_enable_fast_math', 'xla_gpu_enable_fast_math')
# Which precision products and sums have. Beside them, all that is not known to leave the numbers alone may round anew.
_PRECISION = ('JAX_DEFAULT_MATMUL_PRECISION', 'JAX_ALLOW_F16_REDUCTIONS', 'NVIDIA_TF32_OVERRIDE')
_ROUNDING = ('LIBTPU_INIT_ARGS', 'TF_CUDNN_DETERMINISTIC', 'CUBLAS_WORKSPACE_CONFIG')
_HARMLESS = re.compile(
  r'JAX_(PLATFORM|COMPILATION_CACHE|ENABLE_COMPILATION_CACHE|PERSISTENT_CACHE|RAISE_PERSISTENT|LOG|EXPLAIN|TRACE|DUMP'
  r'|INCLUDE|HLO_SOURCE|COORDINATOR|NUM_|PROCESS_ID|LOCAL_DEVICE|CUDA_VISIBLE|ROCM_VISIBLE|CROSS_HOST|DISTRIBUTED'
  r'|CPU_COLLECTIVES|CPU_GET|CPU_ENABLE_ASYNC|COMPILER_DETAILED|TRANSFER_GUARD|CHECK_TRACER|ENABLE_CHECKS|PPRINT|PGLE'
  r'|ENABLE_PGLE|ENABLE_CUSTOM_PRNG|LEGACY_PRNG|SHARE_BINARY|SERIALIZATION|MEMORY_FITTING|ENABLE_PREEMPTION'
  r'|ENABLE_RECOVERABILITY|CAPTURED_CONSTANTS|SOURCE_URL|SEND_TRACEBACK|THREAD_GUARD)'
)
_HARMLESS_FLAG = re.compile(
  r'xla_(force_host_platform_device_count|dump|hlo_profile|detailed_logging|cpu_parallel_codegen_split_count'
  r'|gpu_per_fusion_autotune_cache|gpu_cuda_data_dir|gpu_force_compilation_parallelism|pjrt)'
)


def _flags(text: str) -> dict[str, str]:
  """{'xla_name': '--xla_name=value'} of XLA_FLAGS."""
  words = text.split()
  return {word.lstrip('-').partition('=')[0]: word for word in words}


def check(environment: Mapping[str, str] = os.environ) -> None:
  """Refuses a variable that would make another experiment of every run. Raises UserError naming it and why."""
  for name, (usual, why) in REFUSED.items():
    value = environment.get(name, '').strip()
    if value and value.lower() not in usual:
      raise UserError(f'{name}={value} is set in the environment: {why}. Unset it (`unset {name}`).')
  for name, word in _flags(environment.get('XLA_FLAGS', '')).items():
    if name in _REFUSED_FLAGS and word.partition('=')[2].lower() not in _FALSE:
      raise UserError(
        f'XLA_FLAGS holds {word}: XLA would compute as if there were no NaN, and a run that diverges '
        'could not tell. Leave it out.'
      )


def load() -> None:
  """Imports JAX. Raises UserError as `check` does, or where a variable of JAX has a value it cannot have."""
  check()
  try:
    import jax  # noqa: F401
  except ValueError as error:
    raise UserError(f'JAX does not start: {error}: mend or unset that variable of the environment.') from error


def start() -> None:
  """Brings JAX and its devices up: what every command does before its first computation.

  Raises:
    UserError: see `load`; or a variable asks for devices that are not here.
  """
  load()
  import jax

  try:
    jax.devices()
  except Exception as error:  # JAX raises whatever it met, an AssertionError too
    settings = [f'{name}={os.environ[name]}' for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME') if os.environ.get(name)]
    message = ' '.join(str(error).split())
    if settings:
      why = f' ({message})' if message else ''
      raise UserError(
        f'{settings[0]} is set in the environment, but JAX finds no such device here{why}. Unset it, or set '
        f'{settings[0].partition("=")[0]}=cpu.'
      ) from error
    raise UserError(f'JAX finds no device: {message or type(error).__name__}.') from error


def arithmetic(environment: Mapping[str, str]) -> str:
  """What `environment` says of the precision of products, sums and types: 'NAME=VALUE ...'; '' for the usual one."""
  names = [name for name in sorted({*_PRECISION, *REFUSED}) if environment.get(name, '')]
  unusual = [name for name in names if environment[name].strip().lower() not in REFUSED.get(name, ((), ''))[0]]
  return ' '.join(f'{name}={environment[name]}' for name in unusual)


def compiler(environment: Mapping[str, str]) -> str:
  """What else of `environment` may change the rounding: variables of JAX, flags of XLA; '' without any."""
  known = {*_PRECISION, *REFUSED}
  names = [name for name in sorted(environment) if name.startswith('JAX_') or name in _ROUNDING]
  variables = [f'{name}={environment[name]}' for name in names if name not in known and not _HARMLESS.match(name)]
  flags = [
    word for name, word in sorted(_flags(environment.get('XLA_FLAGS', '')).items()) if not _HARMLESS_FLAG.match(name)
  ]
  return ' '.join([*variables, *flags])


def numerics(environment: Mapping[str, Any] = os.environ) -> str:
  """`arithmetic` and `compiler` in one line; '' where the environment leaves the numbers alone."""
  return ' '.join(filter(None, (arithmetic(environment), compiler(environment))))
