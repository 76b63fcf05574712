"""Whether what a method remembers of a model fits into memory."""

import os
from collections.abc import Mapping

import jax

from nmnc_jax.layout import TapShape


def check_memory(
    bases: Mapping[str, int], feedback: Mapping[str, int], shapes: Mapping[str, TapShape]
) -> None:
    """Checks that bases and feedback fit into the memory of the device.

    Args:
        bases: tap name to bytes of its basis.
        feedback: tap name to bytes of its feedback.
        shapes: the taps.

    Raises:
        ValueError: if they do not fit. The message gives the bytes and names the largest tap.
    """
    need, available = sum(bases.values()) + sum(feedback.values()), _memory()
    if need > available:
        name = max(shapes, key=lambda name: bases[name] + feedback[name])
        raise ValueError(
            f"bases take {in_bytes(sum(bases.values()))} and feedback "
            f"{in_bytes(sum(feedback.values()))}, most of it at tap {name!r} with "
            f"{shapes[name].units} units; the device has {in_bytes(available)}: use a lower "
            "rank, fewer taps, a horizon, or another readout"
        )


def _memory() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_bytes(count: float) -> str:
    """Returns a number of bytes as text, in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
