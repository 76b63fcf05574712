"""The method that learns each linear stage by a mirror of its weights."""

from typing import Any, Literal

from nmnc_jax.feedback import learned_feedback
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.ranks import Ranks, with_automatic_ranks
from nmnc_jax.subspace import Subspace, isotropic, pca
from nmnc_jax.types import ApplyFn, Estimator, LossFn, Rank


def weight_mirror(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    rank: Rank | Ranks | Literal["auto"] | None = None,
    probe: Probe = Probe(),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 10,
    basis_update_every: int = 100,
    **settings: Any,
) -> Estimator:
    """Weight mirrors: feedback is learned from noise at a stage's input and the stage's response.

    If the model marks its linear stages by function and weights, with ``tap.linear(apply, weights,
    h)`` or `mirror_layers`, the mirror of each stage has the form of its weights (readout
    `mirror`). Mirrors then need as much memory as the parameters, and each position that shares a
    weight adds a probe of it. Everything outside the stages is differentiated exactly.

    In other models (readout `next`) a stage reaches from a tap to the next tap or to a mark
    ``tap.linear(y)``. Its feedback is dense: [m, n], or [m, d] in a subspace, for a tap of n units
    that feeds m units.

    Each stage is measured separately, so that one pass serves all stages, and credit is chained
    from stage to stage. The probes need only noise at the inputs of stages: no labels and no error.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: dimension of the manifold in which inputs are perturbed, one for all stages or a dict
            by stage; None perturbs isotropically. "auto" perturbs in 128 dimensions if a stage
            does not share its weights and its input has more units than the feedback averages
            probes in the long run, given the number of examples at `init`; otherwise
            isotropically.
        probe: the perturbations; by default one Gaussian probe at all taps with an exact
            derivative. `num` may be a dict by stage, or "auto". Each stage is probed separately,
            so that many probes of a small stage cost little.
        feedback_decay: decay of the feedback's moving average; 0 keeps only this step's estimate.
        update_every: steps between feedback updates.
        basis_update_every: steps between updates of the principal components.
        settings: `has_aux` and `check`, as in `noise_correlation`.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if `noise_correlation`, `pca` or `learned_feedback` raises.

    Source:
        Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019 (arXiv 1904.05391).

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax import weight_mirror
        >>> dense = lambda weights, h: h @ weights
        >>> def model(params, inputs, tap):
        ...     h = jnp.tanh(tap.linear(dense, params["in"], inputs))
        ...     return tap.linear(dense, params["out"], h, name="out")
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> estimator = weight_mirror(model, lambda outputs, targets: outputs.sum(-1))
        >>> state = estimator.init(params, (jnp.ones((5, 3)), None))
        >>> state.feedback["out"].coordinates.shape
        (4, 2)
    """
    probe = Probe.over(probe, Probe(num=1, difference="jvp", scope="all_taps"))
    readout = ("mirror", "next")

    def made(subspace: Subspace) -> Estimator:
        return noise_correlation(
            apply_fn,
            loss_fn,
            subspace=subspace,
            readout=readout,
            probe=probe,
            feedback=learned_feedback(feedback_decay, update_every=update_every),
            **settings,
        )

    if isinstance(rank, str) and rank != "auto":
        raise ValueError(f"rank is {rank!r}; it takes a number, a dict by stage, 'auto' or None")
    if rank is None:
        return made(isotropic())
    if rank != "auto":
        return made(pca(rank, update_every=basis_update_every))
    return with_automatic_ranks(
        lambda ranks: made(pca(ranks, update_every=basis_update_every)),
        apply_fn,
        loss_fn,
        readout=readout,
        probe=probe,
        feedback_decay=feedback_decay,
        has_aux=settings.get("has_aux", False),
    )
