"""Checks on a few examples that what a method assumes of a model holds.

With exact quantities in place of the learned ones, a method's gradient equals that of ``jax.grad``,
and noise in one example does not change the others. The checks use the dependences in the traced
model, and passes with noise in some examples and time steps of a small batch.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.checks import check_batch
from nmnc_jax.layout import (
    Nodes,
    TapShape,
    check_batch_axes,
    examples_of,
    find_structure,
    has_marks_in_scans,
    has_time_of,
    stages_of,
    trace_nodes,
)
from nmnc_jax.linear_stages import find_linears, positions_of_all, try_stages
from nmnc_jax.taps import OUTPUTS, Model, Tap
from nmnc_jax.types import ApplyFn, Array, Batch, LossFn, Params

EXAMPLES = 4
"""Largest number of examples of the batch that are tried."""
CUTS = 128
"""Largest number of time steps that are tried for whether the response changes before them."""
SIZE = 0.1
"""Root mean square of the noise, relative to the tap's activity."""
NOTHING = 1e-5
"""Relative change that is still attributed to rounding."""

LINEAR = 0.03
"""Relative difference up to which a stage counts as linear, also in 16-bit arithmetic."""

Causal = bool | Mapping[str, bool] | None
Choice = str | tuple[str, ...] | None
"""A readout, a tuple of which the model's marks select one, or None for the model's default."""


def choices_of(readout: Choice) -> tuple[str, ...]:
    """Returns the readouts among which the model's marks decide."""
    if readout is None:
        return ("output", "next")
    return readout if isinstance(readout, tuple) else (readout,)


class TapReport(NamedTuple):
    """The results of the checks for one tap.

    Attributes:
        name: name of the tap.
        units: number of units per example and time step, n.
        order: index of the tap in the forward pass.
        steps: number of time steps of the scans around it, T; 1 without scans.
        stages: for the readout `next`, the nodes that it feeds directly, with their units per row;
            for the readout `mirror`, the arrays of weights of the linear stage, with their sizes.
        aligned: whether the response follows the tap's time; None if the tap or the response has
            no time.
        effect: root mean square of the response's change over that of the response, for noise of a
            tenth of the tap's activity; None if it was not tried.
        coupling: change of the response of other examples relative to that of the examples with
            noise at this tap; None if it was not tried.
        stacked: whether each step of the scan around a linear stage has separate weights.
        shared: average number of positions in one row that share a weight of a linear stage.
        summed: number of units of a linear stage's input that one output depends on.
    """

    name: str
    units: int
    order: int
    steps: int
    stages: tuple[tuple[str, int], ...]
    aligned: bool | None
    effect: float | None
    coupling: float | None
    stacked: bool = False
    shared: float = 1.0
    summed: int = 0


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The results of the checks of a model; prints as a table.

    Attributes:
        readout: the given readout, or the model's default.
        coupling: change of the response of other examples relative to that of the examples with
            noise; None if it was not tried.
        taps: the results for each tap, in the order of the forward pass.
    """

    readout: str
    coupling: float | None
    taps: tuple[TapReport, ...]

    @property
    def coupled(self) -> bool:
        """Whether an example's response depends on other examples."""
        return self.coupling is not None and self.coupling > NOTHING

    @property
    def causal(self) -> dict[str, bool]:
        """Tap name to whether the response follows its time, as the argument `causal` takes it."""
        return {tap.name: bool(tap.aligned) for tap in self.taps}

    def __getitem__(self, name: str) -> TapReport:
        return next(tap for tap in self.taps if tap.name == name)

    def __str__(self) -> str:
        head = ("tap", "units", "steps", "feeds", "time", "effect", "coupling", "feedback")
        time = {None: "-", True: "lag by lag", False: "one block"}
        rows = [
            (
                tap.name,
                str(tap.units),
                str(tap.steps),
                ", ".join(node.rstrip(":") for node, _ in tap.stages) or "-",
                time[tap.aligned],
                _number(tap.effect),
                _number(tap.coupling),
                _feedback_bytes(self.readout, tap),
            )
            for tap in self.taps
        ]
        widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        coupling = "not tried" if self.coupling is None else f"{self.coupling:.2g}"
        return "\n".join([f"readout {self.readout}, coupling of examples {coupling}", *lines])


