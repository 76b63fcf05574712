"""What people bring on the first day: dropout, running statistics, kernels, other keys, float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nmnc_jax
from nmnc_jax import Probe, no_tap
from nmnc_jax.diagnostics import alignment
from tests.cases import ESTIMATORS, JVP, batch_of, relative_error, squared_error, weights

PARAMS = weights(41, **{"in": (5, 6), "middle": (6, 6), "out": (6, 3)})
BATCH = batch_of((4, 5))
WHOLE = Probe(num=6, kind="orthogonal", difference="jvp")
EXACT = {
    "backprop": nmnc_jax.backprop,
    "forward_gradient": partial(nmnc_jax.forward_gradient, probe=WHOLE),
    "nmnc": partial(nmnc_jax.nmnc, rank=6, probe=WHOLE, feedback_decay=0.0),
    "vnc": partial(nmnc_jax.vnc, probe=WHOLE, feedback_decay=0.0),
    "weight_mirror": partial(nmnc_jax.weight_mirror, probe=WHOLE, feedback_decay=0.0),
}
"""Methods that whole frames of probes make exact, for one example."""


class Dropped(nn.Module):
    """Dropout before and after a tap."""

    @nn.compact
    def __call__(self, x, tap=no_tap, *, train=True):
        h = tap("hidden", nn.tanh(nn.Dense(6)(nn.Dropout(0.3)(x, deterministic=not train))))
        return nn.Dense(3)(nn.Dropout(0.5)(h, deterministic=not train))


def test_a_loss_that_broadcasts_over_the_targets_of_others_is_warned_of():
    def model(params, inputs, tap):
        return tap("hidden", inputs @ params["in"]) @ params["out"][:, :1]

    def squared(outputs, targets):
        return ((outputs - targets[:, None]) ** 2).mean(axis=-1)

    def broadcast(outputs, targets):
        with jax.numpy_rank_promotion("allow"):
            return ((outputs - targets) ** 2).mean(axis=-1)

    inputs, targets = BATCH
    batch = inputs, targets[:, 0]
    nmnc_jax.vnc(model, squared).init(PARAMS, batch)
    with pytest.warns(UserWarning, match="the targets of others") as caught:
        nmnc_jax.vnc(model, broadcast).init(PARAMS, batch)
    assert caught[0].filename == __file__


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", EXACT)
def test_all_passes_of_a_step_have_the_masks_of_the_clean_pass(name):
    model = Dropped()
    params = model.init(jax.random.key(0), BATCH[0], train=False)
    one = tuple(part[:1] for part in BATCH)
    estimator = EXACT[name](model.apply, squared_error)
    state = estimator.init(params, BATCH, rngs={"dropout": jax.random.key(7)})
    exact_of = jax.grad(lambda p, rngs: squared_error(model.apply(p, one[0], rngs=rngs), one[1])[0])
    different = []
    for seed in range(3):
        rngs = {"dropout": jax.random.key(seed)}
        found, _, _ = estimator.estimate(jax.random.key(9), params, one, state, rngs=rngs)
        exact = exact_of(params, rngs)
        assert relative_error(found, exact) < 1e-4
        different.append(ravel_pytree(exact)[0])
    assert not np.allclose(different[0], different[1])


def test_a_model_that_is_called_in_another_way_than_it_was_tried_is_refused():
    model = Dropped()
    params = model.init(jax.random.key(0), BATCH[0], train=False)
    estimator = nmnc_jax.vnc(model.apply, squared_error)
    state = estimator.init(params, BATCH, train=False)
    rngs = {"dropout": jax.random.key(0)}
    with pytest.raises(ValueError, match=r"tried at init with .*'False'.* and is called with {}"):
        estimator.estimate(jax.random.key(1), params, BATCH, state, rngs=rngs)


def test_rows_of_a_probe_pass_and_keyword_arguments_by_example_are_refused():
    def masked(p, x, tap, mask):
        return tap("hidden", jnp.tanh(x @ p["in"]) * mask) @ p["out"]

    estimator = nmnc_jax.vnc(masked, squared_error, probe=Probe(rows=2))
    state = estimator.init(PARAMS, BATCH, mask=jnp.ones((4, 6)))
    with pytest.raises(ValueError, match=r"rows is 2, and the keyword argument \['mask'\]"):
        estimator.estimate(jax.random.key(0), PARAMS, BATCH, state, mask=jnp.ones((4, 6)))


def test_integers_among_the_outputs_carry_no_response():
    def with_label(p, x, tap):
        logits = smooth(p, x, tap)
        return {"logits": logits, "label": logits.argmax(-1)}

    found = []
    for model, loss in (
        (smooth, squared_error),
        (with_label, lambda y, t: squared_error(y["logits"], t)),
    ):
        estimator = nmnc_jax.vnc(model, loss)
        state = estimator.init(PARAMS, BATCH)
        found.append(estimator.estimate(jax.random.key(0), PARAMS, BATCH, state)[0])
    assert relative_error(*found) < 1e-5


def test_complex_parameters_are_refused_in_weight_space():
    params = {**PARAMS, "in": PARAMS["in"].astype(jnp.complex64)}

    def wave(p, x, tap):
        return tap("hidden", jnp.abs(x.astype(jnp.complex64) @ p["in"])) @ p["out"]

    with pytest.raises(ValueError, match=r"params\['in'\] is complex64; it takes real parameters"):
        nmnc_jax.weight_perturbation(wave, squared_error).init(params, BATCH)


def with_statistics(p, x, tap, *, statistics, train=True):
    """Batch normalisation with running statistics, returned as aux."""
    h = x @ p["in"]
    mean, new = h.mean(0), {"mean": 0.9 * statistics["mean"] + 0.1 * h.mean(0)}
    used = statistics["mean"] if train else mean
    return tap("hidden", jnp.tanh(h - used[None])) @ p["out"], new


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_aux_is_that_of_the_clean_pass(name):
    methods = {
        "nmnc": partial(nmnc_jax.nmnc, rank=4, probe=JVP),
        "control_variate": partial(nmnc_jax.forward_gradient, feedback_decay=0.9),
    }
    method = methods.get(name, getattr(nmnc_jax, name, None))
    estimator = method(with_statistics, squared_error, has_aux=True)
    statistics = {"mean": jnp.full(6, 0.1)}
    state = estimator.init(PARAMS, BATCH, statistics=statistics)
    step = jax.jit(estimator.estimate)
    _, _, info = step(jax.random.key(0), PARAMS, BATCH, state, statistics=statistics)
    _, aux = with_statistics(PARAMS, BATCH[0], no_tap, statistics=statistics)
    np.testing.assert_allclose(info.aux["mean"], aux["mean"], rtol=1e-5)


@jax.custom_vjp
def kernel(x):
    return jnp.tanh(x)


kernel.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def with_kernel(p, x, tap):
    return kernel(tap("hidden", x @ p["in"])) @ p["out"]


@pytest.mark.parametrize("name", ["nmnc", "vnc", "weight_forward_gradient"])
def test_a_kernel_without_a_forward_derivative_is_named(name):
    settings = {"rank": 3} if name == "nmnc" else {}
    estimator = getattr(nmnc_jax, name)(with_kernel, squared_error, **settings)
    state = estimator.init(PARAMS, BATCH)
    with pytest.raises(ValueError, match=r'custom_vjp after .*it takes difference="central"'):
        estimator.estimate(jax.random.key(0), PARAMS, BATCH, state)


@pytest.mark.parametrize("readout", ["output", "loss"])
def test_finite_differences_reach_past_a_kernel(readout):
    probe = Probe(num=6, kind="orthogonal", difference="central", sigma=1e-2)
    methods = {
        "output": partial(nmnc_jax.vnc, probe=probe, feedback_decay=0.0),
        "loss": partial(nmnc_jax.node_perturbation, probe=probe),
    }
    estimator = methods[readout](with_kernel, squared_error)
    one = tuple(part[:1] for part in BATCH)
    state = estimator.init(PARAMS, BATCH)
    found = estimator.estimate(jax.random.key(0), PARAMS, one, state)[0]
    exact = nmnc_jax.backprop(with_kernel, squared_error)
    exact = exact.estimate(jax.random.key(0), PARAMS, one, exact.init(PARAMS, one))[0]
    assert relative_error(found, exact) < 1e-2


def smooth(p, x, tap):
    h = tap("first", jnp.tanh(x @ p["in"]))
    return tap("second", jnp.tanh(h @ p["middle"])) @ p["out"]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "orthogonal"])
@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_chunks_do_not_matter_whatever_the_generator(implementation, kind):
    key = jax.random.key(0, impl=implementation)
    found = []
    for chunk in (1, 2, 4):
        probe = Probe(num=4, kind=kind, difference="jvp", chunk=chunk)
        estimator = nmnc_jax.vnc(smooth, squared_error, probe=probe)
        state = estimator.init(PARAMS, BATCH)
        found.append(estimator.estimate(key, PARAMS, BATCH, state)[0])
    assert relative_error(found[1], found[0]) < 1e-4
    assert relative_error(found[2], found[0]) < 1e-4


@pytest.mark.parametrize("name", ["vnc", "node_perturbation", "weight_perturbation"])
def test_finite_differences_run_at_the_highest_precision(name):
    """On GPU and TPU the default precision of products would hide the difference of two passes."""
    settings = {} if name == "weight_perturbation" else {"probe": Probe(difference="central")}
    estimator = getattr(nmnc_jax, name)(smooth, squared_error, **settings)
    state = estimator.init(PARAMS, BATCH)
    with jax.default_matmul_precision("bfloat16"):
        lowered = jax.jit(estimator.estimate).lower(jax.random.key(0), PARAMS, BATCH, state)
        text = lowered.as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and "HIGHEST" in line]
    assert len(products) >= 3


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_float64_under_strict_promotion(name):
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda x: x.astype(jnp.float64), (PARAMS, BATCH))
        estimator = ESTIMATORS[name](smooth, squared_error)
        state = estimator.init(params, batch)
        found, _, info = jax.jit(estimator.estimate)(jax.random.key(0), params, batch, state)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float64")}
        cosines = alignment(info.credit, info.credit)
        np.testing.assert_allclose(jax.tree.leaves(cosines), 1, rtol=1e-9)


def test_credit_for_frozen_blocks_is_not_computed():
    """Of frozen parameters before a tap; the compiler leaves out what nothing reads."""
    wide = weights(42, **{"in": (64, 256), "middle": (256, 256), "out": (256, 3)})
    batch = batch_of((64, 64))
    estimator = nmnc_jax.nmnc(smooth, squared_error, rank=8)
    state = estimator.init(wide, batch)
    nothing = estimator.due(1)

    def flops(trained):
        optimiser = optax.partition(
            {"train": optax.sgd(0.1), "freeze": optax.set_to_zero()},
            {name: "train" if name in trained else "freeze" for name in wide},
        )

        def step(key, params, moments, state):
            gradients, state, _ = estimator.estimate(key, params, batch, state, due=nothing)
            updates, moments = optimiser.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments, state

        with jax.numpy_dtype_promotion("standard"):
            lowered = jax.jit(step).lower(jax.random.key(0), wide, optimiser.init(wide), state)
        return lowered.compile().cost_analysis()["flops"]

    everything, last, head = flops(wide), flops(["middle", "out"]), flops(["out"])
    forward = 2 * 64 * (64 * 256 + 256 * 256 + 256 * 3)
    assert head < last < everything
    # What is left for the head: the forward pass and the head's own gradient.
    assert head < 1.2 * (forward + 2 * 64 * 256 * 3)
