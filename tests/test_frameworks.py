"""One core for every framework: the same network in Linen, NNX and plain JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nmnc_jax import Probe, nmnc, no_tap

loss_fn = optax.softmax_cross_entropy_with_integer_labels


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, inputs, tap=no_tap):
        hidden = tap("hidden", nn.tanh(nn.Dense(16, name="first")(inputs)))
        return nn.Dense(3, name="second")(hidden)


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 16, rngs=rngs)
        self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, inputs, tap=no_tap):
        return self.second(tap("hidden", nnx.tanh(self.first(inputs))))


def linen():
    model = LinenNetwork()
    return model.apply, model.init(jax.random.key(0), jnp.ones((1, 2)))


def nnx_network():
    graph, params = nnx.split(NnxNetwork(nnx.Rngs(0)), nnx.Param)
    return lambda params, inputs, tap: nnx.merge(graph, params)(inputs, tap), params


def plain():
    def apply_fn(params, inputs, tap):
        hidden = tap("hidden", jnp.tanh(inputs @ params["first"]))
        return hidden @ params["second"]

    first, second = jax.random.split(jax.random.key(0))
    params = {
        "first": jax.random.normal(first, (2, 16)),
        "second": jax.random.normal(second, (16, 3)) / 4,
    }
    return apply_fn, params


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("make", [linen, nnx_network, plain])
def test_nmnc_trains_it(make):
    """Three noisy sectors of the plane are learned by the documented loop."""
    apply_fn, params = make()
    random = np.random.default_rng(0)
    inputs = jnp.asarray(random.normal(size=(256, 2)), jnp.float32)
    targets = jnp.asarray(np.floor((np.arctan2(*np.asarray(inputs).T) + np.pi) / 2.1), jnp.int32)
    batch = inputs, targets
    estimator = nmnc(apply_fn, loss_fn, rank=8, probe=Probe(num=1))
    optimiser = optax.adam(0.02)
    memory, moments = estimator.init(params, batch), optimiser.init(params)

    @jax.jit
    def step(key, params, memory, moments):
        gradients, memory, info = estimator.estimate(key, params, batch, memory)
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), memory, moments, info.loss

    for number in range(200):
        key = jax.random.fold_in(jax.random.key(1), number)
        params, memory, moments, _ = step(key, params, memory, moments)
    accuracy = (apply_fn(params, inputs, no_tap).argmax(-1) == targets).mean()
    assert accuracy > 0.9
