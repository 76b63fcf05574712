"""Probes: random coordinates from one key, and how a network's response to them is measured."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nmnc_jax.checks import check_count, check_sigma, named_leaves
from nmnc_jax.dependence import primitives_of
from nmnc_jax.layout import Layout, Nodes, TapLayout, TapShape, examples_of
from nmnc_jax.subspace import used
from nmnc_jax.taps import OUTPUTS, Tap
from nmnc_jax.types import Activations, Array, DType

Kind = Literal["gaussian", "rademacher", "orthogonal"]
Difference = Literal["central", "forward", "jvp"]
Scope = Literal["each_tap", "all_taps"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """How a network is perturbed and how its response is measured; None: the method's own choice.

    Attributes:
        num: probes K per example and tap. For the readout `mirror` also a dict by the name of a
            linear stage, with 1 for those that it does not name, or "auto": as many as bring the
            variance of a stage's estimate down to a quarter of its square, as long as they cost at
            most half of one probe of all stages.
        kind: distribution of the coordinates, each of unit variance. "orthogonal" draws Haar frames
            scaled by sqrt(d) over all the probes that are averaged together (K x B for the `output`
            readout, K for `loss`); beyond d of them a new frame begins. Where a frame spans
            several probes all coordinates are drawn at once, otherwise probe by probe.
        difference: "central" [y(x+xi) - y(x-xi)]/2, "forward" y(x+xi) - y(x), or "jvp", the exact
            directional derivative (no bias, no cancellation, works in bfloat16).
        sigma: root mean square of the perturbation per unit, relative to the tap's RMS activity.
            Subspaces of any dimension at one sigma perturb with the same energy. Unused by "jvp",
            where only its ratio between taps would matter.
        scope: "each_tap" perturbs one tap at a time; "all_taps" all of them in the same pass, which
            costs fewer passes and adds the variance of the other taps' perturbations.
        chunk: most probes in memory at once; the largest divisor of `num` up to it is taken. None:
            one, which is fastest on CPU; a GPU or TPU may take more. It changes results by rounding
            only.
        rows: number of examples that run through the probe pass, drawn anew each time and gathered,
            so that its cost falls with them; inputs and targets then have examples first in every
            array of as many rows as the batch. None runs all. The readout `loss` takes None.
        perturbed: how many of a tap's rows (its examples, in a scan at each time step) are
            perturbed, drawn anew each time; their responses count for more in return, so that the
            estimate stays unbiased. The pass costs as much as with all: it is for studies of few
            probes through time. None perturbs all. The readout `loss` takes None.

    Raises:
        ValueError: if a field is out of range, named with what it got and what it takes.

    Example:
        >>> from nmnc_jax import Probe
        >>> Probe(num=4).over(Probe(num=8, kind="orthogonal", difference="jvp")).kind
        'orthogonal'
        >>> Probe(num=12, chunk=8).chunk_size()
        6
    """

    num: int | Mapping[str, int] | Literal["auto"] | None = None
    kind: Kind | None = None
    difference: Difference | None = None
    sigma: float = 1e-3
    scope: Scope | None = None
    chunk: int | None = None
    rows: int | None = None
    perturbed: int | None = None

    def __post_init__(self):
        for name, takes in (("kind", Kind), ("difference", Difference), ("scope", Scope)):
            value = getattr(self, name)
            if value is not None and value not in get_args(takes):
                raise ValueError(f"{name} is {value!r}; it takes one of {list(get_args(takes))}")
        check_sigma(self.sigma)
        for name in ("chunk", "rows", "perturbed"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if isinstance(self.num, Mapping):
            for name, num in self.num.items():
                check_count(f"num[{name!r}]", num)
        elif self.num is not None and self.num != "auto":
            check_count("num", self.num)

    def over(self, choice: "Probe") -> "Probe":
        """This probe, with what is None taken from a method's own choice."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        return dataclasses.replace(choice, **given)

    def at(self, name: str) -> "Probe":
        """This probe, with the number that it has at one tap."""
        if not isinstance(self.num, Mapping):
            return self
        return dataclasses.replace(self, num=self.num.get(name, 1))

    def count(self) -> int:
        """Probes K per example.

        Raises:
            ValueError: if their number differs from tap to tap.
        """
        if self.num is None or isinstance(self.num, int):
            return self.num or 1
        raise ValueError(f"num is {self.num!r}; readout 'mirror' alone takes other than a number")

    def chunk_size(self) -> int:
        """Probes in memory at once: the largest divisor of `num` up to `chunk`."""
        num, limit = self.count(), self.chunk or 1
        return max(size for size in range(1, min(limit, num) + 1) if num % size == 0)


