"""Where the manifold helps: ``python -m experiments.crossover CONFIG [--widths ...]``.

Networks of several widths are measured as `experiments.analysis.crossover` says.
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
    """The network and its data; `steps` of backpropagation are run before measuring."""
    widths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Factors on the hidden units or channels."""
    ranks: tuple[int, ...] = (8, 32, 128)
    """Dimensions of the manifold (taps with fewer units are left out)."""
    num: tuple[int, ...] = (1, 8, 64)
    """Probes per example; N is that times `batch`."""
    repeats: int = 4
    """Estimates per point, each on another batch."""
    seeds: int = 2
    """Networks per width."""
    examples: int = 512
    """Training examples of the exact mean Jacobian."""
    out: Path | None = None
    """New or empty directory for the results; by default one below runs/."""


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
            raise UserError(f"ranks is {options.ranks}; every tap has fewer units than each")
        finish(directory, rows)


def finish(directory: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the table and the figures, and prints how often the law is right."""
    write_table(directory / "crossover.csv", rows)
    draw_law(directory / "crossover.png", rows)
    draw_map(directory / "map.png", rows)
    ahead = [row["nmnc"] > row["vnc"] for row in rows]
    predicted = [row["share"] > row["crossover"] for row in rows]
    agree = np.mean([a == p for a, p in zip(ahead, predicted, strict=True)])
    simple = np.mean([a == (r["share"] > r["rank"] / r["units"])
                      for a, r in zip(ahead, rows, strict=True)])  # fmt: skip
    print(f"NMNC ahead in {np.mean(ahead):.0%} of {len(rows)} points")
    print(f"right side of the crossover with N: {agree:.0%}; of alpha > d/n: {simple:.0%}")
    print(f"figures: {directory / 'crossover.png'}, {directory / 'map.png'}")


if __name__ == "__main__":
    run_command(main)
