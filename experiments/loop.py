"""The training loop: one network, one method, top to bottom."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, UserError
from experiments.data import Dataset, batches
from experiments.methods import build_estimator
from nmnc_jax import backprop, credit_from_state, no_tap
from nmnc_jax.diagnostics import alignment, cosine
from nmnc_jax.general import NoiseCorrelationState
from nmnc_jax.models import MLP, ConvNet
from nmnc_jax.shapes import tap_shapes
from nmnc_jax.types import ApplyFn, Array, Batch, Estimator

loss_fn = optax.softmax_cross_entropy_with_integer_labels


class TrainState(NamedTuple):
    """Everything that a step changes."""

    params: Any
    optimiser: Any
    estimator: Any


class Trainer(NamedTuple):
    """The functions of one run: pure, and compiled once.

    Attributes:
        init: seed to `TrainState`.
        step: ``step(state, key, inputs, targets, indices) -> (state, loss)``; donates the state.
        measure: ``measure(state, key, batch) -> dict``: accuracies, alignments; training accuracy
            and exact credit are those of a large fixed batch.
    """

    init: Callable[[int], TrainState]
    step: Callable[..., tuple[TrainState, Array]]
    measure: Callable[[TrainState, Array, Batch], dict[str, Any]]


def build_model(config: Config, classes: int) -> MLP | ConvNet:
    """Builds the network that a configuration describes."""
    if config.model == "mlp":
        return MLP(config.features, classes)
    return ConvNet(config.features, config.strides, config.dense, classes)


def make_trainer(config: Config, data: Dataset) -> Trainer:
    """Builds the run that a configuration describes, on a data set."""
    model = build_model(config, data.classes)
    apply_fn: ApplyFn = model.apply
    sample = jnp.asarray(data.train_inputs[: config.batch])
    template = jax.eval_shape(model.init, jax.random.key(0), sample)
    shapes = tap_shapes(apply_fn, template, sample)
    estimator = build_estimator(config, apply_fn, loss_fn, shapes)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimiser = optax.adam(schedule)

    def init(seed: int) -> TrainState:
        params = model.init(jax.random.key(seed), sample)
        first = np.random.default_rng(seed).permutation(len(data.train_inputs))
        first = first[: config.basis_batch]
        batch = jnp.asarray(data.train_inputs[first]), jnp.asarray(data.train_targets[first])
        return TrainState(params, optimiser.init(params), estimator.init(params, batch))

    def train_step(state, key, inputs, targets, indices):
        batch = inputs[indices], targets[indices]
        gradients, estimated, info = estimator.estimate(key, state.params, batch, state.estimator)
        updates, optimised = optimiser.update(gradients, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, optimised, estimated), info.loss

    evaluate = jax.jit(lambda params, inputs: jnp.argmax(apply_fn(params, inputs, no_tap), -1))
    compare = jax.jit(_alignments(apply_fn, estimator))
    fixed = slice(0, config.alignment_batch)
    order = np.random.default_rng(0).permutation(len(data.train_inputs))[fixed]
    large = jnp.asarray(data.train_inputs[order]), jnp.asarray(data.train_targets[order])
    test = jnp.asarray(data.test_inputs), jnp.asarray(data.test_targets)

    def measure(state: TrainState, key: Array, batch: Batch) -> dict[str, Any]:
        measured = jax.tree.map(float, compare(state, key, batch, large))
        inputs, targets = test
        accuracy = float((evaluate(state.params, inputs) == targets).mean())
        return {"test_accuracy": accuracy, **measured}

    return Trainer(init, jax.jit(train_step, donate_argnums=0), measure)


def _alignments(apply_fn: ApplyFn, estimator: Estimator) -> Callable[..., dict]:
    """Builds the comparison of a method with the exact gradient of a large fixed batch."""

    def compare(state: TrainState, key: Array, batch: Batch, large: Batch) -> dict[str, Any]:
        params, memory = state.params, state.estimator
        gradient_key, credit_key, unused_key = jax.random.split(key, 3)
        exact, _, told = backprop(apply_fn, loss_fn).estimate(unused_key, params, large, ())
        gradients, _, _ = estimator.estimate(gradient_key, params, batch, memory)
        measured: dict[str, Any] = {
            "train_accuracy": (told.outputs.argmax(axis=-1) == large[1]).mean(),
            "gradient_alignment": cosine(gradients, exact),
        }
        if isinstance(memory, NoiseCorrelationState):
            if memory.feedback:
                credit = credit_from_state(apply_fn, loss_fn, params, large, memory)
            else:
                credit = estimator.estimate(credit_key, params, large, memory)[2].credit
            measured["alignment"] = alignment(credit, told.credit)
        return measured

    return compare


def train(
    config: Config, data: Dataset, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Trains one network.

    Args:
        config: the run.
        data: its data set.
        report: called with each measurement, first before any step.

    Returns:
        The summary: estimator, test accuracy, steps, seconds, milliseconds per step, probes.

    Raises:
        UserError: if the loss is no longer finite; it names the step.
    """
    config.check()
    start = time.perf_counter()
    trainer = make_trainer(config, data)
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
