"""What a run is made of: its network, its method, and the functions that train and measure it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.errors import FlaxError

from experiments.configuration import Config, UserError, in_one_line
from experiments.data import Dataset
from experiments.data.dataset import among_five, class_loss
from experiments.methods import Setting, build_estimator, readout_of, with_mirrored_layers
from experiments.training.mesh import Devices, make_devices
from experiments.training.optimiser import build_optimiser, training_loss
from nmnc_jax import ModelReport, backprop, check_model, credit_from_state, no_tap
from nmnc_jax.diagnostics import alignment, cosine
from nmnc_jax.layout import output_rows, tap_shapes
from nmnc_jax.models import (
    GRU,
    MLP,
    AlexNet,
    CausalTransformer,
    ConvNet,
    LeakyRNN,
    RowReader,
    VisionTransformer,
    resnet18,
    resnet50,
)
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import Manifold
from nmnc_jax.types import ApplyFn, Array, Batch, Due, Estimator, LossFn

CHUNK = 256
"""Examples per pass when a network is tested, or credit compared with the exact credit."""
MANY = 100
"""Classes from which on a network is also tested by its five likeliest."""
NOTHING = -1
"""Targets of what is no example: no class, and no mask of a trial."""


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        params: parameters that are trained.
        optimiser: state of the optimiser.
        estimator: state of the method.
        average: moving average of the parameters, where one is kept.
    """

    params: Any
    optimiser: Any
    estimator: Any
    average: Any = None

    @property
    def network(self) -> Any:
        """Parameters that are tested and saved."""
        return self.params if self.average is None else self.average


class Trainer(NamedTuple):
    """The functions of a run: pure, compiled once, and the same for every seed.

    Attributes:
        init: seed, and parameters unless they are to be drawn, to `TrainState`.
        step: ``step(state, key, batch, due=None) -> (state, loss)``; donates the state.
        due: the estimator's schedule: number of a step to the static argument `due`.
        measure: ``measure(state, key, batch) -> dict``: accuracies, alignments, ranks that were
            chosen; training accuracy and exact credit are those of a large fixed batch.
        template: the state's shapes and where its arrays lie.
        devices: what it runs on.
        start: ``start(key, batch, params=None) -> TrainState``, the program behind `init` for the
            configuration's own seed.
        tested: ``tested(params, batch)``: right answers, losses and, where there are many classes,
            right answers among five, each summed.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, Array]]
    due: Callable[[int], Due]
    measure: Callable[[TrainState, Array, Batch], dict[str, Any]]
    template: TrainState
    devices: Devices
    start: Callable[..., TrainState]
    tested: Callable[[Any, Batch], Array]


def build_model(config: Config, outputs: int) -> nn.Module:
    """Builds the network that a configuration describes."""
    dtype = jnp.dtype(config.precision)
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(config.features, outputs),
        "conv": lambda: ConvNet(config.features, config.strides, config.dense, outputs),
        "vit": lambda: VisionTransformer(
            config.features[0], len(config.features), config.patch, outputs
        ),
        "alexnet": lambda: AlexNet(outputs, dtype),
        "resnet18": lambda: resnet18(outputs, dtype=dtype),
        "resnet50": lambda: resnet50(outputs, dtype=dtype),
        "leaky": lambda: RowReader(
            LeakyRNN(config.features[0], outputs, config.leak, noise=config.noise)
        ),
        "gru": lambda: RowReader(GRU(config.features[0], outputs)),
        "transformer": lambda: CausalTransformer(
            outputs, config.features[0], len(config.features), config.time_steps
        ),
    }
    return makers[config.model]()


@contextmanager
def refusals(config: Config) -> Iterator[None]:
    """Makes a mistake of the user's of what the network or the method refuses.

    Raises:
        UserError: in one line, with the network, the data and the method.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, FlaxError) as error:
        what = f"{config.model} on {config.data} by {config.estimator}"
        raise UserError(f"{what} is refused: {in_one_line(error)}") from error


