"""Code that the claims share: seeds, stored parts, intervals, verdicts, tables and figures."""

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

from experiments.analysis.figures import mark_chance
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
    """Number of seeds, starting with `seed`."""
    full: bool = False
    """Run the published version, with more points, which takes up to hours."""
    out: Path | None = None
    """New or empty directory for the results; by default a new one in runs/."""
    resume: bool = False
    """Continue the claim in `out`."""
    neural: tuple[Path, ...] = ()
    """similarity only: recordings, each a folder or archive of images/ and responses.npy or
    rdms_*.npy."""


def band(
    panel: Axes,
    rows: Any,
    x: str,
    y: str,
    *,
    colour: str,
    label: str,
    fill: bool = True,
    line: str = "-",
) -> np.ndarray:
    """Draws one column over another: the mean and, filled, the 95 % interval at each x.

    Returns:
        Mean, low and high at each x, [points, 3].
    """
    groups = list(pd.DataFrame(rows).groupby(x)[y])
    places: Any = [at for at, _ in groups]
    ends = np.array([student_interval(values.to_numpy()) for _, values in groups])
    panel.plot(places, ends[:, 0], f"o{line}", markersize=3, color=colour, label=label)
    if fill and np.isfinite(ends).all():
        panel.fill_between(places, ends[:, 1], ends[:, 2], color=colour, alpha=0.2, linewidth=0)
    return ends


class Study(NamedTuple):
    """The settings of one claim.

    Attributes:
        directory: directory of the results.
        config: the network, its training and the data.
        seeds: the seeds.
        full: whether to measure all points.
        data: the data set, which is one of images except for the claim `recurrent`.
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
        """Name of the data set for figures; a folder or an archive is named by its path."""
        return Path(self.config.data.data_path).name.split(".")[0] or self.config.data.name

    def part(self, name: str, make: Callable[[], list[Row]]) -> list[Row]:
        """Measures one part, or reads the result of an earlier run."""
        path = self.directory / "parts" / f"{name}.json"
        if not path.exists():
            rows = make()
            path.parent.mkdir(exist_ok=True)
            write_json(path, rows)
            print(f"{name}: measured", flush=True)
        # Results are always read back, so that a resumed claim computes with the same numbers.
        return json.loads(path.read_text())

    def finish(self, name: str, rows: list[Row], verdicts: list[Verdict], figure: Figure) -> None:
        """Writes the table, the figure and the verdicts, and prints the verdicts."""
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
    """Returns the effective number of probes of one feedback estimate, earlier steps included."""
    decay = config.method.feedback_decay
    return config.run.batch * config.method.least_probes * (1 + decay) / (1 - decay)


def trained(study: Study, config: Config) -> list[Row]:
    """Trains a network with every seed; the seeds share compiled programs.

    Returns:
        For each seed the test accuracy and loss, and the alignment of the credit at each tap and
        its mean. If a run diverged, these are its last measurements before.
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
        rows.append({"seed": seed, **measurements(records[-1]), **diverged})
    return rows


def measurements(record: Row) -> Row:
    """Returns accuracy, loss, chosen rank, and alignment of the credit with its values at taps."""
    alignments = record.get("alignment", {})
    row = {name: record[name] for name in ("test_accuracy", "test_loss")}
    if alignments:
        row["credit_alignment"] = float(np.mean(list(alignments.values())))
    if "chosen_rank" in record:
        row["chosen_rank"] = float(np.mean(list(record["chosen_rank"].values())))
    return row | {f"alignment_{tap}": value for tap, value in alignments.items()}


def draw_leads(
    panels: Sequence[Axes], rows: list[Row], x: str, label: str, *, chance: float
) -> None:
    """Draws accuracy and alignment of nmnc and vnc over a column on a logarithmic axis."""
    columns = {
        "test_accuracy": "test accuracy",
        "credit_alignment": "alignment of the credit, mean over taps",
    }
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for method in ("nmnc", "vnc"):
            some = where(rows, method=method)
            band(panel, some, x, column, colour=COLOURS[method], label=method)
        if column == "test_accuracy":
            mark_chance(panel, chance)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(title=title, xlabel=label)
        panel.legend(frameon=False)
