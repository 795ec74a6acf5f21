"""Eight fake devices, one shared compilation cache and one shared data folder."""

import gc
import os
import signal
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

# A suite that is started in the background ignores Ctrl-C, and so would all the commands that its tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX is imported anywhere in this process. Compiling is most of what the suite does, and takes half the time
# without LLVM's optimiser, and half of that without the fusion emitters, which later XLAs cannot do without. The
# workers keep all cores busy: to compile one program in several parts only adds work.
_FLAGS = ['--xla_backend_optimization_level=0', '--xla_cpu_parallel_codegen_split_count=1']
if metadata.version('jaxlib').startswith('0.10.'):
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ['GEN_AI_TEST_FLAGS'] = ' '.join(_FLAGS)
os.environ['XLA_FLAGS'] = f'{os.environ["GEN_AI_TEST_FLAGS"]} --xla_force_host_platform_device_count=8'
os.environ['JAX_PLATFORMS'] = 'cpu'

_CACHE = Path(__file__).resolve().parent.parent / '.pytest_cache' / 'gen_ai'
os.environ['TFDS_DATA_DIR'] = str(_CACHE / 'data')
os.environ['GEN_AI_TEST_XLA'] = str(_CACHE / 'xla')

# Tracing makes millions of objects that live until a program is compiled; Python's default looks through them again and
# again for cycles, a tenth of the suite's time.
gc.set_threshold(200_000, 50, 100)

import jax  # noqa: E402

jax.config.update('jax_compilation_cache_dir', os.environ['GEN_AI_TEST_XLA'])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def pytest_xdist_auto_num_workers(config):
  """One more than there are cores: many tests wait for a process they started, or for a clock."""
  return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
  """Tests of one config one after the other: what they compile and train alike is there, see tiny.train."""
  of_configs = [item for item in items if item.module.__name__ in ('test_contract', 'test_lanes', 'test_resume')
                and 'name' in getattr(item, 'callspec', SimpleNamespace(params=())).params]  # fmt: skip
  of_configs.sort(key=lambda item: item.callspec.params['name'])
  grouped = set(map(id, of_configs))
  items[:] = of_configs + [item for item in items if id(item) not in grouped]
