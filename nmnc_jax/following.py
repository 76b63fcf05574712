"""Feedback that follows the weights of linear stages in every step and needs no probes."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from nmnc_jax.feedback import Feedback, FeedbackState, random_feedback
from nmnc_jax.types import Array, DType

Magnitudes = Literal["uniform", "fixed", "redrawn"]


def sign_symmetric_feedback(magnitudes: Magnitudes = "uniform", *, seed: int = 0) -> Feedback:
    """Returns feedback with the signs of the weights and magnitudes independent of them.

    In each step the signs are those of the current weights; a weight of zero counts as positive.
    The root mean square of the magnitudes is that of each array of weights at init.

    Args:
        magnitudes: "uniform": all magnitudes are equal (uSF). "fixed": absolute values of Gaussian
            numbers that are drawn once (frSF). "redrawn": the same, drawn anew in each step (brSF).
        seed: seed of the fixed magnitudes.

    Returns:
        A `Feedback` for the readout `mirror`.

    Raises:
        ValueError: if `magnitudes` is another value.

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
    # The first magnitudes are all equal, so their mean is their size.
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
    """Returns mirrors that start at random values and receive the updates of the weights.

    If the weights change by W <- (1 - c) W + u, with an update u and a decay c, and the mirror by
    B <- (1 - c) B + u, then B - W <- (1 - c) (B - W): the mirror approaches the weights by a factor
    1 - c in each step. The update is computed from the weights of two successive steps,
    u = W_t - (1 - c) W_{t-1}, for any optimiser. The mirror of a stage whose weights have not
    changed stays as it is, so that steps may be skipped or accumulated.

    If c is the decay of the optimiser, the rule is local and is that of Kolen and Pollack. If it is
    not, u also contains the difference of the two decays times the weights.

    Args:
        weight_decay: c, the share of a weight that is lost in one update, between 0 and 1. For
            ``optax.adamw``, or for ``optax.add_decayed_weights`` before ``optax.sgd`` without
            momentum, it is the learning rate times their `weight_decay`.
        seed: seed of the first mirrors.

    Returns:
        A `Feedback` for the readout `mirror`. Its state holds the mirrors and the weights.

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
            # The state's arrays may be donated and the caller's may not, so they are copied.
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
