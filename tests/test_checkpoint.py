"""Checkpoints: what is saved comes back bit for bit, on any devices, and what is kept is what was asked for."""

import logging as python_logging
import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gen_ai.core.errors import UserError
from gen_ai.core.method import State
from gen_ai.run import checkpoint
from gen_ai.run.checkpoint import Checkpoints


class Pair(NamedTuple):
  left: Any
  right: Any = ()


def make_state(step=3, scale=1.0):
  """One leaf of every kind a method may have."""
  params = {
    'dense': {'kernel': scale * jnp.arange(64.0).reshape(16, 4), 'bias': jnp.array([0.0, -0.0, math.nan, math.inf])},
    'half': scale * jnp.arange(16, dtype=jnp.bfloat16),
    'list': [jnp.arange(3, dtype=jnp.uint8), {}],
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  stats = Pair({'mask': jnp.array([True, False]), 'count': jnp.uint32(2**32 - 1)}, None)
  return State(jnp.int32(step), params, tx.init(params), stats=stats)


def abstract(state, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def assert_same_bits(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
  state = make_state()
  with_checkpoints = Checkpoints(tmp_path)
  with_checkpoints.save(3, state)
  step, got = with_checkpoints.restore(abstract(state))
  with_checkpoints.close()
  assert step == 3
  assert_same_bits(got, state)


def test_the_newest_is_restored_or_the_one_asked_for(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  states = {step: make_state(step, scale=step) for step in (1, 2, 5)}
  for step, state in states.items():
    assert checkpoints.save(step, state)
  assert not checkpoints.save(5, states[1])  # already there
  checkpoints.close()
  for options, wanted in (({}, 5), ({'step': 2}, 2)):
    step, got = Checkpoints(tmp_path, read_only=True).restore(abstract(states[1]), **options)
    assert step == wanted
    assert_same_bits(got, states[wanted])
  with pytest.raises(UserError, match=r'no checkpoint of step 4; it has \[1, 2, 5\]'):
    Checkpoints(tmp_path, read_only=True).restore(abstract(states[1]), step=4)


def test_donated_buffers_do_not_leak_into_a_save_in_flight(tmp_path):
  state = {'x': jnp.zeros(1 << 20)}
  advance = jax.jit(lambda s: {'x': s['x'] + 1}, donate_argnums=0)
  checkpoints = Checkpoints(tmp_path, keep=10)
  for step in range(5):
    checkpoints.save(step, state)
    state = advance(advance(state))
  checkpoints.wait()
  for step in range(5):
    _, got = checkpoints.restore(abstract(state), step=step)
    np.testing.assert_array_equal(got['x'], 2 * step)
  checkpoints.close()


def mesh_of(n, *shape):
  return Mesh(np.array(jax.devices()[:n]).reshape(shape), ('data', 'fsdp'))


def sharded(state, mesh):
  """FSDP: the first axis of what can be divided lies over the mesh axis `fsdp`."""

  def place(x):
    spec = PartitionSpec('fsdp') if x.ndim and x.shape[0] and x.shape[0] % mesh.shape['fsdp'] == 0 else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, spec))

  return jax.tree.map(place, state)


needs_8 = pytest.mark.skipif(jax.device_count() < 8, reason='needs 8 (fake) devices')


@needs_8
def test_fingerprints_do_not_depend_on_the_sharding():
  state = make_state()
  words = checkpoint.fingerprints(state)
  assert words == checkpoint.fingerprints(sharded(state, mesh_of(8, 2, 4)))
  assert words == checkpoint.fingerprints(sharded(state, mesh_of(8, 8, 1)))
  assert len({tuple(pair) for pair in words}) > len(words) / 2  # and are not all alike


@needs_8
def test_a_checkpoint_restores_on_another_number_of_devices(tmp_path):
  state = make_state()
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, sharded(state, mesh_of(8, 2, 4)))
  checkpoints.wait()
  replicated = NamedSharding(mesh_of(4, 4, 1), PartitionSpec())
  one = SingleDeviceSharding(jax.devices()[5])
  for sharding in (replicated, one):
    _, got = checkpoints.restore(abstract(state, sharding))
    assert_same_bits(got, state)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in jax.tree.leaves(got))
  checkpoints.save(4, jax.device_put(state, one))
  wanted = abstract(sharded(state, mesh_of(8, 1, 8)))
  _, got = checkpoints.restore(wanted)
  checkpoints.close()
  assert_same_bits(got, state)
  assert [leaf.sharding for leaf in jax.tree.leaves(got)] == [leaf.sharding for leaf in jax.tree.leaves(wanted)]


