"""Describes the machine and the versions that measurements depend on, and sets up its memory."""

import contextlib
import ctypes
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

PACKAGES = ("nmnc_jax", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")


def machine() -> str:
    """Returns the name of the device and the version of JAX."""
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
    """Returns the versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }


def keep_memory() -> None:
    """Makes glibc keep freed memory instead of returning each step's buffers to the system.

    Otherwise buffers of more than 32 MiB are mapped anew in every step, which made the strided
    network at batch 128 up to 1.5 times slower on CPU. The same happens for any size in the heaps
    that glibc gives to other threads, so that all threads share the main heap. Without glibc the
    function does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_max, arena_max = -1, -4, -8
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Compiles identical programs once, even if each of them is traced anew.

    Compiled programs are kept in the directory that ``JAX_COMPILATION_CACHE_DIR`` names; without
    it, they are kept until the context is closed.
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]] is not None:
        yield
        return
    with tempfile.TemporaryDirectory() as directory:
        try:
            for name, value in zip(names, (directory, 0.0, -1), strict=True):
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
