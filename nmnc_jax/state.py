"""What noise correlation remembers from step to step, and how it moves."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.feedback import Feedback, FeedbackState, rotate
from nmnc_jax.subspace import Subspace, SubspaceState
from nmnc_jax.types import Array


class NoiseCorrelationState(NamedTuple):
    """State of `noise_correlation`.

    Attributes:
        step: estimates made so far, a scalar.
        subspace: tap name to its `SubspaceState`.
        feedback: tap name to its `FeedbackState`; empty where there is none.
    """

    step: Array
    subspace: dict[str, SubspaceState]
    feedback: dict[str, FeedbackState]


def move_subspaces(
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


def learn(
    feedback: Feedback | None,
    state: NoiseCorrelationState,
    probe_taps: Callable[[], dict[str, dict[str, Array]]],
) -> NoiseCorrelationState:
    """Updates the feedback with this step's probes, when it is learned and its step has come."""
    if feedback is None or feedback.update is None:
        return state
    update = feedback.update

    def updated(old: dict[str, FeedbackState]) -> dict[str, FeedbackState]:
        new = probe_taps()
        return {name: update(old[name], new[name]["jacobian"]) for name in old}

    if feedback.update_every == 1:
        return state._replace(feedback=updated(state.feedback))
    due = state.step % feedback.update_every == 0
    return state._replace(feedback=lax.cond(due, updated, lambda old: old, state.feedback))
