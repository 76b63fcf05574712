"""Controls that are no methods of their own: noise correlation with bases moved in other ways."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax import Estimator, Subspace, no_tap, run
from nmnc_jax.credit import chained_gradients, losses_and_error
from nmnc_jax.diagnostics import exact_jacobian
from nmnc_jax.feedback import FeedbackState, rotate
from nmnc_jax.general import info_from
from nmnc_jax.shapes import matrices, tap_shapes
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import FixedBasis, project
from nmnc_jax.types import ApplyFn, Array, Batch, LossFn, Params

Move = Callable[[NoiseCorrelationState, Params, Batch], NoiseCorrelationState]


def moved_by(move: Move, estimator: Estimator, *, every: int, at_start: bool) -> Estimator:
    """Moves the bases of noise correlation from outside, every so many steps.

    Args:
        move: state, parameters and batch to the state with other bases.
        estimator: noise correlation whose bases would not move.
        every: steps between two moves.
        at_start: whether init moves them too.
    """

    def init(params: Params, batch: Batch) -> NoiseCorrelationState:
        state = estimator.init(params, batch)
        return move(state, params, batch) if at_start else state

    def estimate(key: Array, params: Params, batch: Batch, state: Any) -> tuple[Any, Any, Any]:
        due = (state.step > 0) & (state.step % every == 0)
        moved = lax.cond(due, lambda old: move(old, params, batch), lambda old: old, state)
        return estimator.estimate(key, params, batch, moved)

    return Estimator(init, estimate)


def without_rotation(apply_fn: ApplyFn, subspace: Subspace) -> Move:
    """Follows the activity, but leaves the feedback's coordinates as they are.

    It shows what the rotation is for: the coordinates then stand for other directions.
    """
    update = subspace.update
    assert update is not None

    def move(state: NoiseCorrelationState, params: Params, batch: Batch) -> NoiseCorrelationState:
        _, activations = run(apply_fn, params, batch[0])
        shapes = tap_shapes(apply_fn, params, batch[0])
        rows = matrices(shapes, activations)
        moved = {name: update(old, rows[name]) for name, old in state.subspace.items()}
        return state._replace(subspace=moved)

    return move


def exact_feedback(apply_fn: ApplyFn) -> Move:
    """Replaces the feedback by the batch's exact mean Jacobian: what probes could measure at best.

    In a manifold it is the part inside: what is lost then is the bias, without any noise.
    """

    def move(state: NoiseCorrelationState, params: Params, batch: Batch) -> NoiseCorrelationState:
        jacobians = exact_jacobian(apply_fn, params, batch[0])
        feedback = {
            name: FeedbackState(
                project(state.subspace[name].basis, jacobians[name].mean(axis=0)), old.weight
            )
            for name, old in state.feedback.items()
        }
        return state._replace(feedback=feedback)

    return move


def one_step(apply_fn: ApplyFn, loss_fn: LossFn) -> Estimator:
    """Backpropagation of which nothing goes back through the recurrent weights.

    Errors of a time step reach its rates by the readout's weights, and earlier time steps by the
    leak or the gates alone. It takes a network of `nmnc_jax.models.recurrent`.
    """

    def estimate(key: Array, params: Params, batch: Batch, state: Any) -> tuple[Any, Any, Any]:
        inputs, targets = batch
        outputs = apply_fn(params, inputs, no_tap)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        shapes = tap_shapes(apply_fn, params, inputs)
        named = {path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        stage = jnp.concatenate([jnp.zeros_like(named["recurrent"]), named["output"]], axis=1)
        gradients, credit = chained_gradients(
            apply_fn,
            params,
            inputs,
            shapes=shapes,
            bases=dict.fromkeys(shapes),
            coordinates=dict.fromkeys(shapes, stage.T),
            output_error=error,
        )
        return gradients, state, info_from(losses, outputs, credit)

    return Estimator(lambda params, batch: (), estimate)


def jacobian_rows(apply_fn: ApplyFn) -> Move:
    """Spans the rows of the batch's exact mean Jacobian: the best subspace of its dimension."""

    def move(state: NoiseCorrelationState, params: Params, batch: Batch) -> NoiseCorrelationState:
        jacobians = exact_jacobian(apply_fn, params, batch[0])
        bases, feedback = {}, {}
        for name, old in state.subspace.items():
            assert old.basis is not None
            rows = jacobians[name].mean(axis=0)
            directions = jnp.linalg.svd(rows, full_matrices=False)[2].T
            bases[name] = FixedBasis(directions[:, : old.basis.shape[1]])
            feedback[name] = rotate(state.feedback[name], old.basis, bases[name].basis)
        return state._replace(subspace=bases, feedback=feedback)

    return move
