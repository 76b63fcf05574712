"""The training loop: one network, one method, top to bottom."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, UserError
from experiments.data import Dataset, batches
from experiments.methods import CHAINED, build_estimator
from nmnc_jax import backprop, credit_from_state, no_tap
from nmnc_jax.diagnostics import alignment, cosine
from nmnc_jax.models import MLP, ConvNet, VisionTransformer
from nmnc_jax.shapes import tap_shapes
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.types import ApplyFn, Array, Batch, Estimator

loss_fn = optax.softmax_cross_entropy_with_integer_labels
CHUNK = 256
"""Examples per pass when credit is compared with the exact credit."""


class TrainState(NamedTuple):
    """Everything that a step changes."""

    params: Any
    optimiser: Any
    estimator: Any


class Trainer(NamedTuple):
    """The functions of a run: pure, compiled once, and the same for every seed.

    Attributes:
        init: seed to `TrainState`.
        step: ``step(state, key, inputs, targets, indices) -> (state, loss)``; donates the state.
        measure: ``measure(state, key, batch) -> dict``: accuracies, alignments; training accuracy
            and exact credit are those of a large fixed batch.
    """

    init: Callable[[int], TrainState]
    step: Callable[..., tuple[TrainState, Array]]
    measure: Callable[[TrainState, Array, Batch], dict[str, Any]]


def build_model(config: Config, classes: int) -> MLP | ConvNet | VisionTransformer:
    """Builds the network that a configuration describes."""
    if config.model == "mlp":
        return MLP(config.features, classes)
    if config.model == "vit":
        return VisionTransformer(config.features[0], len(config.features), config.patch, classes)
    return ConvNet(config.features, config.strides, config.dense, classes)


def make_trainer(config: Config, data: Dataset) -> Trainer:
    """Builds the run that a configuration describes, on a data set, for any seed."""
    model = build_model(config, data.classes)
    apply_fn: ApplyFn = model.apply
    sample = jnp.asarray(data.train_inputs[: config.batch])
    template = jax.eval_shape(model.init, jax.random.key(0), sample)
    shapes = tap_shapes(apply_fn, template, sample)
    estimator = build_estimator(config, apply_fn, loss_fn, shapes)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimiser = optax.adam(schedule)

    def init(seed: int) -> TrainState:
        params = jax.jit(model.init)(jax.random.key(seed), sample)
        first = np.random.default_rng(seed).permutation(len(data.train_inputs))
        first = first[: config.basis_batch]
        batch = jnp.asarray(data.train_inputs[first]), jnp.asarray(data.train_targets[first])
        # Fixed feedback and fixed subspaces differ between seeds; they live in the state.
        seeded = build_estimator(dataclasses.replace(config, seed=seed), apply_fn, loss_fn, shapes)
        return TrainState(params, optimiser.init(params), jax.jit(seeded.init)(params, batch))

    def train_step(state, key, inputs, targets, indices):
        batch = inputs[indices], targets[indices]
        gradients, estimated, info = estimator.estimate(key, state.params, batch, state.estimator)
        updates, optimised = optimiser.update(gradients, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, optimised, estimated), info.loss

    evaluate = jax.jit(lambda params, inputs: jnp.argmax(apply_fn(params, inputs, no_tap), -1))
    readout = "next" if config.estimator in CHAINED else "output"
    compare = _alignments(apply_fn, estimator, readout)
    large = _in_chunks(data, config.alignment_batch)
    test = jnp.asarray(data.test_inputs), jnp.asarray(data.test_targets)

    def measure(state: TrainState, key: Array, batch: Batch) -> dict[str, Any]:
        measured = compare(state, key, batch, large)
        inputs, targets = test
        accuracy = float((evaluate(state.params, inputs) == targets).mean())
        return {"test_accuracy": accuracy, **measured}

    return Trainer(init, jax.jit(train_step, donate_argnums=0), measure)


def _in_chunks(data: Dataset, examples: int) -> list[Batch]:
    """Fixed training examples, CHUNK at a time; what does not fill a chunk is left out."""
    order = np.random.default_rng(0).permutation(len(data.train_inputs))[:examples]
    size = min(CHUNK, len(order))
    chunks = order[: len(order) // size * size].reshape(-1, size)
    return [(jnp.asarray(data.train_inputs[c]), jnp.asarray(data.train_targets[c])) for c in chunks]


def _alignments(
    apply_fn: ApplyFn, estimator: Estimator, readout: Literal["output", "next"]
) -> Callable[..., dict[str, Any]]:
    """Builds the comparison of a method with the exact gradient of a large fixed batch.

    The large batch is taken chunk by chunk, in Python: on CPU the weight gradients of 2,048
    examples at once take several times as long, and those inside a compiled loop ten times.
    """

    @jax.jit
    def one_chunk(state: TrainState, key: Array, chunk: Batch) -> dict[str, Any]:
        params, memory = state.params, state.estimator
        exact_key, credit_key = jax.random.split(key)
        exact, _, told = backprop(apply_fn, loss_fn).estimate(exact_key, params, chunk, ())
        credit = {}
        if isinstance(memory, NoiseCorrelationState):
            if memory.feedback:
                credit = credit_from_state(
                    apply_fn, loss_fn, params, chunk, memory, readout=readout
                )
            else:
                credit = estimator.estimate(credit_key, params, chunk, memory)[2].credit
        return {
            "gradient": exact,
            "correct": (told.outputs.argmax(axis=-1) == chunk[1]).mean(),
            "credit": credit,
            "exact_credit": {name: told.credit[name] for name in credit},
        }

    @jax.jit
    def compare_all(state: TrainState, key: Array, batch: Batch, chunks: list[Any]):
        gradients, _, _ = estimator.estimate(key, state.params, batch, state.estimator)
        exact = jax.tree.map(lambda *leaves: sum(leaves), *[c["gradient"] for c in chunks])
        credit, exact_credit = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *[c[part] for c in chunks])
            for part in ("credit", "exact_credit")
        )
        measured: dict[str, Any] = {
            "train_accuracy": jnp.stack([c["correct"] for c in chunks]).mean(),
            "gradient_alignment": cosine(gradients, exact),
        }
        return measured | ({"alignment": alignment(credit, exact_credit)} if credit else {})

    def compare(state: TrainState, key: Array, batch: Batch, large: list[Batch]) -> dict[str, Any]:
        gradient_key, *keys = jax.random.split(key, len(large) + 1)
        chunks = [one_chunk(state, k, chunk) for k, chunk in zip(keys, large, strict=True)]
        return jax.tree.map(float, compare_all(state, gradient_key, batch, chunks))

    return compare


def train(
    trainer: Trainer, config: Config, data: Dataset, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Trains one network.

    Args:
        trainer: the run's functions.
        config: the run.
        data: its data set.
        report: called with each measurement, first before any step.

    Returns:
        The summary: estimator, test accuracy, steps, seconds, milliseconds per step, probes.

    Raises:
        UserError: if the loss is no longer finite; it names the step.
    """
    start = time.perf_counter()
    key = jax.random.key(config.seed)
    state = trainer.init(config.seed)
    inputs, targets = jnp.asarray(data.train_inputs), jnp.asarray(data.train_targets)
    order = batches(len(inputs), config.batch, config.seed)
    measure_key, step_key = jax.random.split(key)
    losses, step_times, record = [], [], {}
    interval_start = time.perf_counter()
    for step in range(config.steps + 1):
        indices = jnp.asarray(next(order))
        if step % config.log_every == 0 or step == config.steps:
            interval = [float(loss) for loss in losses]
            if losses:
                step_times.append((time.perf_counter() - interval_start) / len(losses))
            first = step - len(interval)
            for place, loss in enumerate(interval):
                if not np.isfinite(loss):
                    raise UserError(f"the loss is {loss} at step {first + place}; stopped there")
            batch = inputs[indices], targets[indices]
            measured = trainer.measure(state, jax.random.fold_in(measure_key, step), batch)
            record = {
                "step": step,
                "loss": float(np.mean(interval)) if interval else None,
                **measured,
                "seconds": time.perf_counter() - start,
            }
            report(record)
            losses = []
            interval_start = time.perf_counter()
        if step < config.steps:
            now = jax.random.fold_in(step_key, step)
            state, loss = trainer.step(state, now, inputs, targets, indices)
            losses.append(loss)
    # The first interval holds the compilation.
    typical = float(np.median(step_times[1:] or step_times))
    return {
        "estimator": config.estimator,
        "test_accuracy": record["test_accuracy"],
        "train_accuracy": record["train_accuracy"],
        "steps": config.steps,
        "seconds": time.perf_counter() - start,
        "step_milliseconds": 1000 * typical,
        "probes": config.probes,
        "seed": config.seed,
    }
