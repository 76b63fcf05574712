"""The readout `next`: credit chained from stage to stage, exact between a stage and a tap."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nmnc_jax
from nmnc_jax import Probe, credit_from_state, learned_feedback, noise_correlation, random_feedback
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from tests.cases import CASES, batch_of, relative_error, squared_error, weights


def marked_network(params, inputs, tap):
    """Linear stages, each marked, with a nonlinearity and a normalisation between."""
    x = tap("first", jnp.tanh(inputs @ params["in"]))
    y = tap.linear(x @ params["middle"])
    x = tap("second", jnp.tanh(y / jnp.linalg.norm(y, axis=1, keepdims=True)))
    return x @ params["out"]


PARAMS = weights(1, **{"in": (5, 8), "middle": (8, 8), "out": (8, 3)})


def whole_frames(probe):
    return noise_correlation(
        marked_network,
        squared_error,
        subspace=nmnc_jax.isotropic(),
        readout="next",
        probe=probe,
        feedback=learned_feedback(0.0),
    )


@pytest.mark.parametrize("scope", ["each_tap", "all_taps"])
@pytest.mark.parametrize(("difference", "tolerance"), [("jvp", 1e-5), ("central", 2e-3)])
def test_whole_frames_give_the_exact_gradient(scope, difference, tolerance):
    """A linear stage is learned exactly, what is between them is exact: so is the credit."""
    probe = Probe(num=8, kind="orthogonal", difference=difference, sigma=1e-1, scope=scope)
    estimator, batch = whole_frames(probe), batch_of((4, 5))
    state = estimator.init(PARAMS, batch)
    estimate = jax.jit(estimator.estimate)
    gradients, state, info = estimate(jax.random.key(0), PARAMS, batch, state)
    exact = exact_gradient(marked_network, squared_error, PARAMS, batch)
    assert relative_error(gradients, exact) < tolerance
    credit, _ = exact_credit(marked_network, squared_error, PARAMS, batch)
    assert relative_error(info.credit, credit) < tolerance
    again = credit_from_state(marked_network, squared_error, PARAMS, batch, state)
    chex.assert_trees_all_close(again, info.credit, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        state.feedback["first"].coordinates, PARAMS["middle"].T, atol=10 * tolerance
    )


def test_random_feedback_stands_for_the_stage_alone():
    """The credit is the exact derivative of a network whose middle weights are the feedback."""
    estimator = nmnc_jax.feedback_alignment(marked_network, squared_error)
    batch = batch_of((4, 5))
    state = estimator.init(PARAMS, batch)
    _, _, info = estimator.estimate(jax.random.key(0), PARAMS, batch, state)
    sent = {name: state.feedback[name].coordinates for name in ("first", "second")}
    inputs, targets = batch
    y = jnp.tanh(inputs @ PARAMS["in"]) @ PARAMS["middle"]

    def second(y):
        return jnp.tanh(y / jnp.linalg.norm(y, axis=1, keepdims=True))

    outputs = second(y) @ PARAMS["out"]
    at_second = 2 * (outputs - targets) / 4 @ sent["second"]
    (at_stage,) = jax.vjp(second, y)[1](at_second)
    np.testing.assert_allclose(info.credit["second"], at_second, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(info.credit["first"], at_stage @ sent["first"], rtol=1e-4, atol=1e-6)


def test_bad_requests_are_refused():
    case = CASES["scan"]()
    estimator = nmnc_jax.feedback_alignment(case.apply_fn, squared_error)
    with pytest.raises(
        ValueError, match=r"tap 'hidden' feeds later time steps unmarked.*by tap.linear"
    ):
        estimator.init(case.params, case.batch)
    with pytest.raises(
        ValueError, match="readout is 'last'; it takes 'output', 'loss', 'next', 'mirror' or None"
    ):
        noise_correlation(
            case.apply_fn, squared_error, subspace=nmnc_jax.isotropic(), readout="last",
            probe=Probe(), feedback=random_feedback(),
        )  # fmt: skip
