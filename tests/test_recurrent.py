"""Estimators through time: taps inside a scan."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nmnc_jax
from nmnc_jax import Probe, credit_from_state, learned_feedback, noise_correlation
from nmnc_jax.diagnostics import exact_credit, exact_gradient, exact_jacobian
from nmnc_jax.models import GRU, LeakyRNN
from tests.cases import (
    CASES,
    error_on_eight_devices,
    relative_error,
    sequence_case,
    squared_error,
)

MODELS = {"leaky": "rate", "gated": "state"}


def chained(case, **probe):
    return noise_correlation(
        case.apply_fn,
        squared_error,
        subspace=nmnc_jax.isotropic(),
        readout="next",
        probe=Probe(**probe),
        feedback=learned_feedback(0.0),
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("difference", "tolerance"), [("jvp", 1e-5), ("central", 3e-3)])
@pytest.mark.parametrize("name", MODELS)
def test_a_mirror_in_time_of_whole_frames_is_backpropagation_through_time(
    name, difference, tolerance
):
    """The stage is linear and learned exactly; leak, nonlinearity and gates are exact."""
    case = CASES[name]()
    estimator = chained(case, num=3, kind="orthogonal", difference=difference, sigma=0.1)
    state = estimator.init(case.params, case.batch)
    gradients, state, info = jax.jit(estimator.estimate)(
        jax.random.key(0), case.params, case.batch, state
    )
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(gradients, exact) < tolerance
    credit, _ = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    assert relative_error(info.credit, credit) < tolerance
    again = credit_from_state(case.apply_fn, squared_error, case.params, case.batch, state)
    chex.assert_trees_all_close(again, info.credit, rtol=1e-5, atol=1e-7)
    weights = case.params["params"]
    both = jnp.concatenate([weights["recurrent"], weights["output"]], axis=1).T
    learned = state.feedback[MODELS[name]].coordinates
    np.testing.assert_allclose(learned, both, atol=30 * tolerance)


def linear_in_time(params, inputs, tap):
    """A recurrent network whose Jacobian depends on the lag alone."""

    def body(state, x, tap):
        state = tap("state", state @ params["recurrent"] + x)
        return state, state @ params["out"]

    start = jnp.zeros((len(inputs), inputs.shape[-1]))
    return jnp.moveaxis(tap.scan(body, start, jnp.moveaxis(inputs, 1, 0))[1], 0, 1)


STEPS, UNITS, OUTPUTS = 4, 3, 2
LINEAR = {"recurrent": 0.5 * jax.random.normal(jax.random.key(0), (UNITS, UNITS)),
          "out": jax.random.normal(jax.random.key(1), (UNITS, OUTPUTS))}  # fmt: skip
BATCH = tuple(
    jax.random.normal(jax.random.key(2 + place), (5, STEPS, size))
    for place, size in enumerate((UNITS, OUTPUTS))
)


def timed_loss(outputs, targets):
    return (outputs * targets).sum(-1)


def whole_loss(outputs, targets):
    return timed_loss(outputs, targets).mean(axis=1)


def estimates(estimator, count, read, params=LINEAR):
    """What `read` takes of (state, info) after each of many first steps, [count, ...]."""
    state = estimator.init(params, BATCH)

    def one(key):
        _, after, info = estimator.estimate(key, params, BATCH, state)
        return read(after, info)

    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64)


def z_scores(samples, expected):
    error = samples.std(axis=0) / len(samples) ** 0.5
    return (samples.mean(axis=0) - expected) / np.maximum(error, 1e-12)


@pytest.mark.parametrize("horizon", [None, 2])
def test_output_by_lag_learns_a_matrix_for_each_lag(horizon):
    estimator = nmnc_jax.vnc(
        linear_in_time, timed_loss, feedback_decay=0.0, readout="output", horizon=horizon
    )
    lags = horizon or STEPS
    found = estimates(estimator, 4000, lambda state, _: state.feedback["state"].coordinates)
    power, matrices = jnp.eye(UNITS), []
    for _ in range(lags):
        matrices.append((power @ LINEAR["out"]).T)
        power = power @ LINEAR["recurrent"]
    assert np.abs(z_scores(found, np.concatenate(matrices))).max() < 4.5


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(("some", "probes"), [({"rows": 2}, 2 * STEPS), ({"perturbed": 2}, 2)])
def test_few_perturbed_rows_leave_the_estimate_unbiased(some, probes, kind):
    """Two examples at each time step, or two rows of all: as many probes give the variance."""
    probe = Probe(num=1, kind=kind, difference="jvp", **some)
    estimator = nmnc_jax.vnc(
        linear_in_time, timed_loss, feedback_decay=0.0, readout="output", horizon=1, probe=probe
    )
    # Without recurrence, so that no row hears the noise of another.
    params = {**LINEAR, "recurrent": jnp.zeros((UNITS, UNITS))}
    found = estimates(estimator, 4000, lambda state, _: state.feedback["state"].coordinates, params)
    assert np.abs(z_scores(found, LINEAR["out"].T)).max() < 4.5
    size = float((LINEAR["out"] ** 2).sum())
    spread = found.var(axis=0).sum() / size
    # Gaussian: (n + 1) / N; with r that do not fill a frame: r (n - r) / N^2.
    rest = probes % UNITS
    whole = (UNITS + 1) / probes
    expected = whole if kind == "gaussian" else rest * (UNITS - rest) / probes**2
    assert spread == pytest.approx(expected, rel=0.1)


def test_exact_lags_give_the_exact_credit_and_a_horizon_cuts_them_off():
    exact, _ = exact_credit(linear_in_time, timed_loss, LINEAR, BATCH)
    matrices = [
        (np.linalg.matrix_power(LINEAR["recurrent"], lag) @ LINEAR["out"]).T for lag in range(STEPS)
    ]
    for lags in (STEPS, 2):
        estimator = nmnc_jax.vnc(linear_in_time, timed_loss, readout="output", horizon=lags)
        state = estimator.init(LINEAR, BATCH)
        known = state.feedback["state"]._replace(
            mean=jnp.concatenate([jnp.asarray(m) for m in matrices[:lags]])
        )
        state = state._replace(feedback={"state": known})
        got = credit_from_state(linear_in_time, timed_loss, LINEAR, BATCH, state)["state"]
        late = STEPS - lags  # from here on, no output is beyond the horizon
        np.testing.assert_allclose(got[late:], exact["state"][late:], rtol=1e-4, atol=1e-6)
        assert late == 0 or np.abs(got[:late] - exact["state"][:late]).max() > 0.01


def test_a_network_read_at_its_end_has_a_matrix_for_each_step_before_it():
    case = CASES["scan"]()
    estimator = nmnc_jax.vnc(
        case.apply_fn, squared_error, feedback_decay=0.0, probe=Probe(num=4000, difference="jvp")
    )
    state = estimator.init(case.params, case.batch)
    _, state, _ = jax.jit(estimator.estimate)(jax.random.key(0), case.params, case.batch, state)
    jacobian = exact_jacobian(case.apply_fn, case.params, case.batch[0])["hidden"].mean(axis=0)
    by_step = jacobian.reshape(3, 4, 6)[:, ::-1].swapaxes(0, 1)
    learned = state.feedback["hidden"].coordinates.reshape(4, 3, 6)
    np.testing.assert_allclose(learned, by_step, atol=0.12)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("loss", [timed_loss, whole_loss])
def test_credit_by_the_loss_is_unbiased_through_time(loss, control_variate):
    estimator = nmnc_jax.forward_gradient(
        linear_in_time, loss, probe=Probe(num=1, difference="jvp"),
        feedback_decay=0.9 if control_variate else None,
    )  # fmt: skip
    first = estimator.init(LINEAR, BATCH)
    # Feedback that a step has learned, so that there is something to subtract.
    _, learned, _ = jax.jit(estimator.estimate)(jax.random.key(1), LINEAR, BATCH, first)
    estimator = estimator._replace(init=lambda params, batch: learned)
    found = estimates(estimator, 4000, lambda _, info: info.credit["state"])
    exact, _ = exact_credit(linear_in_time, loss, LINEAR, BATCH)
    assert np.abs(z_scores(found, exact["state"])).max() < 4.5


def test_the_loss_to_come_leaves_less_variance_than_the_whole():
    spreads = {
        loss: estimates(
            nmnc_jax.forward_gradient(linear_in_time, loss, probe=Probe(num=1, difference="jvp")),
            500,
            lambda _, info: info.credit["state"],
        ).var(axis=0)
        for loss in (timed_loss, whole_loss)
    }
    ratio = spreads[timed_loss].mean(axis=(1, 2)) / spreads[whole_loss].mean(axis=(1, 2))
    # At the first step all is to come; at the last, one step's loss of four.
    assert ratio[0] == pytest.approx(1, abs=1e-3)
    assert ratio[-1] < 0.8


def equations(jaxpr):
    """Number of equations of a program, inner ones counted."""
    inner = [j for eqn in jaxpr.eqns for j in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns"))
        if hasattr(j, "jaxpr") or hasattr(j, "eqns")]  # fmt: skip
    return len(jaxpr.eqns) + sum(equations(getattr(j, "jaxpr", j)) for j in inner)


READOUTS = {
    "next": lambda f: nmnc_jax.nmnc(f, squared_error, rank=2, basis_update_every=2),
    "output": lambda f: nmnc_jax.nmnc(
        f, squared_error, rank=2, basis_update_every=2, readout="output", horizon=3, causal=True
    ),
    "loss": lambda f: nmnc_jax.node_perturbation(f, squared_error, rank=2, causal=True),
    "backprop": lambda f: nmnc_jax.backprop(f, squared_error),
}


@pytest.mark.parametrize("name", READOUTS)
def test_the_program_does_not_grow_with_time(name):
    sizes = set()
    for steps in (50, 500):
        case = sequence_case(LeakyRNN(6, 3), steps=steps)
        estimator = READOUTS[name](case.apply_fn)
        state = jax.eval_shape(estimator.init, case.params, case.batch)
        traced = jax.make_jaxpr(estimator.estimate)(
            jax.random.key(0), case.params, case.batch, state
        )
        sizes.add(equations(traced.jaxpr))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["next", "output"])
def test_ten_steps_compile_once(name):
    case = CASES["leaky"]()
    estimator = READOUTS[name](case.apply_fn)
    state = estimator.init(case.params, case.batch)
    chex.clear_trace_counter()
    estimate = jax.jit(chex.assert_max_traces(estimator.estimate, n=1))
    for step in range(10):
        gradients, state, _ = estimate(jax.random.key(step), case.params, case.batch, state)
    chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize(("name", "size"), [("leaky", 6 + 3), ("gated", 3 * 6 + 3)])
def test_marked_scans_are_chained_by_default_and_others_read_the_outputs(name, size):
    """The feedback's rows: units of the stage, or outputs at every lag."""
    case = CASES[name]()
    state = nmnc_jax.nmnc(case.apply_fn, squared_error, rank=2).init(case.params, case.batch)
    assert state.feedback[MODELS[name]].mean.shape == (size, 2)
    state = nmnc_jax.nmnc(linear_in_time, timed_loss, rank=2).init(LINEAR, BATCH)
    assert state.feedback["state"].mean.shape == (STEPS * OUTPUTS, 2)
    case = CASES["dense"]()  # marked, but without time
    state = nmnc_jax.nmnc(case.apply_fn, squared_error, rank=2).init(case.params, case.batch)
    assert {name: f.mean.shape for name, f in state.feedback.items()} == {
        "dense0": (3, 2),
        "dense1": (3, 2),
    }


