"""Exact quantities against slower definitions of themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import no_tap, run
from nmnc_jax.diagnostics import (
    alignment,
    cosine,
    exact_credit,
    exact_gradient,
    exact_jacobian,
    jacobian_share,
    participation_ratio,
)
from nmnc_jax.layout import flatten, tap_shapes
from tests.cases import CASES, relative_error, squared_error


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", CASES)
def test_jacobian_is_that_of_each_example(name):
    case = CASES[name]()
    got = exact_jacobian(case.apply_fn, case.params, case.batch[0])
    shapes = tap_shapes(case.apply_fn, case.params, case.batch[0])
    _, activations = run(case.apply_fn, case.params, case.batch[0])
    for tap, shape in shapes.items():

        def outputs(noise, tap=tap):
            return run(case.apply_fn, case.params, case.batch[0], noise={tap: noise})[0]

        noise = activations[tap]
        full = jax.jacobian(outputs)(jnp.zeros_like(noise)).reshape(shape.batch, -1, *noise.shape)
        for example in range(shape.batch):
            for output in range(full.shape[1]):
                row = flatten(shape, full[example, output]).reshape(shape.batch, -1)
                np.testing.assert_allclose(
                    got[tap][example, output], row[example], rtol=1e-4, atol=1e-5
                )
                others = np.delete(np.asarray(row), example, axis=0)
                np.testing.assert_allclose(others, 0, atol=1e-6)


def test_credit_is_the_error_through_the_jacobian():
    case = CASES["strided convolution"]()
    jacobian = exact_jacobian(case.apply_fn, case.params, case.batch[0])
    credit, error = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    shapes = tap_shapes(case.apply_fn, case.params, case.batch[0])
    for tap, shape in shapes.items():
        expected = jnp.einsum("bo,bon->bn", error, jacobian[tap])
        rows = flatten(shape, credit[tap]).reshape(expected.shape)
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-6)


def test_keyword_arguments_reach_the_model():
    def model(params, inputs, tap, scale):
        return scale * tap("hidden", inputs @ params)

    params, batch = jnp.eye(2), (jnp.ones((3, 2)), jnp.zeros((3, 2)))
    for scale in (2.0, 3.0):
        exact = exact_gradient(model, linear_sum, params, batch, scale=scale)
        np.testing.assert_allclose(exact, scale)
        credit, _ = exact_credit(model, linear_sum, params, batch, scale=scale)
        np.testing.assert_allclose(credit["hidden"], scale / 3, rtol=1e-6)
        jacobian = exact_jacobian(model, params, batch[0], scale=scale)["hidden"]
        np.testing.assert_allclose(jacobian, scale * np.broadcast_to(np.eye(2), (3, 2, 2)))


def linear_sum(outputs, targets):
    return (outputs - targets).sum(-1)


def test_gradient_is_that_of_the_untapped_model():
    case = CASES["scan"]()
    inputs, targets = case.batch
    expected = jax.grad(
        lambda params: squared_error(case.apply_fn(params, inputs, no_tap), targets).mean()
    )(case.params)
    got = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(got, expected) < 1e-6


def test_cosine_of_trees():
    left = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[2.0]])}
    right = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([[1.0]])}
    np.testing.assert_allclose(cosine(left, right), 4 / (3 * 5**0.5), rtol=1e-6)
    np.testing.assert_allclose(cosine(left, jax.tree.map(lambda x: -3 * x, left)), -1, rtol=1e-6)
    assert float(cosine(left, jax.tree.map(jnp.zeros_like, left))) == 0
    assert float(alignment(left, right)["b"]) == 1


def test_share_is_one_inside_and_d_over_n_on_average():
    key = jax.random.key(0)
    basis = jnp.linalg.qr(jax.random.normal(key, (20, 5)))[0]
    inside = jax.random.normal(jax.random.key(1), (3, 5)) @ basis.T
    np.testing.assert_allclose(jacobian_share(inside, basis), 1, rtol=1e-5)
    random = jax.random.normal(jax.random.key(2), (4000, 3, 20))
    shares = np.asarray(jax.vmap(lambda j: jacobian_share(j, basis))(random))
    assert abs(shares.mean() - 5 / 20) < 4 * shares.std() / np.sqrt(4000)
    np.testing.assert_allclose(jacobian_share(inside, None), 1)


@pytest.mark.parametrize("units", [5, 300])
def test_participation_ratio_counts_equal_directions(units):
    directions = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (units, 3)))[0]
    cube = jnp.array([[a, b, c] for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)])
    np.testing.assert_allclose(participation_ratio(cube @ directions.T + 2), 3, rtol=1e-4)
