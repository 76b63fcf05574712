"""Every method on every awkward model: unbiased, exact, or refused by name."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nmnc_jax
from nmnc_jax import Probe, check_model, learned_feedback, noise_correlation
from nmnc_jax.diagnostics import exact_gradient
from tests.zoo import STEPS, ZOO, contrastive

REPLICATES = 400
JVP = Probe(num=4, kind="gaussian", difference="jvp")


def by_readout(readout, decay=0.0, **settings):
    def make(model, loss):
        return noise_correlation(
            model,
            loss,
            subspace=nmnc_jax.isotropic(),
            readout=readout,
            probe=JVP,
            feedback=None if decay is None else learned_feedback(decay),
            **settings,
        )

    return make


METHODS = {
    "backprop": nmnc_jax.backprop,
    "loss": by_readout("loss", None),
    "control variate": by_readout("loss", 0.9),
    "output": by_readout("output"),
    "next": by_readout("next"),
    "default": by_readout(None),
}
ALL = ("loss", "control variate", "output", "next", "default", "backprop")
REFUSED = {
    "forgotten": (ALL, r"tap 'h' has no effect on the outputs"),
    "time first": (ALL[:-1], r"tap 'h' has shape .* its examples are along axis 1"),
    "scan": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "reversed scan": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "scan from the end": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "both ways": (("next",), r"tap 'back' feeds later time steps unmarked"),
    "encode then emit": (("next",), r"tap 'emitted' feeds later time steps unmarked"),
    "forecast": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "nested": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "nested with the outer time": (("next",), r"tap 'h' feeds later time steps unmarked"),
    "causal positions": (("next",), r"tap '\w+' has time_axes=1; readout 'next' takes none"),
    "positions": (("next",), r"tap '\w+' has time_axes=1; readout 'next' takes none"),
    "stacked layers": (("next", "default"), r"tap 'h' feeds a stage in a scan over the parameter"),
    "around a scan": (("next",), r"tap 'before' feeds 'inside' across the boundary of a scan"),
}
LEARNED = ("output", "next", "default")
WARNED = {"batch norm": LEARNED, "gated": LEARNED, "rooted": LEARNED}


def bias_of(estimator, state, case, loss, alone, replicates=REPLICATES, seed=0):
    """Squared distance of the mean gradient to the exact one, over what chance gives."""
    # A feedback averages over examples: with one of them nothing is lost by it.
    batch = tuple(part[:1] for part in case.batch) if alone else case.batch

    def one(key):
        return ravel_pytree(estimator.estimate(key, case.params, batch, state)[0])[0]

    @jax.jit
    def both(keys):
        exact = exact_gradient(case.apply_fn, loss, case.params, batch)
        return jax.lax.map(one, keys), ravel_pytree(exact)[0]

    found, exact = both(jax.random.split(jax.random.key(seed), replicates))
    found = np.asarray(found, np.float64)
    error = ((found.mean(0) - exact) ** 2).sum()
    chance = found.var(0, ddof=1).sum() / replicates
    return error / (chance + 1e-9 * (exact**2).sum())


@pytest.mark.sampled(9)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ZOO)
def test_unbiased_or_refused_by_name(name, method):
    case, loss = ZOO[name]
    methods, message = REFUSED.get(name, ((), ""))
    if method in methods:
        with pytest.raises(ValueError, match=message):
            METHODS[method](case.apply_fn, loss).init(case.params, case.batch)
        return
    if method in WARNED.get(name, ()):
        with pytest.warns(UserWarning, match=r"noise at tap 'h' .*use_running_average=True"):
            METHODS[method](case.apply_fn, loss).init(case.params, case.batch)
        return
    alone = method in ("output", "next", "default") and loss is not contrastive
    estimator = METHODS[method](case.apply_fn, loss)
    state = estimator.init(case.params, case.batch)
    # The mean of as many squares as there are directions: 4 standard errors at the least of them.
    assert bias_of(estimator, state, case, loss, alone) < 1 + 4 * np.sqrt(2 / 3)


def test_time_is_what_was_tried_and_not_what_shapes_suggest():
    aligned = {
        name: {tap.name: tap.aligned for tap in report_of(name).taps}
        for name in (
            *("scan", "reversed scan", "both ways", "forecast", "nested", "skip"),
            *("causal positions", "positions", "nested with the outer time"),
        )
    }
    assert aligned == {
        "scan": {"h": True},
        "reversed scan": {"h": False},
        "both ways": {"there": False, "back": False} | {"there": True},
        "forecast": {"h": False},
        "nested": {"h": True},
        "skip": {"h1": None, "h2": None},
        "causal positions": {"h": True, "mixed": True},
        "positions": {"h": False, "mixed": False},
        "nested with the outer time": {"h": False},
    }


def report_of(name, **settings):
    case, loss = ZOO[name]
    return check_model(case.apply_fn, loss, case.params, case.batch, **settings)


def test_coupled_examples_are_found_in_the_response_of_the_readout():
    assert not report_of("in-batch loss").coupled
    assert report_of("in-batch loss", readout="loss").coupled
    assert report_of("batch norm", readout="loss").coupled
    assert not report_of("frozen norm", readout="loss").coupled
    # Hidden behind a head of zeros, it is found all the same.
    case, loss = ZOO["batch norm"]
    zeros = {**case.params, "out": jnp.zeros((4, 2))}
    assert check_model(case.apply_fn, loss, zeros, case.batch, readout="loss").coupled


@pytest.mark.parametrize("name", ["batch norm", "gated", "rooted"])
def test_coupling_is_found_whatever_the_parameters_and_in_a_batch_of_one(name):
    case, loss = ZOO[name]
    for examples in (1, 2, 4):
        batch = tuple(part[:examples] for part in case.batch)
        assert check_model(case.apply_fn, loss, case.params, batch, readout="loss").coupled


def test_the_report_prints_as_a_table():
    lines = str(report_of("skip", readout="next")).splitlines()
    assert lines[0].startswith("readout next, coupling of examples 0")
    assert lines[1].split()[:4] == ["tap", "units", "steps", "feeds"]
    assert "linear:1, h2" in lines[2]


def test_a_traced_init_asks_whether_outputs_follow_time():
    case, loss = ZOO["scan"]
    estimator = METHODS["output"](case.apply_fn, loss)
    with pytest.raises(ValueError, match=r"causal is None for tap 'h'.*causal=True or causal=Fal"):
        jax.jit(estimator.init)(case.params, case.batch)
    known = nmnc_jax.vnc(case.apply_fn, loss, causal={"h": True}, readout="output")
    state = jax.jit(known.init)(case.params, case.batch)
    assert state.layout["h"].aligned
    assert state.feedback["h"].mean.shape == (2 * STEPS, 4)
    case, loss = ZOO["reversed scan"]
    wrong = nmnc_jax.vnc(case.apply_fn, loss, causal=True, readout="output")
    with pytest.raises(ValueError, match=r"causal is True for tap 'h', but noise at a time step"):
        wrong.init(case.params, case.batch)


def test_what_does_not_fit_into_memory_is_refused_with_its_bytes():
    def wide(params, x, tap):
        return tap("wide", jnp.tile(x, (1, 10**5)) * params).sum(1, keepdims=True) + tap(
            "other", jnp.tile(x, (1, 10**5)) * params
        )

    batch = jnp.ones((2, 10)), jnp.zeros((2, 10**6))
    estimator = nmnc_jax.feedback_alignment(wide, lambda y, t: y.mean(-1), check=False)
    with pytest.raises(ValueError, match=r"feedback 8 TB, most of it at tap '\w+' with 1000000 un"):
        estimator.init(jnp.ones((1, 10**6)), batch)


def test_warnings_are_for_coupled_models_alone():
    case, loss = ZOO["frozen norm"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nmnc_jax.nmnc(case.apply_fn, loss, rank=2).init(case.params, case.batch)
