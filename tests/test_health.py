"""Networks that do not learn are named, and the strided network learns large images."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.configs import load_config
from experiments.data import load_in_memory
from experiments.data.in_memory import standardised
from experiments.runs import run_or_read
from experiments.training.health import signs
from experiments.training.loop import train
from experiments.training.trainer import make_trainer
from tests.cases import run_on


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def coloured_squares(classes, side, each=4):
    """Images of noise with a square whose place and colours are those of the class."""
    random = np.random.default_rng(0)
    squares = random.integers(256, size=(classes, 4, 4, 3))
    whole = np.kron(squares, np.ones((1, side // 4, side // 4, 1)))
    labels = np.tile(np.arange(classes), each)
    images = np.clip(whole[labels] + random.normal(0, 40, (len(labels), side, side, 3)), 0, 255)
    part = (images.astype(np.uint8), labels)
    return standardised(part, part, classes, each_channel=True, white=255)


def test_two_hundred_classes_of_large_images_are_learned():
    data = coloured_squares(200, 64)
    config = load_config("cifar10").replace(
        estimator="backprop", steps=60, log_every=30, alignment_batch=64, devices=1
    )
    records = []
    train(make_trainer(config, data), config, data, records.append)
    assert records[-1]["loss"] < 0.8 * np.log(200)
    assert records[-1]["test_accuracy"] > 0.2
    assert records[-1]["still_units"]["dense"] < 0.9
    assert not signs(records[-1], 200)


def test_a_dead_network_says_so(tmp_path):
    data = load_in_memory(load_config("digits"))
    config = run_on("digits", estimator="backprop", steps=2, log_every=2, batch=8,
                    alignment_batch=16, basis_batch=16, devices=1)  # fmt: skip
    trainer = make_trainer(config, data)

    def silenced(seed, params=None):
        state = trainer.init(seed, params)
        state.params["params"]["dense0"]["bias"] -= 1e6
        return state

    shown = io.StringIO()
    console = Console(file=shown, force_terminal=False)
    run_or_read(tmp_path / "run", trainer._replace(init=silenced), config, data, console)
    assert "warning: 100% of the units of tap 'dense0' never change" in shown.getvalue()


def test_a_loss_that_stays_and_credit_of_zero_are_named():
    record = {"step": 200, "loss": 2.303, "alignment": {"a": 0.0, "b": 0.4}}
    stays, zero = signs(record, 10)
    assert "the loss stays at 2.303, that of 10 equally likely classes" in stays
    assert "credit of tap 'a' is zero" in zero
    assert not signs({"step": 10, "loss": 2.303, "alignment": {"a": 0.0}}, 10)
    assert not signs({"step": 200, "loss": 2.303, "test_accuracy": 0.4}, 10)
    assert not signs({"step": 200, "loss": 0.0}, None)
