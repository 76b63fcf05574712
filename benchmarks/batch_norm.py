"""BatchNorm with running and with frozen statistics: python -m benchmarks.batch_norm.

A strided convolutional network with BatchNorm learns `photos` for 200 steps of batch 64 by Adam.
With `running`, every pass of a step uses the statistics of the batch; the running statistics are
returned as `info.aux` and used in the test. With `frozen`, training and test use the statistics of
the initial network on 512 images.
"""

import itertools
import warnings
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from optax.losses import softmax_cross_entropy_with_integer_labels as loss_fn

from benchmarks.common import Row, parse, print_table, progress, write_table
from experiments.analysis.statistics import interval
from experiments.data import batches
from experiments.data.embedded import load_embedded
from experiments.data.in_memory import InMemory
from nmnc_jax import backprop, nmnc, no_tap
from nmnc_jax.taps import TapLike
from nmnc_jax.types import Array

STEPS, BATCH, FIRST, RATE = 200, 64, 512, 1e-3
METHODS = {"backprop": backprop, "nmnc": partial(nmnc, rank=64, update_every=1)}
STATISTICS = ("running", "frozen")


class Network(nn.Module):
    """Three strided convolutions with BatchNorm, and a dense layer."""

    @nn.compact
    def __call__(self, x: Array, tap: TapLike = no_tap, *, train: bool) -> Array:
        """Maps images to outputs, with the batch's statistics if `train`."""
        for layer, channels in enumerate((32, 32, 64)):
            x = nn.Conv(channels, (3, 3), strides=2, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = tap(f"conv{layer}", nn.relu(x))
        return nn.Dense(10)(tap("dense", nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))))


NETWORK = Network()


def apply_fn(params: Any, x: Array, tap: TapLike, *, statistics: Any, train: bool) -> Any:
    """Returns the outputs, and the running statistics after a pass in training mode."""
    variables = {"params": params, "batch_stats": statistics}
    if not train:
        return NETWORK.apply(variables, x, tap, train=False), statistics
    outputs, changed = NETWORK.apply(variables, x, tap, train=True, mutable=["batch_stats"])
    return outputs, changed["batch_stats"]


def train_one(method: str, kept: str, data: InMemory, seed: int) -> Row:
    """Trains one network."""
    estimator = METHODS[method](apply_fn, loss_fn, has_aux=True)
    optimiser = optax.adam(RATE)
    train = kept == "running"
    first = data.train_examples(np.random.default_rng(seed).permutation(data.train_size)[:FIRST])
    variables = NETWORK.init(jax.random.key(seed), first[0][:1], train=False)
    params, statistics = variables["params"], variables["batch_stats"]
    if not train:
        for _ in range(100):  # Running averages forget their initial values.
            statistics = _seen(params, first[0], statistics)

    def step(params, moments, state, statistics, key, batch, due):
        gradients, state, info = estimator.estimate(
            key, params, batch, state, due=due, statistics=statistics, train=train
        )
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, state, info.aux

    take = jax.jit(step, static_argnames="due", donate_argnums=(0, 1, 2))
    moments = optimiser.init(params)
    with warnings.catch_warnings():
        # The batch's statistics couple its examples, which is what this benchmark measures.
        warnings.filterwarnings("ignore", message=".*use_running_average=True")
        state = estimator.init(params, first, statistics=statistics, train=train)
    order = batches(data.train_size, BATCH, seed)
    for number in range(STEPS):
        key = jax.random.fold_in(jax.random.key(seed), number)
        batch = data.train_examples(next(order))
        due = estimator.due(number)
        params, moments, state, statistics = take(
            params, moments, state, statistics, key, batch, due=due
        )
    accuracy = _accuracy(params, statistics, data.test_inputs, data.test_targets)
    return {"method": method, "statistics": kept, "seed": seed, "accuracy": float(accuracy)}


@jax.jit
def _seen(params: Any, inputs: Any, statistics: Any) -> Any:
    return apply_fn(params, inputs, no_tap, statistics=statistics, train=True)[1]


@jax.jit
def _accuracy(params: Any, statistics: Any, inputs: Any, targets: Any) -> Any:
    outputs, _ = apply_fn(params, inputs, no_tap, statistics=statistics, train=False)
    return (outputs.argmax(-1) == targets).mean()


def main() -> None:
    """Trains every method with both kinds of statistics, on one seed, or on five with --full."""
    options = parse("batch_norm", __doc__ or "")
    data = load_embedded("photos")
    seeds = range(options.seed, options.seed + (5 if options.full else 1))
    settings = itertools.product(METHODS, STATISTICS, seeds)
    rows = [train_one(m, s, data, seed) for m, s, seed in progress("runs", settings)]
    write_table(options.out / "batch_norm.csv", rows)
    print_table(means(rows), ["method", "statistics", "seeds", "accuracy", "low", "high"])


def means(rows: list[Row]) -> list[Row]:
    """Draws mean accuracy with its 95 % interval, for each method and kind of statistics."""
    found = []
    for method, kept in itertools.product(METHODS, STATISTICS):
        same = [r["accuracy"] for r in rows if (r["method"], r["statistics"]) == (method, kept)]
        low, mean, high = (float(value[0]) for value in interval(np.array(same)[:, None]))
        row = {"method": method, "statistics": kept, "seeds": len(same)}
        found.append({**row, "accuracy": mean, "low": low, "high": high})
    return found


if __name__ == "__main__":
    main()
