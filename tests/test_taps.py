"""The tap's readings: clean, perturbed, cut, scanned, replayed."""

from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nmnc_jax
from nmnc_jax import no_tap, run
from nmnc_jax.layout import flatten, tap_shapes, unflatten
from nmnc_jax.taps import Tap
from tests.cases import CASES, linear_case, relative_error, scanned_network, squared_error
from tests.zoo import ZOO


@pytest.mark.parametrize("name", CASES)
def test_clean_run_is_the_ordinary_model(name):
    case = CASES[name]()
    outputs, activations = run(case.apply_fn, case.params, case.batch[0])
    np.testing.assert_array_equal(outputs, case.apply_fn(case.params, case.batch[0], no_tap))
    assert set(activations) == set(tap_shapes(case.apply_fn, case.params, case.batch[0]))


@pytest.mark.parametrize("name", CASES)
def test_cut_changes_no_value(name):
    case = CASES[name]()
    clean = run(case.apply_fn, case.params, case.batch[0])
    cut = run(case.apply_fn, case.params, case.batch[0], cut=True)
    jax.tree.map(np.testing.assert_array_equal, clean, cut)


def test_noise_flows_downstream_only():
    case = linear_case()
    clean_outputs, clean = run(case.apply_fn, case.params, case.batch[0])
    noise = jnp.full(clean["second"].shape, 0.5)
    outputs, noisy = run(case.apply_fn, case.params, case.batch[0], noise={"second": noise})
    np.testing.assert_array_equal(noisy["first"], clean["first"])
    np.testing.assert_allclose(noisy["second"] - clean["second"], 0.5, rtol=1e-5)
    change = noise @ case.params["out"]
    np.testing.assert_allclose(outputs - clean_outputs, change, rtol=1e-4, atol=1e-5)


def test_cut_blocks_what_lies_before_a_tap_and_keeps_its_own_stage():
    case = linear_case()

    def total(params, what):
        outputs, activations = run(case.apply_fn, params, case.batch[0], cut=True)
        return (outputs if what == "outputs" else activations[what]).sum()

    touched = {
        what: {name for name, g in jax.grad(total)(case.params, what).items() if g.any()}
        for what in ("outputs", "second", "first")
    }
    assert touched == {"outputs": {"out"}, "second": {"middle"}, "first": {"in"}}


def test_scan_gives_a_leading_time_axis_and_takes_noise_with_it():
    case = CASES["scan"]()
    _, clean = run(scanned_network, case.params, case.batch[0])
    assert clean["hidden"].shape == (4, 4, 6)
    noise = jnp.zeros((4, 4, 6)).at[2].set(0.1)
    _, noisy = run(scanned_network, case.params, case.batch[0], noise={"hidden": noise})
    changed = np.abs(noisy["hidden"] - clean["hidden"]).max((1, 2)) > 0
    assert changed.tolist() == [False, False, True, True]
    shape = tap_shapes(scanned_network, case.params, case.batch[0])["hidden"]
    assert (shape.batch, shape.steps, shape.rows, shape.units) == (4, 4, 16, 6)
    rows = flatten(shape, clean["hidden"])
    np.testing.assert_array_equal(rows[4:8], clean["hidden"][:, 1])
    np.testing.assert_array_equal(unflatten(shape, rows), clean["hidden"])


def test_scan_matches_the_unrolled_network():
    case = CASES["scan"]()

    def unrolled(params, inputs):
        hidden = jnp.zeros((4, 6))
        for x in (inputs, 0.5 * inputs, -inputs, inputs**2):
            hidden = jnp.tanh(hidden @ params["recurrent"] + x @ params["in"])
        return jnp.sin(hidden) @ params["out"]

    got = scanned_network(case.params, case.batch[0], no_tap)
    np.testing.assert_allclose(got, unrolled(case.params, case.batch[0]), rtol=1e-5)


