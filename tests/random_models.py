"""Random models for hypothesis: graphs of layers with taps, marks and scans at random places."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

from tests.cases import Case, weights
from tests.zoo import by_step, contrastive, squared_error

UNITS, STEPS, BATCH = 4, 3, 4
WEIGHTS = weights(
    21,
    **dict.fromkeys(("a", "b", "c", "carry"), (UNITS, UNITS)),
    **{"in": (3, UNITS), "kernel": (3, UNITS, UNITS), "out": (UNITS, 2)},
)


class Layer(NamedTuple):
    """One layer: its kind, the values that it takes, its weights, and how it is tapped.

    `form` is the transformation that it stands in, and `flag` the direction of a scan, or whether
    positions of a sequence are rows of the tap.
    """

    kind: str
    takes: tuple[int, ...]
    weights: str
    tap: str
    form: str
    flag: bool


class Program(NamedTuple):
    """A model and its loss."""

    layers: tuple[Layer, ...]
    output: str
    loss: str

    @property
    def forgotten(self):
        """Names of taps whose value is not used."""
        return {f"t{place}" for place, x in enumerate(self.layers) if x.tap == "forgotten"}

    @property
    def scans(self):
        return any(x.kind in ("scan", "emit", "final") for x in self.layers)

    @property
    def positions(self):
        return any(x.flag for x in self.layers)

    @property
    def coupled(self):
        return any(x.kind == "batch norm" for x in self.layers)


VECTOR, SEQUENCE = "vector", "sequence"
KINDS = {
    "dense": ((VECTOR,), VECTOR),
    "add": ((VECTOR, VECTOR), VECTOR),
    "multiply": ((VECTOR, VECTOR), VECTOR),
    "batch norm": ((VECTOR,), VECTOR),
    "by position": ((SEQUENCE,), SEQUENCE),
    "convolution": ((SEQUENCE,), SEQUENCE),
    "layer norm": ((SEQUENCE,), SEQUENCE),
    "attention": ((SEQUENCE, SEQUENCE), SEQUENCE),
    "residual": ((SEQUENCE, SEQUENCE), SEQUENCE),
    "flip": ((SEQUENCE,), SEQUENCE),
    "scan": ((SEQUENCE,), SEQUENCE),
    "final": ((SEQUENCE,), VECTOR),
    "mean": ((SEQUENCE,), VECTOR),
    "last": ((SEQUENCE,), VECTOR),
    "emit": ((VECTOR,), SEQUENCE),
}
"""Kind of layer to the forms that it takes and gives: [B, n] or [B, T, n]."""


@st.composite
def programs(draw):
    """A program of up to seven layers with one tap at least."""
    forms, layers = [SEQUENCE], []
    # Batch statistics only now and then: most methods only warn of them.
    rare = draw(st.integers(0, 9)) == 0
    for _ in range(draw(st.integers(2, 7))):
        possible = [
            kind
            for kind, (takes, _) in KINDS.items()
            if set(takes) <= set(forms) and (rare or kind != "batch norm")
        ]
        kind = draw(st.sampled_from(possible))
        takes, form = KINDS[kind]
        chosen = tuple(
            draw(st.sampled_from([place for place, got in enumerate(forms) if got == need]))
            for need in takes
        )
        how = draw(st.sampled_from(["none", "none", "tap", "tap", "mark"]))
        if how == "tap" and draw(st.integers(0, 19)) == 0:
            how = "forgotten"
        form = draw(st.sampled_from(["plain", "plain", "plain", "checkpoint", "jit"]))
        name, flag = draw(st.sampled_from("abc")), draw(st.booleans())
        layers.append(Layer(kind, chosen, name, how, form, flag))
        forms.append(form)
    if not any(layer.tap == "tap" for layer in layers):
        layers[-1] = layers[-1]._replace(tap="tap")
    output = draw(st.sampled_from([VECTOR, SEQUENCE]))
    losses = ["example", "example", "example", "contrastive"]
    loss = draw(st.sampled_from(losses if output == VECTOR else [*losses[:3], "step"]))
    return Program(tuple(layers), output, loss)


def build(program):
    """The model as a case, and its loss."""

    def model(p, x, tap):
        values, used = [jnp.tanh(x @ p["in"])], set()
        for place, layer in enumerate(program.layers):
            used |= set(layer.takes)
            taken = [values[at] for at in layer.takes]

            def run(p, *taken, layer=layer, name=f"t{place}"):
                *taken, tap = taken
                return _run(layer, name, p, taken, tap)

            forms = {"checkpoint": tap.checkpoint, "jit": tap.jit}
            run = forms[layer.form](run) if layer.form in forms else partial(_with, run, tap)
            values.append(run(p, *taken))
        # Whatever nothing else takes is read by the outputs.
        free = [value for place, value in enumerate(values) if place not in used]
        return sum(_read(value, program.output) @ p["out"] for value in free)

    keys = jax.random.split(jax.random.key(3))
    times = (STEPS,) if program.output == SEQUENCE else ()
    inputs = jax.random.normal(keys[0], (BATCH, STEPS, 3))
    targets = jax.random.normal(keys[1], (BATCH, *times, 2))
    losses = {"example": squared_error, "step": by_step, "contrastive": contrastive}
    return Case(model, WEIGHTS, (inputs, targets)), losses[program.loss]


def _with(run, tap, *arguments):
    return run(*arguments, tap)


def _read(value, form):
    if form == SEQUENCE:
        return value if value.ndim == 3 else jnp.stack([value] * STEPS, 1)
    return value if value.ndim == 2 else value.mean(1)


def _tapped(layer, name, value, tap):
    if layer.tap == "forgotten":
        tap(name, value)
    elif layer.tap == "tap":
        positions = layer.flag and value.ndim == 3
        value = tap(name, value, time_axes=1) if positions else tap(name, value)
    elif layer.tap == "mark":
        value = tap.linear(value)
    return value


def _run(layer, name, p, taken, tap):
    x, w = taken[0], p[layer.weights]
    if layer.kind in ("scan", "final", "emit"):
        return _scanned(layer, name, p, x, tap)
    if layer.kind in ("dense", "by position"):
        # A mark is of use on the linear part.
        if layer.tap == "mark":
            return jnp.tanh(tap.linear(x @ w))
        return _tapped(layer, name, jnp.tanh(x @ w), tap)
    if layer.kind in ("add", "residual"):
        y = x + jnp.sin(taken[1] @ w)
    elif layer.kind == "multiply":
        y = x * taken[1]
    elif layer.kind == "batch norm":
        y = (x - x.mean(0)[None]) / (0.5 + x.std(0)[None])
    elif layer.kind == "convolution":
        wide = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        y = jnp.tanh(sum(wide[:, at : at + STEPS] @ p["kernel"][at] for at in range(3)))
    elif layer.kind == "layer norm":
        y = (x - x.mean(-1, keepdims=True)) / (0.5 + x.std(-1, keepdims=True))
    elif layer.kind == "attention":
        weight = jax.nn.softmax(x @ w @ jnp.swapaxes(taken[1], 1, 2))
        y = weight @ taken[1]
    elif layer.kind == "flip":
        y = x[:, ::-1]
    elif layer.kind == "mean":
        y = x.mean(1)
    else:
        y = x[:, -1] if layer.kind == "last" else x
    return _tapped(layer, name, y, tap)


def _scanned(layer, name, p, x, tap):
    def body(carry, step, tap):
        drive = 0.0 if step is None else step @ p[layer.weights]
        carry = _tapped(layer, name, jnp.tanh(0.5 * carry @ p["carry"] + drive), tap)
        return carry, carry

    if layer.kind == "emit":
        ys = tap.scan(body, x, None, length=STEPS, reverse=layer.flag)[1]
        return jnp.moveaxis(ys, 0, 1)
    start = jnp.zeros((len(x), UNITS))
    last, ys = tap.scan(body, start, jnp.moveaxis(x, 1, 0), reverse=layer.flag)
    return last if layer.kind == "final" else jnp.moveaxis(ys, 0, 1)
