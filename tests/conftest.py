"""Strict settings for every test, on eight simulated devices."""

import os
import zlib

from benchmarks import processes

# Three quarters of the time is compilation, and no law depends on how well code is optimised.
QUICK = [os.environ.get("XLA_FLAGS", ""), *processes.QUICK]
os.environ["XLA_FLAGS"] = " ".join([*QUICK, "--xla_force_host_platform_device_count=8"])

# On a machine without a TPU, JAX warns of one where its compiler is installed.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=34, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=834, **COMMON)
settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="run every case of the tests that are sampled"
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out a part of the cases of what is ``sampled(n)``, unless all or some are asked for.

    One in n is run, chosen by name so that it stays the same, and at least the first one.
    """
    if config.option.thorough or config.option.keyword or any("::" in arg for arg in config.args):
        return
    first, left = set(), []
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker and item.function in first and zlib.crc32(item.name.encode()) % marker.args[0]:
            left.append(item)
        first.add(item.function)
    config.hook.pytest_deselected(items=left)
    out = set(left)
    items[:] = [item for item in items if item not in out]
