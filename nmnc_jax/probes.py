"""Draws probes from one key and measures a network's response to them."""

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
    """How a network is perturbed and how its response is measured.

    A field that is None is chosen by the method.

    Attributes:
        num: number of probes K per example and tap. For the readout `mirror` also a dict by the
            name of a linear stage, with 1 for stages that it does not name, or "auto". "auto" uses
            as many probes as reduce the variance of a stage's estimate to a quarter of its square,
            as long as they cost at most half of one probe of all stages.
        kind: distribution of the coordinates, each with unit variance. "orthogonal" draws Haar
            frames scaled by sqrt(d) over all probes that are averaged together (K x B for the
            readout `output`, K for `loss`); after d probes a new frame begins. If a frame spans
            several probes, all coordinates are drawn at once, otherwise probe by probe.
        difference: "central" [y(x+xi) - y(x-xi)]/2, "forward" y(x+xi) - y(x), or "jvp", the exact
            directional derivative (no bias, no cancellation, works in bfloat16).
        sigma: root mean square of the perturbation per unit, relative to the tap's RMS activity.
            For equal sigma, perturbations in subspaces of any dimension have the same energy.
            "jvp" does not use it.
        scope: "each_tap" perturbs one tap at a time. "all_taps" perturbs all taps in the same pass,
            which needs fewer passes and adds the variance of the other taps' perturbations.
        chunk: largest number of probes in memory at once; the largest divisor of `num` up to it is
            used. None is one probe, which is fastest on CPU; a GPU or TPU may take more. It changes
            results only by rounding.
        rows: number of examples in the probe pass, which are drawn anew each time and gathered, so
            that the cost decreases with their number. Arrays of inputs and targets that have as
            many rows as the batch must then have examples first. None uses all examples. The
            readout `loss` takes None.
        perturbed: number of a tap's rows (its examples, in a scan at each time step) that are
            perturbed, which are drawn anew each time. Their responses are scaled so that the
            estimate stays unbiased. The pass costs as much as with all rows; this is for studies
            of few probes through time. None perturbs all. The readout `loss` takes None.

    Raises:
        ValueError: if a field is out of range.

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
        """Returns this probe with the fields that are None taken from `choice`."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        return dataclasses.replace(choice, **given)

    def at(self, name: str) -> "Probe":
        """Returns this probe with the number of probes at one tap."""
        if not isinstance(self.num, Mapping):
            return self
        return dataclasses.replace(self, num=self.num.get(name, 1))

    def count(self) -> int:
        """Returns the number of probes K per example.

        Raises:
            ValueError: if the number differs between taps.
        """
        if self.num is None or isinstance(self.num, int):
            return self.num or 1
        raise ValueError(
            f"num is {self.num!r}; only readout 'mirror' takes a dict or 'auto', others take a "
            "number"
        )

    def chunk_size(self) -> int:
        """Returns the number of probes in memory: the largest divisor of `num` up to `chunk`."""
        num, limit = self.count(), self.chunk or 1
        return max(size for size in range(1, min(limit, num) + 1) if num % size == 0)


DEFAULT = Probe(num=8, kind="gaussian", difference="central", scope="each_tap")
"""The default probe of the general method."""


def relative_variance(
    probe: Probe, *, examples: float, steps: int, dimension: int, taps: int, isolated: bool
) -> float:
    """Returns the variance of a correlation relative to its square, for a linear response.

    Args:
        probe: the probe, with its number, kind and scope.
        examples: number of examples B that are averaged, times the positions that share weights.
        steps: number of time steps T that are perturbed together.
        dimension: number of directions d that are perturbed.
        taps: number of taps of the model.
        isolated: whether the response of each row depends only on the noise of that row.

    Returns:
        For N probes, (d + 1)/N if they are Gaussian, (d - 1)/N if they are Rademacher, and
        r (d - r)/N^2 if they are orthogonal and r of them are in an incomplete frame. Noise at each
        other tap or time step adds d/N, if its effect has the same size.
    """
    d, count = dimension, probe.count() * (probe.perturbed or examples * steps)
    if probe.kind == "orthogonal":
        own = (count % d) * (d - count % d) / count**2
    else:
        own = (d + (1 if probe.kind == "gaussian" else -1)) / count
    if isolated:
        return own
    # The average number of time steps of one example that are perturbed.
    sources = max(count / (probe.count() * examples), 1) * (
        taps if probe.scope == "all_taps" else 1
    )
    return own + (sources - 1) * d / count


VARIANCE, COST = 0.25, 0.5
"""The relative variance that "auto" aims at, and a stage's largest cost relative to all stages."""


def resolved(probe: Probe, layout: Layout, shapes: Mapping[str, TapShape]) -> Probe:
    """Returns a probe in which a number of "auto" is replaced by a number for each tap.

    Args:
        probe: the probe.
        layout: the layout of the model.
        shapes: shapes of the taps in a probe pass.
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
    """Prepares K draws; `coordinates` turns each into the coordinates of one probe.

    Args:
        key: this tap's key.
        probe: the probe, with its number and kind.
        rows: number of examples times time steps, B T.
        dimension: subspace dimension d.
        dtype: dtype of the coordinates.
        pooled: whether all examples are averaged together, so that a frame spans them.

    Returns:
        Arrays with leading axis K. In general these are keys, so that memory does not grow with the
        coordinates of all probes; for orthogonal probes that share a frame they are the
        coordinates, [K, B T, d].
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
    # The frames that contain each probe's rows; the first and the last may be shared.
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
    """Returns one probe's coordinates z, [B T, d], with unit variance, from one draw."""
    if probe.kind == "orthogonal" and isinstance(drawn, tuple):
        keys, start = drawn
        frames = jax.lax.map(lambda key: haar_frames(key, dimension, dimension, dtype), keys)
        return jax.lax.dynamic_slice_in_dim(frames.reshape(-1, dimension), start, rows)
    if probe.kind == "orthogonal":
        return drawn
    sample = jax.random.normal if probe.kind == "gaussian" else jax.random.rademacher
    return sample(drawn, (rows, dimension), dtype)


