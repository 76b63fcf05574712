"""Every estimator: one protocol, the scale of jax.grad, one compilation, one device or eight."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nmnc_jax
from nmnc_jax import Probe, credit_from_state, fixed_subspace, learned_feedback, nmnc
from nmnc_jax.diagnostics import cosine, exact_credit, exact_gradient
from nmnc_jax.readouts import READOUTS, output
from tests.cases import (
    CASES,
    CHAINED,
    ESTIMATORS,
    Case,
    batch_of,
    error_on_eight_devices,
    jitted,
    linear_case,
    relative_error,
    squared_error,
    weights,
)

FIXED = ("backprop", "direct_feedback_alignment", "feedback_alignment")
"""Methods that draw no noise."""


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("name", "case_name"),
    [(n, c) for n in ESTIMATORS for c in CASES if not (n in CHAINED and c == "scan")],
)
def test_gradients_look_like_the_parameters(name, case_name):
    case = CASES[case_name]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    state = jax.eval_shape(estimator.init, case.params, case.batch)
    gradients, after, info = jax.eval_shape(
        estimator.estimate, jax.random.key(0), case.params, case.batch, state
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, case.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert set(info.credit_norm) == set(info.credit)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case_name", ["dense", "scan"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_tells_what_it_did(name, case_name):
    if name in CHAINED and case_name == "scan":
        pytest.skip("takes no tap inside a scan")
    case = CASES[case_name]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    state = estimator.init(case.params, case.batch)
    gradients, _, info = jax.jit(estimator.estimate)(
        jax.random.key(0), case.params, case.batch, state
    )
    chex.assert_tree_all_finite(gradients)
    outputs = case.apply_fn(case.params, case.batch[0], nmnc_jax.no_tap)
    np.testing.assert_allclose(info.outputs, outputs, rtol=1e-4, atol=1e-5)
    loss = squared_error(outputs, case.batch[1]).mean()
    np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
    for tap, norm in info.credit_norm.items():
        np.testing.assert_allclose(norm, jnp.linalg.norm(info.credit[tap].reshape(-1)), rtol=1e-5)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_same_key_same_answer_and_another_key_another(name):
    case = CASES["dense"]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    state = estimator.init(case.params, case.batch)
    estimate = jax.jit(estimator.estimate)
    first, again, other = (
        estimate(jax.random.key(seed), case.params, case.batch, state)[0] for seed in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    changes = relative_error(other, first) > 1e-3
    assert changes == (name not in FIXED)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_ten_steps_compile_once(name):
    case = CASES["dense"]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    chex.clear_trace_counter()
    estimate = jax.jit(chex.assert_max_traces(estimator.estimate, n=1))
    state = estimator.init(case.params, case.batch)
    params = case.params
    for step in range(10):
        gradients, state, _ = estimate(jax.random.key(step), params, case.batch, state)
        params = optax.apply_updates(params, jax.tree.map(lambda g: -1e-3 * g, gradients))


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_eight_devices_equal_one(name):
    case = CASES["strided convolution"]()._replace(batch=batch_of((16, 8, 8, 2)))
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    exact_by_jvp = name not in ("node_perturbation", "weight_perturbation")
    # Finite differences amplify the rounding of the sums.
    assert error_on_eight_devices(estimator, case) < (1e-5 if exact_by_jvp else 1e-3)


def whole_frame_gradient(case, *, num, batch, sigma, difference, chunk=None, readout="output"):
    """One step's gradient by orthogonal probes over whole frames: no variance is left."""
    probe = Probe(num=num, kind="orthogonal", difference=difference, sigma=sigma, chunk=chunk)
    subspace = fixed_subspace({"first": jnp.eye(8), "second": jnp.eye(8)})
    estimator = nmnc_jax.noise_correlation(
        case.apply_fn,
        squared_error,
        subspace=subspace,
        readout=readout,
        probe=probe,
        feedback=learned_feedback(0.0) if readout == "output" else None,
    )
    state = estimator.init(case.params, batch)
    return jax.jit(estimator.estimate)(jax.random.key(0), case.params, batch, state)[0]


def eight_unit_case():
    params = weights(1, **{"in": (5, 8), "middle": (8, 8), "out": (8, 3)})
    return Case(linear_case().apply_fn, params, batch_of((4, 5)))


