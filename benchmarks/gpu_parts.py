"""The parts of benchmarks.gpu: python -m benchmarks.gpu_parts PART JOB. Each prints what it has found, as JSON lines.

A later line replaces an earlier one, which is what is known of a part that was stopped. JOB is JSON: `limit` in
seconds, `tiny`, `batch_size`, `text`, `data_dir` and `rate`, the matmul rate that was measured.
"""

import importlib.util
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import methods
from benchmarks.gpu_lines import TARGET_NATS
from gen_ai import config as config_lib
from gen_ai.core.errors import UserError

Job = Mapping[str, Any]
Found = dict[str, Any]
SHAKESPEARE = 'configs/lm_shakespeare.py:gpu'


def _seconds(function: Any, *args: Any, repeats: int = 5) -> float:
  """Median time of a compiled function, which has run once."""
  import jax

  jax.block_until_ready(function(*args))
  times = []
  for _ in range(repeats):
    begun = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - begun)
  return statistics.median(times)


def matmul(job: Job) -> Iterator[Found]:
  """The rate of the card's bf16 matrix products: the best of some sizes."""
  import jax
  import jax.numpy as jnp

  from benchmarks import machine

  device = jax.devices()[0]
  about = {'device': device.device_kind, 'platform': device.platform, 'machine': machine.facts()}
  chain, rates = 8, {}  # products in one program, each of the last one's result

  @jax.jit
  def products(x: Any, w: Any) -> Any:
    return jax.lax.fori_loop(0, chain, lambda _, x: x @ w, x)

  for n in (64, 128) if job['tiny'] else (4096, 8192, 16384):
    w = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16) * n**-0.5
    rates[n] = 2.0 * n**3 * chain / _seconds(products, w, w)
    yield {**about, 'by_size': rates, 'flops_per_second': max(rates.values())}


# Lengths, and what a query may see: {name: (tokens, key heads, window, masked rows, a mask in place of is_causal)}.
CASES = {
  'causal, T = 256': (256, 4, 0, 0, False),
  'causal, T = 192': (192, 4, 0, 0, False),  # T % 128 == 64
  'mask, T = 192': (192, 4, 0, 0, True),
  'mask, T = 256, one row sees nothing': (256, 4, 0, 1, True),
  'window of 64, T = 256': (256, 4, 64, 0, False),
  'window of 64, T = 192': (192, 4, 64, 0, False),
  'grouped queries, T = 256': (256, 2, 0, 0, False),
}
FUSED = re.compile(r'__cudnn\$fmha\w*')  # how XLA calls cuDNN's attention


def attention(job: Job) -> Iterator[Found]:
  """cuDNN's attention, forwards and backwards, where it is known to have given NaN, beside XLA's in float32."""
  import jax

  from gen_ai.nets import attention as attention_lib

  platform, cases = jax.default_backend(), {}
  for name, case in CASES.items():
    tokens, *_ = case
    cases[name] = {'rule': attention_lib.kernel(platform, 'bfloat16', tokens, 64), **_judged(*case)}
    yield {'platform': platform, 'cases': cases}
  shape = (2, 32 if job['tiny'] else 1024, 2 if job['tiny'] else 12, 64)
  yield {'platform': platform, 'cases': cases, 'ran': _ran(shape)}


