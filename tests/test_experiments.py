"""The commands, as a user runs them."""

import csv
import dataclasses
import json
import subprocess
import sys

import jax
import jax.flatten_util
import numpy as np
import pytest

from experiments import compare, data, train
from experiments.analysis.tables import write_table
from experiments.configs import config_names, load_config
from experiments.configuration import read_config, write_config
from experiments.data.dataset import among_five
from experiments.errors import UserError
from experiments.methods import METHODS, checked
from experiments.training.loop import through_training
from experiments.training.loop import train as train_loop
from experiments.training.network import build_model
from experiments.training.trainer import make_trainer
from nmnc_jax.layout import tap_shapes
from tests.cases import run_on

SHORT = [
    *("--model", "mlp", "--features", "32", "32", "--steps", "12", "--log-every", "5"),
    *("--alignment-batch", "64", "--basis-batch", "64", "--devices", "1"),
]


SMALL = {
    **{"model": "mlp", "features": (32, 32), "steps": 12, "rank": 200, "devices": 1},
    **{"alignment_batch": 64, "basis_batch": 64},
}


def records(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", ["nmnc", "backprop"])
def test_train_leaves_a_complete_record(name, tmp_path):
    out = tmp_path / "run"
    train.main(["digits", "--estimator", name, "--rank", "200", *SHORT, "--out", str(out)])
    config = json.loads((out / "config.json").read_text())
    assert (config["estimator"], config["steps"]) == (name, 12)
    written = records(out)
    assert [record["step"] for record in written] == [0, 5, 10, 12]
    for record in written:
        assert {"loss", "train_accuracy", "test_accuracy", "seconds"} <= set(record)
    perturbs = name == "nmnc"
    assert ("alignment" in written[-1]) == perturbs
    if perturbs:
        assert set(written[-1]["alignment"]) == {"dense0", "dense1"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["estimator"] == name
    assert summary["test_accuracy"] == written[-1]["test_accuracy"]
    assert {"steps", "seconds", "step_milliseconds", "probes"} <= set(summary)
    figures = {path.name for path in out.glob("*.png")}
    assert figures == {"curves.png", "cost.png"} | ({"alignment.png"} if perturbs else set())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "one_step"])
def test_every_method_trains(name):
    config = load_config("digits").replace(estimator=name, **SMALL)
    digits = data.load(config)
    stages = through_training(config, digits, (0, 1))
    before, after = (jax.device_get(params) for _, params in stages)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.isfinite(new).all()
        assert np.abs(new - old).max() > 0


def test_a_resnet_takes_other_channels():
    for channels, expected in ((None, 64), (8, 8)):
        config = run_on("digits", model="resnet18", features=(), channels=channels)
        shapes = jax.eval_shape(
            build_model(config, 10).init, jax.random.key(0), np.ones((1, 32, 32, 3), np.float32)
        )
        kernels = {name: leaf["kernel"].shape for name, leaf in shapes["params"].items()
                   if name.endswith("conv1")}  # fmt: skip
        assert kernels["block0_conv1"] == (3, 3, expected, expected)
        assert kernels["block7_conv1"] == (3, 3, 8 * expected, 8 * expected)
    with pytest.raises(UserError, match="channels is 12; resnet18 takes a multiple of 8"):
        run_on("digits", model="resnet18", features=(), channels=12)
    with pytest.raises(UserError, match="channels is 8; mlp takes None"):
        run_on("digits", channels=8)


def test_a_resnet_takes_taps_after_its_convolutions():
    for taps, expected in (("blocks", 9), ("convolutions", 17)):
        config = run_on("digits", model="resnet18", features=(), channels=8, taps=taps)
        images = np.ones((1, 32, 32, 3), np.float32)
        network = build_model(config, 10)
        params = jax.eval_shape(network.init, jax.random.key(0), images)
        assert len(tap_shapes(network.apply, params, images)) == expected
    with pytest.raises(UserError, match="taps is 'convolutions'; mlp takes 'blocks'"):
        run_on("digits", taps="convolutions")


def test_a_language_model_trains():
    small = {"features": (8,), "time_steps": 4, "batch": 16, "steps": 12, "log_every": 12}
    few = {"alignment_batch": 16, "basis_batch": 32, "rank": 4, "devices": 1}
    config = load_config("characters").replace(estimator="forward_gradient", **small, **few)
    text = data.load(config)
    text = text._replace(train=text.train[:64], test=text.test[:16])
    records = []
    train_loop(make_trainer(config, text), config, text, records.append)
    assert records[-1]["test_loss"] < records[0]["test_loss"]
    assert 0 <= records[-1]["test_accuracy"] <= 1


def test_many_classes_are_also_tested_by_the_five_likeliest():
    config = load_config("digits").replace(estimator="backprop", **SMALL)
    digits = dataclasses.replace(data.load_in_memory(config), classes=100)
    trainer = make_trainer(config, digits)
    batch = trainer.devices.place(
        config.run.batch, digits.train_examples(np.arange(config.run.batch))
    )
    measured = trainer.measure(trainer.init(0), jax.random.key(0), batch)
    assert measured["test_accuracy"] < measured["test_top5"] < 0.4
    outputs = np.array([[6.0, 5, 4, 3, 2, 1]] * 3 + [[np.nan] * 6], np.float32)
    assert among_five(outputs, np.array([0, 4, 5, 0])).tolist() == [1, 1, 0, 0]


