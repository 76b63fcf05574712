"""Control methods against what they are to show, and what a step costs."""

import chex
import jax
import numpy as np
import optax
import pytest

from experiments.configuration import Config
from experiments.data import load
from experiments.methods import TABLE, Setting, build_estimator, forward_passes
from experiments.training.trainer import make_trainer
from nmnc_jax import run
from nmnc_jax.diagnostics import exact_credit, exact_gradient, exact_jacobian, jacobian_share
from nmnc_jax.layout import tap_shapes
from nmnc_jax.models import MLP
from nmnc_jax.subspace import project

LOSS = optax.softmax_cross_entropy_with_integer_labels


@pytest.fixture
def network():
    model = MLP((12, 9), 3)
    inputs = jax.random.normal(jax.random.key(0), (16, 5))
    params = model.init(jax.random.key(1), inputs)
    return model.apply, params, (inputs, jax.numpy.arange(16) % 3)


def estimator_of(network, method, rank=4):
    apply_fn, params, batch = network
    config = Config.of(data="digits", model="mlp", features=(12, 9), estimator=method,
                       rank=rank, basis_update_every=2)  # fmt: skip
    shapes = tap_shapes(apply_fn, params, batch[0])
    return build_estimator(Setting(config, apply_fn, LOSS, shapes, 3, None))


def states(network, method, steps):
    _, params, batch = network
    estimator = estimator_of(network, method)
    state = estimator.init(params, batch)
    estimate = jax.jit(estimator.estimate)
    for step in range(steps):
        inputs = batch[0] * (1 + step)
        _, state, _ = estimate(jax.random.key(step), params, (inputs, batch[1]), state)
        yield state


def test_the_oracle_holds_the_whole_mean_jacobian(network):
    apply_fn, params, (inputs, _) = network
    *_, state = states(network, "oracle_subspace", 1)
    for name, jacobian in exact_jacobian(apply_fn, params, inputs).items():
        basis = state.subspace[name].basis
        assert basis.shape[1] == 3
        assert jacobian_share(jacobian.mean(axis=0), basis) == pytest.approx(1, abs=1e-5)


def test_without_rotation_the_bases_are_the_same_and_the_feedback_is_not(network):
    both = [list(states(network, method, 3)) for method in ("nmnc", "nmnc_unrotated")]
    for name in run(network[0], network[1], network[2][0])[1]:
        for turned, left in zip(*both, strict=True):
            np.testing.assert_allclose(
                turned.subspace[name].basis, left.subspace[name].basis, atol=1e-5
            )
        before, after = (both[i][2].feedback[name].coordinates for i in (0, 1))
        np.testing.assert_allclose(*(b[1].feedback[name].coordinates for b in both), atol=1e-5)
        assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("method", ["exact_feedback", "exact_feedback_manifold"])
def test_exact_feedback_is_the_mean_jacobian_or_its_part_in_the_manifold(network, method):
    apply_fn, params, (inputs, _) = network
    *_, state = states(network, method, 2)
    for name, jacobian in exact_jacobian(apply_fn, params, 2 * inputs).items():
        expected = project(state.subspace[name].basis, jacobian.mean(axis=0))
        np.testing.assert_allclose(state.feedback[name].coordinates, expected, atol=1e-5)


def test_bases_move_at_their_interval_while_feedback_is_exact_in_every_step(network):
    _, params, batch = network
    estimator = estimator_of(network, "exact_feedback_manifold")
    assert [estimator.due(step).move for step in range(5)] == [False, False, True, False, True]
    state = estimator.init(params, batch)
    before = state.subspace["dense0"].basis
    for step in range(2):
        due = estimator.due(step)
        _, state, _ = estimator.estimate(jax.random.key(step), params, batch, state, due=due)
        np.testing.assert_array_equal(state.subspace["dense0"].basis, before)


def test_the_manifold_of_node_perturbation_moves_at_the_interval_of_the_configuration(network):
    estimator = estimator_of(network, "node_perturbation_manifold")
    assert [estimator.due(step).move for step in range(5)] == [False, False, True, False, True]


