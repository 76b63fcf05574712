"""Catalogue sets, from archives in the official layouts to batches."""

import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from benchmarks.made_imagenet import encoded, photo, tar, write_archives
from experiments import prepare, train
from experiments.data import load
from experiments.data.builders import LABELS, tfds
from experiments.data.extracted import open_extracted
from experiments.data.imagenet import VALIDATION_LABELS, crop_at_random, crop_centre, load_imagenet
from experiments.data.labels import kaggle_labels
from experiments.errors import UserError
from tests.cases import run_on
from tests.test_checkpoints import last_network, without_time

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def cifar10_rows(count, seed):
    random = np.random.default_rng(seed)
    targets = random.integers(10, size=count).astype(np.uint8)
    return targets, random.integers(256, size=(count, 3, 32, 32)).astype(np.uint8)


def cifar10_members():
    def content(targets, images):
        return b"".join(bytes([t]) + i.tobytes() for t, i in zip(targets, images, strict=True))

    folder = "cifar-10-batches-bin"
    parts = [(f"data_batch_{k}.bin", content(*cifar10_rows(6, k))) for k in range(1, 6)]
    parts.append(("test_batch.bin", content(*cifar10_rows(8, 9))))
    parts.append(("batches.meta.txt", ("\n".join(CLASSES) + "\n\n").encode()))
    parts.append(("readme.html", b"hello"))
    return [(f"{folder}/{name}", content) for name, content in parts]


def imagenet_archives(directory):
    names = tfds.core.tfds_path(LABELS).read_text().split()[:3]
    training = {}
    for label, name in enumerate(names):
        images = [photo(10 * label + k) for k in range(4)]
        training[name] = [encoded(image, quality=95) for image in images]
        if label == 1:
            colours = encoded(images[1].convert("CMYK")), encoded(images[2].convert("L"))
            training[name][:3] = [encoded(images[0], "PNG"), *colours]
    validation = {k: encoded(photo(100 + k), quality=95) for k in (2, 1, 3)}
    write_archives(directory, training, validation)


def run(name, archive, data_dir, *more):
    arguments = [name, "--archive", str(archive), "--data-dir", str(data_dir)]
    prepare.main([*arguments, "--no-verify", *more])


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    archives, data_dir = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("prepared")
    imagenet_archives(archives)
    run("imagenet2012", archives, data_dir)
    return data_dir


def test_cifar10_from_archive_to_memory(tmp_path, capsys):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar(cifar10_members(), "w:gz"))
    prepared = tmp_path / "data"
    run("cifar10", tmp_path, prepared)
    assert "30 train examples, 8 test examples" in capsys.readouterr().out
    whole = tfds.data_source("cifar10", split="train", data_dir=prepared)
    assert whole.dataset_info.features["label"].names == CLASSES
    assert set(whole.dataset_info.features) == {"id", "image", "label"}
    assert str(whole.dataset_info.version) == "3.0.2"
    first = next(record for record in whole if record["id"] == b"train_00000")
    targets, images = cifar10_rows(6, 1)
    np.testing.assert_array_equal(first["image"], images[0].transpose(1, 2, 0))

    loaded = load(run_on("cifar10", data_dir=str(prepared)))
    assert (loaded.classes, loaded.train_size, loaded.test_size) == (10, 30, 8)
    inputs, read = loaded.train_examples(np.arange(30))
    np.testing.assert_array_equal(read[:6], targets)
    np.testing.assert_array_equal(loaded.test_examples(np.arange(8))[1], cifar10_rows(8, 9)[0])
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, atol=1e-4)
    chosen = load(run_on("cifar10", validation=True, data_dir=str(prepared)))
    assert (chosen.train_size, chosen.test_size) == (27, 3)

    with pytest.raises(UserError, match="exists already; remove it to prepare it again"):
        run("cifar10", tmp_path, prepared)


