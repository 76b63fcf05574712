"""Feedback weights in factored form: [o, d] coordinates on a tap's [n, d] basis.

The feedback matrix of a tap is B = coordinates @ basis^T, [o, n], and is never formed where d < n.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count
from nmnc_jax.types import Array, DType


class FeedbackState(NamedTuple):
    """The feedback of one tap.

    Attributes:
        total: exponentially weighted sum of the estimates, [o, d].
        weight: sum of their weights, a scalar; 1 in the limit, less at the start.
    """

    total: Array
    weight: Array

    @property
    def coordinates(self) -> Array:
        """The feedback's coordinates, [o, d], debiased as Adam's moments are."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1)


class Feedback(NamedTuple):
    """A way to obtain feedback weights.

    Attributes:
        init: ``init(key, outputs, dimension, dtype) -> FeedbackState``.
        update: ``update(state, correlation) -> FeedbackState``, or None if it is never learned.
        update_every: steps between updates.
        seed: seed of the key that init gets, folded with each tap's place.
    """

    init: Callable[[Array, int, int, DType], FeedbackState]
    update: Callable[[FeedbackState, Array], FeedbackState] | None = None
    update_every: int = 1
    seed: int = 0


def learned_feedback(decay: float = 0.9, *, update_every: int = 1) -> Feedback:
    """Feedback learned by noise correlation: B <- decay B + (1 - decay) J_hat, debiased.

    Args:
        decay: of the moving average, in [0, 1); 0 keeps this step's estimate alone.
        update_every: training steps between two estimates.

    Returns:
        A `Feedback` that starts from zero.

    Raises:
        ValueError: if `decay` or `update_every` is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import learned_feedback
        >>> feedback = learned_feedback(0.9)
        >>> state = feedback.init(jax.random.key(0), 2, 3, jnp.float32)
        >>> feedback.update(state, jnp.ones((2, 3))).coordinates[0]
        Array([1., 1., 1.], dtype=float32)
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"feedback decay is {decay}; it takes a number from 0 to below 1")
    check_count("update_every", update_every)

    def init(key: Array, outputs: int, dimension: int, dtype: DType) -> FeedbackState:
        del key
        return FeedbackState(jnp.zeros((outputs, dimension), dtype), jnp.zeros((), dtype))

    def update(state: FeedbackState, correlation: Array) -> FeedbackState:
        return FeedbackState(
            decay * state.total + (1 - decay) * correlation,
            decay * state.weight + (1 - decay),
        )

    return Feedback(init, update, update_every)


def random_feedback(*, seed: int = 0) -> Feedback:
    """Fixed random feedback: direct feedback alignment (Nokland 2016).

    Entries are Gaussian with variance 1/d, the scale of the Jacobian of a network that keeps the
    size of its signals.

    Args:
        seed: of the feedback weights.

    Returns:
        A `Feedback` that is never updated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import random_feedback
        >>> random_feedback().init(jax.random.key(0), 2, 3, jnp.float32).coordinates.shape
        (2, 3)
    """

    def init(key: Array, outputs: int, dimension: int, dtype: DType) -> FeedbackState:
        weights = jax.random.normal(key, (outputs, dimension), dtype) * dimension**-0.5
        return FeedbackState(weights, jnp.ones((), dtype))

    return Feedback(init, seed=seed)


def rotate(state: FeedbackState, old_basis: Array, new_basis: Array) -> FeedbackState:
    """Carries feedback over to a new basis: B_z <- B_z U_old^T U_new.

    Only what the new basis does not span is lost.

    Args:
        state: feedback with coordinates [o, d] on the old basis.
        old_basis: [n, d].
        new_basis: [n, d].

    Returns:
        The same feedback with coordinates on the new basis.
    """
    return state._replace(total=state.total @ (old_basis.T @ new_basis))
