"""The named methods in weight space, each with its own slope of the loss."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.checks import check_sigma
from nmnc_jax.probes import linearized
from nmnc_jax.types import ApplyFn, Array, Estimator, LossFn
from nmnc_jax.weight_space.along import Kind, Mask, Moving, along_weights

Difference = Literal["central", "forward"]


def weight_perturbation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    num: int = 8,
    sigma: float = 1e-3,
    kind: Kind = "gaussian",
    difference: Difference = "central",
    trainable: Mask = None,
    has_aux: bool = False,
) -> Estimator:
    """Simultaneous perturbation of all weights (SPSA), the baseline in weight space.

    Each probe is a pair of passes at the parameters plus and minus sigma times noise, or one such
    pass and the clean pass. Only values of the loss are used. Noise is drawn from a seed whenever
    it is used and is not stored, so that memory does not grow with the number of probes.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        num: probes per step.
        sigma: standard deviation of the noise in each parameter, in the units of the parameter.
        kind: distribution of the noise. For p parameters, the variance of the estimate relative to
            the square of the gradient is (p + 1)/num with "gaussian" and (p - 1)/num with
            "rademacher" noise.
        difference: "central", antithetic pairs of passes, or "forward", one-sided differences,
            which need half the passes and have an error of the order of sigma.
        trainable: which parameters are perturbed, a mask as in ``optax.masked``: a tree of booleans
            that is a prefix of the parameters' tree, or a function of the parameters that returns
            one. The other parameters get zero gradients. None perturbs all.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.

    Returns:
        An `Estimator` with an empty state; its info has no credit.

    Raises:
        ValueError: if `num`, `sigma`, `kind` or `difference` is out of range; (from init and
            estimate) if the loss is reduced, if a parameter, the output or a value between them is
            bfloat16, or if `trainable` does not fit the parameters; (from init) if a loss is not
            finite.

    Source:
        Spall 1992; Malladi et al. 2023 (arXiv 2305.17333).

    Example:
        >>> from nmnc_jax import weight_perturbation
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_perturbation(model, lambda outputs, targets: outputs.sum(-1), num=4)
    """
    check_sigma(sigma)
    if difference not in get_args(Difference):
        takes = list(get_args(Difference))
        raise ValueError(f"difference is {difference!r}; it takes one of {takes}")

    def moved(moving: Moving, factor: Array, seed: Array) -> Array:
        # The difference of the passes is smaller than the rounding of TF32 or bfloat16 products.
        with jax.default_matmul_precision("highest"):
            return moving.loss(
                [
                    leaf + factor.astype(leaf.dtype) * z
                    for leaf, z in zip(moving.values, moving.noise(seed), strict=True)
                ]
            )

    def slope(moving: Moving) -> Callable[[Array], Array]:
        if difference == "forward":
            clean = moving.clean()
            return lambda seed: (moved(moving, jnp.float32(sigma), seed) - clean) / sigma

        def central(seed: Array) -> Array:
            # A loop, so that the second pass does not keep the noise of the first in memory.
            factors, seeds = jnp.array([sigma, -sigma], jnp.float32), jnp.stack([seed, seed])
            higher, lower = lax.map(lambda pair: moved(moving, *pair), (factors, seeds))
            return (higher - lower) / (2 * sigma)

        return central

    return along_weights(apply_fn, loss_fn, num, kind, trainable, has_aux, difference, slope)


def weight_forward_gradient(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    num: int = 8,
    kind: Kind = "gaussian",
    trainable: Mask = None,
    has_aux: bool = False,
) -> Estimator:
    """Forward gradient in weight space, from exact directional derivatives along noise.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        num: probes per step.
        kind: distribution of the noise, with the variances of `weight_perturbation`.
        trainable: which parameters are perturbed, as in `weight_perturbation`.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.

    Returns:
        An `Estimator` with an empty state; its info has no credit.

    Raises:
        ValueError: if `num` or `kind` is out of range; (from init and estimate) if the loss is
            reduced, if the model has no directional derivative, or if `trainable` does not fit the
            parameters; (from init) if a loss is not finite.

    Source:
        Baydin et al. 2022 (arXiv 2202.08587).

    Example:
        >>> from nmnc_jax import weight_forward_gradient
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_forward_gradient(model, lambda outputs, targets: outputs.sum(-1))
    """

    def slope(moving: Moving) -> Callable[[Array], Array]:
        along = linearized(moving.loss, moving.values, where="the parameters")
        return lambda seed: along(moving.noise(seed))

    return along_weights(apply_fn, loss_fn, num, kind, trainable, has_aux, "jvp", slope)