def test_imagenet_holds_what_the_archives_held(imagenet):
    names = tfds.core.tfds_path(LABELS).read_text().split()
    labels = tfds.core.tfds_path(VALIDATION_LABELS).read_text().split()
    source = tfds.data_source("imagenet2012", split="train", data_dir=imagenet)
    assert str(source.dataset_info.version) == "5.1.0"
    assert source.dataset_info.features["label"].names == names
    records = sorted(source, key=lambda record: record["file_name"])
    assert [record["label"] for record in records] == [0] * 4 + [1] * 4 + [2] * 4
    for place, record in enumerate(records):
        exact = np.asarray(photo(10 * (place // 4) + place % 4), float)
        exact = exact if place != 6 else exact @ [[0.299], [0.587], [0.114]]
        assert np.abs(record["image"] - exact).mean() < 8
    for record in tfds.data_source("imagenet2012", split="validation", data_dir=imagenet):
        number = int(record["file_name"].decode()[-13:-5])
        assert names[record["label"]] == labels[number - 1]
        assert np.abs(record["image"] - np.asarray(photo(100 + number), float)).mean() < 8


def test_imagenet_batches_resume_and_divide_exactly(imagenet):
    data = load_imagenet(imagenet, validation=False)
    assert (data.train_size, data.test_size) == (12, 3)
    straight = list(data.train_batches(4, 1, steps=range(7), rows=np.arange(4)))
    assert len(straight) == 7
    assert straight[0][0].shape == (4, 224, 224, 3)
    assert straight[0][0].dtype == np.uint8
    seen = np.concatenate([targets for _, targets in straight[:3]])
    assert np.bincount(seen, minlength=3).tolist() == [4, 4, 4]
    resumed = list(data.train_batches(4, 1, steps=range(5, 7), rows=np.arange(4)))
    halves = [
        list(data.train_batches(4, 1, steps=range(5, 7), rows=np.arange(2) + 2 * process))
        for process in (0, 1)
    ]
    for step in (0, 1):
        for part in (0, 1):
            np.testing.assert_array_equal(resumed[step][part], straight[5 + step][part])
            joined = np.concatenate([half[step][part] for half in halves])
            np.testing.assert_array_equal(joined, straight[5 + step][part])
    # Each epoch crops anew.
    other = list(data.train_batches(4, 2, steps=range(1), rows=np.arange(4)))
    assert (other[0][0] != straight[0][0]).any()
    inputs = data.normalise(jax.numpy.asarray(straight[0][0]))
    assert inputs.dtype == np.float32
    assert 0.1 < float(inputs.std()) < 3
    with pytest.raises(UserError, match="batch is 99; the training set takes at most 12"):
        next(data.train_batches(99, 1, steps=range(1), rows=np.arange(99)))


def test_imagenet_trains_and_goes_on_exactly(imagenet, tmp_path):
    out = tmp_path / "run"
    arguments = ["imagenet_alexnet_nmnc", "--model", "mlp", "--features", "6", "--precision",
                 "float32", "--data-dir", str(imagenet), "--batch", "4", "--steps", "5",
                 "--basis-batch", "8", "--alignment-batch", "8", "--log-every", "2", "--devices",
                 "1", "--checkpoint-every", "3", "--out", str(out)]  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        train.main(arguments)
        network, measured = last_network(out), without_time(out)
        # As if it had been killed after its third step.
        (out / "summary.json").unlink()
        shutil.rmtree(out / "checkpoints" / "5")
        (out / "checkpoints" / "manifests" / "5.json").unlink()
        train.main([*arguments, "--resume"])
        jax.tree.map(np.testing.assert_array_equal, last_network(out), network)
    assert without_time(out) == measured
    assert [record["step"] for record in measured] == [0, 2, 4, 5]
    assert 0 <= measured[-1]["test_accuracy"] <= 1


def extracted(directory, archives, layout):
    """The archives' images as files: in folders of classes, flat, or as Kaggle has them."""
    root = directory / "ILSVRC/Data/CLS-LOC" if layout == "kaggle" else directory
    (root / "train").mkdir(parents=True)
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as whole:
        for member in whole:
            folder = root / "train" / member.name.removesuffix(".tar")
            with tarfile.open(fileobj=whole.extractfile(member)) as inner:
                inner.extractall(folder, filter="data")
    labels = tfds.core.tfds_path(VALIDATION_LABELS).read_text().split()[:3]
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as whole:
        whole.extractall(root / "val", filter="data")
    # The made archives' validation images are of classes that training lacks but for one.
    classes = sorted(path.name for path in (root / "train").iterdir())
    for number, label in enumerate(labels, 1):
        if label not in classes:
            (root / "train" / label).mkdir()
            (root / "train" / label / f"{label}_9.JPEG").write_bytes(encoded(photo(number)))
    if layout == "kaggle":
        rows = [f"ILSVRC2012_val_{n:08},{label} 1 2 3 4" for n, label in enumerate(labels, 1)]
        text = "\n".join(["ImageId,PredictionString", *rows]) + "\n"
        (directory / "LOC_val_solution.csv").write_text(text)
    if layout == "folders":
        for number, label in enumerate(labels, 1):
            (root / "val" / label).mkdir(exist_ok=True)
            image = root / "val" / f"ILSVRC2012_val_{number:08}.JPEG"
            image.rename(root / "val" / label / image.name)
    return labels


@pytest.mark.parametrize("layout", ["flat", "folders", "kaggle"])
def test_extracted_images_are_streamed_and_prepared_alike(layout, tmp_path):
    archives, folder = tmp_path / "archives", tmp_path / "folder"
    archives.mkdir()
    imagenet_archives(archives)
    labels = extracted(folder, archives, layout)
    config = run_on("imagenet2012", data_path=str(folder))
    streamed = load(config)
    classes = open_extracted(folder, labels).classes
    assert streamed.outputs == len(classes) == round(1 / streamed.chance)
    assert streamed.test_size == 3
    _, targets = streamed.test_examples(np.arange(3))
    assert {classes[target] for target in targets} == set(labels)
    run("imagenet2012", folder, tmp_path / "prepared")
    prepared = load_imagenet(tmp_path / "prepared", validation=False)
    assert prepared.train_size == streamed.train_size
    of_streamed, of_prepared = (
        sorted(image.mean() for image in data.train_examples(np.arange(data.train_size))[0])
        for data in (streamed, prepared)
    )
    np.testing.assert_allclose(of_streamed, of_prepared, atol=1)
    # Behind links to folders, too.
    (tmp_path / "links").mkdir()
    root = folder / "ILSVRC/Data/CLS-LOC" if layout == "kaggle" else folder
    for part in ("train", "val"):
        (tmp_path / "links" / part).symlink_to(root / part, target_is_directory=True)
    if layout == "kaggle":
        shutil.copy(folder / "LOC_val_solution.csv", tmp_path / "links")
    assert load(config.replace(data_path=str(tmp_path / "links"))).train_size == prepared.train_size


@pytest.mark.parametrize("distort", [None, "jitter", "randaugment"])
def test_a_streamed_step_is_known_from_its_number(distort, tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(count):
                path = tmp_path / part / label / f"{number}.jpg"
                path.write_bytes(encoded(photo(number)))
    config = run_on("imagenet2012", data_path=str(tmp_path), distort=distort)
    data = load(config)
    straight = list(data.train_batches(4, 1, steps=range(4), rows=np.arange(4)))
    resumed = list(data.train_batches(4, 1, steps=range(3, 4), rows=np.arange(4)))
    np.testing.assert_array_equal(resumed[0][0], straight[3][0])
    plain = load(config.replace(distort=None)).train_batches(
        4, 1, steps=range(1), rows=np.arange(4)
    )
    assert (next(plain)[0] != straight[0][0]).any() == bool(distort)
    path = tmp_path / "train" / "b" / "3.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"b/3.jpg cannot be read"):
        list(data.train_batches(8, 1, steps=range(1), rows=np.arange(8)))


def test_layouts_that_do_not_fit_are_named(tmp_path):
    config = run_on("imagenet2012", data_path=str(tmp_path))
    with pytest.raises(UserError, match="has no folders train/ and val/; it takes train/<class>"):
        load(config)
    for part in ("train/a", "val"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.jpg").write_bytes(encoded(photo(0)))
    with pytest.raises(UserError, match="val holds no image"):
        load(config)
    (tmp_path / "val" / "cat.jpg").write_bytes(encoded(photo(0)))
    with pytest.raises(UserError, match=r"val/cat.jpg is of no known class"):
        load(config)
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "val" / "cat.jpg").unlink()
    (tmp_path / "val" / "a").mkdir()
    (tmp_path / "val" / "a" / "0.jpg").write_bytes(encoded(photo(0)))
    with pytest.raises(UserError, match=r"class 'empty' of .* has no image"):
        load(config)
    (tmp_path / "train" / "empty" / "0.jpg").write_bytes(encoded(photo(0)))
    with pytest.raises(UserError, match="class 'a' is none of imagenet2012's"):
        run("imagenet2012", tmp_path, tmp_path / "prepared")


def test_a_flat_folder_takes_its_classes_from_the_development_kit(tmp_path):
    """The kit numbers classes in its own order, which is not that of their names."""
    classes = ["n03", "n01", "n02"]
    for name in classes:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.JPEG").write_bytes(encoded(photo(0)))
    (tmp_path / "val").mkdir()
    for number in range(1, 5):
        (tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(encoded(photo(number)))
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    rest = "1\n" * 49_996
    truth.write_text("3\n1\n2\n1\n" + rest)
    with pytest.raises(UserError, match=r"meta\.mat, which is missing beside it"):
        open_extracted(tmp_path)
    synsets = np.zeros(3, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for place, name in enumerate(classes):
        synsets[place] = (place + 1, name, "a word")
    savemat(kit / "meta.mat", {"synsets": synsets[:, None]})
    found = open_extracted(tmp_path)
    assert [found.classes[label] for label in found.test.labels] == ["n02", "n03", "n01", "n03"]
    for line in ("4", "", "1 1"):
        truth.write_text(f"3\n1\n{line}\n1\n{rest}")
        with pytest.raises(UserError, match=f"line 3 of .* is '{line}', which meta.mat lacks"):
            open_extracted(tmp_path)
    truth.write_text("3\n1\n1\n" + rest)
    with pytest.raises(UserError, match="has 49999 lines; the kit's has 50000"):
        open_extracted(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ImageId,PredictionString\nfirst,a 1 2 3 4\nsecond,\n", "names no class of 'second'"),
        ("ImageId,PredictionString\nsecond\n", "names no class of 'second'"),
        ("ImageId,Class\nfirst,a\n", "has no columns ImageId and PredictionString"),
        ("ImageId,PredictionString\nfirst,\udcff\n", "LOC_val_solution.csv cannot be read"),
    ],
)
def test_a_damaged_table_of_classes_is_named(table, message, tmp_path):
    (tmp_path / "LOC_val_solution.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        kaggle_labels(tmp_path, tmp_path)


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
    """With a byte order mark and the ends of lines of another system."""
    table = "ImageId,PredictionString\r\nfirst,a 1 2 3 4\r\n"
    (tmp_path / "LOC_val_solution.csv").write_bytes(table.encode("utf-8-sig"))
    assert kaggle_labels(tmp_path, tmp_path) == {"first": "a"}


@pytest.mark.parametrize("part", ["train", "val"])
def test_nothing_beside_the_folders_of_classes_is_left_out(part, tmp_path):
    for folder in ("train/a", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0.jpg").write_bytes(b"")
    (tmp_path / part / "notes.txt").write_text("is no image")
    assert len(open_extracted(tmp_path).test) == 1
    image, link = tmp_path / part / "1.jpg", tmp_path / part / "b"
    image.write_bytes(b"")
    with pytest.raises(UserError, match=rf"{part}/1.jpg is not a folder of a class; it takes"):
        open_extracted(tmp_path)
    image.unlink()
    link.symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match=rf"{part}/b is not a folder of a class; it takes"):
        open_extracted(tmp_path)


def test_damaged_images_are_named_or_left_out_and_listed(tmp_path, capsys):
    archives, folder = tmp_path / "archives", tmp_path / "folder"
    archives.mkdir()
    imagenet_archives(archives)
    extracted(folder, archives, "flat")
    damaged = next((folder / "train").glob("*/*_3.JPEG"))
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with pytest.raises(UserError, match=rf"{damaged.name} cannot be read.*--skip-damaged"):
        run("imagenet2012", folder, tmp_path / "prepared")
    link = damaged.with_name("link_1.JPEG")
    link.symlink_to(tmp_path / "missing")
    run("imagenet2012", folder, tmp_path / "prepared", "--skip-damaged")
    assert "left out 2 images that cannot be read, listed in" in capsys.readouterr().out
    listed = tmp_path / "prepared" / "imagenet2012" / "5.1.0.damaged.txt"
    assert damaged.name in listed.read_text()
    assert link.name in listed.read_text()
    whole = sum(1 for _ in (folder / "train").glob("*/*"))
    assert load_imagenet(tmp_path / "prepared", validation=False).train_size == whole - 2


def test_crops_are_parts_of_the_image():
    """A ramp tells which part of it a crop shows; sizes force scaled decoding, and none."""
    for width, height in ((2000, 1500), (300, 400), (60, 90)):
        rows, columns = np.mgrid[:height, :width]
        ramp = np.stack([255 * columns / width, 255 * rows / height, 0 * rows], -1).astype(np.uint8)
        content = encoded(Image.fromarray(ramp), quality=95)
        middle = crop_centre(content, 224).astype(float)
        span = 224 / 256 * min(width, height)
        expected = [255 * (0.5 + (x / 223 - 0.5) * span / width) for x in (0, 223)]
        np.testing.assert_allclose(middle[112, [0, 223], 0], expected, atol=4)
        areas, mirrored = [], 0
        for seed in range(60):
            crop = crop_at_random(content, 224, np.random.default_rng(seed)).astype(float)
            across, down = crop[112, 223, 0] - crop[112, 0, 0], crop[223, 112, 1] - crop[0, 112, 1]
            mirrored += across < 0
            areas.append(abs(across) * down / 255**2)
            assert down > 0
        assert 0.05 < min(areas) < 0.25
        assert 0.75 < max(areas) <= 1.01
        assert 15 < mirrored < 45


def link(kind):
    info = tarfile.TarInfo("cifar-10-batches-bin/link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../outside", b"x")], "'../outside', a path that leads out of it"),
        ([("/etc/outside", b"x")], "'/etc/outside', a path that leads out of it"),
        ([("a/../../outside", b"x")], "a path that leads out of it"),
        ([("link", link(tarfile.SYMTYPE))], "link', which is not a regular file"),
        ([("link", link(tarfile.CHRTYPE))], "link', which is not a regular file"),
        (
            [("cifar-10-batches-bin/other", b"x")],
            "has no file cifar-10-batches-bin/batches.meta.txt",
        ),
    ],
)
def test_unsafe_and_incomplete_archives_are_refused(members, message, tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar(members, "w:gz"))
    with pytest.raises(UserError, match=message):
        run("cifar10", tmp_path, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.json"))


def test_an_unsafe_member_of_an_inner_archive_is_refused(tmp_path):
    imagenet_archives(tmp_path)
    evil = tar([("n01440764.tar", tar([("../n01440764_1.JPEG", encoded(photo(0)))]))])
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(evil)
    with pytest.raises(UserError, match=r"n01440764.tar in ILSVRC2012_img_train.tar holds '\.\./"):
        run("imagenet2012", tmp_path, tmp_path / "data")


def test_what_is_wrong_with_an_archive_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz is missing: get .* from https://"):
        run("cifar10", tmp_path, tmp_path / "data")
    whole = tar(cifar10_members(), "w:gz")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"has sha256 .*; cifar-10-binary.tar.gz has c4a38c50"):
        prepare.main(["cifar10", "--archive", str(tmp_path), "--data-dir", str(tmp_path / "data")])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as a tar archive"):
        run("cifar10", tmp_path, tmp_path / "data")


def test_an_interrupted_preparation_leaves_nothing_half_made(tmp_path, monkeypatch):
    imagenet_archives(tmp_path)
    data_dir = tmp_path / "data"
    left = data_dir / "imagenet2012" / "incomplete.ABCDEF_5.1.0"
    left.mkdir(parents=True)
    (left / "half").write_text("what a killed preparation leaves")

    def interrupted(content, name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("experiments.data.builders.as_jpeg", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("imagenet2012", tmp_path, data_dir)
    assert not [path for path in Path(data_dir / "imagenet2012").rglob("*") if path.is_file()]
    run("imagenet2012", tmp_path, data_dir)
    assert load_imagenet(data_dir, validation=False).train_size == 12


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_missing_data_says_what_to_do(name, tmp_path):
    with pytest.raises(UserError) as told:
        load(run_on(name, data_dir=str(tmp_path / "none")))
    message = str(told.value)
    assert f"{name} is not in {tmp_path / 'none'}: get " in message
    assert f"python -m experiments.prepare {name} --archive DIR --data-dir " in message
