"""What asks a run to stop besides signals: a file, and the death of the launcher that started it."""

import os

from gen_ai.train import interruption
from gen_ai.train.interruption import LAUNCHER, Stop


def test_a_file_asks_for_a_stop_once_it_is_there(tmp_path, monkeypatch):
  monkeypatch.setattr(interruption, '_LOOK_SECONDS', 0.0)
  found = Stop([tmp_path / 'all', tmp_path / '3'])
  assert found.requested == ''
  (tmp_path / '3').touch()
  assert found.requested == f'the file {tmp_path}/3'
  (tmp_path / '3').unlink()
  assert found.requested, 'what was asked once holds'


def test_files_on_a_network_are_not_looked_for_all_the_time(tmp_path):
  found = Stop([tmp_path / 'all'])
  assert found.requested == ''
  (tmp_path / 'all').touch()
  assert found.requested == '', 'within a second'


def test_a_worker_notices_that_its_launcher_is_gone(monkeypatch):
  monkeypatch.setattr(interruption, '_LOOK_SECONDS', 0.0)
  monkeypatch.setenv(LAUNCHER, str(os.getppid()))
  assert Stop().requested == ''
  monkeypatch.setenv(LAUNCHER, str(os.getppid() + 1))  # its child was given to another process
  assert Stop().requested == 'the death of its launcher'
