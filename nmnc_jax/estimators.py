"""The named perturbation methods, each a composition that gives an `Estimator`."""

from typing import Literal

from nmnc_jax.feedback import learned_feedback
from nmnc_jax.general import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.subspace import isotropic, pca
from nmnc_jax.types import ApplyFn, Estimator, LossFn, Rank


def nmnc(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    rank: Rank,
    explained_variance: float | None = None,
    probe: Probe = Probe(num=1, kind="orthogonal", difference="jvp"),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 10,
    basis_update_every: int = 100,
    basis_decay: float = 0.7,
    readout: Literal["output", "next"] | None = None,
    horizon: int | None = None,
) -> Estimator:
    """Neural manifold noise correlation: learned feedback from noise in the principal components.

    The defaults are those of the front of cost against alignment (`python -m benchmarks.front`): a
    step costs no more than backpropagation's, at nearly the alignment of a refresh in every step;
    orthogonal probes leave less variance at the same cost (`python -m benchmarks.variance`). A
    model with a stage that has no derivative takes ``probe=Probe(difference="central")``.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: dimension d of the manifold, one for all taps or a dict by tap name.
        explained_variance: as `pca` takes it: the rank is chosen on the run itself, up to `rank`.
        probe: the perturbations.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates; the credit is computed in every step.
        basis_update_every: steps between updates of the principal components.
        basis_decay: weight of earlier activity at each such update.
        readout: as `noise_correlation` takes it; by default chained through time, in models with
            marked stages inside a scan, and otherwise from the outputs.
        horizon: as `noise_correlation` takes it.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation`, `pca` and `learned_feedback` do.

    Source:
        Kang, Richards and Sabatini 2026 (arXiv 2601.02636).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import nmnc
        >>> def model(params, inputs, tap):
        ...     return tap("hidden", jnp.tanh(inputs @ params["in"])) @ params["out"]
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> batch = jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> squared_error = lambda outputs, targets: ((outputs - targets) ** 2).sum(-1)
        >>> estimator = nmnc(model, squared_error, rank=2)
        >>> state = estimator.init(params, batch)
        >>> gradients, state, info = estimator.estimate(jax.random.key(0), params, batch, state)
        >>> jax.tree.map(jnp.shape, gradients)
        {'in': (3, 4), 'out': (4, 2)}
    """
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=pca(
            rank,
            explained_variance=explained_variance,
            update_every=basis_update_every,
            decay=basis_decay,
        ),
        readout=readout,
        probe=probe,
        feedback=learned_feedback(feedback_decay, update_every=update_every),
        horizon=horizon,
    )


def vnc(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(num=1, difference="jvp"),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 10,
    readout: Literal["output", "next"] | None = None,
    horizon: int | None = None,
) -> Estimator:
    """Vanilla noise correlation: learned feedback from isotropic noise.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates.
        readout: as `noise_correlation` takes it; by default chained through time, in models with
            marked stages inside a scan, and otherwise from the outputs.
        horizon: as `noise_correlation` takes it.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation` and `learned_feedback` do.

    Source:
        Kang, Richards and Sabatini 2026 (arXiv 2601.02636).

    Example:
        >>> from nmnc_jax import Probe, vnc
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = vnc(model, lambda outputs, targets: (outputs - targets) ** 2,
        ...                 probe=Probe(num=1, difference="jvp"))
    """
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic(),
        readout=readout,
        probe=probe,
        feedback=learned_feedback(feedback_decay, update_every=update_every),
        horizon=horizon,
    )


def node_perturbation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    rank: Rank | None = None,
    feedback_decay: float | None = None,
) -> Estimator:
    """Node perturbation: noise correlated with each example's own loss.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations.
        rank: perturb in the manifold of this dimension; None perturbs isotropically.
        feedback_decay: None: no feedback weights. A number: feedback learned from the same passes,
            with this decay of its moving average, is the control variate of the correlation.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation`, `pca` and `learned_feedback` do.

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
    )


def forward_gradient(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(difference="jvp"),  # noqa: B008 (frozen)
    rank: Rank | None = None,
    feedback_decay: float | None = None,
) -> Estimator:
    """Activity-perturbing forward gradient: node perturbation by exact directional derivatives.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations; their difference must be "jvp".
        rank: perturb in the manifold of this dimension; None perturbs isotropically.
        feedback_decay: as `node_perturbation` takes it.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if the probe's difference is not "jvp", or as `node_perturbation` does.

    Source:
        Ren, Kornblith, Liao and Hinton 2023 (arXiv 2210.03310), activity perturbation.

    Example:
        >>> from nmnc_jax import Probe, forward_gradient
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = forward_gradient(model, lambda outputs, targets: outputs.sum(-1),
        ...                              probe=Probe(num=1, difference="jvp"))
    """
    if probe.difference != "jvp":
        raise ValueError(f"probe.difference is {probe.difference!r}; forward_gradient takes 'jvp'")
    return node_perturbation(
        apply_fn, loss_fn, probe=probe, rank=rank, feedback_decay=feedback_decay
    )
