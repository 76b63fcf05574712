"""Tests that nothing is lost when a run is killed: python -m benchmarks.interrupt.

The benchmark trains one network without interruption, and twenty times with SIGKILL at a random
moment and a resumption. It counts the resumed runs whose parameters, optimiser, estimator and
measurements are bit-identical.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import Row, parse, print_table, progress, save, write_table
from experiments.configs import load_config
from experiments.configuration import Config
from experiments.data import load
from experiments.training.checkpoints import Checkpoints
from experiments.training.loop import TIMES, last_position
from experiments.training.trainer import Trainer, make_trainer

FIELDS = {"model": "mlp", "features": (64, 64), "steps": 1500, "rank": 16, "log_every": 100,
          "checkpoint_every": 50, "devices": 1}  # fmt: skip


def command(out: Path) -> list[str]:
    """Returns the command that starts or continues the run."""
    flags = []
    for field, value in FIELDS.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += ["--" + field.replace("_", "-"), *map(str, values)]
    return [sys.executable, "-m", "experiments.train", "digits", *flags, "--out", str(out),
            "--resume"]  # fmt: skip


def finish(out: Path, environment: dict[str, str]) -> str:
    """Runs to the end, and returns the output."""
    done = subprocess.run(command(out), env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def ending(out: Path, trainer: Trainer, config: Config) -> tuple[list[Any], list[Any]]:
    """Returns every array of the last checkpoint, and every measurement except times."""
    checkpoints = Checkpoints(out / "checkpoints", print)
    found = last_position(trainer, config, checkpoints)
    checkpoints.close()
    assert found is not None
    assert found[0] == config.run.steps
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(found[1].state)]
    return arrays, [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def main() -> None:
    """Kills runs, writes interrupt.csv and interrupt.png."""
    options = parse("interrupt", __doc__ or "")
    fields: dict[str, Any] = FIELDS
    config = load_config("digits").replace(**fields)
    trainer = make_trainer(config, load(config))
    random = np.random.default_rng(options.seed)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{directory}/compiled"}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        straight = Path(directory) / "straight"
        finish(Path(directory) / "warm", environment)
        start = time.perf_counter()
        finish(straight, environment)
        seconds = time.perf_counter() - start
        arrays, records = ending(straight, trainer, config)
        for trial in progress("kill", range(60 if options.full else 20)):
            out = Path(directory) / f"killed{trial}"
            moment = float(random.uniform(0, seconds))
            process = subprocess.Popen(
                command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            known = [int(path.stem) for path in (out / "checkpoints/manifests").glob("*.json")]
            output = finish(out, environment)
            again, measured = ending(out, trainer, config)
            same = [np.array_equal(a, b) for a, b in zip(arrays, again, strict=True)]
            rows.append(
                {
                    "trial": trial,
                    "killed_after": moment,
                    "of_seconds": seconds,
                    "resumed_from_step": max(known, default=0),
                    "damaged": output.count("is damaged"),
                    "identical": all(same) and measured == records,
                }
            )
    write_table(options.out / "interrupt.csv", rows)
    print_table(rows, list(rows[0]))
    identical = sum(row["identical"] for row in rows)
    print(f"{identical} of {len(rows)} resumed runs end bit-identical to the uninterrupted one")
    save(draw(rows, config.run.steps), options.out / "interrupt.png")


def draw(rows: list[Row], steps: int) -> Figure:
    """Draws the step from which each run continued, over the time at which it was killed."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    for identical, marker, label in ((True, "o", "bit-identical end"), (False, "x", "other end")):
        some = [row for row in rows if row["identical"] == identical]
        panel.plot([row["killed_after"] for row in some],
                   [row["resumed_from_step"] for row in some], marker, label=label)  # fmt: skip
    panel.set(title=f"{len(rows)} runs of {steps} steps, killed and resumed",
              xlabel="killed after (seconds)", ylabel="resumed from step")  # fmt: skip
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
