"""What is remembered: when it changes, what it belongs to, and what leaves it as it was."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nmnc_jax
from nmnc_jax import Due, Probe, fixed_subspace, grouped, learned_feedback, nmnc, noise_correlation
from nmnc_jax.feedback import rotate
from nmnc_jax.probes import relative_variance
from nmnc_jax.stacking import each_by_name
from nmnc_jax.transforms import as_transformation
from tests.cases import CASES, ESTIMATORS, batch_of, squared_error
from tests.zoo import STEPS, WEIGHTS, ZOO, forward_scan


def network(name):
    return lambda p, x, tap: tap(name, jnp.tanh(x @ p["a"])) @ p["b"]


def parameters(units, outputs):
    keys = jax.random.split(jax.random.key(0))
    return {
        "a": jax.random.normal(keys[0], (5, units)),
        "b": jax.random.normal(keys[1], (units, outputs)),
    }


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["nmnc", "vnc", "control_variate", "weight_mirror"])
def test_what_the_caller_decides_is_what_the_program_decides(name):
    case = CASES["dense"]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    state = scheduled = estimator.init(case.params, case.batch)
    inside = jax.jit(estimator.estimate)
    outside = jax.jit(estimator.estimate, static_argnames="due")
    for step in range(5):
        key, batch = jax.random.key(step), batch_of((4, 5), seed=step)
        found, state, _ = inside(key, case.params, batch, state)
        again = jax.random.key(step)
        same, scheduled, _ = outside(again, case.params, batch, scheduled, due=estimator.due(step))
        chex.assert_trees_all_close(found, same, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(state, scheduled, rtol=1e-4, atol=1e-5)


def test_the_schedule_is_that_of_the_settings():
    case = CASES["dense"]()
    estimator = nmnc(case.apply_fn, squared_error, rank=2, update_every=2, basis_update_every=3)
    dues = [estimator.due(step) for step in range(7)]
    assert [due.probe for due in dues] == [True, False, True, False, True, False, True]
    assert [due.move for due in dues] == [False, False, False, True, False, False, True]
    loss = nmnc_jax.node_perturbation(case.apply_fn, squared_error, rank=2)
    assert loss.due(1) == Due(probe=True, move=False)
    both = grouped(
        {"a": estimator, "b": nmnc_jax.backprop(case.apply_fn, squared_error)}, ["a", "b"]
    )
    assert both.due(3) == Due(False, True, (Due(False, True), Due(False, False)))
    assert len({both.due(3), both.due(9)}) == 1
    state = estimator.init(case.params, case.batch)
    with pytest.raises(ValueError, match=r"due is 3; it takes what estimator.due\(step\) returns"):
        estimator.estimate(jax.random.key(0), case.params, case.batch, state, due=3)
    with pytest.raises(ValueError, match=r"due is traced; .* static_argnames=\"due\""):
        jax.jit(estimator.estimate)(
            jax.random.key(0), case.params, case.batch, state, due=estimator.due(0)
        )
    with pytest.raises(ValueError, match=r"step is traced; due takes the number of a step outside"):
        jax.jit(estimator.due)(3)
    with pytest.raises(ValueError, match="step is -1; it takes a number of at least 0"):
        estimator.due(-1)
    together = both.init(case.params, case.batch)
    with pytest.raises(ValueError, match=r"due is for 0 groups; .* of 2 groups"):
        both.estimate(jax.random.key(0), case.params, case.batch, together, due=estimator.due(0))
    with pytest.raises(ValueError, match=r"key is of type int; it takes a key from jax.random.key"):
        both.estimate(0, case.params, case.batch, together)


def test_a_step_with_nothing_due_does_not_probe():
    case = CASES["strided convolution"]()
    estimator = ESTIMATORS["nmnc"](case.apply_fn, squared_error)
    state = estimator.init(case.params, case.batch)

    def cost(due):
        traced = jax.jit(estimator.estimate, static_argnames="due").lower(
            jax.random.key(0), case.params, case.batch, state, due=due
        )
        return traced.compile().cost_analysis()["flops"]

    random = noise_correlation(
        case.apply_fn, squared_error, subspace=nmnc_jax.random_subspace(4), readout="output",
        feedback=nmnc_jax.random_feedback(), check=False,
    )  # fmt: skip
    fixed = random.init(case.params, case.batch)
    least = jax.jit(random.estimate).lower(jax.random.key(0), case.params, case.batch, fixed)
    nothing = cost(Due(probe=False, move=False))
    assert nothing < 1.03 * least.compile().cost_analysis()["flops"]
    assert cost(Due(probe=True, move=False)) > 1.3 * nothing


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["nmnc", "vnc", "control_variate", "weight_mirror"])
@pytest.mark.parametrize("part", [0, 1])
def test_a_bad_batch_leaves_the_memory_as_it_was(name, part):
    case = CASES["dense"]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    estimate = jax.jit(estimator.estimate)
    state = estimator.init(case.params, case.batch)
    for step in range(2):
        _, state, info = estimate(jax.random.key(step), case.params, case.batch, state)
        assert bool(info.finite)
    bad = list(case.batch)
    bad[part] = bad[part].at[0, 0].set(jnp.nan)
    _, after, info = estimate(jax.random.key(2), case.params, tuple(bad), state)
    assert not bool(info.finite)
    chex.assert_trees_all_equal(after, state)
    gradients, _, info = estimate(jax.random.key(3), case.params, case.batch, after)
    assert bool(info.finite)
    chex.assert_tree_all_finite(gradients)


@jax.numpy_dtype_promotion("standard")  # Optax mixes dtypes.
def test_an_optax_chain_goes_on_after_a_bad_batch():
    case = CASES["dense"]()
    estimator = ESTIMATORS["nmnc"](case.apply_fn, squared_error)
    chain = optax.chain(
        as_transformation(estimator, case.batch), optax.apply_if_finite(optax.adam(1e-2), 5)
    )
    bad = case.batch[0].at[0, 0].set(jnp.nan), case.batch[1]

    @jax.jit
    def step(params, state, key, batch):
        updates, state = chain.update(params, state, params, key=key, batch=batch)
        return optax.apply_updates(params, updates), state

    ends = []
    for batches in ([case.batch, bad, case.batch], [case.batch, case.batch]):
        params, state = case.params, chain.init(case.params)
        keys = [jax.random.key(number) for number in ((0, 7, 1) if len(batches) == 3 else (0, 1))]
        for key, batch in zip(keys, batches, strict=True):
            params, state = step(params, state, key, batch)
        ends.append((params, state[0].estimator))
    chex.assert_trees_all_close(*ends, rtol=1e-5, atol=1e-7)


OLD = nmnc(network("h"), squared_error, rank=3)


@pytest.mark.parametrize(
    ("estimator", "units", "outputs", "message"),
    [
        (OLD, 8, 2, "state has feedback of 4 rows at tap 'h'; the model's outputs take 2"),
        (OLD, 12, 4, "state has 8 units at tap 'h'; the model has 12"),
        (nmnc(network("g"), squared_error, rank=3), 8, 4, r"state has taps \['h'\]; the model has"),
        (nmnc(network("h"), squared_error, rank=5), 8, 4, "state has 3 directions at tap 'h'"),
        (nmnc_jax.vnc(network("h"), squared_error), 8, 4, "state has subspace='pca'; this est"),
        (
            nmnc_jax.node_perturbation(network("h"), squared_error),
            8,
            4,
            "state is of readout 'output'; this estimator takes 'loss'",
        ),
    ],
)
def test_a_state_of_another_method_or_model_is_refused(estimator, units, outputs, message):
    state = OLD.init(parameters(8, 4), batch_of((6, 5), 4))
    with pytest.raises(ValueError, match=message):
        estimator.estimate(
            jax.random.key(0), parameters(units, outputs), batch_of((6, 5), outputs), state
        )
    with pytest.raises(ValueError, match="state is a tuple; it takes the NoiseCorrelationState"):
        OLD.estimate(jax.random.key(0), parameters(8, 4), batch_of((6, 5), 4), ())


def test_shorter_sequences_keep_what_is_known_of_longer_lags():
    case, loss = ZOO["scan"]
    estimator = nmnc_jax.vnc(forward_scan, loss, readout="output", update_every=1)
    state = estimator.init(case.params, case.batch)
    estimate = jax.jit(estimator.estimate)
    _, state, _ = estimate(jax.random.key(0), WEIGHTS, case.batch, state)
    short = tuple(part[:, :2] for part in case.batch)
    _, after, _ = estimate(jax.random.key(1), WEIGHTS, short, state)
    before = state.feedback["h"].mean
    np.testing.assert_allclose(after.feedback["h"].mean[4:], before[4:], rtol=1e-6)
    assert np.abs(after.feedback["h"].mean[:4] - before[:4]).max() > 1e-3
    longer = tuple(jnp.concatenate([part, part], axis=1) for part in case.batch)
    message = f"tap 'h' has {2 * STEPS} time steps; the state was made for at most {STEPS}"
    with pytest.raises(ValueError, match=message):
        estimator.estimate(jax.random.key(1), WEIGHTS, longer, state)


def test_donating_the_state_leaves_the_callers_arrays():
    case = CASES["linear"]()
    bases = {"first": jnp.eye(6)[:, :4], "second": jnp.eye(7)[:, :4]}
    estimator = noise_correlation(
        case.apply_fn, squared_error, subspace=fixed_subspace(bases), readout="output",
        probe=Probe(num=1, difference="jvp"), feedback=learned_feedback(), check=False,
    )  # fmt: skip
    step = jax.jit(
        lambda state: estimator.estimate(jax.random.key(0), case.params, case.batch, state)[1],
        donate_argnums=0,
    )
    step(estimator.init(case.params, case.batch))
    assert not any(basis.is_deleted() for basis in bases.values())


def test_a_direction_that_enters_the_basis_reads_its_first_estimate_at_once():
    feedback = learned_feedback(0.9)
    old, new = jnp.eye(4)[:, :2], jnp.eye(4)[:, 1:3]
    state = feedback.init(jax.random.key(0), 1, 2, jnp.float32)
    np.testing.assert_allclose(feedback.update(state, jnp.ones((1, 2))).coordinates, 1)
    for _ in range(50):
        state = feedback.update(state, jnp.ones((1, 2)))
    state = rotate(state, old, new)
    np.testing.assert_allclose(state.coordinates[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(state.weight, [1, 0], atol=1e-2)
    state = feedback.update(state, jnp.ones((1, 2)))
    np.testing.assert_allclose(state.coordinates[0], [1, 1], rtol=1e-5)


def test_of_a_direction_that_was_inside_in_part_that_part_keeps_its_size():
    state = learned_feedback(0.0).init(jax.random.key(0), 1, 1, jnp.float32)
    state = learned_feedback(0.0).update(state, jnp.full((1, 1), 2.0), 1.0)
    turned = rotate(state, jnp.array([[1.0], [0.0]]), jnp.array([[0.6], [0.8]]))
    np.testing.assert_allclose(turned.mean, [[1.2]], rtol=1e-6)
    np.testing.assert_allclose(turned.weight, [0.36], rtol=1e-6)


@pytest.mark.parametrize(("kind", "excess"), [("gaussian", 1), ("rademacher", -1)])
def test_few_probes_act_at_the_share_that_their_law_gives(kind, excess):
    """1/(1 + v) with v = (d ± 1)/N, and over its long-run value where the size is to be kept."""
    probe = Probe(num=2, kind=kind, scope="each_tap")
    one = relative_variance(probe, examples=3, steps=1, dimension=10, taps=2, isolated=False)
    assert one == pytest.approx((10 + excess) / 6)
    ones = jnp.ones((1, 10))
    for shrinkage in ("whole", "relative"):
        feedback = learned_feedback(0.8, shrinkage=shrinkage)
        state = feedback.init(jax.random.key(0), 1, 10, jnp.float32)
        limit = 1 / (1 + one * 0.2 / 1.8) if shrinkage == "relative" else 1
        state = feedback.update(state, ones, one)
        np.testing.assert_allclose(state.coordinates, 1 / (1 + one) / limit, rtol=1e-5)
        for _ in range(100):
            state = feedback.update(state, ones, one)
        expected = 1 if shrinkage == "relative" else 1 / (1 + one * 0.2 / 1.8)
        np.testing.assert_allclose(state.coordinates, expected, rtol=1e-4)


def test_hidden_components_carry_no_feedback_over():
    case = CASES["dense"]()
    estimator = nmnc(
        case.apply_fn, squared_error, rank=4, explained_variance=0.7, update_every=1,
        basis_update_every=1, check=False,
    )  # fmt: skip
    state = estimator.init(case.params, case.batch)
    estimate = jax.jit(estimator.estimate, static_argnames="due")
    _, state, _ = estimate(jax.random.key(0), case.params, case.batch, state)
    before = state
    moved = estimate(
        jax.random.key(1), case.params, batch_of((4, 5), seed=3), state,
        due=Due(probe=False, move=True),
    )[1]  # fmt: skip
    for name, memory in moved.subspace.items():
        assert not bool(memory.kept.all())
        old = before.feedback[name].mean @ before.subspace[name].basis.T
        np.testing.assert_allclose(moved.feedback[name].mean, old @ memory.basis, atol=1e-5)


def equal_layers(params, inputs, tap):
    hidden = inputs
    for place, weights in enumerate(params["layers"]):
        hidden = tap(f"hidden{place}", jnp.tanh(hidden @ weights))
    return hidden @ params["out"]


def test_the_bases_of_equal_layers_move_in_one_loop_and_as_they_would_alone(monkeypatch):
    """Including a layer whose basis has another rank, and one without a basis."""
    random = np.random.default_rng(0)
    first = jnp.asarray(random.standard_normal((5, 8), np.float32))
    drawn = jnp.asarray(random.standard_normal((5, 8, 8), np.float32))
    rank = {"hidden0": 3, "hidden1": 3, "hidden2": 2, "hidden3": None, "hidden4": 3, "hidden5": 3}

    def moved(layers):
        params = {"layers": [first, *drawn[: layers - 1]], "out": jnp.ones((8, 3))}
        ranks = {name: rank[name] for name in list(rank)[:layers]}
        estimator = nmnc(equal_layers, squared_error, rank=ranks, check=False)
        _, state, _ = estimator.estimate(
            jax.random.key(0), params, batch_of((4, 5)), estimator.init(params, batch_of((4, 5)))
        )
        step = jax.jit(
            lambda batch: estimator.estimate(
                jax.random.key(1), params, batch, state, due=Due(probe=False, move=True)
            )[1]
        )
        compiled = step.lower(batch_of((4, 5), seed=3)).compile()
        return compiled.as_text().count("syevd"), compiled(batch_of((4, 5), seed=3))

    (four, _), (six, together) = moved(4), moved(6)
    assert four == six > 0
    monkeypatch.setattr(
        nmnc_jax.state,
        "each_by_name",
        lambda move, by_name: {n: move(*a) for n, a in by_name.items()},
    )
    each, expected = moved(6)
    assert each > six
    chex.assert_trees_all_close(together, expected, rtol=1e-4, atol=1e-5)


def test_outside_of_jit_bases_move_one_by_one():
    """A loop would be compiled anew in each call."""
    alike = {name: (jnp.ones(3),) for name in ("a", "b")}
    assert each_by_name(lambda value: float(value.sum()), alike) == {"a": 3, "b": 3}
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.jit(lambda given: each_by_name(lambda value: float(value.sum()), given))(alike)


@pytest.mark.parametrize("rows", [2, 3])
def test_rows_run_that_many_examples_through_the_probe_pass(rows):
    seen = []

    def model(params, inputs, tap):
        seen.append(len(inputs))
        return tap("hidden", jnp.tanh(inputs @ params["a"])) @ params["b"]

    params, batch = parameters(6, 3), batch_of((8, 5))
    estimator = noise_correlation(
        model, squared_error, subspace=nmnc_jax.isotropic(), readout="output",
        probe=Probe(num=6, kind="orthogonal", difference="jvp", rows=rows),
        feedback=learned_feedback(0.0), check=False,
    )  # fmt: skip
    state = estimator.init(params, batch)
    seen.clear()
    _, state, _ = jax.jit(estimator.estimate)(jax.random.key(0), params, batch, state)
    assert set(seen) == {8, rows}
    np.testing.assert_allclose(state.feedback["hidden"].coordinates, params["b"].T, atol=1e-4)
    wide = noise_correlation(
        model,
        squared_error,
        subspace=nmnc_jax.isotropic(),
        readout="output",
        probe=Probe(rows=9),
        feedback=learned_feedback(0.0),
        check=False,
    )
    with pytest.raises(ValueError, match="rows is 9; it takes at most 8, the examples of a batch"):
        wide.estimate(jax.random.key(0), params, batch, state)
