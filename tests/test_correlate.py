"""Chunks and loops change nothing but memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import Probe, vnc
from nmnc_jax.correlate import mean_over_probes
from tests.cases import CASES, linear_case, squared_error


@pytest.mark.parametrize(("num", "chunk"), [(1, 1), (6, 1), (6, 2), (6, 6)])
def test_mean_over_probes_is_the_mean(num, chunk):
    draws = jnp.arange(float(num * 2)).reshape(num, 2)
    mean = mean_over_probes(lambda row: {"square": row**2}, lambda row: row, draws, num, chunk)
    np.testing.assert_allclose(mean["square"], (draws**2).mean(0))


@pytest.mark.sampled(9)
@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "orthogonal"])
@pytest.mark.parametrize("difference", ["central", "forward", "jvp"])
def test_chunk_size_changes_rounding_only(kind, difference):
    case = CASES["residual"]()
    gradients = []
    for chunk in (1, 3, 6):
        probe = Probe(num=6, kind=kind, difference=difference, sigma=1e-2, chunk=chunk)
        estimator = vnc(case.apply_fn, squared_error, probe=probe)
        state = estimator.init(case.params, case.batch)
        gradients.append(
            jax.jit(estimator.estimate)(jax.random.key(0), case.params, case.batch, state)[0]
        )
    tolerance = 1e-5 if difference == "jvp" else 1e-3
    for other in gradients[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
            other,
            gradients[0],
        )


def test_memory_is_flat_in_the_number_of_probes():
    """XLA's own count of temporary memory, for a chunk of one."""
    case = linear_case(batch=64, units=256)

    def temporary_bytes(num):
        probe = Probe(num=num, difference="jvp", chunk=1)
        estimator = vnc(case.apply_fn, squared_error, probe=probe)
        state = estimator.init(case.params, case.batch)
        lowered = jax.jit(estimator.estimate).lower(
            jax.random.key(0), case.params, case.batch, state
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(512) < 1.2 * temporary_bytes(8)


def test_taps_and_steps_get_different_noise():
    """Two taps of one shape, probed with one key, do not share coordinates; nor do two keys."""
    jacobian = jax.random.normal(jax.random.key(1), (6, 3))

    def network(params, inputs, tap):
        return tap("a", inputs) @ params + tap("b", inputs) @ params

    estimator = vnc(network, squared_error, probe=Probe(num=1, difference="jvp"))
    batch = jnp.ones((1, 6)), jnp.zeros((1, 3))
    state = estimator.init(jacobian, batch)
    feedback = []
    for step in range(2):
        key = jax.random.fold_in(jax.random.key(0), step)
        _, after, _ = estimator.estimate(key, jacobian, batch, state)
        feedback += [after.feedback[name].coordinates.reshape(-1) for name in ("a", "b")]
    cosines = np.corrcoef(np.stack(feedback))
    assert np.abs(cosines - np.eye(4)).max() < 0.99


@pytest.mark.parametrize("num", [1, 2])
def test_examples_get_different_noise(num):
    """Equal examples get unequal credit from the loss readout."""
    from nmnc_jax import node_perturbation

    case = linear_case(batch=4)
    batch = jnp.ones((4, 5)), jnp.zeros((4, 3))
    estimator = node_perturbation(case.apply_fn, squared_error, probe=Probe(num=num))
    state = estimator.init(case.params, batch)
    credit = estimator.estimate(jax.random.key(0), case.params, batch, state)[2].credit["first"]
    assert np.linalg.matrix_rank(credit) == 4
