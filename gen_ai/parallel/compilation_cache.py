"""Where compiled programs are kept between runs."""

import jax

from gen_ai.core import places
from gen_ai.core.errors import UserError


def use_cache(path: str) -> str:
  """Compiled programs are kept under `path` and found there by the next run; '' switches that off.

  The default goes elsewhere, or nowhere, where it cannot be written (`places.default`); returns what is used.

  Raises:
    UserError: a folder that was asked for by name cannot be written.
  """
  folder = places.default(path) if path == places.COMPILED else places.expand(path, '--compilation_cache')
  if not path or folder is None:
    jax.config.update('jax_enable_compilation_cache', False)
    return ''
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"--compilation_cache={folder} cannot be written ({error.strerror}): name another folder, or '' to do without."
    ) from error
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  return str(folder)
