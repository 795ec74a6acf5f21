"""Memory of a traced function, estimated without compiling it, and how many lanes it allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.parallel import memory
from gen_ai.parallel.program import chunk
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.launchers import lanes

A = jax.ShapeDtypeStruct((256, 256), jnp.float32)
SIZE = 256 * 256 * 4


def test_values_live_from_the_equation_that_makes_them_to_the_last_that_reads_them():
  assert memory.estimate(lambda a: a @ a, A) == 2 * SIZE
  assert memory.estimate(lambda a: a @ a @ a @ a, A) == 3 * SIZE  # the argument and two products at a time
  assert memory.estimate(lambda a, b: (a @ b) @ (b @ a), A, A) == 5 * SIZE


def test_a_loop_needs_its_body_once():
  def repeated(a, n):
    return jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=n)[0]

  few, many = (memory.estimate(lambda a, n=n: repeated(a, n), A) for n in (2, 200))
  assert few == many < 6 * SIZE
  assert memory.estimate(jax.jit(lambda a: a @ a @ a @ a), A) <= 4 * SIZE


@pytest.mark.parametrize('name', ['gan', 'vae', 'lm'])
def test_the_estimate_of_a_lane_is_no_less_than_xla_takes(name):
  # With all of the data: of a tiny VAE alone the estimate is 15 % below what XLA takes.
  config = tiny.config(name, **({} if name == 'lm' else {'data__split': 'auto'}))
  program = tiny.program(config)
  feed = tiny.feed(config, program)
  step = chunk(program._make, feed, program.layout)
  rows = feed.chunk(0, 1)
  needed = memory.estimate(step, program.floats, program.shapes, program.key, feed.resident, rows)
  program.trainer(feed, program.init(), rows)
  taken = program.compile_stats['train'].peak_bytes
  assert taken * 0.9 < needed < taken * 6, (needed, taken)


def test_lanes_by_memory_and_by_hand(monkeypatch):
  trials = trials_lib.resolve(tiny.config('gan'), [{'run.seed': seed} for seed in range(10)])
  need, resident = lanes.lane_bytes(trials[0]), lanes._resident(trials[0])
  devices = len(jax.devices())
  monkeypatch.setattr(memory, 'available', lambda device: resident + need * 3 + 1)
  assert lanes.most_lanes(trials[0]) == 3 * devices
  monkeypatch.setattr(memory, 'available', lambda device: resident)
  assert lanes.most_lanes(trials[0]) == devices, 'one lane a device is the least'
  by_hand = [trials_lib.Trial(p.number, {}, config_lib.override(p.config, {'sweep.lanes': 4}), p.name) for p in trials]
  assert [len(part) for part in lanes.split(by_hand)] == [4, 4, 2]
  assert np.isfinite(need) and need > 26_593 * 3 * 4, 'parameters and two moments at least'


def test_memory_of_this_machine_is_within_what_it_has():
  assert 0 < memory.available(jax.devices()[0]) < 2**44
