"""Probes: random coordinates from one key, and how a network's response to them is measured."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count, check_sigma
from nmnc_jax.shapes import TapShape
from nmnc_jax.taps import Tap
from nmnc_jax.types import Activations, Array, DType

Kind = Literal["gaussian", "rademacher", "orthogonal"]
Difference = Literal["central", "forward", "jvp"]
Scope = Literal["each_tap", "all_taps"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """How a network is perturbed and how its response is measured.

    Attributes:
        num: probes K per example and tap.
        kind: distribution of the coordinates, each of unit variance. "orthogonal" draws Haar frames
            scaled by sqrt(d) over all the probes that are averaged together (K x B for the `output`
            readout, K for `loss`); beyond d of them a new frame begins. All its coordinates are
            drawn at once; the other kinds draw them probe by probe.
        difference: "central" [y(x+xi) - y(x-xi)]/2, "forward" y(x+xi) - y(x), or "jvp", the exact
            directional derivative (no bias, no cancellation, works in bfloat16).
        sigma: root mean square of the perturbation per unit, relative to the tap's RMS activity.
            Subspaces of any dimension at one sigma perturb with the same energy. Unused by "jvp",
            where only its ratio between taps would matter.
        scope: "each_tap" perturbs one tap at a time; "all_taps" all of them in the same pass, which
            costs fewer passes and adds the variance of the other taps' perturbations.
        chunk: most probes in memory at once; the largest divisor of `num` up to it is taken. None:
            1 on CPU, where a loop is fastest, 8 elsewhere. It changes results by rounding only.
        rows: how many of a tap's rows (its examples, in a scan at each time step) are perturbed at
            each feedback update, drawn anew; their responses count for more in return, so that the
            estimate stays unbiased. None perturbs all. The readout `loss` takes None.
        mesh_axis: axis of the mesh in context (``jax.set_mesh``) over which the probes of a chunk
            are divided; its size divides the chunk.

    Raises:
        ValueError: if a field is out of range, named with what it got and what it takes.

    Example:
        >>> from nmnc_jax import Probe
        >>> Probe(num=4, difference="jvp").chunk_size()
        1
        >>> Probe(num=12, chunk=8).chunk_size()
        6
    """

    num: int = 8
    kind: Kind = "gaussian"
    difference: Difference = "central"
    sigma: float = 1e-3
    scope: Scope = "each_tap"
    chunk: int | None = None
    rows: int | None = None
    mesh_axis: str | None = None

    def __post_init__(self):
        for name, takes in (("kind", Kind), ("difference", Difference), ("scope", Scope)):
            value = getattr(self, name)
            if value not in get_args(takes):
                raise ValueError(f"{name} is {value!r}; it takes one of {list(get_args(takes))}")
        check_count("num", self.num)
        check_sigma(self.sigma)
        for name in ("chunk", "rows"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def chunk_size(self) -> int:
        """Probes in memory at once: the largest divisor of `num` up to `chunk`."""
        limit = self.chunk or (1 if jax.default_backend() == "cpu" else 8)
        return max(size for size in range(1, min(limit, self.num) + 1) if self.num % size == 0)


def draw(
    key: Array, probe: Probe, *, rows: int, dimension: int, dtype: DType, pooled: bool
) -> Array:
    """Prepares K draws, from each of which `coordinates` makes one probe's coordinates.

    Args:
        key: this tap's key.
        probe: how many and of which kind.
        rows: examples, at each time step, B T.
        dimension: subspace dimension d.
        dtype: of the coordinates.
        pooled: whether all examples are averaged together, so that a frame runs over them.

    Returns:
        K keys for independent kinds (so that memory does not grow with K), or the coordinates
        themselves, [K, B T, d], for orthogonal ones.
    """
    if probe.kind != "orthogonal":
        return jax.random.split(key, probe.num)
    if pooled:
        frames = haar_frames(key, probe.num * rows, dimension, dtype)
        return frames.reshape(probe.num, rows, dimension)
    keys = jax.random.split(key, rows)
    frames = jax.lax.map(lambda key: haar_frames(key, probe.num, dimension, dtype), keys)
    return frames.swapaxes(0, 1)


def coordinates(drawn: Array, probe: Probe, rows: int, dimension: int, dtype: DType) -> Array:
    """Makes one probe's coordinates z, [B T, d], of unit variance, from one of the draws."""
    if probe.kind == "orthogonal":
        return drawn
    sample = jax.random.normal if probe.kind == "gaussian" else jax.random.rademacher
    return sample(drawn, (rows, dimension), dtype)


