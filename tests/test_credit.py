"""Exact credit gives backpropagation's gradients, for every kind of network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import gradients_from_credit
from nmnc_jax.credit import losses_and_error
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from tests.cases import CASES, linear_case, relative_error, squared_error


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", CASES)
def test_exact_credit_gives_the_exact_gradient(name):
    case = CASES[name]()
    credit, error = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    got = gradients_from_credit(
        case.apply_fn, case.params, case.batch[0], credit=credit, output_error=error
    )
    exact = exact_gradient(case.apply_fn, squared_error, case.params, case.batch)
    assert jax.tree.structure(got) == jax.tree.structure(exact)
    assert relative_error(got, exact) < 1e-5


def test_credit_of_each_stage_is_its_own():
    """Changing the credit at one tap changes the gradient of the stage before it alone."""
    case = linear_case()
    credit, error = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    changed = {**credit, "second": credit["second"] + 1}
    first, second = (
        gradients_from_credit(
            case.apply_fn, case.params, case.batch[0], credit=c, output_error=error
        )
        for c in (credit, changed)
    )
    same = {name: bool((first[name] == second[name]).all()) for name in first}
    assert same == {"in": True, "middle": False, "out": True}


def test_error_is_that_of_the_batch_mean():
    outputs, targets = jnp.ones((4, 3)), jnp.zeros((4, 3))
    losses, error = losses_and_error(squared_error, outputs, targets)
    np.testing.assert_allclose(losses, np.full(4, 3.0))
    np.testing.assert_allclose(error, np.full((4, 3), 2 / 4))


@pytest.mark.parametrize("loss_fn", [lambda y, t: ((y - t) ** 2).mean(), lambda y, t: (y - t) ** 2])
def test_reduced_or_unreduced_losses_are_refused(loss_fn):
    with pytest.raises(ValueError, match=r"loss_fn returned shape .*one loss per example, \(4,\)"):
        losses_and_error(loss_fn, jnp.ones((4, 3)), jnp.zeros((4, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, e: ({"first": c["first"]}, e),
            r"credit has taps \['first'\]; it takes \['first'",
        ),
        (lambda c, e: ({**c, "third": c["first"]}, e), r"credit has taps .*'third'"),
        (
            lambda c, e: ({**c, "first": c["first"][:2]}, e),
            r"credit\['first'\] has shape \(2, 6\); it takes \(4, 6\)",
        ),
        (lambda c, e: (c, e[:, :1]), r"output_error has shape \(4, 1\); it takes \(4, 3\)"),
    ],
)
def test_bad_credit_is_refused(change, message):
    case = linear_case()
    credit, error = exact_credit(case.apply_fn, squared_error, case.params, case.batch)
    credit, error = change(credit, error)
    with pytest.raises(ValueError, match=message):
        gradients_from_credit(
            case.apply_fn, case.params, case.batch[0], credit=credit, output_error=error
        )
