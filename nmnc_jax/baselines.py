"""Baselines outside the family, under its interface: backpropagation and weight perturbation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count, check_finite, check_precision, check_sigma
from nmnc_jax.correlate import mean_over_probes
from nmnc_jax.credit import losses_and_error
from nmnc_jax.general import info_from
from nmnc_jax.shapes import tap_shapes
from nmnc_jax.taps import no_tap, run
from nmnc_jax.types import ApplyFn, Array, Batch, Estimator, Info, LossFn, Params


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
