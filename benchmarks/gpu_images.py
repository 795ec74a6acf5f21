"""Image methods on one GPU, in under nine minutes: python -m benchmarks.gpu_images [--data=NAME] [--out=report.json].

A classifier is trained first, to its end, whose features judge. Then each method trains for the same seconds at a
constant learning rate and is judged on the way; `gen_ai.compare` draws FD against seconds of all in one page. The U-Net
stands beside the patch Transformer, and methods on random colour images of 32 pixels say how fast they train. Last,
images a second of the runs by steps, see `benchmarks.sampling`. A run that fails is a line that says so; the others go
on.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import machine
from benchmarks.gpu_processes import platform
from gen_ai import config as config_lib
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError
from gen_ai.run import directory

FLAGS = flags.FLAGS
flags.DEFINE_string('data', 'mnist_5k', 'labelled images of 28 pixels: what --config.data.name takes')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the configs say')
flags.DEFINE_float('minutes', 8.5, 'for all together', lower_bound=0.0)
flags.DEFINE_integer('samples', 5_000, 'that FD is measured on', lower_bound=2)
flags.DEFINE_string('runs_dir', 'runs/gpu_images', 'where the runs go, a new folder')
flags.DEFINE_bool('tiny', False, 'tiny sizes, and a CPU will do: only to see that the benchmark works')
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

UNET = {'model.network': 'unet'}
JUDGED: dict[str, tuple[str, dict[str, Any]]] = {
  'gan': ('wgan', {}),
  'vae': ('vae', {}),
  'diffusion': ('ddpm', {}),
  'flow': ('flow', {}),
  'flow_unet': ('flow', UNET),
}
COLOUR: dict[str, tuple[str, dict[str, Any]]] = {
  'colour_dcgan': ('dcgan', {}),
  'colour_flow': ('flow', {'model.patch': 4}),
  'colour_unet': ('flow', UNET),
}
SHARES = {'classifier': 1.0, **dict.fromkeys(JUDGED, 1.2), **dict.fromkeys(COLOUR, 0.5), 'sampling': 1.5}
# Time ends a run; but not the classifier's, as one that has not finished judges nothing.
ENDLESS = {'run.steps': 10_000_000, 'optim.schedule': 'constant'}
GRACE = 60.0  # seconds in which a run that was asked to stop may save, before it is ended


def trained(name: str, config: str, given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
  """What a run of `launch.py` did in so many seconds, its start and its compilation among them."""
  run_dir = Path(FLAGS.runs_dir, name)
  words = [f'--config.{path}={value}' for path, value in given.items()] + ['--tiny'] * FLAGS.tiny
  call = [sys.executable, str(config_lib.SOURCE / 'launch.py'), f'--config={config}', f'--run_dir={run_dir}', *words]
  begun = time.perf_counter()
  process = subprocess.Popen(call, stdout=sys.stderr)
  try:
    code = process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGTERM)  # it saves, and its code says that it was stopped
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(GRACE)
    process.kill()  # one that did not stop; nothing, where it has ended
    code = process.wait()
  rows = directory.read_metrics(run_dir) if run_dir.exists() else []
  found: dict[str, Any] = {'config': config, 'wall_seconds': time.perf_counter() - begun, 'exit_code': code}
  speeds = [row['examples_per_second'] for row in rows if row['kind'] == 'train']
  found |= {'step': rows[-1]['step'], 'examples_per_second': float(np.median(speeds))} if speeds else {}
  judged = [(row['seconds'], row['fd']) for row in rows if 'fd' in row]
  return found | ({'fd': judged[-1][1], 'curve': judged} if judged else {})


def noise(folder: Path) -> str:
  """Random colour images of 32 pixels in two classes, as data: their speed is that of any others."""
  from PIL import Image

  draw = np.random.default_rng(0)
  for label in ('a', 'b'):
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number in range(200):
      Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / label / f'{number}.png')
  return f'folder:{folder.resolve()}'


def command(limit: float, *words: str) -> int:
  """Runs `python -m ...`, whose output is shown; gives its exit code. What takes `limit` seconds is ended."""
  try:
    return subprocess.run([sys.executable, '-m', *words], cwd=config_lib.SOURCE, timeout=limit).returncode
  except subprocess.TimeoutExpired:
    print(f'{words[0]} was ended after {limit:.0f} s: the time of --minutes is spent', flush=True)
    return FAILED


def line(name: str, found: Mapping[str, Any]) -> str:
  """A run in a line."""
  if 'step' not in found:
    return f'{name:<14} ended with code {found["exit_code"]} before its first updates: see its message above'
  told = f'{name:<14} {found["step"]:>9,} updates {found["examples_per_second"]:>11,.0f} examples/s'
  return f'{told}  FD {found["fd"]:.3f}' if 'fd' in found else told


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to report: 0 where every run ended and was judged."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: its settings are part of it.")
  if not FLAGS.tiny and platform() != 'gpu':
    raise UserError(f"JAX finds no GPU here, but '{platform()}'; --tiny shows on a CPU that the benchmark works.")
  runs = Path(FLAGS.runs_dir).resolve()
  if runs.exists() and any(runs.iterdir()):
    raise UserError(f'--runs_dir={FLAGS.runs_dir} is not empty: name a new folder.')
  place = {'data.data_dir': FLAGS.data_dir} if FLAGS.data_dir else {}
  quiet = {**place, 'run.trackers': '', 'run.sample_every': 0}
  judging = {'eval.metrics': 'fd', 'eval.samples': FLAGS.samples, 'eval.extractor': f'classifier:{runs}/classifier'}
  endless = {} if FLAGS.tiny else ENDLESS
  often = {} if FLAGS.tiny else {'run.eval_every': 500, 'eval.metrics_every': 500}
  jobs = {'classifier': (f'configs/classifier.py:{FLAGS.data}', quiet)}
  for name, (config, given) in JUDGED.items():
    jobs[name] = (f'configs/{config}.py:{FLAGS.data}', {**quiet, **endless, **judging, **often, **given})
  for name, (config, given) in COLOUR.items():
    data = {'data.name': noise(runs.parent / f'{runs.name}_noise'), 'data.image_size': 32}
    jobs[name] = (f'configs/{config}.py', {'run.trackers': '', 'run.sample_every': 0, **endless, **data, **given})
  about, found, end = machine.facts(), {}, time.perf_counter() + FLAGS.minutes * 60
  left = lambda: max(end - time.perf_counter(), 0.0)  # noqa: E731
  print(machine.describe(about, timed=False), flush=True)
  for name, (config, given) in jobs.items():
    shares = sum(share for other, share in SHARES.items() if other not in found)
    found[name] = trained(name, config, given, left() * SHARES[name] / shares)
    print(line(name, found[name]), flush=True)
  done = [name for name in JUDGED if 'fd' in found[name]]
  page = runs.with_name(f'{runs.name}.html')
  codes = [0]
  if done:
    paths = [str(runs / name) for name in done]
    codes += [command(left(), 'gen_ai.compare', *paths, '--metric=fd:min', '--force', f'--html={page}')]
    rounds = (
      ['--steps=3', '--images=16', '--rounds=1'] if FLAGS.tiny else ['--steps=4,32', '--images=4096', '--rounds=3']
    )
    codes += [command(left(), 'benchmarks.sampling', *paths, *rounds)]
    print(f'FD against seconds (the x-axis can be chosen): {page}')
  if FLAGS.out:
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'runs': found}, indent=1) + '\n')
  return DONE if done == list(JUDGED) and not any(codes) and all('step' in one for one in found.values()) else FAILED


if __name__ == '__main__':
  command_line.run(run)
