"""What each readout assumes of a model, examined at init or by a user."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.core import Tracer

from nmnc_jax.checks import check_batch, warn
from nmnc_jax.layout import (
    Nodes,
    check_batch_axes,
    find_structure,
    has_marks_in_scans,
    has_time_of,
    stages_of,
    trace_nodes,
)
from nmnc_jax.model_check.linears import examine_linears
from nmnc_jax.model_check.report import NOTHING, ModelReport, TapReport
from nmnc_jax.model_check.trial import Trial
from nmnc_jax.taps import Model
from nmnc_jax.types import ApplyFn, Batch, LossFn, Params

Causal = bool | Mapping[str, bool] | None
Choice = str | tuple[str, ...] | None
"""A readout, a tuple of which the model's marks select one, or None for the model's default."""


def choices_of(readout: Choice) -> tuple[str, ...]:
    """Returns the readouts among which the model's marks decide."""
    if readout is None:
        return ("output", "next")
    return readout if isinstance(readout, tuple) else (readout,)


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
        return examine_linears(model, params, inputs, nodes, trial=trial and concrete)
    if not nodes.taps:
        raise ValueError(
            "apply_fn has no tap; pass each hidden activation through tap(name, x), or use readout "
            "'mirror', which takes its linear stages"
        )
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
        tried = Trial(model, loss_fn, params, (inputs, targets), nodes, fed, readout, learns)
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
        warn(
            f"noise at tap {worst.name!r} in some examples changes the response of others, by "
            f"{worst.coupling:.2g} of the change in those examples, as with batch statistics; this "
            f"biases readout {readout!r}: use use_running_average=True, a normalisation of each "
            'example, or readout="loss"'
        )
    return report


def _aligned(name: str, tried: Trial | None, causal: Causal, coupled: bool) -> bool:
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