def check_model(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    *,
    readout: Choice = "output",
    has_aux: bool = False,
    **kwargs: Any,
) -> ModelReport:
    """Checks on a few examples of a batch that a model satisfies what a method assumes.

    Estimators call this function in ``init``. It requires the following: each tap's returned value
    is used; examples are along the first axis after the time axes; with readout "next" the stage
    after a tap begins and ends in the same scan and time step; with readout "mirror" a linear stage
    is linear in its weights and its input, and its weights do not depend on the inputs. It reports
    whether examples are coupled, and whether the response follows a tap's time.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``.
        loss_fn: ``loss_fn(outputs, targets) -> [B]`` or ``[B, T]``.
        params: the model's parameters.
        batch: (inputs, targets), as concrete values, not tracers.
        readout: "output", "loss", "next", "mirror", or None for the model's default.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.
        kwargs: passed to `apply_fn`.

    Returns:
        A `ModelReport`; ``print`` shows it as a table.

    Raises:
        ValueError: if a requirement does not hold. The message names the tap, the requirement and
            the remedy.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import check_model
        >>> model = lambda params, inputs, tap: tap("hidden", jnp.tanh(inputs @ params)) @ params.T
        >>> squared_error = lambda outputs, targets: ((outputs - targets) ** 2).sum(-1)
        >>> report = check_model(
        ...     model, squared_error, jnp.eye(3), (jnp.ones((4, 3)), jnp.zeros((4, 3))))
        >>> report.coupled, report["hidden"].units
        (False, 3)
    """
    if not set(choices_of(readout)) <= {"output", "loss", "next", "mirror"}:
        raise ValueError(
            f"readout is {readout!r}; it takes 'output', 'loss', 'next', 'mirror' or None"
        )
    model = Model(apply_fn, has_aux, kwargs)
    inputs, _ = check_batch(batch)
    nodes = trace_nodes(model, params, inputs)
    return examine(model, loss_fn, params, batch, nodes, readout=readout, trial=True)


def examine(
    model: Model,
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    nodes: Nodes,
    *,
    readout: Choice,
    trial: bool,
    causal: Causal = None,
    learns: bool = False,
) -> ModelReport:
    """Returns the report of `check_model`.

    Args:
        model: the model.
        loss_fn: the loss of each example.
        params: the model's parameters.
        batch: (inputs, targets).
        nodes: the nodes of the model on these inputs.
        readout: name of the readout; None for the model's default. A readout that is added to the
            table of readouts is examined like "output".
        trial: whether to run the model; traced values are never run.
        causal: whether responses follow the taps' time, if it is known.
        learns: whether readout "loss" also learns a feedback from the outputs.

    Raises:
        ValueError: as `check_model` does; also if `causal` is None but needed, because values are
            traced or `trial` is False, or if it contradicts the result of the trial.
    """
    inputs, targets = batch
    check_batch_axes(model, params, inputs, nodes)
    concrete = not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, batch)))
    if readout is None:
        readout = "next" if has_marks_in_scans(nodes) else "output"
    if isinstance(readout, tuple):
        readout = "mirror" if "mirror" in readout and nodes.linears else readout[-1]
    if readout == "mirror":
        return _examine_linears(model, params, inputs, nodes, trial=trial and concrete)
    structure = find_structure(model, params, inputs, nodes)
    chained = readout == "next"
    stages = {name: stages_of(nodes, structure, name) if chained else () for name in nodes.taps}
    responses: dict[str, Any] = {"outputs": nodes.outputs}
    if readout == "loss":
        losses = jax.eval_shape(loss_fn, nodes.outputs, targets)
        responses = {"losses": losses} | ({"outputs": nodes.outputs} if learns else {})
    timed = [
        name for name, shape in nodes.taps.items() if not chained and has_time_of(shape, responses)
    ]
    tried = None
    if trial and concrete:
        fed = {node for name in nodes.taps for node in structure.feeds[name]}
        tried = _Trial(model, loss_fn, params, (inputs, targets), nodes, fed, readout, learns)
    coupling = tried.coupling() if tried else None
    coupled = coupling is not None and coupling > NOTHING
    aligned = {name: _aligned(name, tried, causal, coupled) for name in timed}
    report = ModelReport(
        readout,
        coupling,
        tuple(
            TapReport(
                name,
                shape.units,
                shape.order,
                shape.steps,
                stages[name],
                aligned.get(name),
                tried.effect(name) if tried else None,
                (tried.coupling([name]) if coupled else coupling) if tried else None,
            )
            for name, shape in sorted(nodes.taps.items(), key=lambda item: item[1].order)
        ),
    )
    if coupled and readout != "loss":
        worst = max(report.taps, key=lambda tap: tap.coupling or 0)
        warnings.warn(
            f"noise at tap {worst.name!r} in some examples changes the response of others, by "
            f"{worst.coupling:.2g} of the change in those examples, as with batch statistics; this "
            f"biases readout {readout!r}: use use_running_average=True, a normalisation of each "
            'example, or readout="loss"',
            stacklevel=4,
        )
    return report


