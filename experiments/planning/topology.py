"""Chips for which a program is compiled: absent TPUs, or the devices of this host."""

import math
import os
import re
from typing import Any, NamedTuple

import jax

from experiments.errors import UserError, in_one_line


class Chip(NamedTuple):
    """A kind of TPU.

    Attributes:
        memory: bytes of one chip.
        accelerator: libtpu's name of a slice, without the number of chips or cores.
        cores: number of cores per chip in that number.
    """

    memory: int
    accelerator: str
    cores: int


GIB = 2**30
CHIPS = {
    "v5e": Chip(16 * GIB, "v5litepod", 1),
    "v5p": Chip(95 * GIB, "v5p", 2),
    "v6e": Chip(32 * GIB, "v6e", 1),
}
"""Source: the system architecture pages of Cloud TPU (cloud.google.com/tpu/docs/v5e, v5p, v6e)."""
PEAKS = {
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Peak bfloat16 operations per second of a chip, by JAX's name of its kind.

Sources: the same pages; NVIDIA's data sheets of A100, H100 SXM and H200, without sparsity."""
LOCAL = ("cpu", "gpu", "tpu")


class Topology(NamedTuple):
    """The chips for which a run is planned.

    Attributes:
        name: the given name.
        devices: the chips.
        memory: bytes of one chip; None if it is not known.
        local: whether programs can run on this host.
    """

    name: str
    devices: list[Any]
    memory: int | None
    local: bool


def find_topology(name: str) -> Topology:
    """Finds the chips of a topology.

    Args:
        name: KIND:AxB, such as v5e:4x4, for TPUs that need not be present; or cpu, gpu or tpu for
            the devices of this host.

    Raises:
        UserError: if the name is unknown, or if libtpu is not installed.
    """
    if name in LOCAL:
        if name == "cpu":
            jax.config.update("jax_platforms", "cpu")  # Do not search for other platforms.
        try:
            devices = jax.devices(name)
        except RuntimeError as error:
            raise UserError(f"topology is {name!r}: {in_one_line(error)}") from error
        stats = devices[0].memory_stats() or {}
        return Topology(name, devices, stats.get("bytes_limit"), local=True)
    kind, _, grid = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", grid):
        takes = ", ".join([f"{kind}:AxB" for kind in CHIPS] + list(LOCAL))
        raise UserError(f"topology is {name!r}; it takes one of {takes}, such as v5e:4x4")
    return Topology(name, _absent(name, kind, grid), CHIPS[kind].memory, local=False)


def _absent(topology: str, kind: str, grid: str) -> list[Any]:
    count = math.prod(map(int, grid.split("x")))
    chip = CHIPS[kind]
    # Otherwise libtpu queries the machine for its TPU, and allows only one process at a time.
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{chip.accelerator}-{count * chip.cores}",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"topology is {topology!r}, for which programs cannot be compiled: "
            f"{in_one_line(error)}; it needs libtpu: pip install 'nmnc_jax[tpu]'"
        ) from error
    return list(found.devices)
