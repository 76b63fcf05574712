"""Supports ``jax.shard_map`` and meshes with Explicit axes.

The library leaves sharding to the compiler. These functions do so where JAX requires the sharding
of values to be explicit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from nmnc_jax.types import Array, Due, Estimator


def zeros_of(shape: Any) -> Array:
    """Returns zeros of a shape and dtype that vary over the same mesh axes as the given shape."""
    return _varying_over(jnp.zeros(shape.shape, shape.dtype), _axes_varied(shape))


def divided_like(value: Array, other: Array) -> Array:
    """Returns a value that the compiler divides over devices as another one of the same shape.

    Without it, what depends on random numbers alone is computed as a whole on every device.
    """
    if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        return value
    return shard_alike(value, other)[0]


def loop(turns: Array, turn: Callable[[list[Array]], list[Array]], carry: list[Array]) -> Any:
    """Runs ``lax.fori_loop`` over arrays that a turn may make vary over more mesh axes."""
    while AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        before = [_axes_varied(jax.typeof(value)) for value in carry]
        after = [
            before[place] | _axes_varied(s) for place, s in enumerate(jax.eval_shape(turn, carry))
        ]
        if after == before:
            break
        carry = [_varying_over(value, axes) for value, axes in zip(carry, after, strict=True)]

    def body(_: Array, carry: list[Array]) -> list[Array]:
        return [
            _varying_over(new, _axes_varied(jax.typeof(old)))
            for new, old in zip(turn(carry), carry, strict=True)
        ]

    return lax.fori_loop(0, turns, body, carry)


def _axes_varied(value: Any) -> frozenset[str]:
    kind = getattr(value, "manual_axis_type", None)
    return frozenset() if kind is None else frozenset(kind.varying)


def _varying_over(value: Array, axes: frozenset[str]) -> Array:
    missing = tuple(sorted(axes - _axes_varied(jax.typeof(value)))) if axes else ()
    return lax.pcast(value, missing, to="varying") if missing else value


def on_any_mesh(estimator: Estimator) -> Estimator:
    """Returns an estimator that leaves sharding to the compiler on a mesh with Explicit axes.

    Gradients have the shardings of the parameters, the state keeps its shardings, and arrays with a
    row per example have the sharding of the batch. Inside ``jax.shard_map`` each device estimates
    from its own rows; average the gradients with ``jax.lax.pmean``, and also the state if it has to
    be the same on all devices. The mean of bases that each device moved by its own rows is no
    basis, so move bases outside of ``jax.shard_map``.
    """

    @functools.wraps(estimator.init)
    def init(params: Any, batch: Any, *, key: Array | None = None, **kwargs: Any) -> Any:
        arrays, settings = _parted(kwargs)
        arguments = params, batch, key, arrays
        mesh = _explicit_mesh(arguments)

        def first(params: Any, batch: Any, key: Any, arrays: Any) -> Any:
            return estimator.init(params, batch, key=key, **settings(arrays))

        if mesh is None:
            return first(*arguments)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
            return _by_compiler(mesh, first, lambda state: _like(state, mesh), arguments)
        # The checks in init need concrete values.
        concrete = _mesh_of_values(arguments)
        kinds = (AxisType.Auto,) * len(concrete.axis_names)
        automatic = Mesh(concrete.devices, concrete.axis_names, axis_types=kinds)
        with jax.set_mesh(automatic):
            state = first(*jax.tree.map(lambda leaf: _moved(leaf, automatic), arguments))
        with jax.set_mesh(concrete):
            return jax.device_put(state, NamedSharding(concrete, PartitionSpec()))

    @functools.wraps(estimator.estimate)
    def estimate(
        key: Array,
        params: Any,
        batch: Any,
        state: Any,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> Any:
        # Inside shard_map gradients differ between devices: they are not summed over devices for
        # parameters that all devices share.
        leaves = jax.tree.leaves((key, batch, state))
        own = frozenset().union(*(_axes_varied(jax.typeof(leaf)) for leaf in leaves))
        params = jax.tree.map(lambda leaf: _varying_over(leaf, own), params)
        arrays, settings = _parted(kwargs)
        arguments = key, params, batch, state, arrays
        mesh = _explicit_mesh(arguments)

        def step(key: Any, params: Any, batch: Any, state: Any, arrays: Any) -> Any:
            return estimator.estimate(key, params, batch, state, due=due, **settings(arrays))

        if mesh is None:
            return step(*arguments)
        rows = jax.typeof(jax.tree.leaves(batch)[0])
        by_row = NamedSharding(mesh, PartitionSpec(*rows.sharding.spec[:1]))

        def shardings(found: Any) -> Any:
            info = jax.tree.map(
                lambda leaf: by_row if leaf.shape[:1] == rows.shape[:1] else _whole(mesh), found[2]
            )
            return _like(params, mesh), _like(state, mesh), info

        return _by_compiler(mesh, step, shardings, arguments)

    return Estimator(init, estimate, estimator.due)


def _parted(kwargs: dict[str, Any]) -> tuple[list[Any], Callable[[list[Any]], dict[str, Any]]]:
    """Separates the arrays from keyword arguments, and returns a function that joins them again."""
    leaves, tree = jax.tree.flatten(kwargs)
    places = [place for place, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

    def joined(arrays: list[Any]) -> dict[str, Any]:
        new = dict(zip(places, arrays, strict=True))
        return tree.unflatten([new.get(place, leaf) for place, leaf in enumerate(leaves)])

    return [leaves[place] for place in places], joined


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    """Returns the mesh with Explicit axes of the first array of a tree that has one."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        mesh = getattr(sharding, "mesh", None)
        if mesh is not None and AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def _mesh_of_values(tree: Any) -> Mesh:
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree)]
    return next(
        each.mesh
        for each in shardings
        if isinstance(each, NamedSharding) and isinstance(each.mesh, Mesh)
    )


def _moved(leaf: Any, mesh: Mesh) -> Any:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return leaf
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))


def _whole(mesh: AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _like(tree: Any, mesh: AbstractMesh) -> Any:
    """Returns the shardings of a tree on a mesh; leaves that are not on it are replicated."""

    def of(leaf: Any) -> NamedSharding:
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        on_it = getattr(sharding, "mesh", None) == mesh
        return NamedSharding(mesh, sharding.spec) if on_it else _whole(mesh)  # pyright: ignore

    return jax.tree.map(of, tree)


def _by_compiler(
    mesh: AbstractMesh,
    function: Callable[..., Any],
    shardings: Callable[[Any], Any],
    arguments: tuple[Any, ...],
) -> Any:
    """Calls a function and leaves all Explicit axes to the compiler."""

    def alone(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jax.typeof(leaf).dtype)

    shapes = jax.eval_shape(function, *jax.tree.map(alone, arguments))
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Explicit
    )
    with jax.sharding.use_abstract_mesh(mesh):
        automatic = jax.sharding.auto_axes(function, axes=axes, out_sharding=shardings(shapes))
        return automatic(*arguments)