SCALES = [(1e-1, "central"), (1e-2, "forward"), (1, "jvp")]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize(
    ("sigma", "difference"), [(1e-1, "central"), (1e-2, "forward"), (1, "jvp")]
)
def test_scale_is_that_of_the_batch_mean_gradient(size, sigma, difference):
    """Whatever sigma, number of probes, batch and chunk: the gradient of jax.grad."""
    case = eight_unit_case()
    batch = batch_of((size, 5))
    exact = exact_gradient(case.apply_fn, squared_error, case.params, batch)
    for num, chunk in ((8, None), (16, 4)):
        got = whole_frame_gradient(
            case, num=num, batch=batch, sigma=sigma, difference=difference, chunk=chunk
        )
        assert relative_error(got, exact) < (1e-5 if difference == "jvp" else 2e-3)


@pytest.mark.parametrize("num", [8, 16])
def test_loss_readout_has_the_scale_of_the_batch_mean_gradient(num):
    case = eight_unit_case()
    got = whole_frame_gradient(
        case, num=num, batch=case.batch, sigma=1e-3, difference="jvp", readout="loss"
    )
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(got, exact) < 1e-5


def test_node_perturbation_keeps_each_examples_own_gradient():
    """mean(g x h), not mean(g) x mean(h): examples whose gradients cancel still teach."""
    case = eight_unit_case()
    inputs = jnp.concatenate([jnp.ones((1, 5)), -jnp.ones((1, 5))])
    outputs = case.apply_fn(case.params, inputs, nmnc_jax.no_tap)
    batch = inputs, jnp.concatenate([outputs[:1] - 1, outputs[1:] + 1])
    got = whole_frame_gradient(
        case, num=8, batch=batch, sigma=1e-3, difference="jvp", readout="loss"
    )
    exact = exact_gradient(case.apply_fn, squared_error, case.params, batch)
    assert float(jnp.abs(exact["in"]).max()) > 0.1
    assert relative_error(got, exact) < 1e-5


def test_a_readout_that_is_added_to_the_table_is_taken_by_its_name(monkeypatch):
    case = CASES["dense"]()
    monkeypatch.setitem(READOUTS, "own", output.readout._replace(name="own"))

    def gradients(readout):
        estimator = nmnc(case.apply_fn, squared_error, rank=2, readout=readout)
        state = estimator.init(case.params, case.batch)
        return jitted(estimator)(jax.random.key(0), case.params, case.batch, state)[0]

    chex.assert_trees_all_equal(gradients("own"), gradients("output"))


def test_feedback_survives_the_move_of_the_basis():
    """A basis that spans everything may turn as it likes: the feedback matrix stays."""
    case = CASES["residual"]()
    estimator = nmnc(
        case.apply_fn,
        squared_error,
        rank=6,
        probe=Probe(num=4, difference="jvp"),
        update_every=1000,
        basis_update_every=3,
    )
    state = estimator.init(case.params, case.batch)
    matrices, bases = [], []
    for step in range(5):
        batch = batch_of((4, 5), seed=step)
        _, state, _ = jax.jit(estimator.estimate)(jax.random.key(step), case.params, batch, state)
        basis = state.subspace["block0"].basis
        matrices.append(state.feedback["block0"].coordinates @ basis.T)
        bases.append(basis)
    np.testing.assert_array_equal(bases[0], bases[2])
    assert np.abs(bases[3] - bases[2]).max() > 0.01
    for matrix in matrices[1:]:
        np.testing.assert_allclose(matrix, matrices[0], atol=1e-5)


def test_feedback_is_refreshed_at_its_interval_and_credit_in_every_step():
    case = CASES["dense"]()
    estimator = nmnc_jax.vnc(
        case.apply_fn, squared_error, probe=Probe(num=1, difference="jvp"), update_every=3
    )
    state = estimator.init(case.params, case.batch)
    weights_seen, credit_seen = [], []
    for step in range(4):
        batch = batch_of((4, 5), seed=step)
        _, state, info = jax.jit(estimator.estimate)(
            jax.random.key(step), case.params, batch, state
        )
        weights_seen.append(float(state.feedback["dense0"].weight[0]))
        credit_seen.append(float(info.credit_norm["dense0"]))
    np.testing.assert_allclose(weights_seen, [0.1, 0.1, 0.1, 0.19], rtol=1e-5)
    assert len(set(credit_seen)) == 4


def test_credit_from_state_is_the_steps_own_credit():
    case = CASES["strided convolution"]()
    estimator = ESTIMATORS["nmnc"](case.apply_fn, squared_error)
    state = estimator.init(case.params, case.batch)
    _, state, info = jitted(estimator)(jax.random.key(0), case.params, case.batch, state)
    again = credit_from_state(case.apply_fn, squared_error, case.params, case.batch, state)
    chex.assert_trees_all_close(again, info.credit, rtol=1e-4, atol=1e-6)


