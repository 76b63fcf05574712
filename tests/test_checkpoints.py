"""Checkpoints: a run that stops goes on to the same numbers, and damage is reported."""

import json
import os
import signal
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare, train
from experiments.configuration import Config, read_config, same_config, write_config
from experiments.data import load
from experiments.errors import Stopped, UserError
from experiments.training.checkpoints import Checkpoints
from experiments.training.loop import TIMES, asked_to_stop
from experiments.training.loop import train as run_loop
from experiments.training.position import last_position, trained_network
from experiments.training.trainer import make_trainer
from tests.test_experiments import SHORT, records

ARGUMENTS = ["digits", *SHORT, "--log-every", "4", "--checkpoint-every", "3"]
TREE = {"a": jnp.arange(3000.0), "b": (jnp.ones((2, 2)), None, np.zeros(3, np.float32))}


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def without_time(path):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records(path)]


def last_network(path):
    """Parameters, optimiser and estimator at the end of a run."""
    config = read_config(path)[0].replace(devices=1)
    checkpoints = Checkpoints(path / "checkpoints", print)
    step, position = last_position(make_trainer(config, load(config)), config, checkpoints)
    checkpoints.close()
    assert step == config.run.steps
    return position.state


def stop_at(step, monkeypatch):
    """Sends SIGTERM while that step is taken."""

    def loop(trainer, *rest):
        taken = iter(range(1, 100))

        def take(*arguments, **settings):
            if next(taken) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return trainer.step(*arguments, **settings)

        return run_loop(trainer._replace(step=take), *rest)

    monkeypatch.setattr("experiments.runs.train", loop)


