"""Every optimiser and wrapper of the installed Optax takes every estimator's gradients."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from nmnc_jax import Probe, isotropic, learned_feedback, nmnc, no_tap, noise_correlation
from nmnc_jax.diagnostics import exact_gradient
from tests.cases import ESTIMATORS, linear_case, linear_loss, relative_error

adam = optax.adam(0.1)
LABELS = {"in": "body", "middle": "body", "out": "head"}
HEAD = {"in": False, "middle": False, "out": True}

# What a factory takes besides a learning rate, and what an update takes besides gradients.
ARGUMENTS = {
    "adaptive_grad_clip": {"clipping": 0.1},
    "add_noise": {"eta": 0.1, "gamma": 0.5, "key": jax.random.key(0)},
    "apply_if_finite": {"inner": adam, "max_consecutive_errors": 2},
    "clip": {"max_delta": 0.1},
    "clip_by_block_rms": {"threshold": 0.1},
    "clip_by_global_norm": {"max_norm": 0.1},
    "conditionally_mask": {"inner": adam, "should_transform_fn": lambda step: step > 0},
    "conditionally_transform": {"inner": adam, "should_transform_fn": lambda step: step > 0},
    "ema": {"decay": 0.9},
    "flatten": {"inner": adam},
    "freeze": {"mask": HEAD},
    "galore": {"rank": 2},
    "inject_hyperparams": {"inner_factory": optax.adamw},
    "masked": {"inner": adam, "mask": HEAD},
    "mechanize": {"base_optimizer": adam},
    "monitor": {"measures": {"norm": optax.tree.norm}},
    "multi_transform": {"transforms": {"body": adam, "head": adam}, "param_labels": LABELS},
    "noisy_sgd": {"key": jax.random.key(0)},
    "partition": {"transforms": {"body": adam, "head": adam}, "param_labels": LABELS},
    "sam": {"optimizer": adam, "adv_optimizer": optax.sgd(0.05)},
    "scale": {"step_size": -0.1},
    "scale_by_backtracking_linesearch": {"max_backtracking_steps": 5},
    "scale_by_galore": {"rank": 2},
    "scale_by_schedule": {"step_size_fn": optax.cosine_decay_schedule(-0.1, 10)},
    "scale_by_zoom_linesearch": {"max_linesearch_steps": 5},
    "schedule_free": {"base_optimizer": adam, "learning_rate": 0.1},
    "selective_transform": {"optimizer": adam, "freeze_mask": HEAD},
    "snapshot": {"measure_name": "norm", "measure": optax.tree.norm},
    "split_real_and_imaginary": {"inner": adam},
    "stateless": {"f": lambda updates, params: updates},
    "stateless_with_tree_map": {"f": lambda update, param: update},
    "trace": {"decay": 0.9},
    "with_extra_args_support": {"tx": adam},
}
VARIADIC = {
    "chain": (optax.clip(0.1), adam),
    "named_chain": (("clip", optax.clip(0.1)), ("adam", adam)),
}
EXTRA = {
    "lbfgs": ("value", "grad", "value_fn"),
    "momo": ("value",),
    "momo_adam": ("value",),
    "polyak_sgd": ("value",),
    "reduce_on_plateau": ("value",),
    "scale_by_backtracking_linesearch": ("value", "grad", "value_fn"),
    "scale_by_polyak": ("value",),
    "scale_by_zoom_linesearch": ("value", "grad", "value_fn"),
    "sophia": ("obj_fn",),
}
LEFT_OUT = {
    "dpsgd": "takes each example's gradient, which no estimator forms",
    "differentially_private_aggregate": "takes each example's gradient",
    "hutchinson_estimator_diag_hessian": "differentiates the loss itself; sophia covers it",
    "inject_stateful_hyperparams": "deprecated",
    "lookahead": "takes its own pair of parameters; it has a test of its own",
    "measure_with_ema": "gives a measurement in place of updates; monitor covers it",
    "optimistic_adam": "deprecated",
    "scale_by_muon": "takes every weight's dimension numbers; muon gives them",
}


def needed(factory):
    """Names of the arguments that have no default."""
    parameters = inspect.signature(factory).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name for p in parameters if p.default is p.empty and p.kind not in variable}


def construct(name, factory):
    arguments = dict(ARGUMENTS.get(name, {}))
    if "learning_rate" in needed(factory):
        arguments.setdefault("learning_rate", 0.1)
    return factory(*VARIADIC.get(name, ()), **arguments)


def transformations():
    """Name to factory, for everything public that makes a gradient transformation."""
    found = {}
    for module in (optax, optax.contrib):
        for name, factory in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(factory):
                continue
            annotation = inspect.signature(factory).return_annotation
            makes = "GradientTransformation" in str(annotation)
            # A few factories are not annotated; they tell by what they make.
            if annotation is inspect.Signature.empty:
                if needed(factory) - {"learning_rate"} - set(ARGUMENTS.get(name, {})):
                    continue
                makes = isinstance(construct(name, factory), optax.GradientTransformation)
            if makes:
                found[name] = factory
    return found


TRANSFORMATIONS = transformations()
COVERED = sorted(set(TRANSFORMATIONS) - set(LEFT_OUT))


def make(name):
    made = construct(name, TRANSFORMATIONS[name])
    if name.startswith("inject"):
        made = made(learning_rate=optax.cosine_decay_schedule(0.1, 10), weight_decay=1e-3)
    return optax.with_extra_args_support(made)


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    chex.clear_trace_counter()
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    ):
        yield


def full_rank_case():
    """Every weight's gradient has full rank; muon amplifies the rounding of one without."""
    return linear_case(batch=16, outputs=8)


