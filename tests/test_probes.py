"""Probes: moments of the coordinates, and exactness of what is measured."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import Probe, run
from nmnc_jax.checks import check_precision
from nmnc_jax.layout import tap_shapes
from nmnc_jax.probes import coordinates, draw, haar_frames, linear_response
from tests.cases import CASES, linear_case

KINDS = ("gaussian", "rademacher", "orthogonal")


def drawn(kind, num, batch, dimension, pooled=True, seed=0):
    probe = Probe(num=num, kind=kind)
    draws = draw(
        jax.random.key(seed),
        probe,
        rows=batch,
        dimension=dimension,
        dtype=jnp.float32,
        pooled=pooled,
    )
    make = jax.jit(
        partial(jax.lax.map, lambda d: coordinates(d, probe, batch, dimension, jnp.float32))
    )
    return np.asarray(make(draws), np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_are_white_with_unit_variance(kind):
    z = drawn(kind, num=500, batch=20, dimension=6)
    rows = z.reshape(-1, 6)
    covariance = rows.T @ rows / len(rows)
    assert np.abs(rows.mean(0)).max() * np.sqrt(len(rows)) < 4.5
    assert np.abs(covariance - np.eye(6)).max() < 4.5 * np.sqrt(2 / len(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooled", [True, False])
def test_examples_and_probes_are_different(kind, pooled):
    rows = drawn(kind, num=5, batch=4, dimension=30, pooled=pooled).reshape(20, 30)
    cosines = rows @ rows.T / 30
    assert np.abs(cosines - np.eye(20)).max() < 0.95


def test_frames_are_haar():
    """Orthogonal within a frame; every entry of Q has the moments 1/d and 3/(d(d+2))."""
    frames = np.asarray(haar_frames(jax.random.key(0), 40_000, 4, jnp.float32)).reshape(-1, 4, 4)
    gram = frames @ frames.swapaxes(1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(4 * np.eye(4), gram.shape), atol=1e-4)
    entries = frames / 2
    assert abs((entries**2).mean(0) - 1 / 4).max() < 4.5 * np.sqrt(0.1 / 10_000)
    assert abs((entries**4).mean(0) - 3 / (4 * 6)).max() < 4.5 * np.sqrt(0.06 / 10_000)
    # Without the sign correction of QR some entries would have one sign only.
    assert abs(entries.mean(0)).max() < 4.5 * np.sqrt(0.25 / 10_000)


def response(case, probe, name, noise):
    inputs = case.batch[0]
    _, clean = run(case.apply_fn, case.params, inputs)
    change = linear_response(
        lambda tap: {"outputs": case.apply_fn(case.params, inputs, tap)},
        [name],
        probe,
        clean=clean,
        shapes=tap_shapes(case.apply_fn, case.params, inputs),
        isolated=False,
    )
    return change({name: noise(clean[name].shape)})["outputs"]


def unit(shape):
    return jax.random.normal(jax.random.key(11), shape)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case_name", CASES)
def test_jvp_response_is_the_directional_derivative(case_name):
    case = CASES[case_name]()
    _, clean = run(case.apply_fn, case.params, case.batch[0])
    for name in clean:
        got = response(case, Probe(difference="jvp"), name, unit)
        zeros = jnp.zeros(clean[name].shape)

        def outputs(noise, name=name):
            return run(case.apply_fn, case.params, case.batch[0], noise={name: noise})[0]

        expected = jax.jvp(outputs, (zeros,), (unit(zeros.shape),))[1]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case_name", ["linear", "residual", "shared weights", "scan"])
@pytest.mark.parametrize(("difference", "tolerance"), [("central", 2e-3), ("forward", 2e-2)])
def test_finite_differences_approach_the_derivative(case_name, difference, tolerance):
    case = CASES[case_name]()
    for name in tap_shapes(case.apply_fn, case.params, case.batch[0]):
        exact = response(case, Probe(difference="jvp"), name, unit)
        got = response(case, Probe(difference=difference, sigma=3e-3), name, unit)
        assert jnp.linalg.norm(got - exact) < tolerance * jnp.linalg.norm(exact)


def test_central_difference_cancels_the_second_order():
    """On y = x^2 the central difference is exact at any sigma; the forward one is not."""
    case = linear_case()._replace(apply_fn=lambda params, inputs, tap: tap("x", inputs) ** 2)
    exact = response(case, Probe(difference="jvp"), "x", unit)
    central = response(case, Probe(difference="central", sigma=0.5), "x", unit)
    forward = response(case, Probe(difference="forward", sigma=0.5), "x", unit)
    np.testing.assert_allclose(central, exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(forward - exact, 0.5 * unit((4, 5)) ** 2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num": 0}, "num is 0; it takes a whole number of at least 1"),
        ({"num": 1.5}, "num is 1.5; it takes a whole number"),
        ({"sigma": 0.0}, "sigma is 0.0; it takes a positive finite number"),
        ({"sigma": -1e-3}, "sigma is -0.001; it takes a positive finite number"),
        ({"sigma": float("nan")}, "sigma is nan; it takes a positive finite number"),
        ({"chunk": 0}, "chunk is 0; it takes a whole number"),
        ({"kind": "normal"}, "kind is 'normal'; it takes one of .*'rademacher'"),
        ({"difference": "exact"}, "difference is 'exact'; it takes one of .*'jvp'"),
        ({"scope": "all"}, "scope is 'all'; it takes one of .*'all_taps'"),
    ],
)
def test_bad_probes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Probe(**fields)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_differences_are_refused(dtype):
    array = jnp.zeros(2, dtype)
    with pytest.raises(ValueError, match=r'difference="jvp", or a float32 pass'):
        check_precision("central", {"tap 'x'": array})
    check_precision("jvp", {"tap 'x'": array})
