"""Measurements for TensorBoard and Weights & Biases, and the share of a chip's peak."""

import struct
import sys
from types import SimpleNamespace

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments.data import load
from experiments.errors import UserError
from experiments.planning.topology import PEAKS
from experiments.planning.utilisation import flops_per_example, utilisation
from experiments.tracking import tracked
from experiments.training.loop import SPEED, UTILISATION
from experiments.training.trainer import make_trainer
from tests.cases import run_on
from tests.test_experiments import SMALL

RECORD = {"loss": None, "test_accuracy": 0.5, "alignment": {"conv1": 0.25}}
WRITTEN = {"test_accuracy": 0.5, "alignment/conv1": 0.25}


def events(directory):
    """The events of all files in the order in which TensorBoard reads them."""
    for path in sorted(directory.glob("events.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def seen(directory):
    """The values by name and step that TensorBoard shows."""
    shown = {}
    for event in events(directory):
        if event.session_log.status == 1:  # START
            shown = {at: value for at, value in shown.items() if at[1] < event.step}
        for value in event.summary.value:
            shown[value.tag, event.step] = value.simple_value
    return shown


def test_tensorboard_shows_every_measurement_once(tmp_path, monkeypatch):
    config = run_on("digits", log_to="tensorboard")
    clock = iter(range(1_000_000_000, 2_000_000_000))
    for accuracy, steps in ((0.5, (0, 5, 10)), (0.75, (5, 10))):
        # Files of one second would have one name.
        monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: next(clock))
        with tracked(tmp_path, config) as track:
            for step in steps:
                track({**RECORD, "step": step, "test_accuracy": accuracy})
    expected = {("alignment/conv1", step): 0.25 for step in (0, 5, 10)}
    expected |= {("test_accuracy", step): 0.75 if step else 0.5 for step in (0, 5, 10)}
    assert seen(tmp_path / "tensorboard") == expected


class Wandb(SimpleNamespace):
    """The part of the package that is used, which keeps what it is given."""

    Error = type("Error", (Exception,), {})

    def init(self, **settings):
        if self.refuses:
            raise self.Error("No API key configured.")
        self.started.append(settings)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.append(True)


def test_weights_and_biases_continues_the_run_of_a_directory(tmp_path, monkeypatch):
    package = Wandb(started=[], logged=[], ended=[], refuses=False)
    monkeypatch.setitem(sys.modules, "wandb", package)
    config = run_on("digits", log_to="wandb")
    for step in (0, 5):
        with tracked(tmp_path, config) as track:
            track({**RECORD, "step": step})
    assert package.logged == [(0, WRITTEN), (5, WRITTEN)]
    assert package.ended == [True, True]
    first, second = package.started
    assert first == second
    assert (first["resume"], first["config"]["data"]) == ("allow", "digits")
    package.refuses = True
    with (
        pytest.raises(UserError, match=r"No API key configured\. WANDB_MODE=offline"),
        tracked(tmp_path, config) as track,
    ):
        track({**RECORD, "step": 10})


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    with (
        pytest.raises(UserError, match=rf"log_to is '{name}'.*pip install 'nmnc_jax\[{name}\]'"),
        tracked(tmp_path, run_on("digits", log_to=name)),
    ):
        pass


def test_utilisation_is_the_operations_of_the_network_over_the_peak(monkeypatch):
    """A dense layer takes two operations a weight forward, and four backward but for the first."""
    config = run_on("digits", **{**SMALL, "features": (64, 64)}, estimator="backprop")
    with jax.numpy_dtype_promotion("standard"):
        data = load(config)
        trainer = make_trainer(config, data)
        assert utilisation(trainer, config, data)({SPEED: 1000.0}) == {SPEED: 1000.0}
        peak = 1e9
        monkeypatch.setitem(PEAKS, jax.devices()[0].device_kind, peak)
        add = utilisation(trainer, config, data)
        assert add({"step": 0}) == {"step": 0}
        found = add({SPEED: 1000.0})[UTILISATION] * peak / 1000
    exact = 4 * 64 * 64 + 6 * (64 * 64 + 64 * 10)
    # Adam, activations and the loss take the rest.
    assert exact < found < 1.3 * exact
    assert trainer.parts(None)[0].function._cache_size() == 0


def test_counting_needs_no_cpus(monkeypatch):
    """On a host where JAX_PLATFORMS names only its TPUs."""

    def missing(*_, **__):
        raise RuntimeError("Unknown backend cpu")

    config = run_on("digits", **SMALL, estimator="backprop")
    with jax.numpy_dtype_promotion("standard"):
        data = load(config)
        trainer = make_trainer(config, data)
        monkeypatch.setitem(PEAKS, jax.devices()[0].device_kind, 1e9)
        expected = utilisation(trainer, config, data)({SPEED: 1000.0})
        monkeypatch.setattr(jax, "local_devices", missing)
        monkeypatch.setattr(jax, "devices", missing)
        assert utilisation(trainer, config, data)({SPEED: 1000.0}) == expected
    assert expected[UTILISATION] > 0


def test_the_schedule_weighs_its_steps():
    config = run_on("digits", **SMALL, estimator="nmnc")
    with jax.numpy_dtype_promotion("standard"):
        data = load(config)
        often, seldom, never = (
            flops_per_example(make_trainer(changed, data), changed, data)
            for changed in (config.replace(update_every=n) for n in (1, 2, 100))
        )
    # Step 0 updates in each of them: of 12 steps 12, 6 and 1 do.
    assert (seldom - never) / (often - never) == pytest.approx(5 / 11, rel=2e-3)
