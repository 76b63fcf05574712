"""The optimisers of runs: Optax's by name, schedules, weight decay, averages, augmentation."""

import jax
import numpy as np
import optax
import pytest

from experiments import data
from experiments.configs import load_config
from experiments.configuration import OPTIMISERS, Config
from experiments.data.dataset import class_loss
from experiments.data.in_memory import shifted_and_mirrored
from experiments.errors import UserError
from experiments.training.optimiser import build_optimiser, learning_rate_of, training_loss
from experiments.training.trainer import make_trainer
from tests.test_experiments import SMALL

PARAMS = {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.array([3.0], np.float32)}
GRADIENTS = {"kernel": np.array([[0.5, 0.1]], np.float32), "bias": np.array([0.2], np.float32)}


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def config_of(**fields):
    return Config.of(**{"data": "digits", "model": "mlp", "features": (8,), "steps": 90, **fields})


def test_sgd_with_momentum_decays_weights_and_no_biases():
    config = config_of(optimiser="sgd", optimiser_settings=("momentum=0.9", "nesterov=True"),
                       learning_rate=0.1, schedule="constant", weight_decay=0.01)  # fmt: skip
    optimiser, params = build_optimiser(config), PARAMS
    state, trace = optimiser.init(params), dict.fromkeys(params, 0.0)
    expected = dict(PARAMS)
    for _ in range(3):
        updates, state = optimiser.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in expected.items():
            gradient = GRADIENTS[name] + (0.01 * value if name == "kernel" else 0)
            trace[name] = 0.9 * trace[name] + gradient
            expected[name] = value - 0.1 * (0.9 * trace[name] + gradient)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_decays_weights_alone(name):
    """With a gradient of zero what changes is by the decay, or by nothing."""
    none = jax.tree.map(np.zeros_like, PARAMS)
    optimiser = build_optimiser(config_of(optimiser=name, weight_decay=0.1))
    updates, _ = optimiser.update(none, optimiser.init(PARAMS), PARAMS)
    assert (np.sign(updates["kernel"]) == -np.sign(PARAMS["kernel"])).all()
    assert np.abs(updates["bias"]).max() < 1e-6


@pytest.mark.parametrize("name", ["adamw", "nadamw", "lion"])
def test_a_decay_of_zero_is_none(name):
    """These decay by default in Optax."""
    none = jax.tree.map(np.zeros_like, PARAMS)
    optimiser = build_optimiser(config_of(optimiser=name))
    updates, _ = optimiser.update(none, optimiser.init(PARAMS), PARAMS)
    assert all((update == 0).all() for update in jax.tree.leaves(updates))


def test_biases_of_attention_do_not_decay():
    """They have two axes, heads and width."""
    shapes = {"kernel": (4, 2, 2), "bias": (2, 2)}
    params = {"query": {name: np.ones(shape, np.float32) for name, shape in shapes.items()}}
    optimiser = build_optimiser(config_of(optimiser="sgd", weight_decay=0.1))
    none = jax.tree.map(np.zeros_like, params)
    updates, _ = optimiser.update(none, optimiser.init(params), params)
    assert (updates["query"]["bias"] == 0).all()
    assert (updates["query"]["kernel"] < 0).all()


def test_a_large_gradient_is_clipped_before_all_else():
    optimiser = build_optimiser(config_of(optimiser="sgd", clip_norm=1.0, schedule="constant"))
    large = jax.tree.map(lambda leaf: 100 * leaf, GRADIENTS)
    updates, _ = optimiser.update(large, optimiser.init(PARAMS), PARAMS)
    assert optax.tree.norm(updates) == pytest.approx(1e-3, rel=1e-5)


def test_schedules_warm_up_and_end_as_named():
    peak = 1e-3
    cosine = learning_rate_of(config_of(warmup=10))
    assert [float(cosine(n)) for n in (0, 5, 10)] == pytest.approx([0, peak / 2, peak])
    assert float(cosine(90)) == pytest.approx(0, abs=1e-9)
    steps = learning_rate_of(config_of(schedule="steps", warmup=10))
    at = (10, 29, 31, 59, 61, 79, 81)
    wanted = [peak, peak, peak / 10, peak / 10, peak / 100, peak / 100, peak / 1000]
    assert [float(steps(n)) for n in at] == pytest.approx(wanted)
    assert float(learning_rate_of(config_of(schedule="constant"))(89)) == pytest.approx(peak)
    halved = learning_rate_of(config_of(accumulate=2))
    assert float(halved(45)) == pytest.approx(0, abs=1e-9)


