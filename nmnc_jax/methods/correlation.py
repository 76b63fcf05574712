"""Methods that learn feedback from the change of the outputs, or of what a tap feeds."""

from typing import Any

from nmnc_jax.feedback import learned_feedback
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.subspace import isotropic, pca
from nmnc_jax.types import ApplyFn, Estimator, LossFn, Rank


def nmnc(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    rank: Rank,
    explained_variance: float | None = None,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 10,
    basis_update_every: int = 100,
    basis_decay: float = 0.7,
    readout: str | None = None,
    **settings: Any,
) -> Estimator:
    """Neural manifold noise correlation: learned feedback from noise in the principal components.

    The defaults come from the front of cost against alignment (`python -m benchmarks.front`): a
    step costs no more than backpropagation's, with nearly the alignment of a refresh in every step.
    Orthogonal probes have a smaller variance at the same cost (`python -m benchmarks.variance`). A
    model with a stage that has no derivative takes ``probe=Probe(difference="central")``.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: dimension d of the manifold, one for all taps or a dict by tap name.
        explained_variance: as in `pca`: the rank is chosen during training, up to `rank`.
        probe: the perturbations; by default one orthogonal probe with an exact derivative.
        feedback_decay: decay of the feedback's moving average; 0 keeps only this step's estimate.
        update_every: steps between feedback updates; the credit is computed in every step.
        basis_update_every: steps between updates of the principal components.
        basis_decay: weight of earlier activity at each update of the principal components.
        readout: as in `noise_correlation`; by default "next" for models with marked stages inside
            a scan, and otherwise "output".
        settings: `horizon`, `has_aux`, `check` and `causal`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if `noise_correlation`, `pca` or `learned_feedback` raises.

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
        probe=Probe.over(probe, Probe(num=1, kind="orthogonal", difference="jvp")),
        feedback=learned_feedback(feedback_decay, update_every=update_every),
        **settings,
    )


def vnc(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 10,
    readout: str | None = None,
    **settings: Any,
) -> Estimator:
    """Vanilla noise correlation: learned feedback from isotropic noise.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations; by default one Gaussian probe with an exact derivative.
        feedback_decay: decay of the feedback's moving average; 0 keeps only this step's estimate.
        update_every: steps between feedback updates.
        readout: as in `noise_correlation`; by default "next" for models with marked stages inside
            a scan, and otherwise "output".
        settings: `horizon`, `has_aux`, `check` and `causal`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if `noise_correlation` or `learned_feedback` raises.

    Source:
        Kang, Richards and Sabatini 2026 (arXiv 2601.02636).

    Example:
        >>> from nmnc_jax import Probe, vnc
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = vnc(model, lambda outputs, targets: (outputs - targets) ** 2,
        ...                 probe=Probe(num=4))
    """
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic(),
        readout=readout,
        probe=Probe.over(probe, Probe(num=1, difference="jvp")),
        feedback=learned_feedback(feedback_decay, update_every=update_every),
        **settings,
    )
