"""Type aliases and the axis letters that every docstring uses.

K: probes. B: batch (examples). n: units of one tap, flattened. d: dimension of the subspace in
which a tap is perturbed. o: outputs. T: time steps of a scan.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
DType = Any
PyTree = Any
Params = Any
"""A pytree of arrays; arrays that are not floating-point get zero gradients."""
Inputs = Any
Batch = tuple[Any, Any]
"""(inputs, targets), as the model and the loss take them."""
Activations = dict[str, Array]
"""Tap name to array, in the activation's shape."""
Rank = int | Mapping[str, int]
"""Subspace dimension d, one for all taps or a dict by tap name."""

ApplyFn = Callable[..., Any]
"""apply_fn(params, inputs, tap, **kwargs) -> outputs, [B, ...] or a pytree of such arrays; with
has_aux=True it returns (outputs, aux)."""
LossFn = Callable[[Any, Any], Array]
"""loss_fn(outputs, targets) -> one loss per example, [B], or per time step, [B, T]."""


class Info(NamedTuple):
    """What an estimate returns besides gradients and state.

    Attributes:
        loss: batch-mean loss, a scalar.
        outputs: the model's unperturbed outputs, [B, o].
        credit_norm: tap name to the Euclidean norm of the credit, a scalar.
        credit: tap name to the credit, the estimate of the batch-mean loss's gradient with respect
            to the activation, in the activation's shape. It uses memory only if a jitted function
            returns it.
        aux: the auxiliary outputs of the clean pass; None without has_aux.
        finite: whether loss, gradients, credit and everything that the step learned are finite. A
            step that is not finite leaves the state unchanged.
    """

    loss: Array
    outputs: Any
    credit_norm: dict[str, Array]
    credit: Activations
    aux: Any
    finite: Array


class Due(NamedTuple):
    """The scheduled work of a step, besides its forward pass and its gradients; hashable.

    Attributes:
        probe: whether this step measures the feedback by probes.
        move: whether this step updates the bases from the activity.
        groups: for `grouped`, the scheduled work of each estimator, in their order.
    """

    probe: bool
    move: bool
    groups: tuple["Due", ...] = ()


class Init(Protocol):
    """``init(params, batch, *, key=None, **kwargs) -> state``."""

    def __call__(
        self, params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> Any:
        """Returns the first state."""
        ...


class Estimate(Protocol):
    """``estimate(key, params, batch, state, *, due=None, **kwargs)``."""

    def __call__(
        self,
        key: Array,
        params: Params,
        batch: Batch,
        state: Any,
        *,
        due: Any = None,
        **kwargs: Any,
    ) -> tuple[Params, Any, Info]:
        """Returns the estimated gradients, the new state and an `Info`."""
        ...


def nothing_due(step: int) -> Due:
    """Returns the schedule of an estimator without scheduled work."""
    del step
    return Due(probe=False, move=False)


class Estimator(NamedTuple):
    """A gradient estimator: two pure functions, and the schedule of its occasional work.

    Attributes:
        init: ``init(params, batch, *, key=None, **kwargs) -> state``. The batch may be larger than
            the batches of training. A `key` replaces the seed of random subspaces and feedback.
        estimate: ``estimate(key, params, batch, state, *, due=None, **kwargs) -> (gradients, state,
            info)``. Gradients have the tree, shapes, dtypes and scale of ``jax.grad`` of the
            batch-mean loss. `due` is a static argument, the value of ``due(step)`` for this step,
            so that the compiled step contains no work that is not due; with None the program
            decides by the step count in the state. Every pass of the step gives ``kwargs`` to
            ``apply_fn``; `key` and `due` are not among them.
        due: ``due(step) -> Due``, in plain Python.

    Example:
        >>> from nmnc_jax import nmnc
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> nmnc(model, lambda outputs, targets: outputs.sum(-1), rank=2, update_every=5).due(5)
        Due(probe=True, move=False, groups=())
    """

    init: Init
    estimate: Estimate
    due: Callable[[int], Due] = nothing_due
