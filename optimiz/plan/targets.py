"""Devices to plan for: their memory, its bandwidth, and their compiler.

=========== ============================== =============================================================
target      example                        needs
=========== ============================== =============================================================
TPU         ``"v5e:4x4"``, ``"v5p:4x4x4"``  ``pip install "optimiz-jax[tpu]"``; no TPU
NVIDIA      ``"h200"``, ``"h200:8"``        ``pip install "optimiz-jax[gpu]"``; no GPU, driver or CUDA toolkit
CPU         ``"cpu"``                       nothing more; uses JAX's CPU devices
=========== ============================== =============================================================

A new kind of device is one row of ``DEVICES``.

Source: the vendors' published specifications, and for a TPU's link to its host Austin et al., `How to Scale
Your Model <https://jax-ml.github.io/scaling-book/tpus>`_ (2025). JAX sees a chip of TPU v2, v3, v4 or TPU7x as
two devices, so its row holds half of the chip's figures.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

_GIB, _GB = 2**30, 10**9

_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        platform: platform of the compiler: ``"tpu"``, ``"cuda"`` or ``"cpu"``.
        memory: bytes of memory for programs and arrays; None if unknown.
        bandwidth: bytes per second between memory and cores; None if unknown.
        link: bytes per second between memory and host, in each direction; None if unknown.
        configuration: the text of XLA's ``GpuTargetConfigProto``, for a GPU.
        options: options of the compiler.
    """

    platform: str
    memory: int | None = None
    bandwidth: int | None = None
    link: int | None = None
    configuration: str | None = None
    options: dict[str, str | bool] | None = None


DEVICES = {
    "v2": Device("tpu", 8 * _GIB, 350 * _GB),
    "v3": Device("tpu", 16 * _GIB, 450 * _GB),
    "v4": Device("tpu", 16 * _GIB, 614 * _GB),
    "v5e": Device("tpu", 16 * _GIB, 819 * _GB, 15 * _GB),
    "v5p": Device("tpu", 95 * _GIB, 2765 * _GB, 15 * _GB),
    "v6e": Device("tpu", 32 * _GIB, 1640 * _GB, 32 * _GB),
    "tpu7x": Device("tpu", 96 * _GIB, 3690 * _GB),
    # Tiles of a product in Triton are tuned on a GPU; without one, XLA's defaults do not fit every shape.
    "h200": Device("cuda", 151_397_597_184, 4800 * _GB, 64 * _GB, _H200, {"xla_gpu_enable_triton_gemm": False}),
    "cpu": Device("cpu"),
}
"""The kinds of devices, by the name with which a target begins."""

_PLUGINS = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda13_plugin", "gpu")}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that a program is compiled for.

    Attributes:
        name: name of the target, such as ``"v5e:4x4"``.
        device: the kind of the devices.
        devices: the devices as JAX sees them; those of a TPU or GPU can only compile.
    """

    name: str
    device: Device
    devices: Sequence[Any]


def target(name: str) -> Target:
    """Look up devices by name.

    Args:
        name: one of :data:`DEVICES`, such as ``"h200"``. After a colon, for a TPU, the topology of the slice in
            chips, ``"v5e:4x4"`` (default: the smallest slice); for a GPU, the number of GPUs of a host,
            ``"h200:8"`` (default: 1).

    Returns:
        The devices.

    Raises:
        ValueError: there is no such kind of device, or no such topology.
        ModuleNotFoundError: the compiler is not installed; the message says how to install it.

    Example:
        >>> target("cpu").device.platform
        'cpu'
    """
    kind, _, size = name.partition(":")
    if kind not in DEVICES:
        raise ValueError(f"target must begin with one of {', '.join(DEVICES)}, got {name!r}")
    device = DEVICES[kind]
    if device.platform == "cpu":
        if size:
            raise ValueError(f"target {name!r}: the number of CPU devices is JAX's: write 'cpu'")
        return Target(name, device, jax.devices("cpu"))
    _require(device.platform)
    if device.platform == "tpu":
        smallest = {"v4": "2x2x1", "v5p": "2x2x1", "tpu7x": "2x2x1", "v2": "2x2", "v3": "2x2"}.get(kind, "1x1")
        return Target(name, device, _tpu(name, f"{kind}:{size or smallest}"))
    if not re.fullmatch(r"([1-9]\d*)?", size):
        raise ValueError(f"target {name!r}: {kind!r} takes a number of devices, as in '{kind}:8'")
    shape = f"1x1x{size or 1}"
    description = topologies.get_topology_desc(
        platform="cuda", topology_name=shape, topology=shape, target_config=device.configuration
    )
    return Target(name, device, description.devices)


def _require(platform: str) -> None:
    module, extra = _PLUGINS[platform]
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f'planning for a {extra.upper()} needs its compiler: pip install "optimiz-jax[{extra}]"',
            name=module,
        )


def _tpu(name: str, topology: str) -> Sequence[Any]:
    # Otherwise the compiler waits for the metadata server of a cloud machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Otherwise a second process that compiles is refused, as if both ran something on the TPU.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # JAX raises several types, some of them private
        raise ValueError(f"target {name!r}: there is no slice {topology!r} ({error})") from error
