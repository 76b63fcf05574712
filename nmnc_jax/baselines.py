"""Baselines under the same interface: backpropagation, weight perturbation, feedback alignment."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count, check_finite, check_precision, check_sigma
from nmnc_jax.correlate import mean_over_probes
from nmnc_jax.credit import losses_and_error
from nmnc_jax.feedback import learned_feedback, random_feedback
from nmnc_jax.general import info_from, noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.shapes import tap_shapes
from nmnc_jax.subspace import isotropic, pca
from nmnc_jax.taps import no_tap, run
from nmnc_jax.types import ApplyFn, Array, Batch, Estimator, Info, LossFn, Params, Rank


class EmptyState(NamedTuple):
    """State of an estimator that remembers nothing."""


def backprop(apply_fn: ApplyFn, loss_fn: LossFn) -> Estimator:
    """Backpropagation, under the same interface.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.

    Returns:
        An `Estimator` with an empty state.

    Raises:
        ValueError: (from init and estimate) if the model has no tap, the loss is reduced, or an
            input is not finite.

    Example:
        >>> from nmnc_jax import backprop
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = backprop(model, lambda outputs, targets: outputs.sum(-1))
    """

    def init(params: Params, batch: Batch) -> EmptyState:
        check_finite(batch)
        tap_shapes(apply_fn, params, batch[0])
        return EmptyState()

    def estimate(
        key: Array, params: Params, batch: Batch, state: EmptyState
    ) -> tuple[Params, EmptyState, Info]:
        del key
        check_finite(batch)
        inputs, targets = batch
        shapes = tap_shapes(apply_fn, params, inputs)
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        outputs, pullback = jax.vjp(
            lambda params, noise: run(apply_fn, params, inputs, noise=noise)[0], params, zeros
        )
        losses, error = losses_and_error(loss_fn, outputs, targets)
        gradients, credit = pullback(error)
        return gradients, state, info_from(losses, outputs, credit)

    return Estimator(init, estimate)


def weight_perturbation(
    apply_fn: ApplyFn, loss_fn: LossFn, *, num: int = 8, sigma: float = 1e-3
) -> Estimator:
    """Simultaneous perturbation of all weights (SPSA): the weight-space baseline.

    Each probe is a pair of passes at the parameters plus and minus sigma times Gaussian noise,
    drawn from its own key, so that memory does not grow with the number of probes.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        num: probes (pairs of passes) per step.
        sigma: standard deviation of the noise in each parameter, in the parameter's own units.

    Returns:
        An `Estimator` with an empty state; its info has no credit.

    Raises:
        ValueError: if `num` or `sigma` is out of range; (from init and estimate) if the loss is
            reduced, an input is not finite, or a parameter or the output is bfloat16.

    Source:
        Spall 1992; Malladi et al. 2023 (arXiv 2305.17333).

    Example:
        >>> from nmnc_jax import weight_perturbation
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_perturbation(model, lambda outputs, targets: outputs.sum(-1), num=4)
    """
    check_count("num", num)
    check_sigma(sigma)

    def check(params: Params, batch: Batch) -> None:
        check_finite(batch)
        outputs = jax.eval_shape(lambda p, x: apply_fn(p, x, no_tap), params, batch[0])
        leaves = jax.tree_util.tree_leaves_with_path(params)
        named = {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
        check_precision("central", {"the output": outputs} | named)

    def init(params: Params, batch: Batch) -> EmptyState:
        check(params, batch)
        return EmptyState()

    def estimate(
        key: Array, params: Params, batch: Batch, state: EmptyState
    ) -> tuple[Params, EmptyState, Info]:
        check(params, batch)
        inputs, targets = batch
        outputs = apply_fn(params, inputs, no_tap)
        losses, _ = losses_and_error(loss_fn, outputs, targets)
        leaves, tree = jax.tree.flatten(params)

        def mean_loss(noise: list[Array], factor: float) -> Array:
            moved = [leaf + factor * z for leaf, z in zip(leaves, noise, strict=True)]
            outputs = apply_fn(jax.tree.unflatten(tree, moved), inputs, no_tap)
            return loss_fn(outputs, targets).mean()

        def one_probe(key: Array) -> list[Array]:
            keys = jax.random.split(key, len(leaves))
            noise = [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, leaves, strict=True)
            ]
            slope = (mean_loss(noise, sigma) - mean_loss(noise, -sigma)) / (2 * sigma)
            return [slope.astype(z.dtype) * z for z in noise]

        gradients = mean_over_probes(one_probe, jax.random.split(key, num), num, chunk=1)
        return jax.tree.unflatten(tree, gradients), state, info_from(losses, outputs, {})

    return Estimator(init, estimate)


def direct_feedback_alignment(apply_fn: ApplyFn, loss_fn: LossFn, *, seed: int = 0) -> Estimator:
    """Direct feedback alignment: the output error sent to each tap through fixed random weights.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        seed: of the feedback weights.

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
    return _with_random_feedback(apply_fn, loss_fn, "output", seed)


def weight_mirror(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    rank: Rank | None = None,
    probe: Probe = Probe(num=1, difference="jvp", scope="all_taps"),  # noqa: B008 (frozen)
    feedback_decay: float = 0.9,
    update_every: int = 1,
) -> Estimator:
    """Weight mirrors: feedback learned from noise at a tap and what the next stage makes of it.

    Each stage is read on its own, so that one pass serves all taps. The credit is chained from
    stage to stage; between the end of a linear stage (``tap.linear``) and the next tap its
    derivative is exact. Memory is [m, n] for a tap of n units and a stage of m, or [m, d].

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        rank: perturb in the manifold of this dimension; None perturbs isotropically.
        probe: the perturbations.
        feedback_decay: moving average of the feedback; 0 keeps this step's estimate alone.
        update_every: steps between feedback updates.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: as `noise_correlation`, `pca` and `learned_feedback` do.

    Source:
        Akrout, Wilson, Humphreys, Lillicrap and Tweed 2019 (arXiv 1904.05391).

    Example:
        >>> from nmnc_jax import weight_mirror
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_mirror(model, lambda outputs, targets: outputs.sum(-1), rank=4)
    """
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic() if rank is None else pca(rank),
        readout="next",
        probe=probe,
        feedback=learned_feedback(feedback_decay, update_every=update_every),
    )


def feedback_alignment(apply_fn: ApplyFn, loss_fn: LossFn, *, seed: int = 0) -> Estimator:
    """Feedback alignment: credit chained from stage to stage through fixed random weights.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        seed: of the feedback weights.

    Returns:
        An `Estimator` with a `NoiseCorrelationState` whose feedback never changes.

    Raises:
        ValueError: as `noise_correlation` does.

    Source:
        Lillicrap, Cownden, Tweed and Akerman 2016 (arXiv 1411.0247).

    Example:
        >>> from nmnc_jax import feedback_alignment
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = feedback_alignment(model, lambda outputs, targets: outputs.sum(-1))
    """
    return _with_random_feedback(apply_fn, loss_fn, "next", seed)


def _with_random_feedback(
    apply_fn: ApplyFn, loss_fn: LossFn, readout: Literal["output", "next"], seed: int
) -> Estimator:
    """Sends errors through fixed random weights to every direction of each tap."""
    return noise_correlation(
        apply_fn,
        loss_fn,
        subspace=isotropic(),
        readout=readout,
        probe=Probe(num=1),
        feedback=random_feedback(seed=seed),
    )
