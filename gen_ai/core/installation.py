"""Where launch.py, configs/ and experiments/ lie: beside gen_ai in a checkout, inside it in an installed package.

A wheel must not put names as common as `configs` and `experiments` beside everybody's packages, so pyproject.toml
ships the three in a folder of gen_ai. What is found there is used as in a checkout. Light: the standard library alone.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from gen_ai.core.errors import UserError

_HERE = Path(__file__).resolve().parents[1]
_SHIPPED = _HERE / '_shipped'  # made by the build, see pyproject.toml
PACKAGED = _SHIPPED.is_dir()
SOURCE = _SHIPPED if PACKAGED else _HERE.parent
LAUNCH = 'gen-ai train' if PACKAGED else 'python launch.py'  # for messages; `command_line.printed` makes whole commands


def experiment(name: str) -> ModuleType:
  """The module experiments/NAME.py of `SOURCE`, whatever the folder where Python was started.

  Raises:
    UserError: another package of the name `experiments` is loaded in this process.
  """
  folder = SOURCE / 'experiments'
  package = sys.modules.get('experiments')
  if package is None:
    file = folder / '__init__.py'
    spec = importlib.util.spec_from_file_location('experiments', file, submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules['experiments'] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
  found = [Path(place) for place in getattr(package, '__path__', [])]
  if not found or found[0].resolve() != folder:
    where = found[0] if found else getattr(package, '__file__', 'nowhere')
    raise UserError(f"another package 'experiments' is loaded, from {where}: it hides {folder}. Give it another name.")
  return importlib.import_module(f'experiments.{name}')


def anywhere() -> bool:
  """Whether `python -m gen_ai.x` runs this very code in any folder: installed as a package, or in editable form."""
  if PACKAGED:
    return True
  try:
    about = json.loads(importlib.metadata.distribution('gen_ai').read_text('direct_url.json') or '{}')
  except importlib.metadata.PackageNotFoundError:
    return False
  editable = about.get('dir_info', {}).get('editable', False)
  return editable and Path(unquote(urlsplit(about['url']).path)).resolve() == SOURCE


def pip(extra: str = '') -> str:
  """The command that installs what gen_ai needs, or what its extra needs (a file requirements/EXTRA.txt)."""
  if PACKAGED:
    return shlex.join(['pip', 'install', f'gen_ai[{extra}]' if extra else 'gen_ai'])
  return f'pip install -r {f"requirements/{extra}" if extra else "requirements"}.txt'