DEFAULT = Probe(num=8, kind="gaussian", difference="central", scope="each_tap")
"""What the general method takes where nothing else is chosen."""


def relative_variance(
    probe: Probe, *, examples: float, steps: int, dimension: int, taps: int, isolated: bool
) -> float:
    """Variance of a correlation over its own square, for a response that is linear.

    Args:
        probe: its number and kind, and whether taps are perturbed together.
        examples: B, that are averaged together; times the positions that share weights.
        steps: T, time steps that are perturbed together.
        dimension: d, directions that are perturbed.
        taps: of the model.
        isolated: whether each row's response is to its own noise alone.

    Returns:
        For N probes (d + 1)/N with Gaussian ones, (d - 1)/N with Rademacher ones, and
        r (d - r)/N^2 with orthogonal ones, of which r begin a frame and do not fill it. Noise at
        other taps or time steps adds as much again for each of them, if their effect is alike.
    """
    d, count = dimension, probe.count() * (probe.perturbed or examples * steps)
    if probe.kind == "orthogonal":
        own = (count % d) * (d - count % d) / count**2
    else:
        own = (d + (1 if probe.kind == "gaussian" else -1)) / count
    if isolated:
        return own
    # Noise at as many time steps of one example as are perturbed in the mean.
    sources = max(count / (probe.count() * examples), 1) * (
        taps if probe.scope == "all_taps" else 1
    )
    return own + (sources - 1) * d / count


VARIANCE, COST = 0.25, 0.5
"""The relative variance that "auto" aims at, and what one stage may cost of a pass of all."""


def resolved(probe: Probe, layout: Layout, shapes: Mapping[str, TapShape]) -> Probe:
    """A probe whose number is given for each tap, where it was "auto".

    Args:
        probe: the probe.
        layout: of the model.
        shapes: of the taps in a probe pass.
    """
    if probe.num != "auto":
        return probe

    behind = {tap.name: shapes[tap.name].rows * tap.shared for tap in layout.taps}
    cost = {tap.name: tap.size * behind[tap.name] for tap in layout.taps}

    def enough(tap: TapLayout) -> int:
        wanted = math.ceil(tap.directions / (VARIANCE * behind[tap.name]))
        return max(min(wanted, int(COST * sum(cost.values()) / cost[tap.name])), 1)

    return dataclasses.replace(probe, num={tap.name: enough(tap) for tap in layout.taps})


