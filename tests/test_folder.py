"""Image folders and archives of them."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_imagenet import encoded, tar
from experiments import data
from experiments.errors import UserError
from tests.cases import run_on


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


JUNK = ("__MACOSX/train/ant/._0.png", "train/ant/._0.png", "train/.DS_Store", ".git/x/y/z.png",
        "train/ant/Thumbs.db", "train/ant/desktop.ini", "train/.ipynb_checkpoints/0.png",
        "train/@eaDir/ant/0.png")  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_what_systems_leave_is_left_out(form, tmp_path, capsys):
    loaded = load(FORMS[form](tmp_path, members() | dict.fromkeys(JUNK, b"none")))
    assert (loaded.classes, loaded.train_size, loaded.test_size) == (3, 18, 6)
    assert "left out" not in capsys.readouterr().out


def test_files_that_are_no_images_are_said(tmp_path, capsys):
    path = folder(tmp_path / "images", members() | {"train/ant/1.heic": b"", "readme.txt": b""})
    for _ in range(2):  # Also where the set comes from the cache.
        load(path)
        assert "left out 2 files that are no *.{jpg," in capsys.readouterr().out
    path = folder(tmp_path / "more", members() | {"train/dog/1.heic": b"", "test/dog/1.heic": b""})
    with pytest.raises(UserError, match=r"class 'dog' of .* has no train images"):
        load(path)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".TIFF", ".jfif", ".JPG", ".gif"])
def test_suffixes_that_are_read(suffix, tmp_path):
    content = encoded(image(99), "PNG")  # What a file is, is seen from its content.
    path = write(tmp_path / "x.zip", zipped(members() | {f"train/ant/x{suffix}": content}))
    assert load(path).train_size == 19


def test_links_are_followed(tmp_path):
    path = folder(tmp_path / "images", members())
    (path / "train" / "cow").rename(tmp_path / "cow")
    (path / "train" / "cow").symlink_to(tmp_path / "cow")
    (path / "train" / "ant" / "6.png").symlink_to(tmp_path / "cow" / "1.png")
    (path / "test").rename(tmp_path / "other")
    (path / "test").symlink_to(tmp_path / "other")
    loaded = load(path)
    assert (loaded.classes, loaded.train_size, loaded.test_size) == (3, 19, 6)
    np.testing.assert_array_equal(loaded.train_inputs[6], loaded.train_inputs[8])
    (tmp_path / "cow" / "whole").symlink_to(path)
    with pytest.raises(UserError, match="is a link to a folder that it is in"):
        load(path)


def test_val_beside_test_is_for_choosing_settings(tmp_path, capsys):
    files = members() | without(members("val"), "train", "val/ant/7", "val/cow/7")
    path = folder(tmp_path / "images", files)
    assert (load(path).train_size, load(path).test_size) == (18, 6)
    assert "has test/ and val/: test/ is tested" in capsys.readouterr().out
    chosen = load(path, validation=True)
    assert (chosen.train_size, chosen.test_size) == (18, 4)
    assert "val/ is tested" in capsys.readouterr().out


def test_names_that_are_not_utf_8(tmp_path, capsys):
    path = folder(tmp_path / "images", members())
    name = os.fsencode(path / "train" / "ant") + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encoded(image(99), "PNG"))
    assert load(path).train_size == 19
    with open(name, "wb") as file:
        file.write(b"none")
    with pytest.raises(UserError, match=r"caf\\xe9.png in .* cannot be read"):
        load(path)


DAMAGE = {
    "no image": lambda path: write(path, b"none"),
    "empty": lambda path: write(path, b""),
    "truncated": lambda path: write(path, encoded(image(1, 64), "PNG")[:900]),
    "large": lambda path: write(path, encoded(Image.new("1", (10000, 10000)), "PNG")),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named_or_left_out_and_listed(kind, tmp_path, cache, capsys):
    path = folder(tmp_path / "images", members())
    DAMAGE[kind](path / "train" / "ant" / "x.png")
    with pytest.raises(UserError, match=r"train/ant/x\.png in .*; --skip-damaged leaves"):
        load(path)
    for _ in range(2):
        assert load(path, skip_damaged=True).train_size == 18
        said = capsys.readouterr().out
        assert "left out 1 of 25 images that cannot be read, listed in" in said
    listed = said.split("listed in ")[1].splitlines()[0]
    assert Path(listed).read_text().startswith("train/ant/x.png in ")


def test_damaged_members_of_a_zip(tmp_path):
    content = zipped(members())
    right = members()["train/cow/1.png"]
    path = write(tmp_path / "x.zip", content.replace(right, right[:-30] + bytes(30)))
    with pytest.raises(UserError, match=r"train/cow/1\.png in x\.zip cannot be read: Bad CRC"):
        load(path)
    assert load(path, skip_damaged=True).train_size == 17
    (tmp_path / "y.tar.gz").write_bytes(tar(members().items(), "w:gz")[:2000])
    with pytest.raises(UserError, match=r"y\.tar\.gz cannot be read as a tar archive"):
        load(tmp_path / "y.tar.gz", skip_damaged=True)
    (tmp_path / "z.zip").write_bytes(b"PK" + zipped(members())[-200:])
    with pytest.raises(UserError, match=r"z\.zip cannot be read as a zip archive"):
        load(tmp_path / "z.zip")


def test_a_class_whose_images_are_all_damaged_is_refused(tmp_path):
    files = {name: b"" if "test/cow" in name else each for name, each in members().items()}
    with pytest.raises(UserError, match=r"class 'cow' of .* has no test images"):
        load(folder(tmp_path / "images", files), skip_damaged=True)


@pytest.mark.parametrize("there", ["/proc/cache", "file/cache"])
def test_a_cache_that_cannot_be_written_is_named(there, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NMNC_JAX_CACHE", str(tmp_path / there))
    with pytest.raises(UserError, match=f"the cache is .*{there}, which cannot be written"):
        load(folder(tmp_path / "images", members()))


def test_a_damaged_cache_is_made_anew(tmp_path, cache):
    path = folder(tmp_path / "images", members())
    load(path)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert load(path).train_size == 18


def test_a_channel_that_does_not_vary_is_zero(tmp_path):
    files = {}
    for name, content in members().items():
        pixels = np.array(Image.open(io.BytesIO(content)))
        pixels[..., 2] = 7 if "train" in name else 9
        files[name] = encoded(Image.fromarray(pixels), "PNG")
    loaded = load(folder(tmp_path / "images", files))
    for images in (loaded.train_inputs, loaded.test_inputs):
        assert np.isfinite(images).all()
        assert not images[..., 2].any()
        assert images[..., 0].std() > 0.5


def test_many_classes_and_single_images(tmp_path):
    png = encoded(image(0), "PNG")
    files = {f"{split}/{label}/0.png": png for split in ("train", "test") for label in range(200)}
    loaded = load(write(tmp_path / "many.zip", zipped(files)))
    assert (loaded.classes, loaded.train_size) == (200, 200)
    one = write(tmp_path / "one.zip", zipped({"train/a/0.png": png, "test/a/0.png": png}))
    assert (load(one).classes, load(one).train_size, load(one).test_size) == (1, 1, 1)
    with pytest.raises(UserError, match="has 1 examples, of which validation holds out a tenth"):
        load(one, validation=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: without(f, "test/cow"), "class 'cow' of .* has no test images"),
        (lambda f: without(f, "train/ant"), "class 'ant' of .* has no train images"),
        (lambda f: without(f, "train", "test"), "which holds no image; it takes train/<class>/"),
        (lambda f: f | {"train/ant/x.png": b"no image"}, "train/ant/x.png in .* cannot be read"),
        (lambda f: f | {"other/ant/x.png": b""}, "other/ant/x.png is in no class of a split"),
        (lambda f: f | {"x.png": b""}, "x.png is in no class of a split"),
        (lambda f: f | {"b/train/ant/x.png": b""}, r"has splits in \. and in b; it takes only one"),
        (lambda f: f | {"train/ant/x.png": encoded(image(1, 9), "PNG")},
         r"train/ant/x.png in .* has \(9, 9\) pixels and .* \(8, 8\); image_size takes the side"),
        (lambda f: f | {"../train/ant/x.png": b""}, "'../train/ant/x.png', a path that leads out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_what_is_wrong_is_named(change, message, form, tmp_path, cache):
    with pytest.raises(UserError, match=message):
        load(FORMS[form](tmp_path, change(members())))
    assert not cache.exists()


def test_no_path_and_no_archive_are_refused(tmp_path):
    with pytest.raises(UserError, match="which does not exist; it takes train/<class>/"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="data_path is /dev/null, which is neither file nor folder"):
        load("/dev/null")
    with pytest.raises(UserError, match="cannot be read as a tar archive"):
        load(write(tmp_path / "images.tar", b"no archive"))
    info = tarfile.TarInfo("train/ant/link.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UserError, match="which is not a regular file"):
        load(write(tmp_path / "link.tar", tar([("", info)])))


@pytest.mark.parametrize("fields", [{}, {"augment": True, "image_size": 6}, {"validation": True}])
def test_a_streamed_folder_gives_the_numbers_of_memory(fields, tmp_path, monkeypatch, capsys):
    path = folder(tmp_path / "images", members())
    # A name that is not UTF-8 takes the place of another.
    (path / "train" / "ant" / "0.PNG").rename(
        os.fsdecode(os.fsencode(path) + b"/train/ant/\xe9.png")
    )
    held = load(path, **fields)
    capsys.readouterr()
    side = fields.get("image_size", 8)
    monkeypatch.setattr(data, "LIMIT", 24 * side * side * 3 * 4)
    assert isinstance(load(path, **fields), data.InMemory)
    monkeypatch.setattr(data, "LIMIT", 24 * side * side * 3 * 4 - 1)
    for _ in range(2):  # The second time from the cache.
        streamed = load(path, **fields)
        output = capsys.readouterr().out
        assert f"{path} is read during training: its images would take 0.0 GB" in output
        assert (streamed.train_size, streamed.test_size) == (held.train_size, held.test_size)
        assert (streamed.outputs, streamed.chance) == (held.outputs, held.chance)
        for rows in (np.arange(4), np.array([1, 3])):
            steps = {"steps": range(2, 8), "rows": rows}
            both = (each.train_batches(4, 1, **steps) for each in (streamed, held))
            for ours, theirs in zip(*both, strict=True):
                np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
                np.testing.assert_array_equal(ours[1], theirs[1])
        last = np.arange(held.test_size)[::-1]
        for part in ("train_examples", "test_examples"):
            ours, theirs = (getattr(each, part)(last) for each in (streamed, held))
            np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
            np.testing.assert_array_equal(ours[1], theirs[1])


def test_what_a_streamed_folder_does_not_take_is_named(tmp_path, monkeypatch, capsys):
    files = members()
    files["train/cow/5.png"] = files["train/cow/5.png"][:50]
    path = folder(tmp_path / "images", files)
    monkeypatch.setattr(data, "LIMIT", 0)
    with pytest.raises(UserError, match=r"train/cow/5.png in .* cannot be read.*--skip-damaged"):
        load(path)
    assert load(path, skip_damaged=True).train_size == 17
    assert "left out 1 of 24 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="train_images is 4; a folder that is read during"):
        load(path, train_images=4)