def test_backprop_tells_the_exact_credit():
    case = CASES["scan"]()
    estimator = nmnc_jax.backprop(case.apply_fn, squared_error)
    gradients, _, info = estimator.estimate(jax.random.key(0), case.params, case.batch, ())
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(gradients, exact) < 1e-6
    credit, _ = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(info.credit, credit) < 1e-6


def test_learned_feedback_aligns_where_random_feedback_does_not():
    case = CASES["linear"]()
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    cosines = {}
    for name, estimator in (
        ("learned", nmnc_jax.vnc(case.apply_fn, squared_error, probe=Probe(num=64))),
        ("random", nmnc_jax.direct_feedback_alignment(case.apply_fn, squared_error)),
    ):
        state = estimator.init(case.params, case.batch)
        gradients, _, _ = estimator.estimate(jax.random.key(0), case.params, case.batch, state)
        cosines[name] = float(cosine(gradients["in"], exact["in"]))
    assert cosines["learned"] > 0.95
    assert cosines["random"] < 0.8


def test_bfloat16_trains_with_jvp_probes_and_is_refused_with_differences():
    case = CASES["dense"]()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (case.params, case.batch))

    def apply_fn(params, inputs, tap):
        hidden = inputs @ params["params"]["dense0"]["kernel"]
        return tap("hidden", jnp.maximum(hidden, 0)) @ jnp.ones((16, 3), hidden.dtype)

    estimator = nmnc(apply_fn, squared_error, rank=4, probe=Probe(num=2, difference="jvp"))
    state = estimator.init(*half)
    gradients, _, _ = estimator.estimate(jax.random.key(0), *half, state)
    chex.assert_trees_all_equal_dtypes(gradients, half[0])
    message = r"tap 'hidden' is bfloat16.*difference=\"jvp\", or a float32 pass"
    with pytest.raises(ValueError, match=message):
        nmnc(apply_fn, squared_error, rank=4, probe=Probe(difference="central")).init(*half)
    remedy = r"bfloat16.*it takes weight_forward_gradient, or a float32 pass"
    with pytest.raises(ValueError, match=remedy):
        nmnc_jax.weight_perturbation(apply_fn, squared_error).init(*half)
    nmnc_jax.weight_forward_gradient(apply_fn, squared_error).init(*half)


