"""Taps from outside: Linen models whose source knows nothing of them."""

import chex
import flax.linen as nn
import flaxmodels
import jax
import jax.numpy as jnp
import optax
import pytest

from nmnc_jax import Probe, direct_feedback_alignment, gradients_from_credit, nmnc, no_tap, run
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from nmnc_jax.linen import lift, scan, tap_submodules
from tests.cases import batch_of, relative_error, squared_error

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


SHARED = {"variable_broadcast": "params", "split_rngs": {"params": False}}
STACKED = {
    "variable_axes": {"params": 0, "batch_stats": 0},
    "split_rngs": {"params": True, "dropout": True},
}


class Cell(nn.Module):
    """One time step: a cell of Flax, and what is read out of it."""

    @nn.compact
    def __call__(self, carry, x, tap=no_tap):
        carry, y = nn.GRUCell(4)(carry, x)
        return carry, nn.Dense(3)(tap("state", y))


class Layer(nn.Module):
    """One layer: statistics of its own, dropout, and a rematerialised part."""

    @nn.compact
    def __call__(self, x, _, tap=no_tap, *, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = x + lift(nn.remat, Part(), tap)(x)
        return nn.Dropout(0.5, deterministic=not train)(x), None


class Part(nn.Module):
    @nn.compact
    def __call__(self, x, tap=no_tap):
        return nn.Dense(5)(tap("hidden", nn.tanh(nn.Dense(6)(x))))


class OverTime(nn.Module):
    """[B, T, 5] to [B, T, 3], with taps before and inside; there are as many steps as examples."""

    @nn.compact
    def __call__(self, x, tap=no_tap):
        x = tap("before", nn.Dense(5)(x[:, 0]))[:, None] + x
        return scan(Cell(), tap, in_axes=1, out_axes=1, **SHARED)(jnp.zeros((len(x), 4)), x)[1]


class OverDepth(nn.Module):
    """[B, 5] to [B, 3] by three layers, with taps around them and inside."""

    @nn.compact
    def __call__(self, x, tap=no_tap):
        layers = scan(Layer(), tap, length=3, **STACKED)
        x, _ = layers(tap("before", nn.Dense(5)(x)), train=True)
        return nn.Dense(3)(tap("after", jnp.sin(x)))


@pytest.mark.parametrize(
    ("model", "shape", "taps"),
    [
        (OverTime(), (4, 4, 5), {"before": (4, 5), "state": (4, 4, 4)}),
        (OverDepth(), (3, 5), {"before": (3, 5), "hidden": (3, 3, 6), "after": (3, 5)}),
    ],
)
def test_exact_credit_under_nn_scan_is_the_gradient(model, shape, taps):
    batch = batch_of(shape)
    if model == OverTime():
        batch = batch[0], batch[1][:, None]
    keys = {"dropout": jax.random.key(1)}
    variables = jax.jit(model.init)({"params": jax.random.key(0), **keys}, batch[0])

    def apply_fn(params, inputs, tap=no_tap):
        given = {**variables, "params": params}
        return model.apply(given, inputs, tap, rngs=keys, mutable=["batch_stats"])[0]

    @jax.jit
    def compare(params):
        outputs, activations = run(apply_fn, params, batch[0])
        credit, error = exact_credit(apply_fn, squared_error, params, batch)
        ours = gradients_from_credit(apply_fn, params, batch[0], credit=credit, output_error=error)
        theirs = jax.grad(lambda p: squared_error(apply_fn(p, batch[0]), batch[1]).mean())(params)
        return (outputs, ours), (apply_fn(params, batch[0]), theirs), activations

    ours, theirs, activations = compare(variables["params"])
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in activations.items()} == taps


def test_nn_scan_gives_the_numbers_of_tap_scan():
    batch = batch_of((4, 4, 5))
    batch = batch[0], jnp.repeat(batch[1][:, None], 4, axis=1)
    params = jax.jit(OverTime().init)(jax.random.key(0), batch[0])

    def plain(params, x, tap):
        first, cell = params["params"]["Dense_0"], {"params": params["params"]["Cell_0"]}
        x = tap("before", nn.Dense(5).apply({"params": first}, x[:, 0]))[:, None] + x
        body = lambda carry, x, tap: Cell().apply(cell, carry, x, tap)  # noqa: E731
        outputs = tap.scan(body, jnp.zeros((len(x), 4)), jnp.moveaxis(x, 1, 0))[1]
        return jnp.moveaxis(outputs, 0, 1)

    found = []
    for model in (OverTime().apply, plain):
        estimator = nmnc(model, squared_error, rank=3, causal={"before": False, "state": True})
        state = jax.jit(estimator.init)(params, batch)
        step = jax.jit(estimator.estimate)
        found.append(step(jax.random.key(1), params, batch, state)[0])
    assert relative_error(*found) < 1e-5


def test_a_module_that_a_scans_body_makes_is_refused():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x, tap=no_tap):
            cell = Cell()
            body = lambda carry, x, tap: cell(carry, x, tap)  # noqa: E731
            return tap.scan(body, jnp.zeros((len(x), 4)), jnp.moveaxis(x, 1, 0))[1][-1]

    batch = batch_of((4, 4, 5))
    params = Bare().init(jax.random.key(0), batch[0])
    message = r"tap 'state' is in the body of a scan.*takes nmnc_jax\.linen\.scan"
    with pytest.raises(ValueError, match=message):
        nmnc(Bare().apply, squared_error, rank=2).init(params, batch)


def test_a_module_that_takes_no_tap_is_named():
    inputs = jnp.ones((4, 3))
    module = nn.Dense(2)
    params = module.init(jax.random.key(0), inputs)
    estimator = nmnc(module.apply, squared_error, rank=2)
    with pytest.raises(ValueError, match=r"were given\. The model is called with .*tap=no_tap"):
        estimator.init(params, (inputs, jnp.zeros((4, 2))))
