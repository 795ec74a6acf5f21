"""Preparing TFDS's own data sets: the real path from files by hand, and failures that come at once."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.data import dataset, prepare, tfds_source

REPO = Path(__file__).parents[1]
MANUAL = REPO.parent / 'shared' / 'data' / 'tfds_manual'
needs_files = pytest.mark.skipif(not MANUAL.is_dir(), reason='no source files in ../shared/data/tfds_manual')
needs_tensorflow = pytest.mark.skipif(
  not importlib.util.find_spec('tensorflow'), reason='TensorFlow is not installed (requirements/tfds.txt)'
)


def data_config(name, data_dir, **changes):
  fields = {'name': name, 'split': 'auto', 'data_dir': str(data_dir), 'manual_dir': '', 'image_size': 0, 'grey': 'auto'}
  return ConfigDict(
    fields | {'background': 'white', 'on_bad_image': 'refuse', 'tokens': 'char', 'block_size': 64} | changes
  )


def run_prepare(*arguments):
  """The command line, with a proxy that nobody serves: no network, wherever the test runs."""
  dead = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), 'http://127.0.0.1:9')
  environment = {k: v for k, v in os.environ.items() if k.lower() != 'no_proxy'} | dead
  started = time.perf_counter()
  command = [sys.executable, '-m', 'gen_ai.data.prepare', *map(str, arguments)]
  done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900)
  return done, time.perf_counter() - started


def assert_fails_at_once(done, seconds, *says):
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  for text in says:
    assert text in done.stderr
  assert seconds < 10  # 5, and as much for a busy machine to start an interpreter; left alone, TFDS takes minutes


def test_an_unprepared_data_set_fails_at_once(tmp_path):
  started = time.perf_counter()
  with pytest.raises(UserError) as e:
    dataset.load(data_config('cifar10', tmp_path / 'x', manual_dir='/by/hand'))
  assert time.perf_counter() - started < 5
  assert "'cifar10' is not prepared" in str(e.value)
  assert str(tmp_path / 'x' / 'cifar10') in str(e.value)
  assert 'pip install -r requirements/tfds.txt' in str(e.value)
  assert f'python -m gen_ai.data.prepare cifar10 --data_dir={tmp_path / "x"} --manual_dir=/by/hand' in str(e.value)
  assert not (tmp_path / 'x').exists()


def test_an_unknown_data_set_names_the_nearest(tmp_path):
  with pytest.raises(UserError, match="unknown data set 'fashionmnist'.*fashion_mnist"):
    dataset.load(data_config('fashionmnist', tmp_path))
  with pytest.raises(UserError, match="unknown data set 'mnist_5'.*mnist_5k"):
    prepare.prepare('mnist_5', str(tmp_path))


def test_no_network_and_no_manual_files(tmp_path):
  done, seconds = run_prepare('tiny_shakespeare', f'--data_dir={tmp_path}')
  assert_fails_at_once(done, seconds, "'tiny_shakespeare'", 'no network', 'input.txt', '--manual_dir')


def test_a_network_that_swallows_packets_is_given_up(tmp_path, monkeypatch):
  end = threading.Event()

  def swallow(*_, **__):
    end.wait(20)
    raise OSError

  monkeypatch.setattr(prepare.urllib.request, 'urlopen', swallow)
  started = time.perf_counter()
  with pytest.raises(UserError, match='no network'):
    prepare.prepare('tiny_shakespeare', str(tmp_path))
  assert time.perf_counter() - started < 5
  end.set()


def test_a_missing_manual_file_is_named(tmp_path):
  (tmp_path / 'manual').mkdir()
  done, seconds = run_prepare('tiny_shakespeare', f'--data_dir={tmp_path}', f'--manual_dir={tmp_path / "manual"}')
  assert_fails_at_once(done, seconds, 'no network', str(tmp_path / 'manual'), 'input.txt')


def test_a_wrong_checksum_is_named(tmp_path):
  (tmp_path / 'manual').mkdir()
  (tmp_path / 'manual' / 'input.txt').write_text('To be, or to be')
  done, seconds = run_prepare('tiny_shakespeare', f'--data_dir={tmp_path}', f'--manual_dir={tmp_path / "manual"}')
  found = hashlib.sha256(b'To be, or to be').hexdigest()
  assert_fails_at_once(done, seconds, 'input.txt has the wrong checksum', found, '86c4e6aa')


def test_a_missing_manual_folder_and_data_fetched_by_hand_only(tmp_path):
  with pytest.raises(UserError, match='--manual_dir=.*nowhere is not a folder'):
    prepare.prepare('tiny_shakespeare', str(tmp_path), str(tmp_path / 'nowhere'))
  with pytest.raises(UserError, match='fetched by hand.*--manual_dir'):
    prepare.prepare('imagenet2012', str(tmp_path))


@needs_files
@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None, reason='TensorFlow is installed')
def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
  done, seconds = run_prepare('tiny_shakespeare', f'--data_dir={tmp_path}', f'--manual_dir={MANUAL}')
  assert_fails_at_once(done, seconds, 'needs TensorFlow', 'pip install -r requirements/tfds.txt')


def test_own_data_sets_prepare(tmp_path):
  done, _ = run_prepare('mnist_5k', f'--data_dir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'mnist_5k lies prepared in {tmp_path / "mnist_5k" / "1.0.0"}\n'
  assert Path(prepare.prepare('python_stdlib')).is_dir()
  with pytest.raises(UserError, match='needs no preparing'):
    prepare.prepare('folder:x')


def test_data_prepared_without_random_access(tmp_path):
  prepare.prepare('mnist_5k', str(tmp_path))
  shutil.move(tmp_path / 'mnist_5k', tmp_path / 'mnist')
  info = tmp_path / 'mnist' / '1.0.0' / 'dataset_info.json'
  text = info.read_text().replace('mnist_5k', 'mnist').replace('array_record', 'tfrecord')
  info.write_text(text)
  assert json.loads(text)['fileFormat'] == 'tfrecord'
  with pytest.raises(UserError, match="'tfrecord', which has no random access.*\n.*gen_ai.data.prepare mnist "):
    dataset.load(data_config('mnist', tmp_path))


@needs_files
@needs_tensorflow
@pytest.mark.slow
def test_the_official_builders_prepare_offline_and_read_without_tensorflow(tmp_path):
  for name in ('fashion_mnist', 'tiny_shakespeare'):
    done, _ = run_prepare(name, f'--data_dir={tmp_path}', f'--manual_dir={MANUAL}')
    assert done.returncode == 0, done.stderr
  code = f"""
