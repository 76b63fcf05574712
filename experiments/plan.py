"""Plans a run without its hardware: ``python -m experiments.plan CONFIG --topology v5e:4x4``.

Every program of the run is compiled for the chips, which need not be present, and is not run. The
compiler reports operations, memory and the communication between chips. TPUs need the compiler of
``pip install 'nmnc_jax[tpu]'``.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from experiments.command import parse, run_command
from experiments.configuration import Config
from experiments.data.described import describe
from experiments.errors import UserError
from experiments.files import expanded, write_json
from experiments.methods import checked
from experiments.planning.compiled import Cost, TooLarge
from experiments.planning.programs import Plan, plan
from experiments.planning.topology import find_topology


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.plan`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The run."""
    topology: str = "cpu"
    """Chips to compile for: v5e:4x4, v5p:4x4x4 and the like need not be present; cpu, gpu and tpu
    are the devices of this host."""
    json: Path | None = None
    """File for the numbers of the plan."""
    measure: bool = False
    """Also run and time the programs on the devices of this host."""


def remedy(large: Cost | TooLarge, config: Config) -> str:
    """Returns advice for a program that does not fit; the larger part of its memory comes first."""
    smaller = {"init": "a smaller --basis-batch", "evaluation": "more chips"}
    ways = [smaller.get(large.name, "a smaller --batch, or the same on more chips")]
    if config.model.precision == "float32" and config.model.has_given_layers:
        ways.append("--precision bfloat16")
    held = [] if config.method.estimator == "backprop" else ["--divide-units", "a smaller --rank"]
    if isinstance(large, Cost) and large.argument_bytes > large.temporary_bytes:
        ways = [*held, *ways]
    else:
        ways = [*ways, *held]
    known = f" ({large.reason})" if isinstance(large, TooLarge) else ""
    return f"{large.name} does not fit{known}. What helps, most likely first: {'; '.join(ways)}."


def table(planned: Plan) -> Table:
    """Returns the plan as a table."""
    memory = planned.topology.memory
    chip = "" if memory is None else f" of {decimal(memory)}"
    shown = Table(title=f"{planned.topology.name}: each of {planned.chips} chips")
    columns = ("program", "compiled in", "TFLOP", "ratio", "read, written", "arguments",
               "temporary", "output", f"memory{chip}", "milliseconds", "collectives")  # fmt: skip
    for column in columns:
        shown.add_column(
            column, justify="left" if column in ("program", "collectives") else "right"
        )
    for each in (*planned.costs, planned.backprop):
        figures, seconds = ["does not fit"], f"{each.compile_seconds:.1f} s"
        if isinstance(each, Cost):
            ratio = planned.flops_ratio(each)
            sizes = (int(each.bytes_accessed), each.argument_bytes, each.temporary_bytes,
                     each.output_bytes, each.peak_bytes)  # fmt: skip
            sent = "\n".join(f"{kind} {decimal(n)}" for kind, n in each.collective_bytes.items())
            taken = "" if each.seconds is None else f"{1000 * each.seconds:.1f}"
            times = "" if ratio is None else f"{ratio:.2f}"
            figures = [f"{each.flops / 1e12:.3g}", times, *map(decimal, sizes), taken, sent]
        shown.add_row(each.name, seconds, *figures)
    return shown


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs it."""
    options = parse("experiments.plan", Options, arguments)
    config = checked(options.config)
    topology = find_topology(options.topology)
    # The table is too wide for lines of 80 characters.
    console = Console() if Console().is_terminal else Console(width=160)
    if options.measure and not topology.local:
        raise UserError(f"measure takes this host's devices; topology is {topology.name!r}")

    def report(each: Cost | TooLarge) -> None:
        figures = "it does not fit"
        if isinstance(each, Cost):
            figures = f"{each.flops / 1e12:.3g} TFLOP, {decimal(each.peak_bytes)}"
        console.print(f"{each.name}: compiled in {each.compile_seconds:.0f} s, {figures}")

    planned = plan(config, describe(config), topology, report, measure=options.measure)
    console.print(table(planned))
    mean = planned.mean_flops_ratio
    if mean is not None:
        console.print(f"On average a step takes {mean:.2f} times backpropagation's operations.")
    for each in planned.too_large:
        console.print(remedy(each, config))
    if planned.fits:
        console.print("It fits.")
    if options.json is not None:
        write_json(expanded(options.json), planned.as_json())


if __name__ == "__main__":
    run_command(main)