def test_shapes_alone_restore_to_the_first_device(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, make_state())
  _, got = checkpoints.restore(jax.eval_shape(make_state))
  checkpoints.close()
  assert_same_bits(got, make_state())
  assert {device for leaf in jax.tree.leaves(got) for device in leaf.devices()} == {jax.devices()[0]}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint32, jnp.uint8, jnp.float16])
def test_a_fingerprint_sees_one_bit_and_a_swap(dtype):
  x = jnp.arange(1, 13).reshape(3, 4).astype(dtype)
  (words,) = checkpoint.fingerprints([x])
  raw = bytearray(np.asarray(x).tobytes())
  for at in range(len(raw)):
    flipped = raw.copy()
    flipped[at] ^= 1 << (at % 8)
    (other,) = checkpoint.fingerprints([jnp.asarray(np.frombuffer(flipped, x.dtype).reshape(3, 4))])
    assert other[0] != words[0] and other[1] != words[1]
  (swapped,) = checkpoint.fingerprints([x.at[0, 0].set(x[0, 1]).at[0, 1].set(x[0, 0])])
  assert swapped[0] != words[0] and swapped[1] != words[1]
  assert checkpoint.fingerprints([x[::-1]]) != [words]


def test_the_second_word_sees_what_cancels_in_the_first():
  (before,), (after,) = (checkpoint.fingerprints([jnp.array(x, jnp.uint32)]) for x in ([4, 9], [7, 8]))
  assert before[0] == after[0] == 4 + 3 * 9  # weights 1 and 3
  assert before[1] != after[1]


@pytest.mark.parametrize(
  ('best', 'losses', 'kept', 'best_step'),
  [
    (None, [5, 1, 2, 3, 4], [3, 4], None),
    (('loss', 'min'), [5, 1, 2, 3, 4], [1, 3, 4], 1),
    (('loss', 'max'), [5, 1, 2, 3, 4], [0, 3, 4], 0),
    (('loss', 'min'), [9, 2, 2, 2, 7], [1, 3, 4], 1),  # ties go to the earliest
    (('loss', 'max'), [9, 2, 2, 2, 9], [0, 3, 4], 0),
    (('loss', 'min'), [math.nan, -math.inf, 3, None, 4], [2, 3, 4], 2),
    (('loss', 'max'), [math.nan, math.inf, None, None, None], [3, 4], None),
    (('loss', 'min'), [5, 4, 3, 2, 1], [3, 4], 4),
    (('other', 'min'), [5, 4, 3, 2, 1], [3, 4], None),
  ],
)
def test_the_last_two_and_the_best_are_kept(tmp_path, best, losses, kept, best_step):
  checkpoints = Checkpoints(tmp_path, keep=2, best=best)
  for step, loss in enumerate(losses):
    checkpoints.save(step, {'x': jnp.float32(step)}, None if loss is None else {'loss': loss})
  checkpoints.close()
  again = Checkpoints(tmp_path, keep=2, best=best)  # known from the disk as well
  assert (checkpoints.best_step(), again.best_step()) == (best_step, best_step)
  assert again.steps() == kept == sorted(int(path.name) for path in tmp_path.iterdir())
  again.save(9, {'x': jnp.float32(9)})
  again.close()
  assert again.steps() == sorted({*kept[-1:], 9, *([best_step] if best_step is not None else [])})


