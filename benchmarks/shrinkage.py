"""How far to trust feedback of few probes: python -m benchmarks.shrinkage --data-path PATH.

An MLP 1024-512 with ReLU learns 12,000 images by SGD at .04, batch 128, 12 epochs, feedback decay
.8, with feedback refreshed every 1, 20, 100 or 500 steps. The variants scale the first estimates,
which average few probes, in different ways. `relative`, `whole` and `unscaled` are those of
`learned_feedback`; `one weight` debiases all directions of a basis by the same factor, including
those that have just entered it; `zero start` does not debias, so that feedback grows from zero.
Accuracy is measured on images held out of the training set.
"""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from optax.losses import softmax_cross_entropy_with_integer_labels as loss_fn
from scipy import stats

from benchmarks.common import Row, parse, print_table, progress, save, write_table
from experiments.data import batches
from experiments.data.folder import load_folder
from nmnc_jax import (
    Estimator,
    Feedback,
    Probe,
    backprop,
    isotropic,
    learned_feedback,
    noise_correlation,
    pca,
)
from nmnc_jax.feedback import FeedbackState
from nmnc_jax.models import MLP

IMAGES, BATCH, EPOCHS, RATE, DECAY = 12_000, 128, 12, 0.04, 0.8
LOWEST = 0.37
"""Range of the figure; accuracies of diverged runs are below it."""
REFRESHES = (1, 20, 100, 500)
INITIALISERS = {
    "uniform": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "he": jax.nn.initializers.he_normal(),
}
METHODS = {
    "vnc": (isotropic(), Probe(num=1, difference="jvp")),
    "nmnc": (pca(64), Probe(num=1, kind="orthogonal", difference="jvp")),
}
MODEL = MLP((1024, 512), 10)


def _one_weight(state: FeedbackState, estimate: Any, variance: Any = 0.0) -> FeedbackState:
    # `limit` divides the mean and, like one weight, does not change when the basis moves.
    del variance
    started = jnp.where(state.limit < 1e-6, 0, state.limit)
    return state._replace(
        mean=DECAY * state.mean + (1 - DECAY) * estimate, limit=DECAY * started + (1 - DECAY)
    )


def _zero_start(state: FeedbackState, estimate: Any, variance: Any = 0.0) -> FeedbackState:
    del variance
    return state._replace(mean=DECAY * state.mean + (1 - DECAY) * estimate)


def _one_weight_init(*arguments: Any) -> FeedbackState:
    state = learned_feedback(DECAY).init(*arguments)
    return state._replace(limit=jnp.full_like(state.limit, 1e-7))


VARIANTS: dict[str, Callable[[int], Feedback]] = {
    "one weight": lambda every: Feedback(_one_weight_init, _one_weight, every),
    "zero start": lambda every: Feedback(learned_feedback(DECAY).init, _zero_start, every),
    "relative": lambda every: learned_feedback(DECAY, update_every=every, shrinkage="relative"),
    "whole": lambda every: learned_feedback(DECAY, update_every=every, shrinkage="whole"),
    "unscaled": lambda every: learned_feedback(DECAY, update_every=every, shrinkage=None),
}


def main() -> None:
    """Trains all settings, seed by seed, and continues an existing table in `--out`."""

    def add(parser: Any) -> None:
        parser.add_argument("--data-path", type=Path, required=True, help="folder or archive")
        parser.add_argument("--seeds", type=int, default=2, help="number of seeds; 5 with --full")

    options = parse("shrinkage", __doc__ or "", add)
    seeds = range(options.seed, options.seed + (5 if options.full else options.seeds))
    data = load_folder(options.data_path, None, True, options.out / "decoded")
    train = data.train_inputs[:IMAGES], data.train_targets[:IMAGES]
    test = data.test_inputs, data.test_targets
    table = options.out / "shrinkage.csv"
    rows = _read(table)
    done = {_name(row) for row in rows}
    settings = [("backprop", "", 0), *itertools.product(METHODS, VARIANTS, REFRESHES)]
    todo = [
        {"method": method, "variant": variant, "refresh": refresh, "weights": weights, "seed": seed}
        for seed, weights, (method, variant, refresh) in itertools.product(
            seeds, INITIALISERS, settings
        )
    ]
    steps: dict[tuple[str, str], Any] = {}
    for row in progress("runs", [row for row in todo if _name(row) not in done]):
        rows.append({**row, **train_one(row, train, test, steps)})
        write_table(table, rows)
    means = summary(rows)
    print_table(means, ["weights", "method", "variant", "refresh", "accuracy", "interval", "seeds"])
    save(draw(means), options.out / "shrinkage.png")


