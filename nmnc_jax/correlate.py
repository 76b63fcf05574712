"""Probe passes, mapped and chunked, and the correlation of the probes with the response."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nmnc_jax.probes import Probe, coordinates, draw, linear_response
from nmnc_jax.subspace import lift
from nmnc_jax.taps import TapShape, unflatten
from nmnc_jax.types import Activations, Array


def correlations(
    respond: Callable[[Activations], Array],
    *,
    key: Array,
    probe: Probe,
    shapes: dict[str, TapShape],
    bases: dict[str, Array | None],
    scales: dict[str, Array],
    pooled: bool,
) -> dict[str, Array]:
    """Correlates probe coordinates at each tap with the network's response to them.

    Args:
        respond: noise by tap name to the response, [B, r]: the outputs, or the losses with r = 1.
        key: split once per tap, in the order of `shapes`.
        probe: number, kind, difference, scope and chunk of the probes.
        shapes: the taps to probe.
        bases: tap name to basis [n, d], or None for all n directions.
        scales: tap name to the size of one coordinate, in units of the activity.
        pooled: whether examples are averaged together (the `output` readout) or apart (`loss`).

    Returns:
        Tap name to E[dy z^T], an estimate of J U per unit of activity: [r, d] if pooled, one row
        per example, [B, d], otherwise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import Probe
        >>> from nmnc_jax.correlate import correlations
        >>> from nmnc_jax.taps import TapShape
        >>> jacobian = jnp.array([[1.0, 2.0, 3.0]])
        >>> estimate = correlations(
        ...     lambda noise: noise["x"] @ jacobian.T,
        ...     key=jax.random.key(0), probe=Probe(num=3, kind="orthogonal", difference="jvp"),
        ...     shapes={"x": TapShape((1, 3), jnp.dtype("float32"), 0)},
        ...     bases={"x": None}, scales={"x": jnp.ones(())}, pooled=True)
        >>> bool(jnp.allclose(estimate["x"], jacobian, atol=1e-5))
        True
    """
    names = list(shapes)
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    groups = [names] if probe.scope == "all_taps" else [[name] for name in names]
    estimates = {}
    for group in groups:
        estimates |= _probe_together(
            respond,
            {name: keys[name] for name in group},
            probe=probe,
            shapes={name: shapes[name] for name in group},
            bases=bases,
            scales=scales,
            pooled=pooled,
        )
    return estimates


def _probe_together(
    respond: Callable[[Activations], Array],
    keys: dict[str, Array],
    *,
    probe: Probe,
    shapes: dict[str, TapShape],
    bases: dict[str, Array | None],
    scales: dict[str, Array],
    pooled: bool,
) -> dict[str, Array]:
    """Estimates the correlations of taps that are perturbed in the same passes."""
    sizes = {}
    for name, shape in shapes.items():
        basis = bases[name]
        sizes[name] = (shape.batch, shape.units if basis is None else basis.shape[1])
    dtypes = {name: jnp.promote_types(s.dtype, jnp.float32) for name, s in shapes.items()}
    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    change = linear_response(respond, zeros, probe)

    def one_probe(drawn: dict[str, Array]) -> dict[str, Array]:
        z = {}
        for name, (batch, dimension) in sizes.items():
            z[name] = coordinates(drawn[name], probe, batch, dimension, dtypes[name])
        noise = {
            name: unflatten(shape, scales[name] * lift(bases[name], z[name])).astype(shape.dtype)
            for name, shape in shapes.items()
        }
        response = change(noise)
        correlated = {}
        for name in shapes:
            dy = response.astype(dtypes[name]) / scales[name]
            correlated[name] = dy.T @ z[name] / len(dy) if pooled else dy * z[name]
        return correlated

    draws = {}
    for name, (batch, dimension) in sizes.items():
        draws[name] = draw(
            keys[name],
            probe,
            batch=batch,
            dimension=dimension,
            dtype=dtypes[name],
            pooled=pooled,
        )
    return mean_over_probes(one_probe, draws, probe.num, probe.chunk_size())


def mean_over_probes(one_probe: Callable[[Any], Any], draws: Any, num: int, chunk: int) -> Any:
    """Averages a function of one draw over all draws, holding `chunk` of them in memory at once.

    Args:
        one_probe: draw to a pytree of arrays.
        draws: pytree of arrays or keys with leading axis K.
        num: K.
        chunk: a divisor of K.

    Returns:
        The mean of `one_probe` over the draws.
    """
    if chunk == num == 1:
        return one_probe(jax.tree.map(lambda leaf: leaf[0], draws))
    chunks = jax.tree.map(lambda leaf: leaf.reshape(num // chunk, chunk, *leaf.shape[1:]), draws)

    def add_chunk(total, chunk_draws):
        results = jax.vmap(one_probe)(chunk_draws)
        return jax.tree.map(lambda t, r: t + r.sum(axis=0), total, results), None

    shapes = jax.eval_shape(lambda d: one_probe(jax.tree.map(lambda leaf: leaf[0], d)), draws)
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = lax.scan(add_chunk, total, chunks)
    return jax.tree.map(lambda leaf: leaf / num, total)
