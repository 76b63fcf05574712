"""Which machine and versions numbers belong to."""

import os
import platform
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = ("nmnc_jax", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")


def machine() -> str:
    """Names the device that the numbers belong to."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind}, jax {jax.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, jax {jax.__version__}"


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }
