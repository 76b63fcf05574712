"""The readout `mirror`: linear stages learned in the form of their own weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nmnc_jax
from nmnc_jax import (
    Probe,
    check_model,
    credit_from_state,
    feedback_alignment,
    learned_feedback,
    noise_correlation,
    weight_mirror,
)
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from nmnc_jax.layout import read_weights_and_input, trace_nodes
from nmnc_jax.linear_stages import weights_of_stages
from nmnc_jax.taps import Tap
from nmnc_jax.types import Due
from tests.cases import batch_of, squared_error, weights

NOTHING, PROBES = Due(probe=False, move=False), Due(probe=True, move=False)
PARAMS = weights(
    2,
    **{"in": (3, 8), "a": (8, 8), "grouped": (3, 3, 4, 8), "out": (8, 2), "scale": (8,)},
    **{"kernel": (3, 3, 8, 8), "transposed": (2, 2, 8, 8), "layers": (3, 8, 8)},
)


def dense(w, h):
    return h @ w


def convolution(**settings):
    def apply(w, h):
        arguments = {"window_strides": (1, 1), "padding": "SAME"} | settings
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(h, w, dimension_numbers=axes, **arguments)

    return apply


def transposed(w, h):
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_transpose(h, w, (2, 2), "SAME", dimension_numbers=axes)


def images(name, stage):
    """One stage on images, after a first layer and before a last one."""

    def model(p, x, tap):
        h = tap("h", jnp.tanh(tap.linear(dense, p["in"], x.reshape(len(x), 4, 4, 3))))
        h = jnp.tanh(tap.linear(stage, p[name], h, name="stage"))
        return tap.linear(dense, p["out"], h.mean((1, 2)), name="last")

    return model


def plain(p, x, tap):
    h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
    h = jnp.tanh(tap.linear(dense, p["a"], h, name="stage") + p["scale"][None])
    return tap.linear(dense, p["out"], h, name="last")


def used_twice(p, x, tap):
    h = jnp.tanh(x.reshape(len(x), 16, 3) @ p["in"])
    h = jnp.tanh(tap.linear(dense, p["a"], h, name="stage", time_axes=1))
    h = h + jnp.tanh(tap.linear(dense, p["a"], h, name="again", time_axes=1))
    return tap.linear(dense, p["out"], h.mean(1), name="last")


def through_time(p, x, tap):
    def step(carry, x, tap):
        carry = jnp.tanh(tap.linear(dense, p["a"], carry, name="stage") + x @ p["in"])
        return carry, tap.linear(dense, p["out"], carry, name="last")

    xs = jnp.moveaxis(x.reshape(len(x), 16, 3)[:, :4], 1, 0)
    return tap.scan(step, jnp.zeros((len(x), 8)), xs)[1].mean(0)


def over_layers(p, x, tap):
    """A scan over layers: each step has weights of its own."""

    def layer(h, w, tap):
        return jnp.tanh(tap.linear(dense, w, h, name="stage")), None

    h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
    return tap.linear(dense, p["out"], tap.scan(layer, h, p["layers"])[0], name="last")


def in_forms(p, x, tap):
    def block(w, h, tap):
        return jnp.tanh(tap.linear(dense, w, h, name="stage"))

    h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
    h = tap.checkpoint(block)(p["a"], h)
    return tap.jit(lambda w, h, tap: tap.linear(dense, w, h, name="last"))(p["out"], h)


def pytree(p, x, tap):
    """A stage with two arrays of weights."""
    h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
    both = {"a": p["a"], "out": p["out"]}
    stage = lambda w, h: jnp.concatenate([h @ w["a"], h @ w["out"]], axis=1)  # noqa: E731
    return jnp.tanh(tap.linear(stage, both, h, name="stage"))[:, 7:9]


MODELS = {
    "plain": plain,
    "same": images("kernel", convolution()),
    "valid": images("kernel", convolution(padding="VALID")),
    "strides": images("kernel", convolution(window_strides=(2, 2))),
    "dilation": images("kernel", convolution(rhs_dilation=(2, 2))),
    "groups": images("grouped", convolution(feature_group_count=2)),
    "transposed": images("transposed", transposed),
    "positions": images("a", dense),
    "used twice": used_twice,
    "through time": through_time,
    "over layers": over_layers,
    "in forms": in_forms,
    "pytree": pytree,
}
BATCH = batch_of((16, 48), outputs=2)


RADEMACHER = Probe(num=1, kind="rademacher")


def mirror(model, probe=RADEMACHER, decay=0.0, subspace=None):
    return noise_correlation(
        model,
        squared_error,
        subspace=subspace or nmnc_jax.isotropic(),
        readout="mirror",
        probe=probe,
        feedback=learned_feedback(decay),
    )


def weights_of(model, params, inputs, state):
    """Name of a mirrored stage to its weights."""
    tap = Tap(reader=read_weights_and_input)
    model(params, inputs, tap)
    return weights_of_stages(tap.read, trace_nodes(model, params, inputs), state.layout)


def with_exact_mirrors(model, params, inputs, state):
    exact = weights_of(model, params, inputs, state)
    return state._replace(
        feedback={
            name: each._replace(mean=exact[name], weight=jnp.ones(1))
            for name, each in state.feedback.items()
        }
    )


def error_of(tree, exact):
    """Relative to the largest entry, as parameters that a model does not use have no gradient."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(exact))
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()) / scale, tree, exact)
    return max(jax.tree.leaves(errors))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", MODELS)
