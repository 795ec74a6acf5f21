"""What run.json holds: one class writes it and reads it, that of today and those of older versions. No JAX here."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from gen_ai.core.errors import UserError
from gen_ai.run import directory, older_names

FILE = 'run.json'
_JUDGED = ('extractor ', 'nll_draws ')  # how the extractor begins in runs that joined it to what is `observation` today


@dataclass(frozen=True)
class ConfigFile:
  """The config file that a run was started from.

  Attributes:
    path, argument: of 'path:argument'.
    sha256, text: of its content.
  """

  path: str = ''
  argument: str = ''
  sha256: str = ''
  text: str = ''

  @property
  def reference(self) -> str:
    """'path:argument', as the command line has it; '' where no file is known."""
    return f'{self.path}:{self.argument}' if self.argument else self.path


@dataclass(frozen=True)
class GitState:
  """The source tree that ran: its commit and what was changed in it; blank outside of a repository."""

  commit: str = ''
  dirty: bool | None = None
  untracked: Sequence[str] = ()
  patch: str = ''
  patch_sha256: str = ''
  patch_cut: bool = False


@dataclass(frozen=True)
class DataInfo:
  """The data set of a run.

  Attributes:
    name: as in `config.data.name`.
    version, location: of the data.
    split_rule: that cut it, resolved.
    fingerprint: sha256 (hex) of its content.
    sizes: {split: examples}.
    spec: {'kind', 'shape', 'num_classes', and what else its kind needs}.
    class_names: by number.
    notes: on how it was read.
  """

  name: str = ''
  version: str = ''
  split_rule: str = ''
  location: str = ''
  fingerprint: str = ''
  sizes: Mapping[str, int] = field(default_factory=dict)
  spec: Mapping[str, Any] = field(default_factory=dict)
  class_names: Sequence[str] = ()
  notes: Sequence[str] = ()


@dataclass(frozen=True)
class EvalProtocol:
  """What the evaluations in metrics.jsonl rest on: figures of unlike protocols must not be compared.

  Attributes:
    split: that is evaluated.
    examples: in it.
    split_rule, data: of the data set and its content.
    averaged: whether by averaged parameters.
    seed: of the noise.
    observation: what the own metrics of the method are of, such as the likelihood of a VAE.
    bounds: those of them that bound what they are named after.
    extractor: of features, and how many latent draws a likelihood takes.
    samples: that metrics of samples are measured on; 0: none.
    task: that draws them.
    data_figures: of the training data, what the same figures of samples are read beside.
  """

  split: str = ''
  examples: int = 0
  split_rule: str = ''
  data: str = ''
  averaged: bool | None = None
  seed: int | None = None
  observation: str = ''
  bounds: Sequence[str] = ()
  extractor: str = ''
  samples: int = 0
  task: str = ''
  data_figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
  """The machine of a run."""

  name: str = ''
  platform: str = ''
  cpus: int | None = None


@dataclass(frozen=True)
class RunInfo:
  """Everything that run.json tells.

  Attributes:
    argv: the command line.
    config_file: that it names.
    overrides: what it changed in the config.
    config_hash, group_hash: of the config, and of it without its seeds.
    git, versions, devices, environment, host: what ran it.
    data: that it trains on.
    created: UTC, ISO 8601.
    evaluation: its protocol.
    examples_per_step: of one update.
    parameters: trainable ones.
    lanes: of its program.
    leading: 'metric:way that is better' of those that tell most.
    tasks: what it can do, by name.
    parent: of a run that began from the weights of another (`--init_from`): what was taken and what was not.
    samples_file, samples_sha256: of external samples.
  """

  argv: Sequence[str] = ()
  config_file: ConfigFile = ConfigFile()
  overrides: Any = field(default_factory=dict)
  config_hash: str = ''
  group_hash: str = ''
  git: GitState = GitState()
  versions: Mapping[str, str] = field(default_factory=dict)
  devices: Sequence[str] = ()
  data: DataInfo = field(default_factory=DataInfo)
  environment: Mapping[str, str] = field(default_factory=dict)
  host: Host = Host()
  created: str = ''
  evaluation: EvalProtocol | None = None
  examples_per_step: int | None = None
  parameters: int | None = None
  lanes: int = 1
  leading: Sequence[str] = ()
  tasks: Sequence[str] = ()
  parent: Mapping[str, Any] = field(default_factory=dict)
  samples_file: str = ''
  samples_sha256: str = ''

  def to_json(self) -> dict[str, Any]:
    """As run.json has it; what is blank is left out, but for what every run tells."""
    tree = dataclasses.asdict(self)
    optional = ('parent', 'samples_file', 'samples_sha256', 'evaluation', 'tasks', 'examples_per_step', 'parameters')
    return {name: value for name, value in tree.items() if name not in optional or value}

  @classmethod
  def from_json(cls, tree: Mapping[str, Any]) -> 'RunInfo':
    """What `to_json` wrote, in this version or an older one."""
    tree = dict(tree)
    if isinstance(tree.get('overrides'), Mapping):
      tree['overrides'] = older_names.renamed(tree['overrides'], older_names.CONFIG)
    if tree.get('evaluation'):
      tree['evaluation'] = _protocol_of_older(dict(tree['evaluation']))
    return _build(cls, tree)


@dataclass(frozen=True)
class Origin:
  """How a run was asked for.

  Attributes:
    argv: the command line.
    config_file: that it names.
    overrides: what it changed in the config.
    cache: folder of compiled programs, to be shown; '' for none.
    parent: see `RunInfo`.
  """

  argv: Sequence[str] = ()
  config_file: ConfigFile = ConfigFile()
  overrides: Any = field(default_factory=dict)
  cache: str = ''
  parent: Mapping[str, Any] = field(default_factory=dict)


def read(run_dir: str | os.PathLike) -> RunInfo:
  """run.json of a run directory.

  Raises:
    UserError: it is missing or damaged.
  """
  return RunInfo.from_json(directory.read_run(run_dir))


def read_if_any(run_dir: str | os.PathLike) -> RunInfo | None:
  """run.json of a run directory; None where there is none. Raises UserError where it is damaged."""
  return read(run_dir) if (Path(run_dir) / FILE).is_file() else None


def trained_on(run_dir: str | os.PathLike) -> DataInfo:
  """The data set of a run. Raises UserError where its record does not tell its content."""
  data = read(run_dir).data
  missing = [name for name in ('spec', 'fingerprint') if not getattr(data, name)]
  if missing:
    raise UserError(
      f'{Path(run_dir) / FILE} was written by {directory.writer(run_dir)} and says nothing of data.{missing[0]}: go on '
      'with the version that wrote it.'
    )
  return data


def _plain(value: Any) -> Any:
  """Mappings as dicts, all the way down."""
  if isinstance(value, Mapping):
    return {name: _plain(item) for name, item in value.items()}
  return value


def config_file(tree: Mapping[str, str]) -> ConfigFile:
  """From JSON, as the record of a sweep holds it."""
  return _build(ConfigFile, tree)


def _protocol_of_older(tree: dict[str, Any]) -> dict[str, Any]:
  """Older runs joined what is `observation` today and the extractor in one field, and knew one figure of the data."""
  tree = older_names.renamed(tree, older_names.STAMP)
  if 'observation' not in tree:
    parts = [part for part in tree.get('extractor', '').split('; ') if part]
    judged = parts.pop() if parts and parts[-1].startswith(_JUDGED) else ''
    tree |= {'observation': '; '.join(parts), 'extractor': judged}
  tree['extractor'] = tree.get('extractor', '').replace('nll_draws ', 'importance_samples ')
  if 'data_spread' in tree:
    tree['data_figures'] = {'spread': tree['data_spread']}
  return tree


def _build(cls: Any, tree: Mapping[str, Any]) -> Any:
  """The dataclass `cls` from JSON; fields that the tree lacks keep their defaults."""
  hints, values = get_type_hints(cls), {}
  for one in dataclasses.fields(cls):
    value = tree.get(one.name)
    if value is None:
      continue
    inner = next(
      (kind for kind in (hints[one.name], *getattr(hints[one.name], '__args__', ())) if dataclasses.is_dataclass(kind)),
      None,
    )
    values[one.name] = _build(inner, value) if inner is not None else _plain(value)
  return cls(**values)
