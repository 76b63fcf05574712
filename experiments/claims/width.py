"""Isotropic noise correlation starves in wide networks when probes are few; in the manifold not.

Networks of a sixteenfold range of width are trained by both methods, with the same probes, rank and
energy. To test the law, in networks that backpropagation has trained, feedback from the probes of
one step is compared with the exact Jacobian at every tap: alpha > d/n should predict which method
has the larger cosine (experiments.crossover has the law with the number of probes).
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import crossover
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, draw_leads, effective_probes, trained
from experiments.claims.verdicts import Verdict, judge

DEFAULTS: dict[str, Any] = {"steps": 150, "log_every": 150, "rank": 256, "feedback_decay": 0.5,
                            "alignment_batch": 512}  # fmt: skip
METHODS = ("nmnc", "vnc")
WIDTHS = (0.25, 0.5, 1, 2, 4)
EXAMPLES = 128


def one_width(study: Study, method: str, width: float) -> list[Row]:
    """Returns the rows of every seed of a method at one width."""
    config = study.config.widened(width).replace(estimator=method)
    return [{"method": method, "width": width, **row} for row in trained(study, config)]


def one_network(study: Study, width: float, seed: int) -> list[Row]:
    """Measures the crossover at each tap of one network: shares, predictions and cosines."""
    config = study.config.widened(width).replace(estimator="backprop", seed=seed)
    rows = crossover.measure(
        config,
        study.data,
        ranks=(config.method.rank,),
        num=(config.method.least_probes,),
        repeats=2,
        examples=EXAMPLES,
    )
    return [{"method": "law", "width": width, "seed": seed, **row} for row in rows]


def leads(rows: list[Row], column: str) -> Any:
    """Returns the lead of nmnc over vnc in a column, a table of width by seed."""
    table: Any = pd.DataFrame(rows).pivot(index="width", columns=["method", "seed"], values=column)
    return table["nmnc"] - table["vnc"]


def slope(rows: list[Row], column: str, seed: int) -> float:
    """Returns the growth of nmnc's lead over vnc in a column, per doubling of the width."""
    found = leads(rows, column)[seed]
    return float(np.polyfit(np.log2(found.index.to_numpy()), found.to_numpy(), 1)[0])


def agreement(rows: list[Row], seed: int, bound: str) -> float:
    """Returns the share of a seed's points at which a bound on alpha predicts the better method."""
    some = where(rows, seed=seed)
    line = some["rank"] / some["units"] if bound == "d/n" else some["crossover"]
    return float(((some["share"] > line) == (some["nmnc"] > some["vnc"])).mean())


def judged(study: Study, rows: list[Row], law: list[Row]) -> list[Verdict]:
    """Judges the lead at the largest width, its growth, and the law."""
    widest = max(row["width"] for row in rows)
    return [
        judge(
            f"at {widest:g} times the width nmnc learns more",
            "test accuracy of nmnc less that of vnc",
            leads(rows, "test_accuracy").loc[widest],
        ),
        judge(
            "nmnc's lead in accuracy grows with width",
            "growth of the lead for each doubling of the width",
            [slope(rows, "test_accuracy", seed) for seed in study.seeds],
        ),
        judge(
            "nmnc's lead in alignment grows with width",
            "growth of the lead in credit alignment for each doubling of the width",
            [slope(rows, "credit_alignment", seed) for seed in study.seeds],
        ),
        *(
            judge(
                f"alpha above {label} predicts where nmnc's feedback is better aligned than vnc's",
                "share of the points where it does, less 1/2",
                [agreement(law, seed, bound) - 0.5 for seed in study.seeds],
            )
            for bound, label in (("d/n", "d/n"), ("crossover", "the law with the probes in it"))
        ),
    ]


def draw(study: Study, rows: list[Row], law: list[Row]) -> Figure:
    """Draws accuracy and alignment over width, and the crossover."""
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    *curves, points = figure.subplots(1, 3)
    label = "width, over the configuration's"
    draw_leads(curves, rows, "width", label, chance=study.data.chance)
    for tap in sorted({row["tap"] for row in law}):
        some = [row for row in law if row["tap"] == tap]
        points.scatter([row["share"] * row["units"] / row["rank"] for row in some],
                       [row["nmnc"] - row["vnc"] for row in some], s=14, label=tap)  # fmt: skip
    points.axhline(0, color="gray", linewidth=1)
    points.axvline(1, color="gray", linewidth=1)
    points.set_xscale("log", base=2)
    points.xaxis.set_major_formatter("{x:g}")
    points.set(title="lead in cosine, one step's feedback",
               xlabel="share alpha of the Jacobian in the manifold, over d/n")  # fmt: skip
    points.legend(frameon=False)
    figure.suptitle(
        f"{study.data_name}, {study.config.run.steps} steps, rank {study.config.method.rank}, "
        f"{effective_probes(study.config):.0f} probes behind an estimate: mean and 95 % interval "
        f"of {len(study.seeds)} seeds"
    )
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    rows: list[Row] = []
    law: list[Row] = []
    for width in WIDTHS:
        for method in METHODS:
            rows += study.part(f"{method}-width{width:g}", partial(one_width, study, method, width))
        for seed in study.seeds:
            law += study.part(
                f"law-width{width:g}-seed{seed}", partial(one_network, study, width, seed)
            )
    study.finish("width", rows + law, judged(study, rows, law), draw(study, rows, law))
