"""The losses of examples, and the output error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nmnc_jax.checks import check_losses, warn
from nmnc_jax.layout import examples_of
from nmnc_jax.types import Array, Batch, LossFn


def losses_of(loss_fn: LossFn, outputs: Any, targets: Any) -> Array:
    """Computes each example's loss.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example or time step.
    """
    if not callable(loss_fn):
        raise ValueError(f"loss_fn is {loss_fn!r}; it takes a function")
    losses = loss_fn(outputs, targets)
    if not hasattr(losses, "shape"):
        raise ValueError(f"loss_fn returned {losses!r}; it takes one loss per example")
    batch = examples_of(outputs)
    timed = {leaf.shape[:2] for leaf in jax.tree.leaves(outputs) if leaf.ndim > 2}
    if losses.shape != (batch,) and losses.shape not in timed:
        also = "".join(f", or one for each time step, {shape}" for shape in sorted(timed))
        raise ValueError(
            f"loss_fn returned shape {losses.shape}; it takes one loss per example, "
            f"{(batch,)}{also}: not reduced over examples, and reduced over all other axes"
        )
    return losses


def check_first_losses(loss_fn: LossFn, outputs: Any, batch: Batch) -> None:
    """Checks that the losses of the first batch are not reduced and are finite.

    It warns if an example's loss changes with the targets of others, as by unwanted broadcasting.
    """
    targets = batch[1]
    losses = losses_of(loss_fn, outputs, targets)
    check_losses(losses, outputs, batch)
    examples = examples_of(outputs)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((losses, targets)))
    if traced or examples == 1:
        return

    def of_the_first(leaf: Any) -> Any:
        rows = jnp.shape(leaf)[:1] == (examples,)
        return jnp.broadcast_to(leaf[:1], leaf.shape) if rows else leaf

    again = losses_of(loss_fn, outputs, jax.tree.map(of_the_first, targets))
    # Both are not finite if the loss does not take such targets.
    if not np.allclose(again[0], losses[0], rtol=1e-3, atol=1e-6, equal_nan=True):
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (outputs, targets)]
        warn(
            "the loss of the first example changes with the targets of others; if this is not "
            f"wanted, look for broadcasting between outputs {shapes[0]} and targets {shapes[1]}"
        )


def losses_and_error(loss_fn: LossFn, outputs: Any, targets: Any) -> tuple[Array, Any]:
    """Computes each example's loss and the output error.

    Args:
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, or [B, T] for outputs [B, T, o].
        outputs: [B, ...], or a pytree of such arrays.
        targets: the targets that `loss_fn` takes.

    Returns:
        ``(losses, error)``: losses [B] or [B, T], and the gradient of their mean with respect to
        the outputs, which has the structure of the outputs.

    Raises:
        ValueError: if the loss is reduced, or is not one number per example.
    """
    try:
        losses, pullback = jax.vjp(lambda outputs: losses_of(loss_fn, outputs, targets), outputs)
    except ValueError as error:
        if "callback" not in str(error).lower():
            raise
        raise ValueError(
            "loss_fn holds a callback, which has no derivative; this method takes the loss's "
            "derivative at the outputs: give the loss a jax.custom_vjp, or use weight_perturbation"
        ) from error
    return losses, pullback(jnp.full_like(losses, 1 / losses.size))[0]
