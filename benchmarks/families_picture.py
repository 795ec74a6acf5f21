"""The family tree: a row of samples a method, from the runs of a report of benchmarks.families."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import families_table
from benchmarks.real_data import RealData
from gen_ai.data import pictures
from gen_ai.evaluate import restored
from gen_ai.evaluate.generation import Generation, SplitInputs

COLUMNS = 12
SCALE = 2  # of pictures of 28 pixels
LABEL, HEAD, GAP = 150, 30, 4  # pixels: left of a row, above a family, between rows
SEED = 0  # of the run and of its samples, which are numbers 0 to COLUMNS - 1: nobody chose them


def samples(run_dir: Path, data: RealData) -> np.ndarray:
  """The first samples of the last checkpoint, uint8 [COLUMNS, H, W, C]; of a completing method those of test images."""
  config = restored.open_config(str(run_dir), {}, ())
  program, state, _ = restored.restore(str(run_dir), config, data.dataset.spec, 'latest')
  name = program.drawing_task()
  task, given = program.task(name), None
  if any(field.required for field in task.inputs.values()):
    given = SplitInputs(config, data.dataset.splits['test'], task)
  return Generation(program, SEED, name, given).read(state, np.arange(COLUMNS))[0]


def tree(rows: list[tuple[str, str, np.ndarray]], heading: str) -> np.ndarray:
  """The picture of (family, method, images [N, H, W, C]): uint8 [H', W', C], families as branches of one stem."""
  from PIL import Image, ImageDraw, ImageFont

  strips = [pictures.grid(images, COLUMNS, pad=2, scale=max(SCALE * 28 // images.shape[1], 1)) for _, _, images in rows]
  families = len(list(groupby(row[0] for row in rows)))
  height = HEAD * (families + 1) + sum(strip.shape[0] + GAP for strip in strips)
  sheet = Image.new('RGB', (LABEL + max(strip.shape[1] for strip in strips) + GAP, height), 'white')
  draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(17)
  draw.text((10, 6), heading, 'black', large)
  y, last = HEAD, HEAD
  for family, group in groupby(zip(rows, strips, strict=True), key=lambda pair: pair[0][0]):
    draw.line([(10, last), (10, y + HEAD // 2), (22, y + HEAD // 2)], 'gray', 2)
    draw.text((28, y + 5), family, 'black', large)
    last, stem = y + HEAD // 2, y + HEAD - 4
    y += HEAD
    for (_, name, _), strip in group:
      middle = y + strip.shape[0] // 2
      draw.line([(34, stem), (34, middle), (46, middle)], 'gray', 2)
      draw.text((52, middle - 9), name, 'black', font)
      sheet.paste(Image.fromarray(strip if strip.shape[2] == 3 else strip[..., 0]), (LABEL, y))
      y += strip.shape[0] + GAP
  return np.asarray(sheet)


def draw(path: Path, report: Mapping[str, Any], runs_dir: Path, data: RealData) -> None:
  """Writes the picture of the runs with seed 0 that are done; nothing where none is."""
  done = [row for row in report['runs'] if row['state'] == 'done' and row['seed'] == SEED]
  order = list(report['plans'])
  if not done:
    return  # the table says why
  done.sort(key=lambda row: order.index(row['method']))
  runs = runs_dir.resolve()
  rows = [(f'{row["family"]} family', row['method'], samples(runs / row['run_dir'], data)) for row in done]
  budget = families_table.budget(report)
  heading = f'{report["settings"]["data"]}, {budget} each: samples 0 to {COLUMNS - 1} of seed 0'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pictures.encode_png(tree(rows, heading)))