def places_of_rows(key: Array, count: int, rows: int) -> Array:
    """Draws the indices of the rows of a tap that are perturbed, [count].

    Raises:
        ValueError: if the tap has fewer rows than `count`.
    """
    if count > rows:
        raise ValueError(f"perturbed is {count}; it takes at most {rows}, the rows of a batch")
    return jax.random.permutation(key, rows)[:count]


def spread_over_rows(z: Array, places: Array | None, rows: int) -> Array:
    """Places the coordinates of the perturbed rows among zeros for the other rows, [B T, d].

    They are scaled so that the mean of z z^T over all rows is still the identity.
    """
    if places is None:
        return z
    scaled = z * jnp.asarray(rows / len(places), z.dtype) ** 0.5
    return jnp.zeros((rows, z.shape[1]), z.dtype).at[places].set(scaled)


def check_rows(rows: int, kwargs: Mapping[str, Any], nodes: Nodes) -> None:
    """Checks that no keyword argument has a row per example, if a probe pass uses only some.

    Raises:
        ValueError: if a keyword argument may have a row per example.
    """
    batch = examples_of(nodes.outputs)
    for place, leaf in named_leaves(kwargs):
        if jnp.shape(leaf)[:1] == (batch,):
            raise ValueError(
                f"rows is {rows}, and the keyword argument {place} has shape {jnp.shape(leaf)} in "
                f"a batch of {batch}; pass arrays with a row per example in inputs"
            )


def some_examples(key: Array, count: int, nodes: Nodes, examples: Any) -> Any:
    """Gathers the arrays of a probe pass for some of the examples.

    Args:
        key: key for the choice of examples.
        count: number of examples.
        nodes: the nodes of the model with all examples.
        examples: (inputs, targets, what arrives at each node).

    Returns:
        The same structure for `count` examples.

    Raises:
        ValueError: if the batch has fewer examples than `count`.
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
    """Returns the standard deviation of coordinates for which the perturbation has the tap's RMS.

    The RMS is per unit, so that the energy of a perturbation does not depend on the dimension of
    the subspace.
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
    if dimension >= 4 * width:
        # Few columns are nearly orthogonal, so that the Cholesky factor of their Gram matrix is as
        # accurate as a QR factorisation, which takes 20 times as long on CPU for 16,384 x 32. Its
        # diagonal is positive: the frames have a Haar distribution.
        rows, exactly = gaussian[0].T, jax.lax.Precision.HIGHEST
        factor = jnp.linalg.cholesky(jnp.matmul(rows, rows.T, precision=exactly))
        identity = jnp.eye(width, dtype=dtype)
        turn = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
        turn = turn * jnp.sqrt(jnp.asarray(dimension, dtype))
        return jnp.matmul(turn, rows, precision=exactly)
    # Frames are factorised one after another. On CPU a batched factorisation waits in a thread of a
    # pool for other threads of that pool, so that several at once (one per tap) may deadlock.
    q, r = jax.lax.map(jnp.linalg.qr, gaussian)
    # QR does not give a Haar distribution by itself, because signs depend on the algorithm.
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
    """Returns the function from a perturbation to the change of the response per unit of it.

    Values before the first perturbed tap are taken from the clean pass: finite differences replay
    them; with "jvp" every tap is pinned to its clean value, so that the compiler recognises each
    stage as one that it has already computed.

    Args:
        forward: function of a tap that returns the network's responses, pytrees of arrays.
        perturbed: names of the taps that are perturbed together.
        probe: the probe, with its difference and sigma.
        clean: what arrives at each node in the clean pass.
        shapes: shapes of all taps.
        isolated: whether each node passes on only its clean value and its own noise, without the
            effect of noise at earlier taps.

    Returns:
        A function of the noise xi (with the size of the activity) that returns J xi, exactly for
        "jvp" and up to finite-difference error otherwise.
    """
    # In a scan every tap also comes after all other taps of the previous step.
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
    """Returns the derivative of a function as a function of the direction.

    Args:
        function: function of one pytree.
        primals: the point at which the derivative is taken.
        where: what is perturbed, for the error message.

    Raises:
        ValueError: if the function contains a ``jax.custom_vjp`` or a callback.
    """
    held = None
    try:
        linear = jax.linearize(function, primals)[1]
        # JAX itself raises an error for it only when the derivative is compiled.
        if "custom_lin" in primitives_of(jax.make_jaxpr(linear)(primals)):
            held = "jax.custom_vjp"
        else:
            return linear
    except (TypeError, ValueError) as error:
        held = next((h for h in ("custom_vjp", "callback") if h in str(error).lower()), None)
        if held is None:
            raise
    raise ValueError(
        f'difference is "jvp" and the model holds a {held} after {where}, which has no directional '
        'derivative; it takes difference="central", or a jax.custom_jvp'
    )
