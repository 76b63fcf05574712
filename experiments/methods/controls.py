"""Controls that are no methods of their own: noise correlation with bases moved in other ways."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax import Estimator, Subspace, no_tap, run
from nmnc_jax.backprop import EmptyState
from nmnc_jax.credit import info_from, local_pass, losses_and_error
from nmnc_jax.diagnostics import exact_jacobian
from nmnc_jax.feedback import rotate
from nmnc_jax.layout import find_structure, matrices, tap_shapes, trace_nodes
from nmnc_jax.schedule import due_at
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import FixedBasis, project
from nmnc_jax.taps import Model, Tap
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Due, LossFn, Params

Move = Callable[[NoiseCorrelationState, Params, Batch], NoiseCorrelationState]


def moved_by(move: Move, estimator: Estimator, *, every: int, at_start: bool) -> Estimator:
    """Moves the bases of noise correlation from outside, every so many steps.

    Args:
        move: state, parameters and batch to the state with other bases.
        estimator: noise correlation whose bases would not move.
        every: steps between two moves.
        at_start: whether init moves them too.
    """

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> NoiseCorrelationState:
        state = estimator.init(params, batch, key=key, **kwargs)
        return move(state, params, batch) if at_start else state

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: Any,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        if due is None:
            now = due_at(state.step, every, first=False)
            moved = lax.cond(now, lambda old: move(old, params, batch), lambda old: old, state)
        else:
            moved = move(state, params, batch) if due.move else state
        return estimator.estimate(key, params, batch, moved, due=due, **kwargs)

    def schedule(step: int) -> Due:
        moving = bool(due_at(step, every, first=False))
        return estimator.due(step)._replace(move=moving)

    return Estimator(init, estimate, schedule)


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
            name: old._replace(
                mean=project(state.subspace[name].basis, jacobians[name].mean(axis=0))
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

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: Any,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        del key, due
        inputs, targets = batch
        model = Model(apply_fn, kwargs=kwargs)
        outputs = model(params, inputs, no_tap)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        nodes = trace_nodes(model, params, inputs)
        structure = find_structure(model, params, inputs, nodes)
        named = {path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        recurrent, readout = named["recurrent"], named["output"]

        def stage(activation: Array) -> Array:
            nothing = activation @ jnp.zeros_like(recurrent)
            return jnp.concatenate([nothing, activation @ readout], axis=1)

        stages = {node: {name: stage} for name in nodes.taps for node in structure.feeds[name]}

        def tap(noise: Activations) -> Tap:
            return Tap(noise, cut=True, stages=stages)

        chained = local_pass(model, params, inputs, tap, nodes.taps)
        nothing = jax.tree.map(jnp.zeros_like, chained.activations)
        gradients, credit = chained.pullback(error, nothing)
        return gradients, state, info_from(losses, outputs, credit, gradients)

    return Estimator(lambda params, batch, *, key=None, **kwargs: EmptyState(), estimate)


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