def make_trainer(config: Config, data: Dataset, devices: Devices | None = None) -> Trainer:
    """Builds the run that a configuration describes, on a data set, for any seed.

    Args:
        config: the run.
        data: its data set.
        devices: what it runs on; None: those of this host that the configuration asks for.

    Raises:
        UserError: if the network or the method refuses a setting.
    """
    with refusals(config):
        return _make_trainer(config, data, devices or make_devices(config))


def _make_trainer(config: Config, data: Dataset, devices: Devices) -> Trainer:
    model = build_model(config, data.outputs)
    apply_fn: Any = model.apply
    images, targets = (
        jax.ShapeDtypeStruct((config.batch, *part.shape[1:]), part.dtype)
        for part in data.train_examples(np.arange(1))
    )
    sample = jax.eval_shape(data.normalise, images)
    template = jax.eval_shape(model.init, jax.random.key(0), sample)
    shapes = tap_shapes(apply_fn, template, sample)
    outputs = jax.eval_shape(lambda p, x: output_rows(model.apply(p, x)), template, sample)
    for name, shape in shapes.items():
        if config.probe_rows is not None and config.probe_rows > shape.rows:
            raise UserError(
                f"probe_rows is {config.probe_rows}; it takes at most {shape.rows}, the rows of a "
                f"batch at tap {name!r}"
            )
    report = _report(config, model, data)
    loss = training_loss(config, data)

    def setting(config: Config) -> Setting:
        return Setting(config, apply_fn, loss, shapes, outputs.shape[1], report, devices)

    estimator = build_estimator(setting(config))
    optimiser = build_optimiser(config)

    def ready(batch: Batch) -> Batch:
        return data.normalise(batch[0]), batch[1]

    def initial(seeded: Estimator) -> Callable[..., TrainState]:
        def fresh(key: Array, batch: Batch, params: Any = None) -> TrainState:
            batch = ready(batch)
            if params is None:
                params = model.init(key, jax.tree.map(lambda part: part[:1], batch[0]))
            # A copy: a step takes both away.
            average = None if config.average is None else jax.tree.map(jnp.copy, params)
            return TrainState(params, optimiser.init(params), seeded.init(params, batch), average)

        return fresh

    first = jax.eval_shape(initial(estimator), jax.random.key(0), (images, targets))
    lies = jax.tree.map(lambda leaf: devices.replicated, first)._replace(
        estimator=devices.estimator_state(first.estimator, shapes, config.divide_units)
    )

    def started(seeded: Estimator) -> Callable[..., TrainState]:
        return jax.jit(initial(seeded), out_shardings=lies)

    def init(seed: int, params: Any = None) -> TrainState:
        places = np.random.default_rng(seed).permutation(data.train_size)[: config.basis_batch]
        batch = devices.any_size(data.train_examples(places))
        # Fixed feedback and fixed subspaces differ between seeds; they live in the state.
        own = dataclasses.replace(config, seed=seed)
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
        if config.average is not None:
            average = optax.incremental_update(params, average, 1 - config.average)
        return TrainState(params, optimised, estimated, average), info.loss

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

    compare = _alignments(apply_fn, data, loss, estimator, ready)

    @cache
    def large() -> list[Batch]:
        fixed = np.random.default_rng(0).permutation(data.train_size)[: config.alignment_batch]
        size = devices.size(min(CHUNK, len(fixed)))
        return [
            devices.gather(data.train_examples, fixed[at : at + size])
            for at in range(0, len(fixed) // size * size, size)
        ]

    def measure(state: TrainState, key: Array, batch: Batch) -> dict[str, Any]:
        measured = compare(state, key, batch, large())
        return {**test(state.network), **measured}

    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        first,
        lies,
    )
    step = jax.jit(
        train_step,
        donate_argnums=0,
        static_argnames="due",
        out_shardings=(lies, devices.replicated),
    )
    start = started(estimator)
    return Trainer(init, step, estimator.due, measure, placed, devices, start, tested)


