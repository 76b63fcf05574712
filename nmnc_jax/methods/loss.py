"""Methods that correlate noise with the loss of each example."""

from typing import Any

from nmnc_jax.feedback import learned_feedback
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.subspace import isotropic, pca
from nmnc_jax.types import ApplyFn, Estimator, LossFn, Rank


def node_perturbation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    rank: Rank | None = None,
    feedback_decay: float | None = None,
    **settings: Any,
) -> Estimator:
    """Node perturbation: noise is correlated with the loss of each example.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations; by default 8 Gaussian probes with central differences.
        rank: dimension of the manifold in which taps are perturbed; None perturbs isotropically.
        feedback_decay: None uses no feedback. A number is the decay of a feedback that is learned
            from the same passes and serves as control variate of the correlation.
        settings: `horizon`, `has_aux`, `check` and `causal`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if `noise_correlation`, `pca` or `learned_feedback` raises.

    Example:
        >>> from nmnc_jax import node_perturbation
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = node_perturbation(model, lambda outputs, targets: outputs.sum(-1), rank=4)
    """
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic() if rank is None else pca(rank),
        readout="loss",
        probe=probe,
        feedback=None if feedback_decay is None else learned_feedback(feedback_decay),
        **settings,
    )


def forward_gradient(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    rank: Rank | None = None,
    feedback_decay: float | None = None,
    **settings: Any,
) -> Estimator:
    """Activity-perturbing forward gradient: node perturbation by exact directional derivatives.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations; by default 8 Gaussian probes. Its difference is always "jvp".
        rank: dimension of the manifold in which taps are perturbed; None perturbs isotropically.
        feedback_decay: as in `node_perturbation`.
        settings: `horizon`, `has_aux`, `check` and `causal`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if the probe's difference is not "jvp", or if `node_perturbation` raises.

    Source:
        Ren, Kornblith, Liao and Hinton 2023 (arXiv 2210.03310), activity perturbation.

    Example:
        >>> from nmnc_jax import Probe, forward_gradient
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = forward_gradient(model, lambda outputs, targets: outputs.sum(-1),
        ...                              probe=Probe(num=1))
    """
    probe = Probe.over(probe, Probe(difference="jvp"))
    if probe.difference != "jvp":
        raise ValueError(f"probe.difference is {probe.difference!r}; forward_gradient takes 'jvp'")
    return node_perturbation(
        apply_fn, loss_fn, probe=probe, rank=rank, feedback_decay=feedback_decay, **settings
    )
