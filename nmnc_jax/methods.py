"""The named methods, each a composition that gives an `Estimator`, in one table."""

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

    The defaults are those of the front of cost against alignment (`python -m benchmarks.front`): a
    step costs no more than backpropagation's, at nearly the alignment of a refresh in every step;
    orthogonal probes leave less variance at the same cost (`python -m benchmarks.variance`). A
    model with a stage that has no derivative takes ``probe=Probe(difference="central")``.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: dimension d of the manifold, one for all taps or a dict by tap name.
        explained_variance: as `pca` takes it: the rank is chosen on the run itself, up to `rank`.
        probe: the perturbations; what is None is one orthogonal probe, by its exact derivative.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates; the credit is computed in every step.
        basis_update_every: steps between updates of the principal components.
        basis_decay: weight of earlier activity at each such update.
        readout: as `noise_correlation` takes it; by default chained through time, in models with
            marked stages inside a scan, and otherwise from the outputs.
        settings: `horizon`, `has_aux`, `check` and `causal`, as `noise_correlation` takes them.

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
        probe: the perturbations; what is None is one Gaussian probe, by its exact derivative.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates.
        readout: as `noise_correlation` takes it; by default chained through time, in models with
            marked stages inside a scan, and otherwise from the outputs.
        settings: `horizon`, `has_aux`, `check` and `causal`, as `noise_correlation` takes them.

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
    """Node perturbation: noise correlated with each example's own loss.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        probe: the perturbations; what is None is 8 Gaussian probes, by central differences.
        rank: perturb in the manifold of this dimension; None perturbs isotropically.
        feedback_decay: None: no feedback weights. A number: feedback learned from the same passes,
            with this decay of its moving average, is the control variate of the correlation.
        settings: `horizon`, `has_aux`, `check` and `causal`, as `noise_correlation` takes them.

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
        probe: the perturbations; what is None is 8 Gaussian ones, their difference is "jvp".
        rank: perturb in the manifold of this dimension; None perturbs isotropically.
        feedback_decay: as `node_perturbation` takes it.
        settings: `horizon`, `has_aux`, `check` and `causal`, as `noise_correlation` takes them.

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
    """Weight mirrors: feedback learned from noise at a stage's input and its response.

    A model that marks its linear stages by function and weights, ``tap.linear(apply, weights, h)``
    or `mirror_layers`, learns each in the form of its own weights (readout
    `mirror`): memory is that of the parameters, and weights that are shared over positions have as
    many probes behind them. Everything but those stages is differentiated exactly.

    In other models (readout `next`) a stage reaches from a tap to the next one, or to a mark
    ``tap.linear(y)``, and its feedback is dense: [m, n] for a tap of n units and stages of m, or
    [m, d].

    Each stage is read on its own, so that one pass serves all, and the credit is chained from
    stage to stage. Noise at the inputs alone is needed: no labels, and no error.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: perturb in the manifold of this dimension; None perturbs isotropically, as does None
            for a stage in a dict by name. "auto": in 128 dimensions where a stage's weights are not
            shared and its input has more units than there are probes behind its feedback in the
            long run, counted by the examples of `init`; isotropically elsewhere.
        probe: the perturbations; what is None is one Gaussian probe at all taps, by its exact
            derivative. `num` may be a dict by stage, or "auto"; a stage is probed by itself, so
            that many probes of a small one cost little.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates.
        basis_update_every: steps between updates of the principal components.
        settings: `has_aux` and `check`, as `noise_correlation` takes them.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation`, `pca` and `learned_feedback` do.

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
    """Feedback alignment: credit chained from stage to stage through fixed random weights.

    Stages are those of `weight_mirror`: in the form of the network's own weights, and of their
    size, where the model marks them by function and weights; else dense from tap to tap.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        sign_symmetric: None: the feedback is random and never changes. "uniform", "fixed" or
            "redrawn": it has such magnitudes, as `sign_symmetric_feedback` takes them, and the
            signs of the weights in each step; stages are then those that the model marks by
            function and weights alone.
        seed: of the feedback weights.
        settings: `has_aux` and `check`, as `noise_correlation` takes them.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation` and `sign_symmetric_feedback` do.

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
    """Kolen-Pollack learning: mirrors that receive the weights' own updates, with weight decay.

    Mirrors of the stages that the model marks by function and weights, ``tap.linear(apply, weights,
    h)`` or `mirror_layers`, begin at random and come nearer to the weights by a
    factor ``1 - weight_decay`` in each update. No probes are needed.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        weight_decay: share of itself that a weight loses by the optimiser's own decay in one
            update, as `kolen_pollack_feedback` takes it: ``optax.adamw(1e-3, weight_decay=0.1)``
            has 1e-4. The optimiser has to have it: only then do the mirrors get nothing but
            updates. By default mirrors and weights are alike after a few thousand steps.
        seed: of the first mirrors.
        settings: `has_aux` and `check`, as `noise_correlation` takes them.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`, which remembers mirrors and weights.

    Raises:
        ValueError: as `noise_correlation` and `kolen_pollack_feedback` do.

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
    """Direct feedback alignment: the output error sent to each tap through fixed random weights.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        seed: of the feedback weights.
        settings: `horizon`, `has_aux`, `check` and `causal`, as `noise_correlation` takes them.

    Returns:
        An `Estimator` with a `NoiseCorrelationState` whose feedback never changes.

    Raises:
        ValueError: as `noise_correlation` does.

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
    """Sends errors through feedback to every direction of each tap."""
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