def test_an_average_is_tested_and_gradients_are_accumulated():
    fields = {**SMALL, "estimator": "backprop", "optimiser": "sgd", "learning_rate": 0.1}
    config = load_config("digits").replace(average=0.5, accumulate=2, **fields)
    digits = data.load(config)
    trainer = make_trainer(config, digits)
    state = trainer.init(0)
    average, seen = jax.device_get(state.params), []
    batches = digits.train_batches(64, 0, steps=range(4), rows=np.arange(64))
    for step, examples in enumerate(batches):
        batch = trainer.devices.place(64, examples)
        state, _ = trainer.step(state, jax.random.key(step), batch)
        seen.append(jax.flatten_util.ravel_pytree(jax.device_get(state.params))[0])
        average = jax.tree.map(lambda a, p: (a + p) / 2, average, jax.device_get(state.params))
    assert (seen[1] != seen[0]).any()
    assert (seen[2] == seen[1]).all()
    for ours, theirs in zip(jax.tree.leaves(state.network), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_labels_are_smoothed_in_training_alone():
    config = config_of(label_smoothing=0.1)
    digits = data.load(config)
    outputs, targets = jax.random.normal(jax.random.key(0), (3, 10)), np.array([1, 2, 3])
    uniform = -jax.nn.log_softmax(outputs).mean(axis=1)
    wanted = 0.9 * class_loss(outputs, targets) + 0.1 * uniform
    np.testing.assert_allclose(training_loss(config, digits)(outputs, targets), wanted, rtol=1e-5)
    assert digits.loss is class_loss
    trials = config_of(data="flip_flop", model="leaky", label_smoothing=0.1)
    with pytest.raises(UserError, match="flip_flop has no classes and takes 0"):
        training_loss(trials, data.load(trials))


def test_augmented_images_are_shifted_and_mirrored_alike_wherever_they_are_read():
    images = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)

    def moved(rows):
        return shifted_and_mirrored(images[rows], np.random.default_rng(1), rows)

    whole = moved(np.arange(6))
    for part in (np.arange(3), np.array([4, 1])):
        np.testing.assert_array_equal(moved(part), whole[part])
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, result in zip(padded, whole, strict=True):
        crops = [image[d : d + 16, a : a + 16] for d in range(5) for a in range(5)]
        assert any((result == c).all() or (result == c[:, ::-1]).all() for c in crops)
    assert not (whole == images).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimiser": "magic"}, "optimiser is 'magic'; it takes one of adabelief, adaf"),
        ({"optimiser_settings": ("b3=1",)}, "optax.adam takes NAME=VALUE of b1, b2"),
        ({"optimiser_settings": ("b1={[]:1}",)}, "its value takes a number, True or False"),
        ({"optimiser_settings": ("b1=1j",)}, "its value takes a number, True or False"),
        (
            {"optimiser": "sgd", "optimiser_settings": ("momentum=1", "accumulator_dtype=3")},
            r"optimiser_settings is .*, which optax.sgd refuses",
        ),
        ({"optimiser_settings": ("b1",)}, "its value takes a number, True or False"),
        ({"optimiser_settings": ("weight_decay=1",)}, "optax.adam takes NAME=VALUE of b1"),
        ({"warmup": 90}, "warmup is 90; it takes fewer than the 90 updates"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"average": 1.0}, "average is 1.0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"accumulate": 91}, "accumulate is 91; it takes at most the 90 steps of the run"),
        ({"augment": True}, "augment is True; digits takes False"),
    ],
)
def test_mistakes_are_named(fields, message):
    def build():
        config = config_of(**fields)
        build_optimiser(config)

    with pytest.raises(UserError, match=message):
        build()