_REPORTS: dict[tuple[Any, ...], ModelReport] = {}


def _report(config: Config, model: nn.Module, data: Dataset) -> ModelReport | None:
    """Checks the model on a few examples, before anything is compiled for it.

    Returns:
        What was found; None where a method assumes nothing.
    """
    readout = readout_of(config)
    if readout == "":
        return None
    known = (readout, config.data, config.time_steps, config.image_size, repr(model))
    if known not in _REPORTS:
        inputs, targets = data.train_examples(np.arange(min(8, data.train_size)))
        inputs = data.normalise(jax.tree.map(jnp.asarray, inputs))
        params = jax.jit(model.init)(jax.random.key(0), jax.tree.map(lambda x: x[:1], inputs))
        apply_fn: Any = model.apply
        if readout == "mirror":
            apply_fn = with_mirrored_layers(apply_fn)
        batch = inputs, targets
        _REPORTS[known] = check_model(apply_fn, data.loss, params, batch, readout=readout)
    return _REPORTS[known]


def _test_batches(data: Dataset, devices: Devices) -> Iterator[Batch]:
    """All test examples; the last batch is filled up with ones whose targets are `NOTHING`."""
    size = devices.size(min(CHUNK, data.test_size))

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = map(np.array, data.test_examples(np.minimum(indices, data.test_size - 1)))
        targets[indices >= data.test_size] = NOTHING
        return inputs, targets

    for at in range(0, data.test_size, size):
        yield devices.gather(read, np.arange(at, at + size))


def chosen_ranks(memory: Any) -> dict[str, dict[str, Array]]:
    """Number of components kept at each tap, where an estimator chooses it on the run itself."""
    taps = memory.subspace if isinstance(memory, NoiseCorrelationState) else {}
    ranks = {
        name: tap.kept.sum()
        for name, tap in taps.items()
        if isinstance(tap, Manifold) and tap.kept is not None
    }
    return {"chosen_rank": ranks} if ranks else {}


def _alignments(
    apply_fn: ApplyFn,
    data: Dataset,
    loss: LossFn,
    estimator: Estimator,
    ready: Callable[[Batch], Batch],
) -> Callable[..., dict[str, Any]]:
    """Builds the comparison of a method with the exact gradient of a large fixed batch.

    The large batch is taken chunk by chunk, in Python: on CPU the weight gradients of 2,048
    examples at once take several times as long, and those inside a compiled loop ten times.
    """

    @jax.jit
    def one_chunk(state: TrainState, key: Array, chunk: Batch) -> dict[str, Any]:
        params, memory = state.params, state.estimator
        chunk = ready(chunk)
        exact_key, credit_key = jax.random.split(key)
        exact, _, told = backprop(apply_fn, loss).estimate(exact_key, params, chunk, ())
        credit = {}
        if isinstance(memory, NoiseCorrelationState):
            if memory.feedback and memory.layout.readout != "loss":
                marked = apply_fn
                if memory.layout.readout == "mirror":
                    marked = with_mirrored_layers(apply_fn)
                credit = credit_from_state(marked, loss, params, chunk, memory)
                credit = {name: credit[name] for name in told.credit}
            else:
                credit = estimator.estimate(credit_key, params, chunk, memory)[2].credit
        return {
            "gradient": exact,
            "correct": data.correct(told.outputs, chunk[1]).mean(),
            "credit": credit,
            "exact_credit": {name: told.credit[name] for name in credit},
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
        }
        if credit:
            measured["alignment"] = alignment(credit, exact_credit)
        return measured | chosen_ranks(state.estimator)

    def compare(state: TrainState, key: Array, batch: Batch, large: list[Batch]) -> dict[str, Any]:
        gradient_key, *keys = jax.random.split(key, len(large) + 1)
        chunks = [one_chunk(state, k, chunk) for k, chunk in zip(keys, large, strict=True)]
        return jax.tree.map(float, compare_all(state, gradient_key, batch, chunks))

    return compare
