"""Estimators that perturb the weights themselves, all at once: SPSA and forward gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.backprop import EmptyState
from nmnc_jax.checks import (
    check_batch,
    check_count,
    check_key,
    check_losses,
    check_precision,
    check_sigma,
    named_leaves,
)
from nmnc_jax.correlate import mean_over_probes
from nmnc_jax.credit import info_from, losses_of
from nmnc_jax.probes import linearized
from nmnc_jax.sharding import on_any_mesh
from nmnc_jax.taps import Model, no_tap
from nmnc_jax.types import ApplyFn, Array, Batch, Due, Estimator, Info, LossFn, Params

Slope = Callable[[list[Array]], Array]


def weight_perturbation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    num: int = 8,
    sigma: float = 1e-3,
    has_aux: bool = False,
) -> Estimator:
    """Simultaneous perturbation of all weights (SPSA): the weight-space baseline.

    Each probe is a pair of passes at the parameters plus and minus sigma times Gaussian noise,
    drawn from its own key, so that memory does not grow with the number of probes. Only values of
    the loss are used.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        num: probes (pairs of passes) per step.
        sigma: standard deviation of the noise in each parameter, in the parameter's own units.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.

    Returns:
        An `Estimator` with an empty state; its info has no credit.

    Raises:
        ValueError: if `num` or `sigma` is out of range; (from init and estimate) if the loss is
            reduced, or a parameter or the output is bfloat16; (from init) if a loss is not finite.

    Source:
        Spall 1992; Malladi et al. 2023 (arXiv 2305.17333).

    Example:
        >>> from nmnc_jax import weight_perturbation
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_perturbation(model, lambda outputs, targets: outputs.sum(-1), num=4)
    """
    check_count("num", num)
    check_sigma(sigma)

    def central(mean_loss: Callable[[list[Array]], Array], leaves: list[Array]) -> Slope:
        def moved(noise: list[Array], factor: float) -> Array:
            # The passes' difference is smaller than the rounding of TF32 or bfloat16 products.
            with jax.default_matmul_precision("highest"):
                return mean_loss([leaf + factor * z for leaf, z in zip(leaves, noise, strict=True)])

        return lambda noise: (moved(noise, sigma) - moved(noise, -sigma)) / (2 * sigma)

    return _along_weights(apply_fn, loss_fn, num, has_aux, "central", central)


def weight_forward_gradient(
    apply_fn: ApplyFn, loss_fn: LossFn, *, num: int = 8, has_aux: bool = False
) -> Estimator:
    """Forward gradient in weight space: exact directional derivatives along Gaussian noise.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        num: probes per step.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.

    Returns:
        An `Estimator` with an empty state; its info has no credit.

    Raises:
        ValueError: if `num` is out of range; (from init and estimate) if the loss is reduced or the
            model has no derivative along a direction; (from init) if a loss is not finite.

    Source:
        Baydin et al. 2022 (arXiv 2202.08587).

    Example:
        >>> from nmnc_jax import weight_forward_gradient
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = weight_forward_gradient(model, lambda outputs, targets: outputs.sum(-1))
    """
    check_count("num", num)

    def exact(mean_loss: Callable[[list[Array]], Array], leaves: list[Array]) -> Slope:
        return linearized(mean_loss, leaves, where="the parameters")

    return _along_weights(apply_fn, loss_fn, num, has_aux, "jvp", exact)


def _along_weights(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    num: int,
    has_aux: bool,
    difference: str,
    slope_of: Callable[[Callable[[list[Array]], Array], list[Array]], Slope],
) -> Estimator:
    """Correlates noise in all floating-point parameters with the slope of the batch-mean loss."""

    def check(model: Model, params: Params, batch: Batch) -> None:
        inputs, _ = check_batch(batch)
        outputs = jax.eval_shape(lambda p, x: model(p, x, no_tap), params, inputs)
        named = {
            f"params{place}": leaf for place, leaf in named_leaves(params) if _is_floating(leaf)
        }
        named |= {f"the output{place}": leaf for place, leaf in named_leaves(outputs)}
        check_precision(difference, named)

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> EmptyState:
        del key
        model = Model(apply_fn, has_aux, kwargs)
        check(model, params, batch)
        outputs = model(params, batch[0], no_tap)
        check_losses(losses_of(loss_fn, outputs, batch[1]), outputs, batch)
        return EmptyState()

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: EmptyState,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Params, EmptyState, Info]:
        del due
        check_key(key)
        model = Model(apply_fn, has_aux, kwargs)
        check(model, params, batch)
        inputs, targets = batch
        outputs, aux = model.outputs_and_aux(params, inputs, no_tap)
        losses = losses_of(loss_fn, outputs, targets)
        leaves, tree = jax.tree.flatten(params)
        places = [place for place, leaf in enumerate(leaves) if _is_floating(leaf)]
        moving = [leaves[place] for place in places]

        def replaced(values: list[Array], rest: Callable[[Any], Any]) -> list[Any]:
            new = dict(zip(places, values, strict=True))
            return [new[p] if p in new else rest(leaf) for p, leaf in enumerate(leaves)]

        def mean_loss(values: list[Array]) -> Array:
            moved = jax.tree.unflatten(tree, replaced(values, lambda leaf: leaf))
            outputs = model(moved, inputs, no_tap)
            return losses_of(loss_fn, outputs, targets).mean()

        slope = slope_of(mean_loss, moving)

        def noise_of(key: Array) -> list[Array]:
            keys = jax.random.split(key, len(moving))
            return [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, moving, strict=True)
            ]

        def one_probe(noise: list[Array]) -> list[Array]:
            along = slope(noise)
            return [along.astype(z.dtype) * z for z in noise]

        found = mean_over_probes(one_probe, noise_of, jax.random.split(key, num), num, chunk=1)
        gradients = jax.tree.unflatten(tree, replaced(found, jnp.zeros_like))
        return gradients, state, info_from(losses, outputs, {}, gradients, aux=aux)

    return on_any_mesh(Estimator(init, estimate))


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating)
