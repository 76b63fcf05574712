"""Prepares a catalogue set: ``python -m experiments.prepare NAME --archive DIR --data-dir DIR``.

It checks the official archives and writes the data set that `tfds.data_source` reads, without
TensorFlow. An interrupted preparation leaves none.
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
from experiments.data.catalogue import CATALOGUE
from experiments.errors import UserError
from experiments.files import expanded
from experiments.progress import shown


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of `experiments.prepare`."""

    name: tyro.conf.Positional[Literal["cifar10", "imagenet2012"]]
    """Data set."""
    archive: Path
    """Directory of the official archives, under their official names."""
    data_dir: Path = Path(DATA_DIR)
    """Directory to prepare it in."""
    verify: bool = True
    """Check the archives' sha256."""


def prepare(options: Options) -> dict[str, int]:
    """Prepares one set.

    Returns:
        Split to its number of examples.

    Raises:
        UserError: if an archive is missing, damaged or not the official one, if a member's path
            leads out of it, or if the set is there already.
    """
    try:
        from experiments.data import builders
    except ImportError as error:
        raise UserError(f"{options.name} needs TFDS: pip install 'nmnc_jax[imagenet]'") from error
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    data_dir = expanded(options.data_dir)
    entry = CATALOGUE[options.name]
    paths = [find(archive, options.archive) for archive in entry.archives]
    kinds = {"cifar10": builders.Cifar10, "imagenet2012": builders.Imagenet2012}
    make = kinds[options.name]
    version = data_dir / options.name / str(make.VERSION)
    if version.exists():
        raise UserError(f"{version} is there already; remove it to prepare it again")
    # What an earlier preparation left when it was killed.
    for left in version.parent.glob(f"incomplete.*_{version.name}"):
        shutil.rmtree(left)
    if options.verify:
        for archive, path in zip(entry.archives, paths, strict=True):
            with shown(f"checking {archive.name}", path.stat().st_size) as read:
                verify(archive, path, read)
    with shown(f"preparing {options.name}", entry.examples) as show:
        done = itertools.count(1)
        builder = make(archives=paths, counted=lambda: show(next(done)), data_dir=data_dir)
        builder.download_and_prepare()
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and prepares the set."""
    options = take(
        Options,
        arguments,
        prog="python -m experiments.prepare",
        description=__doc__,
    )
    splits = prepare(options)
    told = ", ".join(f"{count} {name} examples" for name, count in splits.items())
    print(f"{options.name} is in {expanded(options.data_dir)}: {told}")


if __name__ == "__main__":
    run_command(main)
