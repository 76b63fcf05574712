"""Mirrors that follow the weights in every step: sign-symmetric feedback and Kolen-Pollack."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nmnc_jax
from nmnc_jax import credit_from_state, feedback_alignment, kolen_pollack
from tests.cases import squared_error
from tests.test_mirror import (
    BATCH,
    MODELS,
    NOTHING,
    PARAMS,
    convolution,
    error_of,
    images,
    plain,
    weights_of,
)

SHAPES = ("groups", "used twice", "over layers", "pytree")


def steps_of(estimator, params, number=3):
    """The states and parameters of some steps whose weights change their signs."""
    state = estimator.init(params, BATCH)
    estimate = jax.jit(estimator.estimate, static_argnames="due")
    for step in range(number):
        moved = jax.tree.map(lambda leaf, n=step: leaf * (-1.0) ** n + 0.1 * n, params)
        _, state, info = estimate(jax.random.key(step), moved, BATCH, state, due=NOTHING)
        yield moved, state, info


@pytest.mark.parametrize(
    ("name", "magnitudes"),
    [("groups", "uniform"), ("over layers", "fixed"), ("pytree", "redrawn")],
)
def test_feedback_has_the_signs_of_this_steps_weights(name, magnitudes):
    model = MODELS[name]
    estimator = feedback_alignment(model, squared_error, sign_symmetric=magnitudes)
    sizes = []
    for params, state, info in steps_of(estimator, PARAMS):
        used = {stage: each.mean for stage, each in state.feedback.items()}
        exact = weights_of(model, params, BATCH[0], state)
        chex.assert_trees_all_equal(jax.tree.map(jnp.sign, used), jax.tree.map(jnp.sign, exact))
        again = credit_from_state(model, squared_error, params, BATCH, state)
        chex.assert_trees_all_close(again, info.credit, rtol=1e-5, atol=1e-7)
        sizes.append(jax.tree.map(jnp.abs, used))
    alike = magnitudes != "redrawn"
    assert all((error_of(size, sizes[0]) < 1e-6) == alike for size in sizes[1:])


@pytest.mark.parametrize("magnitudes", ["uniform", "fixed", "redrawn"])
def test_magnitudes_have_the_size_of_the_first_weights(magnitudes):
    estimator = feedback_alignment(MODELS["same"], squared_error, sign_symmetric=magnitudes)
    *_, (_, state, _) = steps_of(estimator, PARAMS)
    squares = np.asarray(state.feedback["stage"].mean, np.float64) ** 2
    ratio = squares / (np.asarray(PARAMS["kernel"]) ** 2).mean()
    # A squared Gaussian has variance 2.
    assert abs(ratio.mean() - 1) < (1e-5 if magnitudes == "uniform" else 4 * (2 / 576) ** 0.5)
    assert (ratio.std() < 1e-5) == (magnitudes == "uniform")


def test_weights_that_begin_at_zero_have_feedback_of_the_size_of_their_input():
    silent = PARAMS | {"out": jnp.zeros((8, 2))}
    for settings in ({}, {"sign_symmetric": "uniform"}):
        state = feedback_alignment(plain, squared_error, **settings).init(silent, BATCH)
        size = float((state.feedback["last"].mean ** 2).mean() ** 0.5)
        assert abs(size * 8**0.5 - 1) < 4 * (0.5 / 16) ** 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_mirrors_get_what_the_optimiser_adds_to_the_weights(name):
    """Beside mirrors that are given the updates of momentum themselves."""
    model, decay = MODELS[name], 0.05
    estimator = kolen_pollack(model, squared_error, weight_decay=decay)

    @jax.jit
    def step(params, moments, state):
        gradients, state, _ = estimator.estimate(jax.random.key(0), params, BATCH, state)
        moments = jax.tree.map(lambda m, g: 0.9 * m - 0.1 * g, moments, gradients)
        return jax.tree.map(lambda p, u: (1 - decay) * p + u, params, moments), moments, state

    params, moments = PARAMS, jax.tree.map(jnp.zeros_like, PARAMS)
    state = estimator.init(params, BATCH)
    mirrors = {stage: each.mean for stage, each in state.feedback.items()}
    first = jax.tree.map(jnp.subtract, mirrors, weights_of(model, params, BATCH[0], state))
    for number in range(4):
        weights = weights_of(model, params, BATCH[0], state)
        params, moments, state = step(params, moments, state)
        found = {stage: each.mean for stage, each in state.feedback.items()}
        assert error_of(found, mirrors) < 1e-5
        left = jax.tree.map(lambda leaf, n=number: (1 - decay) ** n * leaf, first)
        assert error_of(jax.tree.map(jnp.subtract, found, weights), left) < 1e-4
        # The weights of these stages are parameters, and so their updates are those of parameters.
        updates = weights_of(model, moments, BATCH[0], state)
        mirrors = jax.tree.map(lambda m, u: (1 - decay) * m + u, mirrors, updates)


def test_a_step_without_an_update_leaves_the_mirrors():
    """Accumulated gradients, frozen stages and steps that are not finite."""
    estimator = kolen_pollack(plain, squared_error, weight_decay=0.5)
    state = estimator.init(PARAMS, BATCH)
    estimate = jax.jit(estimator.estimate)
    _, same, _ = estimate(jax.random.key(0), PARAMS, BATCH, state)
    chex.assert_trees_all_equal(same.feedback, state.feedback)
    moved = PARAMS | {"a": PARAMS["a"] + 1}
    _, new, _ = estimate(jax.random.key(0), moved, BATCH, state)
    chex.assert_trees_all_equal(new.feedback["last"], state.feedback["last"])
    difference = state.feedback["stage"].mean - PARAMS["a"]
    np.testing.assert_allclose(
        new.feedback["stage"].mean - moved["a"], difference / 2, rtol=1e-4, atol=1e-5
    )
    broken = BATCH[0].at[0].set(jnp.nan), BATCH[1]
    _, kept, info = estimate(jax.random.key(0), moved, broken, state)
    assert not info.finite
    chex.assert_trees_all_equal(kept, state)


def test_sixteen_bits_follow_too():
    params, batch = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, BATCH))
    estimator = kolen_pollack(MODELS["same"], squared_error, weight_decay=0.5)
    state = estimator.init(params, batch)
    estimate = jax.jit(estimator.estimate)
    for step in range(1, 12):
        moved = jax.tree.map(lambda leaf, n=step: leaf + n / 8, params)
        gradients, state, _ = estimate(jax.random.key(0), moved, batch, state)
    chex.assert_trees_all_equal_dtypes(gradients, params)
    right = moved["kernel"].astype(jnp.float32)
    np.testing.assert_allclose(state.feedback["stage"].mean, right, atol=2e-3)


@pytest.mark.parametrize("method", ["sign", "kolen_pollack"])
def test_a_step_costs_what_backpropagation_costs(method):
    model = images("kernel", convolution())
    estimator = {
        "sign": feedback_alignment(model, squared_error, sign_symmetric="redrawn"),
        "kolen_pollack": kolen_pollack(model, squared_error, weight_decay=0.1),
    }[method]
    assert not estimator.due(0).probe
    flops = []
    for each in (estimator, nmnc_jax.backprop(model, squared_error)):
        state = each.init(PARAMS, BATCH)
        step = jax.jit(lambda *a, each=each: each.estimate(*a)[:2])
        compiled = step.lower(jax.random.key(0), PARAMS, BATCH, state).compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert flops[0] < 1.2 * flops[1]


def test_what_does_not_fit_is_refused_by_name():
    unmarked = lambda p, x, tap: tap("h", x.mean(1, keepdims=True) * p["out"][:1])  # noqa: E731
    for estimator in (
        feedback_alignment(unmarked, squared_error, sign_symmetric="fixed"),
        kolen_pollack(unmarked, squared_error, weight_decay=0.1),
    ):
        with pytest.raises(ValueError, match="marks no linear stage"):
            estimator.init(PARAMS, BATCH)
    for make, message in (
        (
            lambda: feedback_alignment(plain, squared_error, sign_symmetric="usf"),
            "magnitudes is 'u",
        ),
        (lambda: kolen_pollack(plain, squared_error, weight_decay=0.0), "weight_decay is 0.0"),
        (
            lambda: kolen_pollack(plain, squared_error, weight_decay=1),
            "weight_decay is 1; it takes",
        ),
        (
            lambda: nmnc_jax.noise_correlation(
                plain,
                squared_error,
                subspace=nmnc_jax.isotropic(),
                readout=("mirror", "next"),
                feedback=nmnc_jax.sign_symmetric_feedback(),
            ),
            r"readout is \('mirror', 'next'\); a feedback that follows",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