def test_exact_mirrors_give_the_exact_gradient(name):
    model, estimator = MODELS[name], mirror(MODELS[name])
    state = with_exact_mirrors(model, PARAMS, BATCH[0], estimator.init(PARAMS, BATCH))
    estimate = jax.jit(estimator.estimate, static_argnames="due")
    gradients, new, info = estimate(jax.random.key(0), PARAMS, BATCH, state, due=NOTHING)
    exact = exact_gradient(model, squared_error, PARAMS, BATCH)
    assert error_of(gradients, exact) < 1e-5
    chex.assert_trees_all_equal(new.feedback, state.feedback)
    assert info.credit.keys() >= {stage.name for stage in state.layout.taps}
    if "h" in info.credit:
        credit, _ = exact_credit(model, squared_error, PARAMS, BATCH)
        assert error_of(info.credit["h"], credit["h"]) < 1e-5
    again = credit_from_state(model, squared_error, PARAMS, BATCH, state)
    chex.assert_trees_all_close(again, info.credit, rtol=1e-5, atol=1e-7)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_of_the_weights_is_unbiased(name):
    """The mean over replicates to the weights, over what chance gives."""
    estimator, replicates = mirror(MODELS[name]), 300
    state = estimator.init(PARAMS, BATCH)

    def one(key):
        new = estimator.estimate(key, PARAMS, BATCH, state, due=PROBES)[1]
        return {name: each.mean for name, each in new.feedback.items()}

    keys = jax.random.split(jax.random.key(1), replicates)
    found = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    exact = weights_of(MODELS[name], PARAMS, BATCH[0], state)
    for stage in state.layout.taps:
        for mean, right in zip(
            jax.tree.leaves(found[stage.name]), jax.tree.leaves(exact[stage.name]), strict=True
        ):
            values = np.asarray(mean, np.float64)
            chance = values.var(0, ddof=1).sum() / replicates
            error = ((values.mean(0) - right) ** 2).sum()
            # Entries share the few products of two units of noise: few squares are independent.
            assert error < 4 * chance + 1e-9, stage.name


@pytest.mark.parametrize(
    ("kind", "rank", "law"),
    [
        ("gaussian", None, 9 / 16),
        ("rademacher", None, 7 / 16),
        ("gaussian", 4, 5 / 16),
        ("orthogonal", None, 0.0),
    ],
)
def test_the_variance_of_a_dense_stage_has_its_closed_form(kind, rank, law):
    """With 16 examples of 8 units, relative to the weights in the subspace."""
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (8, 8)))[0][:, : rank or 8]
    last = jnp.linalg.qr(jax.random.normal(jax.random.key(4), (8, 8)))[0]
    subspace = nmnc_jax.fixed_subspace({"stage": basis, "last": last}) if rank else None
    estimator = mirror(plain, Probe(num=1, kind=kind), subspace=subspace)
    state = estimator.init(PARAMS, BATCH)

    def one(key):
        new = estimator.estimate(key, PARAMS, BATCH, state, due=PROBES)[1]
        return new.feedback["stage"]

    found = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(5), 600))
    right = basis @ basis.T @ PARAMS["a"]
    squares = np.asarray(
        ((found.mean - right[None]) ** 2).sum((1, 2)) / (right**2).sum(), np.float64
    )
    assert abs(squares.mean() - law) < 4 * squares.std() / 600**0.5 + 1e-6
    np.testing.assert_allclose(found.variance[0, 0], law, atol=1e-6)


