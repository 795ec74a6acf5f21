"""Accelerators by name: how fast they compute, remember and speak, by their makers' data sheets."""

from typing import NamedTuple

from gen_ai.core.errors import UserError
from gen_ai.core.text import did_you_mean


class Accelerator(NamedTuple):
  """One device, and how it is joined to others.

  Attributes:
    name: as `--accelerator` has it.
    kind: as `jax.Device.device_kind` begins.
    platform: 'gpu' or 'tpu'.
    flops: {config.precision: matrix products, FLOP/s, dense}. Products of float32 are TF32's on GPUs and bfloat16's on
      TPUs, which is what XLA does unless it is told otherwise.
    memory: bytes.
    bandwidth: of the memory, bytes/s.
    group: devices that fast links join: a server, or a pod.
    link: bytes/s that a device sends within such a group.
    network: bytes/s that it sends beyond.
    source: where the figures are from.
  """

  name: str
  kind: str
  platform: str
  flops: dict[str, float]
  memory: float
  bandwidth: float
  group: int
  link: float
  network: float
  source: str


_T, _G = 1e12, 1e9
_ALL = (
  Accelerator(
    'h100',
    'NVIDIA H100',
    'gpu',
    {'bf16': 989 * _T, 'fp32': 495 * _T},
    80 * _G,
    3350 * _G,
    8,
    450 * _G,
    50 * _G,
    'NVIDIA H100 SXM data sheet; DGX H100: NVLink 900 GB/s both ways, 400 Gb/s of network a GPU',
  ),
  Accelerator(
    'h200',
    'NVIDIA H200',
    'gpu',
    {'bf16': 989 * _T, 'fp32': 495 * _T},
    141 * _G,
    4800 * _G,
    8,
    450 * _G,
    50 * _G,
    'NVIDIA H200 SXM data sheet; DGX H200: NVLink 900 GB/s both ways, 400 Gb/s of network a GPU',
  ),
  Accelerator(
    'b200',
    'NVIDIA B200',
    'gpu',
    {'bf16': 2250 * _T, 'fp32': 1100 * _T},
    180 * _G,
    8000 * _G,
    8,
    900 * _G,
    50 * _G,
    'NVIDIA HGX and DGX B200 data sheets: NVLink 1.8 TB/s both ways, 400 Gb/s of network a GPU',
  ),
  Accelerator(
    'a100',
    'NVIDIA A100',
    'gpu',
    {'bf16': 312 * _T, 'fp32': 156 * _T},
    80 * _G,
    2039 * _G,
    8,
    300 * _G,
    25 * _G,
    'NVIDIA A100 80GB SXM data sheet; DGX A100: NVLink 600 GB/s both ways, 200 Gb/s of network a GPU',
  ),
  Accelerator(
    'v5e',
    'TPU v5 lite',
    'tpu',
    {'bf16': 197 * _T, 'fp32': 197 * _T},
    16 * _G,
    819 * _G,
    256,
    200 * _G,
    3.1 * _G,
    'Google Cloud TPU v5e: interconnect 400 GB/s both ways a chip, 6.4 Tb/s of network a pod of 256',
  ),
  Accelerator(
    'v6e',
    'TPU v6 lite',
    'tpu',
    {'bf16': 918 * _T, 'fp32': 918 * _T},
    32 * _G,
    1600 * _G,
    256,
    400 * _G,
    12.5 * _G,
    'Google Cloud TPU v6e: interconnect 800 GB/s both ways a chip, 25.6 Tb/s of network a pod of 256',
  ),
)
ACCELERATORS = {one.name: one for one in _ALL}
USUAL = 'h100'


def named(name: str) -> Accelerator:
  """The accelerator that `--accelerator` names. Raises UserError where there is none."""
  if name not in ACCELERATORS:
    raise UserError(
      f'--accelerator={name} is none of {", ".join(ACCELERATORS)}.{did_you_mean(name, ACCELERATORS, cutoff=0.6)}'
    )
  return ACCELERATORS[name]


def of_kind(device_kind: str) -> str:
  """The name of the accelerator that JAX calls `device_kind`; '' of one that is not known here."""
  return next((one.name for one in _ALL if device_kind.startswith(one.kind)), '')