def test_the_manifold_is_fitted_over_examples_and_time():
    case = CASES["leaky"]()
    state = nmnc_jax.nmnc(case.apply_fn, squared_error, rank=6).init(case.params, case.batch)
    _, activations = nmnc_jax.run(case.apply_fn, case.params, case.batch[0])
    rows = np.asarray(activations["rate"], np.float64).reshape(-1, 6)
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True) * len(rows))[::-1]
    np.testing.assert_allclose(state.subspace["rate"].scatter, values, rtol=1e-3)


@pytest.mark.parametrize("name", ["next", "output"])
def test_eight_devices_equal_one(name):
    case = sequence_case(LeakyRNN(6, 3), batch=8)
    estimator = READOUTS[name](case.apply_fn)
    assert error_on_eight_devices(estimator, case) < 1e-5


def test_bad_requests_are_refused():
    case = CASES["leaky"]()
    with pytest.raises(ValueError, match="horizon is 3; readout 'next' takes None"):
        nmnc_jax.nmnc(case.apply_fn, squared_error, rank=2, readout="next", horizon=3)
    with pytest.raises(ValueError, match="horizon is 0"):
        nmnc_jax.vnc(case.apply_fn, squared_error, horizon=0)
    with pytest.raises(ValueError, match=r"probe\.rows is 3; readout 'loss' takes None"):
        nmnc_jax.node_perturbation(case.apply_fn, squared_error, probe=Probe(rows=3))
    few = nmnc_jax.vnc(case.apply_fn, squared_error, probe=Probe(rows=5))
    state = few.init(case.params, case.batch)
    with pytest.raises(ValueError, match="rows is 5; it takes at most 4, the examples"):
        few.estimate(jax.random.key(0), case.params, case.batch, state)
    estimator = nmnc_jax.vnc(case.apply_fn, lambda y, t: ((y - t) ** 2).sum((-1, -2)).mean())
    state = nmnc_jax.vnc(case.apply_fn, squared_error).init(case.params, case.batch)
    with pytest.raises(ValueError, match=r"or one for each time step, \(4, 7\): not reduced"):
        estimator.estimate(jax.random.key(0), case.params, case.batch, state)


