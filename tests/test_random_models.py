"""Every method on random models, in one law: unbiased, or refused by name.

``--hypothesis-profile=thorough`` tries 5,000 models instead of 200.
"""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given

from tests.random_models import build, programs
from tests.test_zoo import METHODS, bias_of, by_readout

# Feedback by lag averages over time steps, which is exact for linear models alone.
RANDOM = METHODS | {
    "output": by_readout("output", causal=False),
    "default": by_readout(None, causal=False),
}
LIMIT = 1 + 4 * np.sqrt(2 / 3)
CONFIRM = 10_000
"""Replicates that tell a bias from one of many random models' bad luck."""


@pytest.mark.parametrize("method", RANDOM)
@given(program=programs())
def test_unbiased_or_refused_by_name(method, program):
    case, loss = build(program)
    learns = method in ("output", "next", "default")
    if program.loss == "contrastive" and learns:
        return  # Feedback averages over the examples, of which such a loss takes more than one.
    estimator, state, refused = RANDOM[method](case.apply_fn, loss), None, None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            state = estimator.init(case.params, case.batch)
        except ValueError as error:
            refused = str(error)
    if refused is not None:
        named = re.search(r"tap '(t\d+)'", refused)
        assert named, refused
        if "no effect on the outputs" in refused:
            assert named[1] in program.forgotten
        else:
            assert method in ("next", "default"), refused
            assert program.scans or program.positions, refused
        return
    assert not program.forgotten
    assert all("use_running_average=True" in str(each.message) for each in warned)
    if warned:
        assert program.coupled
        assert learns
        return
    if bias_of(estimator, state, case, loss, learns) > LIMIT:
        assert bias_of(estimator, state, case, loss, learns, CONFIRM, seed=1) < LIMIT
