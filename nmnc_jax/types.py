"""Type aliases and the axis letters that every docstring uses.

K: probes. B: batch (examples). n: units of one tap, flattened. d: dimension of the subspace that
a tap is perturbed in. o: outputs. T: time steps of a scan.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
DType = Any
PyTree = Any
Params = Any
"""A pytree of arrays; those that are not floating-point get zero gradients."""
Inputs = Any
Batch = tuple[Any, Any]
"""(inputs, targets), whatever the model and the loss take."""
Activations = dict[str, Array]
"""Tap name to array, in the activation's own shape."""
Rank = int | Mapping[str, int]
"""Subspace dimension d, one for every tap or one by tap name."""

ApplyFn = Callable[..., Any]
"""apply_fn(params, inputs, tap, **kwargs) -> outputs, [B, ...] or a pytree of them; with has_aux
(outputs, aux)."""
LossFn = Callable[[Any, Any], Array]
"""loss_fn(outputs, targets) -> one loss per example, [B], or per time step, [B, T]."""


class Info(NamedTuple):
    """What an estimate reports besides the gradients.

    Attributes:
        loss: batch-mean loss, a scalar.
        outputs: the model's unperturbed outputs, [B, o].
        credit_norm: tap name to the Euclidean norm of the credit, a scalar.
        credit: tap name to the credit, the estimate of the batch-mean loss's gradient with respect
            to the activation, in the activation's shape. It costs memory only where it is returned
            from a jitted function.
        aux: what the model returns beside its outputs in the clean pass; None without has_aux.
        finite: whether loss, gradients, credit and everything that the step learned are finite. A
            step that is not leaves the state as it was.
    """

    loss: Array
    outputs: Any
    credit_norm: dict[str, Array]
    credit: Activations
    aux: Any
    finite: Array


class Due(NamedTuple):
    """What a step has to do besides its forward pass and its gradients; hashable.

    Attributes:
        probe: whether the feedback is measured by probes in this step.
        move: whether the bases follow the activity in this step.
        groups: of `grouped`, each group's own, in the order of its estimators.
    """

    probe: bool
    move: bool
    groups: tuple["Due", ...] = ()


class Init(Protocol):
    """``init(params, batch, *, key=None, **kwargs) -> state``."""

    def __call__(
        self, params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> Any:
        """Makes the first state."""
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
        """Estimates the gradients."""
        ...


def nothing_due(step: int) -> Due:
    """The schedule of an estimator that has no scheduled work."""
    del step
    return Due(probe=False, move=False)


class Estimator(NamedTuple):
    """A gradient estimator: two pure functions, and the schedule of its occasional work.

    Attributes:
        init: ``init(params, batch, *, key=None, **kwargs) -> state``. The batch may be larger than
            those of training. A `key` replaces the seed of random subspaces and feedback.
        estimate: ``estimate(key, params, batch, state, *, due=None, **kwargs) -> (gradients, state,
            info)``. Gradients have the tree, shapes, dtypes and scale of ``jax.grad`` of the
            batch-mean loss. `due` is a static argument: what `due(step)` returns for this step, so
            that the compiled step holds no work that is not due; None decides inside the program,
            by the state's own step. ``kwargs`` go to ``apply_fn`` alike in every pass of the step.
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