MOVING = [name for name, entry in TABLE.items() if entry.subspace == "manifold"]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("method", [*MOVING, "oracle_subspace"])
def test_bases_that_move_in_a_program_of_their_own_move_as_in_the_step(method, monkeypatch):
    config = Config.of(
        data="digits", model="mlp", features=(16, 8), batch=16, rank=6, basis_batch=20,
        basis_update_every=2, alignment_batch=16, devices=1, estimator=method,
    )  # fmt: skip
    data = load(config)

    def after(steps):
        trainer = make_trainer(config, data)
        state, programs = trainer.init(0), 0
        for step in range(steps):
            batch = trainer.devices.gather(data.train_examples, np.arange(16) + 16 * step)
            key, due = jax.random.fold_in(jax.random.key(1), step), trainer.due(step)
            state, _ = trainer.step(state, key, batch, due=due)
            programs += len(trainer.parts(due))
        return programs, state.params, state.estimator

    with jax.numpy_dtype_promotion("standard"):
        programs, *apart = after(4)
        monkeypatch.setattr("experiments.training.trainer.moves_apart", lambda state: False)
        fewer, *together = after(4)
    assert fewer == 4
    assert programs == (4 if TABLE[method].cost == "probed" else 5)
    chex.assert_trees_all_close(apart, together, rtol=1e-3, atol=1e-4)


def test_feedback_of_others_leaves_out_each_example_itself(network):
    apply_fn, params, (inputs, targets) = network
    batch = inputs[:6], targets[:6]
    estimator = estimator_of(network, "exact_feedback_of_others")
    state = estimator.init(params, batch)
    _, _, info = jax.jit(estimator.estimate)(jax.random.key(0), params, batch, state)
    _, error = exact_credit(apply_fn, LOSS, params, batch)
    for name, jacobian in exact_jacobian(apply_fn, params, batch[0]).items():
        for own in range(6):
            others = np.delete(jacobian, own, axis=0).mean(axis=0)
            np.testing.assert_allclose(info.credit[name][own], error[own] @ others, atol=1e-6)


@pytest.mark.parametrize("rank", [4, 12])
def test_exact_credit_is_the_part_in_the_manifold(network, rank):
    apply_fn, params, batch = network
    estimator = estimator_of(network, "exact_credit_manifold", rank=rank)
    state = estimator.init(params, batch)
    gradients, state, info = jax.jit(estimator.estimate)(jax.random.key(0), params, batch, state)
    exact, _ = exact_credit(apply_fn, LOSS, params, batch)
    for name, credit in exact.items():
        basis = state.subspace[name].basis
        np.testing.assert_allclose(info.credit[name], credit @ basis @ basis.T, atol=1e-6)
    if rank == 12:  # All directions.
        chex.assert_trees_all_close(
            gradients, exact_gradient(apply_fn, LOSS, params, batch), atol=1e-5
        )


def test_exact_credit_in_all_directions_is_exact_through_time():
    config = Config.of(data="flip_flop", model="leaky", features=(6,), strides=(), rank=6, batch=8,
                       alignment_batch=16, estimator="exact_credit_manifold")  # fmt: skip
    data = load(config)
    batch = data.train_examples(np.arange(8))
    with jax.numpy_dtype_promotion("standard"):  # As in Optax's schedules.
        trainer = make_trainer(config, data)
        measured = trainer.measure(trainer.init(0), jax.random.key(0), batch)
    assert measured["alignment"]["rate"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "fields", "passes"),
    [
        ("backprop", {}, 3),
        ("dfa", {}, 2),
        ("nmnc", {"probes": 2}, 10),
        ("nmnc", {"update_every": 10}, 2.4),
        ("vnc", {"difference": "central", "scope": "all_taps"}, 4),
        ("node_perturbation", {"update_every": 10}, 6),
        ("weight_perturbation", {"probes": 3}, 6),
    ],
)
def test_passes_of_a_step(method, fields, passes):
    config = Config.of(data="digits", model="mlp", features=(8,), estimator=method, **fields)
    assert forward_passes(config, 4) == pytest.approx(passes)
