"""The laws of the estimators: means and variances against closed forms, with z-scores.

Each law is tested by many independent replicates: the closed form must be within four standard
errors of the replicates' mean.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import (
    Probe,
    fixed_subspace,
    isotropic,
    learned_feedback,
    node_perturbation,
    noise_correlation,
    weight_forward_gradient,
    weight_perturbation,
)
from nmnc_jax.diagnostics import exact_gradient, exact_jacobian, jacobian_share
from nmnc_jax.subspace import lift, project
from tests.cases import linear_case, linear_loss

REPLICATES = 1500
TAP = "first"


def basis_of(units, dimension, seed=0):
    return jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (units, dimension)))[0]


def many(function, seed=0):
    """Applies a function to many keys, one by one (a vmapped scan over keys upsets key checks)."""
    keys = jax.random.split(jax.random.key(seed), REPLICATES)
    return jax.jit(lambda keys: jax.lax.map(function, keys))(keys)


def replicate(case, subspace, probe, seed=0):
    """Feedback coordinates of one step without memory, for many keys: tap -> [R, o, d]."""
    estimator = noise_correlation(
        case.apply_fn,
        linear_loss,
        subspace=subspace,
        readout="output",
        probe=probe,
        feedback=learned_feedback(0.0),
    )
    state = estimator.init(case.params, case.batch)

    def coordinates(key):
        _, after, _ = estimator.estimate(key, case.params, case.batch, state)
        return {name: feedback.coordinates for name, feedback in after.feedback.items()}

    return many(coordinates, seed)


def z_score(samples, expected):
    """Distance of the samples' mean from its expectation, in standard errors (and rounding)."""
    samples, expected = np.asarray(samples, np.float64), float(expected)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    return (samples.mean() - expected) / (error + 1e-5 * abs(expected))


def jacobian_of(case):
    return exact_jacobian(case.apply_fn, case.params, case.batch[0])[TAP][0]


def check_mean_and_variance(estimates, mean, variance):
    """Checks E|J_hat - mean|^2, and the mean itself by the same measure."""
    squares = ((estimates - mean[None]) ** 2).sum((1, 2))
    assert abs(z_score(squares, variance)) < 4
    # |average - mean|^2 has expectation variance / R; a bias would add its own square.
    bias = ((estimates.mean(0) - mean) ** 2).sum() / (variance / REPLICATES)
    assert bias < 1 + 4 * np.sqrt(2 / 3)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("probes", "batch"), [(1, 4), (3, 2), (5, 1)])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dimension", [None, 2])
def test_variance_of_independent_probes(kind, dimension, probes, batch):
    case = linear_case(batch)
    jacobian = jacobian_of(case)
    basis = None if dimension is None else basis_of(6, dimension)
    subspace = isotropic()
    if basis is not None:
        subspace = fixed_subspace({TAP: basis, "second": basis_of(7, dimension)})
    estimates = replicate(case, subspace, Probe(num=probes, kind=kind, difference="jvp"))[TAP]
    mean = project(basis, jacobian)
    excess = {"gaussian": 1, "rademacher": -1}[kind]
    law = (mean.shape[1] + excess) / (probes * batch) * (mean**2).sum()
    check_mean_and_variance(estimates, mean, law)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("probes", "batch"), [(1, 1), (1, 2), (3, 1)])
def test_variance_of_orthogonal_probes(probes, batch):
    case = linear_case(batch)
    bases = {TAP: basis_of(6, 4), "second": basis_of(7, 4)}
    mean = jacobian_of(case) @ bases[TAP]
    probe = Probe(num=probes, kind="orthogonal", difference="jvp")
    estimates = replicate(case, fixed_subspace(bases), probe)[TAP]
    check_mean_and_variance(estimates, mean, (4 / (probes * batch) - 1) * (mean**2).sum())


@pytest.mark.parametrize(("probes", "batch"), [(4, 1), (1, 4), (2, 2), (4, 2)])
def test_orthogonal_probes_are_exact_at_whole_frames(probes, batch):
    case = linear_case(batch)
    bases = {TAP: basis_of(6, 4), "second": basis_of(7, 4)}
    probe = Probe(num=probes, kind="orthogonal", difference="jvp")
    estimates = replicate(case, fixed_subspace(bases), probe)[TAP]
    np.testing.assert_allclose(
        estimates, jnp.broadcast_to(jacobian_of(case) @ bases[TAP], estimates.shape), atol=1e-5
    )


def test_error_is_bias_and_variance_by_the_share_in_the_subspace():
    case = linear_case(batch=2)
    jacobian = jacobian_of(case)
    basis = basis_of(6, 3)
    bases = {TAP: basis, "second": basis_of(7, 3)}
    estimates = replicate(case, fixed_subspace(bases), Probe(num=4, difference="jvp"))[TAP]
    share = float(jacobian_share(jacobian, basis))
    errors = ((lift(basis, estimates) - jacobian[None]) ** 2).sum((1, 2))
    law = (1 - share + share * (3 + 1) / 8) * (jacobian**2).sum()
    assert 0.1 < share < 0.9
    assert abs(z_score(errors, law)) < 4


