"""The cost of estimators: python -m benchmarks.throughput.

On strided 32x32 networks at batch 128 the benchmark measures the time of a step relative to
backpropagation, to one clean forward pass, and to a step with fixed feedback in a fixed subspace,
averaged over the method's schedule and for each kind of scheduled work; the time of one probe pass
relative to its floor; peak memory over the number of probes; compile time over the number of taps;
and the time of a basis update over units and rank. Ratios are measured in turn in one run.
"""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import Row, double, parse, print_table, save, write_table
from benchmarks.throughput.passes import probe_passes
from benchmarks.throughput.resources import basis_updates, compile_times, memory
from benchmarks.throughput.steps import UNKEPT, steps, steps_as_memory_comes

STEP_COLUMNS = [
    *("what", "milliseconds", "over_backprop", "low", "high", "over_fixed", "over_forward"),
    "flops_over_backprop",
]
PARTS = {
    "step": (steps, STEP_COLUMNS),
    UNKEPT: (steps_as_memory_comes, STEP_COLUMNS),
    "probe pass": (
        probe_passes,
        ["what", "milliseconds", "over_floor", "low", "high", "over_clean_rest"],
    ),
    "memory": (memory, ["what", "probes", "megabytes", "over_fewest"]),
    "compile": (compile_times, ["what", "taps", "seconds", "over_backprop"]),
    "basis update": (basis_updates, ["what", "milliseconds", "share_of_step"]),
}


def main() -> None:
    """Runs every part, writes throughput.csv and throughput.png."""
    options = parse("throughput", __doc__ or "")
    rows: dict[str, list[Row]] = {}
    for part, (measure, columns) in PARTS.items():
        rows[part] = measure(options.full)
        print(f"\n{part}")
        print_table(rows[part], columns)
        write_table(options.out / "throughput.csv", [row for some in rows.values() for row in some])
    save(draw(rows), options.out / "throughput.png")


def draw(rows: dict[str, list[Row]]) -> Figure:
    """Draws one panel for each part."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    step, probe, used, unkept, basis, compiled = figure.subplots(2, 3).reshape(-1)
    for panel, part, column, title in (
        (step, "step", "over_backprop", "time of a step over backpropagation's"),
        (unkept, UNKEPT, "over_backprop", "the same, memory as it comes"),
        (probe, "probe pass", "over_floor", "time of a probe pass over its floor"),
    ):
        names = [row["what"] for row in rows[part]]
        middle = np.array([row[column] for row in rows[part]])
        ends = [[row[end] for row in rows[part]] for end in ("low", "high")]
        spread = np.abs([middle - ends[0], ends[1] - middle])
        panel.barh(names, middle, xerr=spread, color="tab:red", alpha=0.7)
        panel.axvline(1, color="gray", linewidth=1)
        panel.invert_yaxis()
        panel.set(title=title, xlabel="ratio (median of rounds, 95 % interval)")
    # The pass after the last tap is so short that its start dominates the cost.
    probe.set_xlim(
        0, 1.1 * max(row["high"] for row in rows["probe pass"] if row["what"] != "dense")
    )
    for place, row in enumerate(rows["probe pass"]):
        if row["what"] == "dense":
            text = f" {row['over_floor']:.0f} (off the scale: {1000 * row['milliseconds']:.0f} us)"
            probe.text(0, place, text, va="center")
    for panel, part, x, y, xlabel, ylabel, title in (
        (used, "memory", "probes", "megabytes", "probes K", "MB", "temporary memory of a step"),
        (compiled, "compile", "taps", "seconds", "taps", "seconds", "trace and compile a step"),
    ):
        for what in dict.fromkeys(row["what"] for row in rows[part]):
            some = [row for row in rows[part] if row["what"] == what]
            panel.plot([r[x] for r in some], [r[y] for r in some], "o-", label=what)
        double(panel)
        panel.set(title=title, xlabel=xlabel, ylabel=ylabel)
        panel.legend(frameon=False)
    used.set_yscale("log")
    for row in rows["basis update"]:
        basis.barh(row["what"], 100 * row["share_of_step"], color="tab:blue")
    basis.invert_yaxis()
    basis.set(title="basis update, at its default interval", xlabel="% of a backpropagation step")
    return figure


if __name__ == "__main__":
    main()
