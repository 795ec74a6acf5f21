"""Damaged checkpoints and full disks: noticed, named, and the one before is used."""

import contextlib
import gc
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from gen_ai.core.errors import UserError
from gen_ai.run import checkpoint
from gen_ai.run.checkpoint import Checkpoints

# When a read fails, Orbax leaves the other reads of its event loop unfinished; Python says so when it collects them.
pytestmark = [
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
  pytest.mark.filterwarnings('ignore:coroutine .* was never awaited:RuntimeWarning'),
]


@pytest.fixture(autouse=True)
def leave_nothing_to_collect():
  yield
  gc.collect()


def make_state(step):
  noise = np.random.default_rng(step).normal(size=(40, 50)).astype(np.float32)
  return {'step': jnp.int32(step), 'w': jnp.asarray(noise), 'b': {'c': jnp.ones(3, jnp.bfloat16)}}


ABSTRACT = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_state(0)))


@pytest.fixture
def saved(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  for step in (1, 2):
    checkpoints.save(step, make_state(step), {'loss': step})
  checkpoints.close()
  return tmp_path / 'checkpoints'


@pytest.fixture
def warned(monkeypatch):
  messages = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: messages.append(text % args))
  return messages


def flip(path, at, bit=0):
  data = bytearray(path.read_bytes())
  data[at % len(data)] ^= 1 << bit
  path.write_bytes(data)


def same(a, b):
  return all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )


def files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize('fraction', [0.03, 0.5, 0.97])
def test_a_flipped_bit_in_any_file_never_gives_a_wrong_state(saved, warned, fraction):
  """Either the damage is seen and step 1 is used, or it was in bytes that the state does not depend on."""
  seen, passed = [], []
  for path in files(saved / '2'):
    original = path.read_bytes()
    if not original:
      continue
    flip(path, int(fraction * len(original)), bit=2)
    warned.clear()
    reader = Checkpoints(saved, read_only=True)
    step, state = reader.restore(ABSTRACT)
    reader.close()
    assert same(state, make_state(step)), path
    assert bool(warned) == (step == 1)
    (seen if step == 1 else passed).append(path.relative_to(saved / '2').as_posix())
    path.write_bytes(original)
  assert 'leaves/metadata' in seen and any('/d/' in name for name in seen)
  print('noticed:', seen, 'without effect:', passed)


def test_every_file_of_array_data_is_watched(saved, warned):
  """Zeroed data, as after a power cut: nothing of it can be mistaken for values."""
  for path in (path for path in files(saved / '2') if '/d/' in path.as_posix()):
    original = path.read_bytes()
    path.write_bytes(bytes(len(original)))
    reader = Checkpoints(saved, read_only=True)
    step, state = reader.restore(ABSTRACT)
    reader.close()
    assert same(state, make_state(step))
    path.write_bytes(original)
  assert warned


def test_values_that_change_after_orbax_read_them_are_noticed(saved, warned, monkeypatch):
  """What no checksum of a file can see: the fingerprint is of the arrays that training gets."""
  real = checkpoint.ocp.CheckpointManager.restore

  def corrupt(self, step, *args, **kwargs):
    restored = real(self, step, *args, **kwargs)
    if step == 2 and 'state' in restored:
      restored['state']['w'] = restored['state']['w'].at[3, 4].multiply(1 + 2**-23)
    return restored

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', corrupt)
  step, state = Checkpoints(saved, read_only=True).restore(ABSTRACT)
  assert step == 1 and same(state, make_state(1))
  (message,) = warned
  assert f'{saved}/2 is damaged' in message and "the values of ['w']" in message


def test_training_goes_on_past_a_damaged_checkpoint(saved, warned):
  (saved / '2' / 'leaves' / 'metadata').write_bytes(b'{')
  checkpoints = Checkpoints(saved, best=('loss', 'max'))
  assert checkpoints.restore(ABSTRACT)[0] == 1
  assert (saved / 'damaged-2').is_dir() and checkpoints.steps() == [1]
  assert checkpoints.save(2, make_state(2), {'loss': 2.0})
  checkpoints.close()
  again = Checkpoints(saved, best=('loss', 'max'))
  step, state = again.restore(ABSTRACT)
  assert (step, again.steps(), again.best_step()) == (2, [1, 2], 2) and same(state, make_state(2))
  assert len(warned) == 1
  again.close()


def test_when_all_are_damaged_they_are_named_and_left_where_they_are(saved, warned):
  for step in (1, 2):
    (saved / str(step) / 'leaves' / 'metadata').unlink()
  checkpoints = Checkpoints(saved)
  with pytest.raises(UserError, match=r'every checkpoint .* is damaged \(step 2: .*; step 1: '):
    checkpoints.restore(ABSTRACT)
  checkpoints.close()
  assert (saved / '1').is_dir() and (saved / '2').is_dir()


def test_the_one_asked_for_is_not_replaced_by_another(saved, warned):
  (saved / '2' / 'leaves' / 'metadata').unlink()
  with pytest.raises(UserError, match='damaged'):
    Checkpoints(saved, read_only=True).restore(ABSTRACT, step=2)


def test_faults_of_the_machine_are_not_taken_for_damage(saved, monkeypatch):
  real = checkpoint.ocp.CheckpointManager.restore

  def out_of_memory(self, step, args):
    if 'state' in set(args.keys()):
      raise MemoryError('no room')
    return real(self, step, args=args)

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', out_of_memory)
  checkpoints = Checkpoints(saved)
  with pytest.raises(MemoryError):
    checkpoints.restore(ABSTRACT)
  assert checkpoints.steps() == [1, 2]


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 4 MB; needs the right to mount."""
  place = tmp_path / 'small'
  place.mkdir()
  mounted = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', str(place)], capture_output=True, text=True
  )
  if mounted.returncode:
    pytest.skip(f'cannot mount a small disk: {mounted.stderr.strip()}')
  yield place
  subprocess.run(['umount', '-l', str(place)], check=True)


@pytest.mark.parametrize('keep', [1, 3])
def test_a_full_disk_is_named_and_the_last_checkpoint_is_intact(small_disk, keep):
  path = Path(small_disk) / 'run' / 'checkpoints'
  checkpoints = Checkpoints(path, keep=keep)
  noise = [np.random.default_rng(n).integers(0, 2**32, 300_000, np.uint32) for n in range(2)]
  small, large = (
    {'x': jnp.asarray(noise[0])},
    {'x': jnp.asarray(np.tile(noise[1], 8) ^ np.arange(2_400_000, dtype=np.uint32))},
  )
  checkpoints.save(1, small)
  checkpoints.wait()
  with pytest.raises(UserError) as caught:  # in `save` or later, as the disk has it
    checkpoints.save(2, large)
    checkpoints.wait()
  message = str(caught.value)
  assert f'the disk of {path}' in message and 'Checkpoints on disk: 1.' in message
  assert f'--resume={path.parent}' in message
  with contextlib.suppress(UserError):  # said before
    checkpoints.close()
  again = Checkpoints(path, keep=keep)
  step, got = again.restore(jax.eval_shape(lambda: small))
  assert step == 1 and same(got, small)
  assert again.save(2, small)  # there is room again: what was half-written is gone
  again.close()
  assert 2 in again.steps()