def compiled(function):
    """Compiled in a hurry: these functions run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def gradients():
    """Every estimator's gradients of one batch, and those of jax.grad."""
    case = full_rank_case()
    found = {"jax.grad": exact_gradient(case.apply_fn, linear_loss, case.params, case.batch)}
    with jax.numpy_dtype_promotion("standard"):
        for name, maker in ESTIMATORS.items():
            estimator = maker(case.apply_fn, linear_loss)

            def first(key, params, batch, estimator=estimator):
                return estimator.estimate(key, params, batch, estimator.init(params, batch))[0]

            found[name] = compiled(first)(jax.random.key(0), case.params, case.batch)
    return found


def test_what_is_left_out_exists():
    assert set(LEFT_OUT) <= set(TRANSFORMATIONS)
    assert set(ARGUMENTS) | set(VARIADIC) | set(EXTRA) <= set(TRANSFORMATIONS)
    assert len(COVERED) > 100


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", COVERED)
def test_takes_every_estimators_gradients_as_those_of_jax_grad(name, gradients):
    """One trace for all estimators; backpropagation's updates are those of jax.grad."""
    case = full_rank_case()
    transformation = make(name)

    def loss(params):
        return linear_loss(case.apply_fn(params, case.batch[0], no_tap), case.batch[1]).mean()

    @compiled
    @chex.assert_max_traces(n=1)
    def three_steps(params, gradients):
        given = {"value": loss(params), "grad": gradients, "value_fn": loss, "obj_fn": loss}
        extra = {key: given[key] for key in EXTRA.get(name, ())}
        state, kept = transformation.init(params), params
        for _ in range(3):
            updates, state = transformation.update(gradients, state, params, **extra)
            params = optax.apply_updates(params, updates)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, kept, updates)
        return params

    after = {}
    for estimator, gradient in gradients.items():
        chex.assert_trees_all_equal_shapes_and_dtypes(gradient, case.params)
        after[estimator] = three_steps(case.params, gradient)
        chex.assert_tree_all_finite(after[estimator])
    chex.assert_trees_all_close(after["backprop"], after["jax.grad"], rtol=1e-3, atol=1e-5)


