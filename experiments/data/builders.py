"""Prepares cifar10 and imagenet2012 from the official archives.

The preparation of TensorFlow Datasets needs TensorFlow. These builders write the same data sets
without it, with the same names, versions and features, so that `tfds.data_source` reads them.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from experiments.data.archives import members
from experiments.data.damage import Damage
from experiments.data.extracted import Extracted, Files
from experiments.data.imagenet import official_labels
from experiments.data.listing import read_file, readable
from experiments.data.pictures import colours, opened
from experiments.errors import UserError

Records = Iterator[tuple[Any, dict[str, Any]]]
Images = Iterator[tuple[str, str, Callable[[], bytes]]]
"""File name, class and a function that reads the content, of each image."""
CIFAR10_FOLDER = "cifar-10-batches-bin"
LABELS = "datasets/imagenet2012/labels.txt"

with registered.skip_registration():

    class _FromArchives(tfds.core.GeneratorBasedBuilder):
        """Writes array_record files from official archives, and counts the examples."""

        def __init__(
            self,
            *,
            archives: list[Path] | Extracted,
            counted: Callable[[], None],
            damage: Damage,
            data_dir: Path,
        ):
            self._archives = archives
            self._counted = counted
            self._damage = damage
            super().__init__(data_dir=data_dir, file_format="array_record")

        def _with_features(self, homepage: str, **features: Any) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=self.__doc__,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=homepage,
            )

    class Cifar10(_FromArchives):
        """60,000 images of 32x32 pixels in ten classes (Krizhevsky 2009)."""

        VERSION = tfds.core.Version("3.0.2")

        def _info(self) -> tfds.core.DatasetInfo:
            return self._with_features(
                "https://www.cs.toronto.edu/~kriz/cifar.html",
                id=tfds.features.Text(),
                image=tfds.features.Image(shape=(32, 32, 3)),
                label=tfds.features.ClassLabel(num_classes=10),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Records]:
            del dl_manager
            assert not isinstance(self._archives, Extracted)
            (archive,) = self._archives
            files = {
                name: content
                for name, content in members(archive, archive.name)
                if name.startswith(CIFAR10_FOLDER)
            }
            names = _file(files, "batches.meta.txt").decode().split("\n")
            features: Any = self.info.features
            features["label"].names = [name for name in names if name]
            training = b"".join(_file(files, f"data_batch_{part}.bin") for part in range(1, 6))
            return {
                "train": self._generate_examples("train", training),
                "test": self._generate_examples("test", _file(files, "test_batch.bin")),
            }

        def _generate_examples(self, split: str, content: bytes) -> Records:
            rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            for index, row in enumerate(rows):
                self._counted()
                # TFDS would encode an array by TensorFlow, so that it is given an image.
                image = Image.fromarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0))
                yield index, {"id": f"{split}_{index:05d}", "image": image, "label": int(row[0])}

    class Imagenet2012(_FromArchives):
        """1,281,167 training and 50,000 validation photographs in 1,000 classes (ILSVRC 2012)."""

        VERSION = tfds.core.Version("5.1.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return self._with_features(
                "https://image-net.org/",
                image=tfds.features.Image(encoding_format="jpeg"),
                label=tfds.features.ClassLabel(names_file=tfds.core.tfds_path(LABELS)),
                file_name=tfds.features.Text(),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Records]:
            del dl_manager
            if isinstance(self._archives, Extracted):
                _, _, classes = self._archives
                known = set(tfds.core.tfds_path(LABELS).read_text().split())
                for name in sorted(set(classes) - known):
                    raise UserError(
                        f"class {name!r} is none of imagenet2012's; experiments.train --data-path "
                        "reads folders with other classes"
                    )
                images = [_files(part, classes) for part in self._archives[:2]]
            else:
                training, validation = self._archives
                images = [_training_images(training), _validation_images(validation)]
            train, validation = map(self._generate_examples, images)
            return {"train": train, "validation": validation}

        def _generate_examples(self, images: Images) -> Records:
            for name, label, read in images:
                self._counted()
                found = self._damage.attempt(name, partial(as_jpeg, read, name))
                if found is not None:
                    yield name, {"image": io.BytesIO(found), "label": label, "file_name": name}


def _files(files: Files, classes: list[str]) -> Images:
    """Yields the extracted images."""
    names = set()
    for place, label in enumerate(files.labels):
        path = files.path(place)
        if path.name in names:
            raise UserError(f"two images are named {path.name!r}; imagenet2012's names are unique")
        names.add(path.name)
        yield path.name, classes[label], partial(read_file, path, readable(path))


def _file(files: dict[str, bytes], name: str) -> bytes:
    """Returns one of CIFAR-10's files."""
    path = f"{CIFAR10_FOLDER}/{name}"
    if path not in files:
        raise UserError(f"the archive of cifar10 has no file {path}")
    return files[path]


def _training_images(archive: Path) -> Images:
    """Yields the images of an archive of one archive per class."""
    for name, inner in members(archive, archive.name):
        for image, content in members(io.BytesIO(inner), f"{name} in {archive.name}"):
            yield image, name.removesuffix(".tar"), partial(bytes, content)


def _validation_images(archive: Path) -> Images:
    """Yields the validation images, whose labels are listed by their numbers."""
    labels = official_labels()
    for name, content in members(archive, archive.name):
        # ILSVRC2012_val_00000001.JPEG
        number = name.removesuffix(".JPEG").rpartition("_")[2]
        if not (number.isdecimal() and 1 <= int(number) <= len(labels)):
            raise UserError(f"{archive.name} holds {name!r}, which is no validation image")
        yield name, labels[int(number) - 1], partial(bytes, content)


def as_jpeg(read: Callable[[], bytes], name: str) -> bytes:
    """Reads an image as RGB or grey JPEG; one image of ImageNet is a PNG, and some are CMYK.

    Raises:
        Unreadable: if the image is damaged.
    """
    content = read()
    with opened(content, name) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            # Decoding at an eighth of the size reads the whole file and finds damage quickly.
            image.draft(image.mode, (1, 1))
            image.load()
            return content
        changed = io.BytesIO()
        colours(image).save(changed, "JPEG", quality=100)
        return changed.getvalue()
