"""Prepares a data set: ``python -m experiments.prepare NAME --archive DIR --data-dir DIR``.

The command checks the official archives and writes the data set that `tfds.data_source` reads,
without TensorFlow. An interrupted preparation leaves no data set.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from experiments.command import run_command, take
from experiments.configuration import DATA_DIR
from experiments.data.archives import find, verify
from experiments.data.catalogue import CATALOGUE, Entry
from experiments.data.damage import Damage
from experiments.data.extracted import Extracted, open_extracted
from experiments.data.imagenet import official_labels
from experiments.errors import UserError
from experiments.files import expanded, write_whole
from experiments.progress import shown


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.prepare`."""

    name: tyro.conf.Positional[Literal["cifar10", "imagenet2012"]]
    """Data set."""
    archive: Path
    """Directory of the official archives under their official names; for imagenet2012 also a
    directory of the extracted images, train/<class>/ and val/, or with the layout of Kaggle's
    archive."""
    data_dir: Path = Path(DATA_DIR)
    """Directory for the prepared data set."""
    verify: bool = True
    """Check the archives' sha256; --no-verify skips the check, for archives that were repacked."""
    skip_damaged: bool = False
    """imagenet2012 only: leave out images that cannot be read, and list them in a file beside the
    data set; by default the first such image is an error."""


def prepare(options: Options) -> dict[str, int]:
    """Prepares one data set.

    Returns:
        A dict from split to its number of examples.

    Raises:
        UserError: if an archive is missing, damaged or not the official one, if the path of a
            member leads out of the archive, or if the data set exists already.
    """
    try:
        from experiments.data import builders
    except ImportError as error:
        raise UserError(f"{options.name} needs TFDS: pip install 'nmnc_jax[imagenet]'") from error
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    data_dir = expanded(options.data_dir)
    entry = CATALOGUE[options.name]
    damage, source = Damage(options.skip_damaged), _source(options, entry)
    kinds = {"cifar10": builders.Cifar10, "imagenet2012": builders.Imagenet2012}
    make = kinds[options.name]
    version = data_dir / options.name / str(make.VERSION)
    if version.exists():
        raise UserError(f"{version} exists already; remove it to prepare it again")
    # Files that an interrupted preparation left.
    for left in version.parent.glob(f"incomplete.*_{version.name}"):
        shutil.rmtree(left)
    if options.verify and not isinstance(source, Extracted):
        for archive, path in zip(entry.archives, source, strict=True):
            with shown(f"checking {archive.name}", path.stat().st_size) as read:
                verify(archive, path, read)
    known = isinstance(source, Extracted)
    count = len(source.train) + len(source.test) if known else entry.examples
    with shown(f"preparing {options.name}", count) as show:
        done = itertools.count(1)
        builder = make(
            archives=source,
            counted=lambda: show(next(done)),
            damage=damage,
            data_dir=data_dir,
        )
        builder.download_and_prepare()
    if damage.found:
        listed = version.with_name(f"{version.name}.damaged.txt")
        write_whole(listed, "\n".join(damage.found.values()) + "\n")
        print(f"left out {len(damage.found)} images that cannot be read, listed in {listed}")
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def _source(options: Options, entry: Entry) -> list[Path] | Extracted:
    """Returns the archives, or the images extracted from them if no archive is present."""
    extracted = options.name == "imagenet2012" and not any(
        (options.archive / archive.name).is_file() for archive in entry.archives
    )
    if extracted and options.archive.is_dir() and any(options.archive.iterdir()):
        return open_extracted(options.archive, official_labels())
    return [find(archive, options.archive) for archive in entry.archives]


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and prepares the set."""
    options = take(
        Options,
        arguments,
        prog="python -m experiments.prepare",
        description=__doc__,
    )
    splits = prepare(options)
    counts = ", ".join(f"{count} {name} examples" for name, count in splits.items())
    print(f"{options.name} is in {expanded(options.data_dir)}: {counts}")


if __name__ == "__main__":
    run_command(main)
