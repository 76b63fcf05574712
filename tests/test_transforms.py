"""Estimators inside Optax chains, and one for each group of parameters."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from nmnc_jax import backprop, direct_feedback_alignment, grouped, nmnc
from nmnc_jax.diagnostics import exact_gradient
from nmnc_jax.transforms import as_transformation
from tests.cases import CASES, ESTIMATORS, squared_error

LABELS = {"dense0": "noise", "dense1": "noise", "output": "exact"}


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        yield


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["nmnc", "forward_gradient", "backprop"])
def test_a_chain_with_an_estimator_goes_the_estimators_way(name):
    case = CASES["dense"]()
    estimator, optimiser = ESTIMATORS[name](case.apply_fn, squared_error), optax.adam(0.1)
    chain = optax.chain(as_transformation(estimator, case.batch), optimiser)

    @jax.jit
    def both(params):
        ours = theirs = params
        state, moments = estimator.init(params, case.batch), optimiser.init(params)
        chained = chain.init(params)
        for key in jax.random.split(jax.random.key(0), 3):
            gradients, state, info = estimator.estimate(key, ours, case.batch, state)
            updates, moments = optimiser.update(gradients, moments, ours)
            ours = optax.apply_updates(ours, updates)
            updates, chained = chain.update(
                theirs, chained, theirs, key=key, batch=case.batch, value=1.0
            )
            theirs = optax.apply_updates(theirs, updates)
        return ours, theirs, info.loss, optax.tree.get(chained, "loss")

    ours, theirs, loss, reported = both(case.params)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(loss, reported)


def test_an_update_without_its_arguments_is_refused():
    case = CASES["dense"]()
    inside = as_transformation(backprop(case.apply_fn, squared_error), case.batch)
    state = inside.init(case.params)
    given = {"key": jax.random.key(0), "batch": case.batch}
    for missing in given:
        rest = {name: value for name, value in given.items() if name != missing}
        with pytest.raises(ValueError, match=f"{missing} is None"):
            inside.update(case.params, state, case.params, **rest)
    with pytest.raises(ValueError, match="params is None"):
        inside.update(case.params, state, **given)


def test_each_group_has_its_estimators_gradient():
    case = CASES["dense"]()
    noise = nmnc(case.apply_fn, squared_error, rank=2)
    estimator = grouped(
        {"noise": noise, "exact": backprop(case.apply_fn, squared_error)}, {"params": LABELS}
    )
    key = jax.random.key(0)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def estimate(key, params, state):
        return estimator.estimate(key, params, case.batch, state)

    state = estimator.init(case.params, case.batch)
    gradients, after, info = estimate(key, case.params, state)
    estimate(key, case.params, after)
    alone, _, reported = jax.jit(noise.estimate)(
        jax.random.split(key)[0], case.params, case.batch, state["noise"]
    )
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    for layer, label in LABELS.items():
        expected = alone if label == "noise" else exact
        chex.assert_trees_all_close(
            gradients["params"][layer], expected["params"][layer], rtol=1e-4, atol=1e-6
        )
    chex.assert_trees_all_close(info.credit, reported.credit, rtol=1e-4, atol=1e-6)


def test_backpropagation_of_a_group_goes_no_deeper_than_the_group():
    """The compiler drops what no group uses."""
    case = CASES["dense"]()
    exact = backprop(case.apply_fn, squared_error)
    local = direct_feedback_alignment(case.apply_fn, squared_error)
    composed = grouped({"noise": local, "exact": exact}, {"params": LABELS})

    def flops(estimator):
        state = estimator.init(case.params, case.batch)
        compiled = jax.jit(
            lambda params: estimator.estimate(jax.random.key(0), params, case.batch, state)[0]
        )
        return compiled.lower(case.params).compile().cost_analysis()["flops"]

    assert flops(composed) < 1.1 * flops(local) < 1.1 * flops(exact)


def test_groups_have_optimisers_of_their_own():
    """Per-group estimators and per-group optimisers take the same labels."""
    case = CASES["dense"]()
    labels = {"params": LABELS}
    estimator = grouped(
        {
            "noise": nmnc(case.apply_fn, squared_error, rank=2),
            "exact": backprop(case.apply_fn, squared_error),
        },
        labels,
    )
    optimiser = optax.partition({"noise": optax.sgd(0.1), "exact": optax.set_to_zero()}, labels)
    state = estimator.init(case.params, case.batch)
    gradients, _, _ = jax.jit(estimator.estimate)(jax.random.key(0), case.params, case.batch, state)
    updates, _ = optimiser.update(gradients, optimiser.init(case.params), case.params)
    assert not jnp.any(updates["params"]["output"]["kernel"])
    chex.assert_trees_all_close(
        updates["params"]["dense0"], jax.tree.map(lambda g: -0.1 * g, gradients["params"]["dense0"])
    )


def test_labels_and_estimators_must_match():
    case = CASES["dense"]()
    exact = backprop(case.apply_fn, squared_error)
    with pytest.raises(ValueError, match=r"labels has the groups \['exact', 'noise'\]; it takes"):
        grouped({"exact": exact}, LABELS)
