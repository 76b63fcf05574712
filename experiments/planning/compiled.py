"""What the compiler says of a program: operations, memory and what goes between chips."""

import re
import time
from collections import Counter
from typing import Any, NamedTuple

import jax

from nmnc_jax.types import Due

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?(%?[\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$", re.MULTILINE)
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


class Program(NamedTuple):
    """One program of a run.

    Attributes:
        name: of the program.
        due: what is due in it; nothing where it is no step.
        function: jitted.
        arguments: their shapes, with shardings.
        settings: static keyword arguments.
    """

    name: str
    due: Due
    function: Any
    arguments: tuple[Any, ...]
    settings: dict[str, Any]


class Cost(NamedTuple):
    """What the compiler says of a program; each figure is one chip's.

    Attributes:
        name: of the program.
        due: what is due in it.
        compile_seconds: it took to compile.
        flops: floating-point operations; those of a loop count once, and those of factorisations
            that a library computes not at all. For GPUs, whose compiler does not count the
            convolutions that it leaves to a library, those of the program before it is compiled.
        bytes_accessed: read and written.
        argument_bytes: memory of the arguments.
        temporary_bytes: memory that is needed besides while the program runs.
        output_bytes: memory of what it returns, but for what is written over its arguments.
        collective_bytes: kind of collective to bytes, as by `collectives`.
        seconds: that it takes, where it was measured.
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
        """Memory that the program takes."""
        return self.argument_bytes + self.temporary_bytes + self.output_bytes

    def as_json(self) -> dict[str, Any]:
        """The form in which a plan is written."""
        known = self._asdict() | {"due": {"probe": self.due.probe, "move": self.due.move}}
        if self.seconds is None:
            del known["seconds"]
        return known


class TooLarge(NamedTuple):
    """A program that the compiler refuses, as a chip's memory does not suffice.

    Attributes:
        name: of the program.
        due: what is due in it.
        compile_seconds: until it was refused.
        reason: in the compiler's words.
    """

    name: str
    due: Due
    compile_seconds: float
    reason: str

    def as_json(self) -> dict[str, Any]:
        """As that of a `Cost`, without figures."""
        known = Cost(self.name, self.due, self.compile_seconds, 0, 0, 0, 0, 0, {}).as_json()
        return dict.fromkeys(known) | {key: known[key] for key in list(known)[:3]}


def compile_cost(program: Program) -> Cost | TooLarge:
    """Compiles a program for the devices of its arguments, and reads what the compiler says."""
    start = time.perf_counter()
    lowered = program.function.lower(*program.arguments, **program.settings)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        seconds = time.perf_counter() - start
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
        return TooLarge(program.name, program.due, seconds, reason)
    seconds = time.perf_counter() - start
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
    devices = jax.tree.leaves(program.arguments)[0].sharding.device_set
    platforms = {device.platform for device in devices}
    return Cost(
        name=program.name,
        due=program.due,
        compile_seconds=seconds,
        flops=operations(lowered, compiled, len(devices), on_gpu="gpu" in platforms),
        bytes_accessed=float(counted["bytes accessed"]),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collective_bytes=collectives(compiled.as_text()),
    )


def operations(lowered: Any, compiled: Any, devices: int, *, on_gpu: bool) -> float:
    """Floating-point operations of a program on one of its devices.

    A GPU's compiler leaves convolutions to a library and does not count them (of ResNet-18's step
    it counts one part in 84), so that they are counted before it.
    """
    if on_gpu:
        return float(lowered.cost_analysis()["flops"]) / devices
    return float(compiled.cost_analysis()["flops"])


def collectives(text: str) -> dict[str, int]:
    """Bytes that each kind of collective takes or gives on one chip, whichever is more.

    Args:
        text: a compiled program; collectives inside a loop count once.

    Example:
        >>> from experiments.planning.compiled import collectives
        >>> collectives('''
        ...   %part = f32[2,8]{1,0} parameter(0)
        ...   %whole = f32[16,8]{1,0} all-gather(%part), dimensions={0}''')
        {'all-gather': 512}
    """
    sizes: dict[str, int] = {}
    found: Counter[str] = Counter()
    channels: set[str] = set()
    for name, shape, operation, rest in _INSTRUCTION.findall(text):
        sizes[name] = size_of(shape)
        # A collective in two parts: the first one's shape holds operands and buffers too.
        kind = operation.removesuffix("-done")
        if kind not in COLLECTIVES:
            continue
        # A TPU divides one over the computations that it runs beside.
        channel = _CHANNEL.search(rest)
        if channel and channel[1] in channels:
            continue
        channels |= {channel[1]} if channel else set()
        given = 0
        if kind == operation:
            given = sum(sizes.get(name, 0) for name in re.findall(r"%[\w.-]+", rest.split(")")[0]))
        found[kind] += max(sizes[name], given)
    return dict(sorted(found.items()))


def size_of(shape: str) -> int:
    """Bytes of a shape as compiled programs write it: ``bf16[8,128]{1,0}`` or a tuple of them."""
    total = 0
    for dtype, axes in _ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or ["0"])[0])
        count = 1
        for axis in filter(None, axes.split(",")):
            count *= int(axis)
        total += -(-bits * count // 8)
    return total