def _judged(tokens: int, keys: int, window: int, masked: int, as_mask: bool) -> Found:
  """What cuDNN computes in one case; an error's first line where it does not."""
  import jax
  import jax.numpy as jnp

  from gen_ai.nets.attention import causal_mask

  query, *others = (
    jax.random.normal(jax.random.key(i), (2, tokens, heads, 64), jnp.bfloat16)
    for i, heads in enumerate((4, keys, keys))
  )
  mask = None
  if as_mask:
    mask = jnp.broadcast_to(causal_mask(jnp.arange(tokens), jnp.arange(tokens), window), (2, 1, tokens, tokens))
    mask = mask.at[0, 0, :masked].set(False)

  def side(implementation: Any, dtype: Any) -> list[np.ndarray]:
    def total(*given: Any) -> Any:
      out = jax.nn.dot_product_attention(
        *given,
        mask=mask,
        is_causal=not as_mask,
        local_window_size=(window - 1, 0) if window else None,
        implementation=implementation,
      ).astype(jnp.float32)
      return (out**2).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(
      *(x.astype(dtype) for x in (query, *others))
    )
    return [np.asarray(x, np.float32) for x in (out, *grads)]

  exact = side('xla', jnp.float32)
  try:
    fused = side('cudnn', jnp.bfloat16)
  except Exception as error:  # of whatever kind: the case is reported, and the others go on
    return {'refused': str(error).splitlines()[0] if str(error) else type(error).__name__}
  names = ('forward', 'dQ', 'dK', 'dV')
  return {
    'not_finite': [name for name, x in zip(names, fused, strict=True) if not np.isfinite(x).all()],
    'error': max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(fused, exact, strict=True)),
  }


def _ran(shape: tuple[int, ...]) -> list[str]:
  """The fused kernels, by XLA's names, that training's attention over [B, T, N, H] in bf16 runs; none: XLA's own."""
  import jax
  import jax.numpy as jnp

  from gen_ai.nets.attention import causal

  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  grad = jax.jit(jax.grad(lambda *given: causal(*given).astype(jnp.float32).sum(), (0, 1, 2)))
  return sorted(set(FUSED.findall(grad.lower(x, x, x).compile().as_text())))


