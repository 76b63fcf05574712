"""The shipped models keep examples apart and take the input sizes that they promise."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nmnc_jax
from nmnc_jax import gradients_from_credit, nmnc, node_perturbation, run
from nmnc_jax.diagnostics import exact_credit, exact_gradient
from nmnc_jax.layout import tap_shapes
from nmnc_jax.models import (
    MLP,
    AlexNet,
    CausalTransformer,
    ConvNet,
    ResNet,
    VisionTransformer,
    resnet18,
    resnet20,
    resnet50,
)
from nmnc_jax.taps import Tap
from tests.cases import relative_error, squared_error

DENSE = ["dense0", "dense1"]
CONV = ["conv0", "conv1", "dense"]
STREAM = ["attention0", "attention1", "embedding", "mlp0", "mlp1"]
VIT = VisionTransformer(width=16, depth=2, patch=7, outputs=10)
MODELS = {
    "mlp": (MLP((16, 8), 10), (8, 8, 1), DENSE),
    "conv 8x8": (ConvNet((8, 8), (1, 2), 16, 10), (8, 8, 1), CONV),
    "conv 28x28": (ConvNet((8, 16), (2, 2), 16, 10), (28, 28, 1), CONV),
    "conv 32x32": (ConvNet((8, 16), (2, 2), 16, 10), (32, 32, 3), CONV),
    "transformer": (VIT, (28, 28, 1), STREAM),
    "residual": (ResNet((1, 1), False, 10, 8, 4), (32, 32, 3), ["block0", "block1", "stem"]),
    "bottleneck": (ResNet((1, 1), True, 10, 8, 4), (32, 32, 3), ["block0", "block1", "stem"]),
    "convolutions": (
        ResNet((1, 1), True, 10, 8, 4, taps="convolutions"),
        (32, 32, 3),
        [*sorted(f"block{b}{c}" for b in (0, 1) for c in ("", "_conv0", "_conv1")), "stem"],
    ),
}


@pytest.fixture(autouse=True)
def _promotion_that_flax_takes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_taps(name):
    model, shape, taps = MODELS[name]
    inputs = jax.random.normal(jax.random.key(0), (4, *shape))
    params = model.init(jax.random.key(1), inputs)
    outputs, activations = run(model.apply, params, inputs)
    assert outputs.shape == (4, 10)
    assert sorted(activations) == taps
    for activation in activations.values():
        # Rectified, except for the residual stream.
        assert (float(activation.min()) == 0) == (name != "transformer")
        assert float(activation.max()) > 0


@pytest.mark.parametrize("name", MODELS)
def test_one_examples_perturbation_stays_with_it(name):
    """As batch statistics would not allow."""
    model, shape, _ = MODELS[name]
    inputs = jax.random.normal(jax.random.key(0), (4, *shape))
    params = model.init(jax.random.key(1), inputs)
    outputs, activations = run(model.apply, params, inputs)
    first = sorted(activations)[0]
    noise = jax.random.normal(jax.random.key(2), activations[first].shape)
    noise = noise * (jnp.arange(4) == 2).reshape(-1, *[1] * (noise.ndim - 1))
    noisy, _ = run(model.apply, params, inputs, noise={first: noise})
    changed = np.abs(noisy - outputs).max(1) > 1e-6
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("model", "parameters", "widest"),
    [
        (AlexNet(1000), 61_100_840, ("conv0", 55 * 55 * 64)),
        (resnet18(1000), 11_689_512, ("stem", 56 * 56 * 64)),
        (resnet50(1000), 25_557_032, ("block0", 56 * 56 * 256)),
    ],
)
def test_large_models_have_the_published_sizes(model, parameters, widest):
    """The counts are torchvision's; GroupNorm has as many parameters as BatchNorm."""
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    shapes = tap_shapes(model.apply, params, images)
    assert shapes[widest[0]].units == widest[1] == max(s.units for s in shapes.values())
    assert len(shapes) == {61_100_840: 7, 11_689_512: 9, 25_557_032: 17}[parameters]