def places_of_rows(key: Array, count: int, rows: int) -> Array:
    """Draws which of a tap's rows are perturbed, [count].

    Raises:
        ValueError: if there are fewer.
    """
    if count > rows:
        raise ValueError(f"rows is {count}; it takes at most {rows}, those of a batch")
    return jax.random.permutation(key, rows)[:count]


def spread_over_rows(z: Array, places: Array | None, rows: int) -> Array:
    """Puts coordinates of the perturbed rows in their places, and zero elsewhere, [B T, d].

    They are scaled so that the mean over all rows of z z^T is still the identity.
    """
    if places is None:
        return z
    scaled = z * jnp.asarray(rows / len(places), z.dtype) ** 0.5
    return jnp.zeros((rows, z.shape[1]), z.dtype).at[places].set(scaled)


def haar_frames(key: Array, count: int, dimension: int, dtype: DType) -> Array:
    """Draws `count` rows of unit variance, orthogonal within each frame of d rows, [count, d]."""
    width = min(count, dimension)
    frames = -(-count // dimension)
    gaussian = jax.random.normal(key, (frames, dimension, width), dtype)
    # One frame after another: on CPU a batched factorisation waits in a pool thread for others of
    # the pool, and as many at once as there are threads (one for each tap) wait for ever.
    q, r = jax.lax.map(jnp.linalg.qr, gaussian)
    # QR alone is not Haar: its signs depend on the algorithm.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    rows = q.swapaxes(1, 2).reshape(frames * width, dimension)[:count]
    return rows * jnp.sqrt(jnp.asarray(dimension, dtype))


def linear_response(
    forward: Callable[[Tap], dict[str, Array]],
    perturbed: Sequence[str],
    probe: Probe,
    *,
    clean: Activations,
    shapes: Mapping[str, TapShape],
    isolated: bool,
) -> Callable[[Activations], dict[str, Array]]:
    """Builds the map from a perturbation to the change of the response per unit of it.

    What lies before the first perturbed tap is taken from the clean pass: finite differences replay
    it; under "jvp" every tap is pinned to its clean value, so that the compiler recognises each
    stage as the one it has computed already.

    Args:
        forward: a tap to the network's responses, each [B, r].
        perturbed: names of the taps that are perturbed together.
        probe: which difference, and sigma.
        clean: activations of the clean pass, by tap name.
        shapes: shapes of all taps.
        isolated: whether each tap passes on its clean value and its own noise alone, not what the
            noise of earlier taps makes of it.

    Returns:
        A function of the noise xi (of the size of the activity) that returns J xi, each [B, r]:
        exactly for "jvp", to finite-difference error otherwise.
    """
    # A tap inside a scan also stands after every other tap of the scan.
    known = {
        name: clean[name] for name, shape in shapes.items() if isolated or shape.batch_axis == 0
    }
    if probe.difference == "jvp":
        zeros = {name: jnp.zeros_like(clean[name]) for name in perturbed}
        replay, pinned = (known, {}) if isolated else ({}, known)
        return jax.linearize(lambda n: forward(Tap(n, replay=replay, pinned=pinned)), zeros)[1]

    first = min(shapes[name].order for name in perturbed)
    replay = {name: known[name] for name in known if isolated or shapes[name].order <= first}
    sigma = probe.sigma

    def respond(noise: Activations, factor: float) -> dict[str, Array]:
        noise = {name: factor * value for name, value in noise.items()}
        return forward(Tap(noise, replay=replay))

    def slopes(noise: Activations) -> dict[str, Array]:
        higher, lower = respond(noise, sigma), respond(noise, -sigma)
        return jax.tree.map(lambda high, low: (high - low) / (2 * sigma), higher, lower)

    if probe.difference == "central":
        return slopes
    baseline = forward(Tap(replay=replay))

    def forward_slopes(noise: Activations) -> dict[str, Array]:
        return jax.tree.map(lambda high, low: (high - low) / sigma, respond(noise, sigma), baseline)

    return forward_slopes