@pytest.mark.parametrize('options', [{'keep': 0}, {'best': ('loss', 'least')}])
def test_impossible_options_are_refused(tmp_path, options):
  with pytest.raises(ValueError, match='keep='):
    Checkpoints(tmp_path, **options)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda p: {**p, 'w': p['w'].astype(jnp.bfloat16)}, r"\['w'\] is float32 \[2, 3\] in .* bfloat16 \[2, 3\] by the"),
    (lambda p: {**p, 'w': p['w'].T}, r"\['w'\] is float32 \[2, 3\] in the checkpoint and float32 \[3, 2\] by"),
    (lambda p: {**p, 'new': p['b']}, r"\['new'\] is no such leaf in the checkpoint"),
    (lambda p: {'w': p['w']}, r"\['b'\] is float32 \[3\] in the checkpoint and no such leaf by the config"),
  ],
)
def test_another_config_is_told_apart_from_damage(tmp_path, change, message):
  params = {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, params)
  with pytest.raises(UserError, match=message):
    checkpoints.restore(abstract(change(params)))
  checkpoints.close()


def test_an_empty_or_missing_directory_is_a_user_error(tmp_path):
  with pytest.raises(UserError, match='no checkpoint'):
    Checkpoints(tmp_path / 'new').restore({'x': jax.ShapeDtypeStruct((), jnp.float32)})
  with pytest.raises(UserError, match='there is no checkpoint directory'):
    Checkpoints(tmp_path / 'nowhere', read_only=True)


def test_a_reader_leaves_a_save_in_flight_alone(tmp_path):
  writer = Checkpoints(tmp_path)
  writer.save(1, make_state())
  writer.wait()
  half = tmp_path / '2.orbax-checkpoint-tmp'
  half.mkdir()
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.steps() == [1] and reader.restore(jax.eval_shape(make_state))[0] == 1
  reader.close()
  assert half.exists()
  writer.close()
  Checkpoints(tmp_path).close()
  deadline = time.monotonic() + 30
  while half.exists() and time.monotonic() < deadline:  # Orbax removes it in the background
    time.sleep(0.05)
  assert not half.exists()  # the next writer cleans up


KILLED = """
  import sys
  from pathlib import Path
  import jax.numpy as jnp
  from gen_ai.run.checkpoint import Checkpoints
  checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
  for step in range(1, 10**6):
    checkpoints.save(step, {'x': jnp.full((64, 1024), step)})
    print(step, flush=True)
"""


@pytest.mark.parametrize('seconds', [0.0, 0.013, 0.037])
def test_a_sigkill_leaves_the_last_complete_checkpoint(tmp_path, seconds):
  env = {**os.environ, 'PYTHONPATH': str(Path(checkpoint.__file__).parents[1]), 'JAX_PLATFORMS': 'cpu'}
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE, env=env, text=True
  )
  while process.stdout.readline().strip() != '4':
    assert process.poll() is None
  try:
    process.wait(seconds or 1e-9)
  except subprocess.TimeoutExpired:
    process.kill()
  saved = [4, *map(int, process.communicate()[0].split())]
  checkpoints = Checkpoints(tmp_path, keep=2)
  step, got = checkpoints.restore({'x': jax.ShapeDtypeStruct((64, 1024), jnp.int32)})
  assert step in (saved[-1] - 1, saved[-1], saved[-1] + 1)  # `save` returns once the one before it is complete
  np.testing.assert_array_equal(got['x'], step)
  checkpoints.save(step + 1, {'x': jnp.full((64, 1024), step + 1)})
  checkpoints.close()
  assert all(path.name.isdigit() for path in tmp_path.iterdir())


def test_a_normal_run_prints_nothing(tmp_path, capfd, caplog):
  with caplog.at_level(python_logging.WARNING):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
      checkpoints.save(step, make_state(), {'loss': 1.0})
    checkpoints.restore(abstract(make_state()))
    checkpoints.close()
  assert capfd.readouterr() == ('', '') and not caplog.records
