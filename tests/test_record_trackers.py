"""Mirrors of the record: what they write, and that they never stop training."""

import builtins
import json
import sys
import types

import numpy as np
import pytest
from absl import logging

from gen_ai.core.errors import UserError
from gen_ai.data import pictures
from gen_ai.run import trackers


@pytest.fixture
def warned(monkeypatch):
  messages = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: messages.append(text % args))
  return messages


def events(folder):
  """Event protos of all files in `folder`, in the order of TensorBoard (framed as TFRecord: length, crc, data, crc)."""
  event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2')
  found = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      size = int.from_bytes(data[at : at + 8], 'little')
      found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
      at += size + 16
  return found


def values(folder):
  return [(event.step, value) for event in events(folder) for value in event.summary.value]


def test_tensorboard_holds_scalars_pictures_and_texts_without_pillow(tmp_path, monkeypatch, warned):
  pytest.importorskip('tensorboardX')
  real_import = builtins.__import__

  def no_pillow(name, *args, **kwargs):
    if name.split('.')[0] == 'PIL':
      raise ImportError('no Pillow here')
    return real_import(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', no_pillow)
  pictures.save_grid(tmp_path / 's.png', np.zeros((2, 30, 60, 3), np.uint8), columns=1)
  (tmp_path / 's.txt').write_text('def f():', encoding='utf-8')
  tracker = trackers.open_trackers('tensorboard', tmp_path, '{"a": 1}')
  tracker.scalars(4, {'train/loss_nats': np.float32(0.5), 'train/bad': float('nan')})
  tracker.picture(4, 'samples', tmp_path / 's.png')
  tracker.picture(4, 'texts', tmp_path / 's.txt')
  tracker.close()
  assert not warned
  found = {value.tag: (step, value) for step, value in values(tmp_path / 'tb')}
  step, scalar = found['train/loss_nats']
  assert (step, scalar.simple_value or scalar.tensor.float_val[0]) == (4, 0.5)
  step, picture = found['samples']
  assert (step, picture.image.width, picture.image.height, picture.image.colorspace) == (4, 64, 66, 3)
  assert picture.image.encoded_image_string == (tmp_path / 's.png').read_bytes()
  assert b'def f():' in found['texts/text_summary'][1].tensor.string_val[0]
  assert b'{"a": 1}' in found['config/text_summary'][1].tensor.string_val[0]


def test_a_resumed_tensorboard_drops_what_it_computes_again(tmp_path):
  pytest.importorskip('tensorboardX')
  for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
    tracker = trackers.open_trackers('tensorboard', tmp_path, '{}', step=start)
    for step in steps:
      tracker.scalars(step, {'loss': step})
    tracker.close()
  restarts = [event.step for event in events(tmp_path / 'tb') if event.HasField('session_log')]
  assert restarts == [3]  # readers drop earlier events of this step and later ones; step 2 stays
  assert [step for step, value in values(tmp_path / 'tb') if value.tag == 'loss'] == [1, 2, 3, 3, 4]


def test_no_tracker_and_an_unknown_tracker(tmp_path):
  trackers.open_trackers('', tmp_path, '{}').scalars(1, {'a': 1.0})
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match="unknown tracker 'tensorbord'. Did you mean 'tensorboard'"):
    trackers.open_trackers('wandb, tensorbord', tmp_path, '{}')


def test_a_missing_package_is_named_once_with_the_way_out(tmp_path, monkeypatch, warned):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  tracker = trackers.open_trackers('wandb', tmp_path, '{}')
  for step in range(3):
    tracker.scalars(step, {'a': 1.0})
  tracker.close()
  (message,) = warned
  assert 'the wandb tracker is off' in message and '`pip install wandb`' in message


class FakeRun:
  def __init__(self):
    self.logged, self.finished, self.broken = [], False, False

  def define_metric(self, name, step_metric):
    self.axis = (name, step_metric)

  def log(self, row):
    if self.broken:
      raise ConnectionError('the server has gone')
    self.logged.append(row)

  def finish(self):
    self.finished = True


@pytest.fixture
def wandb(monkeypatch):
  run, asked = FakeRun(), {}

  def init(**options):
    asked.update(options)
    return run

  module = types.SimpleNamespace(init=init, Image=lambda path: ('image', path), Html=lambda text: ('html', text))
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return run, asked


def test_wandb_gets_rows_on_an_axis_of_our_own_steps(tmp_path, wandb):
  run, asked = wandb
  (tmp_path / 's.txt').write_text('a < b')
  tracker = trackers.open_trackers('wandb', tmp_path / 'toy' / '50% #1?', json.dumps({'a': 1}), step=5)
  tracker.scalars(6, {'train/loss': 0.5})
  tracker.picture(6, 'samples', tmp_path / 's.png')
  tracker.picture(6, 'texts', tmp_path / 's.txt')
  tracker.close()
  assert (asked['id'], asked['resume'], asked['config']) == ('toy-50_ _1_', 'allow', {'a': 1})
  assert run.axis == ('*', 'step') and run.finished
  assert run.logged[1:] == [
    {'step': 6, 'train/loss': 0.5},
    {'step': 6, 'samples': ('image', str(tmp_path / 's.png'))},
    {'step': 6, 'texts': ('html', '<pre>a &lt; b</pre>')},
  ]


def test_a_writer_that_fails_is_switched_off_and_the_others_go_on(tmp_path, wandb, warned):
  pytest.importorskip('tensorboardX')
  run, _ = wandb
  tracker = trackers.open_trackers('wandb,tensorboard', tmp_path, '{}')
  tracker.scalars(1, {'a': 1.0})
  run.broken = True
  for step in (2, 3):
    tracker.scalars(step, {'a': 1.0})
  tracker.close()
  (message,) = warned
  assert 'the wandb tracker is off' in message and 'the server has gone' in message and 'pip' not in message
  assert [step for step, value in values(tmp_path / 'tb') if value.tag == 'a'] == [1, 2, 3]
