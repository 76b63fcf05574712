"""Control methods for experiments: noise correlation with exact or differently moved parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax import Estimator, Subspace, gradients_from_credit, no_tap, run
from nmnc_jax.backprop import EmptyState
from nmnc_jax.credit import info_from, local_pass, losses_and_error, losses_of
from nmnc_jax.diagnostics import exact_credit, exact_jacobian
from nmnc_jax.feedback import rotate
from nmnc_jax.layout import (
    find_structure,
    flatten,
    matrices,
    output_rows,
    tap_shapes,
    trace_nodes,
    unflatten,
)
from nmnc_jax.schedule import due_at
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import FixedBasis, lift, project
from nmnc_jax.taps import Model, Tap
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Due, Info, LossFn, Params

Move = Callable[[NoiseCorrelationState, Params, Batch], NoiseCorrelationState]


def moved_by(move: Move, estimator: Estimator, *, every: int, at_start: bool) -> Estimator:
    """Returns an estimator whose state is moved by a given function at an interval.

    Args:
        move: function of state, parameters and batch that returns the moved state.
        estimator: noise correlation whose bases do not move otherwise.
        every: number of steps between two moves.
        at_start: whether init also moves the state.
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


def in_every_step(move: Move, estimator: Estimator) -> Estimator:
    """Returns an estimator whose state is moved by a given function at init and in every step.

    Bases that the estimator itself moves keep their interval.
    """

    def init(params: Params, batch: Batch, **kwargs: Any) -> NoiseCorrelationState:
        return move(estimator.init(params, batch, **kwargs), params, batch)

    def estimate(key: Array, params: Params, batch: Batch, state: Any, **kwargs: Any) -> Any:
        return estimator.estimate(key, params, batch, move(state, params, batch), **kwargs)

    return Estimator(init, estimate, estimator.due)


def without_rotation(apply_fn: ApplyFn, subspace: Subspace) -> Move:
    """Returns a move that updates the bases but does not rotate the feedback's coordinates.

    It shows why the rotation is needed: without it the coordinates belong to other directions.
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
    """Returns a move that replaces the feedback by the batch's exact mean Jacobian.

    This is the best that probes could measure. In a manifold the feedback is the part of the
    Jacobian inside it, so that the error is the bias without noise.
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


def exact_credit_inside(apply_fn: ApplyFn, loss_fn: LossFn, estimator: Estimator) -> Estimator:
    """Returns an estimator that uses the part of each example's exact credit in the bases.

    The error is the bias of the subspace alone, without noise and without the mean over examples
    that a learned feedback is.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        estimator: noise correlation, of which only the state is used.
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
        _, state, info = estimator.estimate(key, params, batch, state, due=due, **kwargs)
        model = partial(apply_fn, **kwargs)
        exact, error = exact_credit(model, loss_fn, params, batch)
        shapes = tap_shapes(model, params, batch[0])
        inside = {}
        for name, rows in matrices(shapes, exact).items():
            basis = state.subspace[name].basis
            inside[name] = unflatten(shapes[name], lift(basis, project(basis, rows)))
        gradients = gradients_from_credit(
            model, params, batch[0], credit=inside, output_error=error
        )
        return gradients, state, info._replace(credit=inside)

    return Estimator(estimator.init, estimate, estimator.due)


def _without_state(step: Callable[..., tuple[Any, Info]]) -> Estimator:
    """Returns an estimator from ``step(params, batch, **kwargs) -> (gradients, info)``."""

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: EmptyState,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Any, EmptyState, Info]:
        del key, due
        gradients, info = step(params, batch, **kwargs)
        return gradients, state, info

    return Estimator(lambda params, batch, *, key=None, **kwargs: EmptyState(), estimate)


def exact_feedback_of_others(apply_fn: ApplyFn, loss_fn: LossFn) -> Estimator:
    """Returns an estimator that carries each error back by the mean Jacobian of the other examples.

    Learned feedback, too, is measured on other examples than those whose errors it carries, but
    also at earlier weights and with noise.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
    """

    def step(params: Params, batch: Batch, **kwargs: Any) -> tuple[Any, Info]:
        inputs, targets = batch
        model = partial(apply_fn, **kwargs)
        outputs = model(params, inputs, no_tap)
        losses = losses_of(loss_fn, outputs, targets)
        exact, error = exact_credit(model, loss_fn, params, batch)
        jacobians = exact_jacobian(model, params, inputs)
        rows = output_rows(error)
        credit = {}
        for name, shape in tap_shapes(model, params, inputs).items():
            by_all = rows @ jacobians[name].sum(axis=0)
            own = flatten(shape, exact[name]).reshape(by_all.shape)
            by_others = (by_all - own) / (len(rows) - 1)
            credit[name] = unflatten(shape, by_others.reshape(-1, shape.units))
        gradients = gradients_from_credit(model, params, inputs, credit=credit, output_error=error)
        return gradients, info_from(losses, outputs, credit, gradients)

    return _without_state(step)


def one_step(apply_fn: ApplyFn, loss_fn: LossFn) -> Estimator:
    """Returns backpropagation without the path through the recurrent weights.

    The error of a time step reaches its rates by the output weights, and earlier time steps only by
    the leak or the gates. The model is a network of `nmnc_jax.models.recurrent`.
    """

    def step(params: Params, batch: Batch, **kwargs: Any) -> tuple[Any, Info]:
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
        return gradients, info_from(losses, outputs, credit, gradients)

    return _without_state(step)


def jacobian_rows(apply_fn: ApplyFn) -> Move:
    """Returns a move to the best subspace: the span of the batch's exact mean Jacobian's rows."""

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