def test_full_rank_basis_has_the_isotropic_law():
    case = linear_case(batch=2)
    jacobian = jacobian_of(case)
    bases = {TAP: basis_of(6, 6), "second": basis_of(7, 7)}
    estimates = replicate(case, fixed_subspace(bases), Probe(num=2, difference="jvp"))[TAP]
    rotated_back = lift(bases[TAP], estimates)
    check_mean_and_variance(rotated_back, jacobian, (6 + 1) / 4 * (jacobian**2).sum())


def test_rotated_basis_changes_no_expectation():
    case = linear_case(batch=2)
    basis, turn = basis_of(6, 3), basis_of(3, 3, seed=5)
    for bases in (basis, basis @ turn):
        subspace = fixed_subspace({TAP: bases, "second": basis_of(7, 3)})
        estimates = replicate(case, subspace, Probe(num=2, difference="jvp"))[TAP]
        mean = jacobian_of(case) @ basis @ basis.T
        check_mean_and_variance(lift(bases, estimates), mean, (3 + 1) / 4 * (mean**2).sum())


def test_taps_perturbed_together_add_each_others_variance():
    case = linear_case(batch=2)
    probe = Probe(num=2, difference="jvp", scope="all_taps")
    estimates = replicate(case, isotropic(), probe)[TAP]
    jacobians = exact_jacobian(case.apply_fn, case.params, case.batch[0])
    squares = {name: float((value[0] ** 2).sum()) for name, value in jacobians.items()}
    first = case.batch[0] @ case.params["in"]
    second = first @ case.params["middle"]
    ratio = float((second**2).mean() / (first**2).mean())
    law = ((6 + 1) * squares["first"] + 6 * ratio * squares["second"]) / 4
    check_mean_and_variance(estimates, jacobians[TAP][0], law)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "orthogonal"])
def test_loss_readout_has_the_law_of_each_examples_own_gradient(kind):
    case = linear_case(batch=3)
    probe = Probe(num=2, kind=kind, difference="jvp")
    estimator = node_perturbation(case.apply_fn, linear_loss, probe=probe)
    state = estimator.init(case.params, case.batch)
    credit = many(lambda k: estimator.estimate(k, case.params, case.batch, state)[2].credit[TAP])
    exact = case.batch[1] @ jacobian_of(case)
    factor = {"gaussian": (6 + 1) / 2, "rademacher": (6 - 1) / 2, "orthogonal": 6 / 2 - 1}[kind]
    for example in range(3):
        estimates = 3 * credit[:, example][:, None]
        mean = exact[example][None]
        check_mean_and_variance(estimates, mean, factor * (mean**2).sum())


@pytest.mark.parametrize("dimension", [None, 3])
def test_control_variate_leaves_the_law_of_what_the_feedback_does_not_know(dimension):
    case = linear_case(batch=3)
    jacobian = jacobian_of(case)
    basis = None if dimension is None else basis_of(6, dimension)
    subspace = isotropic()
    if basis is not None:
        subspace = fixed_subspace({TAP: basis, "second": basis_of(7, dimension)})
    estimator = noise_correlation(
        case.apply_fn,
        linear_loss,
        subspace=subspace,
        readout="loss",
        probe=Probe(num=2, difference="jvp"),
        feedback=learned_feedback(0.5),
    )
    state = estimator.init(case.params, case.batch)
    exact = case.batch[1] @ project(basis, jacobian)
    known = 0.9 * project(basis, jacobian) + 0.1
    learned = state.feedback[TAP]
    ones = learned._replace(mean=known, weight=jnp.ones_like(learned.weight))
    state = state._replace(feedback={**state.feedback, TAP: ones})
    credit = many(lambda k: estimator.estimate(k, case.params, case.batch, state)[2].credit[TAP])
    unknown = exact - case.batch[1] @ known
    for example in range(3):
        estimates = 3 * project(basis, credit[:, example])[:, None]
        law = (exact.shape[1] + 1) / 2 * (unknown[example] ** 2).sum()
        check_mean_and_variance(estimates, exact[example][None], law)
    _, after, _ = jax.jit(estimator.estimate)(jax.random.key(0), case.params, case.batch, state)
    np.testing.assert_allclose(after.feedback[TAP].weight, 1.0)
    assert bool((after.feedback[TAP].mean != known).any())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("trainable", [None, {"in": False, "middle": True, "out": True}])