def test_resnet20_has_the_published_layers():
    """.27 million parameters (He et al. 2016, table 6), and full resolution in its first stage."""
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    model = resnet20(10)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 272_474
    shapes = tap_shapes(model.apply, params, images)
    assert [shapes[name].shape for name in ("stem", "block2", "block5", "block8")] == [
        (2, 32, 32, 16), (2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "model", [AlexNet(3, jnp.bfloat16), ResNet((1, 1), False, 3, 8, 4, jnp.bfloat16)]
)
def test_bfloat16_computes_on_float32_parameters(model):
    images = jax.random.normal(jax.random.key(0), (2, 63, 63, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    outputs, activations = jax.jit(lambda p, x: run(model.apply, p, x))(params, images)
    assert outputs.dtype == jnp.float32
    assert {leaf.dtype for leaf in activations.values()} == {jnp.dtype("bfloat16")}
    precise = jax.jit(model.clone(dtype=jnp.float32).apply)(params, images)
    error = jnp.linalg.norm(outputs - precise) / jnp.linalg.norm(precise)
    assert 1e-5 < error < 0.05
    batch = images, jnp.ones((2, 3))
    estimator = nmnc(model.apply, squared_error, rank=2)
    state = jax.eval_shape(estimator.init, params, batch)
    gradients, _, _ = jax.eval_shape(estimator.estimate, jax.random.key(2), params, batch, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match='it takes difference="jvp"'):
        node_perturbation(model.apply, squared_error).init(params, batch)


def test_exact_credit_in_the_residual_stream_is_the_gradient():
    inputs = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    params = VIT.init(jax.random.key(1), inputs)
    batch = inputs, jnp.ones((4, 10))
    credit, error = exact_credit(VIT.apply, squared_error, params, batch)
    ours = gradients_from_credit(VIT.apply, params, inputs, credit=credit, output_error=error)
    params_of = jax.jit(lambda params: exact_gradient(VIT.apply, squared_error, params, batch))
    # The gradient of a key's bias is zero: softmax does not see what all keys share.
    ours, theirs = (
        {"/".join(k.key for k in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (ours, params_of(params))
    )
    zero = [name for name in ours if name.endswith("key/bias")]
    assert len(zero) == 2
    assert (
        relative_error(*({k: v for k, v in t.items() if k not in zero} for t in (ours, theirs)))
        < 1e-4
    )


def test_the_taps_hold_the_whole_residual_stream():
    """What comes after the last tap sees nothing else of the image."""
    images = jax.random.normal(jax.random.key(0), (2, 4, 28, 28, 1))
    params = VIT.init(jax.random.key(1), images[0])
    outputs, activations = run(VIT.apply, params, images[0])
    replayed = VIT.apply(params, images[1], Tap(replay={"mlp1": activations["mlp1"]}))
    np.testing.assert_allclose(replayed, outputs, rtol=1e-6)


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="patch is 7; it takes a divisor"):
        VIT.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))


def text():
    """The library's own source, in windows of characters."""
    source = "".join(
        path.read_text() for path in sorted(Path(nmnc_jax.__file__).parent.glob("*.py"))
    )
    letters = sorted(set(source))
    codes = np.array([letters.index(letter) for letter in source[:20_000]], np.int32)
    windows = np.stack([codes[at : at + 17] for at in range(0, len(codes) - 17, 17)])
    return windows[:, :-1], windows[:, 1:], len(letters)


LANGUAGE = {
    "backprop": {},
    "nmnc": {"rank": 8, "horizon": 4, "update_every": 2},
    "forward_gradient": {},
    "weight_perturbation": {"num": 4},
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_learns_characters(name):
    inputs, targets, letters = text()
    model = CausalTransformer(letters, width=16, depth=1, positions=16)
    params = model.init(jax.random.key(0), inputs[:1])
    loss_fn = optax.softmax_cross_entropy_with_integer_labels
    estimator = getattr(nmnc_jax, name)(model.apply, loss_fn, **LANGUAGE[name])
    state = estimator.init(params, (inputs[:64], targets[:64]))
    if name == "nmnc":
        assert all(tap.aligned and tap.lags == 4 for tap in state.layout.taps)
    optimiser = optax.adam(1e-2)

    def step(carry, number):
        params, moments, state = carry
        rows = 64 * (number % 16) + jnp.arange(64)
        batch = jnp.asarray(inputs)[rows], jnp.asarray(targets)[rows]
        key = jax.random.fold_in(jax.random.key(1), number)
        gradients, state, info = estimator.estimate(key, params, batch, state)
        updates, moments = optimiser.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, state), info.loss

    start = params, optimiser.init(params), state
    losses = np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(120))[1])(start))
    # The logarithm of the number of letters is what a model that knows nothing has.
    assert losses[0] == pytest.approx(np.log(letters), rel=0.15)
    assert losses[-10:].mean() < losses[0] - 0.5


def test_no_position_of_a_language_model_sees_later_ones():
    model = CausalTransformer(9, width=16, depth=2, positions=8)
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 9)
    params = model.init(jax.random.key(1), tokens)
    logits = model.apply(params, tokens)
    changed = model.apply(params, tokens.at[:, 5].set(0))
    np.testing.assert_allclose(changed[:, :5], logits[:, :5], atol=1e-6)
    with pytest.raises(ValueError, match="inputs have 9 tokens; positions is 8"):
        model.apply(params, jnp.zeros((2, 9), int))