def test_sixteen_bits_learn_the_weights_too():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, BATCH))
    params, batch = half
    estimator = mirror(MODELS["same"], decay=0.98)
    state = estimator.init(params, batch)
    estimate = jax.jit(estimator.estimate, static_argnames="due")
    for step in range(60):
        gradients, state, _ = estimate(jax.random.key(step), params, batch, state, due=PROBES)
    chex.assert_trees_all_equal_dtypes(gradients, params)
    learned, right = state.feedback["stage"].coordinates, params["kernel"].astype(jnp.float32)
    assert learned.dtype == jnp.float32
    assert float(nmnc_jax.diagnostics.cosine(learned, right)) > 0.98


def test_what_is_no_linear_stage_is_refused_by_name():
    def with_stage(stage, name="a"):
        def model(p, x, tap):
            h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
            return tap.linear(stage, p[name], h, name="stage")[:, :2]

        return model

    bias = jnp.ones((1, 8))
    for stage, message in (
        (lambda w, h: h @ w + bias, "is off linear"),
        (lambda w, h: h @ (w / jnp.linalg.norm(w)), "is off linear"),
        (lambda w, h: jnp.tanh(h) @ w, "is off linear"),
        (lambda w, h: 2 * h @ w, "uses each weight unchanged"),
        (lambda w, h: h @ (w + w.T), "uses each weight unchanged"),
    ):
        with pytest.raises(ValueError, match=rf"linear stage 'stage' .*{message}"):
            mirror(with_stage(stage)).init(PARAMS, BATCH)

    def by_inputs(p, x, tap):
        h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
        return tap.linear(dense, p["out"] * x.mean(), h, name="stage")

    def mapped(p, x, tap):
        def one(x, tap):
            h = jnp.tanh(x.reshape(16, 3).mean(0) @ p["in"])
            return tap.linear(dense, p["out"], h, name="stage")

        return tap.vmap(one)(x)

    def closed_over(p, x, tap):
        h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
        gate = x.mean(1, keepdims=True)
        return tap.linear(lambda w, h: gate * (h @ w), p["out"], h, name="stage")

    def turned(p, x, tap):
        h = jnp.tanh(x.reshape(len(x), 16, 3).mean(1) @ p["in"])
        weights, h = p["out"].astype(jnp.complex64), h.astype(jnp.complex64)
        return jnp.abs(tap.linear(dense, weights, h, name="stage"))

    for model, message in (
        (turned, "linear stage 'stage' has an array of complex64"),
        (by_inputs, "the weights of linear stage 'stage' depend on the inputs"),
        (mapped, "linear stage 'stage' is inside tap.vmap"),
        (closed_over, "linear stage 'stage' depends on values other than its weights"),
        (lambda p, x, tap: tap("h", x @ p["x"])[:, :2], "marks no linear stage"),
        (lambda p, x, tap: tap.linear(p["a"], p["a"], x), "tap.linear got a .* with weights"),
        (lambda p, x, tap: tap.linear((x, x))[0] @ p["a"], "linear:1 got a tuple; it takes tap.l"),
        (lambda p, x, tap: tap.linear(x, p["a"]), "linear:1 got a .* and weights without h"),
    ):
        with pytest.raises(ValueError, match=message):
            mirror(model).init({**PARAMS, "x": jnp.ones((48, 8))}, BATCH)
    with pytest.raises(ValueError, match=r"num is \{'a': 2\}; only readout 'mirror' takes"):
        nmnc_jax.vnc(plain, squared_error, probe=Probe(num={"a": 2}))
    state = mirror(over_layers).init(PARAMS, BATCH)
    fewer = {**PARAMS, "layers": PARAMS["layers"][:2]}
    with pytest.raises(ValueError, match=r"mirror of \['\[3, 8, 8\]'\] for linear stage 'st"):
        mirror(over_layers).estimate(jax.random.key(0), fewer, BATCH, state, due=NOTHING)


def test_the_report_names_the_stages_that_are_learned():
    report = check_model(
        images("kernel", convolution()), squared_error, PARAMS, BATCH, readout="mirror"
    )
    assert [tap.name for tap in report.taps] == ["stage", "last"]
    assert report["stage"].stages == (("[3, 3, 8, 8]", 576),)
    assert report["stage"].summed == 72
    np.testing.assert_allclose(
        report["stage"].shared, (4 * 4 * 4 + 4 * 12 + 4 * 12 + 36 * 0) / 9, rtol=1
    )


def test_memory_is_that_of_the_weights_where_there_is_no_basis():
    state = weight_mirror(images("kernel", convolution()), squared_error).init(PARAMS, BATCH)
    remembered = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert remembered < PARAMS["kernel"].size + PARAMS["out"].size + 20


