"""Meshes as people make them: Explicit axes, shard_map, donated and divided parameters."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import nmnc_jax
from experiments.training.mesh import divide_probes
from nmnc_jax import Probe
from tests.cases import batch_of, relative_error, squared_error, weights

JVP = {"probe": Probe(num=2, difference="jvp")}
METHODS = {
    "backprop": {},
    "nmnc": {"rank": 4, "basis_update_every": 1, **JVP},
    "vnc": JVP,
    "forward_gradient": {"feedback_decay": 0.5, **JVP},
    "weight_mirror": {"rank": 3, **JVP},
    "mirror": {
        "rank": {"middle": None, "out": 3},
        "basis_update_every": 1,
        "update_every": 1,
        **JVP,
    },
    "kolen_pollack": {"weight_decay": 0.1},
    "direct_feedback_alignment": {},
    # Finite differences divide the rounding of a loss by sigma.
    "weight_perturbation": {"num": 2, "sigma": 0.01},
}
PARAMS = weights(31, **{"in": (8, 16), "middle": (16, 8), "out": (8, 4)})
BATCH = batch_of((16, 8), 4)


def network(p, x, tap):
    h = tap("h1", jnp.tanh(x @ p["in"]))
    return tap("h2", jnp.tanh(h @ p["middle"])) @ p["out"]


def marked(p, x, tap):
    """The same, with linear layers that are mirrored."""
    dense = lambda w, h: h @ w  # noqa: E731
    h = tap("h1", jnp.tanh(tap.linear(dense, p["in"], x)))
    h = tap("h2", jnp.tanh(tap.linear(dense, p["middle"], h, name="middle")))
    return tap.linear(dense, p["out"], h, name="out")


def mesh_of(kind, names=("data",), shape=(8,)):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def made(name, **more):
    settings = METHODS[name] | more
    if name == "mirror":
        return nmnc_jax.weight_mirror(marked, squared_error, **settings)
    model = marked if name == "kolen_pollack" else network
    return getattr(nmnc_jax, name)(model, squared_error, **settings)


def two_steps(estimator, params, batch, state):
    """The second step reads what the first has learned."""
    step = jax.jit(estimator.estimate)
    for number in range(2):
        gradients, state, info = step(jax.random.key(number), params, batch, state)
    return gradients, state, info


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", METHODS)
def test_the_default_mesh_of_jax_gives_the_numbers_of_one_device(name):
    estimator = made(name)
    state = estimator.init(PARAMS, BATCH)
    one, kept, info = two_steps(estimator, PARAMS, BATCH, state)
    mesh = jax.make_mesh((8,), ("data",))
    assert mesh.axis_types == (AxisType.Explicit,)
    whole, by_row = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params, batch = jax.device_put(PARAMS, whole), jax.device_put(BATCH, by_row)
    start = estimator.init(params, batch)
    eight, state, report = two_steps(estimator, params, batch, start)
    assert relative_error(jax.device_get(eight), jax.device_get(one)) < 1e-3
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(np.abs(got), np.abs(wanted), rtol=1e-3, atol=1e-4)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(eight))
    assert report.outputs.sharding.spec[0] == "data"
    np.testing.assert_allclose(report.loss, info.loss, rtol=1e-5)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", METHODS)
def test_inside_shard_map_each_device_makes_its_own_estimate(name):
    """With the default check_vma; the mean of the devices' estimates, each of its own rows."""
    estimator = made(name)
    state = estimator.init(PARAMS, BATCH)
    mesh = mesh_of(AxisType.Auto, shape=(8,))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("data"), P()), out_specs=P())
    def step(key, params, batch, state):
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return jax.lax.pmean(estimator.estimate(key, params, batch, state)[0], "data")

    found = step(jax.random.key(0), PARAMS, BATCH, state)
    estimate = jax.jit(estimator.estimate)
    each = [
        estimate(
            jax.random.fold_in(jax.random.key(0), device),
            PARAMS,
            tuple(part[2 * device : 2 * device + 2] for part in BATCH),
            state,
        )[0]
        for device in range(8)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 8, *each)
    assert relative_error(jax.device_get(found), mean) < 1e-4


@pytest.mark.parametrize(
    ("name", "rows"), [("mirror", None), ("mirror", 256), ("weight_mirror", None), ("vnc", 256)]
)
def test_eight_devices_divide_the_probe_pass(name, rows):
    """What depends on noise and weights alone would otherwise be computed by each of them."""
    probe = Probe(num=2, difference="jvp", rows=rows)
    estimator, batch = made(name, probe=probe), batch_of((512, 8), 4)
    state = estimator.init(PARAMS, batch)
    due = nmnc_jax.Due(probe=True, move=False)
    mesh, operations = mesh_of(AxisType.Auto), []
    params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
    for spec in (P(), P("data")):
        placed = jax.device_put(batch, NamedSharding(mesh, spec))
        step = jax.jit(lambda *arguments: estimator.estimate(*arguments, due=due)[:2])
        compiled = step.lower(jax.random.key(0), params, placed, state).compile()
        operations.append(compiled.cost_analysis()["flops"])
    assert operations[1] < 1.25 * operations[0] / 8


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_gradients_have_the_shardings_of_divided_parameters(name, kind):
    estimator = made(name)
    state = estimator.init(PARAMS, BATCH)
    one = jax.jit(estimator.estimate)(jax.random.key(0), PARAMS, BATCH, state)[0]
    mesh = mesh_of(kind)
    divided = NamedSharding(mesh, P("data", None))
    params, batch = jax.device_put((PARAMS, BATCH), divided)
    kept = jax.device_put(state, NamedSharding(mesh, P()))
    step = jax.jit(estimator.estimate, donate_argnums=(1, 3))
    if kind == AxisType.Explicit:
        # The model itself is refused where contraction is over two divided axes; not here.
        step = jax.jit(estimator.estimate)
    found = step(jax.random.key(0), params, batch, kept)[0]
    assert relative_error(jax.device_get(found), jax.device_get(one)) < 1e-4
    if kind == AxisType.Explicit:
        assert {leaf.sharding.spec for leaf in jax.tree.leaves(found)} == {P("data", None)}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["nmnc", "vnc", "forward_gradient", "weight_perturbation"])