def draw(key: Array, probe: Probe, *, rows: int, dimension: int, dtype: DType, pooled: bool) -> Any:
    """Prepares K draws, from each of which `coordinates` makes one probe's coordinates.

    Args:
        key: this tap's key.
        probe: how many and of which kind.
        rows: examples, at each time step, B T.
        dimension: subspace dimension d.
        dtype: of the coordinates.
        pooled: whether all examples are averaged together, so that a frame runs over them.

    Returns:
        With leading axis K: keys, so that memory does not grow with the coordinates of all probes;
        the coordinates themselves, [K, B T, d], of orthogonal probes that share frames.
    """
    num = probe.count()
    if probe.kind != "orthogonal":
        return jax.random.split(key, num)
    if not pooled:
        keys = jax.random.split(key, rows)
        frames = jax.lax.map(lambda key: haar_frames(key, num, dimension, dtype), keys)
        return frames.swapaxes(0, 1)
    if rows < dimension:
        frames = haar_frames(key, num * rows, dimension, dtype)
        return frames.reshape(num, rows, dimension)
    # The frames that each probe's rows are in, of which it may share the first and the last.
    start = np.arange(num) * rows
    each = -(-rows // dimension) + (rows % dimension > 0 and num > 1)
    keys = jax.random.split(key, -(-num * rows // dimension) + 1)
    places = (start // dimension)[:, None] + np.arange(each)[None]
    # The key of a shared frame is used by both probes on purpose.
    shared = jax.random.wrap_key_data(
        jax.random.key_data(keys)[places], impl=jax.random.key_impl(key)
    )
    return shared, jnp.asarray(start % dimension, jnp.int32)


def coordinates(drawn: Any, probe: Probe, rows: int, dimension: int, dtype: DType) -> Array:
    """Makes one probe's coordinates z, [B T, d], of unit variance, from one of the draws."""
    if probe.kind == "orthogonal" and isinstance(drawn, tuple):
        keys, start = drawn
        frames = jax.lax.map(lambda key: haar_frames(key, dimension, dimension, dtype), keys)
        return jax.lax.dynamic_slice_in_dim(frames.reshape(-1, dimension), start, rows)
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
        raise ValueError(f"perturbed is {count}; it takes at most {rows}, the rows of a batch")
    return jax.random.permutation(key, rows)[:count]


def spread_over_rows(z: Array, places: Array | None, rows: int) -> Array:
    """Puts coordinates of the perturbed rows in their places, and zero elsewhere, [B T, d].

    They are scaled so that the mean over all rows of z z^T is still the identity.
    """
    if places is None:
        return z
    scaled = z * jnp.asarray(rows / len(places), z.dtype) ** 0.5
    return jnp.zeros((rows, z.shape[1]), z.dtype).at[places].set(scaled)


def check_rows(rows: int, kwargs: Mapping[str, Any], nodes: Nodes) -> None:
    """Refuses a probe pass of some examples where a keyword argument may hold one row for each.

    Raises:
        ValueError: naming it.
    """
    batch = examples_of(nodes.outputs)
    for place, leaf in named_leaves(kwargs):
        if jnp.shape(leaf)[:1] == (batch,):
            raise ValueError(
                f"rows is {rows}, and the keyword argument {place} has shape {jnp.shape(leaf)} in "
                f"a batch of {batch}; what has a row for each example goes into inputs"
            )


def some_examples(key: Array, count: int, nodes: Nodes, examples: Any) -> Any:
    """Gathers what runs through a probe pass with some of the examples.

    Args:
        key: decides which.
        count: their number.
        nodes: of the model with all examples.
        examples: (inputs, targets, what arrives at each node).

    Returns:
        The same of `count` examples.

    Raises:
        ValueError: if there are fewer.
    """
    batch = examples_of(nodes.outputs)
    if count > batch:
        raise ValueError(f"rows is {count}; it takes at most {batch}, the examples of a batch")
    places = jax.random.permutation(key, batch)[:count]
    inputs, targets, arrived = examples

    def first_axis(leaf: Any) -> Any:
        return leaf[places] if jnp.shape(leaf)[:1] == (batch,) else leaf

    def at_node(node: str, value: Any) -> Any:
        axis = len(nodes.scopes[node])
        return jax.tree.map(lambda leaf: jnp.take(leaf, places, axis=axis), value)

    at_nodes = {node: at_node(node, value) for node, value in arrived.items()}
    return jax.tree.map(first_axis, inputs), jax.tree.map(first_axis, targets), at_nodes


def coordinate_size(rows: Array, basis: Array | None) -> Array:
    """Standard deviation of one coordinate that makes the perturbation's RMS per unit the tap's.

    The energy of a perturbation is then the same in a subspace of any dimension.
    """
    units = rows.shape[1]
    dimension = used(basis, units).sum(dtype=rows.dtype)
    rms = jnp.sqrt(jnp.mean(rows**2))
    return jnp.where(rms > 0, rms, 1) * jnp.sqrt(units / dimension)


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
    forward: Callable[[Tap], dict[str, Any]],
    perturbed: Sequence[str],
    probe: Probe,
    *,
    clean: Mapping[str, Any],
    shapes: Mapping[str, TapShape],
    isolated: bool,
) -> Callable[[Activations], dict[str, Any]]:
    """Builds the map from a perturbation to the change of the response per unit of it.

    What comes before the first perturbed tap is taken from the clean pass: finite differences
    replay it; under "jvp" every tap is pinned to its clean value, so that the compiler recognises
    each stage as the one it has computed already.

    Args:
        forward: a tap to the network's responses, pytrees of arrays.
        perturbed: names of the taps that are perturbed together.
        probe: which difference, and sigma.
        clean: what arrives at each node in the clean pass.
        shapes: shapes of all taps.
        isolated: whether each node passes on its clean value and its own noise alone, not what the
            noise of earlier taps makes of it.

    Returns:
        A function of the noise xi (of the size of the activity) that returns J xi: exactly for
        "jvp", to finite-difference error otherwise.
    """
    # A tap inside a scan also stands after every other tap of the scan.
    outside = {name: clean[name] for name, shape in shapes.items() if shape.batch_axis == 0}
    if isolated:
        replay = {node: value for node, value in clean.items() if node != OUTPUTS}
    else:
        first = min(shapes[name].order for name in perturbed)
        replay = {n: value for n, value in outside.items() if shapes[n].order <= first}
    if probe.difference == "jvp":
        zeros = {name: jnp.zeros_like(clean[name]) for name in perturbed}
        fixed, pinned = (replay, {}) if isolated else ({}, outside)
        return linearized(
            lambda noise: forward(Tap(noise, replay=fixed, pinned=pinned)),
            zeros,
            where=f"tap {perturbed[0]!r}",
        )
    sigma = probe.sigma

    def respond(noise: Activations, factor: float) -> dict[str, Any]:
        noise = {name: factor * value for name, value in noise.items()}
        # The difference of two passes is smaller than the rounding of TF32 or bfloat16 products.
        with jax.default_matmul_precision("highest"):
            return forward(Tap(noise, replay=replay))

    def slopes(noise: Activations) -> dict[str, Any]:
        higher, lower = respond(noise, sigma), respond(noise, -sigma)
        return jax.tree.map(lambda high, low: (high - low) / (2 * sigma), higher, lower)

    if probe.difference == "central":
        return slopes
    with jax.default_matmul_precision("highest"):
        baseline = forward(Tap(replay=replay))

    def forward_slopes(noise: Activations) -> dict[str, Any]:
        return jax.tree.map(lambda high, low: (high - low) / sigma, respond(noise, sigma), baseline)

    return forward_slopes


def linearized(function: Callable[[Any], Any], primals: Any, *, where: str) -> Callable[[Any], Any]:
    """The derivative of a function along a direction.

    Args:
        function: of one pytree.
        primals: where it is taken.
        where: what the direction is of, for the error.

    Raises:
        ValueError: if the function holds a ``jax.custom_vjp`` or a callback on the way.
    """
    held = None
    try:
        linear = jax.linearize(function, primals)[1]
        # JAX says so only where the derivative is compiled.
        if "custom_lin" in primitives_of(jax.make_jaxpr(linear)(primals)):
            held = "jax.custom_vjp"
        else:
            return linear
    except (TypeError, ValueError) as error:
        held = next((h for h in ("custom_vjp", "callback") if h in str(error).lower()), None)
        if held is None:
            raise
    raise ValueError(
        f'difference is "jvp" and the model holds a {held} after {where}, which has no derivative '
        'along a direction; it takes difference="central", or a jax.custom_jvp'
    )