def test_gru_is_that_of_flax():
    import flax.linen as nn

    model, inputs = GRU(6, 3), jax.random.normal(jax.random.key(0), (2, 5, 4))
    params = model.init(jax.random.key(1), inputs)
    own = params["params"]
    parts = {name: jnp.split(own[name], 3, axis=-1) for name in ("input", "recurrent", "bias")}
    theirs = {"hn": {"kernel": parts["recurrent"][2], "bias": jnp.zeros(6)}}
    for place, gate in enumerate("rzn"):
        theirs[f"i{gate}"] = {"kernel": parts["input"][place], "bias": parts["bias"][place]}
        if gate != "n":
            theirs[f"h{gate}"] = {"kernel": parts["recurrent"][place]}
    state, outputs = jnp.zeros((2, 6)), []
    for step in range(5):
        state, seen = nn.GRUCell(6).apply({"params": theirs}, state, inputs[:, step])
        outputs.append(seen @ own["output"] + own["output_bias"][None])
    expected = jnp.stack(outputs, axis=1)
    np.testing.assert_allclose(model.apply(params, inputs), expected, rtol=1e-4, atol=1e-6)


def test_leaky_noise_has_its_size_and_differs_between_examples_and_steps():
    model = LeakyRNN(50, 1, noise=0.3, gain=0.0, rate="relu")
    inputs = jnp.zeros((40, 200, 1)), jnp.arange(40)
    params = model.init(jax.random.key(0), inputs)
    _, activations = nmnc_jax.run(model.apply, params, inputs)
    rates = np.asarray(activations["rate"])[50:]
    assert (rates >= 0).all()
    # Half of a Gaussian: its mean square is half the variance.
    assert (rates**2).mean() == pytest.approx(0.3**2 / 2, rel=0.05)
    flat = rates.transpose(1, 0, 2).reshape(40, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(40)).max() < 0.15
    again = model.apply(params, inputs)
    np.testing.assert_array_equal(model.apply(params, inputs), again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": "sign"}, "rate is 'sign'"),
        ({"leak": 0.0}, "leak is 0.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": 0.1}, r"noise is 0.1; it takes a pair \(inputs, seeds\)"),
    ],
)
def test_bad_networks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LeakyRNN(4, 1, **fields).init(jax.random.key(0), jnp.zeros((1, 3, 2)))
