"""Rates of trained recurrent networks: their dimension, trajectories and weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.analysis.alignment import cumulative_share
from experiments.analysis.dimensionality import measure
from experiments.analysis.tables import where
from experiments.configuration import Config
from experiments.methods import COLOURS, Setting, build_estimator
from experiments.training.loop import through_training
from experiments.training.network import build_model
from nmnc_jax import pca, run
from nmnc_jax.layout import tap_shapes
from nmnc_jax.subspace import lift, project, used

TRIALS = 64
NOISE_PROBES = 32
LEARNING = 50
"""Number of steps in which feedback is learned before its noise is measured."""


def activity(config: Config, data: Any) -> list[dict[str, Any]]:
    """Measures the dimension of one network's rates, and its weights' share inside components."""
    task, units = config.data.name, config.model.features[0]
    rates, _, params = trained_rates(config, data, TRIALS)
    rates = rates.reshape(-1, units)
    recurrent = params["params"]["network"]["recurrent"].T
    components = pca(units).init("rate", jnp.asarray(rates)).basis
    assert components is not None
    share = cumulative_share(recurrent, components)
    found = measure(rates)
    return [
        {"task": task, "units": units, **found, "dimension": d, "share": share[d - 1]}
        for d in (2**k for k in range(int(np.log2(units)) + 1))
    ]


def trained_rates(config: Config, data: Any, trials: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Trains a network, and returns rates in test trials [B, T, n], targets and parameters."""
    inputs, targets = data.test_examples(np.arange(trials))
    ((_, params),) = through_training(config, data, [config.run.steps])
    apply_fn: Any = build_model(config, data.outputs).apply
    record = jax.jit(lambda p, x: run(apply_fn, p, data.normalise(x))[1]["rate"])
    rates = record(params, inputs)
    return np.asarray(rates.swapaxes(0, 1)), targets, params


def noise_of_feedback(config: Config, data: Any) -> list[dict[str, Any]]:
    """Measures the spectral radius of the noise in a new network's learned recurrent weights.

    If it is near the radius of the weights (1), noise dominates credit that is chained over many
    time steps. The law for independent entries is sqrt((d + 1) / M) times the Frobenius norm of
    the weights inside the subspace over sqrt(d), for a feedback that averages M perturbed rows.
    Without a subspace it grows as sqrt(N).
    """
    units = config.model.features[0]
    apply_fn: Any = (model := build_model(config, data.outputs)).apply
    inputs, targets = data.train_examples(np.arange(config.run.batch))
    batch = data.normalise(inputs), targets
    params = model.init(jax.random.key(config.run.seed), batch[0])
    shapes = tap_shapes(apply_fn, params, batch[0])
    estimator = build_estimator(Setting(config, apply_fn, data.loss, shapes, data.outputs, None))
    memory = estimator.init(params, batch)
    learn = jax.jit(lambda key, memory: estimator.estimate(key, params, batch, memory)[1])
    for step in range(LEARNING):
        memory = learn(jax.random.fold_in(jax.random.key(config.run.seed), step), memory)
    basis, found = memory.subspace["rate"].basis, memory.feedback["rate"].coordinates
    weights: Any = params["params"]
    exact = project(basis, weights["network"]["recurrent"].T)
    noise = lift(basis, found[:units] - exact)
    dimension = float(used(basis, units).sum())
    behind = (config.method.probe_rows or shapes["rate"].rows) * (1 + config.method.feedback_decay)
    behind /= 1 - config.method.feedback_decay
    inside = project(basis, exact.T)
    law = float(jnp.linalg.norm(inside)) * ((dimension + 1) / (dimension * behind)) ** 0.5
    radius = float(np.abs(np.linalg.eigvals(np.asarray(noise))).max())
    return [{"units": units, "method": config.method.estimator, "dimension": dimension,
             "radius": radius, "law": law}]  # fmt: skip


