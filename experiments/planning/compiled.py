"""Operations, memory and communication of a program, as reported by the compiler."""

import time
from typing import Any, NamedTuple

import jax

from experiments.planning.collectives import collectives
from experiments.planning.loops import all_operations, further_operations
from nmnc_jax.types import Due


class Program(NamedTuple):
    """One program of a run.

    Attributes:
        name: name of the program.
        due: scheduled work of the program; none if it is not a step.
        function: the jitted function.
        arguments: shapes of the arguments, with shardings.
        settings: static keyword arguments.
    """

    name: str
    due: Due
    function: Any
    arguments: tuple[Any, ...]
    settings: dict[str, Any]


class Cost(NamedTuple):
    """The cost of a program on one chip, as reported by the compiler.

    Attributes:
        name: name of the program.
        due: scheduled work of the program.
        compile_seconds: time of the compilation.
        flops: floating-point operations of all iterations of loops. Those of factorisations by a
            library do not count. For GPUs, whose compiler does not count convolutions by a library,
            they are counted before the program is compiled.
        bytes_accessed: bytes that are read and written.
        argument_bytes: memory of the arguments.
        temporary_bytes: further memory that is needed while the program runs.
        output_bytes: memory of the outputs, without those that reuse the memory of arguments.
        collective_bytes: kind of collective to bytes, as from `collectives`.
        seconds: run time, if it was measured.
    """

    name: str
    due: Due
    compile_seconds: float
    flops: float
    bytes_accessed: float
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    collective_bytes: dict[str, int]
    seconds: float | None = None

    @property
    def peak_bytes(self) -> int:
        """Memory that the program needs."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes

    def as_json(self) -> dict[str, Any]:
        """Returns the form in which a plan is written."""
        known = self._asdict() | {"due": {"probe": self.due.probe, "move": self.due.move}}
        if self.seconds is None:
            del known["seconds"]
        return known


class TooLarge(NamedTuple):
    """A program that the compiler rejects because it does not fit into a chip's memory.

    Attributes:
        name: name of the program.
        due: scheduled work of the program.
        compile_seconds: time until it was rejected.
        reason: message of the compiler.
    """

    name: str
    due: Due
    compile_seconds: float
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Returns the form of a `Cost` without numbers."""
        known = Cost(self.name, self.due, self.compile_seconds, 0, 0, 0, 0, 0, {}).as_json()
        return dict.fromkeys(known) | {key: known[key] for key in list(known)[:3]}


def compile_cost(program: Program) -> Cost | TooLarge:
    """Compiles a program for the devices of its arguments, and returns its cost.

    The compiler for GPUs does not count convolutions, which a library computes (it counts 1/84 of a
    step of ResNet-18), so that the operations of the traced program are counted.
    """
    start = time.perf_counter()
    traced = _traced(program)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        seconds = time.perf_counter() - start
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
        return TooLarge(program.name, program.due, seconds, reason)
    seconds = time.perf_counter() - start
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
    devices = jax.tree.leaves(program.arguments)[0].sharding.device_set
    if any(device.platform == "gpu" for device in devices):
        flops = operations(program) / len(devices)
    else:
        flops = float(counted["flops"]) + further_operations(traced.jaxpr.jaxpr) / len(devices)
    return Cost(
        name=program.name,
        due=program.due,
        compile_seconds=seconds,
        flops=flops,
        bytes_accessed=float(counted["bytes accessed"]),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collective_bytes=collectives(compiled.as_text()),
    )


def operations(program: Program) -> float:
    """Returns the operations of a program on all devices, without compiling it."""
    return all_operations(_traced(program).jaxpr.jaxpr)


def _traced(program: Program) -> Any:
    return program.function.trace(*program.arguments, **program.settings)