def test_replay_leaves_nothing_before_the_tap_to_compute():
    """A replayed run does not read the parameters of the stage that it replays."""
    case = linear_case()
    outputs, clean = run(case.apply_fn, case.params, case.batch[0])
    broken = {**case.params, "in": jnp.full_like(case.params["in"], jnp.nan)}
    replayed = case.apply_fn(broken, case.batch[0], Tap(replay={"first": clean["first"]}))
    np.testing.assert_array_equal(replayed, outputs)


def test_pinned_value_keeps_the_activations_derivative():
    def through(x):
        return Tap(pinned={"x": jnp.full((2,), 7.0)})("x", 3 * x)

    value, tangent = jax.jvp(through, (jnp.ones(2),), (jnp.ones(2),))
    np.testing.assert_array_equal(value, [7, 7])
    np.testing.assert_array_equal(tangent, [3, 3])


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"third": jnp.zeros((4, 6))}, r"unknown taps \['third'\].*\['first', 'second'\]"),
        ({"first": jnp.zeros((4, 5))}, r"noise\['first'\] has shape \(4, 5\).*\(4, 6\)"),
        ({"first": jnp.zeros(6)}, r"noise\['first'\] has shape \(6,\).*\(4, 6\)"),
    ],
)
def test_bad_noise_is_refused(noise, message):
    case = linear_case()
    with pytest.raises(ValueError, match=message):
        run(case.apply_fn, case.params, case.batch[0], noise=noise)


def test_bad_scan_noise_is_refused():
    case = CASES["scan"]()
    with pytest.raises(ValueError, match=r"noise\['hidden'\].*leading time axis of 4"):
        run(scanned_network, case.params, case.batch[0], noise={"hidden": jnp.zeros((5, 4, 6))})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda p, x, tap: tap("a", tap("a", x)), "'a' is used twice"),
        (lambda p, x, tap: tap("a", jnp.ones((4, 2), int)) * 1.0, "dtype int32.*floating-point"),
        (lambda p, x, tap: x, "has no tap"),
        (lambda p, x, tap: tap("a", x).sum(), r"takes outputs with examples first, \[B, \.\.\.\]"),
        (lambda p, x, tap: (tap("a", x), x[:2]), r"takes outputs with examples first"),
        (lambda p, x, tap: x + tap("a", x[:2]).sum(), "one row per example"),
    ],
)
def test_bad_models_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        tap_shapes(model, None, jnp.ones((4, 2)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda carry, x: (carry, x), "body <lambda> is called with 2 arguments and the tap: too"),
        (lambda carry, x, tap: (carry, x, x), "returned tuple of 3; it takes"),
        (lambda carry, x, tap: carry, "of a scan returned .*; it takes"),
        (None, "the body is None; it takes a function"),
    ],
)
def test_bodies_that_are_called_in_another_way_are_refused(body, message):
    def model(params, inputs, tap):
        return tap.scan(body, inputs, jnp.ones(3))[0]

    with pytest.raises(ValueError, match=message):
        run(model, {}, jnp.ones((2, 3)))


@pytest.mark.parametrize("pair", [tuple, list, lambda parts: {"a": parts[0], "b": parts[1]}])
def test_a_scan_takes_the_pairs_that_jax_takes(pair):
    def body(carry, x, tap):
        return pair([tap("hidden", carry + x), x])

    def model(params, inputs, tap):
        return tap.scan(body, inputs, jnp.ones(3))[0]

    assert run(model, {}, jnp.ones((2, 3)))[1]["hidden"].shape == (3, 2, 3)


def test_a_bodys_own_error_is_raised():
    @wraps(len)
    def body(inputs, tap):
        raise TypeError("own")

    with pytest.raises(TypeError, match="own"):
        run(lambda params, inputs, tap: tap.jit(body)(inputs), {}, jnp.ones((2, 3)))