def exact_nmnc(apply_fn):
    """Orthogonal frames over every direction of a linear network: no bias and no variance."""
    return noise_correlation(
        apply_fn, linear_loss, subspace=isotropic(), readout="output",
        probe=Probe(num=42, kind="orthogonal", difference="jvp"), feedback=learned_feedback(0.0),
    )  # fmt: skip


PIPELINES = {
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-2), optax.sgd(0.1)
    ),
    "injected schedule": lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6)
    ),
    "MultiSteps that skips what is not finite": lambda: optax.MultiSteps(
        adam, every_k_schedule=2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(0.1),
    "partition with one group frozen": lambda: optax.partition(
        {"body": optax.apply_if_finite(adam, 2), "head": optax.set_to_zero()}, LABELS
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_scale_is_that_of_jax_grad(name):
    """Exact credit takes any pipeline along backpropagation's own path."""
    case = linear_case()
    optimiser, estimator = PIPELINES[name](), exact_nmnc(case.apply_fn)

    def step(carry, key):
        (params, moments, memory), (other, other_moments) = carry
        gradient, memory, _ = estimator.estimate(key, params, case.batch, memory)
        updates, moments = optimiser.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        exact = exact_gradient(case.apply_fn, linear_loss, other, case.batch)
        updates, other_moments = optimiser.update(exact, other_moments, other)
        other = optax.apply_updates(other, updates)
        return ((params, moments, memory), (other, other_moments)), None

    @compiled
    def train(params):
        moments = optimiser.init(params)
        carry = (params, moments, estimator.init(params, case.batch)), (params, moments)
        (ours, theirs), _ = jax.lax.scan(step, carry, jax.random.split(jax.random.key(3), 4))
        return ours[0], theirs[0]

    ours, theirs = train(case.params)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert float(jnp.abs(ours["in"] - case.params["in"]).max()) > 1e-2


def test_microbatching_means_what_it_means_for_jax_grad():
    """The mean over microbatches of exact credit is the whole batch's gradient."""
    case = linear_case(batch=8)
    estimator = exact_nmnc(case.apply_fn)
    state = estimator.init(case.params, case.batch)

    def gradient(inputs, targets):
        found = estimator.estimate(jax.random.key(0), case.params, (inputs, targets), state)
        return found[0]

    accumulator = optax.microbatching.AccumulationType.MEAN
    mean = optax.microbatch(gradient, (0, 1), 4, accumulator)(*case.batch)
    exact = exact_gradient(case.apply_fn, linear_loss, case.params, case.batch)
    chex.assert_trees_all_close(mean, exact, rtol=1e-3, atol=1e-4)


def test_lookahead_takes_the_gradients_of_its_fast_parameters(gradients):
    case = full_rank_case()
    optimiser = optax.lookahead(adam, sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(case.params)
    state = optimiser.init(params)
    for _ in range(2):
        updates, state = optimiser.update(gradients["nmnc"], state, params)
        params = optax.apply_updates(params, updates)
    assert relative_error(params.fast, params.slow) < 1e-5
    chex.assert_trees_all_equal_shapes_and_dtypes(params.slow, case.params)


def test_a_step_that_is_not_finite_is_skipped():
    """A loss that overflows gives gradients that apply_if_finite refuses, and training goes on."""
    case = linear_case()
    estimator = nmnc(case.apply_fn, linear_loss, rank=2, update_every=1)
    optimiser = optax.apply_if_finite(optax.sgd(0.1), 3)
    state, moments = estimator.init(case.params, case.batch), optimiser.init(case.params)
    step = jax.jit(estimator.estimate)
    overflow = jax.tree.map(lambda leaf: leaf * np.float32(1e30), case.params)
    gradient, _, _ = step(jax.random.key(0), overflow, case.batch, state)
    updates, moments = optimiser.update(gradient, moments, case.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    gradient, _, _ = step(jax.random.key(1), case.params, case.batch, state)
    updates, moments = optimiser.update(gradient, moments, case.params)
    assert all(leaf.any() for leaf in jax.tree.leaves(updates))
