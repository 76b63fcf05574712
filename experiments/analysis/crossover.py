"""Measures where the manifold helps, and compares with the law of the estimators.

A network is trained a little by backpropagation. Then the feedback of one step is estimated from N
probes, isotropic (VNC) and in the manifold (NMNC) of each rank, and compared with the exact mean
Jacobian. With alpha the Jacobian's share in the manifold, and h the mean squared norm of the
examples' Jacobians over that of their mean, the estimators' law predicts

    cosine of VNC   1 / sqrt(1 + ((n + 2) h - 1) / N)
    cosine of NMNC  sqrt(alpha) / sqrt(1 + ((d + 2) h' - 1) / N)

(h' inside the manifold), so that NMNC has the larger cosine if alpha exceeds the squared ratio of
the two denominators, which is d/n for few probes and 1 for many.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis.tables import where
from experiments.configuration import Config
from experiments.data import InMemory, batches
from experiments.methods import COLOURS
from experiments.training.loop import through_training
from experiments.training.network import build_model
from nmnc_jax import Probe, Subspace, isotropic, learned_feedback, noise_correlation, pca
from nmnc_jax.diagnostics import cosine, exact_jacobian, jacobian_share
from nmnc_jax.layout import tap_shapes
from nmnc_jax.subspace import lift, project
from nmnc_jax.types import Array


def measure(
    config: Config,
    data: InMemory,
    *,
    ranks: Sequence[int],
    num: Sequence[int],
    repeats: int,
    examples: int,
) -> list[dict[str, Any]]:
    """Trains one network, then measures and predicts the cosines at every point.

    Args:
        config: the network, and `steps` of backpropagation before the measurement.
        data: the data set.
        ranks: dimensions of the manifold; taps with fewer units are left out.
        num: probes per example; N is this number times the batch.
        repeats: estimates per point, each on a different batch.
        examples: training examples over which the exact mean Jacobian is averaged.
    """
    inputs, targets = jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets)
    ((_, params),) = through_training(config, data, [config.run.steps])
    order = batches(len(inputs), config.run.batch, config.run.seed, config.run.steps)
    key = jax.random.key(config.run.seed)
    apply_fn: Any = build_model(config, data.classes).apply
    chosen = np.random.default_rng(config.run.seed).permutation(len(inputs))[:examples]
    shapes = tap_shapes(apply_fn, params, inputs[chosen])
    jacobians = jax.jit(lambda p, x: exact_jacobian(apply_fn, p, x))(params, inputs[chosen])
    estimate_batches = [next(order) for _ in range(repeats)]

    def estimates(subspace: Subspace, num: int) -> dict[str, tuple[Array | None, list[Array]]]:
        """Returns basis and estimated coordinates of the Jacobian at each tap, one per repeat."""
        estimator = noise_correlation(
            apply_fn,
            data.loss,
            subspace=subspace,
            readout="output",
            probe=Probe(num=num, difference="jvp"),
            feedback=learned_feedback(0.0),
        )
        fit = np.random.default_rng(1).permutation(len(inputs))[: config.method.basis_batch]
        memory = estimator.init(params, (inputs[fit], targets[fit]))
        estimate = jax.jit(lambda k, p, b, m: estimator.estimate(k, p, b, m)[1].feedback)
        found = {name: (memory.subspace[name].basis, []) for name in shapes}
        for repeat, indices in enumerate(estimate_batches):
            now = jax.random.fold_in(jax.random.fold_in(key, num), repeat)
            feedback = estimate(now, params, (inputs[indices], targets[indices]), memory)
            for name in shapes:
                found[name][1].append(feedback[name].coordinates)
        return found

    def compared(jacobian: Array, basis: Array | None, found: list[Array], probes: int):
        """Returns the measured cosine, the share, and the squared denominator of the law."""
        mean = jacobian.mean(axis=0)
        share = jacobian_share(mean, basis)
        inside = project(basis, jacobian)
        spread = (inside**2).sum(axis=(1, 2)).mean() / (inside.mean(axis=0) ** 2).sum()
        noise = 1 + ((inside.shape[-1] + 2) * spread - 1) / probes
        measured = np.mean([float(cosine(lift(basis, each), mean)) for each in found])
        return float(measured), float(share), float(noise)

    rows = []
    for each in num:
        probes = each * config.run.batch
        vnc = estimates(isotropic(), each)
        for rank in ranks:
            limited = {name: min(rank, shape.units) for name, shape in shapes.items()}
            nmnc = estimates(pca(limited), each)
            for name, shape in shapes.items():
                if shape.units < rank:
                    continue
                all_cosine, _, all_noise = compared(jacobians[name], *vnc[name], probes)
                cosine_inside, share, noise = compared(jacobians[name], *nmnc[name], probes)
                rows.append(
                    {
                        "tap": name,
                        "units": shape.units,
                        "rank": rank,
                        "probes": probes,
                        "share": share,
                        "crossover": noise / all_noise,
                        "nmnc": cosine_inside,
                        "vnc": all_cosine,
                        "nmnc_predicted": (share / noise) ** 0.5,
                        "vnc_predicted": all_noise**-0.5,
                    }
                )
    return rows


def draw_law(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draws measured over predicted cosines, and NMNC's lead over the predicted crossover."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    law, lead = figure.subplots(1, 2)
    table = pd.DataFrame(rows)
    for method in ("vnc", "nmnc"):
        law.scatter(table[f"{method}_predicted"], table[method], s=12, color=COLOURS[method],
                    alpha=0.6, label=method)  # fmt: skip
    law.plot([0, 1], [0, 1], color="gray", linewidth=1)
    law.set(title="one step's feedback against the exact Jacobian",
            xlabel="cosine predicted by the law", ylabel="cosine measured")  # fmt: skip
    law.legend(frameon=False)
    counts = sorted(table["probes"].unique())
    for place, probes in enumerate(counts):
        some = where(table, probes=probes)
        shade = 0.25 + 0.65 * place / max(len(counts) - 1, 1)
        lead.scatter(some["share"] / some["crossover"], some["nmnc"] - some["vnc"], s=14,
                     color=(1 - shade, 0.2, shade), label=f"N = {probes}")  # fmt: skip
    lead.axhline(0, color="gray", linewidth=1)
    lead.axvline(1, color="gray", linewidth=1)
    lead.set(title="NMNC's lead in cosine over VNC", xscale="log", ylabel="lead",
             xlabel="share alpha of the Jacobian over the predicted crossover")  # fmt: skip
    lead.legend(frameon=False)
    figure.savefig(path, dpi=130)


def draw_map(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draws NMNC's lead over width, tap, rank and number of probes, with dots if predicted."""
    table: Any = pd.DataFrame(rows).assign(
        lead=lambda t: t["nmnc"] - t["vnc"], law=lambda t: t["share"] - t["crossover"]
    )
    taps = list(table["tap"].unique())
    widths, ranks, counts = (sorted(table[name].unique()) for name in ("width", "rank", "probes"))
    figure = Figure(figsize=(3 * len(widths) + 1, 2.1 * len(taps)), layout="constrained")
    panels = figure.subplots(len(taps), len(widths), squeeze=False, sharex=True, sharey=True)
    image = None
    for panel_row, tap in zip(panels, taps, strict=True):
        for panel, width in zip(panel_row, widths, strict=True):
            some = where(table, tap=tap, width=width)
            lead, law = (
                some.pivot_table(value, "rank", "probes").reindex(index=ranks, columns=counts)
                for value in ("lead", "law")
            )
            for i, j in np.argwhere(law.to_numpy() > 0):
                panel.plot(j, i, "k.", markersize=5)
            image = panel.imshow(lead, cmap="RdBu_r", vmin=-0.6, vmax=0.6, aspect="auto",
                                 origin="lower")  # fmt: skip
            units = some["units"].iloc[0]
            panel.set_title(f"{tap}, width {width:g} (n = {units})", fontsize=9)
            panel.set_xticks(range(len(counts)), counts)
            panel.set_yticks(range(len(ranks)), ranks)
    figure.supxlabel("probes N behind the estimate")
    figure.supylabel("rank d")
    assert image is not None
    figure.colorbar(image, ax=panels, label="cosine of NMNC minus VNC; dot: law predicts NMNC")
    figure.savefig(path, dpi=130)
