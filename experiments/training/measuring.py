"""Measurements during training: tests, and the comparison of credit with the exact credit."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Dataset
from experiments.data.dataset import among_five, class_loss
from experiments.methods import with_mirrored_layers
from experiments.training.mesh import Devices
from experiments.training.state import TrainState
from nmnc_jax import backprop, credit_from_state, no_tap, run
from nmnc_jax.diagnostics import alignment, cosine
from nmnc_jax.layout import matrices, tap_shapes
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import Manifold
from nmnc_jax.types import ApplyFn, Array, Batch, Estimator, LossFn

CHUNK = 256
"""Examples per pass when a network is tested, or its credit is compared with the exact credit."""
MANY = 100
"""Number of classes from which the accuracy among the five most likely classes is also tested."""
NOTHING = -1
"""Target of padding, which is neither a class nor the mask of a trial."""


def tests(
    apply_fn: ApplyFn, data: Dataset, devices: Devices, ready: Callable[[Batch], Batch]
) -> tuple[Callable[[Any, Batch], Array], Callable[[Any], dict[str, float]]]:
    """Returns the tests of a network.

    Returns:
        The test of one batch, a function of ``(params, batch)`` that returns the sums of correct
        answers, of losses and, if there are many classes, of correct answers among five; and the
        test of the test set, a function of ``params`` that returns the means by name.
    """
    measures = {"test_accuracy": data.correct, "test_loss": data.loss}
    if data.loss is class_loss and data.outputs >= MANY:
        measures["test_top5"] = among_five

    @jax.jit
    def tested(params: Any, batch: Batch) -> Array:
        inputs, targets = ready(batch)
        outputs = apply_fn(params, inputs, no_tap)
        real = (targets.reshape(len(targets), -1) != NOTHING).any(axis=1)
        each = [
            measure(outputs, targets).reshape(len(targets), -1).mean(axis=1)
            for measure in measures.values()
        ]
        return jnp.where(real[None], jnp.stack(each), 0).sum(axis=1)

    def test(params: Any) -> dict[str, float]:
        found = [np.asarray(tested(params, batch)) for batch in _test_batches(data, devices)]
        means = np.sum(found, axis=0) / data.test_size
        return dict(zip(measures, map(float, means), strict=True))

    return tested, test


def _test_batches(data: Dataset, devices: Devices) -> Iterator[Batch]:
    """Yields all test examples; the last batch is padded with examples of target `NOTHING`."""
    size = devices.size(min(CHUNK, data.test_size))

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = map(np.array, data.test_examples(np.minimum(indices, data.test_size - 1)))
        targets[indices >= data.test_size] = NOTHING
        return inputs, targets

    for at in range(0, data.test_size, size):
        yield devices.gather(read, np.arange(at, at + size))


def chosen_ranks(memory: Any) -> dict[str, dict[str, Array]]:
    """Returns the number of perturbed components of each tap, if training chooses it."""
    taps = memory.subspace if isinstance(memory, NoiseCorrelationState) else {}
    ranks = {
        name: tap.kept.sum()
        for name, tap in taps.items()
        if isinstance(tap, Manifold) and tap.kept is not None
    }
    return {"chosen_rank": ranks} if ranks else {}


def still_units(apply_fn: ApplyFn, params: Any, inputs: Any) -> dict[str, Array]:
    """Returns the share of each tap's units whose activity is the same for all inputs."""
    _, activations = run(apply_fn, params, inputs)
    rows = matrices(tap_shapes(apply_fn, params, inputs), activations)
    return {name: (jnp.ptp(each, axis=0) == 0).mean() for name, each in rows.items()}


def comparison(
    apply_fn: ApplyFn,
    data: Dataset,
    loss: LossFn,
    estimator: Estimator,
    ready: Callable[[Batch], Batch],
) -> Callable[..., dict[str, Any]]:
    """Returns a function that compares a method with the exact gradient of a large fixed batch.

    A loop in Python runs over chunks of the large batch: on CPU the weight gradients of 2,048
    examples at once take several times as long, and those in a compiled loop ten times as long.
    """

    @jax.jit
    def one_chunk(state: TrainState, key: Array, chunk: Batch) -> dict[str, Any]:
        params, memory = state.params, state.estimator
        chunk = ready(chunk)
        exact_key, credit_key = jax.random.split(key)
        exact, _, info = backprop(apply_fn, loss).estimate(exact_key, params, chunk, ())
        credit = {}
        if isinstance(memory, NoiseCorrelationState):
            if memory.feedback and memory.layout.readout != "loss":
                marked = apply_fn
                if memory.layout.readout == "mirror":
                    marked = with_mirrored_layers(apply_fn)
                credit = credit_from_state(marked, loss, params, chunk, memory)
                credit = {name: credit[name] for name in info.credit}
            else:
                credit = estimator.estimate(credit_key, params, chunk, memory)[2].credit
        return {
            "gradient": exact,
            "correct": data.correct(info.outputs, chunk[1]).mean(),
            "credit": credit,
            "exact_credit": {name: info.credit[name] for name in credit},
            "still_units": still_units(apply_fn, params, chunk[0]),
        }

    @jax.jit
    def compare_all(state: TrainState, key: Array, batch: Batch, chunks: list[Any]):
        gradients, _, _ = estimator.estimate(key, state.params, ready(batch), state.estimator)
        exact = jax.tree.map(lambda *leaves: sum(leaves), *[c["gradient"] for c in chunks])
        credit, exact_credit = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *[c[part] for c in chunks])
            for part in ("credit", "exact_credit")
        )
        measured: dict[str, Any] = {
            "train_accuracy": jnp.stack([c["correct"] for c in chunks]).mean(),
            "gradient_alignment": cosine(gradients, exact),
            "still_units": jax.tree.map(
                lambda *shares: jnp.stack(shares).min(), *[c["still_units"] for c in chunks]
            ),
        }
        if credit:
            measured["alignment"] = alignment(credit, exact_credit)
        return measured | chosen_ranks(state.estimator)

    def compare(state: TrainState, key: Array, batch: Batch, large: list[Batch]) -> dict[str, Any]:
        gradient_key, *keys = jax.random.split(key, len(large) + 1)
        chunks = [one_chunk(state, k, chunk) for k, chunk in zip(keys, large, strict=True)]
        return jax.tree.map(float, compare_all(state, gradient_key, batch, chunks))

    return compare
