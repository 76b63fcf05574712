"""Taps from outside: Linen models whose source knows nothing of them."""

import chex
import flax.linen as nn
import flaxmodels
import jax
import jax.numpy as jnp
import optax
import pytest

from nmnc_jax import Probe, direct_feedback_alignment, gradients_from_credit, nmnc, no_tap
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from nmnc_jax.linen import tap_submodules
from tests.cases import squared_error

BLOCKS = [f"BasicBlock_{block}" for block in range(0, 8, 3)]


@pytest.fixture(autouse=True)
def _promotion_that_flaxmodels_takes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_exact_credit_in_a_resnet_of_another_project_is_its_gradient():
    """A ResNet-18 with frozen batch statistics, tapped after three of its blocks."""
    model = flaxmodels.ResNet18(output="logits", pretrained=None, num_classes=10)
    inputs = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    targets = jnp.arange(2)
    hurried = {"xla_backend_optimization_level": 0}
    variables = jax.jit(
        lambda key, inputs: model.init(key, inputs, train=False), compiler_options=hurried
    )(jax.random.key(1), inputs)

    def compare(params, statistics, inputs):
        def apply(params, inputs):
            return model.apply({"params": params, "batch_stats": statistics}, inputs, train=False)

        def loss(params):
            return loss_fn(apply(params, inputs), targets).mean()

        loss_fn = optax.softmax_cross_entropy_with_integer_labels
        apply_fn = tap_submodules(apply, BLOCKS)
        batch = inputs, targets
        credit, error = exact_credit(apply_fn, loss_fn, params, batch)
        ours = gradients_from_credit(apply_fn, params, inputs, credit=credit, output_error=error)
        return ours, jax.grad(loss)(params), credit

    ours, theirs, credit = jax.jit(compare, compiler_options=hurried)(
        variables["params"], variables["batch_stats"], inputs
    )
    assert sorted(credit) == BLOCKS
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def small():
    model = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(8), nn.tanh, nn.Dense(2)])
    inputs = jax.random.normal(jax.random.key(0), (16, 3))
    return model, model.init(jax.random.key(1), inputs), inputs


def test_nmnc_trains_a_model_without_taps():
    model, params, inputs = small()
    apply_fn = tap_submodules(model.apply, ["layers_0", "layers_2"])
    batch = inputs, jnp.sin(inputs[:, :2])
    estimator = nmnc(apply_fn, squared_error, rank=4, probe=Probe(num=4, difference="jvp"))
    optimiser = optax.adam(1e-2)

    def step(carry, key):
        params, moments, memory = carry
        gradients, memory, info = estimator.estimate(key, params, batch, memory)
        updates, moments = optimiser.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, memory), info.loss

    start = params, optimiser.init(params), estimator.init(params, batch)
    keys = jax.random.split(jax.random.key(2), 300)
    (params, _, _), losses = jax.jit(lambda start: jax.lax.scan(step, start, keys))(start)
    assert float(losses[-1]) < 0.1 * float(losses[0])
    chex.assert_trees_all_equal(apply_fn(params, inputs, no_tap), model.apply(params, inputs))


def test_the_gradient_is_that_of_the_module_itself():
    model, params, inputs = small()
    apply_fn = tap_submodules(model.apply, ["layers_2"])
    batch = inputs, jnp.zeros((16, 2))
    exact = exact_gradient(apply_fn, squared_error, params, batch)
    theirs = jax.grad(lambda p: squared_error(model.apply(p, inputs), batch[1]).mean())(params)
    chex.assert_trees_all_close(exact, theirs, rtol=1e-5)
    direct_feedback_alignment(apply_fn, squared_error).init(params, batch)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(3, name="shared")
        return layer(layer(inputs))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return inputs, inputs


class HasPair(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return Pair(name="pair")(nn.Dense(3)(inputs))[0]


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (Twice(), ["shared"], "used twice"),
        (Twice(), ["absent"], r"names has \['absent'\]; the model calls \['shared'\]"),
        (HasPair(), ["pair"], "submodule 'pair' returns tuple"),
    ],
)
def test_bad_names_fail_at_the_door(model, names, message):
    inputs = jnp.ones((2, 3))
    params = model.init(jax.random.key(0), inputs)
    estimator = nmnc(tap_submodules(model.apply, names), squared_error, rank=1)
    with pytest.raises(ValueError, match=message):
        estimator.init(params, (inputs, inputs))


def test_no_names_fail_at_the_door():
    with pytest.raises(ValueError, match="names is empty"):
        tap_submodules(lambda params, inputs: inputs, [])