def _examine_linears(
    model: Model, params: Params, inputs: Any, nodes: Nodes, *, trial: bool
) -> ModelReport:
    """Finds the linear stages that a mirror learns, and checks that they are linear."""
    linears = find_linears(model, params, inputs, nodes)
    needed = {name: found for name, found in linears.items() if found.needed}
    if not needed:
        raise ValueError(
            "apply_fn marks no linear stage whose input depends on parameters; readout 'mirror' "
            "takes stages marked by y = tap.linear(apply, weights, h) or nmnc_jax.mirror_layers"
        )
    uses = positions_of_all(model, params, inputs)
    if trial:
        for name, (nonlinear, excess) in try_stages(model, params, inputs, needed).items():
            if not nonlinear < LINEAR:
                raise ValueError(
                    f"linear stage {name!r} is off linear by {nonlinear:.2g}; readout 'mirror' "
                    "takes apply(weights, h) that is linear in both arguments: add biases, and "
                    "scale or normalise weights, outside the stage"
                )
            if not excess < 1:
                raise ValueError(
                    f"linear stage {name!r} does not return to its weights what noise at its input "
                    "correlates with; readout 'mirror' takes a stage that uses each weight "
                    "unchanged: scale, mask and tie weights outside the stage"
                )
    taps = []
    for name, found in sorted(needed.items(), key=lambda item: item[1].shape.input.order):
        shape = found.shape.input
        steps = 1 if found.stacked else math.prod(shape.shape[: shape.batch_axis])
        taps.append(
            TapReport(
                name,
                shape.units,
                shape.order,
                shape.steps,
                found.shape.labels(stacked=found.stacked),
                aligned=None,
                effect=None,
                coupling=None,
                stacked=found.stacked,
                shared=uses[name].mean * steps / shape.steps,
                summed=round(uses[name].weights_each),
            )
        )
    return ModelReport("mirror", None, tuple(taps))


def _aligned(name: str, tried: "_Trial | None", causal: Causal, coupled: bool) -> bool:
    """Returns whether the response follows a tap's time, which is given or tried."""
    known = causal.get(name) if isinstance(causal, Mapping) else causal
    if known is False:
        return False
    if tried is None:
        if known is None:
            raise ValueError(
                f"causal is None for tap {name!r}, whose time axes the response has too; whether "
                "the response follows the tap's time cannot be tried on traced values or with "
                "check=False: call init outside jit, or pass causal=True or causal=False"
            )
        return known
    found = not coupled and tried.follows_time(name)
    if known and not found:
        raise ValueError(
            f"causal is True for tap {name!r}, but noise at a time step changes the response at "
            "earlier steps; it takes False"
        )
    return found


