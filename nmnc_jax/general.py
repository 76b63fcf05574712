"""The general method: subspace, readout, probe and feedback composed into one estimator."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.checks import check_finite, check_precision
from nmnc_jax.correlate import correlations
from nmnc_jax.credit import feedback_credit, local_gradients, losses_and_error
from nmnc_jax.feedback import Feedback, FeedbackState, rotate
from nmnc_jax.probes import Probe
from nmnc_jax.shapes import TapShape, at_least_float32, flatten, tap_shapes, unflatten
from nmnc_jax.subspace import Subspace, SubspaceState, dimension_of, lift
from nmnc_jax.taps import Tap, no_tap, run
from nmnc_jax.types import (
    Activations,
    ApplyFn,
    Array,
    Batch,
    Estimator,
    Info,
    LossFn,
    Params,
)


class NoiseCorrelationState(NamedTuple):
    """State of `noise_correlation`.

    Attributes:
        step: estimates made so far, a scalar.
        subspace: tap name to its `SubspaceState`.
        feedback: tap name to its `FeedbackState`; empty for the `loss` readout.
    """

    step: Array
    subspace: dict[str, SubspaceState]
    feedback: dict[str, FeedbackState]


def noise_correlation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    subspace: Subspace,
    readout: Literal["output", "loss"],
    probe: Probe,
    feedback: Feedback | None,
) -> Estimator:
    """The general method: perturb each tap in a subspace, correlate with what changes downstream.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, one loss per example.
        subspace: directions of the perturbations (`isotropic`, `pca`, `random_subspace`,
            `fixed_subspace`).
        readout: "output": correlate with the outputs, averaged over examples (and, by the feedback,
            over steps) into a feedback matrix that carries the output error back. "loss": correlate
            with each example's loss; credit without any feedback weights.
        probe: number, kind and size of the perturbations.
        feedback: `learned_feedback` or `random_feedback` for "output"; None for "loss".

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if readout and feedback do not fit; (from init and estimate) if the model has no
            tap, the loss is reduced, a rank exceeds a tap's units, an input is not finite, or
            finite differences meet a bfloat16 model.

    Source:
        Kang, Richards and Sabatini 2026 (arXiv 2601.02636): output readout on the neural manifold.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import Probe, learned_feedback, noise_correlation, random_subspace
        >>> def model(params, inputs, tap):
        ...     return tap("hidden", jnp.tanh(inputs @ params["in"])) @ params["out"]
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> batch = jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> estimator = noise_correlation(
        ...     model, lambda outputs, targets: ((outputs - targets) ** 2).sum(-1),
        ...     subspace=random_subspace(2), readout="output", probe=Probe(num=1),
        ...     feedback=learned_feedback(0.9))
        >>> state = estimator.init(params, batch)
        >>> gradients, state, info = estimator.estimate(jax.random.key(0), params, batch, state)
        >>> gradients["in"].shape, info.outputs.shape
        ((3, 4), (5, 2))
    """
    if readout not in ("output", "loss"):
        raise ValueError(f"readout is {readout!r}; it takes 'output' or 'loss'")
    if (readout == "output") != (feedback is not None):
        raise ValueError(
            f"feedback is {feedback} with readout {readout!r}; "
            "'output' takes a feedback, 'loss' takes None"
        )
    probes_at_all = feedback is None or feedback.update is not None

    def init(params: Params, batch: Batch) -> NoiseCorrelationState:
        shapes = _check(params, batch)
        outputs, activations = run(apply_fn, params, batch[0])
        rows = _rows(shapes, activations)
        subspaces = {name: subspace.init(name, rows[name]) for name in shapes}
        feedbacks = {}
        if feedback is not None:
            keys = jax.random.split(jax.random.key(feedback.seed), len(shapes))
            for key, name in zip(keys, shapes, strict=True):
                dimension = dimension_of(subspaces[name].basis, shapes[name].units)
                feedbacks[name] = feedback.init(key, outputs[0].size, dimension, rows[name].dtype)
        return NoiseCorrelationState(jnp.zeros((), jnp.int32), subspaces, feedbacks)

    def estimate(
        key: Array, params: Params, batch: Batch, state: NoiseCorrelationState
    ) -> tuple[Params, NoiseCorrelationState, Info]:
        inputs, targets = batch
        shapes = _check(params, batch)
        outputs, activations, pullback = local_gradients(apply_fn, params, inputs)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        rows = _rows(shapes, activations)
        state = _move_subspaces(subspace, state, rows)
        bases = {name: state.subspace[name].basis for name in shapes}

        def forward(tap: Tap) -> Array:
            outputs = apply_fn(params, inputs, tap)
            response = loss_fn(outputs, targets) if readout == "loss" else outputs
            return response.reshape(len(outputs), -1)

        def correlate() -> dict[str, Array]:
            return correlations(
                forward,
                key=key,
                probe=probe,
                clean=activations,
                shapes=shapes,
                bases=bases,
                scales={name: _coordinate_size(rows[name], bases[name]) for name in shapes},
                pooled=readout == "output",
            )

        if feedback is None:
            slopes = correlate()
            credit = {name: lift(bases[name], slopes[name]) / len(losses) for name in shapes}
        else:
            feedbacks = _learn(feedback, state, correlate)
            state = state._replace(feedback=feedbacks)
            error_rows = error.reshape(len(error), -1)
            credit = {
                name: feedback_credit(
                    feedbacks[name].coordinates, bases[name], error_rows.astype(rows[name].dtype)
                )
                for name in shapes
            }
        credit = {
            name: unflatten(shape, credit[name]).astype(shape.dtype)
            for name, shape in shapes.items()
        }
        state = state._replace(step=state.step + 1)
        return pullback(error, credit), state, info_from(losses, outputs, credit)

    def _check(params: Params, batch: Batch) -> dict[str, TapShape]:
        check_finite(batch)
        shapes = tap_shapes(apply_fn, params, batch[0])
        if probes_at_all:
            dtypes = {f"tap {name!r}": shape for name, shape in shapes.items()}
            outputs = jax.eval_shape(lambda p, x: apply_fn(p, x, no_tap), params, batch[0])
            check_precision(probe.difference, dtypes | {"the output": outputs})
        return shapes

    return Estimator(init, estimate)


def _move_subspaces(
    subspace: Subspace, state: NoiseCorrelationState, rows: dict[str, Array]
) -> NoiseCorrelationState:
    """Updates the bases when their step has come, and rotates the feedback with them."""
    update = subspace.update
    if update is None:
        return state

    def move(state: NoiseCorrelationState) -> NoiseCorrelationState:
        moved = {name: update(old, rows[name]) for name, old in state.subspace.items()}
        turned = {}
        for name, feedback in state.feedback.items():
            old_basis, new_basis = state.subspace[name].basis, moved[name].basis
            assert old_basis is not None
            turned[name] = rotate(feedback, old_basis, new_basis)
        return state._replace(subspace=moved, feedback=turned)

    # init has fitted the first basis, so step 0 is not due.
    due = (state.step > 0) & (state.step % subspace.update_every == 0)
    # A loop of no or one turn keeps its carry in place, where a conditional copies every basis; and
    # a flat carry has one layout, where the factorisation's would be transposed into in every step.
    leaves, tree = jax.tree.flatten(state)

    def turn(_: Array, flat: list[Array]) -> list[Array]:
        shaped = [leaf.reshape(like.shape) for leaf, like in zip(flat, leaves, strict=True)]
        return [leaf.reshape(-1) for leaf in jax.tree.leaves(move(tree.unflatten(shaped)))]

    flat = lax.fori_loop(0, due.astype(jnp.int32), turn, [leaf.reshape(-1) for leaf in leaves])
    return tree.unflatten([f.reshape(like.shape) for f, like in zip(flat, leaves, strict=True)])


def _learn(
    feedback: Feedback, state: NoiseCorrelationState, correlate: Any
) -> dict[str, FeedbackState]:
    """Updates the feedback with this step's probes, when it is learned and its step has come."""
    update = feedback.update
    if update is None:
        return state.feedback

    def learn(old: dict[str, FeedbackState]) -> dict[str, FeedbackState]:
        new = correlate()
        return {name: update(old[name], new[name]) for name in old}

    if feedback.update_every == 1:
        return learn(state.feedback)
    due = state.step % feedback.update_every == 0
    return lax.cond(due, learn, lambda old: old, state.feedback)


def _rows(shapes: dict[str, TapShape], activations: Activations) -> dict[str, Array]:
    """Activity as matrices [B, n] of at least float32."""
    return {
        name: flatten(shape, activations[name]).astype(at_least_float32(shape.dtype))
        for name, shape in shapes.items()
    }


def _coordinate_size(rows: Array, basis: Array | None) -> Array:
    """Standard deviation of one coordinate that makes the perturbation's RMS per unit the tap's.

    The energy of a perturbation is then the same in a subspace of any dimension.
    """
    dimension = dimension_of(basis, rows.shape[1])
    rms = jnp.sqrt(jnp.mean(rows**2))
    return jnp.where(rms > 0, rms, 1) * (rows.shape[1] / dimension) ** 0.5


def info_from(losses: Array, outputs: Array, credit: Activations) -> Info:
    """Gathers what every estimate tells."""
    norms = {name: jnp.linalg.norm(value.reshape(-1)) for name, value in credit.items()}
    return Info(losses.mean(), outputs, norms, credit)
