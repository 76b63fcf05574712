"""Linear layers that are found in the trace of a model, whatever framework it is of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given, settings

from nmnc_jax import feedback_alignment, mirror_layers, no_tap, weight_mirror
from tests.cases import Case, squared_error, weights
from tests.random_models import build, programs
from tests.test_mirror import NOTHING, PARAMS, dense, error_of, with_exact_mirrors
from tests.zoo import ZOO

IMAGES = jax.random.normal(jax.random.key(0), (6, 4, 4, 2))
TARGETS = jnp.ones((6, 2))


class OfEquinox(eqx.Module):
    """Of one example, channels first; attention and dense layers are mapped over positions."""

    convolution: eqx.nn.Conv2d
    upward: eqx.nn.ConvTranspose2d
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    dense: eqx.nn.MLP
    last: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(1), 5)
        self.convolution = eqx.nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, key=keys[0])
        self.upward = eqx.nn.ConvTranspose2d(4, 4, 2, stride=2, key=keys[1])
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[2])
        self.norm = eqx.nn.LayerNorm(4)
        self.dense = eqx.nn.MLP(4, 4, 6, 1, use_bias=False, use_final_bias=False, key=keys[3])
        self.last = eqx.nn.Linear(4, 2, key=keys[4])

    def __call__(self, x):
        h = jnp.tanh(self.upward(jax.nn.relu(self.convolution(jnp.moveaxis(x, -1, 0)))))
        tokens = h.reshape(4, -1).T
        tokens = tokens + self.attention(tokens, tokens, tokens)
        tokens = tokens + jax.vmap(self.dense)(jax.vmap(self.norm)(tokens))
        return self.last(tokens.mean(0))


class OfNNX(nnx.Module):
    def __init__(self, rngs):
        self.convolution = nnx.Conv(2, 4, (3, 3), kernel_dilation=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.upward = nnx.ConvTranspose(4, 4, (2, 2), strides=2, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.heads = nnx.LinearGeneral(4, (2, 3), rngs=rngs)
        self.join = nnx.Einsum("bthi,hio->bto", (2, 3, 4), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.convolution(x)))
        h = jnp.tanh(self.upward(h)).reshape(len(x), -1, 4)[:, ::4]
        h = h + self.attention(self.attention(h))
        return self.last(self.drop(self.join(jnp.sin(self.heads(h)))).mean(1))


def exact_mirrors_give_the_exact_gradient(
    apply, params, batch, *, loss_fn=squared_error, check=True, **kwargs
):
    """Returns names and units of the stages."""
    apply_fn = mirror_layers(apply)
    estimator = weight_mirror(apply_fn, loss_fn, check=check)
    state = estimator.init(params, batch, **kwargs)
    bound = lambda p, x, tap=no_tap: apply_fn(p, x, tap, **kwargs)  # noqa: E731
    exact = with_exact_mirrors(bound, params, batch[0], state)

    def both(params, state):
        key = jax.random.key(0)
        ours = estimator.estimate(key, params, batch, state, due=NOTHING, **kwargs)[0]
        loss = lambda p: loss_fn(apply(p, batch[0], **kwargs), batch[1]).mean()  # noqa: E731
        return ours, jax.grad(loss)(params)

    assert error_of(*jax.jit(both)(params, exact)) < 1e-5
    return {tap.name: tap.units for tap in state.layout.taps}


def test_equinox():
    params, static = eqx.partition(OfEquinox(), eqx.is_inexact_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    found = exact_mirrors_give_the_exact_gradient(apply, params, (IMAGES, TARGETS))
    assert found == {
        **{f"attention/{part}_proj/weight": 4 for part in ("key", "output", "query", "value")},
        **{"dense/layers/0/weight": 4, "dense/layers/1/weight": 6},
        **{"last/weight": 4, "upward/weight": 16},
    }


def test_nnx():
    """With its own keys and statistics, which are no parameters; attention is called twice."""
    graph, params, rest = nnx.split(OfNNX(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, x):
        return nnx.merge(graph, params, rest, copy=True)(x)

    found = exact_mirrors_give_the_exact_gradient(apply, params, (IMAGES, TARGETS))
    twice = [f"attention/{part}/kernel" for part in ("key", "out", "query", "value")]
    assert sorted(found) == sorted(
        [*twice, *(f"{name}:2" for name in twice)]
        + [f"{name}/kernel" for name in ("heads", "join", "last", "upward")]
    )
    assert found["attention/out/kernel"] == 4
    assert found["join/kernel"] == 6


def scanned(p, x, *, train):
    """Layers over a scan, in a rematerialised block, in sixteen bits, behind a static switch."""

    @jax.checkpoint
    def block(h, w):
        return jnp.tanh(h @ (w - w.mean(0, keepdims=True)))

    def layer(h, w):
        return jax.jit(block)(h, w), None

    h = x.reshape(len(x), -1)[:, :3] @ p["in"]
    h = jax.lax.scan(layer, h, p["layers"])[0] if train else h
    h = (h.T + p["scale"][:, None]) * 2.0
    return (p["out"].T @ h).T


def test_scans_rematerialised_blocks_and_examples_along_another_axis():
    batch = IMAGES, TARGETS
    found = exact_mirrors_give_the_exact_gradient(scanned, PARAMS, batch, train=True)
    assert found == {"layers": 8, "out": 8}
    found = exact_mirrors_give_the_exact_gradient(scanned, PARAMS, batch, train=False)
    assert found == {"out": 8}


def test_a_layer_is_the_stage_that_a_user_would_mark():
    """With the same noise, in one manifold: rows are positions."""

    def plain(p, x):
        h = jnp.tanh(x.reshape(len(x), -1, 4)[:, :, :3] @ p["in"])
        return jnp.tanh(jnp.einsum("btn,nm->btm", h, p["a"])).mean(1) @ p["out"]

    def marked(p, x, tap):
        h = jnp.tanh(x.reshape(len(x), -1, 4)[:, :, :3] @ p["in"])
        h = jnp.tanh(tap.linear(dense, p["a"], h, name="a", time_axes=1)).mean(1)
        return tap.linear(dense, p["out"], h, name="out")

    found = []
    for apply_fn in (mirror_layers(plain), marked):
        estimator = weight_mirror(apply_fn, squared_error, rank=3)
        state = estimator.init(PARAMS, (IMAGES, TARGETS))
        step = jax.jit(estimator.estimate)
        found.append(step(jax.random.key(0), PARAMS, (IMAGES, TARGETS), state)[1].feedback)
    assert error_of(found[0]["a"].mean, found[1]["a"].mean) < 1e-5
    assert error_of(found[0]["out"].mean, found[1]["out"].mean) < 1e-5


def mirrored(case, loss):
    """The law for a model with taps of its own, which are left out."""
    apply = lambda params, inputs: case.apply_fn(params, inputs, no_tap)  # noqa: E731
    exact_mirrors_give_the_exact_gradient(apply, case.params, case.batch, loss_fn=loss, check=False)


@pytest.mark.parametrize(
    "name",
    ["nested", "encode then emit", "stacked layers", "batch norm", "two heads", "time first"],
)
def test_awkward_models(name):
    mirrored(*ZOO[name])


@given(program=programs())
@settings(max_examples=4)
def test_random_models(program):
    mirrored(*build(program))


def test_what_is_of_no_example_and_no_real_number_is_left_as_it_is():
    def apply(p, inputs, tap):
        h = jnp.tanh(inputs["x"] @ p["in"] * inputs["scale"])
        turned = jnp.abs(h.astype(jnp.complex64) @ p["turn"].astype(jnp.complex64))
        steps = jnp.round(h).astype(int) @ jnp.round(p["turn"]).astype(int)
        none = h @ p["turn"][:, :0] @ p["turn"][:0]
        return (turned + steps.astype(jnp.float32) + none) @ p["out"]

    params = weights(2, **{"in": (3, 4), "turn": (4, 4), "out": (4, 2)})
    inputs = {"x": jax.random.normal(jax.random.key(0), (6, 3)), "scale": 2.0}
    mirrored(Case(apply, params, (inputs, jnp.ones((6, 2)))), squared_error)


def test_without_a_tap_it_is_the_model():
    apply_fn = mirror_layers(scanned)
    assert (apply_fn(PARAMS, IMAGES, train=True) == scanned(PARAMS, IMAGES, train=True)).all()


def merged(p, x):
    return (x.reshape(-1, 4)[:, :3] @ p["in"]).reshape(len(x), -1)[:, :2] @ p["scale"][:2, None]


def chosen(p, x):
    h = x.reshape(len(x), -1)[:, :3] @ p["in"]
    return jax.lax.cond(h[0, 0] > 0, lambda h: h @ p["out"], lambda h: h[:, :2], h)


def bound_to_six(p, x):
    return (x[:6].reshape(6, -1)[:, :3] + jnp.ones((6, 3))) @ p["in"] + x.sum((1, 2))[:, :1]


def by_number(p, x):
    h = x.reshape(len(x), -1)[:, :3] @ p["in"]
    return h @ p["out"] if len(x) % 2 else jnp.tanh(h) @ p["out"]


def over_examples(p, x):
    h = (x.reshape(len(x), -1)[:, :3] @ p["in"])[None]
    return jax.lax.conv_general_dilated(
        h, jnp.stack([p["out"]] * 3), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )[0]


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (merged, r"layer of 'in' takes an input of shape \(48, 3\), and \(56, 3\) for one more"),
        (chosen, r"layer of 'out' is inside cond"),
        (lambda p, x: x.sum((1, 2)) * p["scale"][:2][None], "the model has no linear layer"),
        (bound_to_six, "apply fails with one example more than the 6 along"),
        (by_number, "the layer of 'out:2' differs for one more example"),
        (over_examples, "the layer of 'out' sums over examples, axis 1"),
    ],
)
def test_what_cannot_be_marked_is_refused_by_name(apply, message):
    with pytest.raises(ValueError, match=message):
        feedback_alignment(mirror_layers(apply), squared_error).init(PARAMS, (IMAGES, TARGETS))