class _Trial:
    """Runs the model on a small batch, with noise in some examples and time steps."""

    def __init__(
        self,
        model: Model,
        loss_fn: LossFn,
        params: Params,
        batch: Batch,
        nodes: Nodes,
        fed: set[str],
        readout: str,
        learns: bool,
    ):
        inputs, targets = batch
        all_nodes, all_examples = nodes, examples_of(nodes.outputs)
        # A single example is repeated, and each copy is given different noise.
        some = np.arange(EXAMPLES if all_examples == 1 else min(EXAMPLES, all_examples))
        some = some % all_examples

        def few(tree: Any) -> Any:
            # Concrete values are tried even if init is called inside a function that is traced.
            with jax.ensure_compile_time_eval():
                return jax.tree.map(
                    lambda x: jnp.asarray(x)[some] if jnp.shape(x)[:1] == (all_examples,) else x,
                    tree,
                )

        try:
            nodes = trace_nodes(model, params, few(inputs))
            jax.eval_shape(loss_fn, nodes.outputs, few(targets))
            inputs, targets = few(inputs), few(targets)
        except Exception:  # The model takes no other number of examples, so all are tried.
            nodes = all_nodes
        self._shapes = nodes.taps
        self._batch = examples_of(nodes.outputs)

        self._batch_axis = {
            node: len(nodes.scopes[node]) if readout == "next" else 0 for node in nodes.scopes
        }

        def respond(
            params: Params,
            inputs: Any,
            targets: Any,
            masks: dict[str, Array],
            drawn: dict[str, Array],
            scales: dict[str, Array],
            replay: dict[str, Any],
        ) -> tuple[Any, Any]:
            noise = {}
            for name, shape in self._shapes.items():
                mask = masks[name]
                wide = mask.reshape(*mask.shape, *(1,) * (len(shape.shape) - mask.ndim))
                noise[name] = (scales[name] * wide * drawn[name]).astype(shape.dtype)
            tap = Tap(noise, replay=replay)
            outputs = model(params, inputs, tap)
            if readout == "next":
                response: Any = {n: v for n, v in tap.arrived.items() if n in fed}
            elif readout == "loss":
                response = {"losses": loss_fn(outputs, targets)}
                response |= {"outputs": outputs} if learns else {}
            else:
                response = {"outputs": outputs}
            response = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), response)
            kept = tap.arrived if readout == "next" else {}
            return response, (kept, {name: SIZE * _rms(tap.arrived[name]) for name in masks})

        jitted = jax.jit(respond)
        random = np.random.default_rng(0)
        drawn = {
            name: random.standard_normal(shape.shape, np.float32)
            for name, shape in self._shapes.items()
        }

        def responded(
            params: Params, masks: dict[str, np.ndarray], scales: Any, replay: Any
        ) -> Any:
            with jax.ensure_compile_time_eval():
                return jitted(params, inputs, targets, masks, drawn, scales, replay)

        nothing, everything = self._masks([]), self._masks(list(self._shapes))
        ones = dict.fromkeys(self._shapes, np.float32(1))
        with jax.ensure_compile_time_eval():
            generic = _generic(params)
        # Parameters of generic size hide no dependence. If they make the response non-finite, the
        # model's parameters are used.
        clean, (arrived, scales) = responded(generic, nothing, ones, {})
        if not _finite(clean):
            generic = params
            clean, (arrived, scales) = responded(generic, nothing, ones, {})
        replay = {node: value for node, value in arrived.items() if node != OUTPUTS}
        # Noise may leave the domain of a logarithm or a root, so smaller noise is tried.
        for _ in range(4):
            if _finite(responded(generic, everything, scales, replay)[0]):
                break
            scales = {name: scale / 10 for name, scale in scales.items()}
        self._clean = jax.device_get(clean)
        self._respond = lambda masks: jax.device_get(responded(generic, masks, scales, replay)[0])

    def _masks(self, names: list[str], mask: Any = None) -> dict[str, np.ndarray]:
        """Returns masks [..., B, ...]: 1 or `mask` ([T, B] or [B]) at the named taps, else 0."""
        masks = {}
        for name, shape in self._shapes.items():
            places = np.zeros((shape.steps, shape.batch), np.float32)
            if name in names:
                places[:] = 1 if mask is None else mask
            by_time = places.reshape(*shape.times, shape.batch)
            masks[name] = np.moveaxis(by_time, -1, shape.batch_axis)
        return masks

    def _changes(self, masks: dict[str, np.ndarray]) -> Any:
        def changed(now: np.ndarray, before: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                # A value that is no longer finite has changed; one that never was is ignored.
                change = np.nan_to_num(np.abs(now - before), nan=np.inf, posinf=np.inf)
            return np.where(np.isfinite(before), change, 0)

        return jax.tree.map(changed, self._respond(masks), self._clean)

    def _by_example(self, changes: dict[str, Any]) -> np.ndarray:
        """Returns the sum of the changes of each example's response, [B]."""
        total = np.zeros(self._batch)
        for node, leaves in changes.items():
            for leaf in jax.tree.leaves(leaves):
                moved = np.moveaxis(leaf, self._batch_axis.get(node, 0), 0)
                total += moved.reshape(self._batch, -1).sum(axis=1)
        return total

    def coupling(self, names: list[str] | None = None) -> float | None:
        """Returns the largest change of other examples relative to that of examples with noise.

        Every pair of examples is separated by one of the splits into examples with and without.
        """
        if self._batch < 2:
            return None
        largest = 0.0
        for bit in range(math.ceil(math.log2(self._batch))):
            for value in (0, 1):
                noisy = (np.arange(self._batch) >> bit) & 1 == value
                masks = self._masks(names or list(self._shapes), noisy[None].astype(np.float32))
                change = self._by_example(self._changes(masks))
                own, others = change[noisy].mean(), change[~noisy].mean()
                if others > 0:
                    comparable = own > 0 and math.isfinite(others)
                    largest = max(largest, float(others / own) if comparable else math.inf)
        return largest

    def effect(self, name: str) -> float:
        """Returns the root mean square of the response's change, relative to the response."""
        changes = jax.tree.leaves(self._changes(self._masks([name])))
        sizes = jax.tree.leaves(self._clean)
        return float(_root_square(changes) / max(_root_square(sizes), 1e-30))

    def follows_time(self, name: str) -> bool:
        """Returns whether noise from a time step on leaves the earlier response unchanged."""
        shape = self._shapes[name]
        cuts = np.arange(1, shape.steps)
        if len(cuts) > CUTS:
            some = np.random.default_rng(0).choice(cuts, CUTS // 2, replace=False)
            cuts = np.unique(np.concatenate([cuts[: CUTS // 4], cuts[-CUTS // 4 :], some]))
        for start in range(0, len(cuts), self._batch):
            each = np.resize(cuts[start : start + self._batch], self._batch)
            later = np.arange(shape.steps)[:, None] >= each[None]
            changes = self._changes(self._masks([name], later.astype(np.float32)))
            for leaf in jax.tree.leaves(changes):
                by_time = leaf.reshape(self._batch, shape.steps, -1).sum(axis=2)
                early, late = by_time[~later.T].sum(), by_time[later.T].sum()
                if not math.isfinite(early) or early > NOTHING * (early + late):
                    return False
        return True


def _generic(params: Params) -> Params:
    """Replaces parameters that are so small that they hide a dependence, such as zeros."""
    random = np.random.default_rng(1)

    def filled(leaf: Any) -> Any:
        # In NumPy: compiling a program for each shape would take longer than all other checks.
        if not jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating):
            return leaf
        values = np.asarray(leaf, np.float32)
        size = max(math.prod(values.shape[:-1]), 1) ** -0.5 if values.ndim > 1 else 0.5
        rms = _root_square([values]) / max(values.size, 1) ** 0.5
        if rms >= 0.1 * size or values.size == 0:
            return leaf
        if rms == 0:
            return (random.standard_normal(values.shape) * size).astype(leaf.dtype)
        return (values * (size / rms)).astype(leaf.dtype)

    return jax.tree.map(filled, params)


def _finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def _rms(value: Array) -> Array:
    rms = jnp.sqrt(jnp.mean(value.astype(jnp.float32) ** 2))
    return jnp.where(rms > 0, rms, 1)


def _root_square(leaves: list[np.ndarray]) -> float:
    return math.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in leaves))


def check_memory(
    bases: Mapping[str, int], feedback: Mapping[str, int], shapes: Mapping[str, TapShape]
) -> None:
    """Checks that bases and feedback fit into the memory of the device.

    Args:
        bases: tap name to bytes of its basis.
        feedback: tap name to bytes of its feedback.
        shapes: the taps.

    Raises:
        ValueError: if they do not fit. The message gives the bytes and names the largest tap.
    """
    need, available = sum(bases.values()) + sum(feedback.values()), _memory()
    if need > available:
        name = max(shapes, key=lambda name: bases[name] + feedback[name])
        raise ValueError(
            f"bases take {_bytes(sum(bases.values()))} and feedback "
            f"{_bytes(sum(feedback.values()))}, most of it at tap {name!r} with "
            f"{shapes[name].units} units; the device has {_bytes(available)}: use a lower "
            "rank, fewer taps, a horizon, or another readout"
        )


def _memory() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _feedback_bytes(readout: str, tap: TapReport) -> str:
    size = sum(count for _, count in tap.stages)
    if readout == "next":
        return _bytes(4 * tap.units * max(size, 1))
    return _bytes(4 * size) if readout == "mirror" else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
