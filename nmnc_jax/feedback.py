"""Feedback weights in factored form: [o, d] coordinates on a tap's [n, d] basis.

The feedback matrix of a tap is B = coordinates @ basis^T, [o, n]. It is never formed if d < n.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count
from nmnc_jax.types import Array, DType

Shrinkage = Literal["relative", "whole"]


class FeedbackState(NamedTuple):
    """The feedback of one tap.

    Attributes:
        mean: weighted mean of the estimates, [o, d]; or a pytree with the structure of the weights
            of a linear stage, for which d is 1.
        weight: weight of the estimates of each direction, [d]. It approaches 1 and is smaller for
            a direction that entered the basis recently.
        variance: variance of the mean according to the law of the probes, relative to the square
            of the measured quantity, [d].
        limit: factor by which an estimate with this `variance` is scaled in the long run, a scalar.
        followed: what a feedback that follows weights remembers of them; None otherwise.
    """

    mean: Any
    weight: Array
    variance: Array
    limit: Array
    followed: Any = None

    @property
    def coordinates(self) -> Any:
        """The feedback's coordinates, [o, d]: the mean, scaled down if it rests on few probes."""
        share = 1 / ((1 + self.variance) * self.limit)
        return jax.tree.map(lambda mean: mean * _by_direction(share, mean), self.mean)


class Feedback(NamedTuple):
    """A way to obtain feedback weights.

    Attributes:
        init: ``init(key, size, dimension, dtype) -> FeedbackState``.
        update: ``update(state, estimate, variance=0.0) -> FeedbackState``, where the estimate has
            the structure of the mean and `variance` is its relative variance; None if the feedback
            is never learned.
        update_every: number of steps between updates.
        seed: seed of the key that `init` is given, folded with each tap's index.
        follow: ``follow(state, weights, key) -> FeedbackState``, called at init and in every step
            for feedback that follows the weights of a linear stage; None if it does not.
    """

    init: Callable[[Array, int, int, DType], FeedbackState]
    update: Callable[..., FeedbackState] | None = None
    update_every: int = 1
    seed: int = 0
    follow: Callable[[FeedbackState, Any, Array], FeedbackState] | None = None


def learned_feedback(
    decay: float = 0.9, *, update_every: int = 1, shrinkage: Shrinkage | None = "relative"
) -> Feedback:
    """Returns feedback learned by noise correlation: B <- decay B + (1 - decay) J_hat, debiased.

    Each direction has its own weight, so that a direction that has just entered the basis uses its
    first estimate at once. Scaling by 1/(1 + v) minimises the squared error of an estimate with
    relative variance v; for N Gaussian probes in d dimensions the factor is N/(N + d + 1).

    Args:
        decay: decay of the moving average, in [0, 1); 0 keeps only this step's estimate.
        update_every: number of training steps between two estimates.
        shrinkage: "relative" scales by 1/(1 + v) divided by its value in the long run, so that the
            first few estimates are scaled down and later ones have the size of the gradient;
            "whole" scales by 1/(1 + v); None does not scale.

    Returns:
        A `Feedback` that starts from zero.

    Raises:
        ValueError: if `decay`, `update_every` or `shrinkage` is out of range.

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
    if shrinkage is not None and shrinkage not in get_args(Shrinkage):
        takes = [*get_args(Shrinkage), None]
        raise ValueError(f"shrinkage is {shrinkage!r}; it takes one of {takes}")

    def init(key: Array, size: int, dimension: int, dtype: DType) -> FeedbackState:
        del key
        return _unscaled(jnp.zeros((size, dimension), dtype), weight=jnp.zeros((dimension,), dtype))

    def update(state: FeedbackState, estimate: Any, variance: float | Array = 0.0) -> FeedbackState:
        weight = decay * state.weight + (1 - decay)
        new = (1 - decay) / weight
        mean = jax.tree.map(
            lambda old, now: old + _by_direction(new, old) * (now - old), state.mean, estimate
        )
        if shrinkage is None:
            return state._replace(mean=mean, weight=weight)
        each = jnp.asarray(variance, weight.dtype)
        spread = (1 - new) ** 2 * state.variance + new**2 * each
        limit = state.limit
        if shrinkage == "relative":
            limit = 1 / (1 + each * (1 - decay) / (1 + decay))
        return FeedbackState(mean, weight, spread, limit)

    return Feedback(init, update, update_every)


def random_feedback(seed: int = 0) -> Feedback:
    """Returns fixed random feedback, as in direct feedback alignment (Nokland 2016).

    Entries are Gaussian with variance 1/d, the scale of the Jacobian of a network that preserves
    the size of its signals.

    Args:
        seed: seed of the feedback weights.

    Returns:
        A `Feedback` that is never updated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import random_feedback
        >>> random_feedback().init(jax.random.key(0), 2, 3, jnp.float32).coordinates.shape
        (2, 3)
    """

    def init(key: Array, size: int, dimension: int, dtype: DType) -> FeedbackState:
        weights = jax.random.normal(key, (size, dimension), dtype) * dimension**-0.5
        return _unscaled(weights, weight=jnp.ones((dimension,), dtype))

    return Feedback(init, seed=seed)


def rotate(state: FeedbackState, old_basis: Array, new_basis: Array) -> FeedbackState:
    """Expresses feedback on a new basis: B_z <- B_z U_old^T U_new.

    Only the part that the new basis does not span is lost. If a new direction is partly inside the
    old span, that part keeps its size, and its weight is multiplied by its share.

    Args:
        state: feedback with coordinates [o, d] on the old basis.
        old_basis: [n, d].
        new_basis: [n, d].

    Returns:
        The same feedback with coordinates on the new basis.
    """
    overlap = old_basis.T @ new_basis
    share = overlap**2
    # Rounding may make the share of an unchanged direction larger than 1.
    return state._replace(
        mean=state.mean @ overlap,
        weight=jnp.minimum(state.weight @ share, 1),
        variance=state.variance @ share,
    )


def _unscaled(mean: Array, *, weight: Array) -> FeedbackState:
    return FeedbackState(mean, weight, jnp.zeros_like(weight), jnp.ones((), mean.dtype))


def _by_direction(values: Array, like: Array) -> Array:
    """Reshapes one value per direction, [d], to multiply an array [..., d]."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape) if like.ndim else values[0]