import sys
sys.path.insert(0, {str(REPO / 'tests')!r})
from test_data_prepare import check_prepared
check_prepared({str(tmp_path)!r})
assert 'tensorflow' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], cwd=REPO, check=True, timeout=900)


def check_prepared(data_dir):
  """What the official builders prepared is what their source files hold."""
  import gzip

  data = dataset.load(data_config('fashion_mnist', data_dir))
  assert {name: len(source) for name, source in data.splits.items()} == {
    'train': 54000,
    'validation': 6000,
    'test': 10000,
  }
  raw = gzip.decompress((MANUAL / 't10k-images-idx3-ubyte.gz').read_bytes())[16:]
  images = np.frombuffer(raw, np.uint8).reshape(-1, 28 * 28)
  test = data.splits['test'].arrays()['image'].reshape(-1, 28 * 28)
  assert sorted(map(bytes, images)) == sorted(map(bytes, test))
  started = time.perf_counter()
  assert dataset.load(data_config('fashion_mnist', data_dir)).fingerprint == data.fingerprint
  assert time.perf_counter() - started < 2, 'decoded once'
  data = dataset.load(data_config('tiny_shakespeare', data_dir, split='train|validation+test|validation+test'))
  assert data.spec.vocab.size == 65
  text = (MANUAL / 'input.txt').read_text()
  parts = [data.spec.vocab.decode(data.splits[name].arrays()['tokens']) for name in ('train', 'validation')]
  assert ''.join(parts) == text
  assert tfds_source.open_prepared('tiny_shakespeare', data_dir).version == '1.0.0'
