"""Backpropagation, under the interface of the estimators."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_batch, check_key
from nmnc_jax.credit import check_first_losses, floating, info_from, losses_and_error
from nmnc_jax.layout import find_structure, trace_nodes
from nmnc_jax.sharding import on_any_mesh
from nmnc_jax.taps import Model, Tap, no_tap
from nmnc_jax.types import (
    Activations,
    ApplyFn,
    Array,
    Batch,
    Due,
    Estimator,
    Info,
    LossFn,
    Params,
)


class EmptyState(NamedTuple):
    """State of an estimator that remembers nothing."""


def backprop(apply_fn: ApplyFn, loss_fn: LossFn, *, has_aux: bool = False) -> Estimator:
    """Returns an estimator that computes gradients by backpropagation.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, [B, ...].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``.

    Returns:
        An `Estimator` whose state is empty.

    Raises:
        ValueError: (from init and estimate) if the model has no tap, or the loss is reduced;
            (from init) if a loss is not finite or a tap has no effect on the outputs.

    Example:
        >>> from nmnc_jax import backprop
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = backprop(model, lambda outputs, targets: outputs.sum(-1))
    """

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> EmptyState:
        del key
        inputs, _ = check_batch(batch)
        model = Model(apply_fn, has_aux, kwargs)
        find_structure(model, params, inputs, trace_nodes(model, params, inputs))
        check_first_losses(loss_fn, model(params, inputs, no_tap), batch)
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
        inputs, targets = check_batch(batch)
        model = Model(apply_fn, has_aux, kwargs)
        shapes = trace_nodes(model, params, inputs).taps
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

        def forward(params: Params, noise: Activations) -> tuple[Any, Any]:
            return model.outputs_and_aux(params, inputs, Tap(noise))

        outputs, pullback, aux = jax.vjp(forward, params, zeros, has_aux=True)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        gradients, credit = pullback(error)
        gradients = floating(gradients, params)
        return gradients, state, info_from(losses, outputs, credit, gradients, aux=aux)

    return on_any_mesh(Estimator(init, estimate))
