"""Wraps estimators as Optax gradient transformations.

``import nmnc_jax`` does not import this module, which needs Optax.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from nmnc_jax.types import Array, Batch, Estimator, Params, PyTree


class EstimatedState(NamedTuple):
    """State of `as_transformation`.

    Attributes:
        estimator: the estimator's state.
        loss: batch-mean loss of the last estimate, a scalar; infinite before the first estimate.
    """

    estimator: Any
    loss: Array


def as_transformation(estimator: Estimator, batch: Batch) -> optax.GradientTransformationExtraArgs:
    """Returns an Optax transformation that replaces the incoming updates by estimated gradients.

    The update ignores the incoming updates (pass the parameters) and the extra arguments of other
    transformations. The loss is in the state: ``optax.tree.get(state, "loss")``. A batch that is
    not finite leaves the estimator's state unchanged. To skip the update of the parameters too,
    wrap the rest of the chain: ``optax.chain(as_transformation(...), optax.apply_if_finite(
    optimiser, 5))``. A wrapper around the whole chain would check the incoming updates, not the
    estimated gradients. For the same reason `optax.MultiSteps` wraps the rest of the chain: around
    the whole chain it would estimate from the last batch alone and leave out those before. The
    model receives no keyword arguments; what it needs in a step belongs in the batch's inputs.

    Args:
        estimator: any estimator of the library.
        batch: (inputs, targets) with which ``init`` initialises the estimator.

    Returns:
        A transformation whose update takes the extra arguments ``key`` and ``batch``, and ``due``
        as in the estimator.

    Raises:
        ValueError: (from update) if the parameters, `key` or `batch` are missing, or if the
            estimator raises.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from nmnc_jax import nmnc
        >>> from nmnc_jax.transforms import as_transformation
        >>> model = lambda params, inputs, tap: tap("hidden", jnp.tanh(inputs @ params)) @ params.T
        >>> squared_error = lambda outputs, targets: ((outputs - targets) ** 2).sum(-1)
        >>> params, batch = jnp.ones((3, 4)) / 9, (jnp.ones((5, 3)), jnp.ones((5, 3)))
        >>> optimiser = optax.chain(
        ...     as_transformation(nmnc(model, squared_error, rank=2), batch), optax.adam(1e-2))
        >>> state = optimiser.init(params)
        >>> updates, state = optimiser.update(
        ...     params, state, params, key=jax.random.key(0), batch=batch)
        >>> updates.shape, optax.tree.get(state, "loss").shape
        ((3, 4), ())
    """

    def init(params: Params) -> EstimatedState:
        return EstimatedState(estimator.init(params, batch), jnp.full((), jnp.inf, jnp.float32))

    def update(
        updates: PyTree,
        state: Any,
        params: Params | None = None,
        *,
        key: Array | None = None,
        batch: Batch | None = None,
        due: Any = None,
        **extra: Any,
    ) -> tuple[PyTree, EstimatedState]:
        del updates, extra
        for name, value in {"params": params, "key": key, "batch": batch}.items():
            if value is None:
                raise ValueError(f"{name} is None; as_transformation's update takes it")
        assert key is not None
        assert batch is not None
        gradients, memory, info = estimator.estimate(key, params, batch, state.estimator, due=due)
        return gradients, EstimatedState(memory, info.loss.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init, update)