def _name(row: Row) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("method", "variant", "refresh", "weights", "seed"))


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open() as file:
        return [
            {**row, "refresh": int(row["refresh"]), "accuracy": float(row["accuracy"])}
            for row in csv.DictReader(file)
        ]


def estimator_of(row: Row) -> Estimator:
    """Returns the estimator of a row of the table."""
    if row["method"] == "backprop":
        return backprop(MODEL.apply, loss_fn)
    subspace, probe = METHODS[row["method"]]
    feedback = VARIANTS[row["variant"]](row["refresh"])
    return noise_correlation(
        MODEL.apply, loss_fn, subspace=subspace, readout="output", probe=probe, feedback=feedback
    )


def train_one(row: Row, train: Any, test: Any, steps: dict[tuple[str, str], Any]) -> Row:
    """Trains one network; returns its accuracy after the first and the last epoch."""
    estimator = estimator_of(row)
    optimiser = optax.sgd(RATE)
    seed = int(row["seed"])
    key, weights_key = jax.random.split(jax.random.key(seed))
    shapes = jax.eval_shape(MODEL.init, key, train[0][:1])
    keys = iter(jax.random.split(weights_key, len(jax.tree.leaves(shapes))))
    initialise = INITIALISERS[row["weights"]]
    params = jax.tree.map(
        lambda leaf: initialise(next(keys), leaf.shape) if leaf.ndim > 1 else jnp.zeros(leaf.shape),
        shapes,
    )

    def step(params, moments, state, key, inputs, targets, due):
        gradients, state, _ = estimator.estimate(key, params, (inputs, targets), state, due=due)
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, state

    # If `due` is given, the program does not depend on the interval between refreshes.
    take = steps.setdefault(
        (row["method"], row["variant"]),
        jax.jit(step, static_argnames="due", donate_argnums=(0, 1, 2)),
    )
    first = np.random.default_rng(seed).permutation(IMAGES)[:512]
    state = estimator.init(params, (train[0][first], train[1][first]))
    moments = optimiser.init(params)
    order = batches(IMAGES, BATCH, seed)
    each = IMAGES // BATCH
    accuracies = []
    for number in range(EPOCHS * each):
        chosen = next(order)
        params, moments, state = take(
            params, moments, state, jax.random.fold_in(key, number),
            train[0][chosen], train[1][chosen], due=estimator.due(number),
        )  # fmt: skip
        if (number + 1) % each == 0:
            accuracies.append(float(_accuracy(params, *test)))
    return {"first_epoch": accuracies[0], "accuracy": accuracies[-1]}


@jax.jit
def _accuracy(params: Any, inputs: Any, targets: Any) -> Any:
    outputs: Any = MODEL.apply(params, inputs)
    return (outputs.argmax(-1) == targets).mean()


def summary(rows: list[Row]) -> list[Row]:
    """Returns mean accuracy with the half width of its 95 % interval, for each setting."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_name(row)[:4], []).append(row)
    means = []
    for same in groups.values():
        values = np.array([row["accuracy"] for row in same])
        spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else 0.0
        means.append(
            {
                **same[0],
                "accuracy": float(values.mean()),
                "interval": float(spread),
                "seeds": len(same),
            }
        )
    return means


def draw(means: list[Row]) -> Figure:
    """Draws accuracy over the steps between refreshes, a panel per method and initialiser."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for panel, (weights, method) in zip(
        panels.flat, itertools.product(INITIALISERS, METHODS), strict=True
    ):
        for place, variant in enumerate(VARIANTS):
            color = f"C{place}"
            chosen = [
                row
                for row in means
                if (row["weights"], row["method"], row["variant"]) == (weights, method, variant)
            ]
            panel.errorbar(
                [row["refresh"] * 1.05 ** (place - 2) for row in chosen],
                [row["accuracy"] for row in chosen],
                [row["interval"] for row in chosen],
                marker="o", capsize=2, label=variant, color=color,
            )  # fmt: skip
            for row in chosen:
                if row["accuracy"] < LOWEST:
                    place_of_text = row["refresh"] * 1.05 ** (place - 2), LOWEST + 0.004 * place
                    text = f"{row['accuracy']:.2f} below"
                    panel.text(*place_of_text, text, color=color, ha="right", fontsize=8)
        for row in means:
            if row["method"] == "backprop" and row["weights"] == weights:
                panel.axhline(row["accuracy"], color="black", lw=1, label="backpropagation")
        panel.set(
            xscale="log",
            ylim=(LOWEST, 0.485),
            title=f"{method}, {weights} weights",
            ylabel="held-out accuracy",
        )
        panel.set_xticks(REFRESHES, [str(value) for value in REFRESHES])
    for panel in panels[1]:
        panel.set_xlabel("steps between two refreshes of the feedback")
    panels[0, 0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
