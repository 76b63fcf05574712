"""Type aliases and the axis letters that every docstring uses.

K: probes. B: batch (examples). n: units of one tap, flattened. d: dimension of the subspace that
a tap is perturbed in. o: outputs. T: time steps of a scan.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
DType = Any
PyTree = Any
Params = Any
"""A pytree of floating-point arrays."""
Inputs = Any
Batch = tuple[Any, Any]
"""(inputs, targets), whatever the model and the loss take."""
Activations = dict[str, Array]
"""Tap name to array, in the activation's own shape."""
Rank = int | Mapping[str, int]
"""Subspace dimension d, one for every tap or one by tap name."""

ApplyFn = Callable[..., Any]
"""apply_fn(params, inputs, tap) -> outputs [B, o]."""
LossFn = Callable[[Array, Any], Array]
"""loss_fn(outputs, targets) -> one loss per example, [B]."""


class Info(NamedTuple):
    """What an estimate tells besides the gradients.

    Attributes:
        loss: batch-mean loss, a scalar.
        outputs: the model's unperturbed outputs, [B, o].
        credit_norm: tap name to the Euclidean norm of the credit, a scalar.
        credit: tap name to the credit, the estimate of the batch-mean loss's gradient with respect
            to the activation, in the activation's shape. It costs memory only where it is returned
            from a jitted function.
    """

    loss: Array
    outputs: Array
    credit_norm: dict[str, Array]
    credit: Activations


class Estimator(NamedTuple):
    """A gradient estimator: two pure functions.

    Attributes:
        init: ``init(params, batch) -> state``. The batch may be larger than those of training.
        estimate: ``estimate(key, params, batch, state) -> (gradients, state, info)``. Gradients
            have the tree, shapes, dtypes and scale of ``jax.grad`` of the batch-mean loss.
    """

    init: Callable[[Params, Batch], Any]
    estimate: Callable[[Array, Params, Batch, Any], tuple[Params, Any, Info]]
