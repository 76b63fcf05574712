"""Feedback that follows the weights of linear stages in every step, without probes."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from nmnc_jax.feedback import Feedback, FeedbackState, random_feedback
from nmnc_jax.types import Array, DType

Magnitudes = Literal["uniform", "fixed", "redrawn"]


def sign_symmetric_feedback(magnitudes: Magnitudes = "uniform", *, seed: int = 0) -> Feedback:
    """Feedback with the signs of the weights, and magnitudes that know nothing of them.

    The signs are those of the weights in each step; a weight of zero counts as positive. In the
    root mean square the magnitudes have the size of each array of weights at init.

    Args:
        magnitudes: "uniform": all alike (uSF). "fixed": absolute values of Gaussian numbers, drawn
            once (frSF). "redrawn": the same, drawn again in each step (brSF).
        seed: of the fixed magnitudes.

    Returns:
        A `Feedback` for the readout `mirror`.

    Raises:
        ValueError: if `magnitudes` is none of these.

    Source:
        Liao, Leibo and Poggio 2016 (arXiv 1510.05067), with positive magnitudes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import sign_symmetric_feedback
        >>> feedback, weights = sign_symmetric_feedback(), jnp.array([[3.0], [-1.0]])
        >>> state = feedback.init(jax.random.key(0), 2, 1, jnp.float32)
        >>> feedback.follow(state, weights, jax.random.key(1)).mean
        Array([[ 1.],
               [-1.]], dtype=float32)
    """
    if magnitudes not in get_args(Magnitudes):
        takes = [*get_args(Magnitudes)]
        raise ValueError(f"magnitudes is {magnitudes!r}; it takes one of {takes}")
    gaussian = random_feedback(seed)

    def init(key: Array, size: int, dimension: int, dtype: DType) -> FeedbackState:
        state = gaussian.init(key, size, dimension, dtype)
        return state if magnitudes == "fixed" else state._replace(mean=jnp.ones_like(state.mean))

    def follow(state: FeedbackState, weights: Any, key: Array) -> FeedbackState:
        if magnitudes == "redrawn":
            state = _redrawn(state, key)
        return state._replace(mean=jax.tree.map(_with_signs, state.mean, weights))

    return Feedback(init, seed=seed, follow=follow)


def _redrawn(state: FeedbackState, key: Array) -> FeedbackState:
    leaves, tree = jax.tree.flatten(state.mean)
    # The first magnitudes are all alike: their size.
    sizes = [leaf.mean() for leaf in leaves] if state.followed is None else state.followed
    keys = jax.random.split(key, len(leaves))
    drawn = [
        size * jax.random.normal(each, leaf.shape, leaf.dtype)
        for each, leaf, size in zip(keys, leaves, sizes, strict=True)
    ]
    return state._replace(mean=tree.unflatten(drawn), followed=sizes)


def _with_signs(values: Array, weights: Array) -> Array:
    return jnp.where(weights < 0, -jnp.abs(values), jnp.abs(values))


def kolen_pollack_feedback(weight_decay: float, *, seed: int = 0) -> Feedback:
    """Mirrors that begin at random and receive the weights' own updates: Kolen and Pollack.

    Where W <- (1 - c) W + u, for an update u and a decay c, a mirror with B <- (1 - c) B + u comes
    nearer to the weights by a factor 1 - c in each step, as B - W <- (1 - c) (B - W). The update is
    read from the weights of one step and of the next, u = W_t - (1 - c) W_{t-1}, whatever optimiser
    makes it. A stage whose weights have not changed at all has had no update, and its mirror stays:
    so steps may be left out, or accumulated.

    This is local, and what Kolen and Pollack do, where c is the decay of the optimiser. Where it
    is not, u holds the difference of both decays times the weights, and the mirror is sent that.

    Args:
        weight_decay: c, share of itself that a weight loses in one update, above 0, below 1: for
            ``optax.adamw``, or ``optax.add_decayed_weights`` before ``optax.sgd`` without momentum,
            the learning rate times their `weight_decay`.
        seed: of the first mirrors.

    Returns:
        A `Feedback` for the readout `mirror`, which remembers mirrors and weights.

    Raises:
        ValueError: if `weight_decay` is out of range.

    Source:
        Kolen and Pollack 1994; Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019
        (arXiv 1904.05391).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import kolen_pollack_feedback
        >>> feedback, key = kolen_pollack_feedback(0.1), jax.random.key(0)
        >>> state = feedback.follow(feedback.init(key, 2, 1, jnp.float32), jnp.ones((2, 1)), key)
        >>> new = feedback.follow(state, jnp.full((2, 1), 5.0), key)
        >>> bool(jnp.allclose(new.mean - 5, 0.9 * (state.mean - 1)))
        True
    """
    if not 0.0 < weight_decay < 1.0:
        raise ValueError(f"weight_decay is {weight_decay}; it takes a number between 0 and 1")

    def follow(state: FeedbackState, weights: Any, key: Array) -> FeedbackState:
        del key
        if state.followed is None:
            # A copy: the state's arrays may be donated, the caller's may not.
            return state._replace(followed=jax.tree.map(lambda w: jnp.array(w, copy=True), weights))
        pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(state.followed), strict=True)
        changed = jnp.stack([(now != before).any() for now, before in pairs]).any()

        def moved(mirror: Array, now: Array, before: Array) -> Array:
            now, before = now.astype(mirror.dtype), before.astype(mirror.dtype)
            update = now - (1 - weight_decay) * before
            return jnp.where(changed, (1 - weight_decay) * mirror + update, mirror)

        mean = jax.tree.map(moved, state.mean, weights, state.followed)
        return state._replace(mean=mean, followed=weights)

    return Feedback(random_feedback(seed).init, seed=seed, follow=follow)
