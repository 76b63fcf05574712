"""Composes estimators, one for each group of parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_key
from nmnc_jax.schedule import check_due
from nmnc_jax.types import Array, Batch, Due, Estimator, Info, Params, PyTree


def grouped(estimators: Mapping[str, Estimator], labels: PyTree) -> Estimator:
    """Composes estimators so that each parameter's gradient comes from its group's estimator.

    Each estimator is given the whole model. In a compiled step, shared work such as the clean pass
    is computed once, and what no group uses is not computed: backpropagation for the last layers
    goes no deeper than those layers.

    Args:
        estimators: group to estimator. The `Info` of the first one is returned.
        labels: a pytree of groups with the structure of the parameters or a prefix of it, as for
            `optax.partition`.

    Returns:
        An `Estimator` whose state is a dict of the groups' states.

    Raises:
        ValueError: if a label has no estimator or an estimator has no label; (from estimate) if
            `labels` is not a prefix of the parameters.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import backprop, grouped, nmnc
        >>> def model(params, inputs, tap):
        ...     hidden = tap("hidden", jnp.tanh(inputs @ params["body"]))
        ...     return hidden @ params["head"]
        >>> squared_error = lambda outputs, targets: ((outputs - targets) ** 2).sum(-1)
        >>> estimator = grouped(
        ...     {"noise": nmnc(model, squared_error, rank=2),
        ...      "exact": backprop(model, squared_error)},
        ...     {"body": "noise", "head": "exact"})
        >>> params = {"body": jnp.ones((3, 4)) / 9, "head": jnp.ones((4, 2))}
        >>> batch = jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> state = estimator.init(params, batch)
        >>> gradients, state, info = estimator.estimate(jax.random.key(0), params, batch, state)
        >>> jax.tree.map(jnp.shape, gradients)
        {'body': (3, 4), 'head': (4, 2)}
    """
    named = set(jax.tree.leaves(labels))
    if named != set(estimators):
        raise ValueError(
            f"labels has the groups {sorted(named)}; it takes those of the estimators, "
            f"{sorted(estimators)}"
        )

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        keys = [None] * len(estimators) if key is None else jax.random.split(key, len(estimators))
        return {
            group: estimator.init(params, batch, key=group_key, **kwargs)
            for group_key, (group, estimator) in zip(keys, estimators.items(), strict=True)
        }

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: dict[str, Any],
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Params, dict[str, Any], Info]:
        if not isinstance(state, dict) or set(state) != set(estimators):
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state has the groups {got}; it takes {sorted(estimators)}")
        check_key(key)
        dues = [None] * len(estimators) if due is None else check_due(due).groups
        if len(dues) != len(estimators):
            raise ValueError(
                f"due is for {len(dues)} groups; it takes what the due(step) of the estimator of "
                f"{len(estimators)} groups returns"
            )
        keys = jax.random.split(key, len(estimators))
        estimates = [
            estimator.estimate(group_key, params, batch, state[group], due=group_due, **kwargs)
            for group_key, group_due, (group, estimator) in zip(
                keys, dues, estimators.items(), strict=True
            )
        ]
        gradients, states, infos = zip(*estimates, strict=True)
        place = {group: number for number, group in enumerate(estimators)}
        chosen = jax.tree.map(lambda label, *parts: parts[place[label]], labels, *gradients)
        finite = jnp.stack([info.finite for info in infos]).all()
        info = infos[0]._replace(finite=finite)
        return chosen, dict(zip(estimators, states, strict=True)), info

    def due_at(step: int) -> Due:
        dues = tuple(estimator.due(step) for estimator in estimators.values())
        return Due(any(due.probe for due in dues), any(due.move for due in dues), dues)

    return Estimator(init, estimate, due_at)
