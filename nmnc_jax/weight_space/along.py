"""Correlates noise in all weights with the slope of the loss along it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from nmnc_jax.backprop import EmptyState
from nmnc_jax.checks import check_batch, check_count, check_key, check_precision, named_leaves
from nmnc_jax.correlate import mean_over_probes
from nmnc_jax.credit import check_first_losses, info_from, losses_of
from nmnc_jax.dependence import narrowest_after
from nmnc_jax.sharding import on_any_mesh
from nmnc_jax.taps import Model, no_tap
from nmnc_jax.types import ApplyFn, Array, Batch, Due, Estimator, Info, LossFn, Params

Kind = Literal["gaussian", "rademacher"]
Mask = Any
"""A mask as in ``optax.masked``: a prefix of the parameters' tree with booleans, or a function."""


class Moving(NamedTuple):
    """The parameters that are perturbed.

    Attributes:
        loss: function of their values that returns the batch-mean loss.
        clean: function that returns the loss without noise, from a pass at the highest precision.
        values: the value of each leaf.
        noise: function of a seed that returns the noise of each leaf. The noise is drawn anew
            wherever it is used, and never stored.
    """

    loss: Callable[[list[Array]], Array]
    clean: Callable[[], Array]
    values: list[Array]
    noise: Callable[[Array], list[Array]]


def along_weights(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    num: int,
    kind: Kind,
    trainable: Mask,
    has_aux: bool,
    difference: str,
    slope_of: Callable[[Moving], Callable[[Array], Array]],
) -> Estimator:
    """Correlates noise in the trainable parameters with the slope of the batch-mean loss."""
    check_count("num", num)
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; it takes one of {list(get_args(Kind))}")
    sample = jax.random.normal if kind == "gaussian" else jax.random.rademacher

    def checked(model: Model, params: Params, inputs: Any, outputs: Any) -> list[bool]:
        """Checks that the model can be perturbed, and returns which leaves are."""
        named = {
            f"params{place}": leaf for place, leaf in named_leaves(params) if _is_floating(leaf)
        }
        named |= {f"the output{place}": leaf for place, leaf in named_leaves(outputs)}
        chosen = _chosen(trainable, params)
        if difference != "jvp":
            traced = jax.make_jaxpr(lambda params: model(params, inputs, no_tap))(params)
            places = frozenset(place for place, on in enumerate(chosen) if on)
            named["a value computed from params"] = narrowest_after(traced, places)
        check_precision(difference, named, takes="weight_forward_gradient")
        for (place, leaf), on in zip(named_leaves(params), chosen, strict=True):
            if on and jnp.issubdtype(jax.typeof(leaf).dtype, jnp.complexfloating):
                raise ValueError(
                    f"params{place} is {leaf.dtype}; it takes real parameters, or a mask trainable "
                    "that is False for it"
                )
        return chosen

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> EmptyState:
        del key
        inputs, _ = check_batch(batch)
        model = Model(apply_fn, has_aux, kwargs)
        outputs = model(params, inputs, no_tap)
        checked(model, params, inputs, outputs)
        check_first_losses(loss_fn, outputs, batch)
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
        outputs, aux = model.outputs_and_aux(params, inputs, no_tap)
        losses = losses_of(loss_fn, outputs, targets)
        leaves, tree = jax.tree.flatten(params)
        chosen = checked(model, params, inputs, outputs)
        places = [
            place
            for place, (leaf, on) in enumerate(zip(leaves, chosen, strict=True))
            if on and _is_floating(leaf)
        ]
        values = [leaves[place] for place in places]

        def replaced(values: list[Array], rest: Callable[[Any], Any]) -> list[Any]:
            new = dict(zip(places, values, strict=True))
            return [new[p] if p in new else rest(leaf) for p, leaf in enumerate(leaves)]

        def mean_loss(values: list[Array]) -> Array:
            moved = jax.tree.unflatten(tree, replaced(values, lambda leaf: leaf))
            outputs = model(moved, inputs, no_tap)
            return losses_of(loss_fn, outputs, targets).mean()

        def clean_loss() -> Array:
            with jax.default_matmul_precision("highest"):
                return mean_loss(values)

        def noise(seed: Array) -> list[Array]:
            keys = jax.random.split(
                jax.random.wrap_key_data(seed, impl=jax.random.key_impl(key)), len(values)
            )
            return [sample(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, values, strict=True)]

        slope = slope_of(Moving(mean_loss, clean_loss, values, noise))

        def one_probe(seed: Array) -> list[Array]:
            along = slope(seed)
            return [along.astype(z.dtype) * z for z in noise(seed)]

        seeds = jax.random.key_data(jax.random.split(key, num))
        estimated = mean_over_probes(one_probe, lambda seed: seed, seeds, num, chunk=1)
        gradients = jax.tree.unflatten(tree, replaced(estimated, jnp.zeros_like))
        return gradients, state, info_from(losses, outputs, {}, gradients, aux=aux)

    return on_any_mesh(Estimator(init, estimate))


def _chosen(trainable: Mask, params: Params) -> list[bool]:
    """Returns which leaves are perturbed.

    Raises:
        ValueError: if the mask is not a prefix of the parameters' tree, or is False everywhere.
    """
    mask = trainable(params) if callable(trainable) else trainable
    if mask is None:
        mask = True
    try:
        chosen = [bool(on) for on in jax.tree.leaves(jax.tree.broadcast(mask, params))]
    except ValueError as error:
        raise ValueError(
            f"trainable is {jax.tree.structure(mask)}; it takes a prefix of the parameters' tree, "
            f"{jax.tree.structure(params)}"
        ) from error
    if not any(chosen):
        raise ValueError(
            "trainable chooses no parameter; it takes a mask that chooses at least one"
        )
    return chosen


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating)
