"""The named methods; each composes an `Estimator`, and a table lists them."""

from collections.abc import Callable
from typing import Any, Literal

from nmnc_jax.backprop import backprop
from nmnc_jax.feedback import Feedback, learned_feedback, random_feedback
from nmnc_jax.following import Magnitudes, kolen_pollack_feedback, sign_symmetric_feedback
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.ranks import Ranks, with_automatic_ranks
from nmnc_jax.subspace import Subspace, isotropic, pca
from nmnc_jax.types import ApplyFn, Estimator, LossFn, Rank
from nmnc_jax.weight_space import weight_forward_gradient, weight_perturbation


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
        probe=probe.over(Probe(num=1, kind="orthogonal", difference="jvp")),
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
        probe=probe.over(Probe(num=1, difference="jvp")),
        feedback=learned_feedback(feedback_decay, update_every=update_every),
        **settings,
    )


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
    probe = probe.over(Probe(difference="jvp"))
    if probe.difference != "jvp":
        raise ValueError(f"probe.difference is {probe.difference!r}; forward_gradient takes 'jvp'")
    return node_perturbation(
        apply_fn, loss_fn, probe=probe, rank=rank, feedback_decay=feedback_decay, **settings
    )


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
    probe = probe.over(Probe(num=1, difference="jvp", scope="all_taps"))
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


METHODS: dict[str, Callable[..., Estimator]] = {
    method.__name__: method
    for method in (
        backprop,
        nmnc,
        vnc,
        node_perturbation,
        forward_gradient,
        weight_perturbation,
        weight_forward_gradient,
        weight_mirror,
        feedback_alignment,
        kolen_pollack,
        direct_feedback_alignment,
    )
}
"""Every named method, ``method(apply_fn, loss_fn, **settings) -> Estimator``."""
