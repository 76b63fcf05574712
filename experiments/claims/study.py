"""What the claims share: seeds, parts that are kept, intervals, verdicts, tables and figures."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis.statistics import student_interval
from experiments.analysis.tables import where, write_table
from experiments.claims.verdicts import Verdict
from experiments.configuration import Config
from experiments.errors import Diverged
from experiments.files import write_json
from experiments.methods import COLOURS
from experiments.training.loop import train
from experiments.training.trainer import make_trainer

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.claims`."""

    config: tyro.conf.OmitArgPrefixes[Config]
    """The network, its training and the data."""
    seeds: int = 5
    """Number of seeds, from `seed` on."""
    full: bool = False
    """The published version: more points; up to hours."""
    out: Path | None = None
    """New or empty directory for the results; by default one below runs/."""
    resume: bool = False
    """Go on with the claim in `out`."""
    neural: tuple[Path, ...] = ()
    """similarity only: recordings, each a folder or archive of images/ and responses.npy or
    rdms_*.npy."""


def band(
    panel: Axes, rows: Any, x: str, y: str, *, colour: str, label: str, fill: bool = True
) -> np.ndarray:
    """Draws one column over another: mean and, filled, 95 % interval of the rows at each place.

    Returns:
        Mean, low and high at each place, [places, 3].
    """
    groups = list(pd.DataFrame(rows).groupby(x)[y])
    places: Any = [at for at, _ in groups]
    ends = np.array([student_interval(values.to_numpy()) for _, values in groups])
    panel.plot(places, ends[:, 0], "o-", markersize=3, color=colour, label=label)
    if fill and np.isfinite(ends).all():
        panel.fill_between(places, ends[:, 1], ends[:, 2], color=colour, alpha=0.2, linewidth=0)
    return ends


class Study(NamedTuple):
    """One claim under way.

    Attributes:
        directory: for its results.
        config: the network, its training and the data.
        seeds: the seeds.
        full: whether all points are wanted.
        data: the data set: of images, but for the claim `recurrent`.
        neural: paths of recordings.
    """

    directory: Path
    config: Config
    seeds: range
    full: bool
    data: Any
    neural: tuple[Path, ...] = ()

    @property
    def data_name(self) -> str:
        """The data set's name, for figures: of a folder or an archive, its own."""
        return Path(self.config.data.data_path).name.split(".")[0] or self.config.data.name

    def part(self, name: str, make: Callable[[], list[Row]]) -> list[Row]:
        """Measures one part, or reads it where an earlier run has left it."""
        path = self.directory / "parts" / f"{name}.json"
        if not path.exists():
            rows = make()
            path.parent.mkdir(exist_ok=True)
            write_json(path, rows)
            print(f"{name}: measured", flush=True)
        # Read back in any case, so that a resumed claim computes with the same numbers.
        return json.loads(path.read_text())

    def finish(self, name: str, rows: list[Row], verdicts: list[Verdict], figure: Figure) -> None:
        """Writes the table, the figure and the verdicts, and prints the last."""
        write_table(self.directory / f"{name}.csv", rows)
        figure.savefig(self.directory / f"{name}.png", dpi=130)
        write_json(self.directory / "verdicts.json", [verdict._asdict() for verdict in verdicts])
        for verdict in verdicts:
            print(f"verdict: {verdict.verdict}: {verdict.statement}")
            print(
                f"  {verdict.quantity}: {verdict.mean:.3g} "
                f"[{verdict.low:.3g}, {verdict.high:.3g}] ({verdict.test})"
            )
        print(f"figure: {self.directory / f'{name}.png'}")


def effective_probes(config: Config) -> float:
    """Probes behind one estimate of the feedback: this step's, and earlier ones' as they count."""
    decay = config.method.feedback_decay
    return config.run.batch * config.method.least_probes * (1 + decay) / (1 - decay)


def trained(study: Study, config: Config) -> list[Row]:
    """Trains a network of every seed; they share what is compiled.

    Returns:
        For each seed: test accuracy and loss, and alignment of the credit, at each tap and in the
        mean. Of a run that diverged, what was measured last before.
    """
    trainer = make_trainer(config, study.data)
    rows: list[Row] = []
    for seed in study.seeds:
        records: list[Row] = []
        own = config.replace(seed=seed)
        diverged = {}
        try:
            train(trainer, own, study.data, records.append)
        except Diverged as why:
            diverged = {"diverged": str(why)}
        rows.append({"seed": seed, **told(records[-1]), **diverged})
    return rows


def told(record: Row) -> Row:
    """Accuracy, loss, the rank that was chosen, and alignment of the credit, also at each tap."""
    alignments = record.get("alignment", {})
    row = {name: record[name] for name in ("test_accuracy", "test_loss")}
    if alignments:
        row["credit_alignment"] = float(np.mean(list(alignments.values())))
    if "chosen_rank" in record:
        row["chosen_rank"] = float(np.mean(list(record["chosen_rank"].values())))
    return row | {f"alignment_{tap}": value for tap, value in alignments.items()}


def draw_leads(panels: Sequence[Axes], rows: list[Row], x: str, label: str) -> None:
    """Draws accuracy and alignment of nmnc and vnc over a column, in doublings."""
    columns = {
        "test_accuracy": "test accuracy",
        "credit_alignment": "alignment of the credit, mean over taps",
    }
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for method in ("nmnc", "vnc"):
            some = where(rows, method=method)
            band(panel, some, x, column, colour=COLOURS[method], label=method)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(title=title, xlabel=label)
        panel.legend(frameon=False)
