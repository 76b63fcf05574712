"""Runs probe passes in chunks and correlates the probes with the response."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.layout import TapShape, at_least_float32, unflatten
from nmnc_jax.probes import (
    Probe,
    coordinates,
    draw,
    linear_response,
    places_of_rows,
    spread_over_rows,
)
from nmnc_jax.sharding import divided_like, zeros_of
from nmnc_jax.subspace import dimension_of, lift, used
from nmnc_jax.taps import Tap
from nmnc_jax.types import Activations, Array

Correlation = TypeVar("Correlation")


def correlations(
    forward: Callable[[Tap], dict[str, Any]],
    correlate: Callable[[str, Array, Any], Correlation],
    *,
    key: Array,
    probe: Probe,
    clean: Mapping[str, Any],
    shapes: dict[str, TapShape],
    bases: dict[str, Array | None],
    scales: dict[str, Array],
    pooled: bool,
    isolated: bool = False,
    activity: Mapping[str, Array] | None = None,
    change: Callable[[Activations], dict[str, Any]] | None = None,
) -> dict[str, Correlation]:
    """Correlates probe coordinates at each tap with the network's response to them.

    Args:
        forward: function of a tap that returns, for each name, the pytree of arrays that responds
            to a perturbation there.
        correlate: function of a tap name, coordinates z [B T, d] and the response per unit of
            activity; returns what is averaged over probes.
        key: split once per tap, in the order of `shapes`.
        probe: number, kind, difference, scope and chunk of the probes.
        clean: what arrives at each node in the clean pass.
        shapes: the taps to probe.
        bases: tap name to basis [n, d], or None for all n directions.
        scales: tap name to the size of one coordinate, in units of the activity.
        pooled: whether orthogonal frames run over all examples (readout `output`) or over the
            probes of each example (`loss`).
        isolated: whether each node passes on only its clean value and its own noise (`next`).
        activity: tap name to its activity as a matrix, [B T, n], with which noise is divided over
            devices; None leaves that to the compiler.
        change: function of the noise at one tap that returns what is correlated; None for the
            change of the response.

    Returns:
        A dict from tap name to the mean of `correlate` over the probes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import Probe
        >>> from nmnc_jax.correlate import correlations
        >>> from nmnc_jax.layout import tap_shapes
        >>> jacobian, x = jnp.array([[1.0, 2.0, 3.0]]), jnp.zeros((1, 3))
        >>> model = lambda params, inputs, tap: tap("x", inputs) @ params.T
        >>> estimate = correlations(
        ...     lambda tap: {"x": model(jacobian, x, tap)},
        ...     lambda name, z, dy: dy.T @ z / len(z),
        ...     key=jax.random.key(0),
        ...     probe=Probe(num=3, kind="orthogonal", difference="jvp", scope="each_tap"),
        ...     clean={"x": x}, shapes=tap_shapes(model, jacobian, x),
        ...     bases={"x": None}, scales={"x": jnp.ones(())}, pooled=True)
        >>> bool(jnp.allclose(estimate["x"], jacobian, atol=1e-5))
        True
    """
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    dimensions = {name: dimension_of(bases[name], shapes[name].units) for name in shapes}
    dtypes = {name: at_least_float32(s.dtype) for name, s in shapes.items()}
    directions = {
        name: used(bases[name], shape.units).astype(dtypes[name])[None]
        for name, shape in shapes.items()
    }
    places: dict[str, Array | None] = dict.fromkeys(shapes)
    if probe.perturbed is not None:
        for name, shape in shapes.items():
            place_key, keys[name] = jax.random.split(keys[name])
            places[name] = places_of_rows(place_key, probe.perturbed, shape.rows)

    def probe_together(names: list[str], probe: Probe) -> dict[str, Correlation]:
        def response(tap: Tap) -> dict[str, Any]:
            responses = forward(tap)
            return {name: responses[name] for name in names}

        measure = change or linear_response(
            response, names, probe, clean=clean, shapes=shapes, isolated=isolated
        )

        def drawn_coordinates(draw: dict[str, Any]) -> dict[str, Array]:
            return {
                name: coordinates(
                    draw[name],
                    probe,
                    probe.perturbed or shapes[name].rows,
                    dimensions[name],
                    dtypes[name],
                )
                for name in names
            }

        def one_probe(drawn: dict[str, Array]) -> dict[str, Correlation]:
            z, noise = {}, {}
            for name in names:
                shape = shapes[name]
                some = drawn[name] * directions[name]
                z[name] = spread_over_rows(some, places[name], shape.rows)
                rows = scales[name] * lift(bases[name], z[name])
                if activity is not None:
                    rows = divided_like(rows, activity[name])
                noise[name] = unflatten(shape, rows).astype(shape.dtype)
            changes = measure(noise)
            correlated = {}
            for name in names:
                dtype, scale = dtypes[name], scales[name]
                dy = jax.tree.map(lambda leaf, d=dtype, s=scale: leaf.astype(d) / s, changes[name])
                correlated[name] = correlate(name, z[name], dy)
            return correlated

        draws = {}
        for name in names:
            draws[name] = draw(
                keys[name],
                probe,
                rows=probe.perturbed or shapes[name].rows,
                dimension=dimensions[name],
                dtype=dtypes[name],
                pooled=pooled,
            )
        return mean_over_probes(
            one_probe, drawn_coordinates, draws, probe.count(), probe.chunk_size()
        )

    if probe.scope == "all_taps" and change is None:
        return probe_together(list(shapes), probe)
    return {name: probe_together([name], probe.at(name))[name] for name in shapes}


def mean_over_probes(
    one_probe: Callable[[Any], Any],
    prepare: Callable[[Any], Any],
    draws: Any,
    num: int,
    chunk: int,
) -> Any:
    """Averages a function of one draw over all draws, with one chunk of draws in memory at a time.

    Args:
        one_probe: function of a prepared draw that returns a pytree of arrays.
        prepare: function of a draw that returns the argument of `one_probe`. It is called for one
            draw at a time, because some of JAX's generators depend on the keys in the same map,
            and factorisations on CPU wait for each other.
        draws: pytree of arrays or keys with leading axis K.
        num: K.
        chunk: a divisor of K.

    Returns:
        The mean of `one_probe` over the draws.
    """

    def first(draws: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], draws)

    if num == 1:
        return one_probe(prepare(first(draws)))
    chunks = jax.tree.map(lambda leaf: leaf.reshape(num // chunk, chunk, *leaf.shape[1:]), draws)

    def add_chunk(total, chunk_draws):
        if chunk == 1:
            results = one_probe(prepare(first(chunk_draws)))
        else:
            mapped = jax.vmap(one_probe)(lax.map(prepare, chunk_draws))
            results = jax.tree.map(lambda r: r.sum(axis=0), mapped)
        return jax.tree.map(jnp.add, total, results), None

    shapes = jax.eval_shape(lambda draws: one_probe(prepare(first(draws))), draws)
    total = jax.tree.map(zeros_of, shapes)
    total, _ = lax.scan(add_chunk, total, chunks)
    return jax.tree.map(lambda leaf: leaf / num, total)