def test_a_stage_has_its_own_rank_and_number_of_probes():
    model = images("kernel", convolution())
    probe = Probe(num={"last": 8})
    estimator = weight_mirror(model, squared_error, rank={"stage": None, "last": 3}, probe=probe)
    state = estimator.init(PARAMS, BATCH)
    assert state.subspace["stage"].basis is None
    assert state.subspace["last"].basis.shape == (8, 3)
    _, state, _ = jax.jit(estimator.estimate)(jax.random.key(0), PARAMS, BATCH, state)
    # (d + 1)/N with 16 examples.
    np.testing.assert_allclose(state.feedback["last"].variance, 4 / (8 * 16), rtol=1e-6)
    misspelt = weight_mirror(model, squared_error, probe=Probe(num={"lats": 8}))
    with pytest.raises(
        ValueError, match=r"num has an entry for 'lats'; the model has \['last', 'stage'\]"
    ):
        misspelt.init(PARAMS, BATCH)
    auto = weight_mirror(plain, squared_error, probe=Probe(num="auto"))
    batch = tuple(part[:3] for part in BATCH)
    state = auto.estimate(jax.random.key(0), PARAMS, batch, auto.init(PARAMS, batch))[1]
    # Eight units over a quarter of three examples are eleven probes; two of 16 weights cost half of
    # what one probe of all 80 costs.
    np.testing.assert_allclose(state.feedback["last"].variance, 9 / (2 * 3), rtol=1e-6)
    np.testing.assert_allclose(state.feedback["stage"].variance, 9 / 3, rtol=1e-6)


def test_feedback_alignment_has_the_size_of_the_weights_and_never_changes():
    model = images("kernel", convolution())
    estimator = feedback_alignment(model, squared_error)
    state = estimator.init(PARAMS, BATCH)
    ratio = jnp.linalg.norm(state.feedback["stage"].mean) / jnp.linalg.norm(PARAMS["kernel"])
    assert 0.9 < ratio < 1.1
    gradients, new, _ = estimator.estimate(jax.random.key(0), PARAMS, BATCH, state)
    chex.assert_trees_all_equal(new.feedback, state.feedback)
    assert not estimator.due(0).probe

    # The last stage's own gradient is exact, as nothing between it and the outputs is learned.
    exact = exact_gradient(model, squared_error, PARAMS, BATCH)
    assert error_of(gradients["out"], exact["out"]) < 1e-5
    assert error_of(gradients["kernel"], exact["kernel"]) > 0.1


def test_a_step_without_probes_costs_what_backpropagation_costs():
    model = images("kernel", convolution())
    estimator, exact = weight_mirror(model, squared_error), nmnc_jax.backprop(model, squared_error)
    flops = []
    for each in (estimator, exact):
        state = each.init(PARAMS, BATCH)
        step = jax.jit(lambda *a, each=each: each.estimate(*a, due=NOTHING)[0])
        compiled = step.lower(jax.random.key(0), PARAMS, BATCH, state).compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert flops[0] < 1.1 * flops[1]


@pytest.mark.parametrize(
    ("name", "examples", "decay", "num", "ranks"),
    [
        ("plain", 4, 0.0, 1, {"stage": 8, "last": 8}),
        ("plain", 4, 0.0, {"last": 2}, {"stage": 8, "last": None}),
        ("plain", 4, 0.5, "auto", {"stage": None, "last": None}),
        # Sixteen positions are as many probes; a convolution sums over a part of its input.
        ("used twice", 4, 0.0, 1, {"stage": None, "again": None, "last": 8}),
        ("same", 1, 0.0, 1, {"stage": None, "last": 8}),
        ("over layers", 4, 0.0, 1, {"stage": 8, "last": 8}),
    ],
)
def test_an_automatic_rank_is_by_the_probes_behind_each_stage(name, examples, decay, num, ranks):
    batch = tuple(part[:examples] for part in BATCH)
    settings = {"rank": "auto", "probe": Probe(num=num), "feedback_decay": decay}
    estimator = weight_mirror(MODELS[name], squared_error, check=False, **settings)
    state = estimator.init(PARAMS, batch)
    bases = {stage: each.basis for stage, each in state.subspace.items()}
    found = {stage: None if basis is None else basis.shape[1] for stage, basis in bases.items()}
    assert found == ranks
    # The ranks are the state's from then on, whatever the batch.
    both = jax.eval_shape(estimator.estimate, jax.random.key(0), PARAMS, BATCH, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(both[1], state)
    assert estimator.due(100).move