def test_linear_stages_alone_are_examined_for_mirrors_only():
    def model(params, inputs, tap):
        h = tap.linear(lambda w, h: h @ w, params["in"], inputs)
        return tap.linear(lambda w, h: h @ w, params["out"], jnp.tanh(h))

    params, batch = {"in": jnp.ones((2, 4)), "out": jnp.ones((4, 3))}, (jnp.ones((4, 2)), 0.0)
    examined = partial(nmnc_jax.check_model, model, squared_error, params, batch)
    with pytest.raises(ValueError, match=r"has no tap.*readout 'mirror'"):
        examined()
    assert len(examined(readout="mirror").taps) == 1


def plain(p, x, tap):
    """The model of `in_forms` without its forms."""
    h = tap("h1", jnp.tanh(x @ p["in"]))
    h = tap("h2", jnp.tanh(h @ p["a"]))
    h = tap("h3", jnp.tanh(h @ p["b"]))
    return tap("h4", jnp.where(p["in"][0, 0] > 0, jnp.sin(h), jnp.cos(h))) @ p["out"]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["backprop", "nmnc", "vnc", "forward_gradient", "weight_mirror"])
def test_a_form_of_the_tap_changes_nothing(name):
    case, loss = ZOO["in forms"]
    inputs = case.batch[0]
    np.testing.assert_allclose(
        case.apply_fn(case.params, inputs, no_tap), plain(case.params, inputs, no_tap), rtol=1e-6
    )
    settings = {"rank": 3} if name == "nmnc" else {}
    found = []
    for model in (case.apply_fn, plain):
        estimator = getattr(nmnc_jax, name)(model, loss, **settings)
        state = estimator.init(case.params, case.batch)
        found.append(estimator.estimate(jax.random.key(0), case.params, case.batch, state)[0])
    assert relative_error(*found) < 1e-5


BARE = {
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "cond": lambda f, x: jax.lax.cond(x[0, 0] > 0, f, f, x),
    "scan": lambda f, x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0],
    "while_loop": lambda f, x: jax.lax.while_loop(lambda x: x[0, 0] > 9, f, x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
}


@pytest.mark.parametrize("form", BARE)
def test_a_tap_inside_a_bare_transformation_is_refused(form):
    def model(p, x, tap):
        return BARE[form](lambda x: tap("h", jnp.tanh(x)), x) @ p

    for call in (run, nmnc_jax.check_model):
        arguments = (squared_error,) if call is not run else ()
        batch = jnp.ones((2, 3)), jnp.zeros((2, 3))
        with pytest.raises(ValueError, match=r"tap 'h' is called inside a transf.*tap\.checkpoint"):
            call(model, *arguments, jnp.eye(3), batch[0] if call is run else batch)


def test_branches_take_the_same_taps():
    def model(p, x, tap):
        return tap.cond(p > 0, lambda x, tap: tap("one", x), lambda x, tap: tap("other", x), x)

    with pytest.raises(ValueError, match=r"tap '(one|other)' is only in one branch of tap\.cond"):
        run(model, jnp.ones(()), jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda x, tap: tap("h", x[:, :2]).sum() + x, r"float32\[2, 2\] and float32\[2, 3\]"),
        (
            lambda x, tap: tap("h", x.astype(jnp.bfloat16)).astype(x.dtype),
            r"bfloat16\[2, 3\] and float32\[2, 3\]",
        ),
    ],
)
def test_a_tap_has_one_shape_and_dtype_in_all_branches(other, message):
    def same(x, tap):
        return tap("h", x)

    def cond(p, x, tap):
        return tap.cond(p > 0, same, other, x)

    def switch(p, x, tap):
        return tap.switch(p.astype(int), [same, same, other], x)

    for form, model in (("cond", cond), ("switch", switch)):
        with pytest.raises(ValueError, match=f"tap 'h' is {message} in branches of tap.{form}"):
            run(model, jnp.ones(()), jnp.ones((2, 3)))


