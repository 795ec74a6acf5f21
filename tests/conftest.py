"""Eight fake devices, one shared compilation cache and one shared data folder."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path

# A suite that is started in the background ignores Ctrl-C, one under nohup ignores SIGHUP; and so would all the
# commands that its tests interrupt.
if threading.current_thread() is threading.main_thread():
  for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
      signal.signal(number, usual)

# Before JAX is imported anywhere in this process. Compiling is most of what the suite does, and takes half the time
# without LLVM's optimiser, and half of that without the fusion emitters, which later XLAs cannot do without. The
# workers keep all cores busy: to compile one program in several parts only adds work.
_FLAGS = ['--xla_backend_optimization_level=0', '--xla_cpu_parallel_codegen_split_count=1']
# Eight devices on few busy cores may meet late; after 40 s, the default, XLA would abort the worker.
_FLAGS.append('--xla_cpu_collective_call_terminate_timeout_seconds=240')
if metadata.version('jaxlib').startswith('0.10.'):
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ['GEN_AI_TEST_FLAGS'] = ' '.join(_FLAGS)
os.environ['XLA_FLAGS'] = f'{os.environ["GEN_AI_TEST_FLAGS"]} --xla_force_host_platform_device_count=8'
os.environ['JAX_PLATFORMS'] = 'cpu'

_CACHE = Path(__file__).resolve().parent.parent / '.pytest_cache' / 'gen_ai'
os.environ['TFDS_DATA_DIR'] = str(_CACHE / 'data')
os.environ['GEN_AI_TEST_XLA'] = str(_CACHE / 'xla')
# For all processes that are started, also by commands that name no cache.
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.environ['GEN_AI_TEST_XLA']
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
# Where the environment forbids byte code, every process that the suite starts compiles JAX's sources again: 4 of the 12
# CPU seconds of a tiny run. It is kept apart from the sources.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
os.environ['PYTHONPYCACHEPREFIX'] = sys.pycache_prefix = str(_CACHE / 'bytecode')
sys.dont_write_bytecode = False

# Where each operation was written is looked up while tracing, a tenth of its time; no test reads it.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'
# Tracing makes millions of objects that live until a program is compiled; Python's default looks through them again and
# again for cycles, a tenth of the suite's time. So in this process, and by sitecustomize.py in all that are started.
gc.set_threshold(200_000, 50, 100)
_PATHS = [str(Path(__file__).parent / 'python'), *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
os.environ['PYTHONPATH'] = os.pathsep.join(dict.fromkeys(_PATHS))

import jax  # noqa: E402

_MOST_MEMORY = 2 * 2**30  # bytes of one worker; several share the machine with all the commands that they start
_most_memory = _MOST_MEMORY


def _memory():
  """Bytes of this process in main memory; 0 where /proc does not tell."""
  with contextlib.suppress(OSError):
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  return 0


def _give_back():
  gc.collect()
  with contextlib.suppress(OSError, AttributeError):  # glibc keeps what is freed: compilations leave a GB an hour
    ctypes.CDLL('libc.so.6').malloc_trim(0)


def pytest_runtest_logfinish(nodeid, location):
  """Gives memory back after a test, and forgets compiled programs where that is not enough."""
  global _most_memory
  if _memory() > _most_memory and 'PYTEST_XDIST_WORKER' in os.environ:
    _give_back()
    if _memory() > _most_memory:
      sys.modules['tiny'].forget()
      jax.clear_caches()
      _give_back()
      _most_memory = max(_most_memory, _memory() + _MOST_MEMORY // 4)  # not again after every test


def pytest_xdist_auto_num_workers(config):
  """One more than there are cores: many tests wait for a process they started, or for a clock; two more were slower."""
  return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config, items):
  """What takes long comes first in every worker's share, so that no worker begins it when the others are done.

  Tests of one config stay together, as what they compile and train alike is kept by the worker, see `tiny.program`.
  """
  long, rest = {}, []
  for item in items:
    params = item.callspec.params if hasattr(item, 'callspec') else {}
    if item.module.__name__ in OF_CONFIGS and 'name' in params:
      long.setdefault((1, params['name']), []).append(item)
    elif item.get_closest_marker('slow'):
      shared = any(found[-1].scope == 'module' for found in item._fixtureinfo.name2fixturedefs.values())
      long.setdefault((0, item.module.__name__ if shared else item.nodeid), []).append(item)
    else:
      rest.append(item)
  workers = int(getattr(config, 'workerinput', {}).get('workercount', 1))
  shares = [[] for _ in range(workers)]
  for number, key in enumerate(sorted(long)):
    shares[number % workers] += long[key]
  items[:] = []
  for number, share in enumerate(shares):  # of the lengths in which xdist cuts the list
    left = sum(map(len, shares[number:])) + len(rest)
    more = max(0, left // (workers - number) - len(share))
    items += share + rest[:more]
    rest = rest[more:]
  items += rest


OF_CONFIGS = ('test_contract', 'test_lanes', 'test_resume')