def trajectories(config: Config, data: Any) -> list[dict[str, Any]]:
    """Returns the first three principal components of the rates, and each time step's condition."""
    rates, targets, _ = trained_rates(config, data, 8)
    rows = rates.reshape(-1, rates.shape[-1])
    centred = rows - rows.mean(axis=0)
    places = (centred @ np.linalg.svd(centred, full_matrices=False)[2][:3].T).reshape(8, -1, 3)
    wanted = targets[..., :-1] > 0
    condition = (wanted * 2 ** np.arange(wanted.shape[-1])).sum(axis=-1)
    return [
        {"trial": trial, "step": step, "condition": int(condition[trial, step]),
         **{f"component{c}": float(places[trial, step, c]) for c in range(3)}}
        for trial in range(8) for step in range(places.shape[1])
    ]  # fmt: skip


def draw_rates(
    figure: Any,
    measured: list[dict[str, Any]],
    noises: list[dict[str, Any]],
    paths: list[dict[str, Any]],
    task: str,
) -> None:
    """Draws trajectories in a task, dimension, share of the recurrent weights, and their noise."""
    space = figure.add_subplot(1, 4, 1, projection="3d")
    for trial in sorted({row["trial"] for row in paths}):
        some = [row for row in paths if row["trial"] == trial]
        line = np.array([[row[f"component{c}"] for c in range(3)] for row in some])
        space.plot(*line.T, color="lightgray", linewidth=0.6)
        space.scatter(*line.T, c=[row["condition"] for row in some], cmap="tab10", s=5)  # pyright: ignore[reportArgumentType]
    space.set_title(f"rates after training by nmnc:\ncomponents, by state of {task}", fontsize=10)
    dimension, share = figure.add_subplot(1, 4, 2), figure.add_subplot(1, 4, 3)
    sizes = sorted({row["units"] for row in measured})
    for place, task in enumerate(dict.fromkeys(row["task"] for row in measured)):
        for column, style in (("participation_ratio", "o-"), ("components_95", "s--")):
            values = where(measured, task=task).groupby("units")[column].first()
            measure_name = "participation ratio" if style == "o-" else "95 % of variance"
            dimension.plot(sizes, values, style, label=f"{task}, {measure_name}",
                           color=f"C{place}", markersize=4)  # fmt: skip
        some = where(measured, task=task, units=sizes[0])
        share.plot(some["dimension"], some["share"], "o-", markersize=4, label=task,
                   color=f"C{place}")  # fmt: skip
    ranks = np.arange(1, sizes[0] + 1)
    share.plot(ranks, ranks / sizes[0], "k:", label="d/n")
    for panel in (dimension, share):
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.legend(frameon=False, fontsize=7)
    dimension.set_title("dimension of rates, trained by backpropagation", fontsize=10)
    # Room for the legend.
    dimension.set(xlabel="units", ylabel="dimension", ylim=(0, 1.7 * dimension.get_ylim()[1]))
    share.set_title(f"recurrent weights inside d components, {sizes[0]} units", fontsize=10)
    share.set(xlabel="d", ylabel="share")
    noise = figure.add_subplot(1, 4, 4)
    for method in dict.fromkeys(row["method"] for row in noises):
        some = where(noises, method=method)
        for column, style in (("radius", "o-"), ("law", ":")):
            noise.plot(some["units"], some[column], style, markersize=4, color=COLOURS[method],
                       label=method if column == "radius" else "law")  # fmt: skip
    noise.axhline(1, color="gray", linewidth=1, label="the weights' own")
    noise.set_xscale("log", base=2)
    noise.xaxis.set_major_formatter("{x:g}")
    noise.set_yscale("log")
    noise.legend(frameon=False, fontsize=7)
    noise.set_title(
        f"noise in the learned recurrent weights,\n{NOISE_PROBES} probes a step", fontsize=10
    )
    noise.set(xlabel="units", ylabel="spectral radius")
