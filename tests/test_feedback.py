"""Feedback: debiased averaging, rotation with the basis, fixed random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import learned_feedback, random_feedback
from nmnc_jax.feedback import rotate


def test_average_is_debiased_and_weights_decay():
    feedback = learned_feedback(0.75)
    state = feedback.init(jax.random.key(0), 2, 3, jnp.float32)
    estimates = [jnp.full((2, 3), value) for value in (1.0, 5.0, -2.0)]
    for estimate in estimates:
        state = feedback.update(state, estimate)
    weights = np.array([0.75**2, 0.75, 1.0])
    expected = (weights * [1.0, 5.0, -2.0]).sum() / weights.sum()
    np.testing.assert_allclose(state.coordinates, np.full((2, 3), expected), rtol=1e-6)


def test_zero_decay_keeps_this_estimate_alone():
    feedback = learned_feedback(0.0)
    state = feedback.init(jax.random.key(0), 2, 3, jnp.float32)
    np.testing.assert_array_equal(state.coordinates, np.zeros((2, 3)))
    for value in (1.0, 5.0):
        state = feedback.update(state, jnp.full((2, 3), value))
        np.testing.assert_array_equal(state.coordinates, np.full((2, 3), value))


def test_rotation_keeps_the_feedback_matrix_where_the_span_is_kept():
    old = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (7, 3)))[0]
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (3, 3)))[0]
    state = random_feedback().init(jax.random.key(0), 2, 3, jnp.float32)
    turned = rotate(state, old, old @ turn)
    np.testing.assert_allclose(
        turned.coordinates @ (old @ turn).T, state.coordinates @ old.T, atol=1e-6
    )


def test_rotation_loses_only_what_left_the_span():
    old = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (7, 3)))[0]
    new = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (7, 3)))[0]
    state = random_feedback().init(jax.random.key(0), 2, 3, jnp.float32)
    turned = rotate(state, old, new)
    np.testing.assert_allclose(
        turned.coordinates @ new.T, state.coordinates @ old.T @ new @ new.T, atol=1e-6
    )


def test_random_feedback_has_the_stated_variance():
    weights = random_feedback().init(jax.random.key(0), 50, 400, jnp.float32).coordinates
    z = (float((weights**2).mean()) * 400 - 1) * np.sqrt(weights.size / 2)
    assert abs(z) < 4


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_bad_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"feedback decay is .*; it takes a number from 0"):
        learned_feedback(decay)


def test_bad_interval_is_refused():
    with pytest.raises(ValueError, match="update_every is 0; it takes a whole number"):
        learned_feedback(0.9, update_every=0)
