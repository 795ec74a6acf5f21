"""Where a run comes from: the contents of run.json."""

import copy
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gen_ai.config import find_file, split_reference
from gen_ai.core.errors import UserError
from gen_ai.core.files import disk_errors, dumps, sha256, write_atomic
from gen_ai.core.installation import SOURCE
from gen_ai.run.info import ConfigFile, DataInfo, GitState, Host, Origin, RunInfo

PATCH = 'uncommitted.patch'
_PATCH_BYTES = 1 << 20
_UNTRACKED = 50
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'ml_collections', 'absl-py', 'gen_ai')
_SEEDS = (('run', 'seed'), ('data', 'seed'))  # what a group of runs may differ in

# An allow-list, because the environment holds secrets. A prefix ends in '_'.
_ENVIRONMENT = (
  'JAX_',
  'XLA_FLAGS',
  'XLA_PYTHON_CLIENT_MEM_FRACTION',
  'XLA_PYTHON_CLIENT_PREALLOCATE',
  'LIBTPU_INIT_ARGS',
  'TF_CPP_MIN_LOG_LEVEL',
  'CUDA_VISIBLE_DEVICES',
  'NVIDIA_TF32_OVERRIDE',
  'TF_CUDNN_DETERMINISTIC',
  'CUBLAS_WORKSPACE_CONFIG',
  'OMP_NUM_THREADS',
  'SLURM_JOB_ID',
  'SLURM_ARRAY_JOB_ID',
  'SLURM_ARRAY_TASK_ID',
  'SLURM_JOB_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_RESTART_COUNT',
  'PYTHONHASHSEED',
)


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that decide the numbers; packages that are not installed are left out."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def config_hash(config: Mapping[str, Any]) -> str:
  """SHA-256 of the canonical JSON of `config`."""
  return sha256(dumps(config))


def group_hash(config: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> str:
  """`config_hash` without run.seed and data.seed: equal for the repetitions of one experiment.

  Args:
    config: of the run.
    parent: of a run that began from the weights of another: see `RunInfo`.
  """
  # How runs share a program says nothing about them.
  config = {name: copy.deepcopy(value) for name, value in config.items() if name != 'sweep'}
  for section, field in _SEEDS:
    config.get(section, {}).pop(field, None)
  own = config_hash(config)
  return sha256(f'{own} {parent["config_hash"]} {parent["step"]}') if parent else own


def environment() -> dict[str, str]:
  """The environment variables of the allow-list that are set."""
  prefixes = tuple(name for name in _ENVIRONMENT if name.endswith('_'))
  return {
    name: value for name, value in sorted(os.environ.items()) if name in _ENVIRONMENT or name.startswith(prefixes)
  }


def collect(
  origin: Origin,
  config: Mapping[str, Any],
  data: DataInfo,
  devices: Sequence[Any],
  run_dir: str | os.PathLike,
  source: str | os.PathLike = SOURCE,
) -> RunInfo:
  """Where a run comes from. Uncommitted changes go beside run.json, into `uncommitted.patch`.

  Args:
    origin: how it was asked for.
    config: the resolved config, as nested dicts.
    data: its data set.
    devices: one description a device.
    run_dir: where the patch is written.
    source: the source tree whose commit is recorded; where the process was started says nothing about it.

  Raises:
    UserError: the run directory cannot be written.
  """
  return RunInfo(
    argv=list(origin.argv),
    config_file=origin.config_file,
    overrides=origin.overrides,
    config_hash=config_hash(config),
    group_hash=group_hash(config, origin.parent),
    git=_git_state(Path(source), Path(run_dir)),
    versions=versions(),
    devices=[str(device) for device in devices],
    data=data,
    environment=environment(),
    host=Host(socket.gethostname(), platform.platform(), os.cpu_count()),
    created=datetime.now(UTC).isoformat(timespec='seconds'),
    parent=origin.parent,
  )


def describe_file(config_file: str) -> ConfigFile:
  """Path, argument, SHA-256 and text of a config file. Raises UserError where it cannot be read."""
  path, argument = split_reference(config_file)
  try:
    text = (find_file(path) or Path(path)).read_text(encoding='utf-8')
  except OSError as error:
    raise UserError(f'cannot read the config file {config_file}: {error.strerror}') from error
  return ConfigFile(path, argument or '', sha256(text), text)


def _git(source: Path, *arguments: str) -> bytes | None:
  """Output of a read-only git command in `source`; None without git, or without a repository."""
  try:
    done = subprocess.run(
      ['git', '-C', str(source), *arguments],
      capture_output=True,
      timeout=10,
      env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'},
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout if done.returncode == 0 else None


def _git_state(source: Path, run_dir: Path) -> GitState:
  """Commit and uncommitted changes of `source`, blank where it is not the top of a git work tree."""
  top = _git(source, 'rev-parse', '--show-toplevel')
  if top is None or Path(os.fsdecode(top).strip()).resolve() != source.resolve():
    return GitState()  # an installed copy may lie inside an unrelated repository
  commit = (_git(source, 'rev-parse', '--verify', '--quiet', 'HEAD') or b'').decode().strip()
  diff = (_git(source, 'diff', '--no-ext-diff', '--no-color', 'HEAD') if commit else b'') or b''
  untracked = os.fsdecode(_git(source, 'ls-files', '--others', '--exclude-standard') or b'').splitlines()
  state = GitState(commit, bool(diff or untracked), untracked[:_UNTRACKED])
  if not diff:
    return state
  with disk_errors(run_dir / PATCH, run_dir, needed=min(len(diff), _PATCH_BYTES)):
    write_atomic(run_dir / PATCH, diff[:_PATCH_BYTES])
  return replace(state, patch=PATCH, patch_sha256=sha256(diff), patch_cut=len(diff) > _PATCH_BYTES)
