"""Starts several processes that train together on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

PROCESSES = 2
QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
"""Flags of XLA that compile quickly, for runs that test what is computed and not how fast."""
# Later versions know no other way, and end at a flag that they do not know.
if version("jaxlib").startswith("0.10."):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
    QUICK.append("--xla_cpu_parallel_codegen_split_count=1")


def start_together(
    arguments: Sequence[str], flags: Sequence[str] = ()
) -> list[subprocess.Popen[str]]:
    """Starts two processes of `experiments.train` on CPUs, which train as one.

    Args:
        arguments: the command line, without those of the processes.
        flags: flags of XLA.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "experiments.train", *arguments]
    command += ["--coordinator", f"localhost:{port}", "--processes", str(PROCESSES)]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [*command, "--process", str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(PROCESSES)
    ]


def outputs_of(processes: Sequence[subprocess.Popen[str]], timeout: float) -> list[str]:
    """Waits for processes, and returns what each has printed.

    Raises:
        RuntimeError: if one of them fails. The message is what they printed.
        subprocess.TimeoutExpired: if they take longer than `timeout` seconds.
    """
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(outputs))
    return outputs