@pytest.mark.parametrize(
    ("kind", "difference"),
    [("gaussian", "central"), ("rademacher", "central"), ("rademacher", "forward"),
     ("gaussian", "jvp")],
)  # fmt: skip
def test_weight_space_has_its_law(kind, difference, trainable):
    case = linear_case(batch=3)
    settings = {"num": 4, "kind": kind, "trainable": trainable}
    if difference == "jvp":
        estimator = weight_forward_gradient(case.apply_fn, linear_loss, **settings)
    else:
        # One-sided differences have an error of the order of sigma, above that of rounding.
        sigma = 1e-3 if difference == "forward" else 1e-2
        estimator = weight_perturbation(
            case.apply_fn, linear_loss, sigma=sigma, difference=difference, **settings
        )
    gradients = many(lambda k: estimator.estimate(k, case.params, case.batch, ())[0])
    exact = exact_gradient(case.apply_fn, linear_loss, case.params, case.batch)
    if trainable is not None:
        assert not gradients.pop("in").any()
        exact.pop("in")
    flat = jnp.concatenate([g.reshape(REPLICATES, -1) for g in jax.tree.leaves(gradients)], 1)
    mean = jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(exact)])
    more = -1 if kind == "rademacher" else 1
    law = (len(mean) + more) / 4 * float((mean**2).sum())
    squares = ((flat - mean[None]) ** 2).sum(1)
    # The third derivative of a three-layer product biases by sigma^2 only.
    assert abs(z_score(squares, law)) < 4
    assert float(((flat.mean(0) - mean) ** 2).sum()) < 1.5 * law / REPLICATES


def test_weight_perturbation_keeps_no_noise():
    """Temporaries of a step: one perturbed copy, the sum of the estimates, and little besides."""
    wide = {f"w{n}": jnp.ones((128, 128)) for n in range(16)}
    size = sum(leaf.nbytes for leaf in wide.values())

    def network(p, x, tap):
        for name in wide:
            x = tap(name, jnp.sin(x @ p[name]))
        return x

    batch = jnp.ones((2, 128)), jnp.ones((2, 128))
    used = {}
    for num in (2, 16):
        estimator = weight_perturbation(network, linear_loss, num=num)
        lowered = jax.jit(estimator.estimate).lower(jax.random.key(0), wide, batch, ())
        used[num] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used[16] < 1.01 * used[2] + 4096
    assert used[16] < 2.5 * size


def test_a_mask_that_does_not_fit_is_refused():
    case = linear_case()
    for trainable, message in (
        ({"in": True}, "trainable is PyTreeDef.* it takes a prefix of the parameters' tree"),
        (lambda params: jax.tree.map(lambda _: False, params), "trainable chooses no parameter"),
    ):
        estimator = weight_perturbation(case.apply_fn, linear_loss, trainable=trainable)
        with pytest.raises(ValueError, match=message):
            estimator.init(case.params, case.batch)


@pytest.mark.parametrize(("share", "manifold_wins"), [(0.6, True), (0.1, False)])
def test_manifold_aligns_better_when_its_share_exceeds_d_over_n(share, manifold_wins):
    """With d/n = .25 at the tap, the crossover is between these shares."""
    units, dimension = 32, 8
    basis = basis_of(units, dimension)
    random = jax.random.normal(jax.random.key(3), (3, units))
    inside = random @ basis @ basis.T
    outside = random - inside
    jacobian = jnp.sqrt(share) * inside / jnp.linalg.norm(inside) + jnp.sqrt(
        1 - share
    ) * outside / jnp.linalg.norm(outside)
    case = linear_case(batch=2)._replace(
        apply_fn=lambda params, inputs, tap: tap(TAP, inputs) @ params["out"],
        params={"out": jacobian.T},
        batch=(jax.random.normal(jax.random.key(1), (2, units)), jnp.ones((2, 3))),
    )
    cosines = {}
    for name, subspace in (("all", None), ("manifold", basis)):
        chosen = isotropic() if subspace is None else fixed_subspace({TAP: subspace})
        rows = lift(subspace, replicate(case, chosen, Probe(num=2, difference="jvp"))[TAP])
        norms = jnp.sqrt((rows**2).sum((1, 2)))
        cosines[name] = (rows * jacobian[None]).sum((1, 2)) / norms
    assert abs(float(jacobian_share(jacobian, basis)) - share) < 1e-4
    z = z_score(cosines["manifold"] - cosines["all"], 0.0)
    assert z > 4 if manifold_wins else z < -4


def test_averaging_over_steps_multiplies_the_effective_probes():
    """With decay m the feedback's variance falls by (1 - m) / (1 + m) in the long run."""
    case = linear_case(batch=2)
    decay = 0.5
    estimator = noise_correlation(
        case.apply_fn,
        linear_loss,
        subspace=isotropic(),
        readout="output",
        probe=Probe(num=1, difference="jvp"),
        feedback=learned_feedback(decay),
    )
    state = estimator.init(case.params, case.batch)

    def after_many(key):
        def step(state, key):
            return estimator.estimate(key, case.params, case.batch, state)[1], None

        return jax.lax.scan(step, state, jax.random.split(key, 20))[0].feedback[TAP].coordinates

    jacobian = jacobian_of(case)
    law = (6 + 1) / 2 * (jacobian**2).sum() * (1 - decay) / (1 + decay)
    check_mean_and_variance(many(after_many), jacobian, law)
