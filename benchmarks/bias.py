"""Bias and noise of noise correlation in the manifold: python -m benchmarks.bias.

Networks are trained and tested on a held-out part of the training set, with the exact mean Jacobian
as feedback (no noise), with its part in the manifold (only bias), with the part of each example's
own credit in the manifold (no mean over examples), and with what probes measure, for several ranks
and decays. In a network that backpropagation has trained, the share of the exact mean Jacobian is
also measured in bases that are found in other ways.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import Row, double, parse, print_table, progress, save, write_table
from experiments.analysis.activity import fixed_images, recorder
from experiments.analysis.alignment import cumulative_share
from experiments.claims.study import measurements
from experiments.configs import load_config
from experiments.configuration import Config
from experiments.data import InMemory, load_in_memory
from experiments.training.loop import through_training, train
from experiments.training.network import build_model
from experiments.training.trainer import make_trainer
from nmnc_jax.diagnostics import exact_jacobian

SETTINGS: dict[str, dict[str, Any]] = {
    "backprop": {"estimator": "backprop"},
    "exact feedback": {"estimator": "exact_feedback"},
    "exact credit in rank 256": {"estimator": "exact_credit_manifold", "rank": 256},
    "exact feedback in rank 256": {"estimator": "exact_feedback_manifold", "rank": 256},
    "nmnc, rank 256, decay .9": {"rank": 256, "feedback_decay": 0.9},
    "nmnc, rank 256, decay .97": {"rank": 256, "feedback_decay": 0.97},
    "nmnc, rank 512, decay .97": {"rank": 512, "feedback_decay": 0.97},
    "vnc, decay .9": {"estimator": "vnc", "feedback_decay": 0.9},
    "vnc, decay .97": {"estimator": "vnc", "feedback_decay": 0.97},
    "vnc, decay .99": {"estimator": "vnc", "feedback_decay": 0.99},
}
LARGEST = 512
EXAMPLES = 256


def main() -> None:
    """Trains, compares bases, writes bias.csv, bias_shares.csv and bias.png."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data-path", default="", help="images to use instead of photos")
        parser.add_argument("--steps", type=int, default=500, help="steps of each training")

    options = parse("bias", __doc__ or "", add)
    config = load_config("photos").replace(
        seed=options.seed,
        steps=2000 if options.full else options.steps,
        basis_update_every=200,
        alignment_batch=512,
        validation=True,
    )
    if options.data_path:
        config = config.replace(data="folder", data_path=options.data_path)
    data = load_in_memory(config)
    rows = [trained(config, data, name) for name in progress("setting", SETTINGS)]
    write_table(options.out / "bias.csv", rows)
    print_table(rows, ["setting", "test_accuracy", "credit_alignment"])
    found = shares(config, data)
    write_table(options.out / "bias_shares.csv", found)
    save(draw(config, rows, found), options.out / "bias.png")


def trained(config: Config, data: InMemory, name: str) -> Row:
    """Returns accuracy and alignment of one setting at the end of training."""
    config = config.replace(log_every=config.run.steps, **SETTINGS[name])
    records: list[Row] = []
    train(make_trainer(config, data), config, data, records.append)
    return {"setting": name, **measurements(records[-1])}


def shares(config: Config, data: InMemory) -> list[Row]:
    """Measures the share of the mean Jacobian in each basis, in a network trained exactly."""
    config = config.replace(estimator="backprop")
    images = fixed_images(data, 1024)
    activity: list[dict[str, np.ndarray]] = []
    params: Any = None
    stages = (0, config.run.steps // 2, config.run.steps)
    for step, reached in through_training(config, data, stages):
        activity.append(recorder(config, data, reached)(images))
        if step == config.run.steps:
            params = jax.tree.map(jnp.copy, reached)
    apply_fn: Any = build_model(config, data.classes).apply
    jacobian_of = jax.jit(lambda p, x: exact_jacobian(apply_fn, p, x))
    chunks = [jacobian_of(params, images[at : at + 32]) for at in range(0, EXAMPLES, 32)]
    rows: list[Row] = []
    for tap in activity[-1]:
        last, half = activity[-1][tap], activity[1][tap]
        jacobian = jnp.concatenate([chunk[tap] for chunk in chunks]).mean(axis=0)
        both = np.concatenate([last, half])[::2]
        kinds = {
            "components": last - last.mean(axis=0),
            "uncentred": last,
            "each unit whitened": (last - last.mean(axis=0))
            / (last.std(axis=0) + 1e-3 * last.std()),
            "with half-way activity": both - both.mean(axis=0),
        }
        rank = min(LARGEST, last.shape[1])
        for kind, samples in kinds.items():
            inside = cumulative_share(jacobian, jnp.asarray(directions(samples, rank)))
            for d in sorted({*(2**k for k in range(4, 10) if 2**k < rank), rank}):
                rows.append(
                    {"tap": tap, "units": last.shape[1], "basis": kind, "rank": d,
                     "share": inside[d - 1], "line": d / last.shape[1]}
                )  # fmt: skip
    return rows


def directions(samples: np.ndarray, rank: int) -> np.ndarray:
    """Returns leading right singular vectors, [n, d], from the Gram matrix, made orthonormal."""
    values, vectors = np.linalg.eigh(samples @ samples.T)
    leading = vectors[:, ::-1][:, :rank] / np.sqrt(
        np.maximum(values[::-1][:rank], values[-1] * 1e-7)
    )
    return np.linalg.qr(samples.T @ leading)[0]


def draw(config: Config, rows: list[Row], found: list[Row]) -> Figure:
    """Draws the accuracy of each setting, and shares over rank."""
    taps = [tap for tap in dict.fromkeys(row["tap"] for row in found)
            if next(r["units"] for r in found if r["tap"] == tap) > LARGEST]  # fmt: skip
    figure = Figure(figsize=(5 + 3 * len(taps), 4), layout="constrained")
    dots, *panels = figure.subplots(1, 1 + len(taps), width_ratios=[1.6, *[1] * len(taps)])
    dots.plot([row["test_accuracy"] for row in rows], [row["setting"] for row in rows], "o")
    dots.grid(axis="x", alpha=0.4)
    dots.invert_yaxis()
    dots.set(title=f"held-out accuracy, {config.run.steps} steps", xlabel="accuracy")
    for panel, tap in zip(panels, taps, strict=True):
        some = [row for row in found if row["tap"] == tap]
        line: list[Row] = []
        for kind in dict.fromkeys(row["basis"] for row in some):
            line = [row for row in some if row["basis"] == kind]
            panel.plot([r["rank"] for r in line], [r["share"] for r in line], "o-", markersize=3,
                       label=kind)  # fmt: skip
        panel.plot([r["rank"] for r in line], [r["line"] for r in line], "k:", label="d/n")
        double(panel)
        panel.set(title=f"{tap}, {some[0]['units']:,} units", xlabel="rank")
    if panels:
        panels[0].set_ylabel("share of the mean Jacobian")
        panels[0].legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