def test_a_stopped_run_ends_as_if_it_had_never_stopped(tmp_path, monkeypatch, capsys):
    arguments, step = [*ARGUMENTS, "--estimator", "nmnc"], 5
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train.main([*arguments, "--out", str(straight)])
    handlers, seal = set(), Checkpoints._list_files

    def sealed(checkpoints):
        time.sleep(0.05)
        handlers.add(signal.getsignal(signal.SIGTERM))
        seal(checkpoints)

    with monkeypatch.context() as patch:
        stop_at(step, patch)
        patch.setattr(Checkpoints, "_list_files", sealed)
        with pytest.raises(Stopped, match=f"stopped at step {step}"):
            train.main([*arguments, "--out", str(stopped), "--resume"])
    # A second SIGTERM does not end the process before the checkpoint is written.
    assert signal.SIG_DFL not in handlers
    assert not (stopped / "summary.json").exists()
    assert "step 4/12" in capsys.readouterr().out
    train.main([*arguments, "--out", str(stopped), "--resume"])
    assert "step 4/12" not in capsys.readouterr().out
    assert without_time(stopped) == without_time(straight)
    jax.tree.map(np.testing.assert_array_equal, last_network(straight), last_network(stopped))
    times = [record["seconds"] for record in records(stopped)]
    assert times == sorted(times)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_ctrl_c_asks_to_stop_as_sigterm_does(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with asked_to_stop() as asked:
        assert not asked(0)
        signal.raise_signal(number)
        assert asked(1)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_resume_keeps_to_the_run_it_finds(tmp_path, capsys):
    out = tmp_path / "run"
    train.main([*ARGUMENTS, "--estimator", "backprop", "--out", str(out)])
    before = (out / "metrics.jsonl").read_text()
    train.main([*ARGUMENTS, "--estimator", "backprop", "--out", str(out), "--resume"])
    assert (out / "metrics.jsonl").read_text() == before
    with pytest.raises(UserError, match=r"seed is 3; the run in .* has 0"):
        train.main([*ARGUMENTS, "--estimator", "backprop", "--seed", "3",
                    "--out", str(out), "--resume"])  # fmt: skip
    with pytest.raises(UserError, match="resume and coordinator take the run's directory: --out"):
        train.main([*ARGUMENTS, "--resume"])
    with pytest.raises(UserError, match="resume takes the comparison's directory: --out"):
        compare.main([*ARGUMENTS, "--resume"])
    with pytest.raises(UserError, match="processes and process take a coordinator"):
        train.main([*ARGUMENTS, "--processes", "2"])
    # It was stopped between its last step and its summary.
    (out / "summary.json").unlink()
    capsys.readouterr()
    train.main([*ARGUMENTS, "--estimator", "backprop", "--out", str(out), "--resume"])
    assert "after 12 steps; figures" in capsys.readouterr().out.replace("\n", " ")
    assert "step_milliseconds" not in json.loads((out / "summary.json").read_text())


def test_a_comparison_goes_on(tmp_path):
    out = tmp_path / "comparison"
    arguments = [*ARGUMENTS, "--estimators", "backprop", "--out", str(out)]
    compare.main(arguments)
    before = (out / "backprop-seed0" / "metrics.jsonl").read_text()
    compare.main([*arguments, "--seeds", "2", "--resume"])
    assert (out / "backprop-seed0" / "metrics.jsonl").read_text() == before
    assert "backprop,2," in (out / "comparison.csv").read_text()


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints, and what was reported."""
    reported = []
    checkpoints = Checkpoints(tmp_path / "c", reported.append)
    for step in (1, 2, 3):
        checkpoints.save(step, jax.tree.map(lambda leaf, s=step: leaf + s, TREE))
    checkpoints.close()
    return tmp_path / "c", reported


def restored(saved):
    directory, reported = saved
    checkpoints = Checkpoints(directory, reported.append)
    found = checkpoints.restore(TREE)
    checkpoints.close()
    return found


def test_the_last_two_are_kept_and_the_last_is_read(saved):
    step, tree = restored(saved)
    assert step == 3
    assert saved[1] == []
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 3), tree, TREE)
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    kept = sorted(path.name for path in saved[0].iterdir() if path.name.isdecimal())
    assert kept == ["2", "3"]


def flip_a_bit(directory):
    path = max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: flip_a_bit(d / "3"), "is not as it was written"),
        (lambda d: (d / "3" / "_CHECKPOINT_METADATA").unlink(), "_CHECKPOINT_METADATA is not as"),
        (lambda d: (d / "manifests" / "3.json").unlink(), "because writing was interrupted"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, message, saved):
    damage(saved[0])
    step, tree = restored(saved)
    assert step == 2
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 2), tree, TREE)
    (reported,) = saved[1]
    assert reported.startswith("checkpoint 3 is damaged")
    assert message in reported
    # The damaged one is kept aside, and a new one may take its place.
    again = Checkpoints(saved[0], saved[1].append)
    again.save(3, TREE)
    again.close()
    assert restored(saved)[0] == 3


def test_a_full_disk_is_named_and_the_checkpoints_before_it_are_read(saved, monkeypatch):
    checkpoints = Checkpoints(saved[0], saved[1].append)

    def fail(*_):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device")

    monkeypatch.setattr(checkpoints, "_list_files", fail)
    checkpoints.save(4, TREE)
    with pytest.raises(UserError, match=r"cannot be written to .*/c: No space left on device; "):
        checkpoints.wait()
    checkpoints.close()
    assert restored(saved)[0] == 3


def test_where_all_are_damaged_there_is_none(saved):
    for step in ("2", "3"):
        flip_a_bit(saved[0] / step)
    assert restored(saved) is None
    assert len(saved[1]) == 2


def test_a_checkpoint_of_another_run_is_refused(saved):
    checkpoints = Checkpoints(saved[0], print)
    with pytest.raises(UserError, match=r"checkpoint 3 .* is of another run"):
        checkpoints.restore({"other": TREE["a"]})
    with pytest.raises(UserError, match=r"checkpoint 3 .* is of another run"):
        checkpoints.restore({**TREE, "a": jnp.zeros(7)})
    checkpoints.close()


@pytest.mark.parametrize("version", [None, "0.1.0"])
def test_a_run_of_an_older_layout_is_refused_with_its_version(version, tmp_path):
    write_config(tmp_path, Config.of(data="digits", model="mlp", features=(16,)))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.pop("version") == metadata.version("nmnc_jax")
    (tmp_path / "config.json").write_text(json.dumps(written | {"version": version}))
    named = version or "before 0.2.0"
    message = rf"config.json was written by .*{named}, and this is 0\.2"
    with pytest.raises(UserError, match=message):
        train.main([*ARGUMENTS, "--out", str(tmp_path), "--resume"])
    with pytest.raises(UserError, match=message):
        trained_network(tmp_path)


def test_a_run_from_before_a_field_goes_on_with_its_default(tmp_path):
    config = Config.of(data="flip_flop", model="leaky", features=(16,))
    write_config(tmp_path, config)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["noise"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert same_config(tmp_path, config)
    with pytest.raises(UserError, match=r"noise is 0\.1; the run in .* has 0\.0"):
        same_config(tmp_path, config.replace(noise=0.1))
