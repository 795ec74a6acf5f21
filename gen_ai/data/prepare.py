"""Prepares a data set ahead: python -m gen_ai.data.prepare NAME [--data_dir=DIR] [--manual_dir=DIR].

TFDS's own data sets are prepared by their official builders, from files in --manual_dir or from the network, and need
TensorFlow while they prepare (requirements/tfds.txt). Training reads what was prepared without either.
"""

import hashlib
import importlib.util
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from absl import app, flags

from gen_ai.core import installation, places, terminal
from gen_ai.core.errors import FAILED, UserError
from gen_ai.data import mnist_5k, store, text, tfds_source

_REACH_SECONDS = 2.0


def prepare(name: str, data_dir: str = '', manual_dir: str = '') -> str:
  """Prepares data set `name` unless it is prepared already.

  Args:
    name: 'mnist_5k', 'python_stdlib', or a TFDS name.
    data_dir, manual_dir: as in `config.data`.

  Returns:
    where it lies.

  Raises:
    UserError: within seconds, for an unknown name, TensorFlow missing, source files that are missing while there is no
      network, or that have another checksum than the builder's record.
  """
  place = store.data_folder(data_dir)
  idle = {'python_stdlib': {'data_dir': data_dir, 'manual_dir': manual_dir}, mnist_5k.NAME: {'manual_dir': manual_dir}}
  for flag, value in idle.get(name, {}).items():
    if value:
      raise UserError(f'--{flag}={value} would do nothing: {name} comes with what is installed. Leave it out.')
  if name == 'python_stdlib':
    return text.stdlib_location()
  if name.startswith(('folder:', 'text:')):
    raise UserError(f'{name} needs no preparing: give it to training as data.name.')
  if name == mnist_5k.NAME:
    tfds_source.import_tfds()
    return str(mnist_5k.prepare(place))
  tfds = tfds_source.import_tfds()
  tfds_source.check_name(name)
  builder = tfds.builder(name, data_dir=str(place), file_format='array_record', try_gcs=False)
  if (Path(builder.data_path) / 'dataset_info.json').exists():
    return tfds_source.open_prepared(name, data_dir, manual_dir).location
  _check_files(name, builder, place, manual_dir)
  if not importlib.util.find_spec('tensorflow'):
    raise UserError(
      f'preparing {name!r} needs TensorFlow (training will not): {installation.pip("tfds")}, then '
      f'{tfds_source.prepare_command(name, data_dir, manual_dir)}'
    )
  config = tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
  try:
    builder.download_and_prepare(download_config=config)
  except (OSError, AssertionError, tfds.download.DownloadError) as e:
    raise UserError(f'preparing {name!r} under {place} failed: {e}') from e
  return str(builder.data_path)


def _check_files(name: str, builder: Any, place: Path, manual_dir: str) -> None:
  """Checks what TFDS would find out late: it retries a dead network for minutes."""
  manual = places.expand(manual_dir, '--manual_dir') if manual_dir else None
  if manual and not manual.is_dir():
    raise UserError(f'--manual_dir={manual_dir} is not a folder.')
  if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual:
    what = ' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    raise UserError(f'data set {name!r} has to be fetched by hand into a folder given as --manual_dir=DIR: {what}')
  missing = {}
  for url, info in (builder.url_infos or {}).items():
    path = manual / info.filename if manual and info.filename else None
    if path and path.exists():
      found = _sha256(path)
      if found != info.checksum:
        raise UserError(
          f'data set {name!r}: {path} has the wrong checksum (sha256 {found}, expected {info.checksum}). '
          f'Fetch it again from {url}'
        )
    elif not _downloaded(url, info.checksum, place):
      missing[url] = info.filename
  if missing and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _reachable(next(iter(missing))):
    files = '\n'.join(f'  {filename or "(any name)"}  from  {url}' for url, filename in missing.items())
    where = f'--manual_dir={manual_dir}' if manual_dir else '(no --manual_dir was given)'
    raise UserError(
      f'data set {name!r}: no network, and these files are not in {where}:\n{files}\n'
      'Fetch them elsewhere, put them into one folder, and give it as --manual_dir=DIR.'
    )


def _downloaded(url: str, checksum: str, place: Path) -> bool:
  """Whether TFDS keeps the file from an earlier attempt."""
  from tensorflow_datasets.core.download import resource

  return any((place / 'downloads').rglob(resource.get_dl_fname(url, checksum)))


def _sha256(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _reachable(url: str) -> bool:
  """Whether a server answers within seconds; proxies of the environment are used, as TFDS uses them."""
  answers = []

  def ask() -> None:
    try:
      with urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=_REACH_SECONDS):
        answers.append(True)
    except urllib.error.HTTPError:
      answers.append(True)  # an answer all the same: some servers refuse HEAD
    except (OSError, ValueError):
      pass

  # A thread, as a name look-up knows no time limit.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_REACH_SECONDS)
  return bool(answers)


def _main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError('give the name of one data set: python -m gen_ai.data.prepare NAME')
  try:
    print(f'{argv[1]} lies prepared in {prepare(argv[1], flags.FLAGS.data_dir, flags.FLAGS.manual_dir)}')
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(FAILED)


if __name__ == '__main__':
  flags.DEFINE_string('data_dir', '', 'where to write; default $TFDS_DATA_DIR or ~/tensorflow_datasets')
  flags.DEFINE_string('manual_dir', '', 'folder of source files fetched by hand')
  with terminal.guarded():
    app.run(_main)
