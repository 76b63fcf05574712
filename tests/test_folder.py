"""Image folders and archives of them."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.config import UserError
from tests.cases import run_on
from tests.test_prepare import encoded, tar


def image(seed, size=8):
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def members(test="test"):
    """Three classes, six training and two test images of each, in no order of names."""
    found = {}
    for label, name in enumerate(("wolf", "ant", "cow")):
        for number in range(8):
            split = "train" if number < 6 else test
            suffix = "png" if number % 2 else "PNG"
            content = encoded(image(10 * label + number), "PNG")
            found[f"{split}/{name}/{number}.{suffix}"] = content
    return found


def folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return content.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMNC_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(path, **fields):
    return data.load(run_on("folder", data_path=str(path), **fields))


FORMS = {
    "folder": lambda path, files: folder(path / "images", files),
    "below a folder": lambda path, files: folder(path / "a" / "b", files) and path / "a",
    "zip": lambda path, files: write(path / "images.zip", zipped(files)),
    "tar": lambda path, files: write(path / "images.tar", tar(files.items())),
    "tar.gz": lambda path, files: write(path / "images.tar.gz", tar(files.items(), "w:gz")),
    "tar.xz": lambda path, files: write(path / "images.tar.xz", tar(files.items(), "w:xz")),
}


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("test", ["test", "val"])
def test_every_form_gives_the_same_set(form, test, tmp_path, cache, capsys):
    loaded = load(FORMS[form](tmp_path, members(test)))
    assert (loaded.classes, loaded.train_size, loaded.test_size) == (3, 18, 6)
    # Classes are sorted names: ant, cow, wolf.
    np.testing.assert_array_equal(loaded.train_targets, np.repeat([0, 1, 2], 6))
    ant = np.asarray(image(10), np.float32)
    first = loaded.train_inputs[0]
    slope = np.polyfit(ant[..., 0].ravel(), first[..., 0].ravel(), 1)
    np.testing.assert_allclose(np.polyval(slope, ant[..., 0]), first[..., 0], atol=1e-3)
    np.testing.assert_allclose(loaded.train_inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(loaded.train_inputs.std((0, 1, 2)), 1, atol=1e-4)
    assert "100 %" in capsys.readouterr().out
    again = load(tmp_path / "a" if form == "below a folder" else next(tmp_path.glob("images*")))
    np.testing.assert_array_equal(again.train_inputs, loaded.train_inputs)
    assert "100 %" not in capsys.readouterr().out
    assert len(list(cache.iterdir())) == 1


def test_another_content_or_size_is_decoded_anew(tmp_path, cache):
    path = folder(tmp_path / "images", members())
    load(path)
    assert load(path, image_size=4).train_inputs.shape == (18, 4, 4, 3)
    (path / "train/ant/9.png").write_bytes(encoded(image(99), "PNG"))
    assert load(path).train_size == 19
    assert len(list(cache.iterdir())) == 3
    chosen = load(path, validation=True)
    assert (chosen.train_size, chosen.test_size) == (18, 1)


def without(files, *names):
    return {name: content for name, content in files.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: without(f, "test/cow"), "class 'cow' of .* has no test images"),
        (lambda f: without(f, "train/ant"), "class 'ant' of .* has no train images"),
        (lambda f: without(f, "train", "test"), "which holds no image; it takes train/<class>/"),
        (lambda f: f | {"train/ant/x.png": b"no image"}, "train/ant/x.png in .* cannot be read"),
        (lambda f: f | {"other/ant/x.png": b""}, "other/ant/x.png is in no class of a split"),
        (lambda f: f | {"x.png": b""}, "x.png is in no class of a split"),
        (lambda f: f | {"b/train/ant/x.png": b""}, r"holds splits in \. and in b; it takes one"),
        (lambda f: f | {"train/ant/x.png": encoded(image(1, 9), "PNG")},
         r"train/ant/x.png in .* has \(9, 9\) pixels and .* \(8, 8\); image_size takes the side"),
        (lambda f: f | {"../train/ant/x.png": b""}, "'../train/ant/x.png', a path that leads out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_what_is_wrong_is_told(change, message, form, tmp_path, cache):
    with pytest.raises(UserError, match=message):
        load(FORMS[form](tmp_path, change(members())))
    assert not cache.exists()


def test_no_path_and_no_archive_are_refused(tmp_path):
    with pytest.raises(UserError, match="which does not exist; it takes train/<class>/"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot be read as a tar archive"):
        load(write(tmp_path / "images.tar", b"no archive"))
    info = tarfile.TarInfo("train/ant/link.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UserError, match="which is not a regular file"):
        load(write(tmp_path / "link.tar", tar([("", info)])))
