"""Builds the functions that train and measure the network of a run."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.configuration import Config
from experiments.data import Dataset
from experiments.data.dataset import check_batch
from experiments.methods import Setting, build_estimator
from experiments.training.measuring import CHUNK, comparison, tests
from experiments.training.mesh import Devices, evenly_spaced, make_devices
from experiments.training.network import build_model, refusals, report_of
from experiments.training.optimiser import build_optimiser, training_loss
from experiments.training.state import TrainState
from experiments.training.step_parts import SELDOM, StepPart, moves_apart, step_parts
from nmnc_jax.layout import output_rows, tap_shapes
from nmnc_jax.types import Array, Batch, Due, Estimator


class Trainer(NamedTuple):
    """The functions of a run, which are pure, compiled once, and the same for every seed.

    Attributes:
        init: ``init(seed, params=None) -> TrainState``; parameters are drawn unless given.
        step: ``step(state, key, batch, due=None) -> (state, loss)``; donates the state. Without
            `due` the state's own step decides, and bases move with the whole batch.
        parts: ``parts(due)``, the programs that take such a step, one after another.
        due: the estimator's schedule, ``due(step) -> Due``.
        measure: ``measure(state, key, batch) -> dict`` of accuracies, alignments and chosen ranks.
            Training accuracy and exact credit are measured on a large fixed batch.
        template: shapes and shardings of the state.
        devices: the devices of the run.
        start: ``start(key, batch, params=None) -> TrainState``, the program of `init` for the
            configuration's seed.
        test: ``test(params) -> dict`` of accuracies and loss on the test set.
        tested: ``tested(params, batch)``, the sums of correct answers, of losses and, if there are
            many classes, of correct answers among five.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Array]]
    parts: Callable[[Due | None], list[StepPart]]
    due: Callable[[int], Due]
    measure: Callable[[TrainState, Array, Batch], dict[str, Any]]
    template: TrainState
    devices: Devices
    start: Callable[..., TrainState]
    test: Callable[[Any], dict[str, float]]
    tested: Callable[[Any, Batch], Array]


def make_trainer(config: Config, data: Dataset, devices: Devices | None = None) -> Trainer:
    """Builds the run that a configuration describes, on a data set, for any seed.

    Args:
        config: the configuration of the run.
        data: the data set.
        devices: the devices of the run; None for those of this host that the configuration names.

    Raises:
        UserError: if the network or the method does not take a setting.
    """
    with refusals(config):
        return _make_trainer(config, data, devices or make_devices(config))


def _make_trainer(config: Config, data: Dataset, devices: Devices) -> Trainer:
    if config.run.alignment_batch < devices.mesh.size:
        takes = f"it takes at least 1 for each of the {devices.mesh.size} devices"
        config.run.refuse("alignment_batch", takes)
    if not config.data.is_task:
        # Training checks it too, but only when the first basis is being computed.
        check_batch(data.train_size, config.run.batch)
    model = build_model(config, data.outputs)
    apply_fn: Any = model.apply
    images, targets = (
        jax.ShapeDtypeStruct((config.run.batch, *part.shape[1:]), part.dtype)
        for part in data.train_examples(np.arange(1))
    )
    sample = jax.eval_shape(data.normalise, images)
    template = jax.eval_shape(model.init, jax.random.key(0), sample)
    shapes = tap_shapes(apply_fn, template, sample)
    outputs = jax.eval_shape(lambda p, x: output_rows(model.apply(p, x)), template, sample)
    for name, shape in shapes.items():
        if (config.method.probe_rows or 0) > shape.rows:
            takes = f"it takes at most {shape.rows}, the rows of a batch at tap {name!r}"
            config.method.refuse("probe_rows", takes)
    report = report_of(config, model, data)
    loss = training_loss(config, data)

    def setting(config: Config) -> Setting:
        return Setting(
            config, apply_fn, loss, shapes, outputs.shape[1], report, devices.divide_updates
        )

    estimator = build_estimator(setting(config))
    optimiser = build_optimiser(config)

    def ready(batch: Batch) -> Batch:
        return data.normalise(batch[0]), batch[1]

    def initial(seeded: Estimator) -> Callable[..., TrainState]:
        def fresh(key: Array, batch: Batch, params: Any = None) -> TrainState:
            batch = ready(batch)
            if params is None:
                params = model.init(key, jax.tree.map(lambda part: part[:1], batch[0]))
            # A step donates both, so the average is a copy.
            average = None if config.optimiser.average is None else jax.tree.map(jnp.copy, params)
            return TrainState(params, optimiser.init(params), seeded.init(params, batch), average)

        return fresh

    first = jax.eval_shape(initial(estimator), jax.random.key(0), (images, targets))
    placement = jax.tree.map(lambda leaf: devices.replicated, first)._replace(
        estimator=devices.estimator_state(first.estimator, shapes, config.run.divide_units)
    )

    def started(seeded: Estimator) -> Callable[..., TrainState]:
        return jax.jit(initial(seeded), out_shardings=placement, compiler_options=devices.seldom)

    def init(seed: int, params: Any = None) -> TrainState:
        places = np.random.default_rng(seed).permutation(data.train_size)
        batch = devices.any_size(data.train_examples(places[: config.method.basis_batch]))
        # Fixed feedback and fixed subspaces, which are in the state, differ between seeds.
        own = config.replace(seed=seed)
        start = started(build_estimator(setting(own)))
        return start(jax.random.key(seed), batch, params)

    def train_step(
        state: TrainState, key: Array, batch: Batch, due: Due | None = None
    ) -> tuple[TrainState, Array]:
        gradients, estimated, info = estimator.estimate(
            key, state.params, ready(batch), state.estimator, due=due
        )
        updates, optimised = optimiser.update(gradients, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if config.optimiser.average is not None:
            average = optax.incremental_update(params, average, 1 - config.optimiser.average)
        return TrainState(params, optimised, estimated, average), info.loss

    tested, test = tests(apply_fn, data, devices, ready)
    compare = comparison(apply_fn, data, loss, estimator, ready)

    @cache
    def large() -> list[Batch]:
        fixed = np.random.default_rng(0).permutation(data.train_size)[: config.run.alignment_batch]
        size = devices.size(min(CHUNK, len(fixed)))
        return [
            devices.gather(data.train_examples, fixed[at : at + size])
            for at in range(0, len(fixed) // size * size, size)
        ]

    def measure(state: TrainState, key: Array, batch: Batch) -> dict[str, Any]:
        return {**test(state.network), **compare(state, key, batch, large())}

    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        first,
        placement,
    )

    def move_bases(
        state: TrainState, key: Array, batch: Batch, due: Due
    ) -> tuple[TrainState, Array]:
        some = evenly_spaced(batch, config.method.basis_batch)
        # Gradients are not used, so that the program has no backward pass.
        _, moved, info = estimator.estimate(
            key, state.params, ready(some), state.estimator, due=due
        )
        moved = moved._replace(step=state.estimator.step)
        return state._replace(estimator=moved), info.loss

    parts = step_parts(
        train_step,
        move_bases,
        apart=moves_apart(first.estimator),
        out_shardings=(placement, devices.replicated),
        seldom=devices.seldom if config.method.basis_update_every >= SELDOM else None,
    )

    def step(
        state: TrainState, key: Array, batch: Batch, due: Due | None = None
    ) -> tuple[TrainState, Array]:
        *before, last = parts(due)
        for part in before:
            state, _ = part.function(state, key, batch, due=part.due)
        return last.function(state, key, batch, due=last.due)

    start = started(estimator)
    due = estimator.due
    return Trainer(init, step, parts, due, measure, placed, devices, start, test, tested)
