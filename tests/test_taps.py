"""The tap's readings: clean, perturbed, cut, scanned, replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import no_tap, run
from nmnc_jax.layout import flatten, tap_shapes, unflatten
from nmnc_jax.taps import Tap
from tests.cases import CASES, linear_case, scanned_network


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