def test_same_seed_same_numbers_and_another_another():
    digits, ends = data.load(load_config("digits")), []
    for seed in (0, 0, 1):
        config = load_config("digits").replace(seed=seed, **SMALL)
        *_, (_, params) = through_training(config, digits, (3,))
        ends.append(jax.flatten_util.ravel_pytree(jax.device_get(params))[0])
    assert (ends[0] == ends[1]).all()
    assert (ends[0] != ends[2]).any()


def test_compare_makes_one_table_and_shares_the_start(tmp_path, capsys):
    out = tmp_path / "comparison"
    compare.main(
        ["digits", *SHORT, "--estimators", "backprop", "nmnc", "--seeds", "2", "--out", str(out)]
    )
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["estimator"] for row in rows] == ["backprop", "nmnc"]
    assert float(rows[0]["over_backprop"]) == 1
    assert rows[1]["seeds"] == "2"
    assert len(rows[1]["test_accuracy"]) == len("0.1234")
    assert rows[1]["alignment_dense0"]
    for name in ("comparison.png", "curves.png", "alignment.png", "cost.png"):
        assert (out / name).stat().st_size > 10_000
    starts = {
        (seed, records(out / f"{name}-seed{seed}")[0]["test_accuracy"])
        for name in ("backprop", "nmnc")
        for seed in (0, 1)
    }
    assert len(starts) == 2
    printed = capsys.readouterr().out
    assert "nmnc" in printed
    assert str(out / "comparison.png") in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a config"),
        (["digit"], "unknown config 'digit'; there are characters, cifar10, cifar10_b"),
        (["digits", "--estimator", "magic"], "unknown estimator 'magic'; there are backprop"),
        (["digits", "--colour", "3"], "unknown field '--colour'"),
        (["digits", "--learning-rat", "3"], "--help lists the fields, like --learning-rate"),
        (["digits", "--steps", "0"], "steps is 0; it takes at least 1"),
        (["digits", "--learning-rate", "-1"], "learning_rate is -1.0; it takes a positive number"),
        (["photos", "--strides", "2"], "strides is"),
        (["digits", "--variant", "hard"], "variant is 'hard' with data 'digits'"),
        (["photos", "--image-size", "64"], "image_size is 64; conv on photos does not use it"),
        (["photos", "--patch", "4"], "patch is 4; conv on photos does not use it and takes 8"),
        (["characters", "--model", "mlp"], "model is 'mlp'; characters takes 'transformer'"),
        (
            ["characters", "--features", "8", "4"],
            "transformer takes one multiple of 4 for all blocks",
        ),
        (["characters", "--estimator", "exact_feedback"], "has one for each pair of time steps"),
        (
            ["digits", "--model", "transformer", "--features", "8"],
            "digits takes a network of other inputs",
        ),
        (["photos", "--model", "mlp"], "they are conv's, and mlp takes --features"),
        (["digits", "--model", "mlp", "--features", "8", "--dense", "9"], "mlp does not use it"),
        (["digits", "--batch", "5000"], "batch is 5000; the training set takes at most"),
    ],
)
def test_mistakes_end_with_an_error(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train.main([*arguments, *(["--out", str(tmp_path / "run")] if arguments else [])])


def test_output_directory_must_be_new_or_empty(tmp_path):
    (tmp_path / "old").write_text("kept")
    with pytest.raises(UserError, match="which is not empty"):
        train.main(["digits", *SHORT, "--out", str(tmp_path)])
    with pytest.raises(UserError, match="which cannot be written"):
        train.main(["digits", *SHORT, "--out", str(tmp_path / "old" / "below")])
    assert (tmp_path / "old").read_text() == "kept"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_record(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        train.main(["digits", *SHORT, "--estimator", "backprop", "--learning-rate", "1e30",
                    "--out", str(out)])  # fmt: skip
    assert records(out)[0]["step"] == 0
    assert not (out / "summary.json").exists()


def test_a_mistake_ends_with_one_line_and_a_status():
    result = subprocess.run(
        [sys.executable, "-m", "experiments.train", "nothing"], capture_output=True, text=True
    )
    assert result.returncode != 0
    there = ", ".join(config_names())
    assert result.stderr.splitlines() == [f"error: unknown config 'nothing'; there are {there}"]


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    for field in load_config("digits").fields():
        assert "--" + field.replace("_", "-") in output
    assert "Seed of initial weights" in output


def test_a_table_holds_what_its_rows_hold(tmp_path):
    rows = [{"a": 1, "b": 0.123456789, "c": "x"}, {"a": 2, "b": float("nan"), "d": 3, "e": True}]
    write_table(tmp_path / "t.csv", rows, ".4f")
    assert (tmp_path / "t.csv").read_text() == "a,b,c,d,e\n1,0.1235,x,,\n2,nan,,3,True\n"


def test_a_field_is_in_one_section_and_is_replaced_by_its_name(tmp_path):
    config = load_config("imagenet_resnet18_mirror")
    sections = [vars(section) for section in vars(config).values()]
    assert len(config.fields()) == sum(map(len, sections))
    for section in sections:
        assert config.fields().items() >= section.items()
    changed = config.replace(rank=3, steps=7)
    assert (changed.method.rank, changed.run.steps) == (3, 7)
    assert changed.replace(rank=256, steps=450_000) == config
    with pytest.raises(TypeError, match="a configuration has no field 'ranks'"):
        config.replace(ranks=3)
    write_config(tmp_path, config, seeds=2)
    assert read_config(tmp_path, "seeds") == (config, {"seeds": 2})
    with pytest.raises(UserError, match=r"is not of such a run: .* no field 'seeds'"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", config_names())
def test_shipped_configs_are_sound(name):
    checked(load_config(name))
