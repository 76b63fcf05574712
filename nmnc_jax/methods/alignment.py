"""Methods whose feedback is random or follows the weights, and needs no probes."""

from typing import Any

from nmnc_jax.feedback import Feedback, random_feedback
from nmnc_jax.following import Magnitudes, kolen_pollack_feedback, sign_symmetric_feedback
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.subspace import isotropic
from nmnc_jax.types import ApplyFn, Estimator, LossFn


def feedback_alignment(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    sign_symmetric: Magnitudes | None = None,
    seed: int = 0,
    **settings: Any,
) -> Estimator:
    """Feedback alignment: credit is chained from stage to stage through fixed random weights.

    Stages are those of `weight_mirror`. If the model marks them by function and weights, feedback
    has the form and the scale of the weights; otherwise it is dense from tap to tap.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        sign_symmetric: None for random feedback that never changes. "uniform", "fixed" or
            "redrawn" is the kind of magnitudes in `sign_symmetric_feedback`; the feedback then has
            the signs of the weights in each step, and stages are only those that the model marks
            by function and weights.
        seed: seed of the feedback weights.
        settings: `has_aux` and `check`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if `noise_correlation` or `sign_symmetric_feedback` raises.

    Source:
        Lillicrap, Cownden, Tweed and Akerman 2016 (arXiv 1411.0247). Sign-symmetric: Liao, Leibo
        and Poggio 2016 (arXiv 1510.05067); Xiao, Chen, Liao and Poggio 2019 (arXiv 1811.03567).

    Example:
        >>> from nmnc_jax import feedback_alignment
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = feedback_alignment(model, lambda outputs, targets: outputs.sum(-1))
    """
    if sign_symmetric is not None:
        feedback = sign_symmetric_feedback(sign_symmetric, seed=seed)
        return _without_probes(apply_fn, loss_fn, "mirror", feedback, settings)
    feedback = random_feedback(seed)
    return _without_probes(apply_fn, loss_fn, ("mirror", "next"), feedback, settings)


def kolen_pollack(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    weight_decay: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> Estimator:
    """Kolen-Pollack learning: mirrors receive the updates of the weights, with weight decay.

    The stages are those that the model marks by function and weights, with ``tap.linear(apply,
    weights, h)`` or `mirror_layers`. Their mirrors start at random values, and their difference
    from the weights shrinks by a factor ``1 - weight_decay`` in each update. No probes are needed.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        weight_decay: share of a weight that the optimiser's decay removes in one update, as in
            `kolen_pollack_feedback`: ``optax.adamw(1e-3, weight_decay=0.1)`` has 1e-4. The
            optimiser must have the same decay; only then do mirrors receive nothing but updates.
            With the default, mirrors and weights agree after a few thousand steps.
        seed: seed of the first mirrors.
        settings: `has_aux` and `check`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`, which holds the mirrors and the weights.

    Raises:
        ValueError: if `noise_correlation` or `kolen_pollack_feedback` raises.

    Source:
        Kolen and Pollack 1994; Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019
        (arXiv 1904.05391).

    Example:
        >>> from nmnc_jax import kolen_pollack
        >>> model = lambda params, inputs, tap: tap.linear(lambda w, h: h @ w, params, inputs)
        >>> estimator = kolen_pollack(model, lambda outputs, targets: outputs.sum(-1))
    """
    feedback = kolen_pollack_feedback(weight_decay, seed=seed)
    return _without_probes(apply_fn, loss_fn, "mirror", feedback, settings)


def direct_feedback_alignment(
    apply_fn: ApplyFn, loss_fn: LossFn, *, seed: int = 0, **settings: Any
) -> Estimator:
    """Direct feedback alignment: fixed random weights carry the output error to each tap.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        seed: seed of the feedback weights.
        settings: `horizon`, `has_aux`, `check` and `causal`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState` whose feedback never changes.

    Raises:
        ValueError: if `noise_correlation` raises.

    Source:
        Nokland 2016 (arXiv 1609.01596).

    Example:
        >>> from nmnc_jax import direct_feedback_alignment
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = direct_feedback_alignment(model, lambda outputs, targets: outputs.sum(-1))
    """
    return _without_probes(apply_fn, loss_fn, "output", random_feedback(seed), settings)


def _without_probes(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    readout: str | tuple[str, ...],
    feedback: Feedback,
    settings: dict[str, Any],
) -> Estimator:
    """Returns an estimator whose feedback is not measured and acts on all directions of a tap."""
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic(),
        readout=readout,
        feedback=feedback,
        **settings,
    )
