"""Places for workers: accelerators as they are listed and inherited, shares of their memory, cores and threads."""

import os

import pytest
import tiny

from gen_ai.core.errors import UserError
from gen_ai.sweep.launchers import slots


@pytest.fixture
def gpus(monkeypatch, tmp_path):
  """Sets what `nvidia-smi -L` lists, with a JAX that could use it."""
  for name in ('CUDA_VISIBLE_DEVICES', 'JAX_PLATFORMS', *slots._FRACTION_NAMES):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(slots, '_jax_drives_gpus', lambda: True)

  def listed(text, code=0):
    (tmp_path / 'nvidia-smi').write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat <<END\n{text}\nEND\nexit {code}\n')
    (tmp_path / 'nvidia-smi').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')

  listed('GPU 0: A (UUID: GPU-aa)\nGPU 1: A (UUID: GPU-bb)\nGPU 2: A (UUID: GPU-cc)')
  return listed


def visible(found):
  return [slot.env.get('CUDA_VISIBLE_DEVICES') for slot in found]


def test_a_worker_for_every_accelerator(gpus):
  found = slots.make_slots((), 0, 10)
  assert visible(found) == ['0', '1', '2']
  assert [slot.label for slot in found] == ['gpu 0', 'gpu 1', 'gpu 2']
  assert all(not slot.cores and list(slot.env) == ['CUDA_VISIBLE_DEVICES'] for slot in found)
  assert visible(slots.make_slots((), 0, 2)) == ['0', '1']
  assert visible(slots.make_slots(('2', '0'), 1, 10)) == ['2', '0']


def test_trials_that_share_an_accelerator_share_its_memory(gpus, monkeypatch):
  found = slots.make_slots(('0', '1'), 2, 10)
  assert visible(found) == ['0', '1', '0', '1']
  assert {slot.env['XLA_CLIENT_MEM_FRACTION'] for slot in found} == {'0.3750'}
  monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.9')  # the older name; both at once are refused by XLA
  [slot] = slots.make_slots(('0',), 3, 1)
  assert (slot.env['XLA_CLIENT_MEM_FRACTION'], slot.env['XLA_PYTHON_CLIENT_MEM_FRACTION']) == ('0.3000', '')


def test_an_inherited_choice_of_devices_is_kept(gpus, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,GPU-aa')
  assert visible(slots.make_slots((), 0, 10)) == ['2', 'GPU-aa']
  with pytest.raises(UserError, match='--devices=1 is no accelerator of this machine for JAX: it sees 2, GPU-aa'):
    slots.make_slots(('1',), 0, 10)
  for nothing in ('', '-1', 'NoDevFiles'):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', nothing)
    assert slots.accelerators() == []
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert slots.accelerators() == []
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
  assert slots.accelerators() == ['0', '1', '2']


def test_slices_of_an_accelerator_are_places_of_their_own(gpus):
  gpus(
    'GPU 0: H (UUID: GPU-aa)\n  MIG 1g.10gb Device 0: (UUID: MIG-11)\n  MIG 1g.10gb Device 1: (UUID: MIG-22)\n'
    'GPU 1: H (UUID: GPU-bb)'
  )
  assert slots.accelerators() == ['MIG-11', 'MIG-22', '1']
  gpus('', code=9)
  assert slots.accelerators() == []


def test_cores_are_shared_out(monkeypatch):
  monkeypatch.setattr(slots, 'accelerators', list)
  monkeypatch.setattr(slots, '_cores', lambda: list(range(8)))
  assert [slot.cores for slot in slots.make_slots((), 0, 3)] == [(0, 1), (2, 3, 4), (5, 6, 7)]
  assert [slot.label for slot in slots.make_slots((), 3, 9)] == ['cores 0-1', 'cores 2-4', 'cores 5-7']
  assert len(slots.make_slots((), 9, 100)) == 9
  assert all(len(slot.cores) == 1 for slot in slots.make_slots((), 9, 100))
  monkeypatch.setattr(os, 'sysconf', lambda name: {'SC_PAGE_SIZE': 1 << 20, 'SC_PHYS_PAGES': 5 << 10}[name])
  assert len(slots.make_slots((), 0, 100)) == 5, 'as many as main memory carries'
  with pytest.raises(UserError, match='--devices=0 is no accelerator .* it sees none'):
    slots.make_slots(('0',), 0, 1)
  with pytest.raises(UserError, match='--per_device=-1 must be'):
    slots.make_slots((), -1, 1)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='this system does not bind processes to cores')
def test_a_pinned_worker_has_as_many_compute_threads_as_cores():
  code = (
    'import jax, os\njax.jit(lambda x: x @ x)(jax.numpy.ones((600, 600))).block_until_ready()\n'
    'names = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]\n'
    'print(sum("XLAEigen" in name for name in names))'
  )
  cores = sorted(os.sched_getaffinity(0))
  for share in ((cores[0],), tuple(cores[:2])):
    with slots.pinned(share):
      assert int(tiny.command('-c', code).stdout) == len(share)
  assert os.sched_getaffinity(0) == set(cores)