@pytest.mark.parametrize("index", [-1, 0, 2])
def test_a_switch_takes_the_branch_of_its_index(index):
    """And differentiates through it, with noise that reaches it."""
    scales = (1.0, 2.0, 3.0)

    def model(p, x, tap):
        branches = [
            lambda x, tap, scale=scale: tap("h", jnp.tanh(scale * (x @ p))) for scale in scales
        ]
        return tap.switch(jnp.int32(index), branches, x)

    batch, weight = (jnp.ones((2, 3)), jnp.zeros((2, 3))), jnp.eye(3) / 3
    plain = jnp.tanh(scales[max(index, 0)] * (batch[0] @ weight))
    np.testing.assert_allclose(model(weight, batch[0], no_tap), plain, rtol=1e-6)
    noise = {"h": jnp.full((2, 3), 0.1)}
    np.testing.assert_allclose(run(model, weight, batch[0], noise=noise)[0], plain + 0.1, rtol=1e-6)
    exact = jax.grad(lambda w: squared_error(model(w, batch[0], no_tap), batch[1]).mean())(weight)
    found = nmnc_jax.backprop(model, squared_error).estimate(jax.random.key(0), weight, batch, ())
    assert relative_error(found[0], exact) < 1e-5


def test_branches_of_a_switch_take_the_same_taps():
    def model(p, x, tap):
        bare = lambda x, tap: x  # noqa: E731
        return tap.switch(p.astype(int), [lambda x, tap: tap("h", x)] * 2 + [bare], x)

    with pytest.raises(ValueError, match=r"tap 'h' is only in 2 branches of tap\.switch"):
        run(model, jnp.ones(()), jnp.ones((2, 3)))


def test_a_scan_inside_a_bare_vmap_is_refused_with_its_taps():
    def model(p, x, tap):
        body = lambda carry, x, tap: (tap("h", carry + x @ p), None)  # noqa: E731
        return jax.vmap(lambda x: tap.scan(body, jnp.zeros(3), x[None])[0])(x)

    with pytest.raises(
        ValueError, match=r"tap\.scan with taps \['h'\] is called inside.*tap\.vmap"
    ):
        run(model, jnp.eye(3), jnp.ones((2, 3)))


def test_rematerialised_blocks_take_less_memory():
    """Temporaries of a step of a deep network, by the compiler's own count."""
    params = jnp.stack([jnp.eye(64)] * 32).reshape(8, 4, 64, 64)
    batch = jnp.ones((512, 64)), jnp.zeros((512, 64))

    def block(x, weights, tap):
        for w in weights:
            x = jnp.sin(x @ w)
        return tap("block", x)

    def model(p, x, tap, remat=True):
        def body(x, weights, tap):
            return (tap.checkpoint(block)(x, weights) if remat else block(x, weights, tap)), None

        return tap.scan(body, x, p)[0]

    def temporaries(remat):
        estimator = nmnc_jax.backprop(partial(model, remat=remat), squared_error)
        compiled = jax.jit(estimator.estimate).lower(jax.random.key(0), params, batch, ()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(True) < 0.7 * temporaries(False)


def test_positions_are_rows():
    def model(p, x, tap):
        return tap("h", x @ p, time_axes=1)

    inputs = jnp.arange(24.0).reshape(2, 3, 4)
    shape = tap_shapes(model, jnp.eye(4), inputs)["h"]
    assert (shape.batch, shape.steps, shape.rows, shape.units) == (2, 3, 6, 4)
    np.testing.assert_array_equal(flatten(shape, inputs), inputs.reshape(6, 4))
    np.testing.assert_array_equal(unflatten(shape, flatten(shape, inputs)), inputs)
    with pytest.raises(ValueError, match=r"tap 'h' got shape \(2,\) with time_axes=1"):
        run(lambda p, x, tap: tap("h", x, time_axes=1), None, jnp.ones(2))
