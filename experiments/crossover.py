"""Measures where the manifold helps: ``python -m experiments.crossover CONFIG [--widths ...]``.

`experiments.analysis.crossover` describes the measurement, which is made at several widths.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.analysis.crossover import draw_law, draw_map, measure
from experiments.analysis.tables import write_table
from experiments.command import parse, run_command
from experiments.configuration import Config, write_config
from experiments.data import load_in_memory
from experiments.directories import output_directory
from experiments.errors import UserError
from experiments.methods import checked


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.crossover`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The network and its data; `steps` of backpropagation are run before the measurement."""
    widths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Factors by which the numbers of hidden units or channels are multiplied."""
    ranks: tuple[int, ...] = (8, 32, 128)
    """Dimensions of the manifold; taps with fewer units are left out."""
    num: tuple[int, ...] = (1, 8, 64)
    """Probes per example; N is this number times `batch`."""
    repeats: int = 4
    """Estimates per point, each on a different batch."""
    seeds: int = 2
    """Networks per width."""
    examples: int = 512
    """Training examples over which the exact mean Jacobian is averaged."""
    out: Path | None = None
    """New or empty directory for the results; by default a new one in runs/."""


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures, and writes crossover.csv and two figures."""
    options = parse("experiments.crossover", Options, arguments)
    config = checked(options.config).replace(estimator="backprop")
    for field in ("repeats", "examples", "widths", "ranks", "num"):
        values = np.atleast_1d(getattr(options, field))
        if not (values.size and (values > 0).all() and np.isfinite(values).all()):
            raise UserError(f"{field} is {getattr(options, field)}; it takes positive numbers")
    if "--steps" not in arguments:
        config = config.replace(steps=300)
    wide = {width: config.widened(width) for width in options.widths}
    seeds = config.run.seeds(options.seeds)
    points = {name: getattr(options, name) for name in ("ranks", "num", "repeats", "examples")}
    data = load_in_memory(config)
    with output_directory(options.out, f"crossover-{config.data.name}") as directory:
        write_config(directory, config, widths=options.widths, seeds=options.seeds, **points)
        rows = []
        for width in options.widths:
            for seed in seeds:
                own = wide[width].replace(seed=seed)
                rows += [
                    {"width": width, "seed": seed, **row} for row in measure(own, data, **points)
                ]
                print(f"width {width}, seed {seed}: measured", flush=True)
        if not rows:
            raise UserError(
                f"ranks is {options.ranks}; it takes a rank of at most the units of a tap"
            )
        finish(directory, rows)


def finish(directory: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the table and the figures, and prints how often the law predicts the sign."""
    write_table(directory / "crossover.csv", rows)
    draw_law(directory / "crossover.png", rows)
    draw_map(directory / "map.png", rows)
    ahead = [row["nmnc"] > row["vnc"] for row in rows]
    predicted = [row["share"] > row["crossover"] for row in rows]
    agree = np.mean([a == p for a, p in zip(ahead, predicted, strict=True)])
    simple = np.mean([a == (r["share"] > r["rank"] / r["units"])
                      for a, r in zip(ahead, rows, strict=True)])  # fmt: skip
    print(f"NMNC has the larger cosine in {np.mean(ahead):.0%} of {len(rows)} points")
    print(f"predicted correctly: {agree:.0%} by the law with N, {simple:.0%} by alpha > d/n")
    print(f"figures: {directory / 'crossover.png'}, {directory / 'map.png'}")


if __name__ == "__main__":
    run_command(main)