def test_bfloat16_behind_float32_parameters_is_refused_with_differences_of_what_it_rounds():
    inputs, targets = jnp.ones((5, 4)), jnp.ones((5, 3))
    params = {"in": jnp.ones((4, 6)) / 4, "out": jnp.ones((6, 3)) / 6}

    @jax.jit
    def rounded(inputs, weights):
        return (inputs.astype(jnp.bfloat16) @ weights.astype(jnp.bfloat16)).astype(jnp.float32)

    def apply_fn(params, inputs, tap):
        return tap("hidden", rounded(inputs, params["in"])) @ params["out"]

    batch = inputs, targets
    message = "a value computed from params is bfloat16"
    estimator = nmnc_jax.weight_perturbation(apply_fn, squared_error)
    with pytest.raises(ValueError, match=message):
        estimator.init(params, batch)
    with pytest.raises(ValueError, match=message):
        jax.jit(estimator.estimate)(jax.random.key(0), params, batch, ())
    trainable = {"in": False, "out": True}
    nmnc_jax.weight_perturbation(apply_fn, squared_error, trainable=trainable).init(params, batch)

    def behind(params, inputs, tap):
        return rounded(tap("hidden", inputs @ params["in"]), params["out"])

    for make in (nmnc_jax.node_perturbation, nmnc_jax.vnc):
        central, exact = (
            lambda model, d=d, make=make: make(model, squared_error, probe=Probe(difference=d))
            for d in ("central", "jvp")
        )
        with pytest.raises(ValueError, match="a value behind a tap is bfloat16"):
            central(behind).init(params, batch)
        exact(behind).init(params, batch)
        central(apply_fn).init(params, batch)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_first_batch_whose_losses_are_not_finite_is_refused(name):
    case = CASES["dense"]()
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    for bad in (jnp.nan, jnp.inf):
        inputs, targets = (part.at[0, 0].set(bad) for part in case.batch)
        for batch, part in (
            ((inputs, case.batch[1]), "inputs"),
            ((case.batch[0], targets), "targets"),
        ):
            message = rf"for example 0; .*: batch {part} holds a value that is not finite"
            with pytest.raises(ValueError, match=message):
                checked(name, case, squared_error).init(case.params, batch)
    # Later it is the step that says so, alike inside and outside of jit.
    state = estimator.init(case.params, case.batch)
    for estimate in (estimator.estimate, jax.jit(estimator.estimate)):
        assert not estimate(jax.random.key(0), case.params, batch, state)[2].finite


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_loss_masks_is_taken_as_it_is(name):
    def masked(outputs, targets):
        missing = jnp.isnan(targets)
        return jnp.where(missing, 0, (outputs - jnp.where(missing, 0, targets)) ** 2).sum(-1)

    case = CASES["dense"]()
    batch = case.batch[0], case.batch[1].at[0, 0].set(jnp.nan)
    estimator = checked(name, case, masked)
    state = estimator.init(case.params, batch)
    gradients, _, info = estimator.estimate(jax.random.key(0), case.params, batch, state)
    assert info.finite
    again = jax.jit(estimator.estimate)(jax.random.key(0), case.params, batch, state)[0]
    assert relative_error(again, gradients) < 1e-4


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mistakes_at_the_door_are_named(name):
    case = CASES["dense"]()

    def labelled(outputs, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1)[:, 0]

    labels = jnp.array([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"targets are from 0 to 3, of outputs \(4, 3\): labels"):
        checked(name, case, labelled).init(case.params, (case.batch[0], labels))
    estimator = ESTIMATORS[name](case.apply_fn, squared_error)
    for batch, message in (
        ({"x": 1, "y": 2}, "batch is a dict of 2"),
        ((*case.batch, 3), "batch is a tuple of 3"),
        (tuple(part[:0] for part in case.batch), r"batch inputs has shape \(0, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.init(case.params, batch)
    state = estimator.init(case.params, case.batch)
    for key, message in (
        (case.params, "key is of type dict"),
        (0, "key is of type int"),
        (jax.random.split(jax.random.key(0), 3), r"key is an array key<fry>\[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.estimate(key, case.params, case.batch, state)


def checked(name, case, loss):
    """The estimator without what says that this case is known to be right."""
    methods = {
        "nmnc": functools.partial(nmnc_jax.nmnc, rank=4),
        "control_variate": functools.partial(nmnc_jax.forward_gradient, feedback_decay=0.9),
    }
    return methods.get(name, getattr(nmnc_jax, name, None))(case.apply_fn, loss)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_reduced_loss_is_refused(name):
    case = CASES["dense"]()
    good = ESTIMATORS[name](case.apply_fn, squared_error)
    bad = ESTIMATORS[name](case.apply_fn, lambda y, t: squared_error(y, t).mean())
    state = good.init(case.params, case.batch)
    with pytest.raises(ValueError, match=r"loss_fn returned shape \(\).*one loss per example"):
        bad.estimate(jax.random.key(0), case.params, case.batch, state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, loss: nmnc(f, loss, rank=17), "rank is 17; tap 'dense0' takes 1 to 16"),
        (lambda f, loss: nmnc(f, loss, rank={"dense0": 4}), "rank has no entry for tap 'dense1'"),
        (
            lambda f, loss: nmnc(f, loss, rank={"dense0": 4, "dense1": 4, "dense2": 4}),
            r"rank has an entry for 'dense2'; the model has \['dense0', 'dense1'\]",
        ),
        (lambda f, loss: nmnc(f, loss, rank=4, feedback_decay=1.0), "feedback decay is 1.0"),
        (lambda f, loss: nmnc(f, loss, rank=4, update_every=0), "update_every is 0"),
        (
            lambda f, loss: nmnc_jax.forward_gradient(f, loss, probe=Probe(difference="central")),
            "probe.difference is 'central'; forward_gradient takes 'jvp'",
        ),
        (lambda f, loss: nmnc_jax.weight_perturbation(f, loss, num=0), "num is 0"),
        (lambda f, loss: nmnc_jax.weight_perturbation(f, loss, sigma=0.0), "sigma is 0.0"),
        (
            lambda f, loss: nmnc_jax.noise_correlation(
                f, loss, subspace=nmnc_jax.isotropic(), readout="last", probe=Probe(), feedback=None
            ),
            "readout is 'last'; it takes 'output', 'loss', 'next', 'mirror' or None",
        ),
        (
            lambda f, loss: nmnc_jax.noise_correlation(
                f,
                loss,
                subspace=nmnc_jax.isotropic(),
                readout="output",
                probe=Probe(),
                feedback=None,
            ),
            "feedback is None; readout 'output' takes a feedback",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    case = CASES["dense"]()
    with pytest.raises(ValueError, match=message):
        make(case.apply_fn, squared_error).init(case.params, case.batch)


def test_state_without_feedback_has_no_credit_to_give():
    case = CASES["dense"]()
    estimator = ESTIMATORS["node_perturbation"](case.apply_fn, squared_error)
    state = estimator.init(case.params, case.batch)
    with pytest.raises(ValueError, match="state holds no feedback"):
        credit_from_state(case.apply_fn, squared_error, case.params, case.batch, state)


def test_a_rank_chosen_on_the_run_gives_the_credit_of_that_rank():
    """With whole orthogonal frames the Jacobian inside a subspace is found exactly."""
    case = linear_case(batch=12)
    frames = Probe(num=4, kind="orthogonal", difference="jvp")
    chosen = nmnc(case.apply_fn, squared_error, rank=4, explained_variance=0.8, probe=frames)
    state = chosen.init(case.params, case.batch)
    ranks = {name: int(memory.kept.sum()) for name, memory in state.subspace.items()}
    assert set(ranks.values()) & {2, 3}, ranks
    fixed = nmnc(case.apply_fn, squared_error, rank=ranks, probe=frames)
    given = fixed.init(case.params, case.batch)
    found, after, _ = jitted(chosen)(jax.random.key(0), case.params, case.batch, state)
    wanted, _, _ = jitted(fixed)(jax.random.key(0), case.params, case.batch, given)
    assert relative_error(found, wanted) < 1e-4
    for name, memory in after.feedback.items():
        assert not memory.coordinates[:, ranks[name] :].any()


@pytest.mark.parametrize("share", [None, 0.4])
def test_a_perturbation_has_the_energy_of_the_activity_in_any_number_of_dimensions(share):
    seen = []

    def model(params, inputs, tap):
        activity = tap("hidden", inputs)
        if not isinstance(activity, jax.core.Tracer):
            seen.append(np.asarray(activity))
        return activity @ params

    strengths = 2.0 ** -jnp.arange(12.0)
    inputs = jax.random.normal(jax.random.key(0), (4000, 12)) * strengths[None] ** 0.5
    probe = Probe(num=1, difference="forward", sigma=0.1)
    estimator = nmnc(
        model, squared_error, rank=8, explained_variance=share, probe=probe, update_every=1
    )
    params, batch = jnp.ones((12, 2)), (inputs, jnp.zeros((4000, 2)))
    state = estimator.init(params, batch)
    assert share is None or int(state.subspace["hidden"].kept.sum()) == 1
    estimator.estimate(jax.random.key(1), params, batch, state)
    changes = [((values - inputs) ** 2).mean() for values in seen]
    assert max(changes) / (inputs**2).mean() == pytest.approx(0.1**2, rel=0.1)


WRONG = {
    "probe is 4; it takes a Probe": {"probe": 4},
    "feedback is 'learned'; it takes a Feedback": {"feedback": "learned"},
    "subspace is 'pca'; it takes a Subspace": {"subspace": "pca"},
    "apply_fn is 3; it takes a function": {"apply_fn": 3},
    r"called as apply_fn\(params, inputs, tap\): too many": {"apply_fn": lambda params, inputs: 0},
    "loss_fn is 'mse'; it takes a function": {"loss_fn": "mse"},
    "loss_fn returned None": {"loss_fn": lambda outputs, targets: None},
    "batch inputs are a list of numbers": {"batch": ([[1.0], [2.0]], [0, 1])},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_of_another_kind_are_refused_by_name(message):
    case = CASES["dense"]()
    settings = {
        "apply_fn": case.apply_fn, "loss_fn": squared_error, "batch": case.batch,
        "subspace": nmnc_jax.pca(2), "readout": "output", "feedback": nmnc_jax.learned_feedback(),
    } | WRONG[message]  # fmt: skip
    batch = settings.pop("batch")
    with pytest.raises(ValueError, match=message):
        nmnc_jax.noise_correlation(**settings).init(case.params, batch)


def test_probes_scales_and_counts_are_numbers():
    with pytest.raises(ValueError, match="sigma is 'a'; it takes a positive finite number"):
        Probe(sigma="a")
    with pytest.raises(ValueError, match="num is 'a'; it takes a whole number of at least 1"):
        Probe(num="a")
    assert Probe(num=np.int64(2)).count() == 2
