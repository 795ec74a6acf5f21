"""One run as the trainer sees it, alone or a lane of a packed program: what is recorded of it, and how it ends."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gen_ai.core.averages import snapshot_steps
from gen_ai.core.errors import DIVERGED, DONE, REQUEUE
from gen_ai.core.method import PyTree, Spec, State
from gen_ai.data import kinds, pictures
from gen_ai.maths.pixels import to_uint8
from gen_ai.run import provenance
from gen_ai.run.checkpoint import AVERAGES, Checkpoints
from gen_ai.run.directory import CLOCKED, read_metrics, read_status
from gen_ai.run.trackers import Trackers
from gen_ai.train.interruption import Stop

VIEW_COLUMNS = 8


class RunLogger:
  """One run's record.

  Args:
    config: validated config.
    record: the run directory's writer (a silent one on all processes but the first).
    checkpoint_dir: where checkpoints live; the same on every process.
    open_trackers: opens the trackers, given the step from which this attempt goes on.
    stop: asked between chunks whether this run alone is to stop; a packed sweep has one for every lane.
    number: of the trial in its sweep.
  """

  def __init__(
    self,
    config: ConfigDict,
    record: Any,
    checkpoint_dir: Path,
    open_trackers: Callable[[int], Trackers],
    stop: Stop | None = None,
    number: int = 0,
  ):
    self.config, self.record, self.number = config, record, number
    self.stop = stop
    self._open_trackers = open_trackers
    self.trackers = Trackers({})
    name, _, mode = config.eval.best.rpartition(':')
    self._gone = not checkpoint_dir.is_dir()
    self.checkpoints = Checkpoints(checkpoint_dir, config.run.keep, (name, mode) if name else None)
    kept = snapshot_steps(config)
    self._averages = Checkpoints(checkpoint_dir.with_name(AVERAGES), keep=None) if kept else None
    self.last_sample: Path | None = None
    self.last_eval: dict[str, float] = {}
    self.last_train: dict[str, float] = {}
    self._evaluated: dict[str, float] | None = None  # after this very step: only such figures may rank a checkpoint
    self.step = 0
    self.saved_step = -1
    self.code: int | None = None  # how it ended; None while it trains
    self.state_name = ''  # of status.json, once it has ended
    self.message = ''

  # Beginning.

  def restore(self, abstract_state: PyTree, step: int | None = None) -> tuple[int, State | None]:
    """(step, state) of the newest sound checkpoint, or of `step`; (0, None) without one."""
    if not self.checkpoints.steps():
      return 0, None
    return self.checkpoints.restore(abstract_state, step)

  def lost(self, step: int) -> str:
    """What a person is to know of a run that goes on after update `step`, though it had come further; '' if nothing."""
    path = Path(self.record.path)
    reached = read_status(path)['step'] if (path / 'status.json').is_file() else 0
    if reached <= step:
      return ''
    what = 'was gone' if self._gone else f'has no checkpoint after step {step:,}' if step else 'has no checkpoint'
    return f'{path / "checkpoints"} {what}, though the run had come to step {reached:,}: it goes on from step {step:,}'

  def begin(self, step: int, restored: bool, found: str = '') -> None:
    """An attempt that goes on after update `step`; `found` is what there is to say about that (see `lost`)."""
    self.step, self.saved_step = step, step if restored else -1
    if self._averages is not None:
      self._averages.discard_after(step)
    self.trackers = self._open_trackers(step)
    notes = {'found': found} if found else {}
    self.record.begin_attempt(step, environment=provenance.environment(), **notes)
    self.record.status('running', step, self.config.run.steps)

  # What one update leaves behind.

  def report(self, step: int, values: Mapping[str, np.ndarray], extra: Mapping[str, float]) -> None:
    """Records the chunk that ended with update `step`: the means of its metrics [K], and `extra`."""
    self.step, self._evaluated = step, None
    self.last_train = {name: float(np.mean(value, dtype=np.float64)) for name, value in values.items()}
    self.record.append_metrics({'step': step, 'kind': 'train', **self.last_train, **extra})
    self.record.status('running', step, self.config.run.steps)
    self.trackers.scalars(step, {f'train/{name}': value for name, value in self.last_train.items()})

  def evaluated(self, metrics: Mapping[str, float]) -> None:
    """Records an evaluation after the last reported update."""
    self.last_eval = self._evaluated = dict(metrics)
    self.record.append_metrics({'step': self.step, 'kind': 'eval', **metrics})
    self.trackers.scalars(self.step, {f'validation/{name}': value for name, value in metrics.items()})

  def drew(self, spec: Spec, array: np.ndarray) -> None:
    """Writes samples, as files hold them, for a person to look at."""
    kind = kinds.of(spec)
    self.last_sample = self.record.samples / f'step_{self.step:08d}{kind.endings[0]}'
    kind.save(self.last_sample, spec, array)
    self.trackers.picture(self.step, 'samples', self.last_sample)

  def viewed(self, name: str, images: np.ndarray, rows: Sequence[str] = ()) -> None:
    """Writes the visualization `name`, images [N, H, W, C] in [-1, 1], as a picture whose rows may have names."""
    path = self.record.samples / f'{name}_step_{self.step:08d}.png'
    pictures.save_grid(path, to_uint8(images), VIEW_COLUMNS, rows)
    self.trackers.picture(self.step, name, path)

  def save(self, state: State) -> None:
    """Saves a state that is known to be finite; the copy to disk goes on in the background."""
    if self.step == self.saved_step:
      return
    self.record.check_lease()
    if self._averages is not None:
      self._averages.wait()  # who goes on from this checkpoint finds all snapshots up to it
    self.checkpoints.save(self.step, state, self._evaluated)
    self.saved_step = self.step

  def keep_averages(self, state: State) -> None:
    """Keeps a snapshot of the averages of a state that is known to be finite, as `save` does of all of it."""
    assert self._averages is not None
    self.record.check_lease()
    self._averages.save(self.step, state.ema)

  # Ending.

  def diverged_at(self, step: int, values: Mapping[str, np.ndarray]) -> tuple[int, list[str]] | None:
    """(update, names) where metrics [K] of the chunk that ended with update `step` are first not finite; recorded."""
    bad = {name: ~np.isfinite(value) for name, value in values.items()}
    steps = np.flatnonzero(np.any(list(bad.values()), axis=0))
    if not len(steps):
      return None
    at = int(steps[0])
    bad_step = step - len(next(iter(values.values()))) + at + 1
    self.record.append_metrics({'step': bad_step, 'kind': 'diverged', **{n: float(v[at]) for n, v in values.items()}})
    return bad_step, [name for name, flags in bad.items() if flags[at]]

  def diverged(self, step: int, names: Sequence[str], where: str) -> None:
    """Ends here: `names` (or the state) are not finite after update `step`; `where` says which tensor was first."""
    what = f'{", ".join(names)} not finite' if names else 'the state is not finite'
    last = f' The last good checkpoint is step {self.saved_step}.' if self.saved_step >= 0 else ''
    self.end(
      DIVERGED,
      (
        f'{self.record.path}: diverged at step {step}: {what}; {where}.{last} '
        'Lower config.optim.lr or set config.optim.clip_norm=1.0 and start again.'
      ),
    )

  def end(self, code: int, message: str = '', state_name: str = '') -> None:
    """Nothing more is trained here."""
    self.code, self.message = code, message
    names = {DONE: 'done', REQUEUE: 'stopped', DIVERGED: 'diverged'}
    self.state_name = state_name or names.get(code, 'failed')

  def close(self, summary: Mapping[str, Any]) -> None:
    """Records the end, and frees everything. Raises UserError when the disk is full."""
    assert self.code is not None
    try:
      self.record.write_summary({**summary, **self._figures()})
      self.record.status(self.state_name, self.step, self.config.run.steps, self.message)
      self.record.end_attempt(self.code, self.step)
    finally:
      self.trackers.close()
      self.checkpoints.close()
      if self._averages is not None:
        self._averages.close()

  def _figures(self) -> dict[str, Any]:
    """Last and best metrics and wall seconds over all attempts."""
    rows = read_metrics(self.record.path)
    last = {kind: [row for row in rows if row['kind'] == kind][-1:] for kind in ('train', 'eval')}
    return {
      'step': self.step,
      'final': {f'{kind}/{k}': v for kind in last for row in last[kind] for k, v in row.items() if k not in CLOCKED},
      'best': self._best(rows),
      'seconds': rows[-1]['seconds'] if rows else 0.0,
    }

  def _best(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Step and value of the best evaluation by config.eval.best; {} without one."""
    metric, _, mode = self.config.eval.best.rpartition(':')
    rows = [row for row in rows if row['kind'] == 'eval' and metric in row]
    if not rows:
      return {}
    row = (min if mode == 'min' else max)(rows, key=lambda row: row[metric])
    return {'metric': metric, 'step': row['step'], 'value': row[metric]}
