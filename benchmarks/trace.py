"""The time of each kind of operation, from a trace of the profiler."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.common import Row


def trace(function: Callable[[], Any]) -> list[Row]:
    """Returns the time of one call by kind of operation, largest first."""
    jax.block_until_ready(function())
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            jax.block_until_ready(function())
        (path,) = Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    spent: Counter[str] = Counter()
    device = any(plane.name.startswith("/device:") for plane in profile.planes)
    for plane in profile.planes:
        if plane.name.startswith("/device:") != device:
            continue
        for line in plane.lines:
            if not device and "XLA" not in line.name:
                continue
            for event in line.events:
                # Leave out events of threads and executors, which contain other events.
                if re.fullmatch(r"[a-z][\w.-]*", event.name):
                    spent[re.sub(r"(_kernel)?[._\d]*$", "", event.name)] += event.duration_ns
    total = sum(spent.values())
    return [
        {"operation": kind, "share": time / total, "milliseconds": time / 1e6}
        for kind, time in spent.most_common(8)
    ]