def training(job: Job) -> Iterator[Found]:
  """GPT-2's updates, ours and PyTorch's by turns: tokens a second, and the share of the measured matmul rate."""
  from benchmarks.worker import Worker

  config = methods.method_config(methods.GPT2, job['tiny'])
  batch = 0 if job['tiny'] else job['batch_size']
  tokens = (batch or config.data.batch_size) * config.data.block_size
  slices, begun, seconds = 1 if job['tiny'] else 5, time.perf_counter(), 0.1 if job['tiny'] else 5.0
  found: Found = {'batch_size': tokens // config.data.block_size, 'block_size': config.data.block_size}

  def figures(speeds: list[float]) -> Found:
    rate = statistics.median(speeds) * tokens
    share = rate * found['flops_per_token'] / job['rate'] if job.get('rate') else None
    return {'tokens_per_second': rate, 'share_of_matmul': share, 'slices': [speed * tokens for speed in speeds]}

  common = (methods.GPT2, seconds, job['tiny'])
  with Worker('ours', *common, batch_size=batch, gpu=not job['tiny']) as ours:
    parameters = ours.about['parameters']
    found |= {'parameters': parameters, 'flops_per_token': flops_per_token(config, parameters)}
    speeds = [ours.run(seconds)]
    yield found | {'ours': figures(speeds), 'theirs_error': 'PyTorch was not measured'}
    if importlib.util.find_spec('torch') is None:
      yield found | {'ours': figures(speeds), 'theirs_error': 'PyTorch is not installed'}
      return
    try:
      with Worker('torch', *common, compiled=not job['tiny'], batch_size=batch, gpu=not job['tiny']) as theirs:
        if theirs.about['parameters'] != parameters:
          raise UserError(f'PyTorch has {theirs.about["parameters"]:,} parameters: these are two models')
        mine, others = [], []
        while len(mine) < slices and time.perf_counter() - begun < job['limit'] - 2 * seconds:
          mine.append(ours.run(seconds))
          others.append(theirs.run(seconds))
          ratios = [a / b for a, b in zip(mine, others, strict=True)]
          told = {'ratio': statistics.median(ratios), 'ratio_range': [min(ratios), max(ratios)]}
          yield found | {'ours': figures(mine), 'theirs': figures(others), **told, 'versions': theirs.about['versions']}
    except UserError as error:
      yield found | {'ours': figures(speeds), 'theirs_error': str(error)}


def flops_per_token(config: Any, parameters: int) -> float:
  """6 N + 12 L H Q T of an update: arXiv 2204.02311, appendix B, with nanoGPT's N, which leaves positions out.

  L layers, H heads of width Q, blocks of T tokens. Causal attention computes half of the second term; both count all.
  """
  model, T = config.model, config.data.block_size
  return 6.0 * (parameters - T * model.width) + 12.0 * model.layers * model.width * T


def decode(job: Job) -> Iterator[Found]:
  """Tokens a second that GPT-2 writes after one token, by the number of texts side by side; without compilation."""
  import jax

  from benchmarks import ours
  from gen_ai.core import random

  length = 8 if job['tiny'] else 512
  base = methods.method_config(methods.GPT2, job['tiny'])
  config = config_lib.override(base, {'sample.length': length, 'sample.top_k': 0})
  program = ours.program(config, ours.dataset(config))
  state, task = program.init(), program.method().tasks['generate']
  write = jax.jit(lambda state, keys: task.run(state, {}, keys)['sample'])
  rows: dict[int, float] = {}
  for count in (2,) if job['tiny'] else (1, 16, 128):
    keys = random.per_example(jax.random.key(0), np.arange(count))
    rows[count] = count * length / _seconds(write, state, keys, repeats=3)
    yield {'length': length, 'tokens_per_second': rows, 'precision': config.precision}


def texts(job: Job) -> tuple[Found, str]:
  """(the fields of config.data that read Tiny Shakespeare, or what there is in its place; what to say of that)."""
  from gen_ai.data.kinds.text import documents

  if job['text']:
    # nanoGPT's cut: the first 90% of the characters, and the rest.
    return {'data.name': f'text:{job["text"]}', 'data.split': 'train[:90%]|train[90%:]|train[90%:]'}, ''
  place = {'data.data_dir': job['data_dir']} if job['data_dir'] else {}
  try:
    documents('tiny_shakespeare', job['data_dir'])
  except UserError:
    told = f'Tiny Shakespeare is not prepared, so {TARGET_NATS} cannot be compared; give --text=FILE'
    return {'data.name': 'python_stdlib', 'data.split': 'auto'}, told
  return place, ''


def quality(job: Job) -> Iterator[Found]:
  """nanoGPT's GPU setting of lm_shakespeare, trained by launch.py: the lowest validation loss, and when."""
  from gen_ai.run import directory

  data, note = (config_lib.tiny(SHAKESPEARE), 'a tiny network on other text') if job['tiny'] else texts(job)
  often = {} if job['tiny'] else {'run.log_every': 50, 'run.eval_every': 250}
  quiet = {'run.sample_every': 0, 'run.save_every': 0, 'run.trackers': ''}
  given = {**data, **often, **quiet, 'precision': 'bf16'}
  with tempfile.TemporaryDirectory() as folder:
    run_dir = Path(folder, 'run')
    words = [f'--config.{path}={value}' for path, value in given.items()]
    launch = [sys.executable, str(config_lib.SOURCE / 'launch.py'), f'--config={SHAKESPEARE}', f'--run_dir={run_dir}']
    begun, ended = time.perf_counter(), ''
    process = subprocess.Popen([*launch, *words], stdout=sys.stderr, cwd=config_lib.SOURCE)
    try:
      code = process.wait(job['limit'])
      ended = f'launch.py ended with code {code}' if code else ''
    except subprocess.TimeoutExpired:
      ended = f'stopped after {job["limit"]:.0f} s, its share of the time'
      process.send_signal(signal.SIGKILL)
      process.wait()
    wall = time.perf_counter() - begun
    rows = [row for row in directory.read_metrics(run_dir) if row['kind'] == 'eval'] if run_dir.exists() else []
    found = {'wall_seconds': wall, 'note': note, 'ended': ended, 'comparable': not note}
    if rows:
      best = min(rows, key=lambda row: row['loss_nats'])
      found |= {'loss_nats': best['loss_nats'], 'step': best['step'], 'train_seconds': best['seconds']}
    yield found


PARTS = {'matmul': matmul, 'attention': attention, 'training': training, 'decode': decode, 'quality': quality}


def main() -> None:
  """Runs the part that the command line names."""
  part, job = sys.argv[1], json.loads(sys.argv[2])
  for found in PARTS[part](job):
    print(json.dumps(found), flush=True)


if __name__ == '__main__':
  main()
