"""What the devices of a compiled program send to each other."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?(%?[\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$", re.MULTILINE)
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"\n(?:ENTRY )?(%[\w.-]+) \(.*\) -> .*\{\n")
_CALLED = re.compile(r"\b(calls|to_apply|\w+_computations?|body)=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def collectives(text: str) -> dict[str, int]:
    """Returns the larger of the input and output bytes of each kind of collective on one chip.

    Args:
        text: a compiled program. Collectives inside a loop count in each iteration; where the
            program does not hold their number, once.

    Example:
        >>> from experiments.planning.collectives import collectives
        >>> collectives('''
        ...   %part = f32[2,8]{1,0} parameter(0)
        ...   %whole = f32[16,8]{1,0} all-gather(%part), dimensions={0}''')
        {'all-gather': 512}
    """
    sizes: dict[str, int] = {}
    found: Counter[str] = Counter()
    channels: set[str] = set()
    computations = _computations(text)
    runs = _runs(computations)
    for computation, body in computations.items():
        for name, shape, operation, rest in _INSTRUCTION.findall(body):
            sizes[name] = size_of(shape)
            # The shape of the first of two parts of a collective includes operands and buffers.
            kind = operation.removesuffix("-done")
            if kind not in COLLECTIVES:
                continue
            # A TPU may split a collective over the computations that run at the same time.
            channel = _CHANNEL.search(rest)
            if channel and channel[1] in channels:
                continue
            channels |= {channel[1]} if channel else set()
            given = 0
            if kind == operation:
                operands = re.findall(r"%[\w.-]+", rest.split(")")[0])
                given = sum(sizes.get(operand, 0) for operand in operands)
            found[kind] += max(sizes[name], given) * runs(computation)
    return dict(sorted(found.items()))


def _computations(text: str) -> dict[str, str]:
    """Returns name to body of each computation; a text without headers is one without a name."""
    _, *parts = _HEADER.split("\n" + text)
    return dict(zip(parts[::2], parts[1::2], strict=True)) or {"": text}


def _runs(computations: dict[str, str]) -> Callable[[str], int]:
    """Returns a function of a computation's name: how often one run of the program runs it."""
    callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for caller, body in computations.items():
        for line in body.splitlines():
            for kind, names in _CALLED.findall(line):
                times = _iterations(line, computations) if kind == "body" else 1
                for name in names.split(", "):
                    callers[name].append((caller, times))

    @cache
    def runs(name: str) -> int:
        return (
            sum(runs(caller) * times for caller, times in callers[name]) if name in callers else 1
        )

    return runs


def _iterations(loop: str, computations: dict[str, str]) -> int:
    """Returns the iterations of a loop that counts from 0 to a constant; 1 for any other."""
    known = _KNOWN.search(loop)
    if known:
        return int(known[1])
    condition = re.search(r"\bcondition=(%[\w.-]+)", loop)
    body = computations.get(condition[1], "") if condition else ""
    constants = re.findall(r"= s32\[\]\S* constant\((\d+)\)", body)
    return int(constants[0]) if len(constants) == 1 and "direction=LT" in body else 1


def size_of(shape: str) -> int:
    """Returns the bytes of a shape in a compiled program: ``bf16[8,128]{1,0}`` or a tuple."""
    total = 0
    for dtype, axes in _ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or ["0"])[0])
        count = 1
        for axis in filter(None, axes.split(",")):
            count *= int(axis)
        total += -(-bits * count // 8)
    return total
