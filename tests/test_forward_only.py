"""A stage without a derivative: backpropagation fails there, finite differences do not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nmnc_jax import Probe, backprop, nmnc, no_tap, node_perturbation
from nmnc_jax.diagnostics import cosine
from tests.cases import weights

loss_fn = optax.softmax_cross_entropy_with_integer_labels
CENTRAL = Probe(num=8, difference="central", sigma=0.3)
METHODS = {
    "nmnc": lambda f: nmnc(f, loss_fn, rank=8, probe=CENTRAL),
    "node perturbation": lambda f: node_perturbation(f, loss_fn, probe=CENTRAL),
}


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def quantise(values):
    """Five levels, computed outside of JAX."""
    return jax.pure_callback(
        lambda array: np.round(2 * np.asarray(array)) / 2, values, values, vmap_method="expand_dims"
    )


def network(stage):
    def apply_fn(params, inputs, tap):
        before = tap("before", jnp.tanh(inputs @ params["first"]))
        return tap("after", stage(before)) @ params["second"]

    return apply_fn


def sectors():
    """Three sectors of the plane."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(256, 2))
    targets = np.floor((np.arctan2(*inputs.T) + np.pi) / 2.1)
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.int32)


def test_backpropagation_fails():
    params, batch = weights(0, first=(2, 16), second=(16, 3)), sectors()
    estimator = backprop(network(quantise), loss_fn)
    with pytest.raises(ValueError, match="JVP"):
        estimator.estimate(jax.random.key(0), params, batch, estimator.init(params, batch))
    through_rounding = backprop(network(lambda values: jnp.round(2 * values) / 2), loss_fn)
    gradients, _, _ = through_rounding.estimate(jax.random.key(0), params, batch, ())
    assert not jnp.any(gradients["first"])


@pytest.mark.parametrize("name", METHODS)
def test_perturbation_sees_through_it(name):
    """The gradient before the stage points along that of the network without it, and trains."""
    params, batch = weights(0, first=(2, 16), second=(16, 3)), sectors()
    apply_fn = network(quantise)
    estimator = METHODS[name](apply_fn)
    optimiser = optax.adam(0.02)

    @jax.jit
    def step(key, params, moments, memory):
        gradients, memory, _ = estimator.estimate(key, params, batch, memory)
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, memory, gradients["first"]

    smooth, _, _ = backprop(network(lambda values: values), loss_fn).estimate(
        jax.random.key(0), params, batch, ()
    )
    moments, memory = optimiser.init(params), estimator.init(params, batch)
    for number in range(100):
        key = jax.random.fold_in(jax.random.key(1), number)
        params, moments, memory, first = step(key, params, moments, memory)
        if number == 0:
            assert float(cosine(first, smooth["first"])) > 0.5
    accuracy = (apply_fn(params, batch[0], no_tap).argmax(-1) == batch[1]).mean()
    assert float(accuracy) > 0.9
