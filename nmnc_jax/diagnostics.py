"""Exact but slow quantities, with which estimates are compared."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.credit import losses_and_error
from nmnc_jax.layout import at_least_float32, flatten, output_rows, tap_shapes
from nmnc_jax.subspace import project
from nmnc_jax.taps import no_tap, run
from nmnc_jax.types import Activations, ApplyFn, Array, Batch, Inputs, LossFn, Params, PyTree


def exact_gradient(
    apply_fn: ApplyFn, loss_fn: LossFn, params: Params, batch: Batch, **kwargs: Any
) -> Params:
    """Computes the gradient of the batch-mean loss with respect to the parameters.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        params: the model's parameters.
        batch: (inputs, targets).
        **kwargs: keyword arguments of the model.

    Returns:
        Gradients with the structure of `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import exact_gradient
        >>> model = lambda params, inputs, tap: tap("hidden", inputs) @ params
        >>> batch = jnp.ones((3, 2)), None
        >>> exact_gradient(model, lambda y, t: y.sum(-1), jnp.ones((2, 1)), batch)
        Array([[1.],
               [1.]], dtype=float32)
    """
    inputs, targets = batch

    def mean_loss(params: Params) -> Array:
        return loss_fn(apply_fn(params, inputs, no_tap, **kwargs), targets).mean()

    return jax.grad(mean_loss)(params)


def exact_credit(
    apply_fn: ApplyFn, loss_fn: LossFn, params: Params, batch: Batch, **kwargs: Any
) -> tuple[Activations, Array]:
    """Computes the gradient of the batch-mean loss at every tapped activation and the outputs.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        params: the model's parameters.
        batch: (inputs, targets).
        **kwargs: keyword arguments of the model.

    Returns:
        ``(credit, output_error)``, as `nmnc_jax.gradients_from_credit` takes them.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import exact_credit
        >>> model = lambda params, inputs, tap: 3 * tap("hidden", inputs @ params)
        >>> batch = jnp.ones((1, 2)), None
        >>> exact_credit(model, lambda y, t: y.sum(-1), jnp.eye(2), batch)[0]["hidden"]
        Array([[3., 3.]], dtype=float32)
    """
    inputs, targets = batch
    outputs, pullback = _tap_pullback(partial(apply_fn, **kwargs), params, inputs)
    _, error = losses_and_error(loss_fn, outputs, targets)
    return pullback(error)[0], error


def exact_jacobian(
    apply_fn: ApplyFn, params: Params, inputs: Inputs, **kwargs: Any
) -> dict[str, Array]:
    """Computes the Jacobian of each example's outputs with respect to its tapped activations.

    Args:
        apply_fn: the model.
        params: the model's parameters.
        inputs: the model's inputs.
        **kwargs: keyword arguments of the model.

    Returns:
        A dict from tap name to [B, o, n], or [B, o, T n] for a tap in a scan. The readout `output`
        estimates the mean of this Jacobian over examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import exact_jacobian
        >>> model = lambda params, inputs, tap: tap("hidden", inputs) @ params
        >>> exact_jacobian(model, jnp.ones((3, 2)), jnp.ones((5, 3)))["hidden"].shape
        (5, 2, 3)
    """
    apply_fn = partial(apply_fn, **kwargs)
    shapes = tap_shapes(apply_fn, params, inputs)
    outputs, pullback = _tap_pullback(apply_fn, params, inputs)
    rows, to_outputs = jax.vjp(output_rows, outputs)

    def row(one_hot: Array) -> dict[str, Array]:
        cotangent = jnp.broadcast_to(one_hot[None], rows.shape)
        by_tap = pullback(to_outputs(cotangent)[0])[0]
        return {
            name: flatten(shape, by_tap[name]).reshape(shape.batch, -1)
            for name, shape in shapes.items()
        }

    jacobian = jax.lax.map(row, jnp.eye(rows.shape[1], dtype=rows.dtype))
    return {name: value.swapaxes(0, 1) for name, value in jacobian.items()}


def cosine(left: PyTree, right: PyTree) -> Array:
    """Computes the cosine between two pytrees, each taken as one vector; 0 if either is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import cosine
        >>> f"{cosine({'a': jnp.array([3.0, 4.0])}, {'a': jnp.array([3.0, 0.0])}):.2f}"
        '0.60'
    """
    pairs = list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
    dtype = jnp.result_type(*(at_least_float32(leaf.dtype) for pair in pairs for leaf in pair))
    wide = [(a.astype(dtype), b.astype(dtype)) for a, b in pairs]
    inner = sum(((a * b).sum() for a, b in wide), start=jnp.zeros((), dtype))
    left_square = sum(((a * a).sum() for a, _ in wide), start=jnp.zeros((), dtype))
    right_square = sum(((b * b).sum() for _, b in wide), start=jnp.zeros((), dtype))
    norm = jnp.sqrt(left_square) * jnp.sqrt(right_square)
    return jnp.where(norm > 0, inner / jnp.where(norm > 0, norm, 1), 0)


def alignment(estimated: PyTree, exact: PyTree) -> PyTree:
    """Computes the cosine between an estimate and the exact value for each leaf.

    Compare with the exact value on a large fixed batch: two gradients of the same minibatch share
    its noise, which makes their cosine too large.

    Args:
        estimated: credit by tap name, or gradients with the structure of the parameters.
        exact: the exact values, in the same structure.

    Returns:
        The same structure, with a scalar for each leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import alignment
        >>> f"{alignment({'hidden': jnp.ones(2)}, {'hidden': -jnp.ones(2)})['hidden']:.1f}"
        '-1.0'
    """
    return jax.tree.map(cosine, estimated, exact)


def jacobian_share(jacobian: Array, basis: Array | None) -> Array:
    """Computes the share of a Jacobian's squared norm in a subspace, ``|J P|^2 / |J|^2``, or alpha.

    If alpha > d/n, noise correlation in the subspace aligns better than isotropic noise.

    Args:
        jacobian: [..., o, n].
        basis: U, [n, d], or None for all directions.

    Returns:
        A scalar from 0 to 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import jacobian_share
        >>> f"{jacobian_share(jnp.array([[3.0, 4.0]]), jnp.array([[1.0], [0.0]])):.2f}"
        '0.36'
    """
    return (project(basis, jacobian) ** 2).sum() / (jacobian**2).sum()


def participation_ratio(activity: Array) -> Array:
    """Computes the effective dimension of activity, (sum of variances)^2 / sum of their squares.

    Args:
        activity: [B, n].

    Returns:
        A scalar from 1 to min(B - 1, n).

    Example:
        >>> import jax.numpy as jnp
        >>> from nmnc_jax.diagnostics import participation_ratio
        >>> square = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> float(participation_ratio(square))
        2.0
    """
    centred = activity - activity.mean(axis=0)[None]
    gram = centred.T @ centred if activity.shape[1] < len(activity) else centred @ centred.T
    return jnp.trace(gram) ** 2 / (gram**2).sum()


def _tap_pullback(
    apply_fn: ApplyFn, params: Params, inputs: Inputs
) -> tuple[Array, Callable[[Array], tuple[Activations]]]:
    """Returns the outputs and the pullback from them to every tapped activation."""
    shapes = tap_shapes(apply_fn, params, inputs)
    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    return jax.vjp(lambda noise: run(apply_fn, params, inputs, noise=noise)[0], zeros)
