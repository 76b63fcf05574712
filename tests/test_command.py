"""Command lines and files that no one has tried: one line, no traceback, nothing left elsewhere."""

import os
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.made_imagenet import tar
from experiments import compare, crossover, prepare, report, train
from experiments.claims import __main__ as claims
from experiments.command import run_command
from experiments.configs import load_config
from experiments.directories import output_directory
from experiments.errors import UserError
from tests.cases import run_on
from tests.test_folder import folder, members, zipped

SHORT = ["--steps", "1", "--log-every", "1", "--batch", "4", "--basis-batch", "4",
         "--alignment-batch", "4", "--estimator", "backprop", "--devices", "1"]  # fmt: skip
FIELDS = ["--" + name.replace("_", "-") for name in load_config("digits").fields()]
# Those that decide how much is computed are in SHORT.
FIELDS = [name for name in FIELDS if name not in SHORT]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("NMNC_JAX_CACHE", str(tmp_path / "cache"))
    with jax.numpy_dtype_promotion("standard"):
        yield


def ends_in_one_line(command, arguments, monkeypatch):
    """Runs a command as its module does; returns its error, or "" where it ended well."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    error = ""
    try:
        run_command(command)
    except SystemExit as ended:
        error = ended.code or ""
    assert isinstance(error, str), arguments
    assert not error or error.startswith("error: "), error
    assert len(error.splitlines()) <= 1, error
    return error


WORDS = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "3", "1e400", "nan", "inf", "-0.5", "abc", "none", "None",
                     "true", "digits", "folder", "conv", "mlp", "vit", "gru", "/dev/null", "/proc",
                     "~nobody/x", "a" * 300, "99999999999999999999", "../x", "\udce9"]),
    st.integers(-3, 70).map(str),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6),
)  # fmt: skip
OPTIONS = st.lists(
    st.tuples(st.sampled_from(FIELDS), st.lists(WORDS, max_size=2)), min_size=1, max_size=2
).map(lambda chosen: [word for name, words in chosen for word in (name, *words)])


@settings(max_examples=120)
@given(options=OPTIONS)
def test_any_command_line_ends_in_one_line(options, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "run_or_read", lambda *_: ({"test_accuracy": 0, "steps": 1,
                                                          "step_milliseconds": 0}, []))  # fmt: skip
    before = set(tmp_path.rglob("*"))
    out = ["--features", "8", "--model", "mlp", *SHORT, "--out", str(tmp_path / "out")]
    ends_in_one_line(train.main, ["digits", *out, *options], monkeypatch)
    assert {path for path in set(tmp_path.rglob("*")) - before if path.name != "out"} == set()
    if (tmp_path / "out").exists():
        (tmp_path / "out").rmdir()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["x"], ["digits", "--seeds", "0"],
    ["digits", "--estimators"], ["digits", "--seed", "2147483644", "--seeds", "2"],
    ["digits", "--widths", "0"], ["digits", "--num"], ["similarity", "--seeds", "x"],
    ["similarity", "--neural", "/nowhere"], ["accuracy", "--data", "reach"], ["cifar10"],
    ["cifar10", "--archive", "/nowhere"], ["/nowhere"], ["/dev/null"]], ids=str)  # fmt: skip
@pytest.mark.parametrize("command", [train, compare, crossover, claims, prepare, report])
def test_every_command_names_a_mistake(command, arguments, tmp_path, monkeypatch):
    if arguments[:1] == ["digits"] and command is train:
        arguments = [*arguments, "--steps", "0"]
    if not arguments or arguments[0] in ("digits", "similarity"):
        arguments = [*arguments, "--nothing"]
    error = ends_in_one_line(command.main, arguments, monkeypatch)
    assert error or arguments == ["--help"]
    assert not list(Path().iterdir())


IMAGES = members()
BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(sorted(IMAGES.values())),
    st.builds(
        lambda image, place, byte: image[:place] + bytes([byte]) + image[place + 1 :],
        st.sampled_from(sorted(IMAGES.values())),
        st.integers(0, 250),
        st.integers(0, 255),
    ),
)
NAMES = st.one_of(
    st.sampled_from(["train/ant/x.png", "test/cow/x.TIFF", "val/ant/x.gif", "x.png", "train/x.bmp",
                     "train/ant/x.txt", "a/train/ant/x.png", "__MACOSX/x.png", "test/\udce9.png"]),
    st.from_regex(r"(train|test|val)/[a-z]{1,3}/[ -.0-9:-~]{1,9}\.(png|tif)", fullmatch=True),
)  # fmt: skip
FORMS = {
    "folder": folder,
    "zip": lambda path, files: path.write_bytes(zipped(files)),
    "tar": lambda path, files: path.write_bytes(tar(files.items(), "w:gz")),
}


@settings(max_examples=80)
@given(
    form=st.sampled_from(sorted(FORMS)),
    odd=st.dictionaries(NAMES, BYTES, min_size=1, max_size=3),
    skip=st.booleans(),
    cut=st.integers(0, 400),
)
def test_any_files_end_in_one_line(form, odd, skip, cut, tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("files")
    if form == "zip":
        odd = {name: content for name, content in odd.items() if "\udce9" not in name}
    FORMS[form](path / "set", IMAGES | odd)
    if cut < 200 and form != "folder":
        content = (path / "set").read_bytes()
        (path / "set").write_bytes(content[:cut] + content[cut + 1 :])
    monkeypatch.setenv("NMNC_JAX_CACHE", str(path / "cache"))
    before = {file for file in path.rglob("*") if "cache" not in file.parts}

    def load(arguments):
        from experiments import data

        data.load(run_on("folder", data_path=arguments[0], skip_damaged=skip))

    ends_in_one_line(load, [str(path / "set")], monkeypatch)
    assert {file for file in path.rglob("*") if "cache" not in file.parts} == before


def test_a_mistake_leaves_no_directory_and_a_measurement_keeps_it(tmp_path):
    (tmp_path / "empty").mkdir()

    def fail(out, name):
        with output_directory(out, "x") as directory:
            (directory / name).write_text("{}")
            (directory / "checkpoints" / "manifests").mkdir(parents=True)
            raise UserError("no")

    for out in (tmp_path / "a" / "b", tmp_path / "empty", None):
        with pytest.raises(UserError, match="no"):
            fail(out, "config.json")
    assert set(tmp_path.rglob("*")) == {tmp_path / "empty", tmp_path / "here"}
    with pytest.raises(UserError, match="no"):
        fail(tmp_path / "a", "metrics.jsonl")
    assert (tmp_path / "a" / "metrics.jsonl").exists()


def test_runs_of_the_same_second_have_directories_of_their_own(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "now")
    with output_directory(None, "x") as one, output_directory(None, "x") as other:
        assert [one, other] == [Path("runs/x-now"), Path("runs/x-now-2")]


def test_a_directory_is_for_one_run_at_a_time(tmp_path):
    out = tmp_path / "empty"
    with output_directory(out, "x"):
        for occupied in (False, True):
            with (
                pytest.raises(UserError, match="empty, which another run is using"),
                output_directory(out, "x", occupied=occupied),
            ):
                pass
        assert out.exists()
    with output_directory(out, "x"):
        pass


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
def test_a_damaged_run_is_named(name, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    (out / name).write_text("{")
    if name == "metrics.jsonl":
        os.mkdir(out / "checkpoints")
    arguments = [
        "digits",
        "--features",
        "8",
        "--model",
        "mlp",
        *SHORT,
        "--out",
        str(out),
        "--resume",
    ]
    if name != "config.json":
        config = run_on("digits")
        monkeypatch.setattr(train, "same_config", lambda *_: bool(config))
        (out / "summary.json").write_text("{" if name == "summary.json" else "{}")
    assert f"{name} cannot be read" in ends_in_one_line(train.main, arguments, monkeypatch)


def test_an_interrupted_command_ends_without_waiting_for_threads(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["command"])

    def interrupted(arguments):
        raise KeyboardInterrupt

    run_command(interrupted)
    assert ended == [130]
    assert "a command that takes --resume continues" in capsys.readouterr().err