def test_probes_are_divided_over_an_axis(name):
    estimator = made(name)
    state = estimator.init(PARAMS, BATCH)
    mesh = mesh_of(AxisType.Auto, ("data", "probe"), (4, 2))
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    divided = jax.jit(divide_probes(estimator, mesh).estimate)
    found, kept, info = divided(jax.random.key(0), PARAMS, batch, state)
    estimate = jax.jit(estimator.estimate)
    each = [
        estimate(jax.random.fold_in(jax.random.key(0), device), PARAMS, BATCH, state)
        for device in range(2)
    ]
    for got, wanted in (
        (found, [gradients for gradients, _, _ in each]),
        (info.loss, [info.loss for _, _, info in each]),
    ):
        mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *wanted)
        # Finite differences of the weights round.
        assert relative_error(jax.device_get(got), mean) < 1e-3
    for got, one, other in zip(*map(jax.tree.leaves, (kept, each[0][1], each[1][1])), strict=True):
        np.testing.assert_allclose(got, (one + other) / 2, rtol=1e-3, atol=1e-5)


def megatron(p, x, tap):
    """Two blocks whose hidden units are divided: a product by columns, then one by rows."""
    for block in range(2):
        h = tap(f"hidden{block}", jax.nn.gelu(x @ p[f"up{block}"]))
        x = tap(f"stream{block}", x + h @ p[f"down{block}"])
    return x @ p["out"]


UP, DOWN = P(None, "model"), P("model", None)
DIVIDED = {
    "fully sharded": (
        (("data",), (8,)),
        network,
        {"in": (56, 64), "middle": (64, 48), "out": (48, 8)},
        {"in": P("data"), "middle": P("data"), "out": P("data")},
        {"in": 1, "middle": 1, "out": 1},
    ),
    "tensor parallel": (
        (("data", "model"), (2, 4)),
        megatron,
        {"up0": (56, 64), "down0": (64, 56), "up1": (56, 72), "down1": (72, 56), "out": (56, 8)},
        {"up0": UP, "down0": DOWN, "up1": UP, "down1": DOWN, "out": UP},
        {},
    ),
}
"""Mesh, model, shapes and divisions of the parameters, and those that a forward pass gathers."""


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", ["backprop", "nmnc", "vnc", "forward_gradient"])
@pytest.mark.parametrize("way", DIVIDED)
def test_a_step_gathers_only_the_parameters_that_a_forward_pass_does(way, name):
    """Counted in the compiled text, where no array has the size of a parameter but that itself."""
    mesh, model, shapes, specs, gathered_once = DIVIDED[way]
    mesh = mesh_of(AxisType.Auto, *mesh)
    places = {leaf: NamedSharding(mesh, spec) for leaf, spec in specs.items()}
    params, batch = weights(31, **shapes), batch_of((16, 56), 8)
    estimator = getattr(nmnc_jax, name)(model, squared_error, **METHODS[name])
    state = jax.device_put(estimator.init(params, batch), NamedSharding(mesh, P()))
    params = jax.device_put(params, places)
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))

    def gathered(compiled):
        sizes = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", compiled.as_text())
        found = [{int(size) for size in each.split(",")} for each in sizes]
        return {leaf: found.count({*shape}) for leaf, shape in shapes.items() if {*shape} in found}

    forward = jax.jit(lambda p, x: model(p, x, nmnc_jax.no_tap))
    assert gathered(forward.lower(params, batch[0]).compile()) == gathered_once
    # What is gathered before a product is not divided after it, unless the caller says so.
    out = places if gathered_once else None
    passes = 1 + len(nmnc_jax.run(model, params, batch[0])[1])
    for due in {estimator.due(0), estimator.due(1)}:

        @partial(jax.jit, out_shardings=out)
        def step(key, params, batch, state, due=due):
            return estimator.estimate(key, params, batch, state, due=due)[0]

        compiled = step.lower(jax.random.key(0), params, batch, state).compile()
        found = gathered(compiled)
        assert found.keys() == gathered_once.keys()
        assert max(found.values(), default=0) <= (passes if due.probe else 1)
        for leaf, sharding in compiled.output_shardings.items():
            assert sharding.is_equivalent_to(places[leaf], 2), leaf
